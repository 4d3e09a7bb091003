"""The training data of the network: faces cut out upright with a margin, and crops jittered anew in each batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament import similarity
from lineament.data.crops import CropSet, CropSetWriter, Jitter, mirrored, recut
from lineament.data.sample import HIDDEN, NOT_LABELLED, Sample
from lineament.errors import DataError
from lineament.images import read_image
from lineament.methods.isnet import frame
from lineament.schemas import FIVE, Schema, convert, least_of_parts
from lineament.similarity import compose, transform

Array = NDArray[Any]
_log = logging.getLogger(__name__)

REACH = 1.75  # side of a patch relative to the crop: margin for shifted, rotated and smaller crops
HIDDEN_WEIGHT = 0.1  # weight of landmarks under a mask or a hand, which are guesses
AT_ONCE = 64  # photos that cutting may be ahead of writing; bounds the memory


@dataclass(frozen=True)
class Cutting:
    """How faces are cut out.

    Attributes:
        schema: The schema that the network learns.
        side: Side of the patches in pixels.
        zoom: Zoom of the frame.
        reach: Side of a patch relative to the frame.
        smallest: Faces whose box has a shorter longer side, in pixels, are left out.
        detected: Weight of landmarks from a machine; human landmarks have 1. 0 leaves these faces out.
        jitter: Jitter of the patches from the frames of the labels. ``None``: no jitter.
    """

    schema: Schema
    side: int
    zoom: float
    reach: float
    smallest: float
    detected: float
    jitter: Jitter | None = None


def cut(samples: Sequence[Sample], folder: Path, digest: str, cutting: Cutting) -> CropSet:
    """Cut a patch of every usable face, and keep the set in a folder.

    Its labels, in units of the frame, are ``points`` (n, K, 2) and their ``weights`` (n, K) in [0, 1], both 0 for
    unknown landmarks. Faces with only five landmarks have ``five`` (n, 5, 2) and ``five_weights`` (n, 5). They train a
    larger schema through the map to five.

    Args:
        samples: Photos with landmarks of the schema or with five landmarks.
        folder: Folder for the set.
        digest: Digest of everything that decides the set.
        cutting: How faces are cut out.

    Raises:
        DataError: No face is left.
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
    """Patches of the faces of a photo, with their labels."""
    five = convert(sample.landmarks, sample.schema, FIVE)
    trust = np.where(sample.landmark_source == "human", 1.0, cutting.detected)[:, None]
    counted = ~sample.ignore & (trust[:, 0] > 0) & (box_ops.longer_side(sample.boxes) >= cutting.smallest)
    rows = np.flatnonzero(counted & np.isfinite(five).all(axis=(1, 2)))
    to_frame = frame.matrices(five[rows], sample.boxes[rows], cutting.zoom)
    if cutting.jitter:
        to_frame = compose(to_frame, cutting.jitter.draw(np.random.default_rng(seed), len(rows)))
    weights = np.select([sample.visibility == NOT_LABELLED, sample.visibility == HIDDEN], [0, HIDDEN_WEIGHT], trust)
    known = {"points": (sample.landmarks, weights)}
    if sample.schema != cutting.schema:
        known = {"five": (five, least_of_parts(weights, sample.schema, FIVE))}
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


def placed(patches: CropSet, rows: Array, moves: Array, flip: Array, *, size: int, schema: Schema) -> dict[str, Array]:
    """Cut jittered crops out of patches, with their labels.

    Args:
        patches: From ``cut``, with a reach of ``REACH``.
        rows: (n,) indices of the patches.
        moves: (n, 2, 3) similarity transforms of the frame.
        flip: (n,) bool, whether a crop is mirrored afterwards.
        size: Side of the crops in pixels.
        schema: The schema of the landmarks.

    Returns:
        The labels, and ``pixels`` (n, size, size, 3) uint8.
    """
    moves = mirrored(moves, flip)
    labels = {name: values[rows] for name, values in patches.labels.items()}
    for name, title, mirror in (("points", "weights", schema.mirror), ("five", "five_weights", FIVE.mirror)):
        order = np.where(flip[:, None], list(mirror), np.arange(len(mirror)))
        moved = transform(labels[name], moves).astype(np.float32)
        labels[name] = np.take_along_axis(moved, order[..., None], axis=1)
        labels[title] = np.take_along_axis(labels[title], order, axis=1)
    return labels | {"pixels": recut(patches.pixels, rows, moves, size=size, reach=REACH)}
