"""Detections held against labelled photos: which of them are faces, and which landmarks are right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.data.sample import VISIBLE, Sample

Array = NDArray[Any]

NEAR = 0.05
"""Share of a face's size, the root of its box's area, up to which a landmark counts as right. Between the eyes of a
frontal face it is about a tenth of their distance."""
HIT = 0.5
"""Intersection over union from which a detection is a face."""


def nearest(boxes: Array, faces: Array, overlap: float) -> Array:
    """Which face (m, 4) each box (n, 4) overlaps most, by at least an intersection over union; -1 for none -> (n,)."""
    overlaps = np.pad(box_ops.iou(boxes, faces), ((0, 0), (0, 1)))  # the last column: no face at all
    best = overlaps.argmax(axis=1)
    return np.where((overlaps.max(axis=1) >= overlap) & (best < len(faces)), best, -1)


def judged(boxes: Array, sample: Sample) -> tuple[Array, Array]:
    """Which detections (n, 4) of a photo count, and which of its faces each is.

    Returns:
        Indices (m,) of those that count, since they are a face or do not lie on an ignored region; and for each of
        them the number of its face among those that are not ignored, -1 for none.
    """
    face = nearest(boxes, sample.boxes[~sample.ignore], HIT)
    unsure = box_ops.coverage(boxes, sample.boxes[sample.ignore]).max(axis=1, initial=0) > 0.5
    counts = np.flatnonzero((face >= 0) | ~unsure)
    return counts, face[counts]


def right(landmarks: Array, sample: Sample, face: Array) -> Array:
    """Whether landmarks (n, k, 2) of faces (n,) lie near the labelled ones (n, k); NaN where no truth can be seen."""
    mine = np.flatnonzero(~sample.ignore)[face]
    size = np.sqrt(box_ops.area(sample.boxes[mine]))
    apart = np.linalg.norm(landmarks - sample.landmarks[mine], axis=2)
    return np.where(sample.visibility[mine] == VISIBLE, apart <= NEAR * size[:, None], np.nan)
