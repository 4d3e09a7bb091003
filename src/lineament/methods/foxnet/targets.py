"""Targets of FoxNet: the face in each cell, Gaussians at the landmarks, and the sizes of faces."""

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
"""Sigma of a landmark's Gaussian relative to the longer side of the face: about how much human labels differ."""
NARROWEST = 0.8
"""Smallest sigma in cells. The peak of a narrower Gaussian could lie between cells and be missed."""
AROUND = 0.05
"""Where a Gaussian is higher, its cells have the weight of its landmark."""


def owner(labels: Labels, schemas: Sequence[Schema], size: int, stride: int) -> Array:
    """The index of the face in each cell of a square canvas, T of equation 1: (cells, cells) int16, `NONE` for none.

    Cells of ignored faces belong to no face.

    Args:
        labels: The labels of the canvas.
        schemas: The schemas of its landmarks.
        size: Side of the canvas in pixels.
        stride: Side of a cell in pixels.
    """
    order = from_far_to_near(labels)
    found = owners(outlines(labels, schemas)[order], (size // stride,) * 2, stride)
    faces = np.append(np.where(labels.ignore[order], NONE, order), NONE).astype(np.int16)
    return faces[found]


def log_size(boxes: Array, unit: float) -> Array:
    """The target (n,) float32 of the size map for boxes (n, 4) in pixels: log2 of the longer side over ``unit``."""
    return np.log2(np.maximum(box_ops.longer_side(boxes), 1) / unit).astype(np.float32)


def bells(points: Array, weights: Array, boxes: Array, unknown: Array, size: int, stride: int) -> tuple[Array, Array]:
    """Landmark maps with a Gaussian at each landmark, and the weights of their cells.

    Args:
        points: (f, k, 2) in pixels.
        weights: (f, k) in [0, 1], 0 for an unknown landmark.
        boxes: (f, 4) of the faces, in pixels.
        unknown: (g, 4) boxes of faces without labelled landmarks. Their cells have weight 0.
        size: Side of the canvas in pixels.
        stride: Side of a cell in pixels.

    Returns:
        The maps (k, cells, cells) float16 in [0, 1], the largest of all Gaussians, 1 at a landmark. The weights
        (k, cells, cells) float16 in [0, 1].
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
    """The rows and columns of the cells that overlap a box."""
    left, top = np.clip(np.floor(box[:2] / stride), 0, cells).astype(int)
    right, bottom = np.clip(np.ceil(box[2:] / stride), 0, cells).astype(int)
    return slice(top, bottom), slice(left, right)
