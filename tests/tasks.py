"""A task that trains in no time, for tests of the loop."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lineament.train.loop import train
from lineament.train.recipe import Recipe
from lineament.train.task import WHOLE, Batch, Part, Task, generator

RECIPE = Recipe(
    train=(), steps=60, batch=16, warmup=5, validate_every=20, workers=0, learning_rate=0.05, average=0.9, seed=3
)


class Mean(nn.Module):
    """The mean of an image's pixels, to be learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 4)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"mean": self.conv(pixels / 255).flatten()}


class Brightness(Task):
    """Predict an image's mean from its pixels.

    Args:
        stop_after: a step before which the run is killed.

    Attributes:
        sizes: samples of every batch that it was asked about. validations: how many.
    """

    def __init__(self, *, stop_after: int | None = None) -> None:
        torch.manual_seed(0)
        self.network = Mean()
        self.stop_after = stop_after
        self.sizes: list[int] = []
        self.validations = 0

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        if self.stop_after is not None and step >= self.stop_after:
            raise KeyboardInterrupt
        pixels = generator(RECIPE.seed, step).integers(0, 256, (RECIPE.batch, 4, 4, 3), dtype=np.uint8)
        pixels = pixels[list(part.of(RECIPE.batch))]
        return {"pixels": pixels, "mean": (pixels.mean(axis=(1, 2, 3)) / 255).astype(np.float32)}

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.sizes.append(len(batch["pixels"]))
        return super().forward(network, batch)

    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"error": (outputs["mean"] - batch["mean"]).square().mean()}

    def validate(self, network: nn.Module) -> dict[str, float]:
        self.validations += 1
        batch = {n: torch.as_tensor(v) for n, v in self.batch(0).items()}
        outputs = super().forward(network, batch)
        return {"negated_error": -float(self.losses(outputs, batch)["error"].detach())}


def train_as(rank: int, count: int, port: int, recipe: Recipe, folder: Path) -> None:
    """Train as one of several processes on this machine's processors."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    task = Brightness()
    trained = train(task, recipe, folder / "stage")
    seen = {"sizes": task.sizes, "validations": task.validations}
    torch.save({"weights": trained.state_dict(), **seen}, folder / f"{rank}.pt")
