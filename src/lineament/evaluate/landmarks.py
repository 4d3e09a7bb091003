"""Landmark accuracy: normalised mean error (NME), error curves and failure rates, for faces and for whole detectors.

The error of a face is the mean over its K landmarks of ``||p_k - g_k|| / d`` with the normaliser d. NME is the mean
over faces. Papers differ in d, in the integration of the error curve and in the inequality; all variants are here by
name. Errors and limits are fractions of d (0.1 is the "10 %" of papers).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lineament.boxes import iou
from lineament.data.sample import NOT_LABELLED, VISIBLE, Sample
from lineament.errors import OptionError
from lineament.evaluate.labelled import Evaluated
from lineament.evaluate.results import Result, Scores, curve
from lineament.faces import Faces
from lineament.schemas import Schema, convert, is_convertible

Array = NDArray[Any]

LIMITS = (0.08, 0.10)
STEP = 1e-4


# --- normalisers: (n, k, 2) landmarks and (n, 4) boxes of the ground truth -> (n,) pixels ---


def _between(part: str) -> Callable[[Array, Array, Schema], Array]:
    """Distance between the means of a right and a left group."""

    def distance(landmarks: Array, boxes: Array, schema: Schema) -> Array:
        right, left = _pair(schema, part)
        return _length(landmarks[:, right].mean(axis=1) - landmarks[:, left].mean(axis=1))

    return distance


def _pair(schema: Schema, part: str) -> tuple[list[int], list[int]]:
    groups = schema.groups
    if part == "ocular" and "outer_eye_corners" in groups:
        right, left = groups["outer_eye_corners"]
        return [right], [left]
    pupils, eyes = ("right_pupil", "left_pupil"), ("right_eye", "left_eye")
    for right_name, left_name in (pupils, eyes):
        if right_name in groups and left_name in groups:
            return list(groups[right_name]), list(groups[left_name])
    raise OptionError(
        f"schema {schema.name!r} has no eyes to normalise by: give it the groups right_eye and left_eye, or choose one "
        f"of {', '.join(name for name in NORMALISERS if 'inter' not in name)}"
    )


def _of_box(measure: Callable[[Array], Array]) -> Callable[[Array, Array, Schema], Array]:
    return lambda landmarks, boxes, schema: measure(boxes[:, 2:] - boxes[:, :2])


def _of_points(measure: Callable[[Array], Array]) -> Callable[[Array, Array, Schema], Array]:
    return lambda landmarks, boxes, schema: measure(_extent(landmarks))


def _extent(landmarks: Array) -> Array:
    """Width and height (n, 2) of the tight box around the labelled landmarks. Not finite without landmarks."""
    missing = np.isnan(landmarks)
    return np.asarray(
        np.where(missing, -np.inf, landmarks).max(axis=1) - np.where(missing, np.inf, landmarks).min(axis=1)
    )


def _length(sides: Array) -> Array:
    return np.asarray(np.linalg.norm(sides, axis=-1))


def _geometric(sides: Array) -> Array:
    return np.asarray(np.sqrt(np.maximum(sides, 0).prod(axis=-1)))


NORMALISERS: dict[str, Callable[[Array, Array, Schema], Array]] = {
    "inter-ocular": _between("ocular"),
    "inter-pupil": _between("pupil"),
    "box-size": _of_box(_geometric),
    "box-diagonal": _of_box(_length),
    "box-width": _of_box(lambda sides: sides[:, 0]),
    "box-height": _of_box(lambda sides: sides[:, 1]),
    "tight-box-size": _of_points(_geometric),
    "tight-box-diagonal": _of_points(_length),
    "pixels": lambda landmarks, boxes, schema: np.ones(len(landmarks)),
}
"""``inter-ocular``: outer eye corners (300W, WFLW, COFW), or the two eye points of schemas without corners.
``inter-pupil``: pupils, or the means of the eye contours. ``box-size``: square root of the labelled box's area (AFLW).
``tight-...``: of the tight box around the labelled landmarks (Menpo's profiles: the diagonal).
"""


def normaliser(name: str, landmarks: Array, boxes: Array, schema: Schema) -> Array:
    """Lengths (n,) in pixels that normalise the errors. NaN if a face lacks what they need, or if they are 0.

    Args:
        name: One of `NORMALISERS`.
        landmarks: (n, k, 2) ground truth.
        boxes: (n, 4) ground truth.
        schema: The schema of the landmarks.

    Raises:
        OptionError: The normaliser does not exist, or the schema has no eyes.
    """
    if name not in NORMALISERS:
        raise OptionError(f"unknown normaliser {name!r}; there are: {', '.join(NORMALISERS)}")
    length = NORMALISERS[name](np.asarray(landmarks, float), np.asarray(boxes, float), schema)
    return np.where(np.isfinite(length) & (length > 0), length, np.nan)


# --- errors and scores ---


def point_errors(predicted: ArrayLike, truth: ArrayLike, length: ArrayLike) -> Array:
    """Distances (n, k) divided by ``length``. NaN if not labelled, infinite if only the prediction is missing.

    Args:
        predicted: (n, k, 2).
        truth: (n, k, 2). NaN if not labelled.
        length: (n,) normaliser.
    """
    g = np.asarray(truth, float)
    distance = _length(np.asarray(predicted, float) - g)
    labelled = np.isfinite(g).all(axis=2)
    errors = np.where(labelled & np.isnan(distance), np.inf, distance) / np.asarray(length, float)[:, None]
    return np.where(labelled, errors, np.nan)


def face_errors(errors: Array, use: ArrayLike | None = None) -> Array:
    """Mean error (n,) over the labelled landmarks of each face. NaN for a face without any.

    Args:
        errors: (n, k) from `point_errors`.
        use: (n, k) bool, an additional selection of landmarks, such as the visible ones.
    """
    return _mean(errors, np.ones(errors.shape, bool) if use is None else np.asarray(use, bool), axis=1)


def nme(errors: Array) -> float:
    """Mean over the faces with a finite error. NaN if there are none."""
    return float(_mean(errors, np.isfinite(errors), axis=0))


def _mean(errors: Array, use: Array, axis: int) -> Array:
    use = use & ~np.isnan(errors)
    total, count = np.where(use, errors, 0).sum(axis=axis), use.sum(axis=axis)
    return np.asarray(np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0))


def failure_rate(errors: Array, limit: float, *, strict: bool = True) -> float:
    """Share of failed faces.

    Args:
        errors: (n,). Infinite errors are failures, NaN (not labelled) is ignored.
        limit: Fraction of the normaliser.
        strict: Errors above the limit are failures (HRNet, PIPNet). Otherwise also errors at the limit (iBUG, Menpo).
    """
    known = errors[~np.isnan(errors)]
    return float(np.mean(known > limit if strict else known >= limit)) if known.size else float("nan")


def ced(errors: Array, x: ArrayLike, *, strict: bool = False) -> Array:
    """Cumulative error distribution: for each value of ``x``, the share with at most (``strict``: below) this error."""
    known = np.sort(errors[~np.isnan(errors)])
    return np.searchsorted(known, np.asarray(x, float), side="left" if strict else "right") / max(len(known), 1)


def auc_exact(errors: Array, limit: float) -> float:
    """Area under the exact step curve up to ``limit``, divided by ``limit``: mean(max(0, limit - e)) / limit."""
    known = errors[~np.isnan(errors)]
    return float(np.mean(np.maximum(limit - known, 0)) / limit) if known.size else float("nan")


def auc_simpson(errors: Array, limit: float, step: float = STEP) -> float:
    """Area by Simpson's rule over the curve sampled every ``step`` (PIPNet).

    Raises:
        OptionError: ``limit`` is not an even number of steps.
    """
    x = np.arange(0, limit + step / 2, step)
    if len(x) % 2 == 0:
        raise OptionError(f"Simpson's rule needs an even number of steps: {limit} is {len(x) - 1} steps of {step}")
    weights = np.where(np.arange(len(x)) % 2, 4.0, 2.0)
    weights[[0, -1]] = 1
    return float(weights @ ced(errors, x) * step / 3 / limit)


def auc_trapezoid(errors: Array, limit: float, step: float = STEP) -> float:
    """Area by the trapezoid rule over the curve sampled every ``step``."""
    x = np.linspace(0, limit, round(limit / step) + 1)
    return auc_of_curve(x, ced(errors, x), limit)


def auc_of_curve(x: ArrayLike, y: ArrayLike, limit: float) -> float:
    """Area by the trapezoid rule over a published curve up to ``limit``, divided by ``limit``."""
    xs, ys = _up_to(x, y, limit)
    return float(np.sum((ys[1:] + ys[:-1]) * np.diff(xs)) / 2 / limit)


def failure_of_curve(x: ArrayLike, y: ArrayLike, limit: float) -> float:
    """One minus the height of a published curve at ``limit``."""
    return float(1 - _up_to(x, y, limit)[1][-1])


def _up_to(x: ArrayLike, y: ArrayLike, limit: float) -> tuple[Array, Array]:
    xs, ys = np.asarray(x, float).ravel(), np.asarray(y, float).ravel()
    keep = xs <= limit + 1e-9  # 0.1 in a grid may be 0.1 + 1e-17
    return xs[keep], ys[keep]


class Occlusion(NamedTuple):
    """Precision and recall of hidden landmarks, in [0, 1]."""

    precision: float
    recall: float


def occlusion(predicted: ArrayLike, truth: ArrayLike) -> Occlusion:
    """Precision and recall of landmarks predicted as hidden (COFW's protocol). 0 without any.

    Args:
        predicted: (n, k) bool, predicted as hidden.
        truth: (n, k) bool, labelled as hidden.
    """
    called, hidden = np.asarray(predicted, bool), np.asarray(truth, bool)
    right = int((called & hidden).sum())
    return Occlusion(right / max(int(called.sum()), 1), right / max(int(hidden.sum()), 1))


# --- whole detectors ---


def match_confident(faces: Faces, boxes: Array, *, least_iou: float = 0.3) -> Array:
    """For each labelled box, the detection of the highest score that belongs to it; -1 without one.

    A detection belongs to the box that it overlaps most, if the IoU is at least ``least_iou`` (0.3 for five landmarks).

    Args:
        faces: The detections of one image.
        boxes: (m, 4) labelled boxes.
        least_iou: Smallest IoU.

    Returns:
        Indices (m,) into ``faces``.
    """
    if not len(faces) or not len(boxes):
        return np.full(len(boxes), -1)
    overlaps = iou(faces.boxes.astype(float), boxes.astype(float))
    own = (overlaps >= least_iou) & (overlaps.argmax(axis=1)[:, None] == np.arange(len(boxes)))
    scores = np.where(own, faces.scores[:, None], -np.inf)
    return np.where(own.any(axis=0), scores.argmax(axis=0), -1)


def evaluate_landmarks(
    name: str, evaluated: Evaluated, *, normalise: str = "inter-ocular", least_iou: float = 0.3, worst: int = 24
) -> Result:
    """Evaluate a detector that predicts faces and landmarks together.

    Recall is over the labelled faces with landmarks that are not ignored. NME is over the matched faces. Failure rates
    and AUC are over all these faces; a missed face has an infinite error.

    Args:
        name: The name of the detector in the result.
        evaluated: Labelled images and their detections. If schemas differ, the richer one is reduced.
        normalise: One of `NORMALISERS`.
        least_iou: See `match_confident`.
        worst: Number of examples to keep.

    Raises:
        OptionError: There are no labelled landmarks, the normaliser does not exist, or the schemas have no map.
    """
    if not evaluated.samples:
        raise OptionError("no labelled image to evaluate")
    schema = _common(evaluated)
    parts = [_matched(s, f, schema, least_iou) for s, f in zip(evaluated.samples, evaluated.faces, strict=True)]
    boxes, truth, predicted, visible, found = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not len(boxes):
        raise OptionError("no labelled landmarks to compare with: every face has no landmarks or is ignored")
    points = point_errors(predicted, truth, normaliser(normalise, truth, boxes, schema))
    errors = face_errors(points)
    x = np.arange(0, 0.35 + 1e-9, 0.0005)
    subsets = _subsets(evaluated.samples)
    tables = {
        "landmark NME": {
            point: Scores(nme=float(mean))
            for point, mean in zip(schema.points, _mean(points, np.isfinite(points), axis=0), strict=True)
        },
        "subsets": {subset: _scores(errors[rows], found[rows]) for subset, rows in subsets.items()},
    }
    return Result(
        protocol="landmarks",
        name=name,
        scores={"pictures": len(parts), "failed pictures": evaluated.failed, "left-out pictures": evaluated.left_out}
        | _scores(errors, found)
        | {"nme visible": nme(face_errors(points, visible))},
        tables={title: table for title, table in tables.items() if table},
        curves={"ced": curve(x, ced(errors, x, strict=True), "error", "share of faces", points=len(x))},
        settings={
            "normalise": normalise,
            "schema": schema.name,
            "least IoU": least_iou,
            "notes": list(evaluated.notes),
        },
        examples=_worst(evaluated.samples, [len(part[0]) for part in parts], errors, boxes, truth, predicted, worst),
    )


def _common(evaluated: Evaluated) -> Schema:
    """The schema to which both sides can be reduced. An image without detections does not determine its schema."""
    labelled = evaluated.samples[0].schema
    found = next((faces.schema for faces in evaluated.faces if len(faces)), evaluated.faces[0].schema)
    if is_convertible(labelled, found):
        return found
    if is_convertible(found, labelled):
        return labelled
    raise OptionError(
        f"labels have landmark schema {labelled.name!r}, detections {found.name!r}, and no map joins them"
    )


def _counted(sample: Sample) -> Array:
    return np.asarray((sample.visibility > NOT_LABELLED).any(axis=1) & ~sample.ignore)


def _matched(sample: Sample, faces: Faces, schema: Schema, least_iou: float) -> tuple[Array, ...]:
    """The counted faces of an image: boxes, true and predicted landmarks, visible landmarks, and matched faces."""
    chosen = match_confident(faces, sample.boxes, least_iou=least_iou)
    points = np.full((len(sample), len(schema), 2), np.nan)
    if len(faces):
        points = np.where((chosen >= 0)[:, None, None], convert(faces.landmarks, faces.schema, schema)[chosen], np.nan)
    labelled = sample.landmarks.astype(float)
    truth = convert(labelled, sample.schema, schema)
    visible = convert(np.where((sample.visibility == VISIBLE)[..., None], labelled, np.nan), sample.schema, schema)
    rows = _counted(sample)
    return sample.boxes[rows], truth[rows], points[rows], np.isfinite(visible).all(axis=2)[rows], chosen[rows] >= 0


def _scores(errors: Array, found: Array) -> Scores:
    scores: Scores = {
        "faces": len(errors),
        "faces without normaliser": int(np.isnan(errors).sum()),
        "matched": int(found.sum()),
        "recall": float(found.mean()),
        "nme": nme(errors),
    }
    for limit in LIMITS:
        scores |= {f"auc@{limit:g}": auc_exact(errors, limit), f"fr@{limit:g}": failure_rate(errors, limit)}
    return scores


def _subsets(samples: Sequence[Sample]) -> dict[str, Array]:
    """Masks over the counted faces: one for each true/false attribute, and one for each value of a named attribute."""
    counted = [_counted(sample) for sample in samples]
    names = dict.fromkeys(name for sample in samples for name in sample.attributes)
    columns = {
        name: np.concatenate([s.attributes[name][rows] for s, rows in zip(samples, counted, strict=True)])
        for name in names
        if all(name in sample.attributes for sample in samples)
    }
    flags = {name: values for name, values in columns.items() if values.dtype == bool}
    words = {
        f"{name}: {word}": values == word
        for name, values in columns.items()
        if values.dtype.kind == "U"
        for word in np.unique(values)
        if word
    }
    return {name: rows for name, rows in (flags | words).items() if rows.any()}


def _worst(
    samples: Sequence[Sample],
    counts: Sequence[int],
    errors: Array,
    boxes: Array,
    truth: Array,
    predicted: Array,
    count: int,
) -> list[dict[str, Any]]:
    """The matched faces with the largest errors."""
    order = np.argsort(-np.where(np.isfinite(errors), errors, -1), kind="stable")[:count]
    picture = np.repeat(np.arange(len(samples)), counts)
    return [
        {
            "kind": "landmark error",
            "path": str(samples[picture[i]].path),
            "value": float(errors[i]),
            "box": boxes[i].astype(float).round(2),
            "landmarks": predicted[i].round(2),
            "truth": truth[i].round(2),
        }
        for i in order
        if np.isfinite(errors[i])
    ]
