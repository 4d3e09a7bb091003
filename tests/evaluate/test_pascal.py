"""AFW and PASCAL faces: golden numbers, a slow reference that follows the protocol, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import expected, unpack

from lineament.errors import DataError, OptionError
from lineament.evaluate import pascal
from lineament.evaluate.detections import Detections, read_pascal

scipy_io = pytest.importorskip("scipy.io")

Array = np.ndarray[Any, Any]


# --- the protocol again, in plain loops ---


def overlap(d: list[float], g: list[float]) -> float:
    if not (d[2] > g[0] and g[2] > d[0] and d[3] > g[1] and g[3] > d[1]):
        return 0.0
    common = (min(d[2], g[2]) - max(d[0], g[0]) + 1) * (min(d[3], g[3]) - max(d[1], g[1]) + 1)
    areas = [(abs(b[2] - b[0]) + 1) * (abs(b[3] - b[1]) + 1) for b in (d, g)]
    return common / (sum(areas) - common)


def reference(found: dict[str, Array], truth: pascal.GroundTruth) -> list[float]:
    """The AP of each of the five rounds."""
    dets = [
        [key, float(row[4]), [float(v) for v in row[:4]]]
        for key, rows in found.items()
        for row in rows
        if row[2] - row[0] > 21 or row[3] - row[1] > 21
    ]
    total = sum(int((~mask).sum()) for mask in truth.ignored.values())
    out = []
    for _ in range(5):
        used: set[tuple[str, int]] = set()
        marks, shifts = [], []
        for key, _, box in sorted(dets, key=lambda det: -det[1]):
            best, best_k = -1.0, -1
            for k, face in enumerate(truth.boxes.get(key, [])):
                if overlap(box, face) >= best:
                    best, best_k = overlap(box, face), k
            if best <= 0.5:
                marks.append(0)
            elif truth.ignored[key][best_k]:
                continue
            elif (key, best_k) in used:
                marks.append(0)
            else:
                used.add((key, best_k))
                marks.append(1)
                g, w, h = truth.boxes[key][best_k], box[2] - box[0], box[3] - box[1]
                shifts.append(
                    (
                        ((g[0] + g[2]) / 2 - (box[0] + box[2]) / 2) / w,
                        ((g[1] + g[3]) / 2 - (box[1] + box[3]) / 2) / h,
                        (g[2] - g[0]) / w,
                        (g[3] - g[1]) / h,
                    )
                )
        ap, before = 0.0, 0.0
        precision = [sum(marks[: i + 1]) / (i + 1) for i in range(len(marks))]
        for i, mark in enumerate(marks):
            if mark:
                recall = sum(marks[: i + 1]) / total
                ap += (recall - before) * max(precision[i:])
                before = recall
        out.append(ap)
        if shifts:
            tx, ty, sx, sy = (sum(column) / len(shifts) for column in zip(*shifts, strict=True))
            for det in dets:
                x1, y1, x2, y2 = det[2]
                cx, cy = (x1 + x2) / 2 + tx * (x2 - x1), (y1 + y2) / 2 + ty * (y2 - y1)
                hw, hh = (x2 - x1) / 2 * sx, (y2 - y1) / 2 * sy
                det[2] = [cx - hw, cy - hh, cx + hw, cy + hh]
    return out


def test_equals_the_protocol_in_plain_loops() -> None:
    rng = np.random.default_rng(8)
    for _ in range(60):
        boxes, ignored, found = {}, {}, {}
        for i in range(5):
            n, m = int(rng.integers(0, 4)), int(rng.integers(0, 7))
            corner = rng.integers(0, 60, (n, 2))
            boxes[f"{i}"] = np.column_stack([corner, corner + rng.integers(30, 60, (n, 2))]).astype(float)
            boxes[f"{i}"] = np.concatenate([boxes[f"{i}"], boxes[f"{i}"][:1]])  # identical: the last one counts
            ignored[f"{i}"] = rng.random(len(boxes[f"{i}"])) < 0.25
            around = boxes[f"{i}"][rng.integers(0, n, m)] if n else rng.integers(0, 40, (m, 4))
            rows = np.column_stack([around + rng.normal([6, 3, 6, 3], 6, (m, 4)), rng.integers(0, 9, m) / 8])
            found[f"{i}" if rng.random() < 0.9 else f"unknown {i}"] = rows
        truth = pascal.GroundTruth(boxes, ignored)
        if not truth.faces:
            continue
        assert pascal.evaluate(Detections(found), truth).aps == pytest.approx(reference(found, truth), abs=1e-12)


# --- by hand ---

TRUTH = pascal.GroundTruth({"a": np.array([[0.0, 0, 99, 99]])}, {"a": np.array([False])})


def test_a_constant_deviation_is_taken_off() -> None:
    found = Detections({"a": np.array([[30.0, 0, 149, 119, 0.9], [400, 400, 500, 500, 0.8]])})
    plain = pascal.evaluate(found, TRUTH, least_iou=0.3, correct=False)
    assert (plain.aps, plain.style) == ((1.0,), pascal.Style())
    strict = pascal.evaluate(found, TRUTH, correct=False)
    assert (strict.ap, strict.true_positives, strict.false_positives) == (0.0, 0, 2)
    corrected = pascal.evaluate(found, TRUTH, least_iou=0.3)
    assert corrected.style == pytest.approx((-40 / 119, -10 / 119, 99 / 119, 99 / 119))
    assert len(corrected.aps) == pascal.ROUNDS


def test_two_styles_in_turn_are_one() -> None:
    a, b = pascal.Style(0.1, -0.2, 0.5, 2.0), pascal.Style(0.3, 0.1, 1.5, 0.25)
    rows = np.array([[3.0, 5, 17, 45, 0.5]])
    assert np.allclose(pascal._restyled(pascal._restyled(rows, a), b), pascal._restyled(rows, a.then(b)))


def test_small_and_unknown_detections_are_counted() -> None:
    found = Detections({"a": np.array([[0.0, 0, 21, 21, 0.9]]), "b": np.array([[0.0, 0, 22, 9, 0.9]])})
    result = pascal.evaluate(found, TRUTH)
    assert (result.true_positives, result.false_positives) == (0, 1)
    assert "1 detections with neither side above 21 pixels, left out (first: a)" in result.notes
    assert "1 detections in images that are not in the ground truth: false positives (first: b)" in result.notes
    assert "1 images with 1 faces that count" in result.notes[-1]
    missing = pascal.evaluate(Detections({}), TRUTH)
    assert any("without an entry" in note for note in missing.notes)
    assert missing.ap == 0


def test_ellipses_and_unknown_subsets_are_refused() -> None:
    with pytest.raises(OptionError, match="rectangles"):
        pascal.evaluate(Detections({}, "ellipse"), TRUTH)
    with pytest.raises(DataError, match="subset"):
        TRUTH.subset(["x"])
    assert TRUTH.subset(["a", "a"]).faces == 1


# --- files ---


def annotations(*entries: tuple[str, Array]) -> dict[str, Any]:
    table = np.zeros(len(entries), [("imgname", object), ("objects", object)])
    for i, (name, rows) in enumerate(entries):
        table[i]["imgname"], table[i]["objects"] = name, rows
    return {"Annotations": table.reshape(-1, 1)}


def old(*entries: tuple[str, list[Array]]) -> dict[str, Any]:
    table = np.empty((len(entries), 4), object)
    for i, (name, faces) in enumerate(entries):
        boxes = np.empty((1, len(faces)), object)
        boxes[0, :] = [None] * len(faces)
        for j, face in enumerate(faces):
            boxes[0, j] = face
        table[i] = [name, boxes, np.zeros((1, 3)), np.zeros((6, 2))]
    return {"anno": table}


def test_both_layouts(tmp_path: Path) -> None:
    large, small = [10, 10, 60, 60, 0, 0], [10, 10, 39, 60, 0, 0]
    scipy_io.savemat(
        tmp_path / "new.mat",
        annotations(("a.b.jpg", np.array([large, small, [10, 10, 60, 60, 0, 1]])), ("c.jpg", np.array([large[:4]]))),
    )
    new = pascal.read_ground_truth(tmp_path / "new.mat")
    assert {key: mask.tolist() for key, mask in new.ignored.items()} == {"a": [False, True, True], "c": [False]}
    faces = [np.array([[10, 10], [60, 60]]), np.array([[5, 6], [70, 80]])]
    scipy_io.savemat(tmp_path / "old.mat", old(("a.jpg", faces), ("b.jpg", faces[:1])))
    truth = pascal.read_ground_truth(tmp_path / "old.mat")
    assert truth.boxes["a"].tolist() == [[10, 10, 60, 60], [5, 6, 70, 80]]
    assert (list(truth.boxes), truth.faces) == (["a", "b"], 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": np.ones(1)}, "expected the variable Annotations or anno; found x"),
        (annotations(("a.1", np.ones((1, 4))), ("a.2", np.ones((1, 4)))), "the image a is there twice"),
        (annotations(("a.jpg", np.array([[np.nan, 1, 2, 3]]))), "a.jpg: expected finite boxes"),
        ({"Annotations": np.ones((1, 2))}, "not laid out as annotations"),
    ],
)
def test_bad_ground_truth(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    scipy_io.savemat(tmp_path / "truth.mat", content)
    with pytest.raises(DataError, match=message):
        pascal.read_ground_truth(tmp_path / "truth.mat")


# --- golden ---


def test_golden_afw(shared: Path, tmp_path: Path) -> None:
    golden = shared / "golden/mathias_afw"
    want = expected(golden)
    folder = unpack(golden / "detections.tar.xz", tmp_path)
    new = pascal.read_ground_truth(golden / want["annotation"])
    before = pascal.read_ground_truth(golden / want["old_annotation"])
    assert (len(new.boxes), new.faces, before.faces) == (want["images"], want["counted"], want["old"]["counted"])
    for name, entry in want["results"].items():
        found = read_pascal(next(folder.rglob(name)))
        limit = want["params"]["overlap_picasa" if name == "Picasa.csv" else "overlap"]
        result = pascal.evaluate(found, new, least_iou=limit)
        assert len(found) == entry["dets_file"]
        assert result.aps == pytest.approx(entry["ap_per_iteration"], abs=1e-12)
        assert f"{100 * result.ap:.02f}" == entry["printed"]
        assert (result.true_positives, result.false_positives) == (entry["tp"], entry["fp"])
        assert (result.curve.recall[-1], result.curve.precision[-1]) == pytest.approx(entry["last_point"], abs=1e-12)
        assert pascal.evaluate(found, before, least_iou=limit).ap == pytest.approx(
            entry["ap_old_annotations"], abs=1e-12
        )
