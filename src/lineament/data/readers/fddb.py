"""FDDB: ellipses round whole heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.data.readers.parsing import blocks, expect, read_lines, table
from lineament.data.sample import Sample

Array = NDArray[Any]

FOLDS, PICTURES, FACES = 10, 2845, 5171


def read_fddb(lists: str | Path | Sequence[str | Path], images: str | Path) -> list[Sample]:
    """``FDDB-fold-NN-ellipseList.txt``: name, number of faces, ``major_radius minor_radius angle x y 1`` a face.

    Centres count whole pixels from 0: half a pixel is added. The box is the ellipse's upright box; the ellipse itself
    (radii, angle, centre in our frame) is the attribute ``ellipse``, (n, 5).

    Args:
        lists: one file, several, or the folder that holds all ten.
        images: folder that the names start from; ``.jpg`` is added.

    Raises:
        DataError: file and line are named.
    """
    if isinstance(lists, str | Path):
        folder = Path(lists)
        files: Sequence[str | Path] = (
            sorted(folder.glob("FDDB-fold-*-ellipseList.txt")) if folder.is_dir() else [folder]
        )
    else:
        files = lists
    samples = [
        _sample(Path(images) / f"{name.text}.jpg", table(rows, least=5, most=6))
        for file in files
        for name, rows in blocks(read_lines(file))
    ]
    if len(files) == FOLDS:
        expect("FDDB", "pictures", PICTURES, len(samples))
        expect("FDDB", "faces", FACES, sum(map(len, samples)))
    return samples


def upright(ellipses: Array) -> Array:
    """(n, 4) boxes of ellipses (n, 5): major and minor radius, angle in radians, centre."""
    major, minor, angle = ellipses[:, :3].T
    half = np.hypot([major * np.cos(angle), major * np.sin(angle)], [minor * np.sin(angle), minor * np.cos(angle)]).T
    return np.concatenate([ellipses[:, 3:5] - half, ellipses[:, 3:5] + half], axis=1)


def _sample(path: Path, rows: Array) -> Sample:
    ellipses = rows[:, :5] + [0, 0, 0, 0.5, 0.5]
    return Sample.of(
        path, upright(ellipses), source="fddb", box_source="other-convention", attributes={"ellipse": ellipses}
    )
