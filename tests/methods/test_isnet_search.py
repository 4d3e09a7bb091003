"""The search for beta against the function in the paper, and its parts against slow references."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from lineament.errors import OptionError
from lineament.methods.isnet.search import Polynomial, fit, minimum, random_weights, search

PAPER = Polynomial(36.6191, np.array([[-15.9662, -1.6210, -13.9947], [14.6877, -2.9474, 8.2006]]))  # equation 4


def test_the_papers_function_has_its_minimum_where_the_paper_says() -> None:
    beta = minimum(PAPER)
    np.testing.assert_allclose(beta, (0.4014, 0, 0.5986), atol=5e-5)
    assert float(PAPER(beta)) == pytest.approx(27.1380, abs=5e-5)


def test_a_polynomial_has_no_cross_terms() -> None:
    b2, b3, b4 = 0.1, 0.4, 0.9
    written = 36.6191 - 15.9662 * b2 - 1.6210 * b3 - 13.9947 * b4 + 14.6877 * b2**2 - 2.9474 * b3**2 + 8.2006 * b4**2
    assert float(PAPER([b2, b3, b4])) == pytest.approx(written, abs=1e-12)
    assert PAPER(np.zeros((4, 2, 3))).shape == (4, 2)
    assert str(PAPER).startswith("36.6191 - 15.9662 b2 - 1.6210 b3")
    assert str(PAPER).endswith("+ 8.2006 b4^2")


@pytest.mark.parametrize("seed", range(8))
def test_minima_equal_an_exhaustive_search(seed: int) -> None:
    """For functions with several minima: inside the region, on its faces and in its corners."""
    rng = np.random.default_rng(seed)
    degree, m = 2 + seed % 3, 2 + seed % 2
    function = Polynomial(1.0, rng.normal(0, 5, (degree, m)))
    line = np.linspace(0, 1, 101)
    grid = np.array([point for point in itertools.product(line, repeat=m) if sum(point) <= 1 + 1e-12])
    best = float(function(grid).min())
    beta = minimum(function)
    assert min(beta) >= 0
    assert sum(beta) <= 1 + 1e-9
    assert float(function(beta)) <= best + 1e-9
    assert float(function(beta)) >= best - 0.05  # which a finer grid finds, and no more


def test_regression_gives_back_the_function_that_made_the_trials() -> None:
    betas = random_weights(15, 3)
    found = fit(betas, PAPER(betas), 2)
    assert found.constant == pytest.approx(PAPER.constant)
    np.testing.assert_allclose(found.coefficients, PAPER.coefficients, atol=1e-9)


def test_trials_are_the_same_whenever_they_are_drawn_and_half_of_them_are_allowed() -> None:
    first, more = random_weights(10, 3), random_weights(20, 3)
    assert more[:10] == first
    assert all(0 <= weight <= 1 for beta in more for weight in beta)
    assert all(sum(beta) <= 1 for beta in more[::2])
    assert any(sum(beta) > 1 for beta in more[1::2])
    assert random_weights(10, 3, seed=1) != first


def test_the_degree_rises_until_predicted_and_measured_loss_agree() -> None:
    cubic = Polynomial(5.0, np.array([[1.0, 0, -2], [-9, 1, 0], [9, 0, 2.5]]))
    asked: list[int] = []

    def measure(betas: Sequence[tuple[float, ...]]) -> list[float]:
        asked.append(len(betas))
        return [float(value) for value in cubic(betas)]

    found = search(measure, trials=20, phi=1e-6)
    assert asked == [20, 1, 1]  # the random trials at once, then one for each round
    assert [step.polynomial.degree for step in found.rounds] == [2, 3]
    assert found.agreed
    assert found.beta == found.rounds[-1].beta == minimum(found.rounds[-1].polynomial)
    assert len(found.betas) == len(found.losses) == 22


def test_without_agreement_the_best_allowed_trial_is_what_remains() -> None:
    rng = np.random.default_rng(0)
    found = search(lambda betas: (30 + rng.normal(0, 3, len(betas))).tolist(), trials=10, phi=1e-9)
    assert not found.agreed
    allowed = {beta: loss for beta, loss in zip(found.betas, found.losses, strict=True) if sum(beta) <= 1}
    assert found.beta == min(allowed, key=lambda beta: allowed[beta])


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(OptionError, match="takes 8 trials or more; found 7"):
        search(lambda betas: [1.0] * len(betas), trials=7)
    with pytest.raises(OptionError, match="phi is a difference of losses above 0, found 0"):
        search(lambda betas: [1.0] * len(betas), trials=8, phi=0)
    with pytest.raises(OptionError, match="degree 3 in 3 weights has 10 coefficients; found 8 trials"):
        fit(random_weights(8, 3), np.ones(8), 3)
    with pytest.raises(OptionError, match="finite losses"):
        fit(random_weights(8, 3), [np.nan] * 8, 2)
