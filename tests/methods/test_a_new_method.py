"""The promise of CONTRIBUTING: a method with one registry entry works everywhere, with its own options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import lineament
from lineament.cli.detect import detect
from lineament.cli.options import with_settings
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods import METHODS, DetectionMethod
from lineament.methods.candidates import Candidates
from lineament.methods.settings import DetectorSettings, option
from lineament.runtime import Graph
from lineament.schemas import Schema, schema
from lineament.weights import describe_file, of_weights, read_weights


@dataclass(frozen=True)
class Config(DetectorSettings):
    """Settings of the method."""

    landmarks: str = of_weights("19")
    brightness: int = option(200, "Grey value from which on a pixel is a face.")


class Spots:
    """Detects a face in every row that has a bright pixel."""

    def __init__(self, graph: Graph, config: Config) -> None:
        self.config = config
        self.schema: Schema = schema(config.landmarks)

    def __call__(
        self, images: Sequence[np.ndarray], *, threshold: float, min_face: float, max_face: float | None
    ) -> list[Faces]:
        bright = [(i, *place) for i, image in enumerate(images) for place in self._bright(image)]
        image, y, x = np.array(bright).reshape(-1, 3).T
        boxes = np.stack([x, y, x + 1, y + 1], axis=1).astype(float)
        shape = (len(boxes), len(self.schema))
        points = np.broadcast_to((boxes[:, None, :2] + boxes[:, None, 2:]) / 2, (*shape, 2))
        found = Candidates(boxes, np.full(len(boxes), 0.8), points, np.full(shape, 0.7), image)
        found = found.sized(min_face, max_face).suppressed(self.config, 0.5, threshold)
        return found.faces(images, self.schema)

    def _bright(self, image: np.ndarray) -> Any:
        return np.argwhere(image[..., 0] >= self.config.brightness)


SPOTS = DetectionMethod(
    title="Spots", paper="none", settings=Config, decoder=Spots, training="lineament.methods.spots.training"
)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weight file of the method, which is registered."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(read_weights("mtcnn"))  # any network will do
    about = {p.key: p.value for p in model.metadata_props}
    about |= {"name": "spots", "method": "spots", "schema": "19", "config": json.dumps({"landmarks": "19"})}
    onnx.helper.set_model_props(model, about)
    onnx.save(model, tmp_path / "spots.onnx")
    monkeypatch.setitem(METHODS, "spots", SPOTS)
    return tmp_path / "spots.onnx"


@pytest.fixture
def image() -> np.ndarray:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[4, 7], pixels[9, 2] = 250, 150
    return pixels


def test_it_loads_detects_and_describes_itself(weights: Path, image: np.ndarray) -> None:
    detector = lineament.load(weights)
    assert (detector.method, detector.schema.name) == ("spots", "19")
    first, dark = detector.detect([image, image * 0])
    assert first.boxes.tolist() == [[7, 4, 8, 5]]
    assert (len(first), len(dark)) == (1, 0)
    assert first.landmark_scores[0, 18] == np.float32(0.7)
    assert (describe_file(weights).method, describe_file(weights).schemas) == ("spots", ("19",))


def test_its_own_and_the_shared_settings_can_be_replaced(weights: Path, image: np.ndarray) -> None:
    assert len(lineament.load(weights, settings={"brightness": 100, "voting": 0.5}).detect(image)) == 2
    with pytest.raises(OptionError, match=r"spots has no setting 'input_size'; it has: .*brightness"):
        lineament.load(weights, settings={"input_size": 512})
    with pytest.raises(OptionError, match="'landmarks' is part of the weights"):
        lineament.load(weights, settings={"landmarks": "5"})


def test_its_options_are_those_of_the_command_line(weights: Path, image: np.ndarray, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(image).save(tmp_path / "a.png")
    app = typer.Typer()
    app.command()(with_settings(detect.__wrapped__))  # type: ignore[attr-defined]
    for options, faces in (([], 1), (["--brightness", "100"], 2)):
        result = CliRunner().invoke(app, [str(tmp_path / "a.png"), "-m", str(weights), "--json", "-", *options])
        assert result.exit_code == 0, result.output
        assert len(json.loads(result.stdout)["faces"]) == faces
    told = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert "Grey value from which on" in told.output
