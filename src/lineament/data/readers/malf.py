"""MALF, multi-attribute labelled faces: the 250 images with public labels."""

from __future__ import annotations

from pathlib import Path

from lineament.data.readers.parsing import blocks, expect, from_sizes, picture_path, read_lines, table
from lineament.data.sample import Sample

IMAGES = 250


def read_malf(txt: str | Path, images: str | Path) -> list[Sample]:
    """Read blocks of a name, a number of faces, and ``x y w h`` with an optional ignore flag for each face.

    Boxes are squares, with left and top counted from 0. Faces below 20 px are ignored even without the flag, as the
    rules of the set say. The labels of the other 5,000 images are not public, and neither is a description of the
    files: this is the layout of lists derived from them.

    Raises:
        DataError: The file has another form. The message names file and line.
    """
    samples = []
    for name, rows in blocks(read_lines(txt)):
        values = table(rows, least=4, most=5)
        ignore = (values[:, 4] > 0) | (values[:, 2:4] < 20).any(axis=1)
        samples.append(
            Sample.of(
                picture_path(images, name.text),
                from_sizes(values),
                ignore=ignore,
                source="malf",
                box_source="other-convention",
            )
        )
    expect(txt, "images", IMAGES, len(samples))
    return samples
