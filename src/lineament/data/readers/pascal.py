"""AFW and PASCAL faces, in the annotations of Mathias et al. 2014."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lineament.data.readers.matlab import read_mat
from lineament.data.readers.parsing import expect, laid_out
from lineament.data.sample import Sample
from lineament.errors import DataError

AFW = (205, 545)
PASCAL = (851, 1635)


def read_afw(mat: str | Path, images: str | Path) -> list[Sample]:
    """Read AFW's ``new_annotations_AFW.mat``; see `read_pascal_faces`."""
    return _read(mat, images, "afw", AFW)


def read_pascal_faces(mat: str | Path, images: str | Path) -> list[Sample]:
    """Read ``Annotations_Face_PASCALLayout_large_fixed.mat``: rows ``x1 y1 x2 y2 ? ignore`` for each image.

    Both corners are pixels of the box, counted from 1: 1 is subtracted from the first. The sixth number marks faces to
    ignore. The toolbox also ignores faces below 30 px; this rule is not applied here.

    Args:
        mat: The annotations.
        images: Folder of the images.

    Raises:
        DataError: The file has another form.
        MissingExtraError: SciPy is not installed.
    """
    return _read(mat, images, "pascal", PASCAL)


def _read(mat: str | Path, images: str | Path, source: str, published: tuple[int, int]) -> list[Sample]:
    entries = read_mat(mat).get("Annotations")
    if not isinstance(entries, list) or not all({"imgname", "imgsize", "objects"} <= set(entry) for entry in entries):
        raise DataError(f"{mat}: expected the struct array 'Annotations' with imgname, imgsize and objects")
    samples = []
    for entry in entries:
        with laid_out(mat, f"rows x1 y1 x2 y2 ? ignore and a size of {entry['imgname']}"):
            rows = np.asarray(entry["objects"], float).reshape(-1, np.shape(entry["objects"])[-1] or 4)
            width, height = np.ravel(entry["imgsize"])[:2]
        samples.append(
            Sample.of(
                Path(images) / entry["imgname"],
                rows[:, :4] - [1, 1, 0, 0],
                ignore=rows[:, 5] > 0 if rows.shape[1] > 5 else None,
                size=(int(width), int(height)),
                source=source,
                box_source="other-convention",
            )
        )
    expect(mat, "images", published[0], len(samples))
    expect(mat, "faces", published[1], sum(map(len, samples)))
    return samples
