"""ROC curves on FDDB, discrete and continuous, line by line as the official tool computes them.

Faces are ellipses. Regions are compared as masks drawn by OpenCV, so the extra ``evaluate`` is needed. At each score,
the detections of an image are assigned to its faces. A pair adds one to the discrete score if its masks overlap by more
than half, and its overlap to the continuous score.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lineament.data.readers.parsing import blocks, read_lines, table
from lineament.errors import DataError, OptionError
from lineament.evaluate import results
from lineament.evaluate.assignment import official, optimal
from lineament.evaluate.detections import Detections, Shape, choose, pick
from lineament.evaluate.extra import require
from lineament.files import write_whole

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Assignment = Literal["official", "optimal"]
ASSIGNMENTS: dict[str, Callable[[Array], Array]] = {"official": official, "optimal": optimal}
IMAGES, FACES = 2845, 5171  # of the ten folds, as published
NO_DETECTION = float(np.finfo(np.float64).max)  # the threshold of an image without detections
READ_AT = (1, 50, 100, 500, 1000, 2000)  # false positives at which papers report recall
WINDOWS_PI = 3.14156  # the value of pi in builds of the tool whose compiler headers had none
FAR = 2.0**30  # pixels; nothing beyond can be drawn


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Faces, and sizes of images.

    Attributes:
        ellipses: By image name, (n, 5) ``major radius, minor radius, angle, cx, cy`` in pixels and radians.
        sizes: By image name, ``(width, height)`` in pixels. Masks end there.
    """

    ellipses: Mapping[str, Array]
    sizes: Mapping[str, tuple[int, int]]

    @property
    def faces(self) -> int:
        """Number of faces."""
        return sum(map(len, self.ellipses.values()))

    def subset(self, names: Collection[str]) -> GroundTruth:
        """The ground truth of only these images, such as those with profile faces.

        Raises:
            DataError: A name is not in the ground truth.
        """
        kept = choose(names, self.ellipses.keys())
        return GroundTruth({name: self.ellipses[name] for name in kept}, {name: self.sizes[name] for name in kept})

    def rotated(self, degrees: int) -> GroundTruth:
        """The faces in images rotated by 90 degrees, counter-clockwise if positive (KPNet, table 2).

        Raises:
            OptionError: The angle is not 0, 90 or -90 degrees.
        """
        if degrees not in (0, 90, -90):
            raise OptionError(f"images are rotated by 0, 90 or -90 degrees, not {degrees}")
        if not degrees:
            return self
        turned = {name: _turn(rows, self.sizes[name], degrees) for name, rows in self.ellipses.items()}
        return GroundTruth(turned, {name: (height, width) for name, (width, height) in self.sizes.items()})


def _turn(ellipses: Array, size: tuple[int, int], degrees: int) -> Array:
    width, height = size
    major, minor, angle, x, y = ellipses.T
    if degrees > 0:
        return np.column_stack([major, minor, angle - np.pi / 2, y, width - 1 - x])
    return np.column_stack([major, minor, angle + np.pi / 2, height - 1 - y, x])


@dataclass(frozen=True, eq=False)
class Result:
    """ROC curves on FDDB, from the lowest threshold to the highest.

    Attributes:
        thresholds: (n,) scores.
        discrete: (n,) number of matched faces.
        continuous: (n,) sum of their overlaps.
        false_positives: (n,) number of detections that match no face.
        faces: Total number of faces.
        images: Number of images.
        notes: What was skipped or changed, with counts.
    """

    thresholds: Array
    discrete: Array
    continuous: Array
    false_positives: Array
    faces: int
    images: int
    notes: tuple[str, ...]

    def recall(self, false_positives: int, *, continuous: bool = False) -> float:
        """The best true positive rate, in [0, 1], with at most this many false positives."""
        found = self.continuous if continuous else self.discrete
        return float(found[self.false_positives <= false_positives].max(initial=0)) / self.faces

    def write_roc(self, folder: str | Path) -> None:
        """Write ``DiscROC.txt`` and ``ContROC.txt`` like the tool, with six significant digits.

        The columns are rate, false positives and threshold; ``ContROC.txt`` has no threshold.
        """
        rows = list(zip(self.discrete, self.continuous, self.false_positives, self.thresholds, strict=True))
        disc = "".join(f"{d / self.faces:g} {float(f):g} {t:g}\n" for d, _, f, t in rows)
        cont = "".join(f"{c / self.faces:g} {float(f):g}\n" for _, c, f, _ in rows)
        write_whole(Path(folder) / "DiscROC.txt", disc)
        write_whole(Path(folder) / "ContROC.txt", cont)

    def summary(self, name: str) -> results.Result:
        """The result for reports, in percent."""
        wrong = self.false_positives
        return results.Result(
            protocol="fddb",
            name=name,
            scores={
                **{f"recall at {n} fp": 100 * self.recall(n) for n in READ_AT},
                **{f"continuous at {n} fp": 100 * self.recall(n, continuous=True) for n in READ_AT},
                "images": self.images,
                "faces": self.faces,
            },
            curves={
                "discrete": results.curve(wrong, self.discrete / self.faces, "false positives", "true positive rate"),
                "continuous": results.curve(wrong, self.continuous / self.faces, "false positives", "overlap"),
            },
            settings={"notes": list(self.notes)},
        )


def toolbox_rate(rates: ArrayLike, false_positives: ArrayLike, limit: float = 1000) -> float:
    """The number in the legends of published figures.

    Each column is sorted by itself in falling order. The number is the rate in the first row with fewer than ``limit``
    false positives.
    """
    rate, wrong = -np.sort(-np.asarray(rates, np.float64)), -np.sort(-np.asarray(false_positives, np.float64))
    below = np.flatnonzero(wrong < limit)
    return float(rate[below[0]]) if len(below) else math.nan


def read_ground_truth(annotations: str | Path, sizes: str | Path) -> GroundTruth:
    """Read the annotations in the order of their folds, and the sizes of the images.

    Args:
        annotations: A file of blocks (name, count, rows ``major minor angle cx cy 1``), or the folder of
            ``FDDB-fold-NN-ellipseList.txt``, which are read in order.
        sizes: A table ``name width height``, separated by blanks or commas, with or without a heading.

    Raises:
        DataError: A file has another format, a radius is negative, or an image is repeated or has no size.
    """
    path = Path(annotations)
    files = sorted(path.glob("*ellipseList.txt")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: expected files FDDB-fold-NN-ellipseList.txt in this folder, found none")
    ellipses: dict[str, Array] = {}
    for file in files:
        for name, lines in blocks(read_lines(file)):
            if name.text in ellipses:
                raise DataError(f"{name.where}: the image {name.text} is annotated twice")
            rows = table(lines, least=5, most=6)[:, :5]
            for line, (major, minor) in zip(lines, rows[:, :2], strict=True):
                if min(major, minor) < 0:
                    raise DataError(f"{line.where}: expected radii of 0 or more, found {line.text!r}")
            ellipses[name.text] = rows
    known = _read_sizes(Path(sizes))
    missing = [name for name in ellipses if name not in known]
    if missing:
        raise DataError(f"{sizes}: no size for {len(missing)} of {len(ellipses)} annotated images, e.g. {missing[0]}")
    return GroundTruth(ellipses, {name: known[name] for name in ellipses})


def _read_sizes(path: Path) -> dict[str, tuple[int, int]]:
    sizes: dict[str, tuple[int, int]] = {}
    for line in read_lines(path):
        try:
            name, width, height = line.text.replace(",", " ").split()
            size = int(width), int(height)
        except ValueError:
            if line.where == f"{path}:1":  # a heading
                continue
            raise DataError(f"{line.where}: expected name, width and height, found {line.text[:80]!r}") from None
        if min(size) <= 0:
            raise DataError(f"{line.where}: expected a width and a height above 0, found {line.text!r}")
        if sizes.setdefault(name, size) != size:
            raise DataError(f"{line.where}: {name} has had another size before: {sizes[name]}")
    return sizes


def evaluate(
    detections: Detections,
    ground_truth: GroundTruth,
    *,
    assignment: Assignment = "official",
    least_iou: float = 0.5,
    drop_images_without_detections: bool = False,
    pi: float = math.pi,
) -> Result:
    """Compute the two ROC curves.

    Args:
        detections: Rectangles or ellipses by image name. The order of the rows matters for the assignment "official".
        ground_truth: All images or any subset. The continuous score is summed in its order.
        assignment: "official" repeats the solver of the tool, which sometimes misses the optimum. "optimal" does not.
        least_iou: A pair counts in the discrete score if its overlap is larger than this.
        drop_images_without_detections: Leave out images without detections, and their faces, as a common port does.
        pi: For angles. ``WINDOWS_PI`` repeats the results of some builds of the tool.

    Raises:
        DataError: No image is in the ground truth.
        OptionError: The assignment does not exist.
        MissingExtraError: OpenCV is not installed, or SciPy for the optimal assignment.
    """
    if assignment not in ASSIGNMENTS:
        raise OptionError(f"assignment must be one of {', '.join(ASSIGNMENTS)}, found {assignment!r}")
    known = pick(detections, ground_truth.ellipses.keys())
    notes = known.notes
    nothing = np.empty((0, 6 if detections.shape == "ellipse" else 5))
    found = {name: known.images.get(name, nothing) for name in ground_truth.ellipses}
    empty = [name for name, rows in found.items() if not len(rows)]
    if drop_images_without_detections and empty:
        ground_truth = ground_truth.subset([name for name in found if len(found[name])])
        notes += (f"{len(empty):,} images without detections and their faces left out (first: {empty[0]})",)
    solve = ASSIGNMENTS[assignment]
    images = [
        _scores(
            found[name],
            overlaps(found[name], detections.shape, ellipses, ground_truth.sizes[name], pi),
            solve,
            least_iou,
        )
        for name, ellipses in ground_truth.ellipses.items()
    ]
    notes += _against_published(ground_truth)
    for note in notes:
        logger.warning("FDDB: %s", note)
    return Result(*_merge(images), ground_truth.faces, len(images), notes)


def _against_published(truth: GroundTruth) -> tuple[str, ...]:
    if (len(truth.ellipses), truth.faces) == (IMAGES, FACES):
        return ()
    return (
        f"{len(truth.ellipses):,} of {IMAGES:,} images, {truth.faces:,} of {FACES:,} faces: "
        "not the published ten folds; compare only with numbers on the same images",
    )


# Masks (section 2.2 of the protocol)


def overlaps(detections: Array, shape: Shape, faces: Array, size: tuple[int, int], pi: float = math.pi) -> Array:
    """Intersection over union of the masks of faces (m, 5) and detections (n, 5 or 6), (m, n) float64."""
    masks = [_ellipse_mask(face, size, pi) for face in faces]
    common = _common_rectangles if shape == "rectangle" else _common_ellipses
    both, areas = common(detections, masks, size, pi)
    union = np.array([int(mask.sum()) for mask in masks], np.int64).reshape(-1, 1) + areas - both
    return np.divide(both, union, out=np.zeros(both.shape), where=union > 0)


def _common_rectangles(
    detections: Array, masks: Sequence[Array], size: tuple[int, int], pi: float
) -> tuple[Array, Array]:
    """Pixels common to masks and rectangles (m, n), and the areas of the rectangles (n,).

    The sum of a mask over a rectangle comes from its integral image.
    """
    corners = _whole(detections[:, :4])
    limits = np.array(size)
    low = np.clip(np.minimum(corners[:, :2], corners[:, 2:]), 0, limits)
    high = np.clip(np.maximum(corners[:, :2], corners[:, 2:]) + 1, 0, limits)  # both corners belong to it
    (x1, y1), (x2, y2) = low.T, high.T
    sums = [require("cv2").integral(mask) for mask in masks]
    both = [s[y2, x2] - s[y1, x2] - s[y2, x1] + s[y1, x1] for s in sums]
    return np.array(both, np.int64).reshape(len(masks), len(detections)), (x2 - x1) * (y2 - y1)


def _common_ellipses(
    detections: Array, masks: Sequence[Array], size: tuple[int, int], pi: float
) -> tuple[Array, Array]:
    """The same for ellipses."""
    drawn = [_ellipse_mask(row, size, pi) for row in detections]
    both = [[np.count_nonzero(mask & other) for other in drawn] for mask in masks]
    areas = np.array([np.count_nonzero(other) for other in drawn], np.int64)
    return np.array(both, np.int64).reshape(len(masks), len(detections)), areas


def _ellipse_mask(ellipse: Array, size: tuple[int, int], pi: float) -> Array:
    """Mask (height, width) uint8, 1 inside, of an ellipse with major and minor radius, angle and centre."""
    major, minor, angle, x, y = map(float, ellipse[:5])
    mask = np.zeros((size[1], size[0]), np.uint8)
    axes = int(min(major, FAR)), int(min(minor, FAR))
    degrees = float(np.rint(180 - (pi - angle) * 180 / pi))
    require("cv2").ellipse(mask, _whole(np.array([x, y])).tolist(), axes, degrees, 0, 360, 1, -1)
    return mask


def _whole(coordinates: Array) -> Array:
    """The pixels to which OpenCV rounds coordinates."""
    return np.rint(coordinates.astype(np.float32)).clip(-FAR, FAR).astype(np.int64)


# Scores (section 2.3)


def _scores(detections: Array, iou: Array, solve: Callable[[Array], Array], least_iou: float) -> Array:
    """Rows ``threshold, discrete, continuous, false positives`` (k, 4) of one image, with rising thresholds."""
    if not len(detections):
        return np.array([[NO_DETECTION, 0.0, 0.0, 0.0]])
    scores = detections[:, -1]
    touching = iou.sum(axis=0) > 0 if len(iou) else np.zeros(len(scores), bool)
    rows = []
    matched, before = (0, 0.0), 0
    for threshold in np.unique(scores)[::-1]:
        kept = scores >= threshold
        seen = int((kept & touching).sum())
        if seen != before:  # detections that touch no face only add false positives
            matched, before = _matched(iou[:, kept & touching], solve, least_iou), seen
        rows.append((threshold, *matched, kept.sum() - matched[0]))
    return np.array(rows[::-1], np.float64)


def _matched(iou: Array, solve: Callable[[Array], Array], least_iou: float) -> tuple[int, float]:
    iou = iou[iou.sum(axis=1) > 0]
    pairs = solve(iou)
    return int((pairs > least_iou).sum()), float(sum(pairs[pairs > 0].tolist()))


def _merge(images: Sequence[Array]) -> tuple[Array, Array, Array, Array]:
    """All images at every occurring threshold. Each image gives its row with the smallest threshold not below."""
    thresholds = np.unique(np.concatenate([rows[:, 0] for rows in images]))
    sums = np.zeros((3, len(thresholds)))
    for rows in images:
        upto = np.searchsorted(thresholds, rows[:, 0], side="right")
        sums[:, : upto[-1]] += np.repeat(rows[:, 1:].T, np.diff(upto, prepend=0), axis=1)
    discrete, continuous, wrong = sums
    return thresholds, discrete.astype(np.int64), continuous, wrong.astype(np.int64)
