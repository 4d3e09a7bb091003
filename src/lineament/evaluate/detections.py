"""Detections of a whole benchmark, and the files that the official tools exchange them in.

The evaluators take the numbers of the files as they stand; a method's boxes are written unchanged too, so ``width`` is
``x2 - x1``, as in the labels of WIDER FACE.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lineament.errors import DataError
from lineament.faces import Faces
from lineament.files import write_whole

Array = NDArray[Any]
Shape = Literal["rectangle", "ellipse"]
COLUMNS: dict[int, Shape] = {5: "rectangle", 6: "ellipse"}


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in the images of a benchmark.

    Attributes:
        images: rows by image name, float64, in the file's order. A rectangle is (n, 5) ``x1, y1, x2, y2, score``, an
            ellipse (n, 6) ``major radius, minor radius, angle, cx, cy, score``, pixels and radians as FDDB has them.
        shape: which of the two.
        notes: what a reader skipped, changed or found strange, counted, for people.
    """

    images: Mapping[str, Array]
    shape: Shape = "rectangle"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of detections."""
        return sum(map(len, self.images.values()))

    @classmethod
    def of(cls, faces: Mapping[str, Faces]) -> Detections:
        """Rectangles from a detector's results by image name."""
        return cls({name: np.column_stack([f.boxes, f.scores]).astype(np.float64) for name, f in faces.items()})

    def renamed(self, names: Mapping[str, str]) -> Detections:
        """The same detections under other image names."""
        return replace(self, images={names.get(name, name): rows for name, rows in self.images.items()})

    def ellipses(self) -> Detections:
        """Rectangles as the upright ellipses inscribed in them; ellipses as they are."""
        if self.shape == "ellipse":
            return self
        return replace(self, images={name: _inscribed(rows) for name, rows in self.images.items()}, shape="ellipse")


def _inscribed(rows: Array) -> Array:
    x1, y1, x2, y2, score = rows.T
    w, h = (x2 - x1) / 2, (y2 - y1) / 2
    angle = np.where(h >= w, np.pi / 2, 0.0)  # of the major axis
    return np.column_stack([np.maximum(w, h), np.minimum(w, h), angle, (x1 + x2) / 2, (y1 + y2) / 2, score])


class Tally:
    """Counts what readers skip or change, and remembers where each first happened."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, str]] = {}

    def add(self, what: str, where: object, count: int = 1) -> None:
        """``count`` more cases of ``what``; only the first place is kept."""
        before, first = self._seen.get(what, (0, str(where)))
        if count:
            self._seen[what] = (before + count, first)

    def notes(self) -> tuple[str, ...]:
        """One sentence a kind, such as "3 rows beyond the count line, ignored (first: a.txt:7)"."""
        return tuple(f"{count:,} {what} (first: {first})" for what, (count, first) in self._seen.items())


class _Collector:
    """Rows of files on their way to ``Detections``, with the lines that they came from."""

    def __init__(self) -> None:
        self.images: dict[str, Array] = {}
        self.tally = Tally()
        self._places: dict[str, tuple[Path, Sequence[int]]] = {}

    def add(self, name: str, rows: Array, path: Path, lines: Sequence[int]) -> None:
        self.images[name] = rows
        self._places[name] = (path, lines)

    def place(self, index: int) -> str:
        """File and line of a row, counted over all images."""
        for path, lines in self._places.values():
            if index < len(lines):
                return f"{path}:{lines[index]}"
            index -= len(lines)
        raise IndexError(index)

    def detections(self) -> Detections:
        """All rows, looked over.

        Raises:
            DataError: a number that is not finite.
        """
        filled = [rows for rows in self.images.values() if len(rows)]
        if not filled:
            return Detections(self.images, notes=self.tally.notes())
        rows = np.concatenate(filled)
        strange = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(strange):
            raise DataError(
                f"{self.place(strange[0])}: expected finite numbers, found NaN or infinity ({len(strange)} such rows); "
                "leave these detections out"
            )
        shape = COLUMNS[rows.shape[1]]
        sizes = rows[:, 2:4] - rows[:, :2] if shape == "rectangle" else rows[:, :2]
        self._remark("detections of no or negative size, kept as they are", (sizes <= 0).any(axis=1))
        scores = rows[:, -1]
        self._remark("scores outside [0, 1], kept: the protocols use their order", (scores < 0) | (scores > 1))
        image = np.repeat(np.arange(len(filled)), list(map(len, filled)))
        rising = np.concatenate(([False], (np.diff(scores) > 0) & (np.diff(image) == 0)))
        if rising.any():
            where = self.place(int(np.flatnonzero(rising)[0]))
            self.tally.add(
                "images with rows not in falling order of score; the order is made where the protocol wants it",
                where,
                len(np.unique(image[rising])),
            )
        return Detections(self.images, shape, self.tally.notes())

    def _remark(self, what: str, where: Array) -> None:
        if where.any():
            self.tally.add(what, self.place(int(np.flatnonzero(where)[0])), int(where.sum()))


def read_lines(path: Path) -> list[str]:
    """The lines of a text file.

    Raises:
        DataError: no such file.
    """
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"{path}: expected a readable text file ({error.strerror})") from None


# WIDER FACE: one file an image, <event>/<name>.txt


def read_wider(folder: str | Path) -> Detections:
    """A detection tree of WIDER FACE; images are called ``<event>/<name>``.

    A file holds the image's name, the number N of detections and N rows ``left top width height score``. As in the
    official tool, rows beyond N do not count, and a file with fewer rows or with one that cannot be read stands for an
    image without detections.

    Args:
        folder: the folder that holds the events' folders.

    Raises:
        DataError: no such files below the folder, or a number that is not finite.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*/*.txt"))
    if not files:
        raise DataError(f"{folder}: expected detection files <event>/<name>.txt below it, found none")
    found = _Collector()
    for path in files:
        rows = _read_wider_file(path, found.tally)
        found.add(f"{path.parent.name}/{path.stem}", rows, path, range(3, 3 + len(rows)))
    return found.detections()


def _read_wider_file(path: Path, tally: Tally) -> Array:
    """Rows ``x1, y1, x2, y2, score``; none where the official tool would read none."""
    none = np.empty((0, 5))
    lines = read_lines(path)
    try:
        count = int(lines[1])
    except (IndexError, ValueError):
        tally.add("files without a count in their second line: no detections, as in the official tool", f"{path}:2")
        return none
    rows = [line.split() for line in lines[2 : 2 + count]]
    if len(rows) < count:
        tally.add(
            "files with fewer rows than their count line says: no detections, as in the official tool", f"{path}:2"
        )
        return none
    tally.add(
        "rows beyond the count line, ignored", f"{path}:{3 + count}", sum(map(bool, map(str.strip, lines[2 + count :])))
    )
    try:
        table = np.array([row[:5] for row in rows], np.float64).reshape(count, 5)
    except ValueError:
        bad = next(i for i, row in enumerate(rows) if not _are_numbers(row[:5], 5))
        tally.add("files with an unreadable row: no detections, as in the official tool", f"{path}:{3 + bad}")
        return none
    for i, row in enumerate(rows):
        if len(row) > 5:
            tally.add("rows with more than five numbers; the fifth is the score", f"{path}:{3 + i}")
    table[:, 2:4] += table[:, :2]
    return table


def _are_numbers(words: Sequence[str], count: int) -> bool:
    try:
        return len([float(word) for word in words]) == count
    except ValueError:
        return False


def write_wider(detections: Detections, folder: str | Path) -> None:
    """A detection tree of WIDER FACE, one file an image, best score first."""
    for name, rows in detections.images.items():
        write_wider_file(Path(folder) / f"{name}.txt", rows)


def write_wider_file(path: Path, rows: Array) -> None:
    """One image's file of the tree: rows (n, 5) ``x1, y1, x2, y2, score``."""
    write_whole(path, f"{path.stem}\n{len(rows)}\n" + _rows_text(_left_top_width_height(rows)))


def _left_top_width_height(rows: Array) -> Array:
    order = np.argsort(-rows[:, -1], kind="stable")
    out = rows[order]
    out[:, 2:4] -= out[:, :2]
    return out


def _rows_text(rows: Iterable[Iterable[float]]) -> str:
    return "".join(" ".join(f"{value:.10g}" for value in row) + "\n" for row in rows)


def pick(detections: Detections, names: Collection[str]) -> tuple[Detections, tuple[str, ...]]:
    """The detections in these images, and notes on the images that only one side knows.

    Raises:
        DataError: the two have no image in common.
    """
    known = {name: rows for name, rows in detections.images.items() if name in names}
    if not known and detections.images:
        raise DataError(
            f"no detection file names an image of the ground truth: found e.g. {next(iter(detections.images))!r}, "
            f"expected e.g. {next(iter(names), 'nothing: it has no image')!r}"
        )
    tally = Tally()
    for name, rows in detections.images.items():
        if name not in known:
            tally.add("images with detections that the ground truth does not have, ignored", name)
            tally.add("detections in such images, ignored", name, len(rows))
    for name in names:
        if name not in known:
            tally.add("images of the ground truth without a detection file: no detections", name)
    return replace(detections, images=known), tally.notes()
