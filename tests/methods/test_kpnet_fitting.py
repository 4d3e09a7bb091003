"""Fits of KPNet's boxes and scores to labelled photos."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("cv2")

from lineament import boxes as box_ops
from lineament.calibration import fit as calibrate
from lineament.calibration import logistic, sigmoid
from lineament.conventions import convention
from lineament.data.canvases import Canvas
from lineament.data.sample import Sample
from lineament.methods.kpnet import fitting
from lineament.methods.kpnet.decode import KPNetDecoder
from lineament.methods.kpnet.fitting import Finds
from proposals import Fake, bare, face_row, told
from scenes import POINTS

Array = np.ndarray


def test_boxes_are_refined_to_those_of_the_canvases(monkeypatch: pytest.MonkeyPatch) -> None:
    """From inexact proposals and exact landmarks."""
    monkeypatch.setattr(fitting, "LEAST_FITTED", 50)
    rng = np.random.default_rng(0)
    faces, rows = [], []
    for _ in range(80):
        side = rng.uniform(16, 60)
        place = np.array([*rng.uniform(0, 128 - side, 2), side])
        (truth,) = convention("wider").boxes((POINTS * side + place[:2])[None])
        seen = {"centre": [(truth[:2] + truth[2:]) / 2 + rng.normal(0, 0.05, 2) * side], "side": [side * 1.2]}
        faces.append(truth)
        rows.append(face_row(place, rng.uniform(-3, 3)) | seen)
    unmarked = {
        "landmarks": np.zeros((1, 5, 2)),
        "weights": np.zeros((1, 5)),
        "ignore": np.zeros(1, bool),
        "schema": np.zeros(1, int),
        "outside": 0,
    }
    canvases = [
        Canvas(boxes=box[None], pixels=np.full((128, 128, 3), i, np.uint8), **unmarked) for i, box in enumerate(faces)
    ]
    graph = Fake(lambda pixels: rows[pixels[0, 0, 0]])
    decoder = KPNetDecoder(graph, bare(proposal=1.0))
    found = fitting.fit_refinement(decoder, canvases)
    learned = KPNetDecoder(graph, bare(refinement=found))
    overlaps = [
        [box_ops.overlap(by.propose([canvas.pixels]).boxes, canvas.boxes)[0] for canvas in canvases]
        for by in (decoder, learned)
    ]
    assert np.mean(overlaps[0]) < 0.9
    assert np.min(overlaps[1]) > 0.98
    monkeypatch.setattr(fitting, "LEAST_FITTED", 81)
    assert fitting.fit_refinement(decoder, canvases) is None


def finds(evidence: Array, face: Array, photo: Array) -> Finds:
    nothing = np.zeros((0, 5))
    return Finds(np.zeros(len(face)), evidence, face, photo, np.zeros((0, 5, 3)), nothing)


def test_average_precision_counts_a_face_once() -> None:
    """In order: a face, a false positive, the same face again, the face of another photo with the same index."""
    found = finds(np.zeros((4, 6)), np.array([0, -1, 0, 0]), np.array([0, 0, 0, 1]))
    assert fitting.average_precision(np.array([4.0, 3, 2, 1]), found, 4) == pytest.approx((1 + 2 / 4) / 4)
    assert fitting.average_precision(np.array([1.0, 2, 3, 4]), found, 2) == pytest.approx((1 + 1) / 2)


def test_scores_are_fitted_where_they_rank_best_on_other_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 256 the logit separates faces. At other sizes the second column contradicts it."""
    rng = np.random.default_rng(0)

    def at(sign: float, noise: float) -> Finds:
        is_face = rng.random(600) < 0.5
        speaks = np.zeros((600, 6))
        speaks[:, 0] = np.where(is_face, 1, -1) + noise * rng.normal(0, 1, 600)
        speaks[:, 1] = sign * np.where(is_face, 1, -1) + 0.5 * rng.normal(0, 1, 600)
        speaks[:, 5] = 1
        face = np.where(is_face, np.arange(600), -1)
        return finds(speaks, face, np.arange(600) % 50)

    both = {256: at(-1, 0.3), 384: at(1, 2), 640: at(1, 2)}
    faces = sum(int(found.is_face.sum()) for found in both.values()) // 3
    alone = {size: fitting.held_out_precision(both, (size,), faces) for size in (256, 640)}
    assert alone[640] > alone[256]
    coefficients = fitting.fit_evidence(both, faces, shown=640, canvas=256)
    choices = [(256, 640), (640,), (256,)]
    precision = [fitting.held_out_precision(both, sizes, faces) for sizes in choices]
    best = choices[int(np.argmax(precision))]
    chosen = [np.concatenate([getattr(both[size], name) for size in best]) for name in ("evidence", "is_face")]
    np.testing.assert_allclose(coefficients, logistic(*chosen))
    # a photo's own faces do not affect its scores: nothing can be learned from random labels
    shuffled = {size: found._replace(face=rng.permutation(found.face)) for size, found in both.items()}
    assert fitting.held_out_precision(shuffled, (640,), faces) < 0.6


def test_too_few_photos_are_not_folded() -> None:
    few = finds(np.ones((3, 6)), np.array([0, -1, 1]), np.array([0, 0, 0]))
    assert fitting.held_out_precision(dict.fromkeys((256, 384, 640), few), (256,), 2) == 0


def test_landmark_scores_are_the_share_of_landmarks_that_are_right() -> None:
    rng = np.random.default_rng(0)
    speaks = np.stack([rng.normal(-1, 1, (4000, 5)), rng.normal(0, 1, (4000, 5)), np.ones((4000, 5))], axis=-1)
    near = (rng.random((4000, 5)) < sigmoid(speaks @ [1.5, -0.5, 2.0])).astype(float)
    near[:, 4] = np.nan  # not labelled
    speaks[:, 4] = 1e3
    found = finds(np.zeros((0, 6)), np.zeros(0), np.zeros(0))._replace(landmark_evidence=speaks, near=near)
    np.testing.assert_allclose(fitting.fit_landmark_evidence([found, found]), [1.5, -0.5, 2.0], atol=0.15)
    assert fitting.fit_landmark_evidence([found._replace(near=np.ones((4000, 5)))]) is None


class Shown(list[Array]):
    """Photos in memory, with their labels."""

    def __init__(self, images: list[Array], samples: list[Sample]) -> None:
        super().__init__(images)
        self.samples = samples


def labelled(shift: float = 0.0, *, hidden: bool = False) -> tuple[Shown, KPNetDecoder]:
    """A photo with a detected face whose landmarks are shifted, an ignored face, and a false positive."""
    places = np.array([[10.0, 10, 60], [90, 20, 40], [40, 90, 30]])
    rows = [face_row(place, 2.0, (0.6, 0.5, 0.4)) for place in places]
    points = np.stack([POINTS * side + [x, y] for x, y, side in places])
    boxes = convention("wider").boxes(points)
    sample = Sample.of(
        "photo.png",
        boxes[:2],
        points[:2] + np.array([shift, 0]),
        ignore=[False, True],
        visibility=np.array([[2, 2, 2, 1 if hidden else 2, 2], [2] * 5]),
    )
    return Shown([np.zeros((128, 128, 3), np.uint8)], [sample]), KPNetDecoder(told(*rows), bare())


def test_finds_are_faces_or_none_and_what_is_ignored_does_not_count() -> None:
    photos, decoder = labelled()
    found = fitting.judged(decoder, photos)
    assert sorted(found.face.tolist()) == [-1, 0]
    assert found.landmark_evidence.shape == (1, 5, 3)
    np.testing.assert_array_equal(found.near, [[1, 1, 1, 1, 1]])
    np.testing.assert_allclose(found.landmark_evidence[0, :3, 0], np.log(np.array([0.6, 0.5, 0.4]) + 1e-3), rtol=1e-5)


@pytest.mark.parametrize(("share", "right"), [(0.045, 1), (0.055, 0)])
def test_a_landmark_is_right_within_a_share_of_the_faces_size(share: float, right: int) -> None:
    photos, _ = labelled()
    size = float(np.sqrt(box_ops.area(photos.samples[0].boxes[0])))
    photos, decoder = labelled(share * size, hidden=True)
    np.testing.assert_array_equal(fitting.judged(decoder, photos).near, [[right, right, right, np.nan, right]])


def test_what_is_given_is_not_fitted() -> None:
    photos, decoder = labelled(3.5)
    photos = Shown([photos[0]] * 6, photos.samples * 6)
    settings = {"photos": photos, "canvases": None, "canvas": 128}
    every = fitting.fitted(decoder.graph, bare(), **settings)
    assert every.keys() == {"evidence", "calibration"}  # all landmarks have the same error
    some = fitting.fitted(decoder.graph, bare(), **settings, given=["evidence"])
    assert some.keys() == {"calibration"}
    raw = fitting.judged(decoder, photos).scores
    assert some["calibration"] == calibrate(raw, fitting.judged(decoder, photos).is_face).to_dict()
