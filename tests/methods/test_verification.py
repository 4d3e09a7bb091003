"""Verified detectors: O-Net's opinion counts in the scores and the boxes, and nothing else changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lineament
from lineament.boxes import iou, longer_side
from lineament.calibration import logit, sigmoid
from lineament.detector import Detector
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods import verification
from lineament.methods.mtcnn.decode import MTCNN
from lineament.methods.verification import BIAS, WEIGHT, Verified
from lineament.schemas import FIVE

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.jpg"))
ASTRONAUT = lineament.read_image(ROOT / "examples" / "photos" / "astronaut.jpg")
FACE, WALL = [178.0, 62, 272, 182], [10.0, 300, 110, 400]


@pytest.fixture(scope="module")
def cascade() -> MTCNN:
    decoder = lineament.load("mtcnn")._decoder
    assert isinstance(decoder, MTCNN)
    return decoder


class Given:
    """A detector that returns given faces, those of at least the threshold."""

    schema = FIVE

    def __init__(self, faces: Sequence[Faces]) -> None:
        self.faces, self.lowest = faces, 1.0

    def __call__(self, images: Sequence[np.ndarray], *, threshold: float, **options: Any) -> list[Faces]:
        self.lowest = threshold
        return [those[those.scores >= threshold] for those in self.faces]


def given(boxes: Sequence[Sequence[float]], scores: Sequence[float], image: np.ndarray) -> Faces:
    points = np.arange(len(boxes) * 10.0).reshape(-1, 5, 2)
    return Faces.of(boxes, scores, points, image_size=(image.shape[1], image.shape[0]))


def verify(decoder: Any, cascade: MTCNN, images: Sequence[np.ndarray], threshold: float) -> list[Faces]:
    return Verified(decoder, cascade)(images, threshold=threshold, min_face=1, max_face=None)


def test_o_net_tells_faces_from_what_is_none(cascade: MTCNN) -> None:
    (((face, wall), boxes),) = cascade.opinions([ASTRONAUT], [np.array([FACE, WALL])])
    assert face > 3
    assert wall < -3
    assert iou(boxes[:1], np.array([FACE])) > 0.7


def test_scores_are_of_both_and_faces_stay_as_they_are(cascade: MTCNN) -> None:
    faces = given([WALL, FACE], [0.7, 0.6], ASTRONAUT)
    (found,) = verify(Given([faces]), cascade, [ASTRONAUT], 0.0)
    ((opinions, boxes),) = cascade.opinions([ASTRONAUT], [faces.boxes])
    expected = sigmoid(logit(faces.scores) + WEIGHT * opinions.clip(max=8) + BIAS)
    np.testing.assert_allclose(found.scores, expected[::-1], rtol=1e-5)  # the better score first
    np.testing.assert_allclose(found.boxes, (faces.boxes + boxes)[::-1] / 2, rtol=1e-5)
    np.testing.assert_array_equal(found.landmarks, faces.landmarks[::-1])


def test_a_loose_box_becomes_more_accurate(cascade: MTCNN) -> None:
    loose = np.add([FACE], [-15, 20, 25, 20])
    (found,) = verify(Given([given(loose.tolist(), [0.9], ASTRONAUT)]), cascade, [ASTRONAUT], 0.1)
    assert iou(found.boxes, np.array([FACE])) > iou(loose, np.array([FACE])) + 0.05


def test_boxes_that_come_closer_are_one_face(cascade: MTCNN) -> None:
    shifted = np.add(FACE, [30, 0, 30, 0]).tolist()
    assert iou(np.array([FACE]), np.array([shifted])) < 0.6
    (found,) = verify(Given([given([shifted, FACE, WALL], [0.8, 0.9, 0.99], ASTRONAUT)]), cascade, [ASTRONAUT], 0.0)
    assert len(found) == 2
    assert iou(found.boxes[:1], np.array([FACE])) > 0.8


def test_sizes_are_those_of_the_returned_boxes(cascade: MTCNN) -> None:
    detector = Verified(Given([given([FACE], [0.9], ASTRONAUT)]), cascade)
    (face,) = detector([ASTRONAUT], threshold=0.1, min_face=1, max_face=None)
    side = float(longer_side(face.boxes)[0])
    for smallest, largest, count in ((side + 1, None, 0), (1, side - 1, 0), (side - 1, side + 1, 1)):
        (found,) = detector([ASTRONAUT], threshold=0.1, min_face=smallest, max_face=largest)
        assert len(found) == count


@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.9])
def test_no_face_is_lost_that_reaches_the_threshold(
    cascade: MTCNN, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = np.linspace(0.001, 1, 200)
    monkeypatch.setattr(verification, "OVERLAP", 1.0)  # all are one face
    faces = given([FACE] * 200, scores, ASTRONAUT)
    (every,) = verify(Given([faces]), cascade, [ASTRONAUT], 0.0)
    (found,) = verify(decoder := Given([faces]), cascade, [ASTRONAUT], threshold)
    np.testing.assert_array_equal(found.scores, every.scores[every.scores >= threshold])
    assert 0 < decoder.lowest < threshold
    assert np.isfinite(found.scores).all()


def test_images_of_a_call_do_not_matter_to_each_other(cascade: MTCNN) -> None:
    small = np.ascontiguousarray(ASTRONAUT[::2, ::2])
    images = [ASTRONAUT, small, small]
    faces = [
        given([FACE, WALL], [0.8, 0.8], ASTRONAUT),
        given([], [], small),
        given([np.array(FACE) / 2], [0.6], small),
    ]
    together = verify(Given(faces), cascade, images, 0.1)
    for image, those, found in zip(images, faces, together, strict=True):
        (alone,) = verify(Given([those]), cascade, [image], 0.1)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-6)


@pytest.mark.parametrize("name", ["kpnet-lite-int8", "maskface", "foxnet"])
def test_shipped_detectors_can_be_verified(name: str) -> None:
    def found(**settings: Any) -> tuple[Detector, list[Faces]]:
        detector = lineament.load(name, settings=settings)
        return detector, detector.detect(PHOTOS, threshold=0.6)

    detector, verified = found(verify=True)
    assert set(detector.weights) == {name, "mtcnn"}
    for usual, faces in zip(found()[1], verified, strict=True):
        sure = usual[usual.scores > 0.9]
        assert (iou(sure.boxes, faces.boxes).max(axis=1, initial=0) > 0.6).all()
        assert (np.diff(faces.scores) <= 0).all()
        assert faces.scores.min(initial=1) >= 0.6


def test_what_cannot_be_verified_says_so() -> None:
    with pytest.raises(OptionError, match="mtcnn's are its own"):
        lineament.load("mtcnn", settings={"verify": True})
    with pytest.raises(OptionError, match="convention 'wider', which O-Net learned, found 'fddb-ellipse'"):
        lineament.load("kpnet", settings={"verify": True, "convention": "fddb-ellipse"})
