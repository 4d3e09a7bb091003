"""Crops for training: square windows around and beside faces, sets of labelled crops on disk, and crops out of these.

The frame of a crop has coordinates from 0 to 1. A patch shows the same as a crop with a margin around it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.data.canvases import warp

Array = NDArray[Any]

MIRROR = np.array([[-1.0, 0, 1], [0, 1, 0]])  # of the frame


def jittered(rng: np.random.Generator, boxes: Array, each: int) -> Array:
    """Squares around boxes (n, 4), ``each`` per box: 0.8 to 1.25 times its size, moved by up to a fifth of it."""
    boxes = np.repeat(boxes, each, axis=0).astype(np.float64)
    size = boxes[:, 2:] - boxes[:, :2]
    shorter, longer = size.min(axis=1, initial=np.inf), size.max(axis=1, initial=0)
    side = rng.uniform(0.8 * shorter, 1.25 * longer)
    centre = box_ops.centre(boxes) + rng.uniform(-0.2, 0.2, (len(boxes), 2)) * size
    return _squares(centre, side)


def astray(rng: np.random.Generator, boxes: Array, image_size: tuple[int, int], each: int, anywhere: int) -> Array:
    """Squares that mostly miss: ``each`` near every box and of similar size, and ``anywhere`` over the image.

    Args:
        rng: Random numbers.
        boxes: (n, 4).
        image_size: ``(width, height)`` in pixels.
        each: Number of squares near each box.
        anywhere: Number of squares over the image.
    """
    boxes = np.repeat(boxes, each, axis=0).astype(np.float64)
    size = box_ops.longer_side(boxes)
    near = box_ops.centre(boxes) + rng.uniform(-1, 1, (len(boxes), 2)) * size[:, None]
    sides = np.exp(rng.uniform(np.log(12), np.log(max(min(image_size), 13)), anywhere))
    centres = rng.uniform(0, 1, (anywhere, 2)) * image_size
    return np.concatenate([_squares(near, size * rng.uniform(0.4, 1.6, len(size))), _squares(centres, sides)])


def _squares(centre: Array, side: Array) -> Array:
    half = side[:, None] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


class CropSet:
    """Labelled crops on disk, memory-mapped.

    Attributes:
        pixels: (n, size, size, 3) uint8 RGB.
        labels: Arrays over the crops by name.
    """

    def __init__(self, folder: Path) -> None:
        arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
        self.pixels: Array = arrays.pop("pixels")
        self.labels: dict[str, Array] = arrays

    @staticmethod
    def is_there(folder: Path, digest: str) -> bool:
        """Whether the folder has a finished set with this digest."""
        made_from = folder / "digest"
        return made_from.exists() and made_from.read_text() == digest

    def __len__(self) -> int:
        return len(self.pixels)


class CropSetWriter:
    """Write labelled crops to a folder, which becomes a set when all are written.

    with CropSetWriter(folder, 12, digest) as writer:
        writer.add(crops, points=points)
    """

    def __init__(self, folder: Path, size: int, digest: str) -> None:
        """Begin a set. The folder is emptied.

        Args:
            folder: Folder of the set.
            size: Side of the crops in pixels.
            digest: Digest of everything that the crops are made from.
        """
        self._folder, self._shape, self._digest = folder, (size, size, 3), digest
        self._labels: list[dict[str, Array]] = []
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def __enter__(self) -> Self:
        self._raw = (self._folder / "pixels.part").open("wb")
        return self

    def add(self, crops: Array, **labels: Array) -> None:
        """Add crops (n, size, size, 3) uint8 with their labels, arrays over n."""
        self._raw.write(np.ascontiguousarray(crops).data)
        self._labels.append(labels)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the labels and the header of the pixel file. The digest comes last and marks the set as complete."""
        self._raw.close()
        part = self._folder / "pixels.part"
        if kind is None and self._labels:
            labels = {name: np.concatenate([some[name] for some in self._labels]) for name in self._labels[0]}
            n = len(next(iter(labels.values())))
            pixels = open_memmap(self._folder / "pixels.npy", mode="w+", dtype=np.uint8, shape=(n, *self._shape))
            raw = np.memmap(part, np.uint8, mode="r", shape=(n, *self._shape)) if n else pixels
            for start in range(0, n, 65536):
                pixels[start : start + 65536] = raw[start : start + 65536]
            pixels.flush()
            for name, values in labels.items():
                np.save(self._folder / f"{name}.npy", values)
            (self._folder / "digest").write_text(self._digest)
        part.unlink()


@dataclass(frozen=True)
class Jitter:
    """Jitter of crops around a face: standard deviations of normal distributions.

    Attributes:
        turn: Rotation in degrees.
        scale: Natural logarithm of the scale.
        shift: Shift along each axis, relative to the side of the crop.
    """

    turn: float
    scale: float
    shift: float

    def draw(self, rng: np.random.Generator, n: int) -> Array:
        """Random similarity transforms (n, 2, 3) of the frame, around its centre."""
        angle, scale = np.deg2rad(self.turn) * rng.standard_normal(n), np.exp(self.scale * rng.standard_normal(n))
        a, b = scale * np.cos(angle), scale * np.sin(angle)
        linear = np.stack([np.stack([a, -b], -1), np.stack([b, a], -1)], -2)
        middle = np.full(2, 0.5)
        shift = middle - linear @ middle + self.shift * rng.standard_normal((n, 2))
        return np.concatenate([linear, shift[..., None]], axis=2)


def mirrored(moves: Array, flip: Array) -> Array:
    """Transforms of the frame (n, 2, 3), those of which ``flip`` (n,) is true followed by its mirror image."""
    return np.where(flip[:, None, None], MIRROR[:, :2] @ moves + MIRROR * [0, 0, 1], moves)


def recut(patches: Array, rows: Array, moves: Array, *, size: int, reach: float) -> Array:
    """Cut crops out of patches (m, side, side, 3) uint8.

    Args:
        patches: The patches.
        rows: (n,) indices of the patches.
        moves: (n, 2, 3) similarity transforms of the frame, mirrored or not.
        size: Side of the crops in pixels.
        reach: Side of a patch relative to the frame.

    Returns:
        (n, size, size, 3) uint8, black beyond the patches.
    """
    side = patches.shape[1]
    pixels = np.empty((len(rows), size, size, 3), np.uint8)
    # patch to frame is a scale around the centre, and so is frame to crop
    linear = moves[:, :, :2] * (reach * size / side)
    shift = size * (moves @ [0.5, 0.5, 1]) - linear @ [side / 2, side / 2]
    for crop, row, matrix in zip(pixels, rows, np.concatenate([linear, shift[..., None]], axis=2), strict=True):
        crop[:] = warp(patches[row], matrix, (size, size), cv2.BORDER_CONSTANT, (0, 0, 0))
    return pixels
