"""Scores that mean something, and the fits behind them.

A score in [0, 1] is made in one or two steps. ``logistic`` fits the coefficients of a linear function of what speaks
for a face, or for a landmark; its ``sigmoid`` is a probability. ``fit`` fits, by isotonic regression, a monotone map
from any score to the share of such finds that are faces. ``robust`` is the linear fit for anything else than
probabilities, when some targets are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lineament.errors import OptionError

Array = NDArray[Any]

GROUPS = 30  # of scores, each with its own share of faces
SLOPE = 0.01  # share of a straight line in the map, without which unlike scores could become the same


def sigmoid(logits: ArrayLike) -> Array:
    """Probabilities of logits, float64 of any shape."""
    with np.errstate(over="ignore"):  # far below 0 the probability is 0
        return np.asarray(1 / (1 + np.exp(-np.asarray(logits, np.float64))))


def logit(probabilities: ArrayLike) -> Array:
    """Inverse of ``sigmoid``, infinite at 0 and 1."""
    p = np.asarray(probabilities, np.float64)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(p) - np.log1p(-p))


@dataclass(frozen=True, eq=False)
class Calibration:
    """A map from scores to shares of faces, straight between its knots. It rises everywhere: no ranking changes.

    Attributes:
        scores: (k,) rising, from the lowest score that a method gives to the highest.
        shares: (k,) rising, in [0, 1].
    """

    scores: Array
    shares: Array

    def __post_init__(self) -> None:
        x, y = self.scores, self.shares
        if x.ndim != 1 or x.shape != y.shape or len(x) < 2 or not (np.diff(x) > 0).all() or not (np.diff(y) > 0).all():
            raise OptionError(f"a calibration has two or more scores and shares, both rising; found {x} and {y}")
        if y[0] < 0 or y[-1] > 1:
            raise OptionError(f"a calibration's shares lie in [0, 1], found {y[0]} to {y[-1]}")

    def apply(self, scores: ArrayLike) -> Array:
        """For scores of any shape the shares, float64 in [0, 1]."""
        return np.asarray(np.interp(np.asarray(scores, np.float64), self.scores, self.shares))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return {name: knots.tolist() for name, knots in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """The calibration that ``to_dict`` wrote.

        Raises:
            OptionError: it has another form.
        """
        try:
            return cls(*(np.array(content[name], np.float64) for name in ("scores", "shares")))
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError(f"a calibration has the lists scores and shares; wrong or missing is: {error}") from error


def fit(scores: ArrayLike, is_face: ArrayLike, *, low: float = 0.0, high: float = 1.0) -> Calibration:
    """The map under which, of detections with score s, a share of s are faces, on labelled pictures.

    Scores are cut into groups with as many faces and other detections each as can be; the groups' shares are made to
    rise by isotonic regression (the optimum that pooling adjacent violators finds).

    Args:
        scores: (n,) of detections, before the method's threshold cuts them off.
        is_face: (n,) whether each is a face.
        low: the lowest score that the method can give; lower ones count as it.
        high: the highest score that the method can give; higher ones count as it.

    Raises:
        OptionError: not both faces and other detections, or arrays that do not belong together.
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
    """Coefficients under which a sigmoid of a linear function tells hits from others, by maximum likelihood.

    Newton's method on the mean cross-entropy.

    Args:
        features: (n, m), a column of ones among them. is_face: (n,) the hits, such as faces.
        ridge: penalty on the squared coefficients.

    Returns:
        (m,).

    Raises:
        OptionError: not both faces and others.
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
    """Coefficients of a linear function that most targets lie near, by least squares of Huber's kind.

    Errors beyond a limit weigh less the larger they are, and the fit is repeated.

    Args:
        features: (n, m), a column of ones among them if there is to be a constant. targets: (n,). outlying: the limit.
        ridge: penalty on the squared coefficients.

    Returns:
        (m,).
    """
    x, y = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    weights: Array = np.ones(len(y))
    for _ in range(10):
        weighted = x.T * weights / len(y)
        coefficients = np.linalg.solve(weighted @ x + ridge * np.eye(x.shape[1]), weighted @ y)
        weights = 1 / np.maximum(np.abs(x @ coefficients - y) / outlying, 1)
    return np.asarray(coefficients)


def _isotonic(values: Array, weights: Array) -> Array:
    """The nearest values that do not fall, by weighted least squares (n,).

    By the min-max formula (Barlow et al. 1972): the largest, over starts i up to k, of the smallest mean of i..j over
    ends j from k on.
    """
    total, mass = np.r_[0, np.cumsum(values * weights)], np.r_[0, np.cumsum(weights)]
    start, end = np.arange(len(values))[:, None], np.arange(len(values))[None] + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (total[end] - total[start]) / (mass[end] - mass[start])
    least = np.minimum.accumulate(np.where(end > start, means, np.inf)[:, ::-1], axis=1)[:, ::-1]
    most = np.maximum.accumulate(np.where(end > start, least, -np.inf), axis=0)
    return np.asarray(np.diagonal(most))
