"""The scale bins of KPNet (equation 1): sixty, ten per octave, of the longer side of a face; and the cells of its maps.

The paper counts from 2^5 on an image with a longer edge of 2048. We count pixels of the network's input, whatever its
size, from 4 to 256. For an edge of 256 these are the same numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

STRIDE = 2
"""N_s of equation 2: pixels of the input per cell of a map."""


class Grid(NamedTuple):
    """The grid of a backbone's maps on its input.

    Attributes:
        stride: Pixels of the input per cell of a map.
        multiple: The sides of the input are multiples of this.
    """

    stride: int
    multiple: int


GRIDS = {"drnet": Grid(STRIDE, 8), "hourglass": Grid(STRIDE, 64), "lite": Grid(4, 8), "slim": Grid(4, 8)}
"""By backbone. The last two are ours."""
BINS = 60
"""S, the number of scale bins."""
PER_OCTAVE = 10
SMALLEST = 4.0
LARGEST = SMALLEST * 2 ** (BINS / PER_OCTAVE)


def encode(sides: Array) -> Array:
    """Bins, b - 1 of equation 1, of faces with these longer sides in pixels of the input. -1 outside all bins.

    Args:
        sides: Any shape.

    Returns:
        Integers of that shape in [-1, 60).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        b = np.ceil(PER_OCTAVE * np.log2(np.asarray(sides) / SMALLEST))
    inside = (np.asarray(sides) >= SMALLEST) & (np.asarray(sides) <= LARGEST)
    return np.where(inside, np.clip(b, 1, BINS) - 1, -1).astype(np.int64)


def decode(bins: Array) -> Array:
    """Sides in pixels of the input at the (geometric) centres of bins. Bins may be fractions."""
    return np.asarray(SMALLEST * 2.0 ** ((np.asarray(bins) + 0.5) / PER_OCTAVE))
