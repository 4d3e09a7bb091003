"""WIDER FACE: golden numbers of the official tool, a slow reference that follows the protocol, and bad input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import expected, unpack

from lineament.errors import DataError, OptionError
from lineament.evaluate import wider
from lineament.evaluate.curves import average_precision
from lineament.evaluate.detections import Detections, read_wider

scipy_io = pytest.importorskip("scipy.io")

Array = np.ndarray[Any, Any]


# --- the protocol again, in plain loops ---


def half_away(x: float) -> float:
    if math.isnan(x):
        return 0.0
    if math.isinf(x):
        return math.copysign(2.0**31, x)
    whole = math.trunc(x)
    if abs(x - whole) >= 0.5:
        whole += 1 if x > 0 else -1
    return float(min(max(whole, -(2**31)), 2**31 - 1))


def divided(a: float, b: float) -> float:
    return a / b if b else math.nan if a == 0 else math.copysign(math.inf, a)


def overlap(det: Array, face: Array, whole: bool) -> float:
    r = half_away if whole else float
    dx1, dy1, dx2, dy2 = map(float, det)
    gx1, gy1, gw, gh = map(float, face)
    gx2, gy2 = gx1 + gw, gy1 + gh
    iw = min(r(dx2), gx2) - max(r(dx1), gx1) + 1
    ih = min(r(dy2), gy2) - max(r(dy1), gy1) + 1
    if iw <= 0 or ih <= 0:
        return 0.0
    inter = iw * ih
    areas = r((gx2 - gx1 + 1) * (gy2 - gy1 + 1) + (dx2 - dx1 + 1) * (dy2 - dy1 + 1))
    return r(divided(inter, areas - inter))


def reference(found: Mapping[str, Array], truth: wider.GroundTruth, setting: str, arithmetic: str) -> list[float]:
    """AP, and the last point's numbers of true positives and of proposals, as in sections 1.4 and 1.5."""
    scores = [float(row[4]) for rows in found.values() for row in rows]
    if arithmetic == "matlab":
        low, high = np.float32(min(scores)), np.float32(max(scores))
    else:
        low, high = min(1.0, *scores), max(0.0, *scores)
    points = np.zeros((1000, 2))
    count = 0
    for name, boxes in truth.boxes.items():
        counted = truth.counted[setting][name]
        count += int(counted.sum())
        rows = sorted(found.get(name, []), key=lambda row: -row[4])
        if not len(boxes) or not rows:
            continue
        whole = arithmetic == "matlab" and boxes.dtype == np.int32
        recall, proposal, recalled = [0] * len(boxes), [1] * len(rows), []
        for h, row in enumerate(rows):
            overlaps = [overlap(row[:4], box, whole) for box in boxes]
            best = max(overlaps)
            k = overlaps.index(best)
            if best >= 0.5:
                if not counted[k]:
                    recall[k], proposal[h] = -1, -1
                elif recall[k] == 0:
                    recall[k] = 1
            recalled.append(sum(v == 1 for v in recall))
        scaled = [
            float((np.float32(row[4]) - low) / (high - low))
            if arithmetic == "matlab"
            else (row[4] - low) / (high - low)
            for row in rows
        ]
        for t in range(1, 1001):
            reached = [h for h, s in enumerate(scaled) if s >= 1 - t / 1000]
            if reached:
                points[t - 1] += recalled[reached[-1]], sum(p == 1 for p in proposal[: reached[-1] + 1])
    ap, before = 0.0, 0.0
    recalls = [tp / count for tp, _ in points]
    precisions = [divided(tp, p) for tp, p in points]
    for i, value in enumerate(recalls):
        if value != before:
            ap += (value - before) * max(p for p in precisions[i:] if not math.isnan(p))
            before = value
    return [ap, *points[-1]]


def scene(rng: np.random.Generator, dtype: type) -> tuple[dict[str, Array], wider.GroundTruth]:
    """Crowded small boxes that reach every branch: ties, halves, duplicates, ignored faces, empty images."""
    boxes, found = {}, {}
    counted: dict[str, dict[str, Array]] = {setting: {} for setting in wider.SETTINGS}
    for i in range(int(rng.integers(2, 5))):
        name = f"e/{i}"
        n = int(rng.integers(0, 5))
        faces = rng.integers(0, 12, (n, 4)) + np.array([0, 0, rng.integers(-2, 6), 4])
        boxes[name] = faces.astype(dtype) if dtype is np.int32 else faces + rng.integers(0, 4, (n, 4)) / 4
        for setting in wider.SETTINGS:
            counted[setting][name] = rng.random(n) < 0.7
        near = faces[rng.integers(0, n, 6)] if n else rng.integers(0, 12, (6, 4))
        rows = np.column_stack([near + rng.integers(-4, 5, (6, 4)) / 2, rng.integers(0, 40, 6) / 40])
        rows[:, 2:4] += rows[:, :2]
        if rng.random() < 0.85:
            found[name] = rows[: int(rng.integers(1, 7))]
    found.setdefault("e/0", np.array([[1, 1, 6, 6, 0.3], [0, 0, 3, 3, 0.9]], float))
    return found, wider.GroundTruth(boxes, counted)


@pytest.mark.parametrize("arithmetic", ["matlab", "float"])
@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_equals_the_protocol_in_plain_loops(arithmetic: Any, dtype: type) -> None:
    rng = np.random.default_rng(11)
    for _ in range(60):
        found, truth = scene(rng, dtype)
        result = wider.evaluate(Detections(found), truth, arithmetic)
        for setting in ("easy", "hard"):
            if not truth.faces(setting):
                continue
            ap, found_faces, _ = reference(found, truth, setting, arithmetic)
            assert result.ap[setting] == pytest.approx(ap, abs=1e-12)
            assert result.curves[setting].recall[-1] == pytest.approx(found_faces / truth.faces(setting), abs=1e-12)


def test_the_two_arithmetics_differ_where_they_should() -> None:
    face = np.array([[0, 0, 9, 9], [0, 0, 8, 9]], np.int32)
    truth = wider.GroundTruth({"e/a": face}, {s: {"e/a": np.array([False, True])} for s in wider.SETTINGS})
    rows = np.array([[0, 0, 8, 9, 0.9], [50, 50, 60, 60, 0.1]], float)
    assert wider.evaluate(Detections({"e/a": rows}), truth, "float").ap["hard"] == 1.0
    # In whole numbers both faces overlap "1": the first wins, and it does not count.
    assert wider.evaluate(Detections({"e/a": rows}), truth, "matlab").ap["hard"] == 0.0


def test_halves_round_away_from_zero_and_saturate() -> None:
    values = np.array([0.5, -0.5, 1.5, 2.5, 0.49999999999999994, 3e9, -3e9, np.nan, np.inf])
    assert wider._int32(values).tolist() == [1, -1, 2, 3, 0, 2**31 - 1, -(2**31), 0, 2**31 - 1]


def test_equal_scores_find_nothing_and_say_so() -> None:
    truth = wider.GroundTruth({"e/a": np.array([[0, 0, 9, 9]])}, {s: {"e/a": np.array([True])} for s in wider.SETTINGS})
    result = wider.evaluate(Detections({"e/a": np.array([[0, 0, 9, 9, 0.5]])}), truth)
    assert result.ap["hard"] == 0
    assert any("same score" in note for note in result.notes)


def test_label_is_cut_not_rounded() -> None:
    assert [wider.label(v) for v in (0.93782, 0.9500045, 0.9996)] == ["0.937", "0.95", "0.999"]


# --- files ---


def cells(items: list[Any]) -> Array:
    out = np.empty((len(items), 1), object)
    for i, item in enumerate(items):
        out[i, 0] = item
    return out


def write_truth(folder: Path, boxes: Array, indices: list[int], names: tuple[str, ...] = ("a",)) -> Path:
    folder.mkdir(exist_ok=True)
    shared = {"event_list": cells(["0--E"]), "file_list": cells([cells(list(names))])}
    lists = cells([cells([boxes] * len(names))])
    scipy_io.savemat(folder / "wider_face_val.mat", {**shared, "face_bbx_list": lists})
    for setting in wider.SETTINGS:
        marks = cells([cells([np.array(indices, np.uint8).reshape(-1, 1)] * len(names))])
        scipy_io.savemat(folder / f"wider_{setting}_val.mat", {**shared, "gt_list": marks})
    return folder


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_ground_truth_from_files(tmp_path: Path, dtype: type) -> None:
    truth = wider.read_ground_truth(write_truth(tmp_path, np.array([[1, 2, 3, 4], [5, 6, 7, 8]], dtype), [2]))
    assert truth.boxes["0--E/a"].dtype == dtype
    assert truth.counted["easy"]["0--E/a"].tolist() == [False, True]
    result = wider.evaluate(Detections({"0--E/a": np.array([[5, 6, 12, 14, 0.9], [50, 50, 60, 60, 0.1]])}), truth)
    assert result.ap == {"easy": 1.0, "medium": 1.0, "hard": 1.0}
    assert "1 of 3,226 images" in result.notes[-1]
    assert "hard 1 of 31,958" in result.notes[-1]


def test_ground_truth_without_faces_counts_nothing(tmp_path: Path) -> None:
    truth = wider.read_ground_truth(write_truth(tmp_path, np.empty((0, 4), np.int32), []))
    assert truth.faces("hard") == 0


@pytest.mark.parametrize(
    ("boxes", "indices", "names", "message"),
    [
        (np.ones((2, 4), np.int32), [3], ("a",), r"wider_easy_val.mat: 0--E/a: expected indices from 1 to 2, found 3"),
        (np.ones((2, 3)), [1], ("a",), r"0--E/a: expected finite boxes of shape \(n, 4\)"),
        (np.array([[0, np.nan, 1, 1]]), [1], ("a",), "expected finite boxes"),
        (np.ones((1, 4)), [1], ("a", "a"), "0--E/a is there twice"),
    ],
)
def test_bad_ground_truth(tmp_path: Path, boxes: Array, indices: list[int], names: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        wider.read_ground_truth(write_truth(tmp_path, boxes, indices, names))


def test_missing_ground_truth_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"wider_face_val\.mat"):
        wider.read_ground_truth(tmp_path)


def test_images_only_one_side_knows(tmp_path: Path) -> None:
    truth = wider.read_ground_truth(write_truth(tmp_path, np.ones((1, 4), np.int32), [1], ("a", "b")))
    rows = np.array([[1, 1, 2, 2, 0.5], [9, 9, 12, 12, 0.1]], float)
    result = wider.evaluate(Detections({"0--E/a": rows, "0--E/x": rows}), truth)
    assert "1 images that are not in the ground truth, ignored (first: 0--E/x)" in result.notes
    assert "2 detections in such images, ignored (first: 0--E/x)" in result.notes
    assert any(note.startswith("1 images of the ground truth without an entry") for note in result.notes)
    assert result.ap["hard"] == 0.5
    with pytest.raises(DataError, match="name no image of the ground truth"):
        wider.evaluate(Detections({"0--E/x": rows}), truth)
    with pytest.raises(DataError, match="1 images of the subset are not in the ground truth"):
        truth.subset(["0--E/x"])
    assert len(truth.subset(["0--E/b"]).boxes) == 1


def test_other_options_are_refused() -> None:
    truth = wider.GroundTruth({}, {s: {} for s in wider.SETTINGS})
    with pytest.raises(OptionError, match="arithmetic"):
        wider.evaluate(Detections({}), truth, "octave")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="rectangles"):
        wider.evaluate(Detections({}, "ellipse"), truth)


# --- golden ---


@pytest.mark.parametrize("tree", ["yolov7_tiny_leak", "retinaface_r50", "synth_jitter"])
def test_golden_trees(shared: Path, tmp_path: Path, tree: str) -> None:
    golden = shared / "golden"
    want = expected(golden / f"wider_{tree}")
    found = read_wider(unpack(golden / f"wider_{tree}/detections.tar.xz", tmp_path / "found"))
    assert (len(found.images), len(found)) == (want["files"], want["detections"])
    truth = wider.read_ground_truth(golden / "wider_gt")
    result = wider.evaluate(found, truth)
    assert result.ap == want["AP"]["official_matlab_int32_single"]
    assert {s: wider.label(ap) for s, ap in result.ap.items()} == want["printed_by_official_plot"]
    if tree != "synth_jitter":
        return
    assert wider.evaluate(found, truth, "float").ap == want["AP"]["python_port_sorted"]
    old = wider.read_ground_truth(unpack(golden / "wider_gt_old2016/ground_truth_old2016.tar.xz", tmp_path / "old"))
    assert wider.evaluate(found, old).ap == want["AP"]["old2016_double_gt"]


def test_golden_ground_truth(shared: Path) -> None:
    truth = wider.read_ground_truth(shared / "golden/wider_gt")
    assert len(truth.boxes) == wider.IMAGES
    assert {setting: truth.faces(setting) for setting in wider.SETTINGS} == wider.FACES
    assert sum(map(len, truth.boxes.values())) == 39708


def test_golden_curves(shared: Path) -> None:
    golden = shared / "golden/wider_baselines"
    curves = np.load(golden / "pr_curves.npz")
    want = expected(golden)["curves"]
    assert len(want) == 135
    for key, entry in want.items():
        precision, recall = curves[key.replace("/", "__")].T
        ap = average_precision(recall, precision)
        assert ap == pytest.approx(entry["ap"], abs=1e-13)
        assert f"{entry['legend']}-{wider.label(ap)}" == entry["label"]
