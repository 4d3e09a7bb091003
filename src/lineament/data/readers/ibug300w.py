"""300W: 68 landmarks in ``.pts`` files, with its splits."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.data.readers.matlab import read_mat
from lineament.data.readers.parsing import around, expect, laid_out, read_lines, whole_number
from lineament.data.sample import Sample
from lineament.errors import DataError, OptionError
from lineament.schemas import SCHEMAS, Schema, own

logger = logging.getLogger(__name__)

Array = NDArray[Any]

SPLITS: dict[str, tuple[tuple[str, ...], int]] = {
    "train": (("afw", "helen/trainset", "lfpw/trainset"), 3148),
    "common": (("helen/testset", "lfpw/testset"), 554),
    "challenging": (("ibug",), 135),
    "full": (("helen/testset", "lfpw/testset", "ibug"), 689),
    "private-indoor": (("300W/01_Indoor",), 300),
    "private-outdoor": (("300W/02_Outdoor",), 300),
    "private": (("300W/01_Indoor", "300W/02_Outdoor"), 600),
}
"""Folders and number of faces of each split."""

_SUFFIXES = (".jpg", ".png", ".jpeg")


def read_pts(path: str | Path) -> Array:
    """Read the points (k, 2) of a ``.pts`` file in our frame.

    The format counts pixels from 1. The centre of the first pixel is 1, 1 there and 0.5, 0.5 here, so half a pixel is
    subtracted.

    Raises:
        DataError: The head is not ``version``, ``n_points``, ``{``, or the number of points is wrong.
    """
    lines = read_lines(path)
    said = {key.strip(): value.strip() for key, _, value in (line.text.partition(":") for line in lines[:3])}
    opening = next((i for i, line in enumerate(lines) if line.text == "{"), None)
    closing = next((i for i, line in enumerate(lines) if line.text == "}"), None)
    count = whole_number(said.get("n_points", ""))
    if opening is None or closing is None or count is None:
        raise DataError(f"{path}: expected 'version: 1', 'n_points: 68', '{{', a point a line, '}}'")
    points = np.array([line.numbers(least=2) for line in lines[opening + 1 : closing]], float).reshape(-1, 2)
    if len(points) != count:
        raise DataError(f"{path}: n_points says {count}, found {len(points)} points")
    return points - 0.5


def read_300w(folder: str | Path, split: str, *, boxes: str | Path | None = None) -> list[Sample]:
    """Read the faces of a split, one per image.

    Args:
        folder: Folder with ``afw``, ``helen``, ``ibug``, ``lfpw`` and, for the private test set, ``300W``.
        split: One of `SPLITS`.
        boxes: Folder of the official ``bounding_boxes_*.mat`` files, whose ``bb_ground_truth`` (x1 y1 x2 y2, counted
            from 1) is used. ``None``: the tight boxes of the landmarks. Faces without an official box also get these;
            the log has their number.

    Raises:
        DataError: A folder or image is missing, or a file has another form.
        OptionError: The split does not exist.
    """
    if split not in SPLITS:
        raise OptionError(f"unknown split {split!r} of 300W; there are: {', '.join(SPLITS)}")
    folders, published = SPLITS[split]
    official = _official_boxes(Path(boxes)) if boxes else {}
    samples = [
        _sample(file, official.get(f"{part}/{file.stem}"))
        for part in folders
        for file in sorted(_existing(Path(folder) / part).glob("*.pts"))
    ]
    expect(folder, f"faces of split {split!r}", published, len(samples))
    without = [sample.path for sample in samples if boxes and "from-points" in sample.box_source]
    if without:
        logger.warning(
            "%s: no official box for %d of %d faces, which take their points' tight boxes (first: %s)",
            boxes,
            len(without),
            len(samples),
            without[0],
        )
    return samples


def _sample(file: Path, box: Array | None) -> Sample:
    points = read_pts(file)[None]
    return Sample.of(
        _picture(file),
        around(points) if box is None else box,
        points,
        source="300w",
        box_source="from-points" if box is None else "other-convention",
        schema=_schema(points.shape[1]),
    )


def _schema(count: int) -> Schema:
    return SCHEMAS.get(str(count)) or own(f"pts-{count}", [f"point_{i}" for i in range(1, count + 1)])


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; 300W's splits lie in {', '.join(SPLITS['full'][0])} and so on")
    return folder


def _picture(file: Path) -> Path:
    found = next((file.with_suffix(s) for s in _SUFFIXES if file.with_suffix(s).exists()), None)
    if found is None:
        raise DataError(f"{file}: there is no image of that name beside it ({', '.join(_SUFFIXES)})")
    return found


def _official_boxes(folder: Path) -> dict[str, Array]:
    """By folder and image name, such as ``lfpw/testset/image_0001``."""
    found = {}
    for mat in sorted(folder.glob("bounding_boxes_*.mat")):
        part = mat.stem.removeprefix("bounding_boxes_").replace("_", "/")
        with laid_out(mat, "bounding_boxes with imgName and bb_ground_truth"):
            for entry in read_mat(mat)["bounding_boxes"]:
                item = entry[0] if isinstance(entry, list) else entry
                box = np.ravel(item["bb_ground_truth"]).astype(float).reshape(4)
                found[f"{part}/{Path(item['imgName']).stem}"] = box - [1, 1, 0, 0]
    return found
