"""FDDB: ellipses around whole heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.data.readers.parsing import blocks, expect, picture_path, read_lines, table
from lineament.data.sample import Sample
from lineament.errors import DataError

Array = NDArray[Any]

FOLDS = {
    f"FDDB-fold-{number:02}-ellipseList.txt": counts
    for number, *counts in zip(
        range(1, 11),
        (290, 285, 274, 302, 298, 302, 279, 276, 259, 280),
        (515, 519, 517, 517, 514, 518, 518, 518, 514, 521),
        strict=True,
    )
}
"""Images and faces of each fold."""


def read_fddb(lists: str | Path | Sequence[str | Path], images: str | Path) -> list[Sample]:
    """Read ``FDDB-fold-NN-ellipseList.txt``: name, number of faces, and ``major_radius minor_radius angle x y 1`` for
    each face.

    Centres count whole pixels from 0: half a pixel is added. The box is the upright box of the ellipse. The ellipse
    itself (radii, angle, centre in our frame) is the attribute ``ellipse``, (n, 5).

    Args:
        lists: One file, several, or the folder with all ten.
        images: Folder for the names. ``.jpg`` is added.

    Raises:
        DataError: A file has another form (the message names file and line), or the folder has no such file.
    """
    files = [Path(lists)] if isinstance(lists, str | Path) else list(map(Path, lists))
    if len(files) == 1 and files[0].is_dir():
        (folder,) = files
        files = sorted(folder.glob("FDDB-fold-*-ellipseList.txt"))
        if not files:
            raise DataError(f"{folder}: expected files FDDB-fold-NN-ellipseList.txt in this folder, found none")
        expect(folder, "folds", len(FOLDS), len(files))
    samples = []
    for file in files:
        fold = [
            _sample(picture_path(images, f"{name.text}.jpg"), table(rows, least=5, most=6))
            for name, rows in blocks(read_lines(file))
        ]
        pictures, faces = FOLDS.get(file.name, (None, None))
        expect(file, "images", pictures, len(fold))
        expect(file, "faces", faces, sum(map(len, fold)))
        samples += fold
    return samples


def upright(ellipses: Array) -> Array:
    """Upright boxes (n, 4) of ellipses (n, 5): major and minor radius, angle in radians, centre."""
    major, minor, angle = ellipses[:, :3].T
    half = np.hypot([major * np.cos(angle), major * np.sin(angle)], [minor * np.sin(angle), minor * np.cos(angle)]).T
    return np.concatenate([ellipses[:, 3:5] - half, ellipses[:, 3:5] + half], axis=1)


def _sample(path: Path, rows: Array) -> Sample:
    ellipses = rows[:, :5] + [0, 0, 0, 0.5, 0.5]
    return Sample.of(
        path, upright(ellipses), source="fddb", box_source="other-convention", attributes={"ellipse": ellipses}
    )
