"""A command line with a stand-in detector, which detects one face in the middle of every image that is large enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import lineament
from lineament.cli import app
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods.mtcnn.decode import Config
from lineament.schemas import FIVE
from stages import Placed

POINTS = np.array([[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.45, 0.6], [0.55, 0.6]])


class Middle:
    """A method that detects a face in the middle of every image. Its score is the brightness of the red channel."""

    schema = FIVE

    def __call__(
        self, images: Sequence[np.ndarray], *, threshold: float, min_face: float, max_face: float | None
    ) -> list[Faces]:
        return [self._see(image, threshold, min_face) for image in images]

    def _see(self, image: np.ndarray, threshold: float, min_face: float) -> Faces:
        h, w = image.shape[:2]
        score = image[..., 0].mean() / 255
        if score < threshold or min(w, h) / 2 < min_face:
            return Faces.empty((w, h))
        box = np.array([w, h, 3 * w, 3 * h]) / 4
        return Faces.of([box], [score], (POINTS * [w, h])[None], image_size=(w, h))


@pytest.fixture
def middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``lineament.load("middle")`` return the stand-in, and "placed" a landmark stage. Other names are unknown."""

    def load(name: str, **options: Any) -> lineament.Detector:
        if name != "middle":
            raise OptionError(f"unknown method or weight file {name!r}; shipped are: middle")
        stage = Placed() if options.get("landmarks") == "placed" else None
        settings = Config(threshold=0.0, min_face=10)
        return lineament.Detector("middle", Middle(), settings, stage, weights={"middle": "0" * 64})

    monkeypatch.setattr(lineament, "load", load)
    monkeypatch.setattr("lineament.evaluate.origin.read_weights", lambda name: b"stand-in")


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run the command line in this process."""

    def invoke(*arguments: object, input: bytes | None = None) -> Result:
        environment = {"COLUMNS": "200", "NO_COLOR": "1"}
        return CliRunner().invoke(app, [str(a) for a in arguments], input=input, env=environment)

    return invoke
