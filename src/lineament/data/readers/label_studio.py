"""Label Studio: its JSON export, and predictions that people correct there; rectangles, and the key points in them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from lineament.data.sample import Sample
from lineament.errors import DataError
from lineament.files import write_whole
from lineament.formats import as_models, parse_json
from lineament.schemas import FIVE, Schema

Array = NDArray[Any]
UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # how Label Studio names a file that was uploaded
LOCAL = "/data/local-files/?d="
"""Address of files in the folder that Label Studio serves (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT)."""


class Value(Struct):
    """Place and name of a region; lengths in percent of the image."""

    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    rotation: float = 0
    keypointlabels: list[str] = []


class Region(Struct):
    """An entry of ``result``."""

    id: str = ""
    type: str = ""
    original_width: int = 0
    original_height: int = 0
    parent: str | None = field(default=None, name="parentID")
    value: Value = field(default_factory=Value)


class Work(Struct):
    """An entry of ``annotations``: what one person did."""

    result: list[Region] = []
    was_cancelled: bool = False


class Task(Struct):
    """An image."""

    data: dict[str, Any]
    id: int | str = ""
    annotations: list[Work] = []


def read_label_studio(json_path: str | Path, images: str | Path, *, schema: Schema = FIVE) -> list[Sample]:
    """Read faces from Label Studio's *JSON* export (not *JSON-MIN* or *COCO*).

    Each rectangle is a face. A key point belongs to the rectangle that it was drawn in or, if the export does not say,
    to the smallest one around it. Of several annotations of an image the last one that was not cancelled counts.

    Args:
        json_path: The export.
        images: Folder of the images. Prefixes that Label Studio gives to uploaded files may be missing there.
        schema: The landmarks; key points have its names.

    Returns:
        One sample per image, images without faces included.

    Raises:
        DataError: The file is not such an export, a key point has another name or lies in no rectangle, a face has two
            of one name, or a rectangle is rotated. The message names the task.
    """
    path = Path(json_path)
    try:
        told = parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(told, list):
        raise DataError(f"{path}: expected Label Studio's JSON export, a list of tasks, found {type(told).__name__}")
    tasks = as_models(told, Task, lambda i: f"{path}, task at position {i}")
    return [_sample(task, Path(images), schema, f"{path}, task {task.id or i}") for i, task in enumerate(tasks)]


def write_label_studio(
    path: str | Path, samples: Iterable[Sample], *, images: str | Path = ".", prefix: str = LOCAL, digits: int = 4
) -> None:
    """Write tasks with predictions for Label Studio's import, to start from instead of from nothing.

    The labelling interface has the image ``$image``, rectangles named ``face`` with the label ``face``, and key points
    named ``points`` with the names of the landmarks.

    Args:
        path: The file of tasks.
        samples: The images, with their sizes.
        images: Folder that the names of images begin from.
        prefix: What comes before them in the address of an image. By default, Label Studio's local files.
        digits: Decimals of percentages.

    Raises:
        DataError: A sample has no size.
    """
    tasks = [
        {
            "data": {"image": prefix + quote(Path(os.path.relpath(sample.path, images)).as_posix())},
            "predictions": [{"model_version": "lineament", "result": _regions(sample, digits)}],
        }
        for sample in samples
    ]
    write_whole(path, json.dumps(tasks, ensure_ascii=False, allow_nan=False))


def _regions(sample: Sample, digits: int) -> list[dict[str, Any]]:
    """A rectangle for each face, and after it its key points."""
    if not sample.width or not sample.height:
        raise DataError(f"{sample.path}: its size is not known, and Label Studio's lengths are in percent of it")
    scale = 100 / np.array([sample.width, sample.height])
    places = np.concatenate([sample.boxes[:, :2], sample.boxes[:, 2:] - sample.boxes[:, :2]], axis=1)
    places, points = (places * np.tile(scale, 2)).round(digits), (sample.landmarks * scale).round(digits)
    scores = np.broadcast_to(np.asarray(sample.attributes.get("score", 1.0), float), len(sample)).round(digits)
    shared = {"original_width": sample.width, "original_height": sample.height, "image_rotation": 0}
    to = {"to_name": "image"} | shared
    regions: list[dict[str, Any]] = []
    for i, (place, score) in enumerate(zip(places.tolist(), scores.tolist(), strict=True)):
        box = dict(zip(("x", "y", "width", "height"), place, strict=True)) | {"rotation": 0}
        face = {"id": f"face-{i}", "type": "rectanglelabels", "from_name": "face", "score": score} | to
        regions.append(face | {"value": box | {"rectanglelabels": ["face"]}})
        for name, (x, y) in zip(sample.schema.points, points[i].tolist(), strict=True):
            if np.isfinite(x):
                point = {
                    "id": f"face-{i}-{name}",
                    "type": "keypointlabels",
                    "from_name": "points",
                    "parentID": f"face-{i}",
                }
                regions.append(point | to | {"value": {"x": x, "y": y, "width": 0.3, "keypointlabels": [name]}})
    return regions


def _sample(task: Task, images: Path, schema: Schema, where: str) -> Sample:
    done = [work.result for work in task.annotations if not work.was_cancelled]
    regions = done[-1] if done else []
    size = next(((r.original_width, r.original_height) for r in regions), (0, 0))
    faces = [region for region in regions if region.type == "rectanglelabels"]
    if any(face.value.rotation for face in faces):
        raise DataError(f"{where}: a rectangle is rotated; draw boxes upright")
    places = np.array([[f.value.x, f.value.y, f.value.width, f.value.height] for f in faces]).reshape(-1, 4)
    boxes = np.concatenate([places[:, :2], places[:, :2] + places[:, 2:]], axis=1)
    points = np.full((len(faces), len(schema), 2), np.nan)
    for region in (region for region in regions if region.type == "keypointlabels"):
        at = np.array([region.value.x, region.value.y])
        for name in region.value.keypointlabels:
            if name not in schema.points:
                raise DataError(f"{where}: key point {name!r}; expected {', '.join(schema.points)}")
            face = _face_of(region, at, [face.id for face in faces], boxes)
            if face is None:
                raise DataError(f"{where}: key point {name!r} lies in no rectangle; draw one around each face")
            if np.isfinite(points[face, schema.points.index(name)]).any():
                raise DataError(f"{where}: a face has two key points {name!r}")
            points[face, schema.points.index(name)] = at
    scale = np.array(size) / 100
    return Sample.of(
        _image(task, images, where), boxes * np.tile(scale, 2), points * scale, size=size, schema=schema, source="own"
    )


def _face_of(region: Region, at: Array, ids: list[str], boxes: Array) -> int | None:
    """Index of the face that a key point belongs to."""
    if region.parent in ids:
        return ids.index(region.parent)
    around = ((boxes[:, :2] <= at) & (at <= boxes[:, 2:])).all(axis=1)
    areas = np.where(around, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1), np.inf)
    return int(areas.argmin()) if around.any() else None


def _image(task: Task, images: Path, where: str) -> Path:
    """The file of a task's image: the first candidate that exists."""
    named = task.data.get("image") or next((value for value in task.data.values() if isinstance(value, str)), None)
    if not isinstance(named, str):
        raise DataError(f"{where}: its data name no image, found {task.data!r:.80}")
    candidates = list(_candidates(PurePosixPath(unquote(named.partition("?d=")[2] or named))))
    return next((images / name for name in candidates if (images / name).exists()), images / candidates[0])


def _candidates(named: PurePosixPath) -> Iterator[str]:
    """Names that an image may have below its folder: with fewer and fewer folders, at last without a prefix."""
    parts = [part for part in named.parts if part != "/"]
    yield from ("/".join(parts[i:]) for i in range(len(parts)))
    if uploaded := UPLOADED.fullmatch(named.name):
        yield uploaded[1]
