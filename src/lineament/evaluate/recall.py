"""Detection scores on labelled images: precision, recall, F1, recall of proposals and recall by face size.

All use the matching of PASCAL. A detection is matched with the face that it overlaps most, if the IoU is large enough.
Of several detections of a face, the one with the highest score is right, and the others are false positives. Ignored
regions are not faces, and detections in them do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lineament.boxes import area, coverage, iou
from lineament.data.sample import Sample
from lineament.errors import OptionError
from lineament.evaluate.curves import average_precision
from lineament.evaluate.labelled import Evaluated
from lineament.evaluate.results import Result, Scores, curve
from lineament.faces import Faces

Array = NDArray[Any]

SIZES = (0, 8, 16, 32, 64, 128, 256, np.inf)


class Matches(NamedTuple):
    """The detections and counted faces of one image, matched.

    Attributes:
        scores: (n,) of the detections that count, best first.
        right: (n,) bool, whether each is the best detection of a face.
        rows: (n,) their indices in the image's ``Faces``.
        found_at: (m,) for each counted face, the score of the detection that matches it; -inf without one.
        best: (m,) for each counted face, the rank (from 0) of the first detection that overlaps it enough; a huge
            number without one.
        sizes: (m,) square roots of the counted faces' areas, in pixels.
    """

    scores: Array
    right: Array
    rows: Array
    found_at: Array
    best: Array
    sizes: Array


def match(sample: Sample, faces: Faces, *, least_iou: float = 0.5) -> Matches:
    """Match the detections of an image with its labelled faces."""
    order = np.argsort(-faces.scores, kind="stable")
    proposals, scores = faces.boxes[order].astype(float), faces.scores[order]
    boxes = sample.boxes.astype(float)
    overlaps = iou(proposals, boxes)
    # The last column is "no face". It wins if every overlap is too small.
    padded = np.concatenate([np.where(overlaps >= least_iou, overlaps, 0), np.zeros((len(order), 1))], axis=1)
    face = np.where(padded.max(axis=1) > 0, padded.argmax(axis=1), len(boxes))
    ignored = np.append(sample.ignore, False)
    in_ignored = (coverage(proposals, boxes[sample.ignore]) >= 0.5).any(axis=1)
    first = np.zeros(len(order), bool)
    first[np.unique(face, return_index=True)[1]] = True
    right = first & (face < len(boxes)) & ~ignored[face]
    counts = right | ~(ignored[face] | (in_ignored & (face == len(boxes))))
    found_at = np.full(len(boxes), -np.inf)
    found_at[face[right]] = scores[right]
    enough = np.concatenate([overlaps >= least_iou, np.ones((1, len(boxes)), bool)])
    best = np.where(enough[:-1].any(axis=0), enough.argmax(axis=0), np.iinfo(int).max)
    kept = ~sample.ignore
    return Matches(
        scores=scores[counts],
        right=right[counts],
        rows=order[counts],
        found_at=found_at[kept],
        best=best[kept],
        sizes=np.sqrt(area(boxes))[kept],
    )


def evaluate_recall(
    name: str,
    evaluated: Evaluated,
    *,
    threshold: float = 0.5,
    least_iou: float = 0.5,
    tops: Sequence[int] = (1, 10, 100),
    false_positives: Sequence[int] = (1, 50),
    worst: int = 24,
) -> Result:
    """Evaluate the boxes of a detector.

    The scores are precision, recall and F1 of the detections with a score of at least ``threshold`` (FoxNet, table II);
    ``ap``, the area under the precision envelope over recall at all thresholds; ``recall top N``, the share of faces
    that one of the N best detections of their image overlaps enough (KPNet, table 1); and ``recall at N fp``, at the
    lowest threshold with at most N false positives in all images (KPNet, tables 2 and 3). A table has the recall by
    face size.

    Args:
        name: The name of the detector in the result.
        evaluated: Labelled images and their detections, from a threshold well below ``threshold``.
        threshold: The score for precision, recall and F1.
        least_iou: Smallest IoU of a match.
        tops: The N of ``recall top N``.
        false_positives: The N of ``recall at N fp``.
        worst: Number of false positives to keep as examples.

    Raises:
        OptionError: There is no labelled face.
    """
    if not evaluated.samples:
        raise OptionError("no labelled image to evaluate")
    matches = [match(s, f, least_iou=least_iou) for s, f in zip(evaluated.samples, evaluated.faces, strict=True)]
    scores, right, _, found_at, best, sizes = (np.concatenate(column) for column in zip(*matches, strict=True))
    if not len(sizes):
        raise OptionError("no labelled face to evaluate: there is none, or all are ignored")
    order = np.argsort(-scores, kind="stable")
    tp, fp = np.cumsum(right[order]), np.cumsum(~right[order])
    distinct = np.append(scores[order][1:] != scores[order][:-1], True)[: len(order)]  # ties count together
    precision, recall, wrong = (tp / np.maximum(tp + fp, 1))[distinct], (tp / len(sizes))[distinct], fp[distinct]
    results: Scores = {
        "pictures": len(matches),
        "failed pictures": evaluated.failed,
        "left-out pictures": evaluated.left_out,
        "faces": len(sizes),
    }
    results |= _at(scores, right, found_at, threshold) | {"ap": average_precision(recall, precision)}
    results |= {f"recall top {n}": float(np.mean(best < n)) for n in tops}
    results |= {f"recall at {n} fp": float(recall[wrong <= n].max(initial=0)) for n in false_positives}
    return Result(
        protocol="recall",
        name=name,
        scores=results,
        tables={"recall by face size": _by_size(sizes, found_at >= threshold, best)},
        curves={
            "pr": curve(recall, precision, "recall", "precision"),
            "roc": curve(wrong, recall, "false positives", "recall"),
        },
        settings={"threshold": threshold, "least IoU": least_iou, "notes": list(evaluated.notes)},
        examples=_false_positives(evaluated, matches, worst),
    )


def _at(scores: Array, right: Array, found_at: Array, threshold: float) -> Scores:
    kept = scores >= threshold
    hits = int((right & kept).sum())
    return {
        "precision": hits / max(int(kept.sum()), 1),
        "recall": hits / len(found_at),
        "f1": 2 * hits / (int(kept.sum()) + len(found_at)),
        "false positives": int((kept & ~right).sum()),
    }


def _by_size(sizes: Array, found: Array, best: Array) -> dict[str, Scores]:
    table = {}
    for low, high in pairwise(SIZES):
        rows = (sizes >= low) & (sizes < high)
        if rows.any():
            label = f"{low:g}-{high:g} px" if np.isfinite(high) else f"{low:g}+ px"
            table[label] = Scores(
                faces=int(rows.sum()),
                recall=float(found[rows].mean()),
                **{"recall top 100": float((best[rows] < 100).mean())},
            )
    return table


def _false_positives(evaluated: Evaluated, matches: Sequence[Matches], count: int) -> list[dict[str, Any]]:
    """The false positives with the highest scores."""
    wrong = [~m.right for m in matches]
    picture = np.repeat(np.arange(len(matches)), [int(w.sum()) for w in wrong])
    row = np.concatenate([m.rows[w] for m, w in zip(matches, wrong, strict=True)])
    scores = np.concatenate([m.scores[w] for m, w in zip(matches, wrong, strict=True)])
    return [
        {
            "kind": "false positive",
            "path": str(evaluated.samples[picture[i]].path),
            "value": float(scores[i]),
            "box": evaluated.faces[picture[i]].boxes[row[i]].astype(float).round(2),
            "landmarks": evaluated.faces[picture[i]].landmarks[row[i]].astype(float).round(2),
        }
        for i in np.argsort(-scores, kind="stable")[:count]
    ]
