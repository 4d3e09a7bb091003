"""Optimisers, and the schedule of the learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from lineament.train.recipe import Recipe


def optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW or SGD. Weights decay; biases, normalisation and other vectors do not."""
    weights = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov)


class Schedule:
    """The learning rate at each step, and the end of the training, by steps or by time.

    Attributes:
        lowered: How often "plateau" has lowered the rate.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.lowered, self._best, self._waited = 0, -math.inf, 0

    @property
    def length(self) -> int:
        """Steps of the training, or seconds if it runs for a fixed time."""
        r = self.recipe
        return round(60 * r.minutes) or min(r.stop or r.steps, r.steps)

    def over(self, step: int, minutes: float) -> bool:
        """Whether the training ends after this many steps and minutes."""
        r = self.recipe
        end = minutes >= r.minutes if r.minutes else step >= r.steps
        return end or 0 < r.stop <= step

    def rate(self, step: int, minutes: float) -> float:
        """The learning rate of a step, counted from 1, that starts after this many minutes."""
        r = self.recipe
        if step < r.warmup:
            return r.warmup_rate + (r.learning_rate - r.warmup_rate) * step / r.warmup
        if r.schedule == "cosine":
            gone = minutes / r.minutes if r.minutes else (step - r.warmup) / max(r.steps - r.warmup, 1)
            return r.learning_rate * 0.5 * (1 + math.cos(math.pi * min(gone, 1)))
        passed = sum(milestone < (minutes if r.minutes else step) for milestone in r.milestones)
        times = {"step": passed, "plateau": self.lowered, "constant": 0}[r.schedule]
        return max(r.learning_rate * r.factor**times, r.lowest_rate)

    def validated(self, score: float) -> None:
        """Record the score of a validation. "plateau" lowers the rate after ``patience`` scores without improvement."""
        self._waited = 0 if score > self._best else self._waited + 1
        self._best = max(score, self._best)
        if self._waited >= self.recipe.patience:
            self.lowered, self._waited = self.lowered + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"lowered": self.lowered, "best": self._best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.lowered, self._best, self._waited = state["lowered"], state["best"], state["waited"]
