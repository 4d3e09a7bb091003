"""Recipes: everything that decides the result of a training, as tables of a TOML file.

A recipe has a table for each stage of a method. Settings above the tables apply to all stages. An array of tables
``[[STAGE.phases]]`` lists what changes from phase to phase. ``[overrides]`` replaces settings of every phase, but
``initial`` of the first one only.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from lineament.errors import OptionError
from lineament.files import write_whole
from lineament.weights import FOLDER, models


@dataclass(frozen=True)
class Recipe:
    """The settings of the training loop. A method adds its own in a subclass.

    Attributes:
        train: Index files (COCO keypoints JSON) in the data folder. A list that is named twice counts twice.
        val: Index files of validation photos.
        apart: Beginnings of file names. Photos of the training lists whose names begin so are for validation, such
            as all photos of an event.
        backgrounds: Folders in the data folder with images without faces.
        initial: Initial weights: the folder of a run with the same network, for its best weights; or, if the method
            supports it, the name of shipped weights or the path of an ONNX file. Empty: the previous phase, if any.
        resume: Continue with the network, optimiser, average and step count of the previous phase, under these
            settings, instead of starting from its best weights.
        steps: Length of the training in optimiser steps.
        stop: If not 0, the step after which the training ends before its schedule does.
        minutes: If not 0, the length of the training, for any number of steps. The validation after it does not count.
        batch: Samples per step, of all processes together.
        optimizer: "adamw" or "sgd".
        momentum: Momentum of SGD.
        nesterov: Nesterov momentum for SGD.
        learning_rate: The rate after warm-up.
        schedule: The rate after warm-up: "cosine" (falls to 0 along half a cosine), "step" (multiplied by ``factor`` at
            every milestone), "plateau" (multiplied by it when validation stops improving), "constant".
        milestones: Steps, or minutes if the training has ``minutes``, after which "step" lowers the rate.
        factor: Factor of the rate for "step" and "plateau".
        lowest_rate: Rate below which they do not go.
        patience: Validations without a better score after which "plateau" lowers the rate.
        warmup: Steps in which the rate rises linearly from ``warmup_rate``.
        warmup_rate: The rate from which it rises; the first step already has a higher one.
        weight_decay: Of weights. Biases and normalisation have none.
        clip: Largest norm of the gradient of all weights together. 0: not clipped.
        average: Decay of the moving average of the weights, which is validated and exported. 0: no average.
        keep: Share of the initial weights in the weights that are validated and exported, in [0, 1). A fine-tuning that
            keeps some forgets less (Wortsman et al. 2022, Robust fine-tuning of zero-shot models).
        precision: "no" for float32 or "bf16" for autocast, which processors without AVX-512 ignore: they would take ten
            times as long.
        validate_every: Steps between validations. Each also writes the checkpoint.
        workers: Processes that prepare batches.
        seed: Seed of weights, samples and data augmentation.
        settings: Settings of the method at inference that travel with the weights. ``false`` means none.
    """

    train: tuple[str, ...]
    val: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    backgrounds: tuple[str, ...] = ()
    initial: str = ""
    resume: bool = False
    steps: int = 10_000
    stop: int = 0
    minutes: float = 0.0
    batch: int = 256
    optimizer: str = "adamw"
    momentum: float = 0.9
    nesterov: bool = False
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    lowest_rate: float = 0.0
    patience: int = 5
    warmup: int = 500
    warmup_rate: float = 0.0
    weight_decay: float = 1e-4
    clip: float = 0.0
    average: float = 0.999
    keep: float = 0.0
    precision: str = "no"
    validate_every: int = 1000
    workers: int = 1
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise OptionError(f"{name} must be one of {', '.join(known)}, found {getattr(self, name)!r}")
        for name in ("steps", "batch", "validate_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not 0 <= self.keep < 1:
            raise OptionError(f"keep is the share of the initial weights that stays, in [0, 1), found {self.keep}")
        if not all(self.backgrounds):
            raise OptionError("backgrounds names folders below the data folder, found an empty one; [] is none")
        if not all(self.apart):
            raise OptionError("apart has beginnings of file names, found an empty one; [] is none")


_CHOICES = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "step", "plateau", "constant"),
    "precision": ("no", "bf16"),
}
R = TypeVar("R", bound=Recipe)


def read_phases(path: Path, kind: type[R], table: str) -> list[R]:
    """The recipe of every phase in one table of a TOML file; one if the table has no phases.

    ``initial`` of the table is that of the first phase. Later phases go on, unless they have one of their own.

    Args:
        path: The TOML file.
        kind: The dataclass to fill. Fields that are dataclasses are filled from tables; ``false`` makes them ``None``.
        table: Name of the table, a stage of the method.

    Raises:
        OptionError: The file lacks the table, or has an unknown setting or a wrong value.
    """
    document = _parsed(path)
    if table not in document:
        tables = [name for name, value in document.items() if isinstance(value, dict)]
        raise OptionError(f"{path} has no table [{table}]; it has: {', '.join(tables)}")
    names = {setting.name for setting in fields(kind)}
    common = {name: value for name, value in document.items() if name in names or not isinstance(value, dict)}
    overrides = document.get("overrides", {})
    shared = _merged(common, document[table])
    phases = overrides.get("phases", shared.pop("phases", [])) or [{}]
    changes = {name: value for name, value in overrides.items() if name != "phases"}
    first, later = (shared, changes), (_without_initial(shared), _without_initial(changes))
    return [
        _filled(kind, _merged(_merged(below, phase), above), f"{path} [{table}]")
        for phase, (below, above) in zip(phases, [first, *[later] * (len(phases) - 1)], strict=True)
    ]


def read_recipe(path: Path, kind: type[R], table: str) -> R:
    """The recipe of the last phase, which made the exported weights."""
    return read_phases(path, kind, table)[-1]


def _without_initial(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "initial"}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others on top. Tables are merged, other values replaced."""
    both = {n: _merged(below[n], v) for n, v in above.items() if isinstance(v, dict) and isinstance(below.get(n), dict)}
    return {**below, **above, **both}


def _filled(kind: type[Any], values: Mapping[str, Any], where: str, base: Any = None) -> Any:
    """A dataclass with these values and otherwise those of ``base`` or its defaults. Its tables are filled likewise."""
    hints = get_type_hints(kind)
    defaults = {setting.name: setting.default for setting in fields(kind)}
    unknown = values.keys() - hints.keys()
    if unknown:
        raise OptionError(f"{where}: no such setting: {', '.join(sorted(unknown))}; there are: {', '.join(hints)}")
    made = {}
    for name, value in values.items():
        inner: Any = next((part for part in (hints[name], *get_args(hints[name])) if is_dataclass(part)), None)
        if inner is not None and isinstance(value, dict):
            below = defaults[name] if isinstance(defaults[name], inner) else None
            made[name] = _filled(inner, value, f"{where}, table {name}", below)
        elif inner is not None:
            if value is not False:
                raise OptionError(f"{where}: {name} is a table, or false to switch it off, found {value!r}")
            made[name] = None
        else:
            several = get_origin(hints[name]) is tuple and not isinstance(value, list)
            try:
                made[name] = msgspec.convert([value] if several else value, hints[name])
            except msgspec.ValidationError as error:
                raise OptionError(f"{where}: {name}: {error}") from error
    try:
        return kind(**made) if base is None else replace(base, **made)
    except (TypeError, OptionError) as error:
        raise OptionError(f"{where}: {error}") from error


def settings_of(kind: type[Any], recipe: Recipe, **own: Any) -> Any:
    """A method's settings at inference: the recipe's ``settings``, and below them those that the training determines.

    Raises:
        OptionError: The recipe names a setting that the method does not have.
    """
    defaults = {setting.name: setting.default for setting in fields(kind)}
    unknown = recipe.settings.keys() - defaults.keys()
    if unknown:
        there = ", ".join(defaults)
        raise OptionError(f"settings: the method has no setting {', '.join(sorted(unknown))}; it has: {there}")
    none = {n for n, v in recipe.settings.items() if v is False and not isinstance(defaults[n], bool)}
    return kind(**own | {name: None if name in none else value for name, value in recipe.settings.items()})


def copy_recipe(path: Path, copy: Path, overrides: Mapping[str, str]) -> None:
    """Copy a recipe to the folder of a run, with the settings that replace its own.

    Args:
        path: The TOML file. That of a run has overrides already, as its last table: these are merged.
        copy: The file to write. It may be the same.
        overrides: Settings by name, written as in TOML (``steps = "100"``, ``light.brightness = "20"``).

    Raises:
        OptionError: The file or an override is not TOML, or the overrides of the file are not its last table. Then
            nothing is written.
    """
    before = _parsed(path).get("overrides", {})
    added = _toml("".join(f"{name} = {value}\n" for name, value in overrides.items()), "an override")
    recipe, _, table = path.read_text(encoding="utf-8").partition(_OVERRIDES)
    if before != _toml(table, str(path)):
        raise OptionError(f"{path}: [overrides] must be its last table")
    merged = "".join(f"{_key(name)} = {to_toml(value)}\n" for name, value in _merged(before, added).items())
    write_whole(copy, recipe + (_OVERRIDES + merged if merged else ""))


_OVERRIDES = "\n[overrides]\n"


def read_about(path: Path) -> dict[str, str]:
    """The name, licence and training data in the table ``[weights]`` of a recipe.

    Empty if ``[overrides]`` change the training, since it then makes other weights.
    """
    document = _parsed(path)
    changed = document.get("overrides", {}).keys() - {"workers", "validate_every"}
    return {} if changed else dict(document.get("weights", {}))


def check_name(path: Path) -> None:
    """Raise `OptionError` if a recipe gives its weights the name of shipped weights and is not their recipe."""
    name = read_about(path).get("name", "")
    own = name not in _shipped() or path.read_text() != _shipped()[name].read_text()
    if own and name in {model.name for model in models()}:
        raise OptionError(f"{path} [weights]: {name!r} is the name of weights that ship; give yours another")


def find_recipe(name: str) -> Path:
    """The recipe in a TOML file, or a shipped one, by its name.

    Raises:
        OptionError: Neither exists.
    """
    return Path(name) if Path(name).is_file() else shipped_recipe(name)


def list_settings(recipe: Recipe) -> dict[str, str]:
    """Every setting of a recipe by the name that replaces it, such as ``composition.mirror``, with its value as TOML.

    A table that is switched off is ``false``.
    """
    return dict(_listed(recipe, ""))


def _listed(values: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for setting in fields(values):
        value = getattr(values, setting.name)
        if is_dataclass(value):
            yield from _listed(value, f"{prefix}{setting.name}.")
        else:
            yield prefix + setting.name, to_toml(value)


def to_toml(value: Any) -> str:
    """A plain value in TOML. None becomes ``false``."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)} = {to_toml(item)}" for name, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    return json.dumps(False if value is None else value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name)


def shipped_recipe(name: str) -> Path:
    """The path of a shipped recipe, in the installed package or in the clone.

    Raises:
        OptionError: The recipe does not exist. The message lists those that do.
    """
    if name not in _shipped():
        raise OptionError(f"no recipe ships as {name!r}; there are: {', '.join(_shipped())}; or name a TOML file")
    return _shipped()[name]


def _shipped() -> dict[str, Path]:
    places = (FOLDER.parent, FOLDER.parents[2])
    return {path.stem: path for folder in places for path in sorted(folder.glob("recipes/*.toml"))}


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return _toml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise OptionError(f"cannot read the recipe {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is not UTF-8, the encoding of TOML: {error}; save it as UTF-8") from error


def _toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise OptionError(f"{where} is not TOML: {error}") from error


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, for logs, checkpoints and the metadata of a weight file."""
    return asdict(recipe)
