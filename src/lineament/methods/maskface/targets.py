"""Targets of MaskFace: the labels of anchors, and the regions in which landmarks are learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.anchors import Level, anchors

Array = NDArray[Any]

POSITIVE, NEGATIVE = 0.5, 0.3
"""An anchor is a face if its IoU with one is larger than the first, and background below the second."""
COVERED = 0.5
"""Anchors with a larger share in an ignored region are ignored."""
REACH = 0.1
"""Anchors and faces whose ratio of areas is smaller are not compared. Their IoU cannot exceed this ratio."""
FACE, BACKGROUND, IGNORED = 1, 0, -1
CONFIDENCE, SUPPRESSED, MATCHED = 0.02, 0.6, 0.6
"""Of proposals: the lowest probability, the IoU of non-maximum suppression, and the smallest IoU with a face."""
PROPOSALS = 1000
"""Largest number of anchors per image that become proposals, best first. An untrained network has far more."""


class Matches(NamedTuple):
    """The labels of anchors.

    Attributes:
        label: (a,) int8 `FACE`, `BACKGROUND` or `IGNORED`.
        face: (a,) index of the matched face, -1 for none.
    """

    label: Array
    face: Array


def match(levels: Sequence[Level], size: int, faces: Array, ignored: Array) -> Matches:
    """Match the anchors of a square canvas with its faces (section 3.2, "Anchor matching").

    Args:
        levels: The levels of the pyramid.
        size: Side of the canvas in pixels.
        faces: (f, 4) boxes in pixels.
        ignored: (g, 4) boxes of regions in which nothing is learned.
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
        # low-quality matches: the best anchors of a face, however small their overlap
        wanted = ((overlap == best) & (overlap > 0)).any(axis=1)
        label[(most > POSITIVE) | wanted] = FACE
        owner = overlap.argmax(axis=1) if len(faces) else np.zeros(len(label), np.intp)
        face.append(np.where(label == FACE, owner, -1))
    return Matches(np.concatenate(labels), np.concatenate(face))


def _overlaps(boxes: Array, others: Array, level: Level, levels: Sequence[Level]) -> Array:
    """The IoU (a, f) of a level's anchors with boxes. 0 for boxes whose size only suits other levels."""
    areas = box_ops.area(others)
    low = min(level.sides) ** 2 if level is not levels[0] else 0  # no level has smaller anchors,
    high = max(level.sides) ** 2 if level is not levels[-1] else np.inf  # or larger ones
    near = (areas > low * REACH) & (areas * REACH < high)
    out = np.zeros((len(boxes), len(others)), np.float32)
    if near.any():
        out[:, near] = box_ops.iou(boxes.astype(np.float32), others[near].astype(np.float32))
    return out


def jittered(rng: np.random.Generator, boxes: Array, sigma: float) -> Array:
    """Boxes (n, 4) as inexact as detections: moved and resized at random. ``sigma`` is a share of their sides."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = box_ops.centre(boxes) + rng.normal(0, sigma, size.shape) * size
    half = size * np.exp(rng.normal(0, sigma, size.shape)) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def proposals(logit: Array, offset: Array, boxes: Array) -> tuple[Array, Array]:
    """The detections of the network during training (section 3.2, "Landmark localization head").

    Args:
        logit: (n, a) outputs of the network.
        offset: (n, a, 4) outputs of the network.
        boxes: (a, 4) the anchors, in pixels.

    Returns:
        Boxes (p, 4) in pixels, and the indices (p,) of their images. The most confident come first.
    """
    best = np.argsort(-logit, axis=1, kind="stable")[:, :PROPOSALS]
    image, rank = np.nonzero(np.take_along_axis(logit, best, axis=1) > np.log(CONFIDENCE / (1 - CONFIDENCE)))
    anchor = best[image, rank]
    found = box_ops.decode_rcnn(offset[image, anchor].astype(np.float64), boxes[anchor])
    kept = box_ops.nms(found, logit[image, anchor], SUPPRESSED, groups=image)
    return found[kept], image[kept]


def matched(boxes: Array, image: Array, faces: Array, of: Array) -> tuple[Array, Array]:
    """Select the proposals that overlap a face.

    Args:
        boxes: (p, 4) proposals.
        image: (p,) index of the image of each proposal.
        faces: (f, 4) boxes of faces.
        of: (f,) index of the image of each face, -1 to leave it out.

    Returns:
        Indices (r,) of proposals, in their order, and the index (r,) of the face that each overlaps most.
    """
    overlap = np.where(image[:, None] == of, box_ops.iou(boxes, faces), 0)
    rows = np.flatnonzero(overlap.max(axis=1, initial=0) > MATCHED)
    return rows, overlap[rows].argmax(axis=1) if len(rows) else rows
