"""Calibration: a monotone map from a score to the fraction of such detections that are faces."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineament.calibration import GROUPS, Calibration, _isotonic, fit, logistic, robust
from lineament.errors import OptionError

RNG = np.random.default_rng(3)


def detections(count: int, high: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Mostly low scores, and which of them are faces, at the rate of the score."""
    scores = RNG.beta(0.3, 0.9, count)
    return scores * high, RNG.random(count) < scores


def test_calibrated_scores_stay() -> None:
    found = fit(*detections(50_000))
    scores = np.linspace(0.02, 0.98, 200)
    assert np.abs(found.apply(scores) - scores).max() < 0.03


@pytest.mark.parametrize("curve", [np.sqrt, np.square, lambda s: 1 / (1 + np.exp(20 * (0.7 - s)))])
def test_shares_are_those_of_the_faces(curve) -> None:  # type: ignore[no-untyped-def]
    scores = RNG.uniform(0, 4, 40_000)
    found = fit(scores, RNG.random(40_000) < curve(scores / 4), low=0, high=4)
    shares = found.apply(scores)
    for low, high in pairwise([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]):
        here = (scores >= low) & (scores < high)
        assert shares[here].mean() == pytest.approx(curve(scores[here] / 4).mean(), abs=0.03)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 3.9]) | st.floats(0, 4), st.booleans()), min_size=2)
)
def test_no_ranking_changes_whatever_the_data(rows: list[tuple[float, bool]]) -> None:
    scores, hits = (np.array(column) for column in zip(*rows, strict=True))
    if hits.all() or not hits.any():
        return
    found = fit(scores, hits, low=0, high=4)
    grid = np.unique(np.r_[np.linspace(0, 4, 1001), scores].round(6))
    shares = found.apply(grid)
    assert (np.diff(shares) > 0).all()
    assert shares[0] >= 0
    assert shares[-1] <= 1
    assert len(found.scores) <= GROUPS + 2


def isotonic_by_pooling(values: list[float], weights: list[float]) -> list[float]:
    """Pool adjacent violators until there are none."""
    blocks: list[list[float]] = []
    for value, weight in zip(values, weights, strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, wa, na), (b, wb, nb) = blocks.pop(-2), blocks.pop(-1)
            blocks.append([(a * wa + b * wb) / (wa + wb), wa + wb, na + nb])
    return [value for value, _, count in blocks for _ in range(int(count))]


def test_isotonic_is_what_pooling_adjacent_violators_finds() -> None:
    for count in (1, 2, 7, 30):
        values, weights = RNG.random(count), RNG.uniform(0.1, 5, count)
        assert np.allclose(_isotonic(values, weights), isotonic_by_pooling(values.tolist(), weights.tolist()))


def test_dictionaries() -> None:
    found = fit(*detections(2000, high=4), high=4)
    again = Calibration.from_dict(json.loads(json.dumps(found.to_dict())))
    assert np.array_equal(again.apply([[0.1, 3.0]]), found.apply([[0.1, 3.0]]))


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(OptionError, match="found 2 faces of 2"):
        fit([0.1, 0.2], [True, True])
    with pytest.raises(OptionError, match=r"found \(3,\) and \(2,\)"):
        fit([0.1, 0.2, 0.3], [True, False])
    with pytest.raises(OptionError, match="shares do not"):
        Calibration.from_dict({"scores": [0, 1], "shares": [0.5, 0.5]})
    with pytest.raises(OptionError, match="lie in"):
        Calibration.from_dict({"scores": [0, 1], "shares": [0.5, 1.5]})
    with pytest.raises(OptionError, match="missing is: 'shares'"):
        Calibration.from_dict({"scores": [0, 1]})


def test_logistic_finds_the_coefficients_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 2, (20_000, 2)), np.ones((20_000, 1))], axis=1)
    truth = np.array([1.5, -0.7, 0.4])
    is_face = rng.random(20_000) < 1 / (1 + np.exp(-features @ truth))
    np.testing.assert_allclose(logistic(features, is_face), truth, atol=0.08)


def test_logistic_is_where_the_gradient_vanishes() -> None:
    rng = np.random.default_rng(1)
    features, is_face = rng.normal(0, 1, (300, 4)), rng.random(300) < 0.3
    w = logistic(features, is_face, ridge=0.1)
    p = 1 / (1 + np.exp(-features @ w))
    np.testing.assert_allclose(features.T @ (p - is_face) / 300 + 0.1 * w, 0, atol=1e-6)


@pytest.mark.parametrize(("features", "is_face"), [(np.ones((3, 2)), [1, 1, 1]), (np.ones((3, 2)), [1, 0])])
def test_logistic_wants_faces_and_others(features: np.ndarray, is_face: list[int]) -> None:
    with pytest.raises(OptionError, match="faces and others"):
        logistic(features, is_face)


def test_robust_coefficients_do_not_mind_outliers() -> None:
    rng = np.random.default_rng(2)
    features = np.concatenate([rng.normal(0, 1, (2000, 2)), np.ones((2000, 1))], axis=1)
    truth = np.array([0.5, -2.0, 0.3])
    targets = features @ truth + rng.normal(0, 0.02, 2000)
    np.testing.assert_allclose(robust(features, targets), np.linalg.lstsq(features, targets)[0], atol=1e-3)
    targets[::10] += 5
    np.testing.assert_allclose(robust(features, targets), truth, atol=0.02)


def test_robust_coefficients_are_where_the_gradient_of_hubers_loss_vanishes() -> None:
    rng = np.random.default_rng(3)
    features, targets = rng.normal(0, 1, (400, 3)), rng.normal(0, 0.3, 400)
    w = robust(features, targets, outlying=0.2, ridge=0.0)
    errors = features @ w - targets
    assert (np.abs(errors) > 0.2).mean() > 0.3
    np.testing.assert_allclose(features.T @ np.clip(errors, -0.2, 0.2) / 400, 0, atol=1e-3)
