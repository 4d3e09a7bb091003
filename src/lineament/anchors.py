"""Grids and anchors: the positions and boxes of the cells of a network's maps.

They depend only on the size of the input. They are computed once for each size and cached, read-only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Level(NamedTuple):
    """The anchors of one map.

    Attributes:
        stride: Pixels of the input per cell.
        sides: Square roots of the areas of a cell's anchors, in pixels of the input.
        ratios: Heights divided by widths. Each cell has an anchor for each side and ratio.
    """

    stride: int
    sides: tuple[float, ...]
    ratios: tuple[float, ...] = (1.0,)


def octaves(strides: Sequence[int], *, side: float = 4.0, per_octave: int = 3) -> tuple[Level, ...]:
    """Levels whose smallest anchors have ``side`` strides, with ``per_octave`` evenly spaced sizes up to twice that."""
    return tuple(Level(s, tuple(side * s * 2 ** (i / per_octave) for i in range(per_octave))) for s in strides)


@lru_cache(maxsize=64)
def grid(width: int, height: int, stride: int) -> Array:
    """Centres of the cells of a map, (rows, columns, 2), x and y in pixels of the input.

    If the input is not a multiple of the stride, the last cells reach beyond its edge.
    """
    x, y = ((np.arange(math.ceil(length / stride)) + 0.5) * stride for length in (width, height))
    return _kept(np.stack(np.meshgrid(x, y), axis=-1))


@lru_cache(maxsize=64)
def anchors(width: int, height: int, level: Level) -> Array:
    """The anchors of one map, boxes (rows, columns, a, 4) in pixels of the input, by side and then by ratio."""
    side, ratio = (values.ravel() for values in np.meshgrid(level.sides, level.ratios, indexing="ij"))
    half = np.stack([side / np.sqrt(ratio), side * np.sqrt(ratio)], axis=-1) / 2
    centre = grid(width, height, level.stride)[:, :, None]
    return _kept(np.concatenate([centre - half, centre + half], axis=-1))


@lru_cache(maxsize=16)
def all_anchors(width: int, height: int, levels: tuple[Level, ...]) -> Array:
    """The anchors of all maps (n, 4), by map, row and cell."""
    return _kept(np.concatenate([anchors(width, height, level).reshape(-1, 4) for level in levels]))


def _kept(array: Array) -> Array:
    array.flags.writeable = False  # the cache returns the same array again
    return array
