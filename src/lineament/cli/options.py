"""Options that several commands share."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from lineament import conventions
from lineament.errors import DataError, OptionError

Settings = dict[str, Any]
Landmarks = Annotated[
    str | None,
    typer.Option(
        metavar="SCHEMA|NAME|FILE",
        help="What finds the landmarks: a schema of the method's weights, or weights of a landmark stage to run behind "
        "it (see `lineament models`).",
    ),
]


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes ``settings`` of a method, as one with the options from which they are made."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    made_from = inspect.signature(_settings, eval_str=True).parameters.values()

    @wraps(command)
    def run(**given: Any) -> None:
        settings = _settings(**{option.name: given.pop(option.name) for option in made_from})
        command(**given, settings=settings)

    parameters = [*(parameter for parameter in own if parameter.name != "settings"), *made_from]
    shown = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined] # what typer reads
    return run


def _settings(
    input_size: Annotated[
        int | None,
        typer.Option(help="Longer edge in pixels that pictures are brought to, e.g. 256, 384, 512, 640, if it can."),
    ] = None,
    tiles: Annotated[
        bool | None, typer.Option("--tiles/--no-tiles", help="Also look at tiles of the picture in its own resolution.")
    ] = None,
    convention: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help=f"How boxes follow from landmarks: {', '.join(conventions.BUILT_IN)}, or a file of `lineament "
            "fit-box-convention`, for methods that infer them.",
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Any setting of the method, its value as in JSON; repeatable."),
    ] = None,
) -> Settings:
    named = {"input_size": input_size, "tiles": tiles, "convention": convention and _convention(convention)}
    others = {name: _value(text) for name, text in pairs(setting or [], "--setting").items()}
    return others | {name: value for name, value in named.items() if value is not None}


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """Values by name from ``NAME=VALUE``.

    Raises:
        OptionError: something has no ``=``, or a name comes twice.
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


def _convention(name: str) -> str | dict[str, Any]:
    if name in conventions.BUILT_IN:
        return name
    if not Path(name).is_file():
        raise OptionError(
            f"--convention {name}: no such file, nor one of {', '.join(conventions.BUILT_IN)}; "
            "`lineament fit-box-convention` makes one"
        )
    return conventions.read(name).to_dict()


def figures(file: Path | None) -> dict[str, float]:
    """What a JSON file says that weights score, by name; nothing where there is none.

    Raises:
        DataError: not such a file.
    """
    try:
        given = json.loads(file.read_bytes()) if file else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: expected a JSON object of figures by name; {error}") from error
    if not isinstance(given, dict):
        raise DataError(f"{file}: expected a JSON object of figures by name, found {type(given).__name__}")
    return given
