"""Detections of a whole benchmark, and the files of the official tools.

The evaluators use the numbers of the files unchanged. A method's boxes are also written unchanged, so ``width`` is
``x2 - x1``, as in the labels of WIDER FACE.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lineament.data.readers.matlab import read_mat
from lineament.data.readers.parsing import Line, blocks, grouped, laid_out, read_lines, table
from lineament.errors import DataError, OptionError
from lineament.evaluate.extra import read_variables
from lineament.faces import Faces
from lineament.files import write_whole

Array = NDArray[Any]
Shape = Literal["rectangle", "ellipse"]


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections in the images of a benchmark.

    Attributes:
        images: Rows by image name, float64, in the order of the file. A rectangle is (n, 5) ``x1, y1, x2, y2, score``,
            an ellipse (n, 6) ``major radius, minor radius, angle, cx, cy, score`` in pixels and radians, as in FDDB.
        shape: Rectangles or ellipses.
        notes: What a reader skipped or changed, with counts, for people.
        places: The source of an image's rows by image name, ``file:line``. Empty if they do not come from a file.
    """

    images: Mapping[str, Array]
    shape: Shape = "rectangle"
    notes: tuple[str, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of detections."""
        return sum(map(len, self.images.values()))

    @classmethod
    def of(cls, faces: Mapping[str, Faces]) -> Detections:
        """Make rectangles from the results of a detector by image name."""
        return cls({name: rectangles(found) for name, found in faces.items()})

    def where(self, name: str) -> str:
        """The name of an image for messages, after the source of its rows."""
        return f"{self.places[name]}: {name}" if name in self.places else name

    def ellipses(self) -> Detections:
        """Convert rectangles to their inscribed upright ellipses. Ellipses are returned unchanged."""
        if self.shape == "ellipse":
            return self
        return replace(self, images={name: _inscribed(rows) for name, rows in self.images.items()}, shape="ellipse")

    def rectangles(self) -> Detections:
        """These detections, if they are rectangles.

        Raises:
            OptionError: They are ellipses.
        """
        if self.shape == "ellipse":
            raise OptionError("this protocol and its files take rectangles; these detections are ellipses")
        return self


def rectangles(faces: Faces) -> Array:
    """Rows (n, 5) float64 ``x1, y1, x2, y2, score``."""
    return np.column_stack([faces.boxes, faces.scores]).astype(np.float64)


def _inscribed(rows: Array) -> Array:
    x1, y1, x2, y2, score = rows.T
    w, h = (x2 - x1) / 2, (y2 - y1) / 2
    angle = np.where(h >= w, np.pi / 2, 0.0)  # of the major axis
    return np.column_stack([np.maximum(w, h), np.minimum(w, h), angle, (x1 + x2) / 2, (y1 + y2) / 2, score])


class Tally:
    """Count what readers skip or change, and remember the first case of each kind."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, str]] = {}

    def add(self, what: str, where: str, count: int = 1) -> None:
        """Count ``count`` more cases of ``what``. Only the first place is kept."""
        before, first = self._seen.get(what, (0, where))
        self._seen[what] = (before + count, first)

    def notes(self) -> tuple[str, ...]:
        """One sentence per kind, such as "3 rows beyond the count line, ignored (first: a.txt:7)"."""
        return tuple(f"{count:,} {what} (first: {first})" for what, (count, first) in self._seen.items() if count)


class Collector:
    """Collect rows from files, with their sources, for ``Detections``."""

    def __init__(self, shape: Shape = "rectangle") -> None:
        self.shape = shape
        self.images: dict[str, Array] = {}
        self.places: dict[str, str] = {}
        self.tally = Tally()
        self._rows: list[str] = []

    def add(self, name: str, where: str, rows: Array, places: Iterable[str]) -> None:
        """Add an image found at ``where``, and its rows with their places."""
        self.images[name], self.places[name] = rows, where
        self._rows += places

    def detections(self) -> Detections:
        """All rows, checked.

        Raises:
            DataError: A number is not finite, or an ellipse has a negative radius.
        """
        if self._rows:
            rows = np.concatenate(list(self.images.values()))
            self._refuse("expected finite numbers, found NaN or infinity", ~np.isfinite(rows).all(axis=1))
            if self.shape == "ellipse":
                self._refuse("expected radii of 0 or more, found a negative one", (rows[:, :2] < 0).any(axis=1))
            self._look_over(rows)
        return Detections(self.images, self.shape, self.tally.notes(), self.places)

    def _refuse(self, message: str, strange: Array | np.bool) -> None:
        if np.any(strange):
            raise DataError(
                f"{self._rows[int(np.argmax(strange))]}: {message} ({np.count_nonzero(strange)} such rows); "
                "leave these detections out"
            )

    def _look_over(self, rows: Array) -> None:
        sizes = rows[:, 2:4] - rows[:, :2] if self.shape == "rectangle" else rows[:, :2]
        scores = rows[:, -1]
        image = np.repeat(np.arange(len(self.images)), [len(found) for found in self.images.values()])
        rising = np.concatenate([[False], (np.diff(scores) > 0) & (np.diff(image) == 0)])
        self._remark("detections with a size of zero or less, kept", sizes.min(axis=1) <= 0)
        self._remark("scores outside [0, 1], kept: only their order counts", (scores < 0) | (scores > 1))
        self._remark("rows with a higher score than the row before; sorted where the protocol sorts", rising)

    def _remark(self, what: str, where: Array) -> None:
        if where.any():
            self.tally.add(what, self._rows[int(where.argmax())], int(where.sum()))


# --- WIDER FACE: one file per image, <event>/<name>.txt ---


def read_wider(folder: str | Path) -> Detections:
    """Read a folder of WIDER FACE detections. Image names are ``<event>/<name>``.

    A file has the name of the image, the number N of detections and N rows ``left top width height score``. As in the
    official tool, rows beyond N are ignored, and a file with fewer rows or with an unreadable row counts as an image
    without detections.

    Args:
        folder: The folder with the folders of the events.

    Raises:
        DataError: The folder has no such files, a file cannot be read, or a number is not finite.
    """
    folder = Path(folder)
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    found = Collector()
    for place, path in files.items():
        if len(place.parts) != 2 or place.suffix != ".txt":
            found.tally.add("files that are not <event>/<name>.txt, not read", str(path))
            continue
        lines = read_lines(path)
        rows = _wider_rows(lines, str(path), found.tally)
        name = place.with_suffix("").as_posix()
        found.add(name, str(path), rows, (line.where for line in lines[2 : 2 + len(rows)]))
    if not found.images:
        raise DataError(f"{folder}: expected detection files <event>/<name>.txt below it, found none")
    return found.detections()


def _wider_rows(lines: Sequence[Line], path: str, tally: Tally) -> Array:
    """Rows ``x1, y1, x2, y2, score``; none if the official tool would read none."""
    none = np.empty((0, 5))
    try:
        count = max(int(lines[1].text), 0)
    except (IndexError, ValueError):
        tally.add("files without a count in their second line: no detections, as in the official tool", path)
        return none
    rows = [line.text.split() for line in lines[2 : 2 + count]]
    if len(rows) < count:
        tally.add("files with fewer rows than they announce: no detections, as in the official tool", lines[1].where)
        return none
    try:
        numbers = np.array([row[:5] for row in rows], np.float64).reshape(count, 5)
    except ValueError:
        bad = next(line for line, row in zip(lines[2:], rows, strict=False) if not _are_numbers(row[:5], 5))
        tally.add("files with an unreadable row: no detections, as in the official tool", bad.where)
        return none
    for line in lines[2 + count :]:
        tally.add("rows beyond the announced number, ignored as in the official tool", line.where)
    if longer := [line for line, row in zip(lines[2:], rows, strict=False) if len(row) > 5]:
        tally.add("rows with more than five numbers; the fifth is the score", longer[0].where, len(longer))
    return _with_corners(numbers)


def _with_corners(rows: Array) -> Array:
    """Convert ``left, top, width, height, score`` to ``x1, y1, x2, y2, score``."""
    return np.column_stack([rows[:, :2], rows[:, :2] + rows[:, 2:4], rows[:, 4]])


def _with_sizes(rows: Array) -> Array:
    """Inverse of ``_with_corners``."""
    return np.column_stack([rows[:, :2], rows[:, 2:4] - rows[:, :2], rows[:, 4]])


def _are_numbers(words: Sequence[str], count: int) -> bool:
    try:
        return len([float(word) for word in words]) == count
    except ValueError:
        return False


def write_wider(detections: Detections, folder: str | Path) -> None:
    """Write a folder of WIDER FACE detections, one file per image, best score first."""
    for name, rows in detections.rectangles().images.items():
        order = np.argsort(-rows[:, 4], kind="stable")
        path = Path(folder) / f"{name}.txt"
        write_whole(path, f"{path.stem}\n{len(rows)}\n" + _text(_with_sizes(rows[order])))


def _text(rows: Iterable[Iterable[float]]) -> str:
    return "".join(" ".join(f"{value:.10g}" for value in row) + "\n" for row in rows)


# --- FDDB: one file of blocks, rectangles or ellipses ---


def read_fddb(path: str | Path) -> Detections:
    """Read an FDDB results file: blocks of a name, a count and rows.

    Rows are ``x y width height score`` or ``major minor angle cx cy score``.

    Raises:
        DataError: An image is repeated, a count does not match its rows, a row has other numbers, or a radius is
            negative. The message names file and line.
    """
    images: dict[str, tuple[Line, list[Line]]] = {}
    columns = 0
    for name, lines in blocks(read_lines(path)):
        if name.text in images:
            first = images[name.text][0]
            raise DataError(f"{name.where}: the image {name.text} is in this file twice, first at {first.where}")
        for line in lines:
            width = len(line.text.split())
            columns = columns or width
            if width != columns or width not in (5, 6):
                raise DataError(
                    f"{line.where}: expected a rectangle (5 numbers) or an ellipse (6), the same throughout the file, "
                    f"and as many rows as announced; found {line.text[:80]!r}"
                )
        images[name.text] = name, lines
    found = Collector("ellipse" if columns == 6 else "rectangle")
    for name, lines in images.values():
        rows = table(lines, least=columns or 5)
        rows = rows if columns == 6 else _with_corners(rows)
        found.add(name.text, name.where, rows, (line.where for line in lines))
    return found.detections()


def write_fddb(detections: Detections, path: str | Path) -> None:
    """Write an FDDB results file with rectangles or ellipses, in the order of the images."""
    rectangle = detections.shape == "rectangle"
    write_whole(
        path,
        "".join(
            f"{name}\n{len(rows)}\n" + _text(_with_sizes(rows) if rectangle else rows)
            for name, rows in detections.images.items()
        ),
    )


# --- AFW and PASCAL faces: one file, one row per detection, in five formats ---


def image_key(name: str) -> str:
    """The key of an image in the AFW and PASCAL toolbox: its file name up to the first dot."""
    return name.replace("\\", "/").rsplit("/", 1)[-1].split(".", 1)[0]


def read_pascal(path: str | Path) -> Detections:
    """Read detections on AFW or PASCAL faces. Images are named by their file names up to the first dot.

    The suffix decides the format. ``.txt`` has rows ``key score x1 y1 x2 y2``. ``.mat`` has the variables ids,
    confidence, BB (4, n) and optionally del, a mask of rows to leave out. ``.ramananmat`` has ids, BB and optionally
    sc. ``.shenmat`` has DetectionResults with rows ``x y width height score``. ``.csv`` (Picasa) has the file name in
    column 3 and ``x;y;width;height`` from column 8. Missing scores are 1.

    Raises:
        DataError: The file does not have the format of its suffix.
        MissingExtraError: The file is a MATLAB file, and SciPy is not installed.
    """
    path = Path(path)
    if path.suffix not in _PASCAL_FORMS:
        raise DataError(f"{path}: expected a suffix out of {', '.join(_PASCAL_FORMS)}, found {path.suffix!r}")
    tally = Tally()
    with laid_out(path, f"a {path.suffix} file of detections"):
        keys, rows, places = _PASCAL_FORMS[path.suffix](path, tally)
    found = Collector()
    found.tally = tally
    for index in grouped(keys):
        found.add(keys[index[0]], places[index[0]], rows[index], (places[i] for i in index))
    return found.detections()


Rows = tuple[list[str], Array, list[str]]  # image keys, (n, 5) x1, y1, x2, y2, score, and places


def _pascal_txt(path: Path, tally: Tally) -> Rows:
    lines = read_lines(path)
    keys = [image_key(line.text.split()[0]) for line in lines]
    numbers = np.array([line.numbers(least=5, start=1) for line in lines]).reshape(-1, 5)
    return keys, numbers[:, [1, 2, 3, 4, 0]], [line.where for line in lines]


def _pascal_mat(path: Path, tally: Tally) -> Rows:
    ids, scores, boxes = read_variables(path, "ids", "confidence", "BB")
    rows = np.column_stack([boxes.T, scores.ravel()]).astype(np.float64)
    keys, places = [image_key(name) for name in ids], [f"{path}: column {i}" for i in range(1, len(ids) + 1)]
    left_out = np.ravel(read_mat(path).get("del", np.zeros(len(ids)))) != 0
    if left_out.any():
        tally.add("rows left out because the file marks them in del", places[left_out.argmax()], int(left_out.sum()))
    kept = np.flatnonzero(~left_out)
    return [keys[i] for i in kept], rows[kept], [places[i] for i in kept]


def _pascal_ramananmat(path: Path, tally: Tally) -> Rows:
    ids, boxes = read_variables(path, "ids", "BB")
    scores = np.ravel(read_mat(path).get("sc", np.ones(len(ids))))
    rows = np.column_stack([boxes.T, scores]).astype(np.float64)
    return [image_key(name) for name in ids], rows, [f"{path}: column {i}" for i in range(1, len(ids) + 1)]


def _pascal_shenmat(path: Path, tally: Tally) -> Rows:
    (entries,) = read_variables(path, "DetectionResults")
    keys: list[str] = []
    rows = [np.empty((0, 5))]
    places: list[str] = []
    for [entry] in entries:
        faces = np.asarray(entry["faces"], np.float64).reshape(-1, 5)
        keys += [image_key(entry["filename"])] * len(faces)
        places += [f"{path}: {entry['filename']}"] * len(faces)
        rows.append(_with_corners(faces))
    return keys, np.concatenate(rows), places


def _pascal_csv(path: Path, tally: Tally) -> Rows:
    lines = read_lines(path)[1:]
    cells = list(csv.reader((line.text for line in lines), delimiter=";"))
    boxes = [Line(" ".join(row[7:]), line.where).numbers(least=4) for line, row in zip(lines, cells, strict=True)]
    numbers = np.array([[*box, 1] for box in boxes], np.float64).reshape(-1, 5)
    return [image_key(row[2]) for row in cells], _with_corners(numbers), [line.where for line in lines]


_PASCAL_FORMS = {
    ".txt": _pascal_txt,
    ".mat": _pascal_mat,
    ".ramananmat": _pascal_ramananmat,
    ".shenmat": _pascal_shenmat,
    ".csv": _pascal_csv,
}


def write_pascal(detections: Detections, path: str | Path) -> None:
    """Write rows ``key score x1 y1 x2 y2`` in the order of the images."""
    write_whole(
        path,
        "".join(
            f"{name} {line}\n"
            for name, rows in detections.rectangles().images.items()
            for line in _text(rows[:, [4, 0, 1, 2, 3]]).splitlines()
        ),
    )


# --- detections and ground truth ---


def choose(names: Collection[str], known: Collection[str]) -> list[str]:
    """The unique names of the images to evaluate.

    Raises:
        DataError: A name is unknown.
    """
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(f"{len(unknown)} images of the subset are not in the ground truth, e.g. {unknown[0]!r}")
    return list(dict.fromkeys(names))


def pick(detections: Detections, names: Collection[str]) -> Detections:
    """The detections in these images, with notes on images that only one side has.

    Raises:
        DataError: The two have no image in common.
    """
    known = {name: rows for name, rows in detections.images.items() if name in names}
    if not known and detections.images:
        raise DataError(
            f"the detections name no image of the ground truth: found e.g. {next(iter(detections.images))!r}, "
            f"expected e.g. {next(iter(names), 'nothing: it has no image')!r}"
        )
    tally = Tally()
    for name, rows in detections.images.items():
        if name not in known:
            tally.add("images that are not in the ground truth, ignored", detections.where(name))
            tally.add("detections in such images, ignored", detections.where(name), len(rows))
    for name in names:
        if name not in known:
            tally.add("images of the ground truth without an entry in the detections: all their faces are missed", name)
    return replace(detections, images=known, notes=detections.notes + tally.notes())
