"""The search for beta (table 1): random trials, a fitted polynomial, a training at its minimum, and again.

Nothing here trains: the loss of each choice of weights comes from a function argument. Arrays of weights are (..., m)
for m synthesised blocks, beta_2 to beta_S.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lineament.errors import OptionError

Array = NDArray[Any]
Measure = Callable[[Sequence[tuple[float, ...]]], Sequence[float]]
"""Trains with each of these choices of weights and returns the losses, in order."""

LATTICE = 20  # steps of the first lattice along each weight
STARTS = 20  # its best points, from which finer lattices start, since the function may have several minima
FINEST = 5e-7


@dataclass(frozen=True, eq=False)
class Polynomial:
    """A polynomial without cross terms, ``constant + sum_i sum_p coefficients[p - 1, i] beta_i^p`` (equation 4).

    Attributes:
        constant: The value at 0.
        coefficients: (degree, m).
    """

    constant: float
    coefficients: Array

    @property
    def degree(self) -> int:
        """The highest power."""
        return len(self.coefficients)

    def __call__(self, beta: ArrayLike) -> Array:
        """Values (...) at weights (..., m)."""
        powers = _powers(np.asarray(beta, np.float64), self.degree)
        return np.asarray(self.constant + (powers * self.coefficients).sum((-1, -2)))

    def __str__(self) -> str:
        """In the notation of the paper, with blocks counted from 2."""
        terms = [
            f"{'+' if k >= 0 else '-'} {abs(k):.4f} b{i}" + (f"^{p}" if p > 1 else "")
            for p, row in enumerate(self.coefficients, 1)
            for i, k in enumerate(row, 2)
        ]
        return " ".join([f"{self.constant:.4f}", *terms])


@dataclass(frozen=True)
class Round:
    """One round of the algorithm: a polynomial, its minimum, and the loss of a training there.

    Attributes:
        polynomial: Fitted to all previous trials.
        beta: Its minimum.
        predicted: The polynomial's value at the minimum.
        measured: The loss of a training at the minimum.
    """

    polynomial: Polynomial
    beta: tuple[float, ...]
    predicted: float
    measured: float


@dataclass(frozen=True)
class Search:
    """The result of the algorithm.

    Attributes:
        betas: The weights of all trials. Those that confirmed a minimum are last.
        losses: The losses of all trials.
        rounds: The rounds in order.
        agreed: Whether the predicted and the measured loss of the last round differ by less than phi.
    """

    betas: tuple[tuple[float, ...], ...]
    losses: tuple[float, ...]
    rounds: tuple[Round, ...]
    agreed: bool

    @property
    def beta(self) -> tuple[float, ...]:
        """The weights of the last round if it agreed, otherwise the best trial within the constraint."""
        if self.agreed:
            return self.rounds[-1].beta
        allowed = [(loss, beta) for beta, loss in zip(self.betas, self.losses, strict=True) if sum(beta) <= 1 + FINEST]
        return min(allowed)[1]


def search(measure: Measure, *, blocks: int = 3, trials: int = 15, phi: float = 0.5, seed: int = 0) -> Search:
    """Table 1: raise the degree from 2 until the predicted and the measured loss differ by less than phi.

    The confirming trial of each round joins the others. The search ends when a polynomial would have as many
    coefficients as there are trials.

    Args:
        measure: Trains with given weights.
        blocks: m.
        trials: Number of random trials at the start.
        phi: In units of the loss.
        seed: Seed of the random trials.

    Raises:
        OptionError: There are too few trials for degree 2, or phi is not above 0.
    """
    if trials <= 2 * blocks + 1:
        raise OptionError(
            f"a polynomial of degree 2 in {blocks} weights takes {2 * blocks + 2} trials or more; found {trials}"
        )
    if not phi > 0:
        raise OptionError(f"phi is a difference of losses above 0, found {phi}")
    betas = random_weights(trials, blocks, seed)
    losses = list(measure(betas))
    rounds: list[Round] = []
    degree = 2
    while degree * blocks + 1 < len(betas):
        polynomial = fit(betas, losses, degree)
        beta = minimum(polynomial)
        (measured,) = measure([beta])
        rounds.append(Round(polynomial, beta, float(polynomial(beta)), measured))
        betas.append(beta)
        losses.append(measured)
        if abs(rounds[-1].predicted - measured) < phi:
            break
        degree += 1
    agreed = abs(rounds[-1].predicted - rounds[-1].measured) < phi
    return Search(tuple(betas), tuple(losses), tuple(rounds), agreed)


def random_weights(trials: int, blocks: int, seed: int = 0) -> list[tuple[float, ...]]:
    """Weights to try, in thousandths: in turn from all of [0, 1]^m and from those with a sum of at most 1."""
    found = []
    for number in range(trials):
        rng = np.random.default_rng([seed, number])
        drawn = rng.random(blocks) if number % 2 else rng.dirichlet(np.ones(blocks + 1))[:-1]
        found.append(tuple((np.floor(drawn * 1000) / 1000).tolist()))
    return found


def fit(betas: ArrayLike, losses: ArrayLike, degree: int) -> Polynomial:
    """Fit the polynomial without cross terms to the trials by least squares.

    Args:
        betas: (n, m).
        losses: (n,).
        degree: At least 1.

    Raises:
        OptionError: The shapes of the arrays do not match, a loss is not finite, or there are fewer trials than
            coefficients.
    """
    x, y = np.asarray(betas, np.float64), np.asarray(losses, np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or not np.isfinite(y).all():
        raise OptionError(f"expected weights (n, m) and as many finite losses, found {x.shape} and {y.shape}")
    m = x.shape[1]
    if len(y) < degree * m + 1:
        raise OptionError(f"degree {degree} in {m} weights has {degree * m + 1} coefficients; found {len(y)} trials")
    columns = np.column_stack([np.ones(len(y)), _powers(x, degree).reshape(len(y), degree * m)])
    solution = np.linalg.lstsq(columns, y, rcond=None)[0]
    return Polynomial(float(solution[0]), solution[1:].reshape(degree, m))


def minimum(polynomial: Polynomial) -> tuple[float, ...]:
    """The weights at the minimum of a polynomial, each in [0, 1], with a sum of at most 1.

    The polynomial need not be convex. All points of a lattice are compared. From the best ones, finer and finer
    lattices move to the lowest neighbour. Every lattice contains the corners and faces of the allowed region.
    """
    m = polynomial.coefficients.shape[1]
    lattice = _simplex(m, LATTICE) / LATTICE
    starts = lattice[np.argsort(polynomial(lattice), kind="stable")[:STARTS]]
    best = min((_descended(polynomial, start) for start in starts), key=lambda point: float(polynomial(point)))
    return tuple((np.round(best, 6) + 0.0).tolist())


def _descended(polynomial: Polynomial, start: Array) -> Array:
    """The local minimum that finer and finer lattices reach from a point of the first lattice."""
    moves = np.array(list(product((-1, 0, 1), repeat=len(start))))
    count = LATTICE  # number of steps in 1; points are integers, so that a sum can be exactly 1
    place = np.round(start * count).astype(np.int64)
    while 1 / count > FINEST:
        near = place + moves
        near = near[(near >= 0).all(axis=1) & (near.sum(axis=1) <= count)]
        values = polynomial(near / count)
        if values.min() >= float(polynomial(place / count)):
            place, count = place * 2, count * 2
        else:
            place = near[values.argmin()]
    return place / count


def _simplex(m: int, steps: int) -> Array:
    """All (points, m) of non-negative integers with a sum of at most ``steps``."""
    bars = np.array(list(combinations(range(steps + m), m)))
    return np.diff(bars, axis=1, prepend=-1) - 1


def _powers(beta: Array, degree: int) -> Array:
    """(..., m) -> (..., degree, m): the powers from 1."""
    return beta[..., None, :] ** np.arange(1, degree + 1)[:, None]
