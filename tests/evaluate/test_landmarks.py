"""Landmark scores against published numbers, and against slow direct references."""

from __future__ import annotations

import io
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineament.data.sample import Sample
from lineament.errors import DataError, ImageError, OptionError
from lineament.evaluate import landmarks as L
from lineament.evaluate.labelled import Evaluated, detect_all, read_detections
from lineament.evaluate.recall import evaluate_recall
from lineament.faces import Faces
from lineament.records import read_records
from lineament.schemas import FIVE, own, schema

NAMES = {
    "ipd_all": "inter-pupil",
    "iod_all": "inter-ocular",
    "diag_all": "tight-box-diagonal",
    "bbox_sqrt_all": "tight-box-size",
    "ipd_visible": "inter-pupil",
}


def cofw68_predictions(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (507, 68, 2) and occlusion (507, 68) of a result file. A line has id, xs, ys and perhaps flags."""
    lines = [line for line in text.splitlines() if line.strip()]
    step = 4 if len(lines) == 4 * 507 else 3
    points, hidden = np.full((507, 68, 2), np.nan), np.zeros((507, 68), bool)
    for i in range(0, len(lines), step):
        row = int(lines[i]) - 1
        points[row] = np.stack([np.fromstring(lines[i + j], sep=" ") for j in (1, 2)], axis=1)
        if step == 4:
            hidden[row] = np.fromstring(lines[i + 3], sep=" ") > 0
    return points, hidden


def test_cofw68_equals_every_published_number(shared: Path) -> None:
    folder = shared / "golden" / "cofw68"
    expected = json.loads((folder / "expected.json").read_text())["results"]
    gt = np.load(folder / "gt.npz")
    truth, boxes = gt["points"], np.zeros((507, 4))
    with tarfile.open(folder / "results.tar.xz") as archive:
        for file, wanted in expected.items():
            member = archive.extractfile(f"Results/{file}")
            assert member is not None
            predicted, hidden = cofw68_predictions(io.TextIOWrapper(member).read())
            for key, name in NAMES.items():
                points = L.point_errors(predicted, truth, L.normaliser(name, truth, boxes, schema("68")))
                errors = L.face_errors(points, gt["occ"] == 0 if key == "ipd_visible" else None)
                found: dict[str, Any] = {"n": len(errors), "n_nan": int(np.isnan(errors).sum()), "nme": L.nme(errors)}
                for limit in (0.08, 0.1):
                    found |= {
                        f"fr_{limit}_gt": L.failure_rate(errors, limit),
                        f"success_le_{limit}": float(L.ced(errors, limit)),
                        f"auc_exact_{limit}": L.auc_exact(errors, limit),
                        f"auc_pipnet_simpson_{limit}": L.auc_simpson(errors, limit),
                        f"fr_pipnet_{limit}": L.failure_rate(errors, limit),
                        f"pipnet_lastx_{limit}": limit,
                        f"pipnet_npts_{limit}": round(limit / L.STEP) + 1,
                        f"auc_trapz_linspace_{limit}": L.auc_trapezoid(errors, limit),
                    }
                assert found == pytest.approx(wanted[key], abs=1e-12), (file, key)
            scores = L.occlusion(hidden, gt["occ"] == 1)
            assert 100 * scores.precision == pytest.approx(wanted["occ_precision"], abs=1e-9)
            assert 100 * scores.recall == pytest.approx(wanted["occ_recall"], abs=1e-9)


def test_300w_curves_equal_every_published_number(shared: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    folder = shared / "golden" / "menpo_300w_ced"
    for subset, methods in json.loads((folder / "expected.json").read_text())["results"].items():
        curves = scipy_io.loadmat(folder / f"300W_test_{subset}.mat")
        columns = {str(name[0]): y for name, y in zip(curves["methods"].ravel(), curves["y"].T, strict=True)}
        for method, limits in methods.items():
            for limit, wanted in limits.items():
                y = columns[method]
                assert L.auc_of_curve(curves["x"], y, float(limit)) == pytest.approx(wanted["auc_trapz"], abs=1e-12)
                assert L.failure_of_curve(curves["x"], y, float(limit)) == pytest.approx(wanted["fr"], abs=1e-12)


errors_of_faces = st.lists(
    st.one_of(st.floats(0, 0.3), st.sampled_from([0.08, 0.1, math.inf, math.nan])), min_size=1, max_size=40
).map(np.array)


@given(errors_of_faces, st.sampled_from([0.05, 0.08, 0.1]))
def test_curves_against_a_direct_count(errors: np.ndarray, limit: float) -> None:
    known = [e for e in errors if not math.isnan(e)]
    if not known:
        assert math.isnan(L.failure_rate(errors, limit))
        assert math.isnan(L.auc_exact(errors, limit))
        return
    assert L.failure_rate(errors, limit) == pytest.approx(sum(e > limit for e in known) / len(known))
    assert L.failure_rate(errors, limit, strict=False) == pytest.approx(sum(e >= limit for e in known) / len(known))
    x = np.linspace(0, 0.35, 11)
    assert L.ced(errors, x).tolist() == pytest.approx([sum(e <= v for e in known) / len(known) for v in x])
    assert L.ced(errors, x, strict=True).tolist() == pytest.approx([sum(e < v for e in known) / len(known) for v in x])
    exact = L.auc_exact(errors, limit)  # a step curve lies within a step of its samples
    assert L.auc_trapezoid(errors, limit) == pytest.approx(exact, abs=2e-3)
    assert L.auc_simpson(errors, limit) == pytest.approx(exact, abs=2e-3)


def test_simpson_wants_an_even_number_of_steps() -> None:
    with pytest.raises(OptionError, match="even number"):
        L.auc_simpson(np.zeros(3), 0.0801)


@given(st.integers(0, 2**32 - 1))
def test_errors_against_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = rng.integers(1, 5), 5
    truth, predicted = rng.normal(size=(2, n, k, 2))
    truth[rng.random((n, k)) < 0.2] = np.nan
    predicted[rng.random((n, k)) < 0.05] = np.nan
    length = rng.uniform(0.5, 2, n)
    errors = L.face_errors(L.point_errors(predicted, truth, length))
    for i in range(n):
        terms = []
        for p, g in zip(predicted[i], truth[i], strict=True):
            if not math.isnan(g[0]):
                terms.append(math.inf if math.isnan(p[0]) else math.dist(p, g) / length[i])
        assert errors[i] == pytest.approx(sum(terms) / len(terms) if terms else math.nan, nan_ok=True)


def test_normalisers_by_hand() -> None:
    five = np.array([[[0, 0], [3, 4], [1, 5], [0, 8], [3, np.nan]]], float)
    box = np.array([[10, 10, 14, 19]], float)
    length = {name: float(L.normaliser(name, five, box, FIVE)[0]) for name in L.NORMALISERS}
    assert length == pytest.approx(
        {
            "inter-ocular": 5,
            "inter-pupil": 5,
            "box-size": 6,
            "box-diagonal": math.hypot(4, 9),
            "box-width": 4,
            "box-height": 9,
            "tight-box-size": math.sqrt(24),
            "tight-box-diagonal": math.hypot(3, 8),
            "pixels": 1,
        }
    )
    points = np.random.default_rng(0).normal(size=(1, 98, 2))
    assert L.normaliser("inter-ocular", points, box, schema("98")) == pytest.approx(
        np.linalg.norm(points[0, 60] - points[0, 72])
    )
    assert L.normaliser("inter-pupil", points, box, schema("98")) == pytest.approx(
        np.linalg.norm(points[0, 96] - points[0, 97])
    )
    assert np.isnan(L.normaliser("box-size", five, box * 0, FIVE)).all()


def test_a_normaliser_that_cannot_be() -> None:
    with pytest.raises(OptionError, match="there are: inter-ocular"):
        L.normaliser("eyes", np.zeros((1, 5, 2)), np.zeros((1, 4)), FIVE)
    with pytest.raises(OptionError, match="no eyes"):
        L.normaliser("inter-ocular", np.zeros((1, 1, 2)), np.zeros((1, 4)), own("tip", ["tip"]))


@given(st.integers(0, 2**32 - 1))
def test_matching_against_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = rng.integers(0, 8), rng.integers(0, 4)
    corner = rng.integers(0, 6, (n + m, 2))
    boxes = np.concatenate([corner, corner + rng.integers(2, 8, (n + m, 2))], axis=1).astype(float)
    faces = Faces.of(boxes[:n], rng.permutation(n) / 10, np.zeros((n, 5, 2)), image_size=(20, 20))
    found = L.match_confident(faces, boxes[n:])

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        common = max(w, 0) * max(h, 0)
        return float(common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common))

    for j in range(m):
        mine = []
        for i in range(n):
            overlaps = [overlap(boxes[i], b) for b in boxes[n:]]
            if overlaps[j] >= 0.3 and overlaps.index(max(overlaps)) == j:
                mine.append(i)
        assert found[j] == max(mine, key=lambda i: faces.scores[i], default=-1)


TRUTH = np.array([[30, 40], [60, 40], [45, 55], [35, 70], [55, 70]], float)


def scene() -> Evaluated:
    """Two faces and an ignored one. The first is detected, all points 2.7 px off (9 % of the eyes), the second not."""
    boxes = np.array([[20, 20, 80, 90], [220, 20, 280, 90], [420, 20, 480, 90]], float)
    truth = np.stack([TRUTH, TRUTH + np.array([200, 0]), TRUTH + np.array([400, 0])])
    visible = np.full((3, 5), 2)
    visible[0, 3:] = 1
    sample = Sample.of(
        "a.jpg",
        boxes,
        truth,
        visibility=visible,
        ignore=[False, False, True],
        attributes={"mask": np.array([True, False, False]), "pose": np.array(["left", "", ""])},
    )
    moved = truth[[0, 0]] + np.array([[[2.7, 0]], [[0, 30]]])
    faces = Faces.of(boxes[[0, 0]], [0.9, 0.5], moved, image_size=(500, 100))
    return Evaluated([sample], [faces])


def test_a_detector_is_scored_with_its_misses() -> None:
    result = L.evaluate_landmarks("made-up", scene())
    assert result.scores == pytest.approx(
        {
            "pictures": 1,
            "failed pictures": 0,
            "left-out pictures": 0,
            "faces": 2,
            "faces without normaliser": 0,
            "matched": 1,
            "recall": 0.5,
            "nme": 0.09,
            "nme visible": 0.09,
            "auc@0.08": 0,
            "fr@0.08": 1,
            "auc@0.1": 0.05,
            "fr@0.1": 0.5,
        },
        abs=1e-6,
    )
    assert {name: row["faces"] for name, row in result.tables["subsets"].items()} == {"mask": 1, "pose: left": 1}
    assert [example["value"] for example in result.examples] == pytest.approx([0.09])


@given(st.integers(0, 2**32 - 1))
def test_a_detector_against_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples, faces, terms = [], [], []
    for _ in range(4):
        m = int(rng.integers(0, 4))
        corner = np.arange(m)[:, None] * [100, 0] + rng.uniform(0, 20, (m, 2))  # far apart, so matches are unambiguous
        boxes = np.concatenate([corner, corner + rng.uniform(30, 60, (m, 1))], axis=1)
        truth = corner[:, None] + rng.uniform(0, 30, (m, 5, 2))
        truth[rng.random((m, 5)) < 0.1] = np.nan
        sample = Sample.of("a.jpg", boxes, truth, ignore=rng.random(m) < 0.2)
        hit = rng.random(m) < 0.7
        predicted = np.nan_to_num(truth) + rng.normal(size=(m, 5, 2))
        samples.append(sample)
        faces.append(Faces.of(boxes[hit], rng.random(hit.sum()), predicted[hit], image_size=(400, 100)))
        for j in range(m):
            labelled = [k for k in range(5) if not math.isnan(truth[j, k, 0])]
            if labelled and not sample.ignore[j]:
                size = math.sqrt((boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1]))
                error = sum(math.dist(predicted[j, k], truth[j, k]) for k in labelled) / len(labelled) / size
                terms.append(error if hit[j] else math.inf)
    if not terms:
        return
    scores = L.evaluate_landmarks("made-up", Evaluated(samples, faces), normalise="box-size").scores
    found = [e for e in terms if e < math.inf]
    assert (scores["faces"], scores["matched"]) == (len(terms), len(found))
    assert scores["recall"] == pytest.approx(len(found) / len(terms))
    assert scores["nme"] == pytest.approx(sum(found) / len(found) if found else math.nan, rel=1e-4, nan_ok=True)
    assert scores["auc@0.08"] == pytest.approx(sum(max(0.08 - e, 0) for e in terms) / 0.08 / len(terms), abs=1e-4)


def test_the_richer_schema_is_reduced() -> None:
    points = np.zeros((1, 21, 2))
    points[0, 16:21] = TRUTH
    sample = Sample.of("a.jpg", [[20, 20, 80, 90]], points, schema=schema("21"))
    faces = Faces.of([[20, 20, 80, 90]], [1], TRUTH[None] + 3, image_size=(100, 100))
    result = L.evaluate_landmarks("made-up", Evaluated([sample], [faces]))
    assert result.scores["nme"] == pytest.approx(math.sqrt(18) / 30)
    assert result.settings["schema"] == "5"


@pytest.mark.parametrize(("shift", "nme"), [(0.0, 0.0), (3.0, 0.03), (9.0, 0.09)])
def test_68_points_over_the_outer_corners_of_the_eyes(shift: float, nme: float) -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(40, 160, (2, 68, 2))
    truth[:, 36], truth[:, 45] = [50, 80], [150, 80]  # the outer corners lie 100 pixels apart
    boxes = np.array([[30, 30, 170, 170], [330, 30, 470, 170]], float)
    truth[1] += [300, 0]
    moved = truth + np.array([0.6, -0.8]) * shift
    sample = Sample.of("a.jpg", boxes, truth, schema=schema("68"))
    faces = Faces.of(boxes[:1], [0.9], moved[:1], image_size=(500, 200), schema=schema("68"))
    scores = L.evaluate_landmarks("made-up", Evaluated([sample], [faces])).scores
    assert (scores["faces"], scores["recall"]) == (2, 0.5)
    assert scores["nme"] == pytest.approx(nme, abs=1e-6)
    assert scores["auc@0.08"] == pytest.approx(max(0, 1 - nme / 0.08) / 2, abs=1e-5)  # the other one was not detected
    assert scores["fr@0.08"] == (1.0 if nme > 0.08 else 0.5)


def test_nothing_to_compare_with() -> None:
    sample = Sample.of("a.jpg", [[20, 20, 80, 90]])
    with pytest.raises(OptionError, match="no labelled landmarks"):
        L.evaluate_landmarks("made-up", Evaluated([sample], [Faces.empty((9, 9))]))
    other = Sample.of("a.jpg", np.zeros((0, 4)), schema=schema("29"))
    with pytest.raises(OptionError, match="no map joins them"):
        L.evaluate_landmarks("made-up", Evaluated([other], [Faces.empty((9, 9), schema("98"))]))


def test_no_picture_at_all() -> None:
    for evaluate in (L.evaluate_landmarks, evaluate_recall):
        with pytest.raises(OptionError, match="no labelled image"):
            evaluate("made-up", Evaluated([], []))


def line_of(path: str, faces: Faces) -> str:
    return json.dumps({"path": path, "method": "made-up"} | faces.to_dict())


def test_detections_from_a_file(tmp_path: Path) -> None:
    sample, faces = scene().samples[0], scene().faces[0]
    samples = [Sample.of(tmp_path / name, sample.boxes, sample.landmarks) for name in ("a.jpg", "b.jpg", "c.jpg")]
    lines = [line_of("a.jpg", faces), "", json.dumps({"path": str(tmp_path / "b.jpg"), "error": "damaged"})]
    (tmp_path / "found.jsonl").write_text("\n".join(lines))
    found = read_detections(tmp_path / "found.jsonl", samples, tmp_path)
    assert [s.path.name for s in found.samples] == ["a.jpg", "b.jpg"]
    assert (found.left_out, found.failed) == (1, 1)
    np.testing.assert_allclose(found.faces[0].landmarks, faces.landmarks)
    assert len(found.faces[1]) == 0


def test_landmark_scores_of_a_file_are_read(tmp_path: Path) -> None:
    record = {"path": "a.jpg", "method": "made-up"} | scene().faces[0].to_dict()
    record["faces"] = [face | {"landmark_scores": [0.1, 0.2, 0.3, 0.4, None]} for face in record["faces"]]
    (tmp_path / "found.jsonl").write_text(json.dumps(record) + "\n")
    (found,) = read_records(tmp_path / "found.jsonl")
    assert found.faces.landmark_scores == pytest.approx(np.array([[0.1, 0.2, 0.3, 0.4, np.nan]] * 2), nan_ok=True)
    record["faces"] = [{k: v for k, v in face.items() if k != "landmark_scores"} for face in record["faces"]]
    (tmp_path / "found.jsonl").write_text(json.dumps(record) + "\n")
    (without,) = read_records(tmp_path / "found.jsonl")
    assert without.faces.landmark_scores == pytest.approx(np.array([[0.9] * 5, [0.5] * 5]))


def test_what_is_strange_in_a_file_is_counted_with_its_line(tmp_path: Path) -> None:
    faces = Faces.of([[9, 9, 5, 5], [0, 0, 5, 5]], [0.5, 1.5], np.zeros((2, 5, 2)), image_size=(9, 9))
    lines = [json.dumps({"path": "b.jpg", "error": "damaged"}), line_of("z.jpg", faces), line_of("a.jpg", faces)]
    path = tmp_path / "found.jsonl"
    path.write_text("\n".join(lines))
    samples = [Sample.of(tmp_path / f"{name}.jpg", [[0, 0, 5, 5]], np.ones((1, 5, 2))) for name in "abc"]
    found = read_detections(path, samples, tmp_path)
    assert found.notes == (
        f"1 images that could not be read: their faces are missed (first: {path}:1: b.jpg)",
        f"1 images without labels, ignored (first: {path}:2: z.jpg)",
        f"1 labelled images without a line, left out (first: {tmp_path}/c.jpg)",
        f"1 detections with a size of zero or less, kept (first: {path}:3)",
        f"1 scores outside [0, 1], kept: only their order counts (first: {path}:3)",
        f"1 rows with a higher score than the row before; sorted where the protocol sorts (first: {path}:3)",
    )
    assert L.evaluate_landmarks("made-up", found).settings["notes"] == list(found.notes)


def test_a_picture_without_faces_does_not_decide_the_schema(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(0, 90, (1, 68, 2))
    faces = Faces.of([[0, 0, 90, 90]], [0.5], points, image_size=(90, 90), schema=schema("68"))
    lines = [json.dumps({"path": "a.jpg", "error": "damaged"}), line_of("b.jpg", faces)]
    (tmp_path / "found.jsonl").write_text("\n".join(lines))
    samples = [Sample.of(tmp_path / name, [[0, 0, 90, 90]], points, schema=schema("68")) for name in ("a.jpg", "b.jpg")]
    result = L.evaluate_landmarks("made-up", read_detections(tmp_path / "found.jsonl", samples, tmp_path))
    assert (result.settings["schema"], result.scores["recall"]) == ("68", 0.5)


def test_wrong_detection_files(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    path.write_text(line_of("a.jpg", scene().faces[0]) + '\n{"path": "b.jpg"}')
    with pytest.raises(DataError, match=r"found\.jsonl:2: expected an image as .* `width`"):
        read_detections(path, scene().samples, tmp_path)
    path.write_text(line_of("a.jpg", scene().faces[0]).replace('"score": 0.9', '"score": NaN'))
    with pytest.raises(DataError, match=r"found\.jsonl:1: .* not finite"):
        read_detections(path, scene().samples, tmp_path)
    path.write_text(f"{line_of('a.jpg', scene().faces[0])}\n" * 2)
    with pytest.raises(DataError, match=r"found\.jsonl:2: a\.jpg is in the file twice"):
        read_detections(path, scene().samples, tmp_path)
    with pytest.raises(DataError, match=r"gone\.jsonl: cannot be read"):
        read_detections(tmp_path / "gone.jsonl", scene().samples, tmp_path)
    path.write_text(line_of("z.jpg", scene().faces[0]))
    with pytest.raises(DataError, match="none of its 1 images"):
        read_detections(path, scene().samples, tmp_path)


def test_a_picture_that_cannot_be_read_has_no_face(tmp_path: Path) -> None:
    def detect(path: Path) -> Faces:
        if path.name == "b.jpg":
            return Faces.empty((9, 9))
        raise ImageError(f"{path}: damaged")

    found = detect_all([Sample.of("b.jpg", []), *scene().samples], detect, empty=FIVE)
    assert (found.failed, len(found.faces[1])) == (1, 0)
    assert found.notes == ("1 images that could not be read: their faces are missed (first: a.jpg: damaged)",)


def test_no_picture_that_could_be_read_is_an_error(tmp_path: Path) -> None:
    def damaged(path: Path) -> Faces:
        raise ImageError(f"{path}: damaged")

    with pytest.raises(DataError, match=r"no image could be read.* a\.jpg: damaged"):
        detect_all(scene().samples, damaged, empty=FIVE)
    (tmp_path / "found.jsonl").write_text(json.dumps({"path": str(scene().samples[0].path), "error": "damaged"}))
    with pytest.raises(DataError, match="no image could be read"):
        read_detections(tmp_path / "found.jsonl", scene().samples, tmp_path)
