"""What the readers share: lines and numbers with their positions in the file, and checks of published counts."""

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
"""Stricter than ``float``, which accepts ``1_0`` and the digits of any script."""


@dataclass(frozen=True)
class Line:
    """A line of a label file, without its end.

    Attributes:
        text: The stripped text.
        where: ``file:line``, for messages.
    """

    text: str
    where: str

    def numbers(self, *, least: int, most: int | None = None, start: int = 0, stop: int | None = None) -> list[float]:
        """The fields from ``start`` to ``stop`` as numbers: ``least`` to ``most`` (default: exactly ``least``) of them.

        Raises:
            DataError: The count is wrong, or a field is not a finite number.
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
        """The line as a count.

        Raises:
            DataError: It is not a count.
        """
        found = whole_number(self.text)
        if found is None:
            raise DataError(f"{self.where}: expected the number of faces that follow, found {self.text[:80]!r}")
        return found


def whole_number(text: str) -> int | None:
    """Parse ASCII digits as a number up to a billion. ``None`` for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def picture_path(images: str | Path, name: str) -> Path:
    """The path of an image in a label file, which may have Windows backslashes.

    Args:
        images: Folder for relative names.
        name: With ``/`` or ``\\`` between folders.
    """
    path = Path(images) / name
    return path if "\\" not in name or os.path.exists(path) else Path(images) / name.replace("\\", "/")


def read_lines(path: str | Path) -> list[Line]:
    """The lines of a text file that are not empty.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    numbered = enumerate(text.splitlines(), 1)
    return [Line(stripped, f"{path}:{number}") for number, line in numbered if (stripped := line.strip())]


@contextmanager
def laid_out(path: str | Path, what: str) -> Iterator[None]:
    """Read a structure, such as that of a MATLAB file, assuming that it is the expected one.

    Raises:
        DataError: It has another layout.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not laid out as {what}: {type(error).__name__}: {error}") from error


def blocks(lines: Sequence[Line]) -> Iterator[tuple[Line, list[Line]]]:
    """Blocks of a name, a count n, and n lines (WIDER FACE, FDDB, MALF).

    Raises:
        DataError: A count is missing, or the file ends too early.
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
    """Convert lines of numbers to (n, most) float64. NaN where a line is shorter."""
    width = least if most is None else most
    values = [row.numbers(least=least, most=width) for row in rows]
    return np.array([row + [np.nan] * (width - len(row)) for row in values], float).reshape(len(rows), width)


def from_sizes(boxes: Array) -> Array:
    """Convert ``x, y, width, height`` to ``x1, y1, x2, y2``."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]], axis=1)


def around(landmarks: Array) -> Array:
    """Tight boxes (n, 4) of the landmarks (n, k, 2) that are not NaN. Each face needs one."""
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
    """Warn, with both numbers, if a set has another size than published. ``None``: not checked."""
    if published is not None and published != found:
        logger.warning("%s: %d %s published, %d found", source, published, what, found)
