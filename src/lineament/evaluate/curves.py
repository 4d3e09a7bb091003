"""Precision and recall over falling thresholds, and average precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """A precision-recall curve.

    Attributes:
        recall: (n,) float64 in [0, 1], non-decreasing.
        precision: (n,) float64 in [0, 1]. NaN before the first detection.
    """

    recall: Array
    precision: Array

    @property
    def ap(self) -> float:
        """Average precision in [0, 1]."""
        return average_precision(self.recall, self.precision)


def average_precision(recall: ArrayLike, precision: ArrayLike) -> float:
    """Area under the monotone precision-recall curve, over all its points (PASCAL VOC since 2010).

    Args:
        recall: (n,) non-decreasing.
        precision: (n,). NaN is ignored.

    Returns:
        The sum over the steps of recall: the step times the best precision at this recall or higher.
    """
    r = np.concatenate(([0.0], np.asarray(recall, np.float64), [1.0]))
    p = np.concatenate(([0.0], np.asarray(precision, np.float64), [0.0]))
    best = np.fmax.accumulate(p[::-1])[::-1]
    step = np.flatnonzero(r[1:] != r[:-1]) + 1
    return float(np.sum((r[step] - r[step - 1]) * best[step]))


def ratio(part: Array, whole: Array | float) -> Array:
    """``part / whole``; NaN for 0 / 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.true_divide(part, whole))
