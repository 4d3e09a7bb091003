"""Faces in the making: what a decoder scores, suppresses and hands over, of all pictures of a call at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lineament.faces import Faces
from lineament.schemas import Schema

Array = NDArray[Any]


@dataclass(frozen=True)
class Candidates:
    """One row each; a method may add columns.

    Attributes:
        boxes: (n, 4) in pixels of their picture.
        scores: (n,) in [0, 1].
        landmarks: (n, k, 2) in pixels of their picture; NaN where none are known yet.
        picture: (n,) index of the picture.
    """

    boxes: Array
    scores: Array
    landmarks: Array
    picture: Array

    def __getitem__(self, index: Array) -> Self:
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.scores)

    def by_picture(self) -> Self:
        """Picture after picture, the rows of each in the order that they have."""
        return self[np.argsort(self.picture, kind="stable")]

    def faces(self, images: Sequence[Array], schema: Schema) -> list[Faces]:
        """Those of every picture (h, w, 3), in the order that they have."""
        return [
            Faces.of(
                mine.boxes, mine.scores, mine.landmarks, schema=schema, image_size=(image.shape[1], image.shape[0])
            )
            for i, image in enumerate(images)
            for mine in [self[self.picture == i]]
        ]
