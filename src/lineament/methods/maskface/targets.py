"""What MaskFace is to learn of a canvas: which anchors are faces, and where landmarks lie in a region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.anchors import Level, anchors
from lineament.methods.maskface.levels import level_of

Array = NDArray[Any]

POSITIVE, NEGATIVE = 0.5, 0.3
"""Intersections over union above which an anchor is a face, and below which it is background."""
COVERED = 0.5
"""Share of an anchor that lies in an ignored region above which it is not background."""
REACH = 0.1
"""Ratio of areas, which no intersection over union exceeds, below which a map's anchors and a face are not compared."""
FACE, BACKGROUND, IGNORED = 1, 0, -1


class Matches(NamedTuple):
    """What anchors are.

    Attributes:
        label: (a,) int8 `FACE`, `BACKGROUND` or `IGNORED`. face: (a,) which face; -1 for none.
    """

    label: Array
    face: Array


def match(levels: Sequence[Level], size: int, faces: Array, ignored: Array) -> Matches:
    """Match the anchors of a square canvas with its faces (section 3.2, "Anchor matching").

    Args:
        levels: the maps. size: side of the canvas in pixels. faces: (f, 4). ignored: (g, 4) regions.
    """
    overlaps, best, face, labels = [], np.zeros(len(faces)), [], []
    for level in levels:
        boxes = anchors(size, size, level).reshape(-1, 4)
        overlap = _overlaps(boxes, faces, level, levels)
        overlaps.append(overlap)
        best = np.maximum(best, overlap.max(axis=0, initial=0))
        label = np.zeros(len(boxes), np.int8)
        if len(ignored):
            hidden = box_ops.coverage(boxes, ignored).max(axis=1) > COVERED
            label[hidden | (_overlaps(boxes, ignored, level, levels).max(axis=1) >= NEGATIVE)] = IGNORED
        labels.append(label)
    for overlap, label in zip(overlaps, labels, strict=True):
        most = overlap.max(axis=1, initial=0)
        label[most >= NEGATIVE] = IGNORED
        # low quality: the anchors that a face overlaps most, however little that is
        wanted = ((overlap == best) & (overlap > 0)).any(axis=1)
        label[(most > POSITIVE) | wanted] = FACE
        owner = overlap.argmax(axis=1) if len(faces) else np.zeros(len(label), np.intp)
        face.append(np.where(label == FACE, owner, -1))
    return Matches(np.concatenate(labels), np.concatenate(face))


def _overlaps(boxes: Array, others: Array, level: Level, levels: Sequence[Level]) -> Array:
    """(a, f) intersections over union of a map's anchors; 0 for boxes that other maps' anchors resemble far more."""
    areas = box_ops.area(others)
    low = min(level.sides) ** 2 if level is not levels[0] else 0  # no map has smaller anchors,
    high = max(level.sides) ** 2 if level is not levels[-1] else np.inf  # or larger ones
    near = (areas > low * REACH) & (areas * REACH < high)
    out = np.zeros((len(boxes), len(others)), np.float32)
    if near.any():
        out[:, near] = box_ops.iou(boxes.astype(np.float32), others[near].astype(np.float32))
    return out


class Regions(NamedTuple):
    """Faces whose landmarks are learnt.

    Attributes:
        boxes: (r, 4) regions in pixels. level: (r,) of the pyramid, from the finest.
        points: (r, k, 2) in pixels. weights: (r, k), 0 for a landmark that is unknown or outside the region.
    """

    boxes: Array
    level: Array
    points: Array
    weights: Array


def regions(
    rng: np.random.Generator, boxes: Array, points: Array, weights: Array, *, jitter: float, k0: int, finest: int
) -> Regions:
    """Regions as a detector finds them: moved and resized by chance, by ``jitter`` of their sides (sigma)."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + rng.normal(0, jitter, size.shape) * size
    half = size * np.exp(rng.normal(0, jitter, size.shape)) / 2
    moved = np.concatenate([centre - half, centre + half], axis=1)
    inside = ((points >= moved[:, None, :2]) & (points < moved[:, None, 2:])).all(axis=2)  # NaN is not
    return Regions(moved, level_of(moved, k0, finest), np.nan_to_num(points), weights * inside)
