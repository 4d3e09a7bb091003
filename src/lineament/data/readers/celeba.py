"""CelebA: five landmarks and boxes of 202,599 images of one person each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.data.readers.parsing import Line, around, expect, from_sizes, picture_path, read_lines, whole_number
from lineament.data.sample import Sample
from lineament.errors import DataError, OptionError

Array = NDArray[Any]

IMAGES = 202599
PARTITIONS = {"train": (0, 162770), "val": (1, 19867), "test": (2, 19962)}


def read_celeba(
    landmarks: str | Path,
    images: str | Path,
    *,
    boxes: str | Path | None = None,
    partition: str | Path | None = None,
    split: str | None = None,
) -> list[Sample]:
    """Read ``list_landmarks_celeba.txt`` (or ``..._align_...``), optionally with ``list_bbox_celeba.txt``.

    Landmarks are right eye, left eye, nose, right and left mouth corner in whole pixels counted from 0. Half a pixel is
    added.

    Args:
        landmarks: The list of landmarks.
        images: Folder of the images.
        boxes: The list of boxes (``x y w h``) of the images that are not aligned. ``None``: the tight boxes of the
            landmarks.
        partition: ``list_eval_partition.txt``, for ``split``.
        split: "train", "val" or "test". ``None``: all.

    Raises:
        DataError: A file has another form. The message names file and line.
        OptionError: The split does not exist, or has no partition list.
    """
    names, points = _rows(landmarks, width=10, head=2)
    points = points.reshape(-1, 5, 2) + 0.5
    if boxes is None:
        drawn, origin = around(points), "from-points"
    else:
        drawn, origin = from_sizes(_same(boxes, names, _rows(boxes, width=4, head=2))), "other-convention"
    rows = np.arange(len(names))
    if split is not None:
        rows = _members(split, partition, names)
    else:
        expect(landmarks, "images", IMAGES, len(names))
    return [
        Sample.of(picture_path(images, names[i]), drawn[i], points[i], source="celeba", box_source=origin) for i in rows
    ]


def _members(split: str, partition: str | Path | None, names: list[str]) -> Array:
    if split not in PARTITIONS or partition is None:
        raise OptionError(f"split takes a partition list and one of {', '.join(PARTITIONS)}, found {split!r}")
    number, published = PARTITIONS[split]
    parts = _same(partition, names, _rows(partition, width=1, head=0))
    rows = np.flatnonzero(parts[:, 0] == number)
    expect(partition, f"images of split {split!r}", published, len(rows))
    return rows


def _rows(path: str | Path, *, width: int, head: int) -> tuple[list[str], Array]:
    """Names and numbers of a list whose first ``head`` lines are the count and the names of the columns."""
    lines = read_lines(path)
    announced = _announced(lines[0]) if head and lines else None
    body = lines[head:]
    if announced is not None and announced != len(body):
        raise DataError(f"{path}: its first line announces {announced} images, found {len(body)}")
    values = np.array([line.numbers(least=width, start=1) for line in body], float).reshape(-1, width)
    return [line.text.split()[0] for line in body], values


def _announced(line: Line) -> int:
    found = whole_number(line.text)
    if found is None:
        raise DataError(f"{line.where}: expected the number of images, found {line.text[:80]!r}")
    return found


def _same(path: str | Path, names: list[str], rows: tuple[list[str], Array]) -> Array:
    if rows[0] != names:
        raise DataError(f"{path}: its images are not those of the list of landmarks, in the same order")
    return rows[1]
