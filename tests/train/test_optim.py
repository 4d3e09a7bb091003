"""Optimisers, and the learning rate over a training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from lineament.train.optim import Schedule, optimizer  # noqa: E402
from lineament.train.recipe import Recipe  # noqa: E402

RECIPE = Recipe(train=(), steps=100, warmup=10, learning_rate=0.2)


def test_weights_decay_and_vectors_do_not() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(), nn.Linear(4, 2))
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    optimise = optimizer(network, replace(RECIPE, optimizer="sgd", momentum=0.0, weight_decay=0.1))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimise.step()
    for name, value in network.named_parameters():
        expected = before[name] * (1 - 0.2 * 0.1 if name in ("0.weight", "4.weight") else 1)
        torch.testing.assert_close(value.detach(), expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_has_the_recipes_momentum(nesterov: bool) -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    recipe = replace(RECIPE, optimizer="sgd", momentum=0.5, nesterov=nesterov, weight_decay=0.0)
    optimise = optimizer(network, recipe)
    for _ in range(2):
        network.weight.grad = torch.ones_like(network.weight)
        optimise.step()
    # velocities 1 and 1.5; Nesterov's step looks ahead by another half of the velocity
    assert network.weight.item() == pytest.approx(-0.2 * ((1.5 + 1.75) if nesterov else (1 + 1.5)))


def test_adamw_moves_by_the_learning_rate_at_first() -> None:
    network = nn.Linear(3, 2)
    before = network.weight.detach().clone()
    optimise = optimizer(network, replace(RECIPE, weight_decay=0.5))
    network.weight.grad, network.bias.grad = torch.full((2, 3), -7.0), torch.zeros(2)
    optimise.step()
    torch.testing.assert_close(network.weight.detach(), before * (1 - 0.2 * 0.5) + 0.2)


def rates(recipe: Recipe, minutes: float = 0.0) -> list[float]:
    schedule = Schedule(recipe)
    return [schedule.rate(step, minutes) for step in range(1, recipe.steps + 1)]


def test_cosine_falls_to_nothing_after_warm_up() -> None:
    found = rates(replace(RECIPE, warmup_rate=0.1))
    np.testing.assert_allclose(found[:9], 0.1 + 0.1 * np.arange(1, 10) / 10)
    np.testing.assert_allclose(found[9:], 0.1 * (1 + np.cos(np.pi * np.arange(91) / 90)), atol=1e-12)
    assert rates(replace(RECIPE, warmup=0))[0] == pytest.approx(0.2, rel=1e-3)


def test_cosine_goes_by_the_clock_where_the_training_does() -> None:
    schedule = Schedule(replace(RECIPE, minutes=8.0))
    found = [schedule.rate(1000, minutes) for minutes in (0, 2, 4, 8, 9)]
    np.testing.assert_allclose(found, 0.1 * (1 + np.cos(np.pi * np.array([0, 0.25, 0.5, 1, 1]))), atol=1e-12)


def test_milestones_are_the_last_steps_of_their_rate() -> None:
    recipe = replace(RECIPE, schedule="step", warmup=0, milestones=(20, 50), factor=0.5)
    assert rates(recipe) == pytest.approx([0.2] * 20 + [0.1] * 30 + [0.05] * 50)
    by_clock = Schedule(replace(recipe, minutes=60.0))
    assert [by_clock.rate(99, minutes) for minutes in (10, 30, 55)] == pytest.approx([0.2, 0.1, 0.05])


def test_a_constant_rate_stays() -> None:
    assert set(rates(replace(RECIPE, schedule="constant", warmup=0, milestones=(5,)))) == {0.2}


def test_plateau_waits_for_validations_without_a_better_score() -> None:
    schedule = Schedule(replace(RECIPE, schedule="plateau", warmup=0, patience=2, factor=0.1))
    found = []
    for score in (1.0, 1.0, 2.0, 1.5, 2.0, 3.0, 2.0, 2.5, 2.9):
        schedule.validated(score)
        found.append(schedule.rate(50, 0))
    # two validations in a row without improvement lower it, equal ones included; an improvement resets the count
    assert found == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.02, 0.02, 0.02, 0.002, 0.002])


def test_the_rate_does_not_fall_below_the_lowest() -> None:
    schedule = Schedule(replace(RECIPE, schedule="plateau", warmup=0, patience=1, factor=0.1, lowest_rate=0.003))
    found = []
    for score in (1.0, 1.0, 1.0, 1.0):
        schedule.validated(score)
        found.append(schedule.rate(50, 0))
    assert found == pytest.approx([0.2, 0.02, 0.003, 0.003])


def test_a_resumed_plateau_goes_on() -> None:
    recipe = replace(RECIPE, schedule="plateau", warmup=0, patience=2)
    first, second = Schedule(recipe), Schedule(recipe)
    for score in (3.0, 2.0, 1.0, 2.0):
        first.validated(score)
    second.load_state_dict(first.state_dict())
    for schedule in (first, second):
        assert schedule.lowered == 1
        schedule.validated(2.5)
        assert schedule.lowered == 2


def test_a_training_is_over_by_its_steps_or_by_the_clock() -> None:
    by_steps, by_clock = Schedule(RECIPE), Schedule(replace(RECIPE, minutes=3.0))
    assert [by_steps.over(step, 1e9) for step in (99, 100, 101)] == [False, True, True]
    assert [by_clock.over(10**9, minutes) for minutes in (2.99, 3, 3.1)] == [False, True, True]


def test_the_length_is_where_the_training_ends() -> None:
    for stop, length in ((0, 100), (40, 40), (100, 100), (250, 100)):
        schedule = Schedule(replace(RECIPE, stop=stop))
        assert schedule.length == length
        assert [schedule.over(step, 0) for step in (length - 1, length)] == [False, True]
    assert Schedule(replace(RECIPE, minutes=3.0)).length == 180
