"""Verified detectors: the verifier's opinion counts in the scores and the boxes, and nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import lineament
from lineament import boxes as box_ops
from lineament.calibration import logit, sigmoid
from lineament.conventions import convention
from lineament.detector import Detector
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods import METHODS
from lineament.methods.verifier import decode
from lineament.methods.verifier.decode import MOST, Config, Verified, Verifier, to_crops
from lineament.runtime import Graph
from lineament.schemas import FIVE
from lineament.similarity import transform
from lineament.weights import read_weights

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
ASTRONAUT = lineament.read_image(ROOT / "examples" / "photos" / "astronaut.jpg")
FACE, WALL = [178.0, 62, 272, 182], [10.0, 300, 110, 400]


class Says:
    """A graph that says the same of every crop, or in turn what it was given."""

    def __init__(self, *answers: tuple[float, Sequence[float]]) -> None:
        self.answers, self.crops = answers, np.empty(0)

    def __call__(self, entry: str, outputs: tuple[str, ...], *, pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        assert (entry, outputs) == ("verifier", ("score", "box"))
        self.crops = pixels
        told = [self.answers[i % len(self.answers)] for i in range(len(pixels))]
        return np.array([score for score, _ in told]), np.array([box for _, box in told], float).reshape(-1, 4)


def verifier(*answers: tuple[float, Sequence[float]], **settings: float) -> Verifier:
    return Verifier(cast(Graph, Says(*answers)), Config(**settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shipped() -> Verifier:
    decoder = lineament.load("kpnet-lite", settings={"verify": True})._decoder
    assert isinstance(decoder, Verified)
    return decoder._verifier


class Given:
    """A detector that returns given faces, those of at least the threshold."""

    schema = FIVE

    def __init__(self, faces: Sequence[Faces]) -> None:
        self.faces, self.lowest, self.limits = faces, 1.0, {}

    def __call__(self, images: Sequence[np.ndarray], *, threshold: float, **limits: Any) -> list[Faces]:
        self.lowest, self.limits = threshold, limits
        return [those[those.scores >= threshold] for those in self.faces]


def given(boxes: Sequence[Sequence[float]], scores: Sequence[float], image: np.ndarray = ASTRONAUT) -> Faces:
    upright = np.array([[0.0, 0], [4, 0], [2, 2], [0, 4], [4, 4]])
    points = upright + 10 * np.arange(len(boxes))[:, None, None]
    return Faces.of(boxes, scores, points, image_size=(image.shape[1], image.shape[0]))


def verified(decoder: Any, of: Verifier, threshold: float = 0.0, **sizes: Any) -> Faces:
    limits = {"min_face": 1, "max_face": None} | sizes
    (found,) = Verified(decoder, of)([ASTRONAUT], threshold=threshold, **limits)
    return found


def test_a_crop_shows_the_square_around_a_box_and_what_is_around_it() -> None:
    windows = np.array([[10.0, 20, 50, 60], [-5, 0, 5, 10]])
    corners = np.stack([windows[:, :2], windows[:, 2:]], axis=1)
    inside = transform(corners, to_crops(windows, 48, 1.5))
    np.testing.assert_allclose(inside, np.broadcast_to([[8.0, 8], [40, 40]], (2, 2, 2)))


def test_scores_and_boxes_are_of_both_and_landmarks_stay() -> None:
    says = Says((-2.0, [0, 0, 0, 0]), (3.0, [0.1, 0, 0, np.log(2)]))
    faces = given([WALL, FACE], [0.7, 0.6])
    found = verified(Given([faces]), Verifier(cast(Graph, says), Config(weight=0.5, bias=-0.2, share=0.25)))
    expected = sigmoid(logit(faces.scores) + 0.5 * np.array([-2, 3]) - 0.2)
    np.testing.assert_allclose(found.scores, expected[::-1], rtol=1e-5)  # the better score first
    np.testing.assert_array_equal(found.landmarks, faces.landmarks[::-1])
    side, (x1, y1, x2, y2) = 120, (165, 62, 285, 182)  # of the square around the face
    seen = np.array([x1 + 0.1 * side, y1 - side / 2, x2 + 0.1 * side, y2 + side / 2])
    np.testing.assert_allclose(found.boxes[0], 0.75 * np.array(FACE) + 0.25 * seen, rtol=1e-5)
    np.testing.assert_allclose(found.boxes[1], WALL, rtol=1e-5)
    assert says.crops.shape == (2, 48, 48, 3)


@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.9])
def test_no_face_is_lost_that_reaches_the_threshold(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "OVERLAP", 1.0)  # all are one face
    of = verifier((2 * MOST, [0, 0, 0, 0]))
    faces = given([FACE] * 200, np.linspace(0.001, 1, 200).tolist())
    every = verified(Given([faces]), of)
    found = verified(decoder := Given([faces]), of, threshold)
    np.testing.assert_array_equal(found.scores, every.scores[every.scores >= threshold])
    assert 0 < decoder.lowest < threshold
    assert np.isfinite(found.scores).all()


def test_boxes_that_come_closer_are_one_face() -> None:
    shifted = np.add(FACE, [30, 0, 30, 0]).tolist()
    assert box_ops.iou(np.array([FACE]), np.array([shifted])) < 0.6
    left = -30 / 120
    of = verifier((0, [left, 0, 0, 0]), (0, [0, 0, 0, 0]), share=1.0)
    found = verified(Given([given([shifted, FACE], [0.8, 0.9])]), of)
    assert len(found) == 1
    assert found.scores[0] > 0.8


def test_sizes_are_those_of_the_returned_boxes() -> None:
    detector, of = Given([given([FACE], [0.9])]), verifier((0, [0, 0, 0, np.log(1.5)]), share=1.0)
    assert box_ops.longer_side(verified(detector, of).boxes)[0] == pytest.approx(180)
    for smallest, largest, count in ((181, None, 0), (1, 179, 0), (179, 181, 1)):
        assert len(verified(detector, of, min_face=smallest, max_face=largest)) == count


@pytest.mark.parametrize("limited", [False, True])
def test_limits_reach_the_detector_only_where_they_save_time(limited: bool) -> None:
    decoder = Given([given([FACE], [0.9])])
    Verified(decoder, verifier((0, [0, 0, 0, 0])), limited=limited)(
        [ASTRONAUT], threshold=0.5, min_face=40, max_face=90
    )
    assert decoder.limits == ({"min_face": 40, "max_face": 90} if limited else {"min_face": 1, "max_face": None})


def test_the_suppression_of_the_detector_counts_after_the_verifier() -> None:
    def found(**settings: Any) -> Faces:
        several = {"pyramid": [0.8], "overview": False, "verify": True}  # sees the face twice
        return lineament.load("kpnet-lite", settings=several | settings).detect(ASTRONAUT, threshold=0.05)

    usual = found()
    assert len(found(nms=1.0)) > len(usual)
    soft = found(suppression="soft-gaussian", sigma=1e9)
    assert len(soft) > len(usual)
    assert (np.diff(soft.scores) <= 0).all()


def test_nothing_to_verify() -> None:
    of = verifier((0, [0, 0, 0, 0]))
    assert of([], []) == []
    assert [len(faces) for faces in of([ASTRONAUT] * 2, [given([], [])] * 2)] == [0, 0]


def test_images_of_a_call_do_not_matter_to_each_other(shipped: Verifier) -> None:
    small = np.ascontiguousarray(ASTRONAUT[::2, ::2])
    images = [ASTRONAUT, small, small]
    faces = [
        given([FACE, WALL], [0.8, 0.8], ASTRONAUT),
        given([], [], small),
        given([np.array(FACE) / 2], [0.6], small),
    ]
    together = shipped(images, faces)
    for image, those, found in zip(images, faces, together, strict=True):
        (alone,) = shipped([image], [those])
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-6)


def test_the_shipped_verifier_tells_faces_from_what_is_none(shipped: Verifier) -> None:
    loose = np.add(FACE, [-15, 20, 25, 20])
    (((face, wall, _), boxes),) = shipped.opinions([ASTRONAUT], [given([FACE, WALL, loose], [1] * 3)])
    assert face > 2
    assert wall < -2
    assert box_ops.iou(boxes[[0, 2]], np.array([FACE])).min() > 0.7
    assert box_ops.iou(loose[None], np.array([FACE])) < 0.6


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_faces_that_lie_are_seen_upright(shipped: Verifier, degrees: int) -> None:
    """What the verifier says of a face does not depend on the side of the photo that is up."""
    faces = lineament.load("kpnet", settings={"verify": False}).detect(ASTRONAUT)
    ((usual, boxes),) = shipped.opinions([ASTRONAUT], [faces])
    image = np.ascontiguousarray(np.rot90(ASTRONAUT, degrees // 90))
    ((turned, moved),) = shipped.opinions([image], [faces.turned(degrees)])
    np.testing.assert_allclose(turned, usual, atol=0.5)
    expected = replace(faces, boxes=boxes.astype(np.float32)).turned(degrees).boxes
    np.testing.assert_allclose(moved, expected, atol=4)
    blind = replace(faces.turned(degrees), landmarks=np.full_like(faces.landmarks, np.nan))
    ((unturned, _),) = shipped.opinions([image], [blind])
    assert (unturned < usual - 0.5).all()


def leaning(degrees: float) -> Faces:
    """A face that is turned clockwise around the centre of its box."""
    turn = np.deg2rad(degrees)
    upright = np.array([[-1, -1], [1, -1], [0, 0], [-1, 1], [1, 1]]) * 20.0
    points = upright @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    return replace(given([FACE], [0.9]), landmarks=np.add(points, [225, 122])[None])


@pytest.mark.parametrize(("degrees", "looks"), [(0, 1), (-15, 1), (25, 2), (-90, 2), (180, 2)])
def test_only_faces_that_lean_have_a_second_crop(degrees: float, looks: int) -> None:
    seen = []

    def says(*_: Any, pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        seen.append(len(pixels))
        return np.zeros(len(pixels)), np.zeros((len(pixels), 4))

    Verifier(cast(Graph, says), Config()).opinions([ASTRONAUT], [leaning(degrees)])
    assert seen == [looks]


def test_the_larger_logit_of_a_leaning_face_counts_with_its_box() -> None:
    side, (x1, y1, _, _) = 120, (165, 62, 285, 182)
    offset = [0.1, 0, 0, np.log(0.5)]  # to the right, and half as high
    for as_it_is, upright, expected in (
        (1.0, 0.0, [x1 + 12, y1 + 30, x1 + side + 12, y1 + side - 30]),
        (0.0, 1.0, [x1 + 30, y1 - 12, x1 + side - 30, y1 + side - 12]),  # what is right in the crop is up
    ):
        says = Says((as_it_is, offset), (upright, offset))
        (((score,), boxes),) = Verifier(cast(Graph, says), Config()).opinions([ASTRONAUT], [leaning(-90)])
        assert score == 1
        np.testing.assert_allclose(boxes, [expected], atol=1e-4)


def test_a_turned_box_is_that_of_the_ellipse() -> None:
    window, box = np.array([[0.0, 0, 100, 100]]), np.array([[30.0, 20, 60, 90]])
    angle = np.linspace(0, 2 * np.pi, 10_001)
    ellipse = np.stack([45 + 15 * np.cos(angle), 55 + 35 * np.sin(angle)], axis=1)
    for degrees in (0, 30, -75, 180):
        turn = np.deg2rad(degrees)  # clockwise in the image
        around = (ellipse - 50) @ [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]] + 50
        down = np.array([[-np.sin(turn), np.cos(turn)]])
        expected = [[*around.min(axis=0), *around.max(axis=0)]]
        np.testing.assert_allclose(decode.turned_boxes(box, window, down), expected, atol=1e-4)


def test_a_turned_crop_shows_the_chin_below() -> None:
    window, down = np.array([[20.0, 20, 60, 60]]), np.array([[0.6, 0.8]])
    points = np.stack([[40.0, 40], [40 + 6, 40 + 8]])[None]
    np.testing.assert_allclose(transform(points, to_crops(window, 48, 1.2, down)), [[[24, 24], [24, 34]]])


def test_with_flip_opinions_are_the_means_of_a_crop_and_its_mirror_image() -> None:
    def halves(entry: str, outputs: tuple[str, ...], *, pixels: np.ndarray) -> tuple[np.ndarray, ...]:
        left, every = pixels[:, :, :24].mean((1, 2, 3)), pixels.mean((1, 2, 3))
        return left, np.stack([left, every, left, every], axis=1) / 1000

    once, twice = (Verifier(cast(Graph, halves), Config(), mirror=mirror) for mirror in (False, True))
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, :50] = 200  # all of the left half
    box = np.array([[25.0, 25, 75, 75]])
    (((left,), _),), (((both,), boxes),) = (of.opinions([image], [given(box, [1], image)]) for of in (once, twice))
    assert (left, both) == pytest.approx((200, 100), abs=3)
    moved = box_ops.decode_rcnn(np.array([[0.1, 0.1, 0.1, 0.1]]), box)
    np.testing.assert_allclose(boxes, moved, atol=0.3)
    loaded = lineament.load("kpnet-lite", settings={"verify": True, "flip": True})._decoder
    assert isinstance(loaded, Verified)
    assert loaded._verifier._mirror


@pytest.mark.parametrize("name", ["kpnet-lite-int8", "mtcnn", "maskface", "foxnet"])
def test_shipped_detectors_can_be_verified(name: str) -> None:
    def found(**settings: Any) -> tuple[Detector, list[Faces]]:
        detector = lineament.load(name, settings=settings)
        return detector, detector.detect(PHOTOS, threshold=0.6)

    detector, verified = found(verify=True)
    assert set(detector.weights) == {name, "verifier-int8" if name.endswith("int8") else "verifier"}
    for usual, faces in zip(found(verify=False)[1], verified, strict=True):
        sure = usual[usual.scores > 0.9]
        assert (box_ops.iou(sure.boxes, faces.boxes).max(axis=1, initial=0) > 0.6).all()
        assert (np.diff(faces.scores) <= 0).all()
        assert faces.scores.min(initial=1) >= 0.6


FITTED = replace(convention("fddb-ellipse"), name="half", box=convention("wider").box / 2, square=True).to_dict()


@pytest.mark.parametrize("style", ["square", "fddb-ellipse", FITTED])
@pytest.mark.parametrize("name", ["kpnet-lite-int8", "foxnet"])
def test_verified_boxes_follow_the_wanted_convention(name: str, style: str | dict[str, Any]) -> None:
    """They differ from verified boxes in WIDER FACE's convention as those of the landmarks do."""

    def found(style: str | dict[str, Any], **sizes: float) -> Faces:
        detector = lineament.load(name, settings={"verify": True, "convention": style})
        return detector.detect(ASTRONAUT, threshold=0.5, **sizes)

    plain, styled = found("wider"), found(style)
    np.testing.assert_array_equal(styled.scores, plain.scores)
    like = convention(style)
    of_points = [one.boxes(plain.landmarks, plain.schema) for one in (replace(like, square=False), convention("wider"))]
    expected = box_ops.corrected(*of_points, plain.boxes)
    np.testing.assert_allclose(styled.boxes, box_ops.square(expected) if like.square else expected, atol=1e-3)
    (side,) = box_ops.longer_side(styled.boxes)
    for smallest, largest, count in ((side - 1, side + 1, 1), (side + 1, None, 0), (1, side - 1, 0)):
        assert len(found(style, min_face=smallest, max_face=largest)) == count


def test_a_verifier_of_your_own(tmp_path: Path) -> None:
    own = tmp_path / "own.onnx"
    own.write_bytes(read_weights("verifier"))
    usual = lineament.load("kpnet-lite", settings={"verify": True}).detect(ASTRONAUT)
    for which in (str(own), own):
        detector = lineament.load("kpnet-lite", settings={"verify": which})
        assert set(detector.weights) == {"kpnet-lite", str(own)}
        np.testing.assert_array_equal(detector.detect(ASTRONAUT).boxes, usual.boxes)
    for wrong, message in (
        ("isnet-5", "verify is true, false, or .*; isnet-5 is a landmark stage"),
        ("yes", "unknown method or weight file 'yes'"),
        ("", r"setting 'verify' is e\.g\. True, found ''"),
    ):
        with pytest.raises(OptionError, match=message):
            lineament.load("kpnet-lite", settings={"verify": wrong})


def test_the_registry_says_which_class_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(Verifier):
        pass

    monkeypatch.setitem(METHODS, "verifier", replace(METHODS["verifier"], verifier=Own))
    decoder = lineament.load("kpnet-lite", settings={"verify": True})._decoder
    assert isinstance(decoder, Verified)
    assert isinstance(decoder._verifier, Own)


def test_a_verifier_alone_is_no_detector() -> None:
    with pytest.raises(OptionError, match=r"verifier verifies faces that a detector found: .*--verify"):
        lineament.load("verifier")
    with pytest.raises(OptionError, match="weights of verifier, a verifier; weights of a landmark stage are"):
        lineament.load("kpnet", landmarks="verifier")
