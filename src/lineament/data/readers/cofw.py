"""COFW: 29 landmarks with occlusion. Images and labels are in one MATLAB 7.3 file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lineament.data.readers.matlab import read_mat
from lineament.data.readers.parsing import expect, from_sizes, laid_out
from lineament.data.sample import HIDDEN, VISIBLE, Sample
from lineament.errors import DataError
from lineament.files import whole
from lineament.schemas import TWENTY_NINE

FACES = {"Tr": 1345, "T": 507}


def read_cofw(mat: str | Path, images: str | Path) -> list[Sample]:
    """Read ``COFW_{train,test}.mat`` or ``..._color.mat``: one face per image. Missing images are written.

    A row of ``phis`` has 29 x, 29 y and 29 occlusion flags. Landmarks count pixels from 1, so half a pixel is
    subtracted. A row of ``bboxes`` is ``x y w h``, with a corner counted from 1.

    Args:
        mat: The file.
        images: Folder for the images, ``<name of mat>-0001.png`` and so on.

    Raises:
        DataError: The file has another form.
        MissingExtraError: h5py is not installed.
    """
    found = read_mat(mat)
    part = next((part for part in FACES if f"phis{part}" in found), None)
    if part is None:
        raise DataError(f"{mat}: expected phisTr or phisT with its images and boxes, found {', '.join(found)}")
    with laid_out(mat, f"COFW's phis{part}, bboxes{part} and Is{part}"):
        phis = np.asarray(found[f"phis{part}"], float).reshape(-1, 3 * len(TWENTY_NINE))
        boxes = np.asarray(found[f"bboxes{part}"], float).reshape(len(phis), 4)
        pictures = found[f"Is{part}"]
    expect(mat, "faces", FACES[part], len(phis))
    paths = [Path(images) / f"{Path(mat).stem}-{i:04d}.png" for i in range(1, len(phis) + 1)]
    for path, picture in zip(paths, pictures, strict=True):
        _write(path, picture)
    points = np.stack([phis[:, :29], phis[:, 29:58]], axis=2) - 0.5
    corners = from_sizes(boxes - [1, 1, 0, 0])
    return [
        Sample.of(
            path,
            corners[i],
            points[i],
            visibility=np.where(phis[i, 58:] > 0, HIDDEN, VISIBLE),
            size=(np.shape(pictures[i])[1], np.shape(pictures[i])[0]),
            source="cofw",
            box_source="other-convention",
            schema=TWENTY_NINE,
        )
        for i, path in enumerate(paths)
    ]


def _write(path: Path, picture: Any) -> None:
    """Images are grey (h, w) or colour (h, w, 3)."""
    if not path.exists():
        with whole(path) as part:
            Image.fromarray(np.ascontiguousarray(picture, np.uint8)).save(part)
