"""Compare detections with labelled photos: which are faces, and which landmarks are correct."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.data.sample import VISIBLE, Sample

Array = NDArray[Any]

NEAR = 0.05
"""Largest error of a correct landmark, as a share of the face size (the square root of its box area). For a frontal
face this is about a tenth of the distance between the eyes.
"""
HIT = 0.5
"""Smallest IoU of a detection with its face."""


def nearest(boxes: Array, faces: Array, overlap: float) -> Array:
    """The index (n,) of the face (m, 4) that each box (n, 4) overlaps most; -1 if no IoU is at least ``overlap``."""
    overlaps = np.pad(box_ops.iou(boxes, faces), ((0, 0), (0, 1)))  # the last column: no face
    best = overlaps.argmax(axis=1)
    return np.where((overlaps.max(axis=1) >= overlap) & (best < len(faces)), best, -1)


def judged(boxes: Array, sample: Sample) -> tuple[Array, Array]:
    """Which detections (n, 4) of a photo count, and which face each of them matches.

    Detections that match no face and lie on an ignored region do not count.

    Returns:
        The indices (m,) of the detections that count. For each, the index (m,) of its face among the faces that are not
        ignored, -1 for none.
    """
    face = nearest(boxes, sample.boxes[~sample.ignore], HIT)
    unsure = box_ops.coverage(boxes, sample.boxes[sample.ignore]).max(axis=1, initial=0) > 0.5
    counts = np.flatnonzero((face >= 0) | ~unsure)
    return counts, face[counts]


def right(landmarks: Array, sample: Sample, face: Array) -> Array:
    """Whether landmarks (n, k, 2) are close to the labels -> (n, k): 1, 0, or NaN if not labelled as visible.

    ``face`` (n,) are the indices of their faces among the faces that are not ignored.
    """
    mine = np.flatnonzero(~sample.ignore)[face]
    size = np.sqrt(box_ops.area(sample.boxes[mine]))
    apart = np.linalg.norm(landmarks - sample.landmarks[mine], axis=2)
    return np.where(sample.visibility[mine] == VISIBLE, apart <= NEAR * size[:, None], np.nan)
