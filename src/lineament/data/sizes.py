"""Sizes that labels give, held against the images: labels made on a resized or turned copy are of another frame."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lineament.data.sample import Sample
from lineament.errors import DataError, ImageError
from lineament.images import Header, read_header


def check_sizes(samples: Iterable[Sample]) -> None:
    """Hold labelled sizes against the headers of the images.

    Images that cannot be read, and labels without a size, pass.

    Raises:
        DataError: labels are of another size than their image; names the first such image and counts the others.
    """
    wrong = []
    for sample in samples:
        header = _header(sample.path) if sample.width and sample.height else None
        if header and (sample.width, sample.height) != header.size:
            wrong.append((sample, header))
    if wrong:
        sample, header = wrong[0]
        raise DataError(
            f"{sample.path}: its labels are of an image of {sample.width}x{sample.height}, but it is {header}"
            f"{_and_others(len(wrong))}; make the labels on the upright image, or bring them to its size"
        )


def check_detections(samples: Iterable[tuple[Sample, tuple[int, int], str]]) -> None:
    """Hold the sizes of images that detections were found in against the labels', or else against the images.

    Args:
        samples: labels, ``(width, height)`` that the detections give, and their place for messages.

    Raises:
        DataError: the detections are of an image of another size; the message names it.
    """
    wrong = []
    for sample, found, where in samples:
        size: tuple[int, int] | None = (sample.width, sample.height)
        if not all(size or ()):
            header = _header(sample.path)
            size = header.size if header else None
        if size and size != found:
            wrong.append((where, sample, size, found))
    if wrong:
        where, sample, size, found = wrong[0]
        raise DataError(
            f"{where}: detections in an image of {found[0]}x{found[1]}, but {sample.path} is labelled at "
            f"{size[0]}x{size[1]}{_and_others(len(wrong))}; detect in the labelled images themselves"
        )


def _header(path: Path) -> Header | None:
    try:
        return read_header(path)
    except ImageError:  # missing or damaged: that is told where its pixels are needed
        return None


def _and_others(count: int) -> str:
    return f" ({count - 1} more like this)" if count > 1 else ""
