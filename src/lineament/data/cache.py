"""Photos decoded once, into one file of pixels that all processes map into their memory."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lineament.data.sample import Sample
from lineament.data.sizes import check_sizes
from lineament.errors import DataError, ImageError
from lineament.files import whole
from lineament.images import read_image
from lineament.parallel import in_order

logger = logging.getLogger(__name__)

Array = NDArray[Any]

AT_ONCE = 64  # photos that decoders may be ahead of writing; bounds the memory


class Photos:
    """A sequence of decoded photos and their labels. Worker processes get it as a path, not as pixels.

    The folder has ``pixels.u8`` (all photos in a row, RGB) and ``index.npz`` (the offset, size and scale of each, and a
    digest of the list of paths). An image that is replaced under its old name is not noticed: remove the folder.

    Attributes:
        samples: The labels of each photo, in pixels of the photo as stored.
    """

    def __init__(self, samples: Sequence[Sample], folder: Path, longest: int = 800) -> None:
        """Open an existing cache.

        Args:
            samples: The samples from which it was built, in the same order.
            folder: Its folder.
            longest: Longer edge in pixels above which photos were scaled down.

        Raises:
            DataError: The cache does not exist, or was built from other photos.
        """
        if not _is_valid(samples, folder, longest):
            raise DataError(f"{folder}: no cache of these {len(samples)} photos; Photos.build() makes it")
        self._arguments = (samples, folder, longest)
        place = {path: row for row, path in enumerate(_paths(samples))}
        rows = [place[sample.path] for sample in samples]
        with np.load(folder / "index.npz") as index:
            names = ("offsets", "heights", "widths", "scales")
            self._offsets, self._heights, self._widths, scales = (index[name][rows] for name in names)
        self._pixels = np.memmap(folder / "pixels.u8", np.uint8, mode="r")
        self.samples = [
            _scaled(sample, *entry)
            for sample, *entry in zip(samples, self._widths.tolist(), self._heights.tolist(), scales, strict=True)
        ]

    @classmethod
    def build(cls, samples: Sequence[Sample], folder: Path, longest: int = 800) -> Photos:
        """Open the cache of these photos. If it does not exist or has other photos, decode them first.

        Args:
            samples: Labelled images. Labels are scaled with them.
            folder: The folder of the cache.
            longest: Photos with a longer edge above this, in pixels, are scaled down to it by averaging.

        Raises:
            DataError: There are no samples, or an image cannot be read or has another size than its labels. The message
                names it, and the folder has no new files.
        """
        if not samples:
            raise DataError(f"{folder}: nothing to cache, the list of photos is empty; is the index the right one?")
        if not _is_valid(samples, folder, longest):
            check_sizes(samples)
            _write(samples, folder, longest)
        return cls(samples, folder, longest)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Array:
        """The photo (h, w, 3) uint8 RGB, a read-only view."""
        h, w = self._heights[index], self._widths[index]
        start = self._offsets[index]
        return np.asarray(self._pixels[start : start + h * w * 3]).reshape(h, w, 3)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


def _paths(samples: Sequence[Sample]) -> list[Path]:
    """Each photo once, however often it is in the list."""
    return list(dict.fromkeys(sample.path for sample in samples))


def _digest(samples: Sequence[Sample], longest: int) -> str:
    paths = map(os.path.abspath, _paths(samples))
    return hashlib.sha256("\n".join([str(longest), *paths]).encode()).hexdigest()


def _is_valid(samples: Sequence[Sample], folder: Path, longest: int) -> bool:
    if not (folder / "index.npz").is_file():
        return False
    with np.load(folder / "index.npz") as index:
        return str(index["digest"]) == _digest(samples, longest)


def _write(samples: Sequence[Sample], folder: Path, longest: int) -> None:
    """Write the pixels first and the index last, so that an unfinished cache has no index."""
    index = folder / "index.npz"
    with whole(index) as index_part, whole(folder / "pixels.u8") as part:
        sizes, scales = [], []
        with part.open("wb") as file:
            paths = _paths(samples)
            for done, (photo, scale) in enumerate(_decoded(paths, longest), 1):
                file.write(photo.data)
                sizes.append(photo.shape[:2])
                scales.append(scale)
                if done % 1000 == 0 or done == len(paths):
                    logger.info("%s: %d of %d photos, %.2f GB", folder, done, len(paths), file.tell() / 1e9)
        heights, widths = np.array(sizes, np.int64).T
        np.savez(
            index_part,
            offsets=np.concatenate([[0], np.cumsum(heights * widths * 3)[:-1]]),
            heights=heights,
            widths=widths,
            scales=np.array(scales),
            digest=_digest(samples, longest),
        )
        index.unlink(missing_ok=True)  # of other photos: it must not remain with new pixels


def _decoded(paths: Sequence[Path], longest: int) -> Iterator[tuple[Array, tuple[float, float]]]:
    with ThreadPoolExecutor() as pool:
        yield from in_order(pool, lambda path: _decode(path, longest), paths, AT_ONCE)


def _decode(path: Path, longest: int) -> tuple[Array, tuple[float, float]]:
    """The photo as it is stored, and the factors of its width and height."""
    try:
        photo = read_image(path)
    except ImageError as error:
        raise DataError(f"a photo of the training data cannot be read: {error}") from error
    h, w = photo.shape[:2]
    if max(h, w) <= longest:
        return photo, (1.0, 1.0)
    size = tuple(max(1, round(side * longest / max(h, w))) for side in (w, h))
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA), (size[0] / w, size[1] / h)


def _scaled(sample: Sample, width: int, height: int, scale: Array) -> Sample:
    if (sample.width, sample.height, *scale) == (width, height, 1, 1):
        return sample
    return replace(
        sample, width=width, height=height, boxes=sample.boxes * np.tile(scale, 2), landmarks=sample.landmarks * scale
    )
