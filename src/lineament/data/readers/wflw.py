"""WFLW: 98 landmarks, boxes and six attributes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lineament.data.readers.parsing import expect, grouped, picture_path, read_lines
from lineament.data.sample import Sample
from lineament.schemas import NINETY_EIGHT

ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
FACES = {"train": 7500, "test": 2500}
SUBSETS = dict(zip(ATTRIBUTES, (326, 314, 698, 206, 736, 773), strict=True))
"""Faces of the test list with each attribute."""


def read_wflw(txt: str | Path, images: str | Path) -> list[Sample]:
    """Read ``list_98pt_rect_attr_{train,test}.txt``: 98 landmarks, ``x1 y1 x2 y2``, six 0/1 attributes and a name per
    line.

    Landmarks count pixels from 0: half a pixel is added. Faces of one image become one sample.

    Raises:
        DataError: The file has another form. The message names file and line.
    """
    lines = read_lines(txt)
    names = [line.text.split()[-1] for line in lines]
    values = np.array([line.numbers(least=206, stop=-1) for line in lines], float).reshape(-1, 206)
    points, boxes, flags = values[:, :196].reshape(-1, 98, 2) + 0.5, values[:, 196:200], values[:, 200:] > 0
    split = next((split for split in FACES if split in Path(txt).name), "")
    expect(txt, "faces", FACES.get(split), len(lines))
    if split == "test":
        for name, count in zip(ATTRIBUTES, flags.sum(axis=0), strict=True):
            expect(txt, f"faces with {name}", SUBSETS[name], int(count))
    return [
        Sample.of(
            picture_path(images, names[rows[0]]),
            boxes[rows],
            points[rows],
            source="wflw",
            box_source="other-convention",
            schema=NINETY_EIGHT,
            attributes=dict(zip(ATTRIBUTES, flags[rows].T, strict=True)),
        )
        for rows in grouped(names)
    ]
