"""Compare labelled sizes with the images. Labels made on a resized or rotated copy have other coordinates."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lineament.data.sample import Sample
from lineament.errors import DataError, ImageError
from lineament.images import Header, read_header


def check_sizes(samples: Iterable[Sample]) -> None:
    """Compare labelled sizes with the headers of the images.

    Images that cannot be read, and labels without a size, are not checked.

    Raises:
        DataError: Labels have another size than their image. The message names the first such image and counts the
            others.
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
    """Compare the sizes of the images in detections with the labels, or else with the images.

    Args:
        samples: For each: the labels, the ``(width, height)`` of the detections, and their source for messages.

    Raises:
        DataError: The detections are of an image of another size. The message names it.
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
    except ImageError:  # missing or damaged images are reported when their pixels are needed
        return None


def _and_others(count: int) -> str:
    return f" ({count - 1} more like this)" if count > 1 else ""
