"""A folder of pictures in which there is no face: nothing but background."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from lineament.data.sample import Sample
from lineament.images import image_paths
from lineament.schemas import FIVE, Schema


def read_faceless(folder: Path, schema: Schema = FIVE) -> list[Sample]:
    """Every picture below the folder, as a sample without faces.

    Raises:
        ImageError: no such folder, or no picture in it.
    """
    samples = []
    for path in image_paths([folder]):
        with Image.open(path) as picture:
            samples.append(Sample.of(path, [], size=picture.size, source=folder.name, schema=schema))
    return samples
