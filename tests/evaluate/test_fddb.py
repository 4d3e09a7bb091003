"""FDDB: golden ROC files of the official tool, slow references that follow the protocol, and bad input."""

from __future__ import annotations

import hashlib
import math
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import expected, unpack, unpack_file

from lineament.errors import DataError, MissingExtraError, OptionError
from lineament.evaluate import fddb
from lineament.evaluate.assignment import official, optimal
from lineament.evaluate.detections import Detections, read_fddb

cv2 = pytest.importorskip("cv2")
scipy_optimize = pytest.importorskip("scipy.optimize")

Array = np.ndarray[Any, Any]
E = 1e-15
GOLDEN = [
    "ellipse_format",
    "faceboxes",
    "jfda_im",
    "mtcnn_im",
    "mtcnn_lqy",
    "pyface_im_winpi",
    "s3fd_official",
    "ssh_400x600_dropempty",
    "xiaomi_tiling_int8",
]


# --- the protocol again, in plain loops ---


def kuhn(r: list[list[float]]) -> list[int]:
    """The assignment of section 2.4, with a matrix of marks: 0 for none, 1 for a tight pair, 2 for a star."""
    m, n = len(r), len(r[0])
    row_max = [max([0.0, *row]) for row in r]
    column_max = [max([0.0, *(r[i][j] for i in range(m))]) for j in range(n)]
    by_rows = sum(row_max) <= sum(column_max)
    u, v = (row_max, [0.0] * n) if by_rows else ([0.0] * m, column_max)
    q = [[0] * n for _ in range(m)]

    def mark() -> None:
        for i in range(m):
            for j in range(n):
                tight = abs(u[i] + v[j] - r[i][j]) < E
                q[i][j] = (2 if q[i][j] == 2 else 1) if tight else 0

    def star_of_row(i: int) -> int | None:
        return next((j for j in range(n) if q[i][j] == 2), None)

    def star_of_column(j: int) -> int | None:
        return next((i for i in range(m) if q[i][j] == 2), None)

    mark()
    for a in range(m if by_rows else n):
        for b in range(n if by_rows else m):
            i, j = (a, b) if by_rows else (b, a)
            if q[i][j] == 1 and (star_of_column(j) if by_rows else star_of_row(i)) is None:
                q[i][j] = 2
                break

    def search(essential: list[bool]) -> list[tuple[int, int]] | None:
        for j0 in range(n):
            if star_of_column(j0) is not None:
                continue
            for i0 in range(m):
                if q[i0][j0] != 1:
                    continue
                path, start = [(i0, j0)], 0
                while path:
                    row = path[-1][0]
                    j = star_of_row(row)
                    if j is None:
                        return path
                    used = [p[0] for p in path]
                    k = next((k for k in range(start, m) if q[k][j] == 1 and k not in used), None)
                    if k is not None:
                        path += [(row, j), (k, j)]
                        start = 0
                    else:
                        essential[row] = True
                        start = row + 1
                        path = path[:-2] if len(path) > 1 else []
        return None

    while True:
        essential = [False] * m
        while (path := search(essential)) is not None:
            for i, j in path:
                q[i][j] = 3 - q[i][j]
            essential = [False] * m
        columns = []
        for j in range(n):
            i = star_of_column(j)
            if i is None or essential[i]:
                columns.append(j)
        rows = [i for i in range(m) if not essential[i]]
        d = 0.0
        for i in rows:
            for j in columns:
                t = u[i] + v[j] - r[i][j]
                if abs(d) < E or (t > -E and t < d):
                    d = t
        if abs(d) < E:
            return [star_of_row(i) or 0 for i in range(m)]
        if any(u[i] == 0 for i in rows):
            w = min([d, *(v[j] for j in columns)])
            u = [x + w if essential[i] else x for i, x in enumerate(u)]
            v = [x - w if j in columns else x for j, x in enumerate(v)]
        else:
            w = min([d, *(u[i] for i in rows)])
            u = [x if essential[i] else x - w for i, x in enumerate(u)]
            v = [x if j in columns else x + w for j, x in enumerate(v)]
        mark()


def pairs(iou: Array) -> list[float]:
    wide = iou if iou.shape[0] <= iou.shape[1] else iou.T
    return [wide[i, j] for i, j in enumerate(kuhn(wide.tolist()))]


def region(row: Array, size: tuple[int, int], ellipse: bool) -> Array:
    mask = np.zeros((size[1], size[0]), np.uint8)
    if ellipse:
        centre = (round(float(np.float32(row[3]))), round(float(np.float32(row[4]))))
        cv2.ellipse(mask, centre, (int(row[0]), int(row[1])), round(math.degrees(row[2])), 0, 360, 1, -1)
    else:
        x1, y1, x2, y2 = (round(float(np.float32(v))) for v in row[:4])
        for y in range(max(min(y1, y2), 0), min(max(y1, y2) + 1, size[1])):
            for x in range(max(min(x1, x2), 0), min(max(x1, x2) + 1, size[0])):
                mask[y, x] = 1
    return mask.astype(bool)


def reference(
    found: dict[str, Array], truth: fddb.GroundTruth, ellipse: bool, drop: bool
) -> list[tuple[float, int, float, int]]:
    """Section 2.3: (threshold, TPdisc, TPcont, FP), from the lowest threshold to the highest."""
    entries = []
    for name, faces in truth.ellipses.items():
        rows = found.get(name, np.empty((0, 5)))
        if not len(rows):
            if not drop:
                entries.append([(fddb.NO_DETECTION, 0, 0.0, 0)])
            continue
        size = truth.sizes[name]
        drawn = [region(row, size, ellipse) for row in rows]
        masks = [region(face, size, True) for face in faces]
        iou = np.array([[(a & b).sum() / max((a | b).sum(), 1) for b in drawn] for a in masks])
        of_image = []
        for s in sorted(set(rows[:, -1])):
            kept = iou[:, rows[:, -1] >= s]
            kept = kept[kept.sum(axis=1) > 0]
            kept = kept[:, kept.sum(axis=0) > 0] if len(kept) else kept
            values = pairs(kept) if kept.size else []
            hits = sum(value > 0.5 for value in values)
            of_image.append((s, hits, sum(v for v in values if v > 0), int((rows[:, -1] >= s).sum()) - hits))
        entries.append(of_image)
    out = []
    for t in sorted({entry[0] for image in entries for entry in image}):
        reached = [next(e for e in image if e[0] >= t) for image in entries if image[-1][0] >= t]
        out.append((t, sum(e[1] for e in reached), sum(e[2] for e in reached), sum(e[3] for e in reached)))
    return out


def scene(rng: np.random.Generator, ellipse: bool) -> tuple[dict[str, Array], fddb.GroundTruth]:
    faces, found, sizes = {}, {}, {}
    for i in range(4):
        name, n, m = f"p/{i}", int(rng.integers(1, 5)), int(rng.integers(0, 7))
        sizes[name] = (int(rng.integers(30, 60)), int(rng.integers(30, 60)))
        axes = np.sort(rng.uniform(2, 14, (n, 2)))[:, ::-1]
        faces[name] = np.column_stack([axes, rng.uniform(-1.6, 1.6, n), rng.uniform(-3, 55, (n, 2))])
        near = faces[name][rng.integers(0, n, m)] + rng.normal(0, 1.5, (m, 5)) * [1, 1, 0.1, 1, 1]
        scores = rng.integers(0, 6, m) / 5
        if ellipse:
            found[name] = np.column_stack([np.maximum(near, [1, 1, -9, -9, -9]), scores])
        else:
            found[name] = np.column_stack([near[:, 3:] - near[:, :2], near[:, 3:] + near[:, :2], scores])
    return found, fddb.GroundTruth(faces, sizes)


@pytest.mark.parametrize("ellipse", [False, True])
@pytest.mark.parametrize("drop", [False, True])
def test_equals_the_protocol_in_plain_loops(ellipse: bool, drop: bool) -> None:
    rng = np.random.default_rng(5)
    for _ in range(25):
        found, truth = scene(rng, ellipse)
        want = reference(found, truth, ellipse, drop)
        detections = Detections(found, "ellipse" if ellipse else "rectangle")
        result = fddb.evaluate(detections, truth, drop_images_without_detections=drop)
        columns = (result.thresholds, result.discrete, result.continuous, result.false_positives)
        np.testing.assert_allclose(np.column_stack(columns), want, rtol=1e-12)


def test_the_official_assignment_is_the_one_of_the_protocol_and_not_the_best() -> None:
    rng = np.random.default_rng(3)
    worse = 0
    for _ in range(600):
        m, n = rng.integers(1, 7, 2)
        gains = rng.integers(0, 5, (m, n)) / 4 * (rng.random((m, n)) < 0.7)
        got = official(gains)
        assert got.tolist() == pairs(gains)
        worse += got.sum() < optimal(gains).sum() - 1e-12
    assert worse


def test_the_optimum_is_the_optimum() -> None:
    assert sorted(optimal(np.array([[0.6, 0.5], [0.5, 0.0]]))) == [0.5, 0.5]
    assert len(official(np.empty((0, 3)))) == 0


# --- by hand ---

SQUARE = fddb.GroundTruth({"a": np.array([[10.0, 10, 0, 20, 20]])}, {"a": (41, 41)})


def test_recall_and_roc_files(tmp_path: Path) -> None:
    rows = np.array([[12, 12, 28, 28, 0.75], [0, 0, 2, 2, 0.5], [36, 36, 60, 60, 0.5]])
    result = fddb.evaluate(Detections({"a": rows}), SQUARE)
    assert result.discrete.tolist() == [1, 1]
    assert result.false_positives.tolist() == [2, 0]
    result.write_roc(tmp_path)
    assert (tmp_path / "DiscROC.txt").read_text() == "1 2 0.5\n1 0 0.75\n"
    overlap = result.recall(0, continuous=True)
    assert (tmp_path / "ContROC.txt").read_text() == f"{overlap:g} 2\n{overlap:g} 0\n"
    assert fddb.evaluate(Detections({"a": rows}), SQUARE, least_iou=0.95).recall(10) == 0


def test_numbers_print_like_the_tools(tmp_path: Path) -> None:
    counts = np.array([1, 0])
    fddb.Result(np.array([0.1, fddb.NO_DETECTION]), counts, counts / 3, np.array([1_000_000, 0]), 3, 2, ()).write_roc(
        tmp_path
    )
    assert (tmp_path / "DiscROC.txt").read_text() == "0.333333 1e+06 0.1\n0 0 1.79769e+308\n"


def test_images_without_detections_stand_at_the_largest_threshold_or_are_dropped() -> None:
    truth = fddb.GroundTruth({"a": SQUARE.ellipses["a"], "b": SQUARE.ellipses["a"]}, {"a": (41, 41), "b": (41, 41)})
    found = Detections({"a": np.array([[12, 12, 28, 28, 0.75]])})
    kept = fddb.evaluate(found, truth)
    assert (kept.thresholds.tolist(), kept.recall(0), kept.faces) == ([0.75, fddb.NO_DETECTION], 0.5, 2)
    dropped = fddb.evaluate(found, truth, drop_images_without_detections=True)
    assert (dropped.thresholds.tolist(), dropped.recall(0), dropped.faces) == ([0.75], 1.0, 1)
    assert any("1 images without detections and their faces left out (first: b)" in note for note in dropped.notes)
    assert "1 of 2,845 images, 1 of 5,171 faces" in dropped.notes[-1]


@pytest.mark.parametrize("degrees", [90, -90])
def test_turned_faces_are_the_faces_of_turned_pictures(degrees: int) -> None:
    ellipse = np.array([[14.0, 6, 0.5, 20, 15]])
    truth = fddb.GroundTruth({"a": ellipse}, {"a": (50, 40)})
    turned = truth.rotated(degrees)
    want = np.rot90(region(ellipse[0], (50, 40), True), degrees // 90)
    got = region(turned.ellipses["a"][0], turned.sizes["a"], True)
    assert got.shape == want.shape
    assert (got & want).sum() / (got | want).sum() > 0.97  # OpenCV's polygons are not quite symmetric
    assert np.allclose(turned.rotated(-degrees).ellipses["a"], ellipse)
    assert truth.rotated(0) is truth
    with pytest.raises(OptionError, match="not 45"):
        truth.rotated(45)


def test_toolbox_rate_sorts_each_column() -> None:
    assert fddb.toolbox_rate([0.1, 0.9, 0.5], [10, 2000, 500]) == 0.5
    assert math.isnan(fddb.toolbox_rate([0.5], [1000]))


def test_subset_and_unknown_images() -> None:
    rows = np.array([[12, 12, 28, 28, 0.75]])
    result = fddb.evaluate(Detections({"a": rows, "x": rows}), SQUARE)
    assert "1 images that are not in the ground truth, ignored (first: x)" in result.notes
    with pytest.raises(DataError, match="name no image of the ground truth"):
        fddb.evaluate(Detections({"x": rows}), SQUARE)
    with pytest.raises(DataError, match="subset"):
        SQUARE.subset(["x"])
    with pytest.raises(OptionError, match="assignment"):
        fddb.evaluate(Detections({}), SQUARE, assignment="greedy")  # type: ignore[arg-type]


def test_an_unknown_image_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("a\n0\nx\n1\n1 2 3 4 .5\n")
    notes = fddb.evaluate(read_fddb(tmp_path / "f.txt"), SQUARE).notes
    assert f"1 detections in such images, ignored (first: {tmp_path}/f.txt:3: x)" in notes


@pytest.mark.parametrize("far", [1e6, 1e12, 1e30])
def test_detections_far_outside_find_nothing(far: float) -> None:
    rectangle = np.array([[far, 12, 2 * far, 28, 0.75]])
    ellipse = np.array([[far / 4, 5, 0, 2 * far, 20, 0.75]])
    for found in (Detections({"a": rectangle}), Detections({"a": ellipse}, "ellipse")):
        result = fddb.evaluate(found, SQUARE)
        assert (result.discrete.tolist(), result.false_positives.tolist()) == ([0], [1])


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"needs cv2, of the extra 'evaluate'.*LINEAMENT\[evaluate\]"):
        fddb.evaluate(Detections({"a": np.array([[12.0, 12, 28, 28, 0.75]])}), SQUARE)


# --- files ---


@pytest.mark.parametrize(
    ("annotations", "sizes", "message"),
    [
        ("a\n1\n1 1 0 1\n", "a 5 5", r"truth\.txt:3: expected 5 to 6 numbers, found 4"),
        ("a\n1\n1 -1 0 1 1 1\n", "a 5 5", r"truth\.txt:3: expected radii of 0 or more"),
        ("a\n1\n1 1 0 nan 1 1\n", "a 5 5", r"truth\.txt:3: a number is not finite"),
        ("a\n1\n1 1 0 1 1 1\na\n0\n", "a 5 5", r"truth\.txt:4: the image a is annotated twice"),
        ("a\n1\n1 1 0 1 1 1\n", "b 5 5", r"sizes\.csv: no size for 1 of 1 annotated images, e\.g\. a"),
        ("a\n1\n1 1 0 1 1 1\n", "name,width,height\na,5,0", r"sizes\.csv:2: expected a width and a height above 0"),
        ("a\n1\n1 1 0 1 1 1\n", "a 5 5\na 6 5", r"sizes\.csv:2: a has had another size before"),
        ("a\n1\n1 1 0 1 1 1\n", "a 5 5\nb 5", r"sizes\.csv:2: expected name, width and height"),
    ],
)
def test_bad_ground_truth(tmp_path: Path, annotations: str, sizes: str, message: str) -> None:
    (tmp_path / "truth.txt").write_text(annotations)
    (tmp_path / "sizes.csv").write_text(sizes)
    with pytest.raises(DataError, match=message):
        fddb.read_ground_truth(tmp_path / "truth.txt", tmp_path / "sizes.csv")


def test_a_folder_without_folds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"FDDB-fold-NN-ellipseList\.txt"):
        fddb.read_ground_truth(tmp_path, tmp_path / "sizes.csv")


# --- golden ---


@pytest.fixture(scope="module")
def truth(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> fddb.GroundTruth:
    golden = shared / "golden/fddb_gt"
    folder = unpack(golden / "FDDB-folds.tar.xz", tmp_path_factory.mktemp("folds"))
    return fddb.read_ground_truth(next(folder.rglob("FDDB-fold-01-ellipseList.txt")).parent, golden / "image_sizes.txt")


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_roc_files(shared: Path, tmp_path: Path, truth: fddb.GroundTruth, case: str) -> None:
    golden = shared / f"golden/fddb_{case}"
    want = expected(golden)
    found = read_fddb(unpack_file(golden / "detections.txt.xz", tmp_path))
    assert (len(found), found.shape) == (want["detections"], want["format"])
    drops = {"official": False}
    if case == "ssh_400x600_dropempty":
        drops["as_published"] = True
    for key, drop in drops.items():
        result = fddb.evaluate(found, truth, pi=want["pi"], drop_images_without_detections=drop)
        assert (result.faces, len(result.thresholds)) == (want[key]["N"], want[key]["rows"])
        result.write_roc(tmp_path)
        for name in ("Disc", "Cont"):
            digest = hashlib.sha256((tmp_path / f"{name}ROC.txt").read_bytes()).hexdigest()
            assert digest == want[key][f"sha256_{name.lower()}"]
        for count, rate in want[key]["disc_tpr_at_fp"].items():
            assert result.recall(int(count)) == rate
        for count, rate in want[key]["cont_tpr_at_fp"].items():
            assert result.recall(int(count), continuous=True) == pytest.approx(rate, abs=1e-12)
        assert (
            f"{fddb.toolbox_rate(result.discrete / result.faces, result.false_positives):.3f}"
            == (want[key]["toolbox_tpr_fp_lt_1000"])
        )


def test_golden_masks(shared: Path, truth: fddb.GroundTruth) -> None:
    (areas,) = np.load(shared / "golden/fddb_gt/ellipse_mask_areas.npz").values()
    got = [
        int(fddb._ellipse_mask(face, truth.sizes[name], math.pi).sum())
        for name, faces in truth.ellipses.items()
        for face in faces
    ]
    assert got == areas.tolist()
    assert (len(truth.sizes), len(got)) == (fddb.IMAGES, fddb.FACES)


def test_golden_legend(shared: Path) -> None:
    golden = shared / "golden/fddb_legend"
    want = expected(golden)["curves"]
    with tarfile.open(golden / "discroc.tar.xz") as tar:
        for member in tar.getmembers():
            key = Path(member.name).name
            if key not in want:
                continue
            lines = tar.extractfile(member).read().decode().split("\n")  # type: ignore[union-attr]
            columns = np.array([line.split()[:2] for line in lines if line.strip()], float)
            rate = fddb.toolbox_rate(columns[:, 0], columns[:, 1])
            assert f"{rate:.3f}" == want.pop(key)["printed"]
    assert not want
