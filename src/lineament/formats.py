"""Files held against a model of their format: what they promise is checked before anything reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from lineament.errors import DataError

T = TypeVar("T")

LARGEST = 1e15
"""Numbers beyond this are no coordinates; up to here areas are finite in float32."""


def parse_json(content: bytes | str, where: str) -> Any:
    """The value that a text of JSON holds.

    Args:
        content: text, or bytes in UTF-8, -16 or -32.
        where: place for messages: a file, or ``file:line``.

    Raises:
        DataError: not JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: expected JSON: {error}") from error


def as_model(value: Any, model: type[T], where: str) -> T:
    """A parsed JSON object as the type that describes it.

    An empty list or object, or null, says nothing: the key counts as absent.

    Args:
        value: the object, such as ``parse_json`` returns it.
        model: the type, such as a ``msgspec.Struct``.
        where: place for messages.

    Raises:
        DataError: the value has another form; the message names the key.
    """
    return as_models([value], model, lambda _: where)[0]


def as_models(values: Iterable[Any], model: type[T], where: Callable[[int], str]) -> list[T]:
    """``as_model`` of each value; ``where`` gives the place of a value from its index."""
    models: list[T] = []
    try:
        for value in values:
            models.append(msgspec.convert(_without_blanks(value), model))
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        key = f"{place[:-1].lstrip('.')}: " if place else ""
        raise DataError(f"{where(len(models))}: {key}{problem[0].lower()}{problem[1:]}") from None
    return models


def _without_blanks(value: Any) -> Any:
    """The object without the keys that say nothing; whatever is no object, as it is."""
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if item is not None and item != [] and item != {}}
