"""The scale bins of KPNet (equation 1): sixty, ten to an octave, of the longer side of a face; and its maps' cells.

The paper counts from 2^5 on an image whose longer edge is 2048; ours are pixels of the network's input, whatever its
size, and the same numbers where that edge is 256: from 4 pixels to 256.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

STRIDE = 2
"""N_s of equation 2: pixels of the input for one cell of a map."""


class Grid(NamedTuple):
    """How the maps of a backbone lie on its input.

    Attributes:
        stride: pixels of the input for one cell. multiple: what the sides of the input are multiples of.
    """

    stride: int
    multiple: int


GRIDS = {"drnet": Grid(STRIDE, 8), "hourglass": Grid(STRIDE, 64), "lite": Grid(4, 8)}
"""By backbone; the lite one is ours."""
BINS = 60
"""S, the number of scale bins."""
PER_OCTAVE = 10
SMALLEST = 4.0
LARGEST = SMALLEST * 2 ** (BINS / PER_OCTAVE)


def encode(sides: Array) -> Array:
    """Bins, b - 1 of equation 1, of faces whose longer sides have so many pixels of the input; -1 where there is none.

    Args:
        sides: any shape.

    Returns:
        Integers of that shape in [-1, 60).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        b = np.ceil(PER_OCTAVE * np.log2(np.asarray(sides) / SMALLEST))
    inside = (np.asarray(sides) >= SMALLEST) & (np.asarray(sides) <= LARGEST)
    return np.where(inside, np.clip(b, 1, BINS) - 1, -1).astype(np.int64)


def decode(bins: Array) -> Array:
    """Sides in pixels of the input at the (geometric) centres of bins, which may be fractions."""
    return np.asarray(SMALLEST * 2.0 ** ((np.asarray(bins) + 0.5) / PER_OCTAVE))
