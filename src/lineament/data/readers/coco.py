"""COCO keypoints JSON: our interchange format, and the faces of COCO-WholeBody.

Boxes are ``x, y, width, height`` and keypoints ``x, y, v`` in both. In our own files, coordinates are continuous
pixels, as everywhere in this library. COCO-WholeBody counts whole pixels from 0, so half a pixel is added to its
landmarks.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from msgspec import Meta, Struct, field
from numpy.typing import NDArray

from lineament.data.readers.parsing import picture_path
from lineament.data.sample import NOT_LABELLED, VISIBLE, Sample
from lineament.errors import DataError
from lineament.files import write_whole
from lineament.formats import LARGEST, as_models, parse_json
from lineament.schemas import FIVE, SCHEMAS, Schema, own

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Record = dict[str, Any]
Id = int | str
Whole = Annotated[int, Meta(ge=-(2**53), le=2**53)]  # integers that a float holds exactly

FACE = "face"
"""Name of the category that is read if a file has several."""


class Picture(Struct):
    """An entry of ``images``."""

    id: Id
    file_name: Annotated[str, Meta(min_length=1)]
    width: float = 0
    height: float = 0
    source: str = ""

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if not (float(side).is_integer() and 0 <= side <= LARGEST):
                raise ValueError(f"expected a {name} in whole pixels, found {side}")


class Annotation(Struct):
    """An entry of ``annotations``."""

    image_id: Id
    id: Id | None = None
    category_id: Id | None = None
    bbox: list[float] = []
    keypoints: list[float] = []
    iscrowd: bool | int = 0
    mask: bool | int | None = None
    box_source: str = "human"
    keypoints_source: str = "human"
    attributes: dict[str, bool | Whole | float | str | None] = {}

    def __post_init__(self) -> None:
        for name, flag in (("iscrowd", self.iscrowd), ("mask", self.mask)):
            if flag not in (0, 1, None):
                raise ValueError(f"expected 0 or 1 as {name}, found {flag}")


class Person(Annotation):
    """An entry of ``annotations`` in COCO-WholeBody, with the box and the landmarks of the face."""

    bbox: list[float] = field(default_factory=list, name="face_box")
    keypoints: list[float] = field(default_factory=list, name="face_kpts")
    face_valid: bool = False


class Detected(Annotation):
    """An entry of a results file. The third number of its keypoints is a score."""

    score: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.attributes = {"score": self.score}


class Category(Struct):
    """An entry of ``categories``."""

    id: Id | None = None
    name: str = ""
    keypoints: list[str] = []


A = TypeVar("A", bound=Annotation)


def read_coco(json_path: str | Path, images: str | Path | None = None, *, schema: Schema | None = None) -> list[Sample]:
    """Read images and faces of a COCO keypoints file in our interchange format, in the order of the file.

    Args:
        json_path: The index file. In addition to COCO's own keys, an image may have ``source``, and an annotation
            ``box_source``, ``keypoints_source``, ``mask`` and ``attributes`` (a flat object). Other keys are ignored. A
            key with null or an empty value counts as missing.
        images: Folder for ``file_name``. ``None``: the folder of the index file.
        schema: The schema of the keypoints. ``None``: the known schema with the category's keypoint names (in any
            order), or else with as many points; otherwise a new schema without mirror pairs.

    Returns:
        One sample per image, including those without faces. ``iscrowd`` becomes ``ignore``. Of several categories, only
        the one named "face" is read.

    Raises:
        DataError: The file is not a COCO file, or a value has a wrong type. An image is repeated, a number is not
            finite, a box has a negative size, or the number of keypoints is wrong. An annotation's image or category
            does not exist, or there are several categories and none is named "face". The message names file and
            annotation.
    """
    path = Path(json_path)
    index = _load(path)
    pictures, every = _pictures(path, index), _annotations(path, index, Annotation)
    category, faces = _of_faces(path, _categories(path, index), every)
    points, order = (schema, None) if schema else _schema_of(path, category)
    table = _keypoints(path, faces, points, "keypoints")
    strange = ~np.isin(table[..., 2], (0, 1, 2))
    _refuse(path, faces, strange.any(axis=1), "expected visibilities of 0, 1 or 2, found {}", table[..., 2])
    table = table if order is None else table[:, order]
    return _samples(path, pictures, faces, images, points, table[..., :2], table[..., 2], "bbox")


def read_coco_wholebody(json_path: str | Path, images: str | Path | None = None) -> list[Sample]:
    """Read the faces of a COCO-WholeBody file: ``face_box`` and the 68 landmarks of ``face_kpts``.

    Half a pixel is added to the landmarks (see the module). Persons without a valid face (``face_valid``) have no
    entry; the log has their number. The third number of a landmark is a confidence there, so every landmark above 0
    counts as visible.

    Raises:
        DataError: As in `read_coco`.
    """
    path, schema = Path(json_path), SCHEMAS["68"]
    index = _load(path)
    persons = _annotations(path, index, Person)
    faces = [person for person in persons if person.face_valid]
    logger.info("%s: %d of %d persons have a valid face", path, len(faces), len(persons))
    table = _keypoints(path, faces, schema, "face_kpts")
    seen = np.where(table[..., 2] > 0, VISIBLE, NOT_LABELLED)
    return _samples(path, _pictures(path, index), faces, images, schema, table[..., :2] + 0.5, seen, "face_box")


def write_coco(
    path: str | Path,
    samples: Sequence[Sample],
    *,
    images: str | Path | None = None,
    description: str = "",
    digits: int = 3,
) -> None:
    """Write samples as a COCO keypoints file. `read_coco` reads it.

    Args:
        path: The index file.
        samples: Samples of one schema.
        images: Folder for relative file names. ``None``: the folder of the index file.
        description: Text for ``info``.
        digits: Decimals of coordinates.

    Raises:
        DataError: The samples have different schemas.
    """
    path = Path(path)
    kind = samples[0].schema if samples else FIVE
    other = next((s for s in samples if s.schema != kind), None)
    if other is not None:
        raise DataError(f"{path}: one file holds one schema; {other.path} has {other.schema.name!r}, not {kind.name!r}")
    root = path.parent if images is None else images
    annotations = [face for image_id, sample in enumerate(samples, 1) for face in _entries(sample, image_id, digits)]
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


def read_coco_results(
    json_path: str | Path, index: str | Path, images: str | Path | None = None, *, schema: Schema | None = None
) -> list[Sample]:
    """Read detections in COCO's results format, a list of boxes and keypoints with scores.

    Args:
        json_path: The results.
        index: The COCO file with the images and categories that the results name by their ids.
        images: Folder for ``file_name``. ``None``: the folder of the index file.
        schema: The schema of the keypoints. ``None``: as in `read_coco`.

    Returns:
        One sample per image of the index. Attributes: ``score`` (n,) and ``landmark_scores`` (n, k).

    Raises:
        DataError: As in `read_coco`.
    """
    path, index = Path(json_path), Path(index)
    labels = _load(index)
    try:
        entries = parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected COCO results, a list of detections, found {type(entries).__name__}")
    every: list[Annotation] = [*as_models(entries, Detected, lambda i: f"{path}, detection {_name(entries[i], i)}")]
    category, found = _of_faces(path, _categories(index, labels), every)
    points, order = (schema, None) if schema else _schema_of(index, category)
    table = _keypoints(path, found, points, "keypoints")
    table = table if order is None else table[:, order]
    there = np.where((table != 0).any(axis=2), VISIBLE, NOT_LABELLED)
    root = index.parent if images is None else images
    return _samples(
        path,
        _pictures(index, labels),
        found,
        root,
        points,
        table[..., :2],
        there,
        "bbox",
        {"landmark_scores": table[..., 2]},
    )


def write_coco_results(
    path: str | Path, samples: Sequence[Sample], index: str | Path, images: str | Path | None = None, *, digits: int = 3
) -> None:
    """Write detections in COCO's results format, for pycocotools and other evaluators. `read_coco_results` reads them.

    Args:
        path: The results.
        samples: Detections, with the attribute ``score`` and perhaps ``landmark_scores``.
        index: The COCO file with the images, whose ids the results have.
        images: Folder for ``file_name``. ``None``: the folder of the index file.
        digits: Decimals of coordinates. Scores have two more.

    Raises:
        DataError: The index does not have an image.
    """
    index = Path(index)
    labels = _load(index)
    root = index.parent if images is None else Path(images)
    pictures = {os.path.realpath(picture_path(root, p.file_name)): p.id for p in _pictures(index, labels)}
    categories = _categories(index, labels)
    face = next((c.id for c in categories if c.name.strip().lower() == FACE), categories[0].id if categories else 1)
    results: list[Record] = []
    for sample in samples:
        image = pictures.get(os.path.realpath(sample.path))
        if image is None:
            raise DataError(f"{index}: has no image {sample.path}; name the folder of its images")
        score = np.broadcast_to(np.asarray(sample.attributes.get("score", 1.0), float), len(sample))
        sure = sample.attributes.get("landmark_scores", np.repeat(score[:, None], len(sample.schema), axis=1))
        for entry, own_score, each in zip(_entries(sample, 0, digits), score.tolist(), np.asarray(sure), strict=True):
            points = np.array(entry["keypoints"]).reshape(-1, 3)
            points[:, 2] = np.where(points[:, 2] > NOT_LABELLED, each, 0).round(digits + 2)
            results.append(
                {
                    "image_id": image,
                    "category_id": face,
                    "bbox": entry["bbox"],
                    "score": round(own_score, digits + 2),
                    "keypoints": points.ravel().tolist(),
                }
            )
    write_whole(path, json.dumps(results, separators=(",", ":"), allow_nan=False))


def _load(path: Path) -> Record:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    index = parse_json(content, str(path))
    if not isinstance(index, dict) or not all(isinstance(index.get(key), list) for key in ("images", "annotations")):
        raise DataError(f"{path}: expected a COCO keypoints JSON file, with the lists 'images' and 'annotations'")
    return index


def _pictures(path: Path, index: Record) -> list[Picture]:
    entries = index["images"]
    pictures = as_models(entries, Picture, lambda i: f"{path}, image {_name(entries[i], i)}")
    names = [picture_path("", picture.file_name) for picture in pictures]
    for what, values in (("id", [picture.id for picture in pictures]), ("file_name", names)):
        if (twice := _repeated(values)) is not None:
            raise DataError(f"{path}: two images have the same {what}, {twice}")
    return pictures


def _annotations(path: Path, index: Record, model: type[A]) -> list[A]:
    entries = index["annotations"]
    return as_models(entries, model, lambda i: f"{path}, annotation {_name(entries[i], i)}")


def _categories(path: Path, index: Record) -> list[Category]:
    entries = index.get("categories") or []
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a list of categories, found {type(entries).__name__}")
    return as_models(entries, Category, lambda i: f"{path}, category {_name(entries[i], i)}")


def _name(entry: Any, position: int) -> str:
    """The name of an entry in messages: its id, if it has one."""
    found = entry.get("id") if isinstance(entry, dict) else None
    return f"at position {position}" if found is None else str(found)[:80]


def _repeated(values: Iterable[Hashable]) -> Hashable | None:
    """The first repeated value."""
    seen = set()
    return next((value for value in values if value in seen or seen.add(value)), None)  # type: ignore[func-returns-value]


def _of_faces(
    path: Path, categories: list[Category], annotations: list[Annotation]
) -> tuple[Category, list[Annotation]]:
    """The category of faces (the one with that name, or the only one that exists or is used), and its members."""
    if not categories:
        return Category(), annotations
    strange = np.array([a.category_id not in {None, *(c.id for c in categories)} for a in annotations], bool)
    ids = [annotation.category_id for annotation in annotations]
    _refuse(path, annotations, strange, "category_id {!r} has no entry in 'categories'", ids)
    named = [category for category in categories if category.name.strip().lower() == FACE]
    used = {annotation.category_id for annotation in annotations}
    candidates = named or (categories if len(categories) == 1 else [c for c in categories if c.id in used])
    there = ", ".join(repr(category.name) for category in categories)
    if len(candidates) > 1 or (len(categories) > 1 and None in used):
        raise DataError(
            f"{path}: which category holds the faces? There are {there}; name one {FACE!r}, or leave only one, and "
            "give each annotation its category_id"
        )
    if not candidates:
        return categories[0], []
    (category,) = candidates
    faces = [a for a in annotations if a.category_id in (category.id, None)]
    if len(faces) < len(annotations):
        others = len(annotations) - len(faces)
        logger.warning("%s: %d annotations of other categories than %r left out", path, others, category.name)
    return category, faces


def _schema_of(path: Path, category: Category) -> tuple[Schema, list[int] | None]:
    """The schema, and the position of each of its landmarks among the file's keypoints, unless it is the same."""
    names = tuple(category.keypoints) or FIVE.points
    if (twice := _repeated(names)) is not None:
        raise DataError(f"{path}: two keypoints of category {category.name!r} have the same name, {twice}")
    for schema in SCHEMAS.values():
        if set(schema.points) == set(names):
            return schema, None if schema.points == names else [names.index(point) for point in schema.points]
    return next((s for s in SCHEMAS.values() if len(s) == len(names)), None) or own(f"own-{len(names)}", names), None


def _samples(
    path: Path,
    pictures: list[Picture],
    faces: Sequence[Annotation],
    images: str | Path | None,
    schema: Schema,
    points: Array,
    visibility: Array,
    box: str,
    more: Mapping[str, Array] | None = None,
) -> list[Sample]:
    root = path.parent if images is None else Path(images)
    rows = {picture.id: row for row, picture in enumerate(pictures)}
    image_ids = [face.image_id for face in faces]
    missing = np.array([image_id not in rows for image_id in image_ids], bool)
    _refuse(path, faces, missing, "image_id {!r} has no entry in 'images'", image_ids)
    image_of = np.array([rows[image_id] for image_id in image_ids], np.intp)
    boxes = _boxes(path, faces, box)
    points = np.where(visibility[..., None] > NOT_LABELLED, points, np.nan)
    ignore = np.array([face.iscrowd for face in faces], bool)
    box_source = np.array([face.box_source for face in faces], np.str_)
    landmark_source = np.array([face.keypoints_source for face in faces], np.str_)
    attributes = _attributes(faces) | dict(more or {})
    order = np.argsort(image_of, kind="stable")
    members = np.split(order, np.searchsorted(image_of[order], np.arange(1, len(pictures))))
    return [
        Sample.of(
            picture_path(root, picture.file_name),
            boxes[its],
            points[its],
            visibility=visibility[its],
            ignore=ignore[its],
            size=(int(picture.width), int(picture.height)),
            source=picture.source,
            box_source=box_source[its],
            landmark_source=landmark_source[its],
            schema=schema,
            attributes={name: values[its] for name, values in attributes.items()},
        )
        # strict is off, since an empty file still splits into one empty part
        for picture, its in zip(pictures, members, strict=False)
    ]


def _boxes(path: Path, faces: Sequence[Annotation], key: str) -> Array:
    """Boxes (faces, 4) ``x1, y1, x2, y2``."""
    boxes = _table(path, faces, [face.bbox for face in faces], key, width=4)
    _refuse(path, faces, (boxes[:, 2:] < 0).any(axis=1), f"{key} {{}} has a negative width or height", boxes)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _keypoints(path: Path, faces: Sequence[Annotation], schema: Schema, key: str) -> Array:
    """Keypoints (faces, k, 3) ``x, y, v``. Zeros for faces without keypoints."""
    blank = [0.0] * (3 * len(schema))
    lists = [face.keypoints or blank for face in faces]
    return _table(path, faces, lists, key, width=len(blank)).reshape(len(faces), len(schema), 3)


def _table(path: Path, faces: Sequence[Annotation], lists: list[list[float]], key: str, *, width: int) -> Array:
    """Convert lists, which must have this length and finite numbers, to (faces, width) float64."""
    lengths = np.array([len(numbers) for numbers in lists], int)
    _refuse(path, faces, lengths != width, f"{key} should hold {width} numbers, found {{}}", lengths)
    table = np.fromiter(chain.from_iterable(lists), float, len(faces) * width).reshape(-1, width)
    strange = ~(np.abs(table) <= LARGEST).all(axis=1)
    _refuse(path, faces, strange, f"{key} {{}} holds a number that is not finite or is too large", table)
    return table


def _refuse(
    path: Path, faces: Sequence[Annotation], wrong: Array | np.bool, message: str, found: Sequence[Any] | Array
) -> None:
    if np.any(wrong):
        first = int(np.argmax(wrong))
        name = f"at position {first}" if faces[first].id is None else faces[first].id
        raise DataError(
            f"{path}, annotation {name}: {message.format(found[first])}"
            f" ({np.count_nonzero(wrong)} of {len(faces)} annotations)"
        )


def _attributes(faces: Sequence[Annotation]) -> dict[str, Array]:
    """Flat labels as arrays over all faces. Missing values are False, NaN or an empty string.

    An attribute that is text in some annotations is text in all.
    """
    rows = [face.attributes | ({} if face.mask is None else {"mask": bool(face.mask)}) for face in faces]
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(chain.from_iterable(rows))}
    return {name: _column(values) for name, values in columns.items()}


def _column(values: list[bool | int | float | str | None]) -> Array:
    kinds = {type(value) for value in values if value is not None}
    if str in kinds:
        return np.array(["" if value is None else str(value) for value in values], np.str_)
    if kinds <= {bool}:
        return np.array([bool(value) for value in values], bool)
    if kinds == {int} and None not in values:
        return np.array(values, np.int64)
    return np.array([np.nan if value is None else value for value in values], float)


def _known(columns: Mapping[str, Sequence[Any]], i: int) -> Record:
    """The attributes of one face without those that it lacks, which are NaN or empty in `_attributes`."""
    return {name: values[i] for name, values in columns.items() if values[i] == values[i] and values[i] != ""}


def _entries(sample: Sample, image_id: int, digits: int) -> list[Record]:
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
        | ({"attributes": own} if (own := _known(columns, i)) else {})
        for i in range(len(sample))
    ]
