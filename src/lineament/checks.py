"""Arguments held to their kind: what is none becomes an ``OptionError`` that says what was expected."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np

from lineament.errors import OptionError


def number(value: Any, expected: str, *, low: float, high: float = math.inf) -> float:
    """A finite real number in [low, high], NumPy's too, as a plain one.

    Args:
        value: what was given.
        expected: what the argument is, for the message: "threshold must lie in [0, 1]".
        low, high: its range.

    Raises:
        OptionError: something else.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    flag = isinstance(value, bool)
    try:
        found = float(value) if isinstance(value, Real) and not flag else math.nan
    except OverflowError:
        found = math.inf
    if not (math.isfinite(found) and low <= found <= high):
        raise OptionError(f"{expected}, found {value!r:.80}")
    return found


def whole(value: Any, expected: str, *, low: int, high: int = 2**31 - 1) -> int:
    """A whole number in [low, high], NumPy's too, as a plain one; 2.0 is none.

    Raises:
        OptionError: something else.
    """
    flag = isinstance(value, bool)
    if isinstance(value, Integral) and not flag and low <= int(value) <= high:
        return int(value)
    raise OptionError(f"{expected}, found {value!r:.80}")
