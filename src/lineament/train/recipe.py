"""Recipes: everything that decides what a training gives, in one flat table of a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from lineament.errors import OptionError
from lineament.files import write_whole


@dataclass(frozen=True)
class Recipe:
    """The settings that the training loop reads; a method adds its own in a subclass.

    Attributes:
        train, val: index files (COCO keypoints JSON) below the data folder.
        backgrounds: folders below the data folder with pictures in which there is no face.
        initial: what the training begins with: the folder of a run with the same network, for its best weights; or,
            where the method can, the name of shipped weights or the path of an ONNX file. Nothing if empty.
        steps, batch: length of the training, and samples a step.
        learning_rate: peak of AdamW's rate, reached after ``warmup`` steps and brought to 0 along half a cosine.
        weight_decay: AdamW's.
        clip: norm to which a larger gradient of all weights together is shortened; 0 leaves it as it is.
        average: decay of the moving average of the weights, which is what is validated and exported.
        precision: "no" for float32 or "bf16" for autocast.
        validate_every: steps between validations; each also writes the checkpoint.
        workers: processes that prepare batches beside the training.
        seed: of weights, samples and augmentation.
    """

    train: tuple[str, ...]
    val: tuple[str, ...] = ()
    backgrounds: tuple[str, ...] = ()
    initial: str = ""
    steps: int = 10_000
    batch: int = 256
    learning_rate: float = 1e-3
    warmup: int = 500
    weight_decay: float = 1e-4
    clip: float = 0.0
    average: float = 0.999
    precision: str = "no"
    validate_every: int = 1000
    workers: int = 1
    seed: int = 0


R = TypeVar("R", bound=Recipe)


def read_recipe(path: Path, kind: type[R], table: str) -> R:
    """The recipe in one table of a TOML file.

    What stands above the tables is common to all of them; a table ``[overrides]`` replaces settings of any.

    Args:
        path: the TOML file.
        kind: the dataclass to fill.
        table: name of the table, e.g. a stage of the method.

    Raises:
        OptionError: the file lacks the table or holds a setting that no recipe has.
    """
    document = _parsed(path)
    if table not in document:
        tables = [name for name, value in document.items() if isinstance(value, dict)]
        raise OptionError(f"{path} has no table [{table}]; it has: {', '.join(tables)}")
    common = {name: value for name, value in document.items() if not isinstance(value, dict)}
    settings: dict[str, Any] = common | document[table] | document.get("overrides", {})
    unknown = settings.keys() - {field.name for field in fields(kind)}
    if unknown:
        there = ", ".join(field.name for field in fields(kind))
        raise OptionError(f"{path} [{table}]: no such setting: {', '.join(sorted(unknown))}; there are: {there}")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
    return kind(**values)


def copy_recipe(path: Path, copy: Path, overrides: Mapping[str, str]) -> None:
    """Put a recipe into a run's folder, with the settings that replace its own.

    Args:
        path: the TOML file. copy: where to write it.
        overrides: settings by name, written as in TOML (``steps = "100"``).

    Raises:
        OptionError: the result is not TOML.
    """
    table = "".join(f"{name} = {value}\n" for name, value in overrides.items())
    _parsed(path)
    write_whole(copy, path.read_text() + (f"\n[overrides]\n{table}" if table else ""))
    _parsed(copy)


def read_about(path: Path) -> dict[str, str]:
    """The table ``[weights]``: what a weight file made by this recipe says of its name, licence and training data."""
    return dict(_parsed(path).get("weights", {}))


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise OptionError(f"cannot read the recipe {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{path} is not TOML: {error}") from error


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for logs and a weight file's metadata."""
    return asdict(recipe)
