"""A landmark stage after a detector: its input, the use of its output, and how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lineament
from lineament.detector import load_stage
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods import METHODS, LandmarkStage
from lineament.methods.settings import MethodSettings
from lineament.schemas import FIVE, SIXTY_EIGHT
from lineament.weights import read_weights
from stages import PLACED, Placed

PHOTOS = sorted((Path(__file__).resolve().parents[1] / "examples" / "photos").glob("*.jpg"))[:2]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weight file of the stage, which is registered as a method."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(read_weights("mtcnn"))
    metadata = {"method": "placed", "config": json.dumps({"landmarks": "68", "place": 0.25})}
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, tmp_path / "placed.onnx")
    monkeypatch.setitem(METHODS, "placed", PLACED)
    return tmp_path / "placed.onnx"


def test_boxes_and_scores_stay_and_landmarks_are_the_stages() -> None:
    stage = Placed()
    assert isinstance(stage, LandmarkStage)
    plain, both = lineament.load("mtcnn"), lineament.load("mtcnn", landmarks=stage)
    assert (plain.schema, both.schema) == (FIVE, SIXTY_EIGHT)
    dark = np.zeros((30, 40, 3), np.uint8)
    before, after = plain.detect([*PHOTOS, dark]), both.detect([*PHOTOS, dark])
    assert stage.batches == [sum(map(len, before))]  # all faces of the call at once
    assert stage.batches[0] > 1
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(other.boxes, one.boxes)
        np.testing.assert_array_equal(other.scores, one.scores)
        assert other.landmarks.shape == (len(one), 68, 2)
        np.testing.assert_allclose(other.landmarks[:, 7], (one.boxes[:, :2] + one.boxes[:, 2:]) / 2, rtol=1e-6)
        assert (other.landmark_scores == np.float32(0.9)).all()
        assert other.schema == SIXTY_EIGHT
    assert len(after[2]) == 0


class NoLandmarks:
    """A detector that detects one box, without landmarks."""

    schema = FIVE

    def __call__(self, images: Sequence[np.ndarray], **options: Any) -> list[Faces]:
        return [
            Faces.of([[1, 2, 5, 8]], [0.7], np.full((1, 5, 2), np.nan), image_size=(image.shape[1], image.shape[0]))
            for image in images
        ]


def test_a_detector_without_landmarks_may_stand_in_front() -> None:
    detector = lineament.Detector("boxes", NoLandmarks(), METHODS["mtcnn"].settings(), Placed())
    (face,) = detector.detect(np.zeros((20, 20, 3), np.uint8))
    np.testing.assert_allclose(face.landmarks, np.broadcast_to([3, 5], (1, 68, 2)))


def test_weights_of_a_stage_run_behind_a_detector(weights: Path) -> None:
    for given in (weights, str(weights)):
        faces = lineament.load("mtcnn", landmarks=given).detect(PHOTOS[0])
        sides = faces.boxes[:, 2:] - faces.boxes[:, :2]
        np.testing.assert_allclose(faces.landmarks[:, 0], faces.boxes[:, :2] + sides / 4, rtol=1e-5)
    assert load_stage(weights, settings={"place": 0.75}).config.place == 0.75


def test_weights_of_the_other_kind_are_named(weights: Path) -> None:
    with pytest.raises(OptionError, match=r"placed\.onnx finds the landmarks of faces.*load\('kpnet', landmarks='"):
        lineament.load(weights)
    with pytest.raises(OptionError, match="kpnet-lite are weights of kpnet, a detector; weights of a landmark stage"):
        lineament.load("mtcnn", landmarks="kpnet-lite")


def test_a_schema_of_the_weights_is_selected_and_others_are_named() -> None:
    one, other = lineament.load("mtcnn", landmarks="5"), lineament.load("mtcnn")
    np.testing.assert_array_equal(one.detect(PHOTOS[0]).landmarks, other.detect(PHOTOS[0]).landmarks)
    with pytest.raises(OptionError, match=r"landmarks '68': mtcnn has no such schema; it has: 5\. .* there are: "):
        lineament.load("mtcnn", landmarks="68")
    with pytest.raises(OptionError, match=r"unknown method or weight file 'gone\.onnx'"):
        lineament.load("mtcnn", landmarks="gone.onnx")


def test_several_schemas_lie_side_by_side_in_the_outputs() -> None:
    several = {"schemas": ["5", "68", "19"]}
    chosen = [MethodSettings(landmarks=name, **several).columns for name in several["schemas"]]
    assert chosen == [slice(0, 5), slice(5, 73), slice(73, 92)]
    assert MethodSettings(landmarks="19").columns == slice(0, 19)
    with pytest.raises(OptionError, match="find landmarks of 5, 68, 19, found '98'"):
        MethodSettings(landmarks="98", **several)
