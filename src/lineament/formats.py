"""Check the content of files against a model of their format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from lineament.errors import DataError

T = TypeVar("T")

LARGEST = 1e9
"""Larger numbers are not coordinates. Up to here, the sum of two fits into 32 bits."""


def parse_json(content: bytes | str, where: str) -> Any:
    """Parse JSON.

    Args:
        content: Text, or bytes in UTF-8, UTF-16 or UTF-32.
        where: The source for messages: a file, or ``file:line``.

    Raises:
        DataError: The content is not JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: expected JSON: {error}") from error


def as_model(value: Any, model: type[T], where: str) -> T:
    """Convert a parsed JSON object to the type that describes it.

    A key with an empty list, an empty object or null counts as missing.

    Args:
        value: The object, from ``parse_json``.
        model: The type, such as a ``msgspec.Struct``.
        where: The source for messages.

    Raises:
        DataError: The object has another form. The message names the key.
    """
    return as_models([value], model, lambda _: where)[0]


def as_models(values: Iterable[Any], model: type[T], where: Callable[[int], str]) -> list[T]:
    """Apply ``as_model`` to each value. ``where`` returns the source of a value from its index."""
    models: list[T] = []
    try:
        for value in values:
            models.append(msgspec.convert(_without_blanks(value), model))
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        key = f"{place[:-1].lstrip('.')}: " if place else ""
        raise DataError(f"{where(len(models))}: {key}{problem[0].lower()}{problem[1:]}") from None
    except LookupError:  # msgspec takes a NumPy number for a mapping, because it has ``__getitem__``
        raise DataError(f"{where(len(models))}: expected an object of plain values, found a value of NumPy") from None
    return models


def _without_blanks(value: Any) -> Any:
    """Remove empty keys from an object. Other values are returned unchanged."""
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if item is not None and item != [] and item != {}}
