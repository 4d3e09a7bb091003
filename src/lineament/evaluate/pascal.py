"""Average precision on AFW and PASCAL faces, by the rules and the toolbox of Mathias et al. 2014.

Detectors draw boxes in different styles. The toolbox subtracts the mean deviation of the matched boxes from all boxes,
in position and size, and evaluates again. It reports the fifth evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lineament.data.readers.matlab import read_mat
from lineament.data.readers.parsing import laid_out
from lineament.errors import DataError
from lineament.evaluate import results
from lineament.evaluate.curves import PrecisionRecall, ratio
from lineament.evaluate.detections import Detections, Tally, choose, image_key

logger = logging.getLogger(__name__)

Array = NDArray[Any]
LEAST_FACE = 30  # pixels; smaller boxes are ignored
LEAST_DETECTION = int((0.5 * LEAST_FACE**2) ** 0.5)  # detections with neither side above it are left out
ROUNDS = 5
PUBLISHED = {
    205: ("AFW", (473, 468)),
    851: ("PASCAL faces", (1341, 1335)),
}  # faces that count, in the new and the old annotation


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Boxes, and which of them are ignored.

    Attributes:
        boxes: By image key (file name up to the first dot), (n, 4) ``x1, y1, x2, y2``, including both corners.
        ignored: By image key, (n,) bool.
    """

    boxes: Mapping[str, Array]
    ignored: Mapping[str, Array]

    @property
    def faces(self) -> int:
        """Number of faces that count."""
        return sum(int((~mask).sum()) for mask in self.ignored.values())

    def subset(self, names: Collection[str]) -> GroundTruth:
        """The ground truth of only these images.

        Raises:
            DataError: A name is not in the ground truth.
        """
        kept = choose(names, self.boxes.keys())
        return GroundTruth({name: self.boxes[name] for name in kept}, {name: self.ignored[name] for name in kept})


class Style(NamedTuple):
    """The deviation of a detector's boxes from the faces: a shift in units of the box size, and scale factors."""

    x: float = 0.0
    y: float = 0.0
    width: float = 1.0
    height: float = 1.0

    def then(self, other: Style) -> Style:
        """The style that applies this one and then another."""
        return Style(
            self.x + other.x * self.width,
            self.y + other.y * self.height,
            self.width * other.width,
            self.height * other.height,
        )


@dataclass(frozen=True, eq=False)
class Result:
    """Scores on AFW or PASCAL faces.

    Attributes:
        curve: Precision and recall after each detection that counts.
        aps: Average precision of each round, in [0, 1]. The first is without correction; the last is reported.
        style: The correction in the reported round.
        true_positives: Their number in the last round.
        false_positives: Their number in the last round.
        faces: Number of faces that count.
        images: Number of images.
        notes: What was skipped or changed, with counts.
    """

    curve: PrecisionRecall
    aps: tuple[float, ...]
    style: Style
    true_positives: int
    false_positives: int
    faces: int
    images: int
    notes: tuple[str, ...]

    @property
    def ap(self) -> float:
        """Average precision after the correction, in [0, 1]."""
        return self.aps[-1]

    def summary(self, name: str) -> results.Result:
        """The result for reports, in percent."""
        return results.Result(
            protocol="pascal",
            name=name,
            scores={
                "ap": 100 * self.ap,
                "ap without correction": 100 * self.aps[0],
                "images": self.images,
                "faces": self.faces,
                "true positives": self.true_positives,
                "false positives": self.false_positives,
            },
            tables={"box style taken off": {"": dict(self.style._asdict())}},
            curves={"pr": results.curve(self.curve.recall, self.curve.precision, "recall", "precision")},
            settings={"rounds": len(self.aps), "notes": list(self.notes)},
        )


def read_ground_truth(path: str | Path) -> GroundTruth:
    """Read annotations in either layout.

    The new layout is the struct array Annotations with ``x1 y1 x2 y2 ? ignore``. The old one, AFW's own, is the cell
    array anno with two corners per face. Boxes with a side below 30 pixels are ignored.

    Raises:
        DataError: The file has neither layout, or an image is repeated.
        MissingExtraError: SciPy is not installed.
    """
    content = read_mat(path)
    with laid_out(path, "annotations of AFW or PASCAL faces"):
        if "Annotations" in content:
            entries = [(entry["imgname"], _rows(entry["objects"])) for entry in content["Annotations"]]
        elif "anno" in content:
            cells = content["anno"]
            entries = [(name, _rows([np.ravel(face) for face in faces])) for name, faces in _name_and_faces(cells)]
        else:
            raise DataError(f"{path}: expected the variable Annotations or anno; found {', '.join(content) or 'none'}")
    boxes: dict[str, Array] = {}
    ignored: dict[str, Array] = {}
    for name, rows in entries:
        key = image_key(name)
        if key in boxes:
            raise DataError(f"{path}: the image {key} is there twice")
        if not np.isfinite(rows).all():
            raise DataError(f"{path}: {name}: expected finite boxes")
        boxes[key] = rows[:, :4]
        sides = np.abs(rows[:, 2:4] - rows[:, :2])
        ignored[key] = (sides < LEAST_FACE).any(axis=1) | (rows[:, 5] != 0)
    return GroundTruth(boxes, ignored)


def _name_and_faces(cells: list[Any]) -> list[tuple[str, list[Array]]]:
    """Rows of four cells each: name, corners, angles, points."""
    return list(zip(cells[::4], cells[1::4], strict=True))


def _rows(objects: Any) -> Array:
    """Rows (n, 6). Missing values are 0."""
    rows = np.asarray(objects, np.float64)
    rows = rows.reshape(-1, rows.shape[-1] if rows.size else 4)[:, :6]
    return np.pad(rows, ((0, 0), (0, 6 - rows.shape[1])))


def evaluate(
    detections: Detections, ground_truth: GroundTruth, *, correct: bool = True, least_iou: float = 0.5
) -> Result:
    """Compute the average precision.

    Args:
        detections: Rectangles by image key. Those in images without ground truth are false positives.
        ground_truth: All images or any subset.
        correct: Correct the detector's box style. Otherwise, only the first round is evaluated.
        least_iou: A face is matched by a larger overlap than this. The toolbox uses 0.1 for Picasa, whose boxes are not
            comparable otherwise.

    Raises:
        OptionError: The detections are ellipses.
    """
    tally = Tally()
    kept: dict[str, Array] = {}
    for key, rows in detections.rectangles().images.items():
        large = (rows[:, 2:4] - rows[:, :2] > LEAST_DETECTION).any(axis=1)
        kept[key] = rows[large]
        where, small = detections.where(key), int((~large).sum())
        tally.add(f"detections with neither side above {LEAST_DETECTION} pixels, left out", where, small)
        if key not in ground_truth.boxes:
            tally.add("detections in images that are not in the ground truth: false positives", where, int(large.sum()))
    for key in ground_truth.boxes:
        if key not in kept:
            tally.add("images of the ground truth without an entry in the detections: all their faces are missed", key)
    style = Style()
    curve, wins, deviation = _round(kept, ground_truth, least_iou)
    aps = [curve.ap]
    for _ in range(1, ROUNDS if correct else 1):
        style = style.then(deviation)
        kept = {key: _restyled(rows, deviation) for key, rows in kept.items()}
        curve, wins, deviation = _round(kept, ground_truth, least_iou)
        aps.append(curve.ap)
    images, faces = len(ground_truth.boxes), ground_truth.faces
    notes = (*detections.notes, *tally.notes(), *_against_published(images, faces))
    for note in notes:
        logger.warning("AFW/PASCAL: %s", note)
    return Result(curve, tuple(aps), style, int(wins.sum()), int((~wins).sum()), faces, images, notes)


def _against_published(images: int, faces: int) -> tuple[str, ...]:
    if images in PUBLISHED and faces in PUBLISHED[images][1]:
        return ()
    sets = " or ".join(f"{counts[0]:,} faces in {n} images ({name})" for n, (name, counts) in PUBLISHED.items())
    return (
        f"{images:,} images with {faces:,} faces that count, not the published {sets}: "
        "compare only with numbers on the same images",
    )


def _round(
    detections: Mapping[str, Array], truth: GroundTruth, least_iou: float
) -> tuple[PrecisionRecall, Array, Style]:
    """One evaluation.

    Returns the curve, whether each counting detection matches a face, and the style that its boxes lack.
    """
    scores, wins, deviations = [np.empty(0)], [np.empty(0, bool)], [np.empty((0, 4))]
    for key, rows in detections.items():
        order = np.argsort(-rows[:, 4], kind="stable")
        boxes, ignored = truth.boxes.get(key, np.empty((0, 4))), truth.ignored.get(key, np.empty(0, bool))
        face, counts, won = _match(rows[order, :4], boxes, ignored, least_iou)
        scores.append(rows[order, 4][counts])
        wins.append(won[counts])
        deviations.append(_deviations(rows[order, :4][won], boxes[face[won]]))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    won = np.concatenate(wins)[order]
    true = np.cumsum(won)
    curve = PrecisionRecall(ratio(true, truth.faces), ratio(true, np.arange(1, len(won) + 1)))
    found = np.concatenate(deviations)
    return curve, won, Style(*found.mean(axis=0).tolist()) if len(found) else Style()


def _match(boxes: Array, faces: Array, ignored: Array, least_iou: float) -> tuple[Array, Array, Array]:
    """Match the detections of one image, best first.

    Returns, each (n,): the face that a detection overlaps most (the last one among equals), whether the detection
    counts, and whether it is the first to match its face.
    """
    if not len(faces):
        return np.zeros(len(boxes), np.intp), np.ones(len(boxes), bool), np.zeros(len(boxes), bool)
    overlap = _overlap(boxes.T[:, :, None], faces.T[:, None, :])
    face = len(faces) - 1 - overlap[:, ::-1].argmax(axis=1)
    near = overlap.max(axis=1) > least_iou
    candidates = np.flatnonzero(near & ~ignored[face])
    won = np.zeros(len(boxes), bool)
    won[candidates[np.unique(face[candidates], return_index=True)[1]]] = True
    return face, ~(near & ignored[face]), won


def _overlap(a: Array, b: Array) -> Array:
    """Intersection over union, counting both ends of a box. 0 for boxes that only touch."""
    w, h = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]), np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    common = np.where((w > 0) & (h > 0), (w + 1) * (h + 1), 0.0)
    return common / (_area(a) + _area(b) - common)


def _area(box: Array) -> Array:
    return np.asarray((np.abs(box[2] - box[0]) + 1) * (np.abs(box[3] - box[1]) + 1))


def _deviations(boxes: Array, faces: Array) -> Array:
    """Shift of the centre in units of the detection's size, and ratio of the sizes (n, 4)."""
    size, wanted = boxes[:, 2:] - boxes[:, :2], faces[:, 2:] - faces[:, :2]
    shift = (faces[:, :2] + faces[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    return np.concatenate([shift / size, wanted / size], axis=1)


def _restyled(rows: Array, style: Style) -> Array:
    """Move and scale boxes by a style. Scores do not change."""
    size = rows[:, 2:4] - rows[:, :2]
    centre = (rows[:, :2] + rows[:, 2:4]) / 2 + size * style[:2]
    half = size * style[2:] / 2
    return np.column_stack([centre - half, centre + half, rows[:, 4]])
