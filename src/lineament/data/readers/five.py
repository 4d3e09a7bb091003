"""The five-landmark lists of Sun et al. 2013 (LFW and web images) and of MTFL.

Landmarks are right eye, left eye, nose, right and left mouth corner, in pixels counted from 0. Half a pixel is added.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lineament.data.readers.parsing import around, expect, picture_path, read_lines
from lineament.data.sample import Sample
from lineament.errors import DataError

SUN = {"train": 10000, "test": 3466}
MTFL = {"training": 10000, "testing": 2995}
MTFL_ATTRIBUTES = {
    "gender": ("", "male", "female"),
    "smile": ("", "smiling", "not smiling"),
    "glasses": ("", "glasses", "no glasses"),
    "pose": ("", "left profile", "left", "frontal", "right", "right profile"),
}


def read_sun(txt: str | Path, images: str | Path) -> list[Sample]:
    """Read ``trainImageList.txt`` or ``testImageList.txt``: name, box as ``left right top bottom``, five times ``x y``.

    Raises:
        DataError: The file has another form. The message names file and line.
    """
    lines = read_lines(txt)
    values = np.array([line.numbers(least=14, start=1) for line in lines], float).reshape(-1, 14)
    boxes, points = values[:, [0, 2, 1, 3]], values[:, 4:].reshape(-1, 5, 2) + 0.5
    expect(txt, "faces", next((n for split, n in SUN.items() if split in Path(txt).name), None), len(lines))
    return [
        Sample.of(
            picture_path(images, line.text.split()[0]),
            boxes[i],
            points[i],
            source="sun2013",
            box_source="other-convention",
        )
        for i, line in enumerate(lines)
    ]


def read_mtfl(txt: str | Path, images: str | Path) -> list[Sample]:
    """Read ``training.txt`` or ``testing.txt``: name, five x, five y, then gender, smile, glasses, pose as numbers from
    1.

    The list has no boxes: they are the tight boxes of the landmarks. Attributes become words (`MTFL_ATTRIBUTES`).

    Raises:
        DataError: The file has another form. The message names file and line.
    """
    lines = read_lines(txt)
    values = np.array([line.numbers(least=14, start=1) for line in lines], float).reshape(-1, 14)
    points = np.stack([values[:, :5], values[:, 5:10]], axis=2) + 0.5
    boxes = around(points)
    codes = values[:, 10:].astype(int)
    most = [len(labels) - 1 for labels in MTFL_ATTRIBUTES.values()]
    strange = ((codes < 0) | (codes > most)).any(axis=1)
    if strange.any():
        where = lines[int(strange.argmax())].where
        raise DataError(f"{where}: expected {', '.join(MTFL_ATTRIBUTES)} as numbers up to {most}")
    words = {name: np.array(labels)[codes[:, i]] for i, (name, labels) in enumerate(MTFL_ATTRIBUTES.items())}
    expect(txt, "faces", next((n for split, n in MTFL.items() if split in Path(txt).name), None), len(lines))
    return [
        Sample.of(
            picture_path(images, line.text.split()[0]),
            boxes[i],
            points[i],
            source="mtfl",
            box_source="from-points",
            attributes={name: column[i : i + 1] for name, column in words.items()},
        )
        for i, line in enumerate(lines)
    ]
