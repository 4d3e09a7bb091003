"""The training loop. It knows no method: a task has the network, batches, losses and validation.

The batch of a step is a function of the seed and the step, so a killed run continues as if it had not been interrupted.
Several processes (``accelerate launch``) share each batch; one of them validates and writes.
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast_object_list
from torch import nn

from lineament.errors import OptionError
from lineament.train.batches import batches
from lineament.train.checkpoint import CHECKPOINT, begin, initial_weights, write_checkpoint
from lineament.train.memory import keep_freed_memory
from lineament.train.optim import Schedule, optimizer
from lineament.train.precision import computes_in_bf16
from lineament.train.recipe import Recipe, as_dict
from lineament.train.task import Part, Task, tensors

Report = Callable[[int, Mapping[str, float]], None]
_log = logging.getLogger(__name__)


def train(task: Task, recipe: Recipe, folder: Path, report: Report | None = None, *, phase: int = 1) -> nn.Module:
    """Train one phase to the end of its recipe, from the checkpoint in the folder if there is one.

    Writes ``log.jsonl`` (a line at every start, every 100 steps and at every validation) and ``checkpoint.pt`` into the
    folder. A phase starts with the best weights of the previous one. Initial weights count as a first validation, and
    remain the best if the training never improves on them. A training for a fixed time that is resumed runs for the
    time that was left at its checkpoint.

    Args:
        task: What to learn.
        recipe: The settings.
        folder: Folder for the state of the run.
        report: Called after every step, for a progress bar, with the finished part of ``Schedule.length`` and the
            latest figures.
        phase: Number of this phase in the run, from 1.

    Returns:
        The network with the averaged weights that validated best.

    Raises:
        OptionError: The folder has a run with other settings, the initial weights do not exist or do not fit, or the
            processes cannot share the batches evenly.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    # autocast belongs to the loop, since stages may differ in precision and an Accelerator has one per process
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    device, main = accelerator.device, accelerator.is_main_process
    part = Part(accelerator.process_index, accelerator.num_processes)
    if recipe.batch % part.count:
        raise OptionError(f"{part.count} processes cannot share a batch of {recipe.batch} samples evenly")
    network = task.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = begin(task, recipe, folder, phase)
    average = copy.deepcopy(network)
    optimise, schedule = optimizer(network, recipe), Schedule(recipe)
    if state["step"]:
        saved = {"network": network, "average": average, "optimizer": optimise, "schedule": schedule}
        for name, kept in saved.items():
            kept.load_state_dict(state[name])
    average.to(device).eval()
    if recipe.keep:
        state.setdefault("start", copy.deepcopy(average.state_dict()))
    complete = task.on(device)
    wrapped, optimise = accelerator.prepare(network.train(), optimise)
    half = recipe.precision == "bf16" and computes_in_bf16(device)
    if recipe.precision == "bf16" and not half:
        _log.info("float32 instead of bfloat16, which this processor does not compute")
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=half)
    clock = _Clock(state["seconds"], shared=part.count > 1 and recipe.minutes > 0)
    step, seconds = state["step"], clock.seconds()
    upcoming = batches(task, part, step, recipe.workers)
    log, latest = _Log(folder / "log.jsonl", writes=main), {}
    log.write({"phase": phase, "from": step, "recipe": as_dict(recipe)})

    def judge() -> None:
        """Validate the averaged weights, and keep them if they are the best so far."""
        judged = _between(average, state["start"], recipe.keep) if recipe.keep else average
        if main:
            with autocast(), torch.no_grad():
                figures = task.validate(judged)
            log.write({"step": step, "validation": figures})
            _log.info("step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
        score = _agreed(next(iter(figures.values())) if main else 0.0, shared=part.count > 1)
        schedule.validated(score)
        if score > state["best"]["score"]:
            state["best"] = {"score": score, "step": step, "weights": copy.deepcopy(judged.state_dict())}

    if state["initial"] and not step:
        judge()  # a training never ends with worse weights than it started with
    while not schedule.over(step, seconds / 60):
        batch = complete(tensors(next(upcoming), device))
        step += 1
        for group in optimise.param_groups:
            group["lr"] = schedule.rate(step, seconds / 60)
        with autocast():
            parts = task.losses(task.forward(wrapped, batch), batch)
        optimise.zero_grad(set_to_none=True)
        accelerator.backward(torch.stack(list(parts.values())).sum())
        if recipe.clip:
            accelerator.clip_grad_norm_(network.parameters(), recipe.clip)
        optimise.step()
        _follow(average, network, min(recipe.average, step / (step + 10)))
        seconds = clock.seconds()
        if step % 100 == 0:
            latest = {name: float(value.detach()) for name, value in parts.items()}
            log.write({"step": step, "seconds": round(seconds, 1), **latest})
        if report and main:
            report(round(seconds) if recipe.minutes else step, latest)
        if step % recipe.validate_every == 0 or schedule.over(step, seconds / 60):
            judge()
            state |= {"step": step, "seconds": seconds, "network": network.state_dict()}
            state |= {"average": average.state_dict(), "optimizer": optimise.state_dict()}
            if main:
                write_checkpoint(folder / CHECKPOINT, recipe, state | {"schedule": schedule.state_dict()})
    accelerator.wait_for_everyone()
    average.load_state_dict(initial_weights(folder))
    return average.cpu().eval()


class _Clock:
    """The seconds that a run has trained, including those before it was resumed.

    Args:
        before: Seconds before it was resumed.
        shared: Whether the clock of the main process is used in all processes.
    """

    def __init__(self, before: float, *, shared: bool) -> None:
        self._began, self._shared = time.monotonic() - before, shared

    def seconds(self) -> float:
        """Now, in seconds of the clock in use."""
        return _agreed(time.monotonic() - self._began, shared=self._shared)


def _agreed(value: float, *, shared: bool) -> float:
    """The value of the main process, in every process."""
    if not shared:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]


class _Log:
    """A file of JSON lines. Only one process writes."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self._file = path.open("a", buffering=1) if writes else None

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line."""
        if self._file:
            self._file.write(json.dumps(line) + "\n")


@torch.no_grad()
def _between(network: nn.Module, start: Mapping[str, Any], share: float) -> nn.Module:
    """The mean of two networks: a share of the initial weights, and the rest of the others."""
    made = copy.deepcopy(network)
    for name, value in made.state_dict().items():
        if value.is_floating_point():
            value.lerp_(start[name].to(value.device), share)
    return made


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average a little towards the network."""
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
    for kept, current in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(current)
