"""The training data of the verifier: what detectors take for faces in labelled photos, and the faces themselves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament import similarity
from lineament.data.crops import CropSet, CropSetWriter
from lineament.data.sample import Sample
from lineament.errors import DataError
from lineament.images import read_image
from lineament.methods import Decoder
from lineament.methods.verifier.decode import to_crops
from lineament.methods.verifier.network import VerifierNet
from lineament.parallel import in_order

Array = NDArray[Any]
_log = logging.getLogger(__name__)

REACH = 1.5  # side of a patch relative to the crop: margin for shifted, rotated and smaller crops
AT_ONCE = 16  # photos that cutting may be ahead of writing; bounds the memory
SMALLEST = 6.0  # pixels; smaller labelled faces are not learned


class Kind(IntEnum):
    """What a window shows."""

    NOTHING = 0  # a candidate that overlaps no face by 0.3
    FACE = 1  # a candidate that overlaps a face by half, or the best for this face
    LABEL = 2  # the labelled box of a face


@dataclass(frozen=True)
class Windows:
    """Square windows (n, 4) of one photo, their kinds (n,), and the boxes (n, 4) of their faces."""

    windows: Array
    kind: Array
    boxes: Array


def windows(sample: Sample, candidates: Array) -> Windows:
    """The windows of a photo: squares around candidates (n, 4) that are right or wrong, and around its faces.

    A candidate between right and wrong is left out. So is one on an ignored region that is not a face.
    """
    side = box_ops.longer_side(sample.boxes)
    faces = sample.boxes[sample.learnable & (side >= SMALLEST)].astype(np.float64)
    unsure = sample.boxes[~sample.learnable | (side < SMALLEST)].astype(np.float64)
    overlaps = box_ops.iou(candidates, faces)
    best = overlaps.max(axis=1, initial=0)
    first = np.zeros(len(candidates), bool)
    if overlaps.size:
        leaders = overlaps.argmax(axis=0)
        first[leaders[overlaps.max(axis=0) >= 0.3]] = True
    right = (best >= 0.5) | first
    hidden = np.zeros(len(candidates), bool)
    if len(unsure):
        hidden = (box_ops.iou(candidates, unsure).max(1) > 0.4) | (box_ops.coverage(candidates, unsure).max(1) > 0.4)
    wrong = (best < 0.3) & ~hidden
    nearest = faces[overlaps[right].argmax(axis=1)] if right.any() else np.empty((0, 4))
    shown = np.concatenate([candidates[right], candidates[wrong], faces])
    kinds = (Kind.FACE, int(right.sum())), (Kind.NOTHING, int(wrong.sum())), (Kind.LABEL, len(faces))
    return Windows(
        box_ops.square(shown),
        np.concatenate([np.full(count, kind, np.int64) for kind, count in kinds]),
        np.concatenate([nearest, candidates[wrong], faces]),
    )


def cut(
    samples: Sequence[Sample],
    decoders: Sequence[Decoder],
    folder: Path,
    digest: str,
    *,
    lowest: float,
    context: float,
    reach: float,
) -> CropSet:
    """Cut a patch around every window, and keep the set in a folder.

    Its labels are ``kind`` (n,) and ``box`` (n, 4), the box of the face in sides of the window, from its centre.

    Args:
        samples: The photos.
        decoders: The detectors whose faces are verified. They take turns: each photo is shown to one.
        folder: Folder for the set.
        digest: Digest of everything that decides the set.
        lowest: Lowest score of a candidate, in [0, 1].
        context: Side of a crop relative to its window.
        reach: Side of a patch relative to the crop.

    Raises:
        DataError: The detectors have found no face, or everything that they have found is one.
    """
    side = round(VerifierNet.size * reach)
    turns = zip(samples, cycle(decoders), strict=False)

    def patches(turn: tuple[Sample, Decoder]) -> tuple[Array, dict[str, Array]]:
        sample, decoder = turn
        image = read_image(sample.path)
        (found,) = decoder([image], threshold=lowest, min_face=1, max_face=None)
        shown = windows(sample, found.boxes.astype(np.float64))
        pixels = similarity.crops(image, to_crops(shown.windows, side, context * reach), side)
        centre, size = box_ops.centre(shown.windows), box_ops.longer_side(shown.windows)[:, None]
        box = (shown.boxes - np.tile(centre, 2)) / size
        return pixels, {"kind": shown.kind, "box": box.astype(np.float32)}

    with CropSetWriter(folder, side, digest) as writer, ThreadPoolExecutor() as pool:
        counts = np.zeros(len(Kind), int)
        for number, (pixels, labels) in enumerate(in_order(pool, patches, turns, AT_ONCE), 1):
            writer.add(pixels, **labels)
            counts += np.bincount(labels["kind"], minlength=len(Kind))
            if number % 500 == 0:
                _log.info("candidates of %d of %d photos", number, len(samples))
        if not counts[Kind.NOTHING] or not counts[Kind.FACE]:
            raise DataError(f"of the candidates, {counts[Kind.FACE]} are faces and {counts[0]} are not")
    _log.info("%s: %s", folder, {kind.name.lower(): int(counts[kind]) for kind in Kind})
    return CropSet(folder)
