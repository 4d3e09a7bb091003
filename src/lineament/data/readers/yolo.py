"""YOLO's text files: a line for each face, ``class cx cy w h x y v x y v ...`` in shares of the image's size.

This is what Ultralytics' pose models train on. YOLO-face files without the visibility ``v`` are read as well, and
results with a confidence score at the end of each line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.data.readers.parsing import Line, read_lines
from lineament.data.sample import HIDDEN, NOT_LABELLED, VISIBLE, Sample
from lineament.errors import DataError, OptionError
from lineament.files import write_whole
from lineament.images import image_paths, read_header
from lineament.schemas import FIVE, Schema

Array = NDArray[Any]

DATA = "data.yaml"


def read_yolo(labels: str | Path, images: str | Path, *, schema: Schema = FIVE) -> list[Sample]:
    """Read the label of each image: ``a/b.txt`` below ``labels`` for ``a/b.jpg`` below ``images``.

    Args:
        labels: Folder of the text files.
        images: Folder of the images.
        schema: The schema of the key points.

    Returns:
        One sample per image. An image without a text file has no faces. Results with scores have the attribute
        ``score``.

    Raises:
        DataError: A line has another form. The message names file and line.
        ImageError: There is no image, or one cannot be read.
    """
    labels, root = Path(labels), Path(images)
    if not labels.is_dir():
        raise DataError(f"{labels}: expected a folder of YOLO's text files")
    samples = []
    for path in image_paths([root]):
        file = labels / path.relative_to(root).with_suffix(".txt")
        lines = read_lines(file) if file.exists() else []
        samples.append(_sample(path, read_header(path).size, lines, schema))
    return samples


def _sample(path: Path, size: tuple[int, int], lines: Sequence[Line], schema: Schema) -> Sample:
    k = len(schema)
    rows = [line.numbers(least=5, most=6 + 3 * k) for line in lines]
    forms = {5 + columns * k + score: (columns, score) for columns in (0, 2, 3) for score in (0, 1)}
    for line, row in zip(lines, rows, strict=True):
        if len(row) not in forms or len(row) != len(rows[0]):
            raise DataError(
                f"{line.where}: expected class, box and {k} key points as x y or x y v, in the same form in each line, "
                f"found {len(row)} numbers; another schema?"
            )
    columns, scored = forms[len(rows[0])] if rows else (0, 0)
    table = np.array(rows, float).reshape(len(rows), 5 + columns * k + scored)
    centre, sides = table[:, 1:3] * size, table[:, 3:5] * size
    boxes = np.concatenate([centre - sides / 2, centre + sides / 2], axis=1)
    points = table[:, 5 : 5 + columns * k].reshape(len(rows), k if columns else 0, columns or 2)
    if not columns:
        points = np.full((len(rows), k, 2), -1.0)
    there = (points[..., :2] > 0).any(axis=2)  # missing are zeros, or -1
    seen = np.where(there, points[..., 2] if columns == 3 else VISIBLE, NOT_LABELLED)
    if not np.isin(seen, (NOT_LABELLED, HIDDEN, VISIBLE)).all():
        seen = np.where(seen > 0, VISIBLE, NOT_LABELLED)  # of results: a score
    scores = {"score": table[:, -1]} if scored else {}
    return Sample.of(
        path, boxes, points[..., :2] * size, visibility=seen, size=size, schema=schema, source="yolo", attributes=scores
    )


def write_yolo(folder: str | Path, samples: Sequence[Sample], *, images: str | Path, digits: int = 6) -> None:
    """Write a text file for each image, and ``data.yaml`` with the number of key points and their mirror partners.

    Boxes are clipped to the image, and key points outside are marked as missing: training refuses others. Faces with
    ``ignore`` are left out.

    Args:
        folder: A new or empty folder.
        samples: The images, with their sizes, of one schema.
        images: Folder of the images, whose folders the text files have as well.
        digits: Decimals.

    Raises:
        DataError: A sample has no size, lies outside ``images``, or has the text file of another one.
        OptionError: The folder is not empty.
    """
    folder, root = Path(folder), Path(images).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder} is there and not an empty folder; text files of other images would stay in it")
    schema = samples[0].schema if samples else FIVE
    of: dict[Path, Sample] = {}
    for sample in samples:
        if sample.schema != schema:
            raise DataError(f"{sample.path}: its schema is {sample.schema.name!r}, the first one's {schema.name!r}")
        if not sample.path.resolve().is_relative_to(root):
            raise DataError(f"{sample.path} lies outside {images}, the folder of the images")
        target = folder / sample.path.resolve().relative_to(root).with_suffix(".txt")
        if target in of:
            raise DataError(f"{of[target].path} and {sample.path} have the same text file {target}; rename one")
        of[target] = sample
    for target, sample in of.items():
        write_whole(target, "".join(_lines(sample, digits)))
    flip = ", ".join(map(str, schema.mirror))
    write_whole(folder / DATA, f"kpt_shape: [{len(schema)}, 3]\nflip_idx: [{flip}]\nnames:\n  0: face\n")


def _lines(sample: Sample, digits: int) -> list[str]:
    if not sample.width or not sample.height:
        raise DataError(f"{sample.path}: its size is not known, and YOLO's lengths are shares of it")
    size = np.array([sample.width, sample.height])
    corners = np.clip(sample.boxes / np.tile(size, 2), 0, 1)
    boxes = np.concatenate([box_ops.centre(corners), corners[:, 2:] - corners[:, :2]], axis=1)
    points = sample.landmarks / size
    inside = ((points >= 0) & (points <= 1)).all(axis=2) & (sample.visibility > NOT_LABELLED)
    seen = np.where(inside, sample.visibility, NOT_LABELLED)[..., None]
    rows = np.concatenate([np.where(inside[..., None], points, 0), seen], axis=2)
    return [
        " ".join(["0", *(f"{value:.{digits}f}" for value in box), *(f"{v:.{digits}g}" for v in row.ravel())]) + "\n"
        for box, row, ignored in zip(boxes, rows, sample.ignore, strict=True)
        if not ignored
    ]
