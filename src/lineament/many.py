"""Detection in many images, of which some cannot be read: a record for each, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lineament.detector import Detector, in_groups
from lineament.errors import ImageError
from lineament.images import MAX_PIXELS, Array, Source, read_image
from lineament.records import failed_record, to_record


def records(
    detector: Detector,
    images: Iterable[tuple[str, Source]],
    *,
    threshold: float | None = None,
    min_face: float | None = None,
    max_face: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[dict[str, Any]]:
    """Detect faces in images. A group of a few images is decoded at a time.

    Args:
        detector: Detects the faces.
        images: Names, and images in any form that ``read_image`` takes.
        threshold: As in `Detector.detect`.
        min_face: As in `Detector.detect`.
        max_face: As in `Detector.detect`.
        max_pixels: Larger images are refused.

    Yields:
        Records as ``lineament detect --json`` writes them, of the images that could not be read as well.

    Raises:
        OptionError: An argument is out of range.
    """
    told = detector.describe(threshold=threshold, min_face=min_face)

    def read() -> Iterator[tuple[str, Array | None, str]]:
        for name, source in images:
            try:
                yield name, read_image(source, max_pixels=max_pixels), ""
            except ImageError as error:
                yield name, None, str(error)

    for group in in_groups(read(), lambda item: 0 if item[1] is None else item[1].size // 3):
        arrays = [array for _, array, _ in group if array is not None]
        found = iter(detector.detect(arrays, threshold=threshold, min_face=min_face, max_face=max_face))
        for name, array, error in group:
            if array is None:
                yield failed_record(name, error)
            else:
                yield to_record(name, next(found), method=detector.method, detector=told)
