"""What the readers share: lines and numbers with their place in the file, and counts to hold a set against."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.errors import DataError
from lineament.formats import LARGEST

logger = logging.getLogger(__name__)

Array = NDArray[Any]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf(inity)?)", re.ASCII | re.IGNORECASE)
"""Narrower than ``float``, which takes ``1_0`` and the digits of any script."""


@dataclass(frozen=True)
class Line:
    """A line of a label file, without its end.

    Attributes:
        text: stripped.
        where: ``file:line``, for messages.
    """

    text: str
    where: str

    def numbers(self, *, least: int, most: int | None = None, start: int = 0, stop: int | None = None) -> list[float]:
        """The fields from ``start`` to ``stop`` as numbers: ``least`` to ``most`` (default: exactly ``least``) of them.

        Raises:
            DataError: another count, a field that is no number, or one that is not finite.
        """
        fields = self.text.split()[start:stop]
        most = least if most is None else most
        if not least <= len(fields) <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise DataError(f"{self.where}: expected {wanted} numbers, found {len(fields)}: {self.text[:80]!r}")
        odd = next((field for field in fields if not _NUMBER.fullmatch(field)), None)
        if odd is not None:
            raise DataError(f"{self.where}: expected numbers, found {odd[:80]!r}")
        values = [float(field) for field in fields]
        if not all(abs(value) <= LARGEST for value in values):
            raise DataError(f"{self.where}: a number is not finite or is too large: {self.text[:80]!r}")
        return values

    def count(self) -> int:
        """The line as a number of things.

        Raises:
            DataError: it is none.
        """
        found = whole_number(self.text)
        if found is None:
            raise DataError(f"{self.where}: expected the number of faces that follow, found {self.text[:80]!r}")
        return found


def whole_number(text: str) -> int | None:
    """The number that a text of ASCII digits is, up to a billion; ``None`` for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def picture_path(images: str | Path, name: str) -> Path:
    """Where a picture lies that a label file names, perhaps as Windows does.

    Args:
        images: folder that relative names start from.
        name: with ``/`` or ``\\`` between folders.
    """
    path = Path(images) / name
    return path if "\\" not in name or os.path.exists(path) else Path(images) / name.replace("\\", "/")


def read_lines(path: str | Path) -> list[Line]:
    """The lines of a text file that are not empty.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    numbered = enumerate(text.splitlines(), 1)
    return [Line(stripped, f"{path}:{number}") for number, line in numbered if (stripped := line.strip())]


@contextmanager
def laid_out(path: str | Path, what: str) -> Iterator[None]:
    """Reading a structure, such as that of a MATLAB file, on trust that it is the expected one.

    Raises:
        DataError: it turned out to be another.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not laid out as {what}: {type(error).__name__}: {error}") from error


def blocks(lines: Sequence[Line]) -> Iterator[tuple[Line, list[Line]]]:
    """Blocks of a name, a count n, and n lines (WIDER FACE, FDDB, MALF).

    Raises:
        DataError: no count, or the file ends too early.
    """
    i = 0
    while i < len(lines):
        name, count = lines[i], lines[i + 1].count() if i + 1 < len(lines) else -1
        rows = list(lines[i + 2 : i + 2 + count]) if count >= 0 else []
        if len(rows) != count:
            raise DataError(f"{name.where}: the file ends within the block of {name.text!r}: {count} rows announced")
        i += 2 + count
        yield name, rows


def table(rows: Sequence[Line], *, least: int, most: int | None = None) -> Array:
    """(n, most) float64 of lines of numbers; NaN where a line is shorter."""
    width = least if most is None else most
    values = [row.numbers(least=least, most=width) for row in rows]
    return np.array([row + [np.nan] * (width - len(row)) for row in values], float).reshape(len(rows), width)


def from_sizes(boxes: Array) -> Array:
    """``x, y, width, height`` as ``x1, y1, x2, y2``."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]], axis=1)


def around(landmarks: Array) -> Array:
    """(n, 4) tight boxes of the landmarks (n, k, 2) that are not NaN; each face needs one."""
    return np.concatenate([np.nanmin(landmarks, axis=1), np.nanmax(landmarks, axis=1)], axis=1)


def grouped(names: Sequence[str]) -> list[Array]:
    """Rows of equal names, in the order in which the names first appear."""
    if not names:
        return []
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[inverse]
    order = np.argsort(rank, kind="stable")
    return np.split(order, np.searchsorted(rank[order], np.arange(1, len(first))))


def expect(source: str | Path, what: str, published: int | None, found: int) -> None:
    """Warn, with both numbers, when a set has another size than its authors published; ``None`` is not held to any."""
    if published is not None and published != found:
        logger.warning("%s: %d %s published, %d found", source, published, what, found)
