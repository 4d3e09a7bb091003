"""Where MaskFace looks: the anchors of its maps, and which map a face's landmarks are read from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.anchors import Level, octaves

Array = NDArray[Any]

FINEST, COARSEST = 2, 6
"""Levels of the paper's pyramid, P2 to P6."""
SMALLEST = 16.0
"""Side in pixels of the paper's smallest anchor."""
POOLED = 14
"""Cells along a side of a region's features; masks have four times as many."""
CANONICAL = 224.0
"""Side in pixels of a face that is read from level k0 (equation 6)."""


def levels(finest: int = FINEST, smallest: float = SMALLEST) -> tuple[Level, ...]:
    """The maps' anchors: three a cell, whose sides double from map to map.

    Args:
        finest: level of the finest map. smallest: side of the smallest anchor in pixels of the input.
    """
    strides = [2**level for level in range(finest, COARSEST + 1)]
    return octaves(strides, side=smallest / strides[0])


def level_of(boxes: Array, k0: int = 3, finest: int = FINEST) -> Array:
    """The level (n,) that boxes (n, 4) are read from (equation 6), counted from the finest."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = np.sqrt(np.maximum(size.prod(axis=1), 1e-6))
    level = np.floor(k0 + np.log2(side / CANONICAL))
    return np.asarray(np.clip(level, finest, COARSEST) - finest).astype(np.int64)
