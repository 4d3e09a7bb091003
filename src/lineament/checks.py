"""Check arguments. A wrong one raises an ``OptionError`` that says what was expected."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np

from lineament.errors import OptionError


def number(value: Any, expected: str, *, low: float, high: float = math.inf) -> float:
    """Check for a finite real number in [low, high], also NumPy's, and return it as a Python float.

    Args:
        value: The argument.
        expected: What the argument should be, for the message, such as "threshold must lie in [0, 1]".
        low: The smallest value.
        high: The largest value.

    Raises:
        OptionError: The argument is something else.
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
    """Check for an integer in [low, high], also NumPy's, and return it as a Python int. 2.0 is not an integer.

    Raises:
        OptionError: The argument is something else.
    """
    flag = isinstance(value, bool)
    if isinstance(value, Integral) and not flag and low <= int(value) <= high:
        return int(value)
    raise OptionError(f"{expected}, found {value!r:.80}")
