"""The targets of MTCNN's networks: windows labelled by overlap with faces, and the losses (sections II.B and C)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lineament import boxes as box_ops
from lineament.data.sample import Sample

Array = NDArray[Any]


class Kind(IntEnum):
    """Sample types of section II.C, by overlap with the nearest face. OTHER trains nothing.

    The overlap is the larger one of the IoUs with the face's box and with the square around it. Windows are square, and
    none reaches 0.65 with a box that is much narrower than high, as profiles have.
    """

    OTHER = -1
    NEGATIVE = 0  # IoU below 0.3
    PART = 1  # IoU from 0.4 to 0.65
    POSITIVE = 2  # IoU above 0.65
    LANDMARK = 3  # a face with landmarks


RATIO = {Kind.NEGATIVE: 3, Kind.PART: 1, Kind.POSITIVE: 1, Kind.LANDMARK: 2}
SMALLEST = 10.0  # pixels; smaller faces in training photos are ignored, since their crops would be guesses


@dataclass(frozen=True)
class Windows:
    """Square windows (n, 4) of one photo, their kinds (n,) and the targets for the networks.

    Attributes:
        box: (n, 4) offsets of the nearest face's box.
        points: (n, k, 2) its landmarks relative to the window. NaN if not labelled.
    """

    windows: Array
    kind: Array
    box: Array
    points: Array

    def __getitem__(self, index: Array) -> Windows:
        return Windows(self.windows[index], self.kind[index], self.box[index], self.points[index])


def label(windows: Array, sample: Sample, codec: str = "corner") -> Windows:
    """Label windows by their overlap with the faces of the photo.

    A negative window on an ignored region, or on a face below ``SMALLEST``, becomes OTHER.
    """
    counted = learnable(sample)
    boxes, points, ignored = sample.boxes[counted], sample.landmarks[counted], sample.boxes[~counted]
    if not len(boxes):
        best, nearest = np.zeros(len(windows)), np.zeros(len(windows), int)
        boxes, points = windows[:1], np.full((1, *sample.landmarks.shape[1:]), np.nan)
    else:
        overlap = np.maximum(box_ops.iou(windows, boxes), box_ops.iou(windows, box_ops.square(boxes)))
        best, nearest = overlap.max(axis=1), overlap.argmax(axis=1)
    kind = np.full(len(windows), Kind.OTHER, np.int8)
    kind[best < 0.3] = Kind.NEGATIVE
    kind[(best >= 0.4) & (best <= 0.65)] = Kind.PART
    kind[best > 0.65] = Kind.POSITIVE
    if len(ignored):
        unsure = (box_ops.iou(windows, ignored).max(1) > 0.15) | (box_ops.coverage(windows, ignored).max(1) > 0.3)
        kind[unsure & (kind == Kind.NEGATIVE)] = Kind.OTHER
    encode = box_ops.CODECS[codec].encode
    return Windows(windows, kind, encode(boxes[nearest], windows), box_ops.encode_points(points[nearest], windows))


def with_landmarks(labelled: Windows) -> Windows:
    """The positives whose face has all landmarks, as LANDMARK samples."""
    good = (labelled.kind == Kind.POSITIVE) & np.isfinite(labelled.points).all(axis=(1, 2))
    chosen = labelled[good]
    return Windows(chosen.windows, np.full_like(chosen.kind, Kind.LANDMARK), chosen.box, chosen.points)


def joined(parts: list[Windows]) -> Windows:
    """Join the windows of all parts."""
    return Windows(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("windows", "kind", "box", "points")))


def learnable(sample: Sample) -> Array:
    """Which boxes (n,) are faces to learn. The others are neither face nor background."""
    return ~sample.ignore & (box_ops.longer_side(sample.boxes) >= SMALLEST)


def by_kind(kind: Array) -> dict[Kind, Array]:
    """The rows of a crop set of each kind (n,)."""
    return {k: np.flatnonzero(kind == k) for k in RATIO}


def at_ratio(rng: np.random.Generator, rows: dict[Kind, Array], count: int) -> Array:
    """Draw rows (count,) with the paper's ratio of kinds, 3 : 1 : 1 : 2. Kinds without rows are left out."""
    shares = np.array([RATIO[k] if len(rows[k]) else 0 for k in RATIO], float)
    counts = np.diff(np.round(np.cumsum([0, *shares]) / shares.sum() * count)).astype(int)
    return np.concatenate([rng.choice(rows[k], c) for k, c in zip(RATIO, counts, strict=True) if c])


def losses(
    outputs: dict[str, Tensor],
    batch: dict[str, Tensor],
    *,
    hardest: float = 0.7,
    box_weight: float = 0.5,
    landmark_weight: float = 0.5,
) -> dict[str, Tensor]:
    """Equation 4: the losses of the three tasks, each over the samples that its indicator beta selects.

    Args:
        outputs: score (n,) logits, box (n, 4), landmarks (n, 2k).
        batch: kind (n,), box (n, 4), points (n, k, 2).
        hardest: Share of the classification samples with the largest loss that give a gradient (section II.C.5). 1
            switches hard mining off.
        box_weight: Alpha of equation 4 for boxes. 0 leaves the task out.
        landmark_weight: Alpha of equation 4 for landmarks. 0 leaves the task out.

    Returns:
        ``score``: equation 1, mean over the hardest samples. ``box`` and ``landmarks``: equations 2 and 3, mean over
        their samples.
    """
    kind = batch["kind"]
    classified = (kind == Kind.NEGATIVE) | (kind == Kind.POSITIVE)
    is_face = (kind == Kind.POSITIVE).float()
    entropy = F.binary_cross_entropy_with_logits(outputs["score"][classified], is_face[classified], reduction="none")
    hard = entropy.topk(max(round(hardest * len(entropy)), 1)).values if len(entropy) else entropy
    parts = {"score": _mean(hard)}
    regressed = {
        "box": (box_weight, (kind == Kind.POSITIVE) | (kind == Kind.PART), "box"),
        "landmarks": (landmark_weight, kind == Kind.LANDMARK, "points"),
    }
    for name, (weight, chosen, target) in regressed.items():
        if weight and name in outputs:
            error = (outputs[name][chosen] - batch[target][chosen].flatten(1)).square().sum(dim=1)
            parts[name] = weight * _mean(error)
    return parts


def _mean(values: Tensor) -> Tensor:
    """The mean; 0 if there are no values."""
    return values.mean() if len(values) else values.sum()


def accuracy(scores: Array, kind: Array) -> float:
    """Share of negatives and positives that a threshold of 0.5 (a logit of 0) classifies correctly."""
    classified = (kind == Kind.NEGATIVE) | (kind == Kind.POSITIVE)
    return float(((scores > 0) == (kind == Kind.POSITIVE))[classified].mean())
