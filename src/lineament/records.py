"""Detections in JSON lines, one object an image: what ``lineament detect --json`` writes, read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lineament.errors import DataError
from lineament.faces import Faces
from lineament.formats import as_model, parse_json
from lineament.schemas import Schema


class Record(NamedTuple):
    """What one line says of an image.

    Attributes:
        path: the image, as the line names it.
        faces: empty where the image could not be read.
        error: why it could not be read; empty where it was.
        where: ``file:line``, for messages.
        sha256: digest of the image file that the faces were found in; empty where the line does not say.
    """

    path: str
    faces: Faces
    error: str
    where: str
    sha256: str = ""


class _Line(msgspec.Struct):
    """What a line holds beside the faces."""

    path: str
    error: str = ""
    sha256: str = ""


def read_records(path: str | Path, schema: Schema | None = None) -> Iterator[Record]:
    """The lines of a file of detections, one by one.

    A line is ``{"path", "width", "height", "schema", "faces": [{"box", "score", "landmarks", "landmark_scores"}]}``,
    or ``{"path", "error"}`` for an image that could not be read. Without ``landmark_scores`` each landmark has its
    face's score. Other keys are ignored.

    Args:
        path: the file.
        schema: what the landmarks are; left out, the known schema of the name that stands there, or an own one.

    Raises:
        DataError: the file cannot be read, or a line is no such object (file and line are named).
    """
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _record(f"{path}:{number}", line, schema)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected JSON lines in UTF-8: {error}") from error


def _record(where: str, line: str, schema: Schema | None) -> Record:
    content: Any = parse_json(line, where)
    told = as_model(content, _Line, where)
    if told.error:
        return Record(told.path, Faces.empty((0, 0)), told.error, where)
    try:
        faces = Faces.from_dict(content, schema)
    except DataError as error:
        raise DataError(f"{where}: expected an image as `lineament detect --json` writes it: {error}") from None
    return Record(told.path, faces, "", where, told.sha256)
