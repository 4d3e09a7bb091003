"""Plain detection scores on any labelled pictures: precision, recall, F1, recall of proposals, by face size.

One rule matches throughout, PASCAL's: a proposal stands for the face that it overlaps most, if by at least the least
IoU; the most confident proposal of a face is right, its further ones are false positives. Regions to be ignored are
neither faces nor do proposals in them count.
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
    """One picture's proposals and counted faces against each other.

    Attributes:
        scores: (n,) of the proposals that count, best first.
        right: (n,) bool, those that found a face which no better one had found.
        rows: (n,) their places in the picture's ``Faces``.
        found_at: (m,) for each counted face the score of the proposal that found it; -inf where none did.
        best: (m,) for each counted face the rank (from 0) of the first proposal that overlaps it enough; a huge number
            where none does.
        sizes: (m,) square roots of the counted faces' areas, in pixels.
    """

    scores: Array
    right: Array
    rows: Array
    found_at: Array
    best: Array
    sizes: Array


def match(sample: Sample, faces: Faces, *, least_iou: float = 0.5) -> Matches:
    """Match the proposals of one picture to its labelled faces by the module's rule."""
    order = np.argsort(-faces.scores, kind="stable")
    proposals, scores = faces.boxes[order].astype(float), faces.scores[order]
    boxes = sample.boxes.astype(float)
    overlaps = iou(proposals, boxes)
    # A last column stands for "no face": it wins where every overlap is too small.
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
    """Score a detector's boxes.

    Scores are: precision, recall and F1 of the proposals with at least ``threshold`` (FoxNet, table II); ``ap``, the
    area under the precision envelope over recall at every threshold; ``recall top N``, the share of faces that any of a
    picture's N most confident proposals overlaps enough (KPNet, table 1); ``recall at N fp``, at the lowest threshold
    with at most N false positives over all pictures (KPNet, tables 2 and 3). A table gives recall by face size.

    Args:
        name: whose result this is.
        evaluated: labelled pictures and the faces found in them, with a threshold well below ``threshold``.
        threshold: score, see above.
        least_iou: overlap that a hit takes.
        tops: the N of ``recall top N``.
        false_positives: the N of ``recall at N fp``.
        worst: how many false positives to keep as examples.

    Raises:
        OptionError: not one labelled face.
    """
    if not evaluated.samples:
        raise OptionError("no labelled picture to look at")
    matches = [match(s, f, least_iou=least_iou) for s, f in zip(evaluated.samples, evaluated.faces, strict=True)]
    scores, right, _, found_at, best, sizes = (np.concatenate(column) for column in zip(*matches, strict=True))
    if not len(sizes):
        raise OptionError("no labelled face to find: every one is to be ignored, or there is none")
    order = np.argsort(-scores, kind="stable")
    tp, fp = np.cumsum(right[order]), np.cumsum(~right[order])
    distinct = np.append(scores[order][1:] != scores[order][:-1], True)[: len(order)]  # ties fall together
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
    """The most confident proposals that are no face."""
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
