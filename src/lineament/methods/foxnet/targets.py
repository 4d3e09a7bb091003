"""What FoxNet is to learn of a canvas: which face a cell belongs to, bells at landmarks, and sizes of faces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.data.canvases import Labels
from lineament.data.scenes import NONE, from_far_to_near, outlines, owners
from lineament.schemas import Schema

Array = NDArray[Any]

BELL = 0.035
"""Standard deviation of a landmark's bell, over the longer side of the face: about what people differ by."""
NARROWEST = 0.8
"""Least standard deviation in cells, or a bell would fall between them."""
AROUND = 0.05
"""Height of a bell down to which its landmark's weight holds."""


def owner(labels: Labels, schemas: Sequence[Schema], size: int, stride: int) -> Array:
    """Which face each cell of a square canvas belongs to (cells, cells) int16, `NONE` for none: equation 1's T.

    Of ignored faces no cell belongs to any face.

    Args:
        labels: of the canvas. schemas: of their landmarks. size: side in pixels. stride: pixels of a cell.
    """
    order = from_far_to_near(labels)
    found = owners(outlines(labels, schemas)[order], (size // stride,) * 2, stride)
    faces = np.append(np.where(labels.ignore[order], NONE, order), NONE).astype(np.int16)
    return faces[found]


def log_size(boxes: Array, unit: float) -> Array:
    """What the size map says of boxes (n, 4) in pixels, over the network's unit: (n,) float32."""
    return np.log2(np.maximum(box_ops.longer_side(boxes), 1) / unit).astype(np.float32)


def bells(points: Array, weights: Array, boxes: Array, unknown: Array, size: int, stride: int) -> tuple[Array, Array]:
    """Maps of landmarks, and how much each of their cells counts.

    Args:
        points: (f, k, 2) in pixels. weights: (f, k) in [0, 1]; 0 for a landmark that is not known.
        boxes: (f, 4) of their faces. unknown: (g, 4) boxes in which landmarks may be that nobody marked.
        size: side of the canvas in pixels. stride: pixels of a cell.

    Returns:
        (k, cells, cells) each, float16: the largest of the bells, 1 at a landmark; and weights.
    """
    cells, k = size // stride, points.shape[1]
    target, weight = np.zeros((2, k, cells, cells), np.float32)
    weight += 1
    for box in unknown:
        weight[(slice(None), *_cells(box, stride, cells))] = 0
    at = np.arange(cells) + 0.5
    for point, known, box in zip(points, weights, boxes, strict=True):
        window = _cells(box + np.array([-1, -1, 1, 1]) * 0.25 * box_ops.longer_side(box[None]), stride, cells)
        inner = (slice(None), *window)
        weight[(known == 0, *_cells(box, stride, cells))] = 0
        sigma = max(BELL * box_ops.longer_side(box[None])[0] / stride, NARROWEST)
        off = at[:, None, None] - np.nan_to_num(point, nan=-size) / stride  # (cells, k, 2)
        x, y = np.exp(-(off**2) / (2 * sigma**2)).transpose(2, 1, 0)
        bell = y[:, window[0], None] * x[:, None, window[1]]
        bell *= (known > 0)[:, None, None]
        target[inner] = np.maximum(target[inner], bell)
        near = bell > AROUND
        weight[inner] = np.where(near, np.broadcast_to(known[:, None, None], near.shape), weight[inner])
    return target.astype(np.float16), weight.astype(np.float16)


def _cells(box: Array, stride: int, cells: int) -> tuple[slice, slice]:
    """Rows and columns of the cells that a box touches."""
    left, top = np.clip(np.floor(box[:2] / stride), 0, cells).astype(int)
    right, bottom = np.clip(np.ceil(box[2:] / stride), 0, cells).astype(int)
    return slice(top, bottom), slice(left, right)
