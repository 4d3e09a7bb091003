"""Records: the result of an image as JSON, as ``lineament detect --json`` writes it line by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from lineament.errors import DataError
from lineament.faces import Faces
from lineament.formats import as_model, parse_json
from lineament.schemas import Schema


class Record(NamedTuple):
    """The result of one image.

    Attributes:
        path: The path of the image, as in the line.
        faces: Its faces; empty if the image could not be read.
        error: Why the image could not be read; otherwise empty.
        where: ``file:line``, for messages.
        sha256: The SHA-256 of the image file, if the line has it; otherwise empty.
    """

    path: str
    faces: Faces
    error: str = ""
    where: str = ""
    sha256: str = ""


class _Line(msgspec.Struct):
    """The keys of a line beside those of the faces."""

    path: str
    error: str = ""
    sha256: str = ""


def to_record(path: str | Path, faces: Faces, *, method: str, detector: Mapping[str, Any]) -> dict[str, Any]:
    """Make the record of an image. The file ``result.schema.json`` of the package describes it.

    Args:
        path: The image.
        faces: Its faces.
        method: The method that detected them.
        detector: What `lineament.Detector.describe` returns.
    """
    return {"path": str(path), "method": method, "detector": dict(detector)} | faces.to_dict()


def failed_record(path: str | Path, error: str) -> dict[str, Any]:
    """Make the record of an image that could not be read."""
    return {"path": str(path), "error": error}


def read_records(path: str | Path, schema: Schema | None = None) -> Iterator[Record]:
    """Read a file of detections line by line.

    A line is ``{"path", "width", "height", "schema", "faces": [{"box", "score", "landmarks", "landmark_scores"}]}``,
    or ``{"path", "error"}`` for an image that could not be read. Without ``landmark_scores``, each landmark has the
    score of its face. Other keys are ignored.

    Args:
        path: The file.
        schema: The schema of the landmarks. ``None``: the schema that the line names. An unknown name makes a new
            schema.

    Raises:
        DataError: The file cannot be read, or a line has another form. The message names file and line.
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
