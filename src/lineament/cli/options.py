"""Options that several commands share."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from lineament.errors import DataError, OptionError
from lineament.methods import METHODS
from lineament.methods.settings import Option, option_of

Settings = dict[str, Any]
Landmarks = Annotated[
    str | None,
    typer.Option(
        metavar="SCHEMA|NAME|FILE",
        help="Landmarks to predict: a schema of the detector's weights, or the weights of a landmark stage (name or "
        "ONNX file; see `lineament models`).",
    ),
]


Setting = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Set any setting of the method, its value in JSON. Repeatable."),
]


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's argument ``settings`` by command-line options.

    These are ``--setting``, and one for each setting of any method that is an `Option`.
    """
    own = inspect.signature(command, eval_str=True).parameters.values()
    options = _options()
    made_from = {name: annotation for name, (_, annotation) in options.items()} | {"setting": Setting}

    @wraps(command)
    def run(**given: Any) -> None:
        typed = {name: given.pop(name) for name in made_from}
        settings = {name: _value(text) for name, text in pairs(typed.pop("setting") or [], "--setting").items()}
        for name, value in typed.items():
            if value is not None:
                if name in settings:
                    raise OptionError(f"--{name.replace('_', '-')} and --setting {name}= say it twice: use one of them")
                read = options[name][0].read
                settings[name] = read(value) if read else value
        command(**given, settings=settings)

    keyword = inspect.Parameter.KEYWORD_ONLY
    shown = [parameter.replace(kind=keyword) for parameter in own if parameter.name != "settings"]
    shown += [inspect.Parameter(name, keyword, default=None, annotation=kind) for name, kind in made_from.items()]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined] # what typer reads
    return run


def _options() -> dict[str, tuple[Option, Any]]:
    """By name, the settings of all methods that are options, and their annotations for typer."""
    found: dict[str, tuple[Option, Any]] = {}
    for method in METHODS.values():
        types = get_type_hints(method.settings)
        for setting in fields(method.settings):
            option = option_of(setting)
            if option and setting.name not in found:
                flag = f"--{setting.name.replace('_', '-')}"
                switch = bool in (types[setting.name], *get_args(types[setting.name]))
                flags = f"{flag}/--no-{flag[2:]}" if switch else flag
                kind = bool if switch else str if option.read else types[setting.name]
                shown = typer.Option(flags, help=option.help, metavar=option.metavar)
                found[setting.name] = option, Annotated[kind | None, shown]
    return found


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """Parse ``NAME=VALUE`` arguments into values by name.

    Raises:
        OptionError: An argument has no ``=``, or a name is repeated.
    """
    found = dict(pair.split("=", 1) for pair in given if "=" in pair)
    if len(found) != len(given):
        raise OptionError(
            f"{option} takes NAME=VALUE, each name once, e.g. {option} steps=1000; found {' '.join(given)}"
        )
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def figures(file: Path | None) -> dict[str, float]:
    """Read scores by name from a JSON file; empty without a file.

    Raises:
        DataError: The file has another form.
    """
    try:
        given = json.loads(file.read_bytes()) if file else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: expected a JSON object of figures by name; {error}") from error
    if not isinstance(given, dict):
        raise DataError(f"{file}: expected a JSON object of figures by name, found {type(given).__name__}")
    return given
