"""Detection scores against slow, direct references and a scene that was computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineament.data.sample import Sample
from lineament.errors import OptionError
from lineament.evaluate.labelled import Evaluated
from lineament.evaluate.recall import evaluate_recall, match
from lineament.faces import Faces


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0) * max(h, 0)
    return float(common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common))


def inside(a: np.ndarray, b: np.ndarray) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return float(max(w, 0) * max(h, 0) / ((a[2] - a[0]) * (a[3] - a[1])))


def made_up(seed: int) -> Evaluated:
    rng = np.random.default_rng(seed)
    samples, faces = [], []
    for _ in range(3):
        n, m = rng.integers(0, 9), rng.integers(0, 5)
        corner = rng.integers(0, 12, (n + m, 2))
        boxes = np.concatenate([corner, corner + rng.integers(4, 8, (n + m, 2))], axis=1).astype(float)
        samples.append(Sample.of("a.jpg", boxes[n:], ignore=rng.random(m) < 0.3))
        faces.append(Faces.of(boxes[:n], rng.integers(0, 8, n) / 8, np.zeros((n, 5, 2)), image_size=(20, 20)))
    return Evaluated(samples, faces)


@given(st.integers(0, 2**32 - 1))
def test_scores_against_a_loop(seed: int) -> None:
    evaluated = made_up(seed)
    faces_in_all = sum(int((~s.ignore).sum()) for s in evaluated.samples)
    if not faces_in_all:
        with pytest.raises(OptionError, match="no labelled face"):
            evaluate_recall("made-up", evaluated)
        return
    kept: list[tuple[float, bool]] = []
    for sample, faces in zip(evaluated.samples, evaluated.faces, strict=True):
        claimed = set()
        for i in np.argsort(-faces.scores, kind="stable"):
            overlaps = [overlap(faces.boxes[i], b) for b in sample.boxes]
            j = int(np.argmax(overlaps)) if overlaps and max(overlaps) >= 0.5 else None
            in_ignored = any(inside(faces.boxes[i], b) >= 0.5 for b in sample.boxes[sample.ignore])
            if j is None:
                if not in_ignored:
                    kept.append((faces.scores[i], False))
            elif not sample.ignore[j]:
                kept.append((faces.scores[i], j not in claimed))
                claimed.add(j)
    above = [hit for score, hit in kept if score >= 0.5]
    scores = evaluate_recall("made-up", evaluated, threshold=0.5, tops=(1, 3), false_positives=(1,)).scores
    assert scores["precision"] == pytest.approx(sum(above) / max(len(above), 1))
    assert scores["recall"] == pytest.approx(sum(above) / faces_in_all)
    assert scores["false positives"] == len(above) - sum(above)
    p, r = sum(above) / max(len(above), 1), sum(above) / faces_in_all
    assert scores["f1"] == pytest.approx(2 * p * r / (p + r) if p + r else 0)
    for n in (1, 3):
        hits = 0
        for sample, faces in zip(evaluated.samples, evaluated.faces, strict=True):
            top = faces.boxes[np.argsort(-faces.scores, kind="stable")[:n]]
            hits += sum(any(overlap(t, b) >= 0.5 for t in top) for b in sample.boxes[~sample.ignore])
        assert scores[f"recall top {n}"] == pytest.approx(hits / faces_in_all)
    at_one = 0.0
    for t in {score for score, _ in kept}:
        hits = sum(hit for score, hit in kept if score >= t)
        if sum(not hit for score, hit in kept if score >= t) <= 1:
            at_one = max(at_one, hits / faces_in_all)
    assert scores["recall at 1 fp"] == pytest.approx(at_one)


def test_a_scene_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [100, 0, 140, 40], [200, 0, 300, 100]], float)
    sample = Sample.of("a.jpg", boxes, ignore=[False, False, True])
    found = np.array([[0, 0, 10, 10], [0, 0, 10, 11], [500, 0, 510, 10], [210, 10, 230, 30]], float)
    faces = Faces.of(found, [0.6, 0.9, 0.8, 0.7], np.zeros((4, 5, 2)), image_size=(600, 200))
    matches = match(sample, faces)
    assert matches.right.tolist() == [True, False, False]  # best first: a face, a false positive, the same face again
    assert matches.rows.tolist() == [1, 2, 0]
    result = evaluate_recall("made-up", Evaluated([sample], [faces]))
    assert result.tables["recall by face size"] == {
        "8-16 px": {"faces": 1, "recall": 1.0, "recall top 100": 1.0},
        "32-64 px": {"faces": 1, "recall": 0.0, "recall top 100": 0.0},
    }
    assert [(e["kind"], round(e["value"], 4)) for e in result.examples] == [
        ("false positive", 0.8),
        ("false positive", 0.6),
    ]


def test_no_proposals_at_all() -> None:
    sample = Sample.of("a.jpg", [[0, 0, 10, 10]])
    scores = evaluate_recall("made-up", Evaluated([sample], [Faces.empty((20, 20))])).scores
    assert (scores["recall"], scores["precision"], scores["f1"], scores["ap"]) == (0, 0, 0, 0)
