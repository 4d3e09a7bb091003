"""A folder of images without faces, for backgrounds."""

from __future__ import annotations

from pathlib import Path

from lineament.data.sample import Sample
from lineament.images import image_paths, read_header
from lineament.schemas import FIVE, Schema


def read_faceless(folder: Path, schema: Schema = FIVE) -> list[Sample]:
    """Read every image in the folder, at any depth, as a sample without faces.

    Raises:
        ImageError: The folder does not exist or has no image, or an image cannot be read.
    """
    samples = []
    for path in image_paths([folder]):
        samples.append(Sample.of(path, [], size=read_header(path).size, source=folder.name, schema=schema))
    return samples
