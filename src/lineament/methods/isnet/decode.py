"""The network behind a detector: faces of any images in, the same faces with its landmarks out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from lineament.calibration import Calibration
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods.isnet import frame
from lineament.methods.settings import MethodSettings
from lineament.runtime import Graph
from lineament.schemas import FIVE, MAPS, Schema, convert, schema
from lineament.similarity import crops, invert, transform
from lineament.weights import of_weights

Array = NDArray[Any]

AT_ONCE = 256  # crops that go through the network together: bounds the memory
NEAR = 0.1  # of the eyes' distance: an error below this is the hit that a landmark score is the probability of


@dataclass(frozen=True)
class Config(MethodSettings):
    """Settings of the stage.

    Attributes:
        size: side of the crops in pixels. zoom: of the face in them (see ``frame.template``).
        looks: how often the network looks at a face that its box places, each time where the look before found it; at
            one that its points place, once less.
        mirror: whether the last look is at the mirrored crop, too, and landmarks are the means of both.
        scores: calibration of the landmark scores (`lineament.calibration.Calibration`); ``None`` leaves them raw.
    """

    size: int = of_weights(64)
    zoom: float = of_weights(1.0)
    looks: int = 2
    mirror: bool = True
    scores: Mapping[str, Any] | None = of_weights(None)


class ISNet:
    """The landmark stage.

    Attributes:
        schema: the landmarks that it finds. config: its settings.
    """

    def __init__(self, graph: Graph, config: Config) -> None:
        if config.looks < 1:
            raise OptionError(f"looks is 1 or more, found {config.looks}")
        self.schema, self.config = schema(config.landmarks), config
        self._graph = graph
        self._calibration = Calibration.from_dict(config.scores) if config.scores else None

    def __reduce__(self) -> NoReturn:
        """A loaded network cannot be pickled.

        Raises:
            OptionError: always.
        """
        raise OptionError(
            "a loaded landmark stage cannot be pickled; load it where it is used, or give lineament.load its name"
        )

    def __call__(self, images: Sequence[Array], faces: Sequence[Faces]) -> list[Faces]:
        """The same faces with this network's landmarks (see `lineament.methods.LandmarkStage`).

        A crop is placed by the face's points, if a map leads from their schema to five and two of those are known, and
        else by its box. It may reach beyond the image, which is black there. A face with neither points nor a box of
        some size has all landmarks in its box's middle, with scores of 0.

        Args:
            images: (h, w, 3) uint8 RGB. faces: as many.

        Raises:
            OptionError: not as many images as ``Faces``.
        """
        if len(images) != len(faces):
            raise OptionError(f"a landmark stage takes the Faces of each image, found {len(images)} and {len(faces)}")
        image_of = np.repeat(np.arange(len(faces)), [len(found) for found in faces])
        boxes = np.concatenate([np.zeros((0, 4)), *(found.boxes for found in faces)])
        five = np.concatenate([np.zeros((0, 5, 2)), *(_five(found.landmarks, found.schema) for found in faces)])
        by_box = np.isfinite(five).all(axis=2).sum(axis=1) < 2
        to_frame = frame.matrices(five, boxes, self.config.zoom)
        placed = np.isfinite(to_frame).all(axis=(1, 2))
        points = np.repeat((boxes[:, None, :2] + boxes[:, None, 2:]) / 2, len(self.schema), axis=1)
        scores = np.zeros(points.shape[:2])
        points[placed], scores[placed] = self._located(images, image_of[placed], to_frame[placed], by_box[placed])
        return [
            replace(found, schema=self.schema, landmarks=points[mine], landmark_scores=scores[mine])
            for i, found in enumerate(faces)
            for mine in [image_of == i]
        ]

    def _located(self, images: Sequence[Array], image_of: Array, to_frame: Array, by_box: Array) -> tuple[Array, Array]:
        """Landmarks (n, K, 2) in pixels of the images and their scores (n, K)."""
        for look in range(1, self.config.looks):
            rows = np.flatnonzero(by_box | (look > 1))
            found, _ = self._look(images, image_of[rows], to_frame[rows])
            points = transform(found, invert(to_frame[rows]))
            again = frame.matrices(_five(points, self.schema), np.zeros((len(rows), 4)), self.config.zoom)
            to_frame[rows] = np.where(np.isfinite(again), again, to_frame[rows])
        found, spread = self._look(images, image_of, to_frame, mirror=self.config.mirror)
        sure = within(spread, self.config.zoom)
        return transform(found, invert(to_frame)), self._calibration.apply(sure) if self._calibration else sure

    def _look(
        self, images: Sequence[Array], image_of: Array, to_frame: Array, *, mirror: bool = False
    ) -> tuple[Array, Array]:
        """Landmarks (n, K, 2) in the frame and the logarithms of their errors' scales (n, K)."""
        found = np.zeros((len(image_of), len(self.schema), 2))
        spreads = np.zeros(found.shape[:2])
        order = list(self.schema.mirror)
        for start in range(0, len(image_of), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            to_crop, of = to_frame[rows] * self.config.size, image_of[rows]
            pixels = np.concatenate([crops(images[i], to_crop[of == i], self.config.size) for i in np.unique(of)])
            found[rows], spreads[rows] = self._graph("isnet", ("points", "spread"), pixels=pixels)
            if mirror:
                points, spread = self._graph("isnet", ("points", "spread"), pixels=pixels[:, :, ::-1].copy())
                found[rows] = (found[rows] + points[:, order] * [-1, 1] + [1, 0]) / 2
                spreads[rows] = (spreads[rows] + spread[:, order]) / 2
        return found, spreads


def within(spread: Array, zoom: float) -> Array:
    """Probabilities that landmarks are nearer than a tenth of the eyes' distance to where they should be.

    Errors are taken to have a two-dimensional Laplace distribution of scale ``b = exp(spread)`` over the crop's side,
    of which ``1 - (1 + t / b) exp(-t / b)`` lies within t.
    """
    ratio = NEAR * frame.EYES * zoom * np.exp(-np.asarray(spread, np.float64))
    return np.asarray(1 - (1 + ratio) * np.exp(-ratio))


def _five(landmarks: Array, source: Schema) -> Array:
    """Five points (n, 5, 2); NaN where no map leads to them."""
    if source == FIVE or (source.name, FIVE.name) in MAPS:
        return np.asarray(convert(landmarks, source, FIVE), np.float64)
    return np.full((len(landmarks), 5, 2), np.nan)
