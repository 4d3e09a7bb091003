"""Candidates for faces: one table for all images of a call, and the suppression of duplicates in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.faces import Faces
from lineament.methods.settings import DetectorSettings
from lineament.schemas import Schema

Array = NDArray[Any]


@dataclass(frozen=True)
class Candidates:
    """Candidates, one per row. A method may add columns.

    Attributes:
        boxes: (n, 4) in pixels of their image.
        scores: (n,) in [0, 1].
        landmarks: (n, k, 2) in pixels of their image. NaN if not known yet.
        landmark_scores: (n, k) in [0, 1].
        image: (n,) index of the image.
    """

    boxes: Array
    scores: Array
    landmarks: Array
    landmark_scores: Array
    image: Array

    def __getitem__(self, index: Array) -> Self:
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.scores)

    def by_image(self) -> Self:
        """Sort by image. The rows of an image keep their order."""
        return self[np.argsort(self.image, kind="stable")]

    def sized(self, smallest: float, largest: float | None) -> Self:
        """Select boxes whose longer sides, in pixels of their image, are in a range. ``None``: no upper limit."""
        return self[box_ops.sized(self.boxes, smallest, largest)]

    def suppressed(self, settings: DetectorSettings, overlap: float, threshold: float) -> Self:
        """Keep one candidate per face, best first.

        Args:
            settings: The kind of suppression, and whether boxes vote.
            overlap: In [0, 1]. Boxes with more overlap suppress each other, except for "soft-gaussian".
            threshold: Lowest score in [0, 1] after Soft-NMS.
        """
        scores, over = self.scores, settings.over
        if settings.suppression == "nms":
            stands = box_ops.nms(self.boxes, scores, overlap, groups=self.image, over=over)
        else:
            sigma = settings.sigma if settings.suppression == "soft-gaussian" else None
            scores = box_ops.soft_nms(self.boxes, scores, overlap, sigma=sigma, groups=self.image, over=over)
            best_first = np.argsort(-scores, kind="stable")
            stands = best_first[scores[best_first] >= threshold]
        found = replace(self[stands], scores=scores[stands])
        if settings.voting is None:
            return found
        return replace(found, boxes=box_ops.vote(self.boxes, self.scores, stands, settings.voting, groups=self.image))

    def faces(self, images: Sequence[Array], schema: Schema) -> list[Faces]:
        """The ``Faces`` of each image (h, w, 3), in the order of the rows."""
        return [
            Faces.of(
                mine.boxes,
                mine.scores,
                mine.landmarks,
                landmark_scores=mine.landmark_scores,
                schema=schema,
                image_size=(image.shape[1], image.shape[0]),
            )
            for i, image in enumerate(images)
            for mine in [self[self.image == i]]
        ]


T = TypeVar("T", bound=Candidates)


def joined(parts: Sequence[T]) -> T:
    """The rows of several tables of candidates in one table."""
    columns = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(parts[0])}
    return replace(parts[0], **columns)
