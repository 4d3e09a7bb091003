"""Detections for evaluation: from a file that ``lineament detect --json`` wrote, or from a detector that runs now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from lineament.data.readers.parsing import picture_path
from lineament.data.sample import Sample
from lineament.data.sizes import check_detections, check_sizes
from lineament.errors import DataError, ImageError
from lineament.evaluate.detections import Collector, Tally, rectangles
from lineament.faces import Faces
from lineament.records import Record, read_records
from lineament.schemas import Schema


class Evaluated(NamedTuple):
    """Labelled images and their detections, in the same order.

    Attributes:
        samples: The evaluated images.
        faces: The detections in each image.
        left_out: Number of labelled images without an entry in the detections. They are not evaluated.
        failed: Number of images that could not be read. They are evaluated as images without detections.
        notes: These numbers and anything else that was skipped, with counts, for people.
    """

    samples: list[Sample]
    faces: list[Faces]
    left_out: int = 0
    failed: int = 0
    notes: tuple[str, ...] = ()


_UNREAD = "images that could not be read: their faces are missed"


def detect_all(samples: Iterable[Sample], detect: Callable[[Path], Faces], *, empty: Schema) -> Evaluated:
    """Run a detector on labelled images, one by one.

    Args:
        samples: The images.
        detect: Returns the faces of an image, such as ``Detector.detect``.
        empty: The schema of the detector, for images that cannot be read.

    Raises:
        DataError: No image can be read.
    """
    pictures, faces, tally, failed = [], [], Tally(), 0
    for sample in samples:
        try:
            found = detect(sample.path)
        except ImageError as error:
            tally.add(_UNREAD, str(error))
            found, failed = Faces.empty((sample.width, sample.height), empty), failed + 1
        pictures.append(sample)
        faces.append(found)
    _expect_some(len(pictures) - failed, tally)
    return Evaluated(pictures, faces, failed=failed, notes=tally.notes())


def read_detections(path: str | Path, samples: Sequence[Sample], images: str | Path) -> Evaluated:
    """Read detections from JSON lines, one object per image, and match them with the labelled images.

    Args:
        path: The file, see `read_records`.
        samples: Labelled images.
        images: Folder for relative paths in the file and in ``samples``.

    Raises:
        DataError: A line has another form, or its image is repeated (the message names file and line). No line belongs
            to a labelled image, none of these images could be read, or labels or detections have another size than the
            image.
    """
    found: dict[Path, Record] = {}
    for record in read_records(path):
        place = _place(images, record.path)
        if place in found:
            raise DataError(f"{record.where}: {record.path} is in the file twice")
        found[place] = record
    labelled = {_place(images, sample.path): sample for sample in samples}
    seen = Collector()
    kept: list[tuple[Sample, Record]] = []
    for place, record in found.items():
        if place not in labelled:
            seen.tally.add("images without labels, ignored", f"{record.where}: {record.path}")
            continue
        if record.error:
            seen.tally.add(_UNREAD, f"{record.where}: {record.path}")
        seen.add(record.path, record.where, rectangles(record.faces), [record.where] * len(record.faces))
    for place, sample in labelled.items():
        if place in found:
            kept.append((sample, found[place]))
        else:
            seen.tally.add("labelled images without a line, left out", str(sample.path))
    if not kept:
        raise DataError(
            f"{path}: none of its {len(found)} images is one of the {len(samples)} labelled ones; "
            f"relative paths are looked up in {images}"
        )
    read = [(sample, record) for sample, record in kept if not record.error]
    _expect_some(len(read), seen.tally)
    check_sizes(sample for sample, _ in kept)
    check_detections((sample, record.faces.image_size, record.where) for sample, record in read)
    return Evaluated(
        samples=[sample for sample, _ in kept],
        faces=[record.faces for _, record in kept],
        left_out=len(samples) - len(kept),
        failed=len(kept) - len(read),
        notes=seen.detections().notes,
    )


def _expect_some(read: int, tally: Tally) -> None:
    if not read:
        raise DataError(f"no image could be read, so there is nothing to evaluate: {'; '.join(tally.notes())}")


def _place(images: str | Path, path: str | Path) -> Path:
    here = picture_path("", str(path))
    return here.resolve() if here.is_absolute() or here.exists() else picture_path(images, str(path)).resolve()
