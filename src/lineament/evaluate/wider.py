"""Average precision on WIDER FACE (easy, medium, hard), as computed by the official MATLAB tool.

In the tool, boxes reach from ``left`` to ``left + width``, and overlaps count both ends (the "+ 1"). A face that does
not count in a setting still matches detections. These are then neither true nor false positives.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lineament.data.readers.parsing import laid_out
from lineament.errors import DataError, OptionError
from lineament.evaluate import results
from lineament.evaluate.curves import PrecisionRecall, ratio
from lineament.evaluate.detections import Detections, choose, pick
from lineament.evaluate.extra import read_variables

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Arithmetic = Literal["matlab", "float"]
SETTINGS = ("easy", "medium", "hard")
IMAGES = 3226  # of the validation set, as published
FACES = {"easy": 7211, "medium": 13319, "hard": 31958}  # faces that count there
THRESHOLDS = 1 - np.arange(1, 1001) / 1000


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Faces, and which of them count in each setting.

    Attributes:
        boxes: By image name ``<event>/<name>``, (n, 4) ``left, top, width, height`` in the type of the file. The
            release of 2017 has int32, in which the original tool computes; that of 2016 has doubles.
        counted: By setting and image name, (n,) bool.
    """

    boxes: Mapping[str, Array]
    counted: Mapping[str, Mapping[str, Array]]

    def faces(self, setting: str) -> int:
        """Number of faces that count."""
        return sum(int(mask.sum()) for mask in self.counted[setting].values())

    def subset(self, names: Collection[str]) -> GroundTruth:
        """The ground truth of only these images.

        Raises:
            DataError: A name is not in the ground truth.
        """
        kept = choose(names, self.boxes.keys())
        return GroundTruth(
            {name: self.boxes[name] for name in kept},
            {setting: {name: masks[name] for name in kept} for setting, masks in self.counted.items()},
        )


@dataclass(frozen=True, eq=False)
class Result:
    """Scores on WIDER FACE.

    Attributes:
        curves: Precision and recall at 1,000 thresholds, by setting.
        faces: Number of faces that count, by setting.
        images: Number of images.
        arithmetic: "matlab" or "float".
        notes: What was skipped or changed, with counts.
    """

    curves: Mapping[str, PrecisionRecall]
    faces: Mapping[str, int]
    images: int
    arithmetic: Arithmetic
    notes: tuple[str, ...]

    @property
    def ap(self) -> dict[str, float]:
        """Average precision by setting, in [0, 1]."""
        return {setting: curve.ap for setting, curve in self.curves.items()}

    def summary(self, name: str) -> results.Result:
        """The result for reports, in percent."""
        return results.Result(
            protocol="wider",
            name=name,
            scores={
                **{setting: 100 * ap for setting, ap in self.ap.items()},
                "images": self.images,
                **{f"faces {setting}": count for setting, count in self.faces.items()},
            },
            curves={
                setting: results.curve(curve.recall, curve.precision, "recall", "precision")
                for setting, curve in self.curves.items()
            },
            settings={"arithmetic": self.arithmetic, "notes": list(self.notes)},
        )


def label(ap: float) -> str:
    """Format an average precision like the official figures: cut, not rounded, to three decimals."""
    return f"{ap:.5g}"[:5]


def read_ground_truth(folder: str | Path) -> GroundTruth:
    """Read the ground truth from its four official MATLAB files, ``wider_{face,easy,medium,hard}_val.mat``.

    Raises:
        DataError: A file is missing or has another layout than the official ones.
        MissingExtraError: SciPy is not installed.
    """
    folder = Path(folder)
    face = folder / "wider_face_val.mat"
    events, files, boxes = read_variables(face, "event_list", "file_list", "face_bbx_list")
    with laid_out(face, "cells of events, files and boxes"):
        names = [[f"{event}/{file}" for file in inner] for event, inner in zip(events, files, strict=True)]
        by_name = _by_name(names, boxes, face)
    for name, rows in by_name.items():
        if rows.ndim != 2 or rows.shape[1] != 4 or not np.isfinite(rows).all():
            raise DataError(f"{face}: {name}: expected finite boxes of shape (n, 4), found shape {rows.shape}")
    counted = {setting: _read_counted(folder / f"wider_{setting}_val.mat", names, by_name) for setting in SETTINGS}
    return GroundTruth(by_name, counted)


def _by_name(names: list[list[str]], cells: list[list[Array]], path: Path) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for event, inner in zip(names, cells, strict=True):
        for name, rows in zip(event, inner, strict=True):
            if name in found:
                raise DataError(f"{path}: the image {name} is there twice")
            found[name] = rows if rows.size else np.empty((0, 4), rows.dtype)
    return found


def _read_counted(path: Path, names: list[list[str]], boxes: Mapping[str, Array]) -> dict[str, Array]:
    """Masks over the boxes from the lists of indices in the files, which count from 1."""
    (cells,) = read_variables(path, "gt_list")
    with laid_out(path, "cells like those of wider_face_val.mat"):
        lists = _by_name(names, cells, path)
    masks = {}
    for name, indices in lists.items():
        mask = np.zeros(len(boxes[name]), bool)
        at = indices.ravel().astype(np.int64) - 1
        if at.size and not (at.min() >= 0 and at.max() < len(mask)):
            raise DataError(
                f"{path}: {name}: expected indices from 1 to {len(mask)}, found {at.min() + 1} to {at.max() + 1}"
            )
        mask[at] = True
        masks[name] = mask
    return masks


def evaluate(detections: Detections, ground_truth: GroundTruth, arithmetic: Arithmetic = "matlab") -> Result:
    """Compute the average precision in the three settings.

    Args:
        detections: Rectangles by ``<event>/<name>``, in any order. In images without detections, all faces are missed.
        ground_truth: All images or any subset.
        arithmetic: "matlab" is the original. With int32 boxes, MATLAB rounds corners, areas and even the overlap to
            integers. So an overlap of one half or more counts as one, and the first of several such faces wins. Scores
            are scaled in single precision. "float" is the arithmetic of the common Python ports: overlaps without
            rounding, and scores scaled in double precision. With boxes of type double, the two differ only in the
            scaling.

    Raises:
        DataError: No image is in the ground truth.
        OptionError: The arithmetic does not exist, or the detections are ellipses.
    """
    if arithmetic not in ("matlab", "float"):
        raise OptionError(f"arithmetic must be 'matlab' or 'float', found {arithmetic!r}")
    known = pick(detections.rectangles(), ground_truth.boxes.keys())
    scale = _scale_single if arithmetic == "matlab" else _scale_double
    all_scores = np.concatenate([np.empty(0), *(rows[:, 4] for rows in known.images.values())])
    scaled = scale(all_scores)
    notes = known.notes
    if np.isnan(scaled).any():
        notes += ("all detections have the same score, which the official tool cannot scale: all faces are missed",)
    curves = _curves(known, scaled, ground_truth, arithmetic)
    faces = {setting: ground_truth.faces(setting) for setting in SETTINGS}
    notes += _against_published(len(ground_truth.boxes), faces)
    for note in notes:
        logger.warning("WIDER FACE: %s", note)
    return Result(curves, faces, len(ground_truth.boxes), arithmetic, notes)


def _against_published(images: int, faces: Mapping[str, int]) -> tuple[str, ...]:
    if images == IMAGES and faces == FACES:
        return ()
    counts = ", ".join(f"{setting} {n:,} of {FACES[setting]:,}" for setting, n in faces.items())
    return (
        f"{images:,} of {IMAGES:,} images, faces {counts}: "
        "not the published validation set; compare only with numbers on the same images",
    )


def _curves(
    detections: Detections, scaled: Array, ground_truth: GroundTruth, arithmetic: Arithmetic
) -> dict[str, PrecisionRecall]:
    """Precision and recall at the 1,000 thresholds.

    Within an image, whether a detection is a proposal does not depend on the threshold, and a face is matched by its
    best detection. So the tool's counts at a threshold are the numbers of marks at or above it, over all images.
    """
    proposals: dict[str, list[Array]] = {setting: [] for setting in SETTINGS}
    hits: dict[str, list[Array]] = {setting: [] for setting in SETTINGS}
    start = 0
    for name, rows in detections.images.items():
        scores = scaled[start : start + len(rows)]
        start += len(rows)
        boxes = ground_truth.boxes[name]
        if not len(boxes) or not len(rows):
            continue
        order = np.argsort(-rows[:, 4], kind="stable")
        face, overlaps = _match(rows[order, :4], boxes, arithmetic)
        scores = scores[order]
        for setting in SETTINGS:
            counts = ground_truth.counted[setting][name]
            proposals[setting].append(scores[~(overlaps & ~counts[face])])
            found = np.flatnonzero(overlaps & counts[face])
            first = np.unique(face[found], return_index=True)[1]
            hits[setting].append(scores[found[first]])
    curves = {}
    for setting in SETTINGS:
        true = _at_or_above(hits[setting])
        precision = ratio(true, _at_or_above(proposals[setting]))
        curves[setting] = PrecisionRecall(ratio(true, ground_truth.faces(setting)), precision)
    return curves


def _at_or_above(scores: list[Array]) -> Array:
    """How many scores reach each threshold. A score that could not be scaled reaches none."""
    ordered = np.sort(np.concatenate([np.empty(0), *scores]))
    ordered = ordered[~np.isnan(ordered)]
    return len(ordered) - np.searchsorted(ordered, THRESHOLDS, side="left")


def _scale_single(scores: Array) -> Array:
    """MATLAB: extremes start at realmax and realmin of type single, so the whole quotient is single."""
    s = scores.astype(np.float32)
    limits = np.finfo(np.float32)
    low = min(limits.max, s.min(initial=limits.max))
    high = max(limits.tiny, s.max(initial=limits.tiny))
    return ratio(s - low, high - low).astype(np.float64)


def _scale_double(scores: Array) -> Array:
    """The ports: extremes start at 1 and 0."""
    low, high = scores.min(initial=1.0), scores.max(initial=0.0)
    return ratio(scores - low, high - low)


def _match(detections: Array, faces: Array, arithmetic: Arithmetic) -> tuple[Array, Array]:
    """For each detection (m, 4) ``x1, y1, x2, y2``: the face that it overlaps most (m,), and whether by half, (m,)
    bool.

    Of equal overlaps, the first face wins, whether it counts or not.
    """
    whole = arithmetic == "matlab" and np.issubdtype(faces.dtype, np.integer)
    left, top, width, height = faces.astype(np.float64).T
    edges = np.stack([left, top, left + width, top + height])
    overlap = (_overlap_int32 if whole else _overlap)(detections.T[:, :, None], edges[:, None, :])
    face = overlap.argmax(axis=1)
    return face, overlap[np.arange(len(face)), face] >= 0.5


def _overlap(a: Array, b: Array) -> Array:
    """Intersection over union, counting both ends of a box; (4, m, 1) and (4, 1, n) give (m, n)."""
    w = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]) + 1
    h = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]) + 1
    common = w * h
    union = (a[2] - a[0] + 1) * (a[3] - a[1] + 1) + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - common
    return np.where((w <= 0) | (h <= 0), 0.0, ratio(common, union))


def _overlap_int32(a: Array, b: Array) -> Array:
    """``_overlap`` of double detections and int32 faces in MATLAB's arithmetic.

    Every result with an int32 part is rounded to int32, also the quotient. Only the area of the detection stays double.
    """
    a32 = _int32(a)
    w = _int32(np.minimum(a32[2], b[2]) - np.maximum(a32[0], b[0]) + 1)
    h = _int32(np.minimum(a32[3], b[3]) - np.maximum(a32[1], b[1]) + 1)
    common = _int32(w * h)
    area_b = _int32((b[2] - b[0] + 1) * (b[3] - b[1] + 1))
    union = _int32(_int32(area_b + (a[2] - a[0] + 1) * (a[3] - a[1] + 1)) - common)
    return np.where((w <= 0) | (h <= 0), 0.0, _int32(ratio(common, union)))


def _int32(x: Array) -> Array:
    """MATLAB's int32(): halves round away from zero, saturated, NaN becomes 0. The result is float64."""
    whole = np.trunc(x)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        whole = whole + np.where(np.abs(x - whole) >= 0.5, np.sign(x), 0)
    return np.clip(np.nan_to_num(whole, nan=0.0, posinf=2.0**31, neginf=-(2.0**31)), -(2.0**31), 2.0**31 - 1)
