"""Recipes: everything that decides what a training gives, in one flat table of a TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from lineament.errors import OptionError


@dataclass(frozen=True)
class Recipe:
    """The settings that the training loop reads; a method adds its own in a subclass.

    Attributes:
        train, val: index files (COCO keypoints JSON) below the data folder.
        backgrounds: folders below the data folder with pictures in which there is no face.
        steps, batch: length of the training, and samples a step.
        learning_rate: peak of AdamW's rate, reached after ``warmup`` steps and brought to 0 along half a cosine.
        weight_decay: AdamW's.
        average: decay of the moving average of the weights, which is what is validated and exported.
        precision: "no" for float32 or "bf16" for autocast.
        validate_every: steps between validations; each also writes the checkpoint.
        workers: processes that prepare batches beside the training.
        seed: of weights, samples and augmentation.
    """

    train: tuple[str, ...]
    val: tuple[str, ...] = ()
    backgrounds: tuple[str, ...] = ()
    steps: int = 10_000
    batch: int = 256
    learning_rate: float = 1e-3
    warmup: int = 500
    weight_decay: float = 1e-4
    average: float = 0.999
    precision: str = "no"
    validate_every: int = 1000
    workers: int = 1
    seed: int = 0


R = TypeVar("R", bound=Recipe)


def read_recipe(path: Path, kind: type[R], table: str, overrides: dict[str, str] | None = None) -> R:
    """The recipe in one table of a TOML file; what stands above the tables is common to all of them.

    Args:
        path: the TOML file.
        kind: the dataclass to fill.
        table: name of the table, e.g. a stage of the method.
        overrides: settings by name, written as in TOML (``steps = "100"``), that replace the file's.

    Raises:
        OptionError: the file lacks the table or holds a setting that no recipe has.
    """
    try:
        document = tomllib.loads(path.read_text())
        own = {name: tomllib.loads(f"value = {text}")["value"] for name, text in (overrides or {}).items()}
    except OSError as error:
        raise OptionError(f"cannot read the recipe {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{path} or a setting given beside it is not TOML: {error}") from error
    if table not in document:
        tables = [name for name, value in document.items() if isinstance(value, dict)]
        raise OptionError(f"{path} has no table [{table}]; it has: {', '.join(tables)}")
    common = {name: value for name, value in document.items() if not isinstance(value, dict)}
    settings: dict[str, Any] = common | document[table] | own
    unknown = settings.keys() - {field.name for field in fields(kind)}
    if unknown:
        there = ", ".join(field.name for field in fields(kind))
        raise OptionError(f"{path} [{table}]: no such setting: {', '.join(sorted(unknown))}; there are: {there}")
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()})


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for logs and a weight file's metadata."""
    return asdict(recipe)
