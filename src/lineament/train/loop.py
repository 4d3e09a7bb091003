"""The one training loop. It knows no method: a task brings network, batches, losses and validation.

A step's batch is a function of the seed and the step alone, so a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lineament.errors import OptionError
from lineament.train.checkpoint import CHECKPOINT, initial_weights, read_checkpoint, write_checkpoint
from lineament.train.recipe import Recipe, as_dict
from lineament.weights import is_weights, read_weights

Batch = dict[str, NDArray[Any]]
Report = Callable[[int, Mapping[str, float]], None]
Completion = Callable[[dict[str, Tensor]], dict[str, Tensor]]
_log = logging.getLogger(__name__)


class Task(ABC):
    """What there is to learn.

    Attributes:
        network: takes a batch's ``pixels`` and returns named tensors.
    """

    network: nn.Module

    def on(self, device: torch.device) -> Completion:
        """Told, before any batch is asked for, where the training runs.

        Returns:
            What completes a batch that has come to the device: work that is better done there.
        """
        return lambda batch: batch

    def adopt(self, content: bytes) -> None:
        """Give the network the weights of an exported file.

        Raises:
            OptionError: the method cannot, or not those.
        """
        raise OptionError("trainings of this method can begin with the folder of a run, and not with a weight file")

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """The arrays of that step, the same whenever it is asked for.

        When complete, ``pixels`` (n, h, w, 3) uint8 are among them.
        """

    @abstractmethod
    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss by name, weighted; the loop adds them up. Outputs are of the recipe's precision."""

    @abstractmethod
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Figures by name on validation data; of the first, the larger the better, and the best weights are kept."""


class _Steps(Dataset[Batch]):
    """A task's batches, numbered by step, for workers to prepare."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __getitem__(self, step: int) -> Batch:
        return self.task.batch(step)


def train(task: Task, recipe: Recipe, folder: Path, report: Report | None = None) -> nn.Module:
    """Train to the end of the recipe, from the folder's checkpoint if it has one.

    Writes ``log.jsonl`` (a line every 100 steps and every validation) and ``checkpoint.pt`` into the folder.

    Args:
        task: what to learn. recipe: how. folder: where the run keeps its state.
        report: called with the step and its figures, for a progress bar.

    Returns:
        The network with the averaged weights that validated best.

    Raises:
        OptionError: the folder holds a run of other settings, or the recipe begins with weights that are not there or
            not of such a network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator()  # its own mixed precision is set once a process; stages may differ in theirs
    network = task.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = read_checkpoint(folder / CHECKPOINT, recipe)
    if state is None and is_weights(recipe.initial):
        task.adopt(read_weights(recipe.initial))
    elif state is None and recipe.initial:
        network.load_state_dict(initial_weights(Path(recipe.initial) / folder.name))
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    average, best = copy.deepcopy(network), {"score": -math.inf, "weights": copy.deepcopy(network.state_dict())}
    start = 0
    if state is not None:
        start, best = state["step"], state["best"]
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
    average.to(accelerator.device)
    complete = task.on(accelerator.device)
    wrapped, optimizer = accelerator.prepare(network, optimizer)
    batches = DataLoader(
        _Steps(task),
        batch_size=None,
        sampler=range(start, recipe.steps),
        num_workers=recipe.workers,
        prefetch_factor=4 if recipe.workers else None,
        collate_fn=_as_it_is,
    )
    began = time.monotonic()
    with (folder / "log.jsonl").open("a") as log:
        if start == 0:
            log.write(json.dumps({"recipe": as_dict(recipe)}) + "\n")
        for step, arrays in enumerate(batches, start + 1):
            batch = complete(_moved(arrays, accelerator.device))
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * pace(step, recipe)
            with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                outputs = wrapped(to_input(batch["pixels"]))
            parts = task.losses(outputs, batch)
            optimizer.zero_grad(set_to_none=True)
            accelerator.backward(torch.stack(list(parts.values())).sum())
            if recipe.clip:
                accelerator.clip_grad_norm_(network.parameters(), recipe.clip)
            optimizer.step()
            _follow(average, network, min(recipe.average, step / (step + 10)))
            if step % 100 == 0:
                figures = {name: float(value.detach()) for name, value in parts.items()}
                log.write(json.dumps({"step": step, "seconds": round(time.monotonic() - began, 1), **figures}) + "\n")
                if report:
                    report(step, figures)
            if step % recipe.validate_every == 0 or step == recipe.steps:
                figures = task.validate(average)
                log.write(json.dumps({"step": step, "validation": figures}) + "\n")
                log.flush()
                _log.info("step %d: %s", step, figures)
                score = next(iter(figures.values()))
                if score > best["score"]:
                    best = {"score": score, "weights": copy.deepcopy(average.state_dict())}
                states = {"network": network.state_dict(), "average": average.state_dict()}
                write_checkpoint(
                    folder / CHECKPOINT,
                    recipe,
                    {"step": step, "best": best, "optimizer": optimizer.state_dict(), **states},
                )
    average.load_state_dict(best["weights"])
    return average.cpu().eval()


def _moved(arrays: Batch, device: torch.device) -> dict[str, Tensor]:
    """A batch on the device; from pinned memory, so that no copy waits for what the device is still busy with."""
    tensors = {name: torch.as_tensor(value) for name, value in arrays.items()}
    if device.type == "cuda":
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}


def _as_it_is(batch: Any) -> Any:
    """Arrays come from workers as bytes; tensors would each wait for the worker to hand over a file."""
    return batch


def pace(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at a step: a linear rise, then half a cosine."""
    if step < recipe.warmup:
        return step / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)))


def to_input(pixels: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w) in [0, 255], its memory still channels last."""
    return pixels.permute(0, 3, 1, 2).float()


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average a little towards the network."""
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
    for kept, current in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(current)


def generator(seed: int, step: int) -> np.random.Generator:
    """The random numbers of one step of a run."""
    return np.random.default_rng([seed, step])
