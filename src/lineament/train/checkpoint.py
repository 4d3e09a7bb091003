"""Checkpoints: a run's whole state in one file, written whole or not at all."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from lineament.errors import OptionError
from lineament.train.recipe import Recipe, as_dict

CHECKPOINT = "checkpoint.pt"
# A run may go on with others: longer, too, or to an early end.
_MAY_CHANGE = {"workers", "validate_every", "steps", "initial"}


def write_checkpoint(path: Path, recipe: Recipe, state: dict[str, Any]) -> None:
    """Write a state with the recipe it belongs to."""
    part = path.with_name(f".{path.name}.part")
    torch.save({"recipe": as_dict(recipe), **state}, part)
    os.replace(part, path)


def read_checkpoint(path: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The state in a file, ``None`` where there is none.

    Raises:
        OptionError: the checkpoint is of another recipe; the message names what differs.
    """
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    mine = as_dict(recipe)
    before = {field.name: field.default for field in fields(recipe)} | state["recipe"]  # settings added since then
    differs = [n for n in mine if n not in _MAY_CHANGE and before[n] != mine[n]]
    if differs:
        raise OptionError(f"{path} was trained with other settings ({', '.join(differs)}); use another output folder")
    return state


def best_weights(folder: Path) -> dict[str, Any] | None:
    """The averaged weights that validated best so far in a run's folder, ``None`` where nothing was trained yet."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    weights: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)["best"]["weights"]
    return weights


def initial_weights(folder: Path) -> dict[str, Any]:
    """Those best weights, for another training to begin with.

    Raises:
        OptionError: nothing was trained there.
    """
    weights = best_weights(folder)
    if weights is None:
        raise OptionError(
            f"the recipe begins with the weights of {folder}, and there are none: train that run first, "
            "or name shipped weights or an ONNX file"
        )
    return weights
