"""What the network learns from: faces cut out upright with room around them, and crops placed anew in each batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lineament import similarity
from lineament.data.canvases import warp
from lineament.data.crops import CropSet, CropSetWriter
from lineament.data.sample import HIDDEN, NOT_LABELLED, Sample
from lineament.errors import DataError
from lineament.images import read_image
from lineament.methods.isnet import frame
from lineament.schemas import FIVE, MAPS, Schema, convert
from lineament.similarity import transform

Array = NDArray[Any]
_log = logging.getLogger(__name__)

REACH = 1.75  # side of a patch over that of the crop: room for shifted, turned and smaller crops
HIDDEN_WEIGHT = 0.1  # of points under a mask or a hand, which are guesses
AT_ONCE = 64  # photos that the cutting may be ahead of the file: what bounds the memory
MIRROR = np.array([[-1.0, 0, 1], [0, 1, 0]])  # of the frame


@dataclass(frozen=True)
class Jitter:
    """How crops differ from those that labelled points place: standard deviations of normal distributions.

    Attributes:
        turn: in degrees. scale: of the natural logarithm. shift: along each axis, over the crop's side.
    """

    turn: float
    scale: float
    shift: float

    def draw(self, rng: np.random.Generator, n: int) -> Array:
        """(n, 2, 3) similarities of the frame, around its middle."""
        angle, scale = np.deg2rad(self.turn) * rng.standard_normal(n), np.exp(self.scale * rng.standard_normal(n))
        a, b = scale * np.cos(angle), scale * np.sin(angle)
        linear = np.stack([np.stack([a, -b], -1), np.stack([b, a], -1)], -2)
        middle = np.full(2, 0.5)
        shift = middle - linear @ middle + self.shift * rng.standard_normal((n, 2))
        return np.concatenate([linear, shift[..., None]], axis=2)


@dataclass(frozen=True)
class Cutting:
    """How faces are cut out.

    Attributes:
        schema: what the network shall find. side: of the patches in pixels. zoom: of the frame.
        reach: side of a patch over that of the frame.
        smallest: faces whose box has a shorter longer side, in pixels, are left out.
        detected: weight of points that a machine set, those people set having 1; 0 leaves their faces out.
        jitter: how patches differ from the labels' frames; ``None`` for not at all.
    """

    schema: Schema
    side: int
    zoom: float
    reach: float
    smallest: float
    detected: float
    jitter: Jitter | None = None


def cut(samples: Sequence[Sample], folder: Path, digest: str, cutting: Cutting) -> CropSet:
    """Cut a patch of every face that can be learned from, and keep the set in a folder.

    Its labels, in units of the frame, are ``points`` (n, K, 2) and their ``weights`` (n, K) in [0, 1], both 0 where a
    point is not known; and ``five`` (n, 5, 2) with ``five_weights`` (n, 5) for faces of which no more is known, which
    teach a larger schema through the map to five.

    Args:
        samples: photos with points of the schema or with five. folder: where the set goes.
        digest: stands for all that decides the set. cutting: how faces are cut out.

    Raises:
        DataError: no face is left.
    """
    rng = np.random.default_rng(0)
    with CropSetWriter(folder, cutting.side, digest) as writer, ThreadPoolExecutor() as pool:
        faces = 0
        for start in range(0, len(samples), AT_ONCE):
            group = samples[start : start + AT_ONCE]
            seeds = rng.integers(2**32, size=len(group)).tolist()
            for pixels, labels in pool.map(lambda sample, seed: _patches(sample, cutting, seed), group, seeds):
                writer.add(pixels, **labels)
                faces += len(pixels)
        if not faces:
            raise DataError(
                f"no face of {cutting.smallest} pixels or more with its points among {len(samples)} photos: "
                "nothing to learn from"
            )
    _log.info("%s: %d faces of %d photos", folder, faces, len(samples))
    return CropSet(folder)


def _patches(sample: Sample, cutting: Cutting, seed: int) -> tuple[Array, dict[str, Array]]:
    """Patches of a photo's faces with their labels."""
    five = convert(sample.landmarks, sample.schema, FIVE)
    sides = (sample.boxes[:, 2:] - sample.boxes[:, :2]).max(axis=1, initial=0)
    trust = np.where(sample.landmark_source == "human", 1.0, cutting.detected)[:, None]
    counted = ~sample.ignore & (trust[:, 0] > 0) & (sides >= cutting.smallest)
    rows = np.flatnonzero(counted & np.isfinite(five).all(axis=(1, 2)))
    to_frame = frame.matrices(five[rows], sample.boxes[rows], cutting.zoom)
    if cutting.jitter:
        to_frame = _after(to_frame, cutting.jitter.draw(np.random.default_rng(seed), len(rows)))
    weights = np.select([sample.visibility == NOT_LABELLED, sample.visibility == HIDDEN], [0, HIDDEN_WEIGHT], trust)
    known = {"points": (sample.landmarks, weights)}
    if sample.schema != cutting.schema:
        known = {"five": (five, _least(weights, sample.schema))}
    labels: dict[str, Array] = {}
    for name, title, k in (("points", "weights", len(cutting.schema)), ("five", "five_weights", len(FIVE))):
        points, counts = known.get(name, (np.zeros((len(sample), k, 2)), np.zeros((len(sample), k))))
        moved = np.where(counts[rows, :, None] > 0, transform(points[rows], to_frame), 0)
        labels |= {name: moved.astype(np.float32), title: counts[rows].astype(np.float32)}
    to_patch = to_frame * (cutting.side / cutting.reach)
    to_patch[:, :, 2] += cutting.side / 2 * (1 - 1 / cutting.reach)
    pixels = np.zeros((0, cutting.side, cutting.side, 3), np.uint8)
    if len(rows):
        pixels = similarity.crops(read_image(sample.path), to_patch, cutting.side)
    return pixels, labels


def _least(weights: Array, source: Schema) -> Array:
    """Weights (n, k) of a schema's points as those of five: the least of the points that each is made of."""
    if source == FIVE:
        return weights
    return np.stack([weights[:, list(indices)].min(axis=1) for indices in MAPS[source.name, FIVE.name]], axis=1)


def _after(first: Array, second: Array) -> Array:
    """The similarities (n, 2, 3) that go through one and then the other."""
    joined = second[:, :, :2] @ first
    joined[:, :, 2] += second[:, :, 2]
    return np.asarray(joined)


def placed(patches: CropSet, rows: Array, moves: Array, flip: Array, *, size: int, schema: Schema) -> dict[str, Array]:
    """Crops of patches, placed anew, with their labels.

    Args:
        patches: of ``cut``, with a reach of ``REACH``. rows: (n,) which. moves: (n, 2, 3) similarities of the frame.
        flip: (n,) bool, whether a crop is mirrored after that. size: side of the crops in pixels.
        schema: of the points.

    Returns:
        The labels, and ``pixels`` (n, size, size, 3) uint8.
    """
    moves = np.where(flip[:, None, None], MIRROR[:, :2] @ moves + MIRROR * [0, 0, 1], moves)
    labels = {name: values[rows] for name, values in patches.labels.items()}
    for name, title, mirror in (("points", "weights", schema.mirror), ("five", "five_weights", FIVE.mirror)):
        order = np.where(flip[:, None], list(mirror), np.arange(len(mirror)))
        moved = transform(labels[name], moves).astype(np.float32)
        labels[name] = np.take_along_axis(moved, order[..., None], axis=1)
        labels[title] = np.take_along_axis(labels[title], order, axis=1)
    side = patches.pixels.shape[1]
    pixels = np.empty((len(rows), size, size, 3), np.uint8)
    # patch to frame is a scale around the middle, and so is frame to crop
    linear = moves[:, :, :2] * (REACH * size / side)
    shift = size * (moves @ [0.5, 0.5, 1]) - linear @ [side / 2, side / 2]
    for crop, row, matrix in zip(pixels, rows, np.concatenate([linear, shift[..., None]], axis=2), strict=True):
        crop[:] = warp(patches.pixels[row], matrix, (size, size), cv2.BORDER_CONSTANT, (0, 0, 0))
    return labels | {"pixels": pixels}
