"""A folder of pictures in which there is no face: nothing but background."""

from __future__ import annotations

from pathlib import Path

from lineament.data.sample import Sample
from lineament.images import image_paths, read_header
from lineament.schemas import FIVE, Schema


def read_faceless(folder: Path, schema: Schema = FIVE) -> list[Sample]:
    """Every picture below the folder, as a sample without faces.

    Raises:
        ImageError: no such folder, no picture in it, or a picture that cannot be read.
    """
    samples = []
    for path in image_paths([folder]):
        samples.append(Sample.of(path, [], size=read_header(path).size, source=folder.name, schema=schema))
    return samples
