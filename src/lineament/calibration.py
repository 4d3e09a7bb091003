"""Calibrated scores, and the regressions behind them.

A score in [0, 1] comes about in one or two steps. ``logistic`` fits a linear function of the evidence for a face or a
landmark; its ``sigmoid`` is a probability. ``fit`` fits a monotone map from scores to the share of detections that are
faces, by isotonic regression. ``robust`` fits a linear function when some targets are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lineament.errors import OptionError

Array = NDArray[Any]

GROUPS = 30  # of scores, each with its share of faces
SLOPE = 0.01  # weight of a straight line in the map; without it, different scores could become equal


def sigmoid(logits: ArrayLike) -> Array:
    """Convert logits of any shape to probabilities, float64."""
    with np.errstate(over="ignore"):  # far below 0 the probability is 0
        return np.asarray(1 / (1 + np.exp(-np.asarray(logits, np.float64))))


def logit(probabilities: ArrayLike) -> Array:
    """Inverse of ``sigmoid``; infinite at 0 and 1."""
    p = np.asarray(probabilities, np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(p) - np.log1p(-p))


@dataclass(frozen=True, eq=False)
class Calibration:
    """A map from scores to shares of faces, linear between its knots. It rises everywhere and keeps every ranking.

    Attributes:
        scores: (k,) increasing, from the lowest to the highest score of the method.
        shares: (k,) increasing, in [0, 1].
    """

    scores: Array
    shares: Array

    def __post_init__(self) -> None:
        x, y = self.scores, self.shares
        if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
            raise OptionError(
                f"a calibration has two or more scores and as many shares; found arrays of shapes {x.shape}, {y.shape}"
            )
        for name, knots in (("scores", x), ("shares", y)):
            if not (np.diff(knots) > 0).all():
                raise OptionError(f"a calibration's scores and shares rise; its {name} do not")
        if y[0] < 0 or y[-1] > 1:
            raise OptionError(f"a calibration's shares lie in [0, 1], found {y[0]} to {y[-1]}")

    def apply(self, scores: ArrayLike) -> Array:
        """Map scores of any shape to shares, float64 in [0, 1]."""
        return np.asarray(np.interp(np.asarray(scores, np.float64), self.scores, self.shares))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain numbers, ready for JSON."""
        return {name: knots.tolist() for name, knots in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """Make a calibration from a dictionary that ``to_dict`` returned.

        Raises:
            OptionError: The dictionary has another form.
        """
        try:
            return cls(*(np.array(content[name], np.float64) for name in ("scores", "shares")))
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError(f"a calibration has the lists scores and shares; wrong or missing is: {error}") from error


def fit(scores: ArrayLike, is_face: ArrayLike, *, low: float = 0.0, high: float = 1.0) -> Calibration:
    """Fit the map from scores to the share of detections that are faces, on labelled images.

    Scores are split into groups with about equal numbers of faces and of false positives. Isotonic regression makes the
    shares of the groups rise (the optimum of the pool-adjacent-violators algorithm).

    Args:
        scores: (n,) scores of detections, before a threshold.
        is_face: (n,) whether each detection is a face.
        low: The lowest score that the method can give. Lower scores count as this one.
        high: The highest score that the method can give. Higher scores count as this one.

    Raises:
        OptionError: There are only faces or only false positives, or the shapes of the arrays do not match.
    """
    raw, hit = np.clip(np.asarray(scores, np.float64), low, high), np.asarray(is_face, bool)
    if raw.ndim != 1 or raw.shape != hit.shape or not np.isfinite(raw).all():
        raise OptionError(f"expected finite scores (n,) and as many truth values, found {raw.shape} and {hit.shape}")
    if hit.all() or not hit.any():
        raise OptionError(f"a calibration takes faces and other detections; found {hit.sum()} faces of {len(hit)}")
    order = np.argsort(raw, kind="stable")
    raw, hit = ((raw[order] - low) / (high - low)).round(6), hit[order]  # nearer scores count as equal
    mass = np.cumsum(np.where(hit, 1 / hit.sum(), 1 / (~hit).sum()))  # both kinds weigh 1 in all
    cuts = np.searchsorted(mass, mass[-1] * np.arange(1, GROUPS) / GROUPS)
    starts = np.unique(np.r_[0, np.searchsorted(raw, raw[cuts])])  # equal scores stay together
    counts = np.diff(np.r_[starts, len(raw)])
    knots = np.add.reduceat(raw, starts) / counts
    shares = _isotonic(np.add.reduceat(hit.astype(float), starts) / counts, counts)
    inside = (knots > 0) & (knots < 1)
    knots = np.r_[0, knots[inside], 1]
    shares = np.r_[shares[0], shares[inside], shares[-1]]
    return Calibration(low + (high - low) * knots, (1 - SLOPE) * shares + SLOPE * knots)


def logistic(features: ArrayLike, is_face: ArrayLike, *, ridge: float = 1e-3) -> Array:
    """Fit a logistic regression by maximum likelihood, with Newton's method on the mean cross-entropy.

    Args:
        features: (n, m). Include a column of ones for the intercept.
        is_face: (n,) whether each row is positive, such as a face.
        ridge: Penalty on the squared coefficients.

    Returns:
        The coefficients (m,).

    Raises:
        OptionError: There are only positives or only negatives.
    """
    x, y = np.asarray(features, np.float64), np.asarray(is_face, np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or not 0 < y.mean() < 1:
        raise OptionError(f"expected features (n, m) of faces and others, and as many truth values; found {x.shape}")
    coefficients = np.zeros(x.shape[1])
    for _ in range(50):
        p = sigmoid(np.clip(x @ coefficients, -30, 30))
        gradient = x.T @ (p - y) / len(y) + ridge * coefficients
        curvature = (x.T * (p * (1 - p))) @ x / len(y) + ridge * np.eye(x.shape[1])
        step = np.linalg.solve(curvature, gradient)
        coefficients -= step / max(1.0, float(np.abs(step).max()))  # far from the optimum Newton overshoots
        if np.abs(step).max() < 1e-8:
            break
    return coefficients


def robust(features: ArrayLike, targets: ArrayLike, *, outlying: float = 0.1, ridge: float = 1e-6) -> Array:
    """Fit a linear function robustly, by iteratively reweighted least squares with Huber's weights.

    Args:
        features: (n, m). Include a column of ones for the intercept.
        targets: (n,).
        outlying: Errors beyond this weigh less the larger they are.
        ridge: Penalty on the squared coefficients.

    Returns:
        The coefficients (m,).
    """
    x, y = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    weights: Array = np.ones(len(y))
    for _ in range(10):
        weighted = x.T * weights / len(y)
        coefficients = np.linalg.solve(weighted @ x + ridge * np.eye(x.shape[1]), weighted @ y)
        weights = 1 / np.maximum(np.abs(x @ coefficients - y) / outlying, 1)
    return np.asarray(coefficients)


def _isotonic(values: Array, weights: Array) -> Array:
    """The nearest non-decreasing values (n,) by weighted least squares.

    By the min-max formula (Barlow et al. 1972): the maximum over starts i <= k of the minimum over ends j >= k of the
    mean of i..j.
    """
    total, mass = np.r_[0, np.cumsum(values * weights)], np.r_[0, np.cumsum(weights)]
    start, end = np.arange(len(values))[:, None], np.arange(len(values))[None] + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (total[end] - total[start]) / (mass[end] - mass[start])
    least = np.minimum.accumulate(np.where(end > start, means, np.inf)[:, ::-1], axis=1)[:, ::-1]
    most = np.maximum.accumulate(np.where(end > start, least, -np.inf), axis=0)
    return np.asarray(np.diagonal(most))
