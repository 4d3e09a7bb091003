"""WIDER FACE: the official text and MATLAB annotations, and the five landmarks of RetinaFace.

Boxes are left, top, width, height in pixels counted from 0, which is our frame. RetinaFace's landmarks count whole
pixels: half a pixel is added.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.data.readers.matlab import read_mat
from lineament.data.readers.parsing import blocks, expect, from_sizes, laid_out, picture_path, read_lines, table
from lineament.data.sample import HIDDEN, VISIBLE, Sample
from lineament.errors import DataError
from lineament.schemas import FIVE

Array = NDArray[Any]

ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
IMAGES = {"train": 12880, "val": 3226}
FACES = {"val": 39708}


def read_wider(txt: str | Path, images: str | Path) -> list[Sample]:
    """Read ``wider_face_{train,val}_bbx_gt.txt``: name, number of faces, then ``x y w h`` and six attributes for each
    face.

    Args:
        txt: The annotation file.
        images: Folder for the names (``.../images``).

    Returns:
        One sample per image, with attributes by name. Faces marked as invalid, or without extent, are ignored. The row
        of zeros that stands for "no face" is left out.

    Raises:
        DataError: The file has another form. The message names file and line.
    """
    samples = []
    lines = read_lines(txt)
    # An image without faces has the count 0 and yet one row, of zeros.
    kept = [line for i, line in enumerate(lines) if not (i and lines[i - 1].text == "0" and line.text.startswith("0 "))]
    for name, rows in blocks(kept):
        values = table(rows, least=4, most=10)
        samples.append(_sample(picture_path(images, name.text), values[:, :4], values[:, 4:]))
    _expect(txt, samples)
    return samples


def read_wider_mat(mat: str | Path, images: str | Path) -> list[Sample]:
    """Read ``wider_face_{train,val}.mat`` of either MATLAB version: the same labels as `read_wider`, by event.

    Raises:
        DataError: The file is not a MATLAB file, or lacks the lists.
        MissingExtraError: SciPy or h5py is not installed.
    """
    found = read_mat(mat)
    samples = []
    with laid_out(mat, "WIDER FACE's lists event_list, file_list and face_bbx_list"):
        events, files, boxes = found["event_list"], found["file_list"], found["face_bbx_list"]
        labels = [found.get(f"{name}_label_list") for name in ATTRIBUTES]
        for e, event in enumerate(events):
            for f, file in enumerate(files[e]):
                rows = np.asarray(boxes[e][f], float).reshape(-1, 4)
                columns = [
                    np.full(len(rows), np.nan) if label is None else np.ravel(label[e][f]).astype(float)
                    for label in labels
                ]
                path = Path(images) / event / f"{file}.jpg"
                samples.append(_sample(path, rows, np.stack(columns, axis=1)))
    _expect(mat, samples)
    return samples


def read_retinaface(txt: str | Path, images: str | Path) -> list[Sample]:
    """Read RetinaFace's ``label.txt``: ``# name``, then for each face ``x y w h``, five times ``x y flag``, and a blur
    score.

    Rows may end after the box. A landmark of -1 is not labelled. Flag 0 is visible, 1 hidden. Half a pixel is added to
    the landmarks.

    Raises:
        DataError: The file has another form. The message names file and line.
    """
    lines = read_lines(txt)
    starts = [i for i, line in enumerate(lines) if line.text.startswith("#")]
    if lines and (not starts or starts[0] > 0):
        raise DataError(f"{lines[0].where}: expected '# ' and the name of an image, found {lines[0].text[:80]!r}")
    samples = []
    for start, end in pairwise([*starts, len(lines)]):
        values = table(lines[start + 1 : end], least=4, most=20)
        points = np.nan_to_num(values[:, 4:19], nan=-1).reshape(-1, 5, 3)
        labelled = np.logical_and.reduce(points[..., :2] >= 0, axis=2)
        samples.append(
            Sample.of(
                picture_path(images, lines[start].text.lstrip("# ")),
                from_sizes(values),
                np.where(labelled[..., None], points[..., :2] + 0.5, np.nan),
                visibility=np.where(points[..., 2] > 0, HIDDEN, VISIBLE),
                ignore=(values[:, 2:4] <= 0).any(axis=1),
                source="wider",
                attributes={"quality": values[:, 19]},
            )
        )
    _expect(txt, samples)
    return samples


def _sample(path: Path, boxes: Array, attributes: Array) -> Sample:
    named = dict(zip(ATTRIBUTES, np.nan_to_num(attributes).T.astype(np.uint8), strict=True))
    ignore = (named["invalid"] == 1) | (boxes[:, 2:] <= 0).any(axis=1)
    return Sample.of(path, from_sizes(boxes), ignore=ignore, source="wider", schema=FIVE, attributes=named)


def _expect(path: str | Path, samples: list[Sample]) -> None:
    """The split is in the name of the file or, with RetinaFace, of its folder."""
    names = f"{Path(path).name} {Path(path).parent.name}"
    split = min((split for split in IMAGES if split in names), key=names.index, default="")
    expect(path, "images", IMAGES.get(split), len(samples))
    expect(path, "faces", FACES.get(split), sum(map(len, samples)))
