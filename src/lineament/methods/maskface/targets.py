"""What MaskFace is to learn of a canvas: which anchors are faces, and where landmarks lie in a region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.anchors import Level, anchors

Array = NDArray[Any]

POSITIVE, NEGATIVE = 0.5, 0.3
"""Intersections over union above which an anchor is a face, and below which it is background."""
COVERED = 0.5
"""Share of an anchor that lies in an ignored region above which it is not background."""
REACH = 0.1
"""Ratio of areas, which no intersection over union exceeds, below which a map's anchors and a face are not compared."""
FACE, BACKGROUND, IGNORED = 1, 0, -1
CONFIDENCE, SUPPRESSED, MATCHED = 0.02, 0.6, 0.6
"""Of proposals: least probability, overlap above which the worse of two falls, and above which one is a face."""
PROPOSALS = 1000
"""Anchors of an image, the best, that proposals are made of: the untrained network is sure of far more."""


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


def jittered(rng: np.random.Generator, boxes: Array, sigma: float) -> Array:
    """Boxes (n, 4) as a detector finds them: moved and resized at random, by ``sigma`` of their sides."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + rng.normal(0, sigma, size.shape) * size
    half = size * np.exp(rng.normal(0, sigma, size.shape)) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def proposals(logit: Array, offset: Array, boxes: Array) -> tuple[Array, Array]:
    """The faces that a network finds while it learns (section 3.2, "Landmark localization head").

    Args:
        logit: (n, a) and offset: (n, a, 4), what it says of the anchors. boxes: (a, 4) the anchors.

    Returns:
        Boxes (p, 4) and the numbers (p,) of their images, the most confident first.
    """
    best = np.argsort(-logit, axis=1, kind="stable")[:, :PROPOSALS]
    image, rank = np.nonzero(np.take_along_axis(logit, best, axis=1) > np.log(CONFIDENCE / (1 - CONFIDENCE)))
    anchor = best[image, rank]
    found = box_ops.decode_rcnn(offset[image, anchor].astype(np.float64), boxes[anchor])
    kept = box_ops.nms(found, logit[image, anchor], SUPPRESSED, groups=image)
    return found[kept], image[kept]


def matched(boxes: Array, image: Array, faces: Array, of: Array) -> tuple[Array, Array]:
    """Proposals that are faces.

    Args:
        boxes: (p, 4) proposals. image: (p,) their images. faces: (f, 4). of: (f,) the faces' images.

    Returns:
        Rows (r,) of proposals, in their order, and the face (r,) that each overlaps most.
    """
    overlap = np.where(image[:, None] == of, box_ops.iou(boxes, faces), 0)
    rows = np.flatnonzero(overlap.max(axis=1, initial=0) > MATCHED)
    return rows, overlap[rows].argmax(axis=1) if len(rows) else rows
