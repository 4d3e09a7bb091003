"""COCO keypoints JSON: our interchange format, and COCO-WholeBody's faces.

Boxes are ``x, y, width, height`` and keypoints ``x, y, v`` in both. In our own files coordinates are continuous pixels,
as everywhere in this library; COCO-WholeBody counts whole pixels from 0, so half a pixel is added to its points.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.data.readers.parsing import laid_out
from lineament.data.sample import NOT_LABELLED, VISIBLE, Sample
from lineament.errors import DataError
from lineament.files import write_whole
from lineament.schemas import FIVE, SCHEMAS, Schema, own

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Record = dict[str, Any]


def read_coco(json_path: str | Path, images: str | Path | None = None, *, schema: Schema | None = None) -> list[Sample]:
    """Pictures and faces of a COCO keypoints file in our interchange form, in the file's order.

    Args:
        json_path: the index. Beyond COCO's own keys an image may have ``source``, an annotation ``box_source``,
            ``keypoints_source``, ``mask`` and ``attributes`` (a flat object); others are not kept.
        images: folder that ``file_name`` is relative to; the index's own folder when left out.
        schema: what the keypoints are; left out, the known schema with the category's keypoint names or, failing that,
            with as many points, and otherwise one of the file's own without mirror pairs.

    Returns:
        One sample an image, those without faces included. ``iscrowd`` becomes ``ignore``.

    Raises:
        DataError: not a COCO file; an image that stands there twice; a number that is not finite; a box of negative
            size; a wrong number of keypoints; an annotation of an image that is not there. The message names file and
            annotation.
    """
    path = Path(json_path)
    index = _load(path)
    kind = schema or _schema_of(index)
    return _samples(path, index["images"], index["annotations"], images, kind, box="bbox", points="keypoints", shift=0)


def read_coco_wholebody(json_path: str | Path, images: str | Path | None = None) -> list[Sample]:
    """The faces of a COCO-WholeBody file: ``face_box`` and the 68 points of ``face_kpts``.

    Half a pixel is added to the points (see the module). Persons without a valid face (``face_valid``) have no entry;
    how many is logged. The third number of a point is a confidence there, so every point above 0 counts as visible.

    Raises:
        DataError: as `read_coco`.
    """
    path = Path(json_path)
    index = _load(path)
    faces = [a for a in index["annotations"] if a.get("face_valid")]
    logger.info("%s: %d of %d persons have a valid face", path, len(faces), len(index["annotations"]))
    samples = _samples(
        path, index["images"], faces, images, SCHEMAS["68"], box="face_box", points="face_kpts", shift=0.5
    )
    for sample in samples:
        sample.visibility[sample.visibility > NOT_LABELLED] = VISIBLE
    return samples


def write_coco(
    path: str | Path,
    samples: Sequence[Sample],
    *,
    images: str | Path | None = None,
    description: str = "",
    digits: int = 3,
) -> None:
    """Write samples as a COCO keypoints file that `read_coco` reads back.

    Args:
        path: the index to write.
        samples: all of one schema.
        images: folder that file names are written relative to; the index's own folder when left out.
        description: goes into ``info``.
        digits: decimals of coordinates.

    Raises:
        DataError: the samples have different schemas.
    """
    path = Path(path)
    kind = samples[0].schema if samples else FIVE
    other = next((s for s in samples if s.schema != kind), None)
    if other is not None:
        raise DataError(f"{path}: one file holds one schema; {other.path} has {other.schema.name!r}, not {kind.name!r}")
    root = path.parent if images is None else images
    annotations = [
        face for image_id, sample in enumerate(samples, 1) for face in _annotations(sample, image_id, digits)
    ]
    index = {
        "info": {
            "description": description,
            "coordinates": "continuous pixels; (0, 0) is the outer corner of the first pixel",
            "schema": kind.name,
        },
        "images": [
            {
                "id": image_id,
                "file_name": Path(os.path.relpath(sample.path, root)).as_posix(),
                "width": sample.width,
                "height": sample.height,
                "source": sample.source,
            }
            for image_id, sample in enumerate(samples, 1)
        ],
        "annotations": [{"id": number} | face for number, face in enumerate(annotations, 1)],
        "categories": [{"id": 1, "name": "face", "keypoints": list(kind.points), "skeleton": []}],
    }
    write_whole(path, json.dumps(index, separators=(",", ":"), allow_nan=False))


def _load(path: Path) -> Record:
    try:
        index = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: expected a COCO keypoints JSON file: {error}") from error
    if not isinstance(index, dict) or not all(isinstance(index.get(key), list) for key in ("images", "annotations")):
        raise DataError(f"{path}: expected a COCO keypoints JSON file, with the lists 'images' and 'annotations'")
    return index


def _schema_of(index: Record) -> Schema:
    categories = index.get("categories") or [{}]
    names = tuple(categories[0].get("keypoints", ())) or FIVE.points
    named = next((s for s in SCHEMAS.values() if s.points == names), None)
    return named or next((s for s in SCHEMAS.values() if len(s) == len(names)), None) or own(f"own-{len(names)}", names)


def _samples(
    path: Path,
    pictures: list[Record],
    faces: list[Record],
    images: str | Path | None,
    schema: Schema,
    *,
    box: str,
    points: str,
    shift: float,
) -> list[Sample]:
    root = path.parent if images is None else Path(images)
    with laid_out(path, "COCO, each image with an id and a file_name"):
        ids = np.array([picture["id"] for picture in pictures])
        names = [Path(picture["file_name"]) for picture in pictures]
    for what, values in (("id", ids.tolist()), ("file_name", names)):
        twice = next((value for value, count in Counter(values).items() if count > 1), None)
        if twice is not None:
            raise DataError(f"{path}: two images have the same {what}, {twice}")
    image_of = _rows_of(path, faces, ids)
    boxes = _boxes(path, faces, box)
    landmarks, visibility = _landmarks(path, faces, points, schema, shift)
    labelled = np.logical_or.reduce(visibility > NOT_LABELLED, axis=1)
    ignore = np.array([bool(face.get("iscrowd", 0)) for face in faces], bool)
    box_source = np.array([face.get("box_source", "human") for face in faces], np.str_)
    landmark_source = np.array([face.get("keypoints_source", "human") for face in faces], np.str_)
    attributes = _attributes(faces)
    order = np.argsort(image_of, kind="stable")
    members = np.split(order, np.searchsorted(image_of[order], np.arange(1, len(pictures))))
    return [
        Sample(
            path=root / name,
            width=int(picture.get("width", 0)),
            height=int(picture.get("height", 0)),
            source=picture.get("source", ""),
            boxes=boxes[rows],
            landmarks=landmarks[rows],
            visibility=visibility[rows],
            ignore=ignore[rows],
            box_source=box_source[rows],
            landmark_source=np.where(labelled[rows], landmark_source[rows], "none"),
            schema=schema,
            attributes={name: values[rows] for name, values in attributes.items()},
        )
        # strict is off, since no picture at all still splits into one empty part
        for name, picture, rows in zip(names, pictures, members, strict=False)
    ]


def _rows_of(path: Path, faces: list[Record], ids: Array) -> Array:
    """For each face the row of its picture."""
    wanted = np.array([face.get("image_id", -1) for face in faces], ids.dtype)
    _refuse(path, faces, ~np.isin(wanted, ids), "image_id {} has no entry in 'images'", wanted)
    order = np.argsort(ids)
    return order[np.searchsorted(ids[order], wanted)] if len(faces) else np.zeros(0, np.intp)


def _boxes(path: Path, faces: list[Record], key: str) -> Array:
    boxes = _table(path, faces, key, width=4)
    _refuse(path, faces, (boxes[:, 2:] < 0).any(axis=1), f"{key} {{}} has a negative width or height", boxes)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).astype(np.float32)


def _landmarks(path: Path, faces: list[Record], key: str, schema: Schema, shift: float) -> tuple[Array, Array]:
    blank = [0.0] * (3 * len(schema))
    filled = [face if face.get(key) else face | {key: blank} for face in faces]
    table = _table(path, filled, key, width=3 * len(schema)).reshape(len(faces), len(schema), 3)
    visibility = np.clip(np.ceil(table[..., 2]), NOT_LABELLED, VISIBLE).astype(np.uint8)
    points = np.where(visibility[..., None] > NOT_LABELLED, table[..., :2] + shift, np.nan)
    return points.astype(np.float32), visibility


def _table(path: Path, faces: list[Record], key: str, *, width: int) -> Array:
    """(faces, width) float64 of the lists under ``key``, all of that length and finite."""
    lengths = np.array([len(face.get(key) or ()) for face in faces], int)
    _refuse(path, faces, lengths != width, f"{key} should hold {width} numbers, found {{}}", lengths)
    try:
        flat = np.fromiter(chain.from_iterable(face[key] for face in faces), float, len(faces) * width)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: {key} of an annotation holds something that is not a number: {error}") from error
    table = flat.reshape(-1, width)
    _refuse(path, faces, ~np.isfinite(table).all(axis=1), f"{key} {{}} holds a number that is not finite", table)
    return table


def _refuse(path: Path, faces: list[Record], wrong: Array | np.bool, message: str, found: Array) -> None:
    if np.any(wrong):
        first = int(np.argmax(wrong))
        raise DataError(
            f"{path}, annotation {faces[first].get('id', f'at position {first}')}: {message.format(found[first])}"
            f" ({np.count_nonzero(wrong)} of {len(faces)} annotations)"
        )


def _attributes(faces: list[Record]) -> dict[str, Array]:
    """Flat labels as arrays over all faces; False, NaN or an empty string where a face has none."""
    rows = [face.get("attributes", {}) | {k: face[k] for k in ("mask",) if k in face} for face in faces]
    names = dict.fromkeys(chain.from_iterable(rows))
    blanks: dict[type, Any] = {bool: False, str: "", int: np.nan, float: np.nan}
    firsts = {name: next(row[name] for row in rows if name in row) for name in names}
    return {name: np.array([row.get(name, blanks.get(type(first))) for row in rows]) for name, first in firsts.items()}


def _annotations(sample: Sample, image_id: int, digits: int) -> list[Record]:
    sizes = sample.boxes[:, 2:] - sample.boxes[:, :2]
    boxes = np.concatenate([sample.boxes[:, :2], sizes], axis=1).astype(float).round(digits)
    points = np.nan_to_num(sample.landmarks.astype(float).round(digits))
    keypoints = np.concatenate([points, sample.visibility[..., None]], axis=2).reshape(
        len(sample), 3 * len(sample.schema)
    )
    masked: Array = np.broadcast_to(sample.attributes.get("mask", np.False_), len(sample))
    columns = {name: np.asarray(values).tolist() for name, values in sample.attributes.items() if name != "mask"}
    return [
        {
            "image_id": image_id,
            "category_id": 1,
            "bbox": boxes[i].tolist(),
            "area": round(float(boxes[i, 2] * boxes[i, 3]), digits),
            "iscrowd": int(sample.ignore[i]),
            "keypoints": keypoints[i].tolist(),
            "num_keypoints": int((sample.visibility[i] > NOT_LABELLED).sum()),
            "box_source": str(sample.box_source[i]),
            "keypoints_source": str(sample.landmark_source[i]),
        }
        | ({"mask": True} if masked[i] else {})
        | ({"attributes": {name: values[i] for name, values in columns.items()}} if columns else {})
        for i in range(len(sample))
    ]
