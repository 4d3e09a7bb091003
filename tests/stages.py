"""A landmark stage for tests, without a network: all landmarks lie at a fixed place in each box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lineament.faces import Faces
from lineament.methods import LandmarkMethod
from lineament.methods.settings import MethodSettings
from lineament.schemas import schema


@dataclass(frozen=True)
class Config(MethodSettings):
    """Settings of the stage: the place of all landmarks in a box, and their score."""

    place: float = 0.5
    sure: float = 0.9


class Placed:
    """Puts all landmarks at one place of each box, and records the number of faces per call."""

    def __init__(self, graph: Any = None, config: Config | None = None) -> None:
        self.config = config or Config(landmarks="68")
        self.schema = schema(self.config.landmarks)
        self.batches: list[int] = []

    def __call__(self, images: Sequence[np.ndarray], faces: Sequence[Faces]) -> list[Faces]:
        assert [(image.shape[1], image.shape[0]) for image in images] == [found.image_size for found in faces]
        self.batches.append(sum(map(len, faces)))
        return [self._placed(found) for found in faces]

    def _placed(self, faces: Faces) -> Faces:
        shape = (len(faces), len(self.schema))
        places = faces.boxes[:, None, :2] + self.config.place * (faces.boxes[:, None, 2:] - faces.boxes[:, None, :2])
        points = np.broadcast_to(places, (*shape, 2))
        return replace(
            faces, schema=self.schema, landmarks=points, landmark_scores=np.full(shape, self.config.sure, np.float32)
        )


PLACED = LandmarkMethod(title="Placed", paper="none", settings=Config, training="nothing.trains.it", stage=Placed)
