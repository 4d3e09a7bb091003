"""What MTCNN's networks learn from: windows labelled by overlap, their crops, and the losses (section II.B, C)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lineament import boxes as box_ops
from lineament.data.sample import Sample

Array = NDArray[Any]


class Kind(IntEnum):
    """Sample types of section II.C, by overlap with the nearest face; OTHER trains nothing.

    The overlap is the IoU with the face's box or with the square around it, the greater of both: windows are square,
    and none reaches 0.65 with a box much narrower than high, as those of profiles are.
    """

    OTHER = -1
    NEGATIVE = 0  # IoU below 0.3
    PART = 1  # IoU from 0.4 to 0.65
    POSITIVE = 2  # IoU above 0.65
    LANDMARK = 3  # a face with landmarks


RATIO = {Kind.NEGATIVE: 3, Kind.PART: 1, Kind.POSITIVE: 1, Kind.LANDMARK: 2}
SMALLEST = 10.0  # pixels; a smaller face in a training photo is ignored: its crop would be guesswork


@dataclass(frozen=True)
class Windows:
    """Square windows (n, 4) of one photo, their kind (n,) and what a network should say about them.

    Attributes:
        box: (n, 4) offsets of the nearest face's box.
        points: (n, k, 2) its landmarks over the window; NaN where not labelled.
    """

    windows: Array
    kind: Array
    box: Array
    points: Array

    def __getitem__(self, index: Array) -> Windows:
        return Windows(self.windows[index], self.kind[index], self.box[index], self.points[index])


def label(windows: Array, sample: Sample, codec: str = "corner") -> Windows:
    """Kinds and targets of windows, by overlap with the photo's faces.

    A window that would be negative but lies on an ignore region or on a face below ``SMALLEST`` becomes OTHER.
    """
    counted = _counted(sample)
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
    """Those positives whose face has all its landmarks, as LANDMARK samples."""
    good = (labelled.kind == Kind.POSITIVE) & np.isfinite(labelled.points).all(axis=(1, 2))
    chosen = labelled[good]
    return Windows(chosen.windows, np.full_like(chosen.kind, Kind.LANDMARK), chosen.box, chosen.points)


def joined(parts: list[Windows]) -> Windows:
    """All windows of all parts."""
    return Windows(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("windows", "kind", "box", "points")))


def jittered(rng: np.random.Generator, sample: Sample, each: int) -> Array:
    """Squares around every face, ``each`` a face: 0.8 to 1.25 times its size, moved by up to a fifth of it."""
    boxes = np.repeat(sample.boxes[_counted(sample)], each, axis=0).astype(np.float64)
    size = boxes[:, 2:] - boxes[:, :2]
    shorter, longer = size.min(axis=1, initial=np.inf), size.max(axis=1, initial=0)
    side = rng.uniform(0.8 * shorter, 1.25 * longer)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + rng.uniform(-0.2, 0.2, (len(boxes), 2)) * size
    return _squares(centre, side)


def astray(rng: np.random.Generator, sample: Sample, each: int, anywhere: int) -> Array:
    """Squares that mostly miss: ``each`` near every face, of its order of size, and ``anywhere`` over the photo."""
    boxes = np.repeat(sample.boxes[_counted(sample)], each, axis=0).astype(np.float64)
    size = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    near = (boxes[:, :2] + boxes[:, 2:]) / 2 + rng.uniform(-1, 1, (len(boxes), 2)) * size[:, None]
    sides = np.exp(rng.uniform(np.log(12), np.log(max(min(sample.width, sample.height), 13)), anywhere))
    centres = rng.uniform(0, 1, (anywhere, 2)) * [sample.width, sample.height]
    return np.concatenate([_squares(near, size * rng.uniform(0.4, 1.6, len(size))), _squares(centres, sides)])


def _counted(sample: Sample) -> Array:
    """(n,) which boxes are faces to learn; the others are neither face nor background."""
    return ~sample.ignore & ((sample.boxes[:, 2:] - sample.boxes[:, :2]).max(1, initial=0) >= SMALLEST)


def _squares(centre: Array, side: Array) -> Array:
    half = side[:, None] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


class CropSet:
    """Labelled crops on disk, memory-mapped.

    Attributes:
        pixels: (n, size, size, 3) uint8.
        kind: (n,) int8. box: (n, 4) float32. points: (n, k, 2) float32.
        rows: indices of the crops of each kind.
    """

    @staticmethod
    def there(folder: Path) -> bool:
        """Whether the folder holds a finished set."""
        return (folder / "pixels.npy").exists()

    def __init__(self, folder: Path) -> None:
        self.pixels, self.kind, self.box, self.points = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("pixels", "kind", "box", "points")
        )
        self.rows = {kind: np.flatnonzero(self.kind == kind) for kind in RATIO}


class CropSetWriter:
    """Gathers labelled crops; ``close`` makes the set appear in its folder, whole."""

    def __init__(self, folder: Path, size: int, landmarks: int) -> None:
        self.folder, self.shape = folder, (size, size, 3)
        self._landmarks = landmarks
        self._labels: list[Windows] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._raw = (folder / "pixels.part").open("wb")

    def add(self, labelled: Windows, crops: Array) -> None:
        """Windows and their crops (n, 3, size, size), float in [0, 255]."""
        self._raw.write(np.ascontiguousarray(crops.round().astype(np.uint8).transpose(0, 2, 3, 1)).data)
        self._labels.append(labelled)

    def close(self) -> CropSet:
        """Write the labels, give the file of pixels its header, and open the set."""
        self._raw.close()
        labels = joined(self._labels)
        n, part = len(labels.kind), self.folder / "pixels.part"
        pixels = open_memmap(self.folder / "pixels.npy.part", mode="w+", dtype=np.uint8, shape=(n, *self.shape))
        raw = np.memmap(part, np.uint8, mode="r", shape=(n, *self.shape))
        for start in range(0, n, 65536):
            pixels[start : start + 65536] = raw[start : start + 65536]
        pixels.flush()
        part.unlink()
        np.save(self.folder / "kind.npy", labels.kind)
        np.save(self.folder / "box.npy", labels.box.astype(np.float32))
        np.save(self.folder / "points.npy", labels.points.astype(np.float32))
        (self.folder / "pixels.npy.part").rename(self.folder / "pixels.npy")
        return CropSet(self.folder)


def draw_batch(
    crops: CropSet,
    rng: np.random.Generator,
    size: int,
    *,
    mirror: tuple[int, ...],
    codec: str = "corner",
    coarse: float = 0,
) -> dict[str, Array]:
    """A batch at the paper's ratio 3 : 1 : 1 : 2 of kinds, half of it mirrored, in varied light, some of it coarse.

    Args:
        crops: the set. rng: decides everything. size: crops in the batch.
        mirror: the schema's mirror permutation. codec: how the set's box offsets are written.
        coarse: share that looks enlarged from fewer pixels, as faces in poor photos do.

    Returns:
        pixels (n, s, s, 3) uint8, kind (n,), box (n, 4), points (n, 2k).
    """
    shares = np.array([RATIO[k] if len(crops.rows[k]) else 0 for k in RATIO], float)
    counts = np.diff(np.round(np.cumsum([0, *shares]) / shares.sum() * size)).astype(int)
    rows = np.concatenate([rng.choice(crops.rows[k], c) for k, c in zip(RATIO, counts, strict=True) if c])
    pixels, kind = crops.pixels[rows], crops.kind[rows]
    box, points = crops.box[rows].copy(), crops.points[rows].copy()
    flip = rng.random(len(rows)) < 0.5
    pixels[flip] = pixels[flip][:, :, ::-1]
    box[flip] = box_ops.CODECS[codec].mirror(box[flip])
    points[flip] = points[flip][:, list(mirror)] * [-1, 1] + [1, 0]
    return {
        "pixels": relit(coarsened(pixels, rng, coarse), rng),
        "kind": kind.astype(np.int64),
        "box": box,
        "points": points.reshape(len(points), -1),
    }


def coarsened(pixels: Array, rng: np.random.Generator, share: float) -> Array:
    """Pictures (n, h, w, 3) uint8, a share of them drawn in 0.3 to 0.8 of their pixels and enlarged again."""
    pixels = pixels.copy()
    h, w = pixels.shape[1:3]
    for i in np.flatnonzero(rng.random(len(pixels)) < share):
        scale = rng.uniform(0.3, 0.8)
        small = cv2.resize(pixels[i], (round(w * scale), round(h * scale)), interpolation=cv2.INTER_AREA)
        pixels[i] = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    return pixels


def relit(pixels: Array, rng: np.random.Generator) -> Array:
    """Pictures (n, h, w, 3) uint8 with another brightness, contrast and saturation each; a tenth of them grey."""
    n = len(pixels)
    x = pixels.astype(np.float32)
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    saturation = np.where(rng.random(n) < 0.1, 0, rng.uniform(0.6, 1.4, n)).astype(np.float32)[:, None, None, None]
    x = grey[..., None] + (x - grey[..., None]) * saturation
    mean = grey.mean(axis=(1, 2))[:, None, None, None]
    gain = rng.uniform(0.65, 1.35, n).astype(np.float32)[:, None, None, None]
    shift = rng.uniform(-32, 32, n).astype(np.float32)[:, None, None, None]
    return np.clip((x - mean) * gain + mean + shift, 0, 255).astype(np.uint8)


def losses(
    outputs: dict[str, Tensor],
    batch: dict[str, Tensor],
    *,
    hardest: float = 0.7,
    box_weight: float = 0.5,
    landmark_weight: float = 0.5,
) -> dict[str, Tensor]:
    """Equation 4: the three tasks' losses, each over the samples that its sample-type indicator beta selects.

    Args:
        outputs: score (n,) logits, box (n, 4), landmarks (n, 2k).
        batch: kind (n,), box (n, 4), points (n, 2k).
        hardest: share of the classification samples, those with the largest loss, that give a gradient (section
            II.C.5); 1 turns hard mining off.
        box_weight, landmark_weight: alpha of equation 4; a weight of 0 leaves the task out.

    Returns:
        ``score``: equation 1, mean over the hardest; ``box`` and ``landmarks``: equations 2 and 3, mean over theirs.
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
            error = (outputs[name][chosen] - batch[target][chosen]).square().sum(dim=1)
            parts[name] = weight * _mean(error)
    return parts


def _mean(values: Tensor) -> Tensor:
    """The mean; 0 of nothing."""
    return values.mean() if len(values) else values.sum()


def accuracy(scores: Array, kind: Array) -> float:
    """Share of negatives and positives that a threshold of 0.5 (a logit of 0) classifies rightly."""
    classified = (kind == Kind.NEGATIVE) | (kind == Kind.POSITIVE)
    return float(((scores > 0) == (kind == Kind.POSITIVE))[classified].mean())
