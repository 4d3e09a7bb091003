"""The network as a landmark stage: the position of crops, and faces that are hard to crop."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods import LandmarkStage
from lineament.methods.isnet import decode, frame
from lineament.methods.isnet.decode import Config, ISNet, within
from lineament.schemas import FIVE, NINETEEN, own, schema
from scenes import POINTS

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]])  # of the five points


class Dots:
    """Replaces a graph: finds one coloured dot per landmark."""

    def __init__(self, size: int = 64) -> None:
        self.size, self.batches, self.usual = size, [], frame.template(1.0)

    def __call__(self, entry: str, outputs: tuple[str, ...], *, pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        assert (entry, outputs) == ("isnet", ("points", "spread"))
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (self.size, self.size, 3)
        assert pixels.flags.c_contiguous
        self.batches.append(len(pixels))
        grid = (np.arange(self.size) + 0.5) / self.size
        shares = []
        for colour in COLOURS / 255:
            like = np.clip(pixels @ (2 * colour - 1) / (255 * colour.sum()) - 0.5, 0, None)
            total = like.sum((1, 2))[:, None]
            middle = np.stack([(like.sum(1) * grid).sum(1), (like.sum(2) * grid).sum(1)], 1) / np.maximum(total, 1e-9)
            shares.append(np.where(total > 1, middle, self.usual[len(shares)]))  # a missing dot
        return np.stack(shares, 1).astype(np.float32), np.full((len(pixels), 5), -4, np.float32)


def photo(faces: Sequence[np.ndarray], size: tuple[int, int] = (200, 160)) -> np.ndarray:
    """A grey image with dots of radius 3 at the landmarks of each face."""
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    image = np.full((*y.shape, 3), 90, np.uint8)
    for points in faces:
        for (px, py), colour in zip(points, COLOURS, strict=True):
            image[np.hypot(x - px, y - py) < 3] = colour
    return image


def placed(x: float, y: float, side: float, degrees: float = 0) -> np.ndarray:
    """Five landmarks of a rotated face at a position."""
    a = np.deg2rad(degrees)
    return (POINTS - 0.5) * side @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + [x, y]


def found_in(image: np.ndarray, points: Sequence[np.ndarray], **changes: Any) -> Faces:
    """The detections of faces with these landmarks, with boxes around them."""
    boxes = [np.concatenate([p.mean(0) - np.ptp(p, 0).max(), p.mean(0) + np.ptp(p, 0).max()]) for p in points]
    h, w = image.shape[:2]
    given = {"boxes": boxes, "scores": np.full(len(points), 0.9), "landmarks": points} | changes
    return Faces.of(**given, image_size=(w, h))


def stage(**settings: Any) -> ISNet:
    """A stage that finds dots. By default it uses no mirrored crops, since a mirror does not exchange the dots."""
    return ISNet(Dots(), Config(**{"mirror": False} | settings))  # type: ignore[arg-type]


TRUE = [placed(60, 70, 70), placed(140, 90, 60, 35), placed(120, 60, 64, -120), placed(10, 150, 80, 10)]


@pytest.mark.parametrize("looks", [1, 2, 3])
@pytest.mark.parametrize("mirror", [False, True])
def test_landmarks_come_back_to_where_they_are_in_the_image(looks: int, mirror: bool) -> None:
    """For upright, rotated and upside-down faces, and one whose crop leaves the image, from inexact landmarks."""
    rng = np.random.default_rng(0)
    of = stage(looks=looks, mirror=mirror)
    assert isinstance(of, LandmarkStage)
    if mirror:  # a mirror does not exchange the colours of the dots
        of.schema = own("five dots", FIVE.points)
    for points in TRUE:
        image = photo([points])
        rough = found_in(image, [points], landmarks=[points + rng.normal(0, 2, (5, 2))])
        (faces,) = of([image], [rough])
        inside = ((points > 3) & (points < [197, 157])).all(1)
        np.testing.assert_allclose(faces.landmarks[0, inside], points[inside], atol=0.6)
        np.testing.assert_array_equal(faces.boxes, rough.boxes)
        np.testing.assert_array_equal(faces.scores, rough.scores)


def test_without_points_the_box_places_the_crop() -> None:
    points = placed(100, 80, 70, 8)
    image = photo([points])
    for landmarks in (np.full((1, 5, 2), np.nan), [[points[0], *[[np.nan] * 2] * 4]]):
        (faces,) = stage()([image], [found_in(image, [points], landmarks=landmarks)])
        np.testing.assert_allclose(faces.landmarks[0], points, atol=0.6)


def test_a_face_that_its_box_places_is_looked_at_once_more() -> None:
    points = placed(100, 80, 70, 8)
    image = photo([points])
    nowhere = np.stack([points, np.full((5, 2), np.nan)])
    given = found_in(image, [points, points], landmarks=nowhere)
    for settings, batches in (
        ({"mirror": True}, [1, 2, 2, 2]),
        ({}, [1, 2, 2]),
        ({"looks": 1}, [2]),
        ({"looks": 2}, [1, 2]),
    ):
        of = stage(**settings)
        of.schema = own("five dots", FIVE.points)
        of([image], [given])
        assert of._graph.batches == batches


def test_points_of_another_schema_are_reduced_to_five_or_left_aside() -> None:
    points = placed(100, 80, 70, 25)
    image = photo([points])
    faces = found_in(image, [points])
    nineteen = np.full((1, 19, 2), np.nan)
    nineteen[0, [NINETEEN.points.index("right_pupil"), NINETEEN.points.index("left_pupil")]] = points[:2]
    for kind, landmarks in ((NINETEEN, nineteen), (own("two", ("a", "b")), points[None, :2])):
        given = Faces.of(faces.boxes, faces.scores, landmarks, image_size=faces.image_size, schema=kind)
        (found,) = stage()([image], [given])
        assert found.schema == FIVE
        np.testing.assert_allclose(found.landmarks[0], points, atol=0.6)


def test_all_faces_of_all_images_are_one_batch_and_equal_each_alone() -> None:
    images = [photo(TRUE[:2]), np.full((40, 30, 3), 90, np.uint8), photo(TRUE[2:3], (150, 180))]
    given = [found_in(images[0], TRUE[:2]), Faces.empty((30, 40)), found_in(images[2], TRUE[2:3])]
    together = stage()
    faces = together(images, given)
    assert together._graph.batches == [3, 3]  # in each of two passes
    assert [len(found) for found in faces] == [2, 0, 1]
    for image, before, found in zip(images, given, faces, strict=True):
        for i in range(len(before)):
            (alone,) = stage()([image], [before[i]])
            np.testing.assert_array_equal(alone.landmarks, found[i].landmarks)


def test_a_thousand_faces_go_in_bounded_batches_and_none_is_no_work() -> None:
    image = photo(TRUE[:1])
    of = stage()
    (faces,) = of([image], [found_in(image, [TRUE[0]] * 1000)])
    assert sum(of._graph.batches) == 2 * 1000
    assert max(of._graph.batches) <= decode.AT_ONCE
    assert len(faces) == 1000
    assert np.ptp(faces.landmarks, axis=0).max() == 0
    of._graph.batches.clear()
    assert [len(found) for found in of([image], [Faces.empty((200, 160))])] == [0]
    assert of([], []) == []
    assert sum(of._graph.batches) == 0


def test_a_box_of_no_area_without_points_has_its_landmarks_in_its_middle_and_scores_of_0() -> None:
    image = photo(TRUE[:1])
    nowhere = np.full((2, 5, 2), np.nan)
    given = found_in(image, TRUE[:2], boxes=[[30, 40, 30, 90], [30, 40, 100, 120]], landmarks=nowhere)
    (faces,) = stage()([image], [given])
    np.testing.assert_array_equal(faces.landmarks[0], np.broadcast_to([30, 65], (5, 2)))
    assert (faces.landmark_scores[0] == 0).all()
    assert (faces.landmark_scores[1] > 0).all()
    assert np.isfinite(faces.landmarks).all()


def test_points_that_are_not_finite_count_as_missing_without_a_warning() -> None:
    points = placed(100, 80, 70, 8)
    image = photo([points])
    given = np.stack([np.full((5, 2), np.inf), [*points[:2], [np.inf, 0], [0, -np.inf], [np.nan, np.inf]]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (faces,) = stage()([image], [found_in(image, [points, points], landmarks=given)])
    np.testing.assert_allclose(faces.landmarks, [points, points], atol=0.6)


def test_what_a_stage_cannot_do_it_says() -> None:
    image = photo(TRUE[:1])
    faces = found_in(image, TRUE[:1])
    for images, found in (([image], [faces, faces]), ([image, image], [faces])):
        with pytest.raises(OptionError, match=f"found {len(images)} and {len(found)}"):
            stage()(images, found)
    with pytest.raises(OptionError, match="cannot be pickled; load it where it is used"):
        pickle.dumps(stage())


def test_scores_are_the_share_of_the_errors_that_a_spread_promises() -> None:
    """Against random errors: distances under a two-dimensional Laplace distribution are Gamma(2, b)."""
    b = 0.02
    errors = np.random.default_rng(0).gamma(2, b, 200_000)
    assert float(within(np.log(b), 0.8)) == pytest.approx((errors < 0.1 * frame.EYES * 0.8).mean(), abs=0.005)


def test_calibration_is_applied_and_settings_of_the_weights_are_theirs() -> None:
    image = photo(TRUE[:1])
    (faces,) = stage(scores={"scores": [0, 1], "shares": [0.25, 0.5]})([image], [found_in(image, TRUE[:1])])
    expected = 0.25 + 0.25 * float(within(-4.0, 1.0))
    np.testing.assert_allclose(faces.landmark_scores, expected, rtol=1e-6)
    with pytest.raises(OptionError, match=r"'looks' .* found 0"):
        stage(looks=0)
    with pytest.raises(OptionError, match="unknown landmark schema 'nine'"):
        stage(landmarks="nine")


def test_the_template_is_upright_and_symmetric() -> None:
    template = frame.template(0.8)
    mirrored = template[list(schema("5").mirror)] * [-1, 1] + [1, 0]
    np.testing.assert_allclose(mirrored, template)
    assert template[1, 0] - template[0, 0] == pytest.approx(0.8 * frame.EYES)
    assert ((template > 0.2) & (template < 0.8)).all()
