"""The pyramid levels of MaskFace: their anchors, and the level whose features give the landmarks of a face."""

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
"""Side of a region's pooled features, in cells. Masks are four times as large."""
CANONICAL = 224.0
"""Side in pixels of a face that belongs to level k0 (equation 6)."""


def levels(finest: int = FINEST, smallest: float = SMALLEST) -> tuple[Level, ...]:
    """The anchors of each level: three per cell. Their sides double from level to level.

    Args:
        finest: The finest level, 2 for stride 4.
        smallest: Side of the smallest anchor, in pixels of the input.
    """
    strides = [2**level for level in range(finest, COARSEST + 1)]
    return octaves(strides, side=smallest / strides[0])


def level_of(boxes: Array, k0: int = 3, finest: int = FINEST) -> Array:
    """The level (n,) from which the features of boxes (n, 4) in pixels are pooled (equation 6). The finest is 0."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = np.sqrt(np.maximum(size.prod(axis=1), 1e-6))
    level = np.floor(k0 + np.log2(side / CANONICAL))
    return np.asarray(np.clip(level, finest, COARSEST) - finest).astype(np.int64)
