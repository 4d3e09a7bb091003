"""A task that trains in no time, for tests of the training loop."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lineament.runtime import load_graph
from lineament.train.checkpoint import initial_weights
from lineament.train.recipe import Recipe
from lineament.train.run import run
from lineament.train.task import WHOLE, Batch, Part, Task, generator, tensors
from lineament.weights import read_weights

RECIPE = Recipe(
    train=(), steps=60, batch=16, warmup=5, validate_every=20, workers=0, learning_rate=0.05, average=0.9, seed=3
)


class Mean(nn.Module):
    """Predicts the mean of an image's pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 4)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"mean": self.conv(pixels / 255).flatten()}


def assert_continues(task: Task, weights: str, outputs: tuple[str, ...]) -> None:
    """A task that adopts shipped weights computes what their file does, whose entry has the name of the method."""
    content = read_weights(weights)
    task.adopt(content)
    pixels = task.batch(1)["pixels"]
    with torch.no_grad():
        found = task.network.eval()(torch.tensor(pixels).permute(0, 3, 1, 2).float())
    graph = load_graph(content, threads=1)
    for name, value in zip(outputs, graph(graph.metadata["method"], outputs, pixels=pixels), strict=True):
        torch.testing.assert_close(found[name], torch.tensor(value), atol=1e-3, rtol=1e-3)


class Brightness(Task):
    """Predict the mean of an image's pixels.

    Args:
        stop_after: The run is killed before this step.

    Attributes:
        sizes: Size of every batch that was requested.
        validations: Number of validations.
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
    """A whole run as one of several processes on the processors of this machine."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    task = Brightness()
    method = SimpleNamespace(
        METHOD="brightness",
        STAGES=("stage",),
        phases=lambda path, stage: [recipe],
        prepare=lambda *given: task,
        finish=lambda *given: None,
        export_run=lambda out, file: file,
    )
    (folder / f"{rank}.toml").write_text("train = []\n[stage]\n")
    run(method, folder, folder / f"{rank}.toml", folder)  # type: ignore[arg-type]
    seen = {"sizes": task.sizes, "validations": task.validations}
    torch.save({"weights": initial_weights(folder / "stage"), **seen}, folder / f"{rank}.pt")


def check_that_two_processes_learn_as_one(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradients of a batch equal the means of two processes with half of it each.

    Counts are summed over both processes. Normalisation is in evaluation mode, since its statistics do differ.
    """
    counts: dict[int, list[float]] = {0: [], 1: []}  # of each process, in the order of their sums
    task.network.eval()

    def result(part: Part) -> tuple[dict[str, float], Tensor]:
        batch = tensors(task.batch(0, part), torch.device("cpu"))
        losses = task.losses(task.forward(task.network, batch), batch)
        task.network.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        gradients = [p.grad.flatten() for p in task.network.parameters() if p.grad is not None]
        return {name: float(value.detach()) for name, value in losses.items()}, torch.cat(gradients)

    one, gradients = result(Part())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for index in (0, 1):
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda count, of=counts[index]: of.append(float(count)))
        result(Part(index, 2))
    assert counts[0] != counts[1]
    sums = [sum(both) for both in zip(counts[0], counts[1], strict=True)]
    parts = []
    for index in (0, 1):
        coming = iter(sums)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda count, by=coming: count.fill_(next(by)))
        parts.append(result(Part(index, 2)))
    mean = {name: (parts[0][0][name] + parts[1][0][name]) / 2 for name in one}
    assert mean == pytest.approx(one, rel=1e-4)
    torch.testing.assert_close((parts[0][1] + parts[1][1]) / 2, gradients, rtol=1e-3, atol=1e-5)
