"""Detections to be evaluated: from a file that ``lineament detect --json`` wrote, or from a detector that runs now."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lineament.data.sample import Sample
from lineament.errors import DataError, ImageError
from lineament.faces import Faces
from lineament.schemas import SCHEMAS, Schema, own

logger = logging.getLogger(__name__)


class Evaluated(NamedTuple):
    """Labelled pictures and, in the same order, what was found in them.

    Attributes:
        samples: the pictures that take part.
        faces: one a picture.
        left_out: how many labelled pictures have no detections and take no part.
        failed: how many pictures could not be read; they take part, as pictures without a face found.
    """

    samples: list[Sample]
    faces: list[Faces]
    left_out: int = 0
    failed: int = 0


def detect_all(samples: Iterable[Sample], detect: Callable[[Path], Faces], *, empty: Schema) -> Evaluated:
    """Run a detector over labelled pictures, one by one.

    Args:
        samples: the pictures.
        detect: picture to faces, such as the ``detect`` of what ``lineament.load`` returns.
        empty: schema of the detector, for pictures that cannot be read.
    """
    pictures, faces, failed = [], [], 0
    for sample in samples:
        try:
            found = detect(sample.path)
        except ImageError as error:
            logger.warning("counts as a picture without a face found: %s", error)
            found, failed = Faces.empty((sample.width, sample.height), empty), failed + 1
        pictures.append(sample)
        faces.append(found)
    return Evaluated(pictures, faces, failed=failed)


def read_detections(path: str | Path, samples: Sequence[Sample], images: str | Path) -> Evaluated:
    """Detections from JSON lines, one object a picture, brought together with the labels of the same pictures.

    A line is ``{"path", "width", "height", "schema", "faces": [{"box", "score", "landmarks"}]}``, or ``{"path",
    "error"}`` for a picture that could not be read.

    Args:
        path: the file.
        samples: labelled pictures.
        images: folder that relative paths in the file, and those of ``samples``, start from.

    Raises:
        DataError: a line is no such object (file and line are named), or no line is of a labelled picture.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
    found: dict[Path, tuple[Faces, bool]] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            picture, faces, failed = _record(f"{path}:{number}", line)
            place = _place(images, picture)
            if place in found:
                raise DataError(f"{path}:{number}: {picture} stands in the file twice")
            found[place] = faces, failed
    kept = [(sample, found[place]) for sample in samples if (place := _place(images, sample.path)) in found]
    if not kept:
        raise DataError(
            f"{path}: none of its {len(found)} pictures is one of the {len(samples)} labelled ones; "
            f"relative paths are looked up in {images}"
        )
    return Evaluated(
        samples=[sample for sample, _ in kept],
        faces=[faces for _, (faces, _) in kept],
        left_out=len(samples) - len(kept),
        failed=sum(error for _, (_, error) in kept),
    )


def _place(images: str | Path, path: str | Path) -> Path:
    path = Path(path)
    return path.resolve() if path.is_absolute() or path.exists() else (Path(images) / path).resolve()


def _record(where: str, line: str) -> tuple[str, Faces, bool]:
    try:
        record: dict[str, Any] = json.loads(line)
        if "error" in record:
            return record["path"], Faces.empty((0, 0)), True
        faces = record["faces"]
        schema = _schema(record["schema"], faces)
        points = [[[np.nan, np.nan] if point is None else point for point in face["landmarks"]] for face in faces]
        found = Faces.of(
            [face["box"] for face in faces],
            [face["score"] for face in faces],
            points,
            image_size=(int(record["width"]), int(record["height"])),
            schema=schema,
        )
        if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
            raise ValueError("a box or a score is not finite")
        return record["path"], found, False
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where}: expected one JSON object a line as `lineament detect --json` writes it "
            f"(path, width, height, schema, faces): {type(error).__name__}: {error}"
        ) from error


def _schema(name: str, faces: list[dict[str, Any]]) -> Schema:
    if name in SCHEMAS or not faces:
        return SCHEMAS.get(name, SCHEMAS["5"])
    return own(name, [f"point_{i}" for i in range(len(faces[0]["landmarks"]))])
