"""Detections to be evaluated: from a file that ``lineament detect --json`` wrote, or from a detector that runs now."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lineament.data.sample import Sample
from lineament.errors import DataError, ImageError
from lineament.evaluate.detections import Collector, Tally, rectangles
from lineament.faces import Faces
from lineament.schemas import SCHEMAS, Schema, own


class Evaluated(NamedTuple):
    """Labelled pictures and, in the same order, what was found in them.

    Attributes:
        samples: the pictures that take part.
        faces: one a picture.
        left_out: how many labelled pictures have no detections and take no part.
        failed: how many pictures could not be read; they take part, as pictures without a face found.
        notes: these and whatever else was skipped or strange, counted, for people.
    """

    samples: list[Sample]
    faces: list[Faces]
    left_out: int = 0
    failed: int = 0
    notes: tuple[str, ...] = ()


class Record(NamedTuple):
    """What one line of a file of detections says of a picture.

    Attributes:
        picture: the path in the line.
        faces: none where the picture could not be read.
        failed: whether it could not.
        where: ``file:line``.
    """

    picture: str
    faces: Faces
    failed: bool
    where: str


_UNREAD = "pictures that could not be read: nothing found there"


def detect_all(samples: Iterable[Sample], detect: Callable[[Path], Faces], *, empty: Schema) -> Evaluated:
    """Run a detector over labelled pictures, one by one.

    Args:
        samples: the pictures.
        detect: picture to faces, such as the ``detect`` of what ``lineament.load`` returns.
        empty: schema of the detector, for pictures that cannot be read.
    """
    pictures, faces, tally, failed = [], [], Tally(), 0
    for sample in samples:
        try:
            found = detect(sample.path)
        except ImageError as error:
            tally.add(_UNREAD, str(error))
            found, failed = Faces.empty((sample.width, sample.height), empty), failed + 1
        pictures.append(sample)
        faces.append(found)
    return Evaluated(pictures, faces, failed=failed, notes=tally.notes())


def read_detections(path: str | Path, samples: Sequence[Sample], images: str | Path) -> Evaluated:
    """Detections from JSON lines, one object a picture, brought together with the labels of the same pictures.

    Args:
        path: the file, see `read_records`.
        samples: labelled pictures.
        images: folder that relative paths in the file, and those of ``samples``, start from.

    Raises:
        DataError: a line is no such object or of a picture that the file has already (file and line are named), or no
            line is of a labelled picture.
    """
    found: dict[Path, Record] = {}
    for record in read_records(path):
        place = _place(images, record.picture)
        if place in found:
            raise DataError(f"{record.where}: {record.picture} stands in the file twice")
        found[place] = record
    labelled = {_place(images, sample.path): sample for sample in samples}
    seen = Collector()
    kept: list[tuple[Sample, Record]] = []
    for place, record in found.items():
        if place not in labelled:
            seen.tally.add("pictures without labels, ignored", f"{record.where}: {record.picture}")
            continue
        if record.failed:
            seen.tally.add(_UNREAD, f"{record.where}: {record.picture}")
        seen.add(record.picture, record.where, rectangles(record.faces), [record.where] * len(record.faces))
    for place, sample in labelled.items():
        if place in found:
            kept.append((sample, found[place]))
        else:
            seen.tally.add("labelled pictures without a line, left out", str(sample.path))
    if not kept:
        raise DataError(
            f"{path}: none of its {len(found)} pictures is one of the {len(samples)} labelled ones; "
            f"relative paths are looked up in {images}"
        )
    return Evaluated(
        samples=[sample for sample, _ in kept],
        faces=[record.faces for _, record in kept],
        left_out=len(samples) - len(kept),
        failed=sum(record.failed for _, record in kept),
        notes=seen.detections().notes,
    )


def read_records(path: str | Path, schema: Schema | None = None) -> Iterator[Record]:
    """The lines of a file of detections.

    A line is ``{"path", "width", "height", "schema", "faces": [{"box", "score", "landmarks", "landmark_scores"}]}``,
    or ``{"path", "error"}`` for a picture that could not be read. Without ``landmark_scores`` each landmark has its
    face's score.

    Args:
        path: the file.
        schema: what the landmarks are; left out, the known schema of the name that stands there, or an own one.

    Raises:
        DataError: the file cannot be read, or a line is no such object (file and line are named).
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _record(f"{path}:{number}", line, schema)


def _place(images: str | Path, path: str | Path) -> Path:
    path = Path(path)
    return path.resolve() if path.is_absolute() or path.exists() else (Path(images) / path).resolve()


def _record(where: str, line: str, schema: Schema | None) -> Record:
    try:
        record: dict[str, Any] = json.loads(line)
        if "error" in record:
            return Record(record["path"], Faces.empty((0, 0)), True, where)
        faces = record["faces"]
        points = [[[np.nan, np.nan] if point is None else point for point in face["landmarks"]] for face in faces]
        found = Faces.of(
            [face["box"] for face in faces],
            [face["score"] for face in faces],
            points,
            landmark_scores=[face["landmark_scores"] for face in faces] if _has_landmark_scores(faces) else None,
            image_size=(int(record["width"]), int(record["height"])),
            schema=schema or _schema(record["schema"], faces),
        )
        if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
            raise ValueError("a box or a score is not finite")
        return Record(record["path"], found, False, where)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where}: expected one JSON object a line as `lineament detect --json` writes it "
            f"(path, width, height, schema, faces): {type(error).__name__}: {error}"
        ) from error


def _has_landmark_scores(faces: list[dict[str, Any]]) -> bool:
    return bool(faces) and all("landmark_scores" in face for face in faces)


def _schema(name: str, faces: list[dict[str, Any]]) -> Schema:
    if name in SCHEMAS or not faces:
        return SCHEMAS.get(name, SCHEMAS["5"])
    return own(name, [f"point_{i}" for i in range(len(faces[0]["landmarks"]))])
