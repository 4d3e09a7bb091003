"""The network as a landmark stage behind a detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NoReturn

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from lineament.calibration import Calibration
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods.isnet import frame
from lineament.methods.settings import MethodSettings
from lineament.runtime import Graph
from lineament.schemas import FIVE, Schema, convert, is_convertible, schema
from lineament.similarity import crops, invert, transform
from lineament.weights import of_weights

Array = NDArray[Any]

AT_ONCE = 256  # crops that go through the network together; bounds the memory
NEAR = 0.1  # of the distance between the eyes; a landmark score is the probability of a smaller error


@dataclass(frozen=True)
class Config(MethodSettings):
    """Settings of the stage.

    Attributes:
        size: Side of the crops in pixels.
        zoom: Size of the face in the crops (see ``frame.template``).
        looks: Number of passes, 1 or more, over a face whose crop is placed by its box. Each pass places its crop by
            the landmarks of the pass before. A crop placed by landmarks takes one pass less.
        mirror: Whether the last pass also sees the mirrored crop, and landmarks are the means of both.
        scores: Calibration of the landmark scores (`lineament.calibration.Calibration`). ``None``: not calibrated.
    """

    size: int = of_weights(64)
    zoom: float = of_weights(1.0)
    looks: Annotated[int, Meta(ge=1)] = 3
    mirror: bool = True
    scores: Mapping[str, Any] | None = of_weights(None)


class ISNet:
    """The landmark stage.

    Attributes:
        schema: The schema of the predicted landmarks.
        config: Its settings.
    """

    def __init__(self, graph: Graph, config: Config) -> None:
        self.schema, self.config = schema(config.landmarks), config
        self._graph = graph
        self._calibration = Calibration.from_dict(config.scores) if config.scores else None

    def __reduce__(self) -> NoReturn:
        """A loaded network cannot be pickled.

        Raises:
            OptionError: Always.
        """
        raise OptionError(
            "a loaded landmark stage cannot be pickled; load it where it is used, or give lineament.load its name"
        )

    def __call__(self, images: Sequence[Array], faces: Sequence[Faces]) -> list[Faces]:
        """Predict the landmarks of faces (see `lineament.methods.LandmarkStage`).

        If a face has two or more of the five landmarks, in a schema with a map to five, they place its crop; otherwise
        its box does. A crop may reach beyond the image, which is black there. A face without landmarks and with an
        empty box has all landmarks in the centre of its box, with scores of 0.

        Args:
            images: (h, w, 3) uint8 RGB.
            faces: One ``Faces`` per image.

        Raises:
            OptionError: The numbers of images and ``Faces`` differ.
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
        """Landmarks (n, K, 2) in pixels of the images, and their scores (n, K)."""
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
        """Landmarks (n, K, 2) in the frame, and the logarithms of the scales of their errors (n, K)."""
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
    """Probabilities that landmarks are within a tenth of the distance between the eyes of their true positions.

    Errors are assumed to have a two-dimensional Laplace distribution with scale ``b = exp(spread)``, relative to the
    side of the crop. Then ``1 - (1 + t / b) exp(-t / b)`` is the probability of an error below t.
    """
    ratio = NEAR * frame.EYES * zoom * np.exp(-np.asarray(spread, np.float64))
    return np.asarray(1 - (1 + ratio) * np.exp(-ratio))


def _five(landmarks: Array, source: Schema) -> Array:
    """Five landmarks (n, 5, 2). NaN without a map to five."""
    if is_convertible(source, FIVE):
        return np.asarray(convert(landmarks, source, FIVE), np.float64)
    return np.full((len(landmarks), 5, 2), np.nan)
