"""Checkpoints: the whole state of a run in one file, written completely or not at all, and the record of its phases."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lineament.errors import OptionError
from lineament.files import whole
from lineament.runtime import read_metadata
from lineament.train.optim import Schedule
from lineament.train.recipe import Recipe, as_dict
from lineament.train.task import Task
from lineament.weights import is_weights, read_weights

CHECKPOINT = "checkpoint.pt"
# A run may continue with other values of these, to train for longer or to end early.
_MAY_CHANGE = {"workers", "validate_every", "steps", "stop", "minutes", "initial"}
_OF_THE_MACHINE = {"workers", "initial"}  # usually a folder; a record has what was found there


def write_checkpoint(path: Path, recipe: Recipe, state: dict[str, Any]) -> None:
    """Write a state with its recipe."""
    with whole(path) as part:
        torch.save(state | {"recipe": as_dict(recipe)}, part)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state in a file, ``None`` if there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if "phase" not in state:
        raise OptionError(f"{path} was written by an older version, which cannot be gone on with; use another folder")
    return state


def check_same(path: Path, state: dict[str, Any], recipe: Recipe) -> None:
    """Raise an `OptionError` that names the differences if a checkpoint has another recipe."""
    mine = as_dict(recipe)
    before = as_dict(type(recipe)(recipe.train)) | state["recipe"]  # settings added since then
    differs = [n for n in mine if n not in _MAY_CHANGE and before[n] != mine[n]]
    if differs:
        raise OptionError(f"{path} was trained with other settings ({', '.join(differs)}); use another output folder")


def check_continues(folder: Path, phases: Sequence[Recipe]) -> None:
    """Raise an `OptionError` if a run was trained with other settings than those of the phase that it is in."""
    state = read_checkpoint(folder / CHECKPOINT)
    if state is not None and state["phase"] <= len(phases):
        check_same(folder / CHECKPOINT, state, phases[state["phase"] - 1])


def best_weights(folder: Path) -> dict[str, Any] | None:
    """The averaged weights in the folder of a run that validated best so far. ``None`` if nothing is trained yet."""
    state = read_checkpoint(folder / CHECKPOINT)
    return state and state["best"]["weights"]


def initial_weights(folder: Path) -> dict[str, Any]:
    """The best weights of a run, as initial weights of another training.

    Raises:
        OptionError: Nothing is trained there.
    """
    weights: dict[str, Any] = _trained(folder)["best"]["weights"]
    return weights


def _trained(folder: Path) -> dict[str, Any]:
    """The state of a run that has begun."""
    state = read_checkpoint(folder / CHECKPOINT)
    if state is None:
        raise OptionError(
            f"the recipe begins with the weights of {folder}, and there are none: train that run first, "
            "or name shipped weights or an ONNX file"
        )
    return state


def is_finished(folder: Path, recipe: Recipe, phase: int) -> bool:
    """Whether a run has finished a phase."""
    state = read_checkpoint(folder / CHECKPOINT)
    if state is None or state["phase"] < phase:
        return False
    return state["phase"] > phase or Schedule(recipe).over(state["step"], state["seconds"] / 60)


def begin(task: Task, recipe: Recipe, folder: Path, phase: int) -> dict[str, Any]:
    """The checkpoint of a phase, or its initial state. The network of the task then has its initial weights.

    Raises:
        OptionError: The folder has a run with other settings, or the initial weights do not exist or do not fit.
    """
    state = read_checkpoint(folder / CHECKPOINT)
    if state is not None and state["phase"] == phase:
        check_same(folder / CHECKPOINT, state, recipe)
        return state
    past, initial = phases_of(folder), ""
    if recipe.resume and state is not None:
        return state | {"phase": phase, "past": past, "initial": "the phase before, resumed", "data": dict(task.data)}
    if is_weights(recipe.initial):
        content = read_weights(recipe.initial)
        task.adopt(content)
        past = phases_in(content, folder.name)
        initial = f"{Path(recipe.initial).name}, SHA-256 {hashlib.sha256(content).hexdigest()}"
    elif recipe.initial:
        other = _trained(Path(recipe.initial) / folder.name)
        task.go_on(other["best"]["weights"], other["recipe"])
        past, initial = phases_of(Path(recipe.initial) / folder.name), Path(recipe.initial).name
    elif state is not None:
        task.go_on(state["best"]["weights"], state["recipe"])
        initial = "the phase before"
    best = {"score": -math.inf, "step": 0, "weights": copy.deepcopy(task.network.state_dict())}
    about = {"phase": phase, "past": past, "initial": initial, "data": dict(task.data)}
    return about | {"step": 0, "seconds": 0.0, "best": best}


def phases_in(content: bytes, stage: str) -> list[dict[str, Any]]:
    """The history of a stage in a weight file, see `phases_of`. Files of older versions have none."""
    found: list[dict[str, Any]] = json.loads(read_metadata(content).get("training", "{}")).get(stage, [])
    return found


def phases_of(folder: Path) -> list[dict[str, Any]]:
    """The history of the best weights in the folder of a run: a record per phase, those of its initial weights first.

    Each has the ``recipe``, the ``initial`` weights, the ``data``, the ``steps`` and ``seconds`` of training, and the
    ``step`` of the best weights.
    """
    state = read_checkpoint(folder / CHECKPOINT)
    if state is None:
        return []
    recipe = {name: value for name, value in state["recipe"].items() if name not in _OF_THE_MACHINE}
    own = {"recipe": recipe} | {name: state[name] for name in ("initial", "data", "seconds")}
    return [*state["past"], own | {"steps": state["step"], "step": state["best"]["step"]}]
