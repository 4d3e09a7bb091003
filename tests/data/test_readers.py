"""Every reader on small files in the real format of its data set, and the files that it must reject."""

from __future__ import annotations

import logging
import math
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lineament.data.readers.aflw import read_aflw, read_aflw19
from lineament.data.readers.celeba import read_celeba
from lineament.data.readers.cofw import read_cofw
from lineament.data.readers.fddb import read_fddb, upright
from lineament.data.readers.five import read_mtfl, read_sun
from lineament.data.readers.ibug300w import read_300w, read_pts
from lineament.data.readers.malf import read_malf
from lineament.data.readers.parsing import grouped
from lineament.data.readers.pascal import read_afw, read_pascal_faces
from lineament.data.readers.wflw import read_wflw
from lineament.data.readers.wider import read_retinaface, read_wider, read_wider_mat
from lineament.errors import DataError, OptionError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def cells(items: list[Any], shape: tuple[int, int] | None = None) -> np.ndarray:
    """A MATLAB cell array for scipy's ``savemat``."""
    found = np.empty(len(items), object)
    for i, item in enumerate(items):
        found[i] = item
    return found.reshape(shape or (len(items), 1))


def savemat(path: Path, **variables: Any) -> Path:
    pytest.importorskip("scipy.io").savemat(path, variables)
    return path


WIDER = """0--Parade/a.jpg
2
10 20 30 40 0 0 1 0 2 1
5 6 7 8 2 0 0 1 0 0
0--Parade/none.jpg
0
0 0 0 0 0 0 0 0 0 0
1--Handshaking/b.jpg
1
1 2 0 4 0 0 0 0 0 0
"""


def test_wider(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    txt = write(tmp_path / "wider_face_val_bbx_gt.txt", WIDER)
    samples = read_wider(txt, "images")
    assert [str(s.path) for s in samples] == [
        "images/0--Parade/a.jpg",
        "images/0--Parade/none.jpg",
        "images/1--Handshaking/b.jpg",
    ]
    assert [len(s) for s in samples] == [2, 0, 1]
    np.testing.assert_array_equal(samples[0].boxes, [[10, 20, 40, 60], [5, 6, 12, 14]])
    assert samples[0].ignore.tolist() == [False, True]
    assert samples[0].attributes["occlusion"].tolist() == [2, 0]
    assert samples[2].ignore.tolist() == [True]
    assert np.isnan(samples[0].landmarks).all()
    assert "3226 images published, 3 found" in caplog.text
    assert "39708 faces published, 3 found" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg\n2\n1 2 3 4\n", "txt:1: the file ends within"),
        ("a.jpg\n", "txt:1: the file ends within"),
        ("a.jpg\ntwo\n1 2 3 4\n", "txt:2: expected the number of faces"),
        ("a.jpg\n1\n1 2 3\n", "txt:3: expected 4 to 10 numbers, found 3"),
        ("a.jpg\n1\n1 2 3 x\n", "txt:3: expected numbers"),
        ("a.jpg\n1\n1 2 3 nan\n", "txt:3: a number is not finite"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_wider(write(tmp_path / "txt", text), "images")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.txt: cannot be read"):
        read_wider(tmp_path / "gone.txt", "images")


def wider_variables() -> dict[str, Any]:
    one, two = np.array([[10, 20, 30, 40], [5, 6, 7, 8]], np.int32), np.array([[1, 2, 3, 4]], np.int32)
    return {
        "event_list": cells(["0--Parade"]),
        "file_list": cells([cells(["a", "b"])]),
        "face_bbx_list": cells([cells([one, two])]),
        "invalid_label_list": cells([cells([np.array([[0], [1]]), np.array([[0]])])]),
    }


def test_wider_mat(tmp_path: Path) -> None:
    samples = read_wider_mat(savemat(tmp_path / "wider_face.mat", **wider_variables()), "images")
    assert [str(s.path) for s in samples] == ["images/0--Parade/a.jpg", "images/0--Parade/b.jpg"]
    np.testing.assert_array_equal(samples[0].boxes, [[10, 20, 40, 60], [5, 6, 12, 14]])
    assert samples[0].ignore.tolist() == [False, True]


def hdf5(path: Path, variables: dict[str, Any]) -> Path:
    """The same variables as MATLAB 7.3 writes them: transposed arrays, cells as references, text as codes."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        kept = file.create_group("#refs#")

        def put(where: Any, name: str, value: Any) -> Any:
            if isinstance(value, str):
                item = where.create_dataset(name, data=np.array([[ord(c)] for c in value], np.uint16))
                item.attrs["MATLAB_class"] = np.bytes_("char")
            elif value.dtype == object:
                numbered = [put(kept, f"{name}_{i}_{len(kept)}", item).ref for i, item in enumerate(value.ravel())]
                item = where.create_dataset(name, data=np.array(numbered, h5py.ref_dtype).reshape(1, -1))
                item.attrs["MATLAB_class"] = np.bytes_("cell")
            else:
                item = where.create_dataset(name, data=value.T)
                item.attrs["MATLAB_class"] = np.bytes_("double")
            return item

        for name, value in variables.items():
            put(file, name, value)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(116))
    return path


def test_wider_mat_73(tmp_path: Path) -> None:
    samples = read_wider_mat(hdf5(tmp_path / "wider_face.mat", wider_variables()), "images")
    assert [str(s.path) for s in samples] == ["images/0--Parade/a.jpg", "images/0--Parade/b.jpg"]
    np.testing.assert_array_equal(samples[1].boxes, [[1, 2, 4, 6]])


def test_the_official_wider_mat(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = read_wider_mat(shared / "golden" / "wider_gt" / "wider_face_val.mat", "images")
    assert (len(samples), sum(map(len, samples))) == (3226, 39708)
    assert not caplog.records
    sizes = np.concatenate([s.boxes[:, 2:] - s.boxes[:, :2] for s in samples])
    assert ((sizes[:, 0] <= 0).sum(), (sizes[:, 1] <= 0).sum(), sizes[:, 0].min()) == (9, 6, -2)


def test_the_split_is_that_of_the_file_and_not_of_the_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_wider(write(tmp_path / "training" / "wider_face_val_bbx_gt.txt", WIDER), "images")
    read_retinaface(write(tmp_path / "train" / "label.txt", RETINAFACE), "images")
    assert "3226 images published, 3 found" in caplog.text
    assert "12880 images published, 2 found" in caplog.text


@pytest.mark.parametrize(
    ("read", "variables"),
    [
        (read_wider_mat, dict.fromkeys(("event_list", "file_list", "face_bbx_list"), np.ones((1, 2)))),
        (read_aflw19, {name: np.ones((2, 5)) for name in ("nameList", "data", "bbox", "mask_new", "ra")}),
        (read_cofw, {"phisT": np.ones((1, 87))}),
    ],
)
def test_matlab_files_of_another_layout(tmp_path: Path, read: Any, variables: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"a\.mat: not laid out as"):
        read(savemat(tmp_path / "a.mat", **variables), "images")


def test_no_matlab_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a MATLAB file"):
        read_wider_mat(write(tmp_path / "a.mat", "hello" * 50), "images")
    with pytest.raises(DataError, match="event_list"):
        read_wider_mat(savemat(tmp_path / "b.mat", x=1), "images")


RETINAFACE = """# 0--Parade/a.jpg
449 330 122 149 488.906 373.643 0.0 542.089 376.442 1.0 515.031 412.83 0.0 485.174 425.893 0.0 538.357 431.491 0.0 0.82
361 98 10 12 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 -1.0 0.0
# 1--Handshaking/b.jpg
1 2 3 4
"""


def test_retinaface(tmp_path: Path) -> None:
    first, second = read_retinaface(write(tmp_path / "label.txt", RETINAFACE), "images")
    np.testing.assert_array_equal(first.boxes[0], [449, 330, 571, 479])
    np.testing.assert_allclose(first.landmarks[0, 0], [489.406, 374.143], atol=1e-3)
    np.testing.assert_array_equal(first.visibility, [[2, 1, 2, 2, 2], [0] * 5])
    assert first.landmark_source.tolist() == ["human", "none"]
    assert first.attributes["quality"].tolist() == [0.82, 0]
    assert second.landmark_source.tolist() == ["none"]
    assert read_retinaface(write(tmp_path / "empty.txt", ""), "images") == []
    with pytest.raises(DataError, match=r"label\.txt:1: expected '# '"):
        read_retinaface(write(tmp_path / "label.txt", "1 2 3 4\n"), "images")


def test_fddb(tmp_path: Path) -> None:
    text = "2002/08/11/big/img_591\n1\n100.0 50.0 1.5707963267948966 269.5 161.5  1\n"
    (sample,) = read_fddb(write(tmp_path / "FDDB-fold-01-ellipseList.txt", text), "images")
    assert str(sample.path) == "images/2002/08/11/big/img_591.jpg"
    np.testing.assert_allclose(sample.boxes, [[220, 62, 320, 262]], atol=1e-4)
    np.testing.assert_allclose(sample.attributes["ellipse"], [[100, 50, math.pi / 2, 270, 162]])


def test_folds_of_fddb_have_their_published_sizes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "FDDB-fold-02-ellipseList.txt", "a\n1\n9 8 0 10 10 1\n")
    assert len(read_fddb(tmp_path, "images")) == 1
    for text in ("10 folds published, 1 found", "285 images published, 1 found", "519 faces published, 1 found"):
        assert text in caplog.text
    with pytest.raises(DataError, match=r"FDDB-fold-NN-ellipseList\.txt in this folder, found none"):
        read_fddb(tmp_path / "..", "images")


def test_upright_boxes_of_ellipses_against_points_on_them() -> None:
    rng = np.random.default_rng(0)
    ellipses = np.concatenate(
        [rng.uniform(1, 50, (20, 2)), rng.uniform(-3, 3, (20, 1)), rng.normal(size=(20, 2))], axis=1
    )
    t = np.linspace(0, 2 * np.pi, 20001)
    for ellipse, box in zip(ellipses, upright(ellipses), strict=True):
        a, b, angle, x, y = ellipse
        xs = x + a * np.cos(t) * np.cos(angle) - b * np.sin(t) * np.sin(angle)
        ys = y + a * np.cos(t) * np.sin(angle) + b * np.sin(t) * np.cos(angle)
        np.testing.assert_allclose(box, [xs.min(), ys.min(), xs.max(), ys.max()], atol=1e-4)


def test_all_of_fddb(shared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open(shared / "golden" / "fddb_gt" / "FDDB-folds.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    samples = read_fddb(tmp_path / "FDDB-folds", "images")
    assert (len(samples), sum(map(len, samples))) == (2845, 5171)
    assert not caplog.records


def test_afw_as_published(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = read_afw(shared / "golden" / "mathias_afw" / "new_annotations_AFW.mat", "images")
    assert (len(samples), sum(map(len, samples))) == (205, 545)
    assert not caplog.records
    first = samples[0]
    assert (str(first.path), first.width, first.height) == ("images/5002723411.jpg", 2301, 1530)
    np.testing.assert_array_equal(first.boxes[0], [1406, 656, 1451, 705])
    assert first.ignore.tolist() == [True, True, False, False, False]


def test_pascal_faces(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kind = [("imgname", object), ("imgsize", object), ("objects", object), ("flags", object)]
    rows = [
        ("a.jpg", np.array([[500], [300], [3]]), np.array([[1, 1, 50, 60, 0, 0], [9, 9, 20, 20, 0, 1]]), 0),
        ("b.jpg", np.array([[50], [30], [3]]), np.zeros((0, 4)), 0),
    ]
    mat = savemat(tmp_path / "pascal.mat", Annotations=np.array(rows, kind).reshape(2, 1))
    first, second = read_pascal_faces(mat, "images")
    np.testing.assert_array_equal(first.boxes, [[0, 0, 50, 60], [8, 8, 20, 20]])
    assert first.ignore.tolist() == [False, True]
    assert len(second) == 0
    assert "1635 faces published, 2 found" in caplog.text
    with pytest.raises(DataError, match="Annotations"):
        read_afw(savemat(tmp_path / "b.mat", x=1), "images")


def test_malf(tmp_path: Path) -> None:
    (sample,) = read_malf(write(tmp_path / "malf.txt", "a.jpg\n3\n1 2 40 40 0\n5 5 30 30 1\n7 7 19 19\n"), "images")
    assert sample.ignore.tolist() == [False, True, True]
    np.testing.assert_array_equal(sample.boxes[0], [1, 2, 41, 42])


def test_aflw_database(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "aflw.sqlite")
    database.executescript(
        """
        CREATE TABLE Faces (face_id INTEGER, file_id TEXT, db_id TEXT);
        CREATE TABLE FaceImages (image_id INTEGER, db_id TEXT, file_id TEXT, filepath TEXT, bw INTEGER, width INTEGER,
                                 height INTEGER);
        CREATE TABLE FaceRect (face_id INTEGER, x INTEGER, y INTEGER, w INTEGER, h INTEGER, annot_type_id INTEGER);
        CREATE TABLE FacePose (face_id INTEGER, roll REAL, pitch REAL, yaw REAL, annot_type_id INTEGER);
        CREATE TABLE FeatureCoords (face_id INTEGER, feature_id INTEGER, x REAL, y REAL);
        INSERT INTO Faces VALUES (39341, 'image00002.jpg', 'flickr'), (39342, 'image00002.jpg', 'flickr'),
                                 (39343, 'image00013.jpg', 'flickr');
        INSERT INTO FaceImages VALUES (1, 'flickr', 'image00002.jpg', '0/image00002.jpg', 0, 600, 400),
                                      (2, 'flickr', 'image00013.jpg', '0/image00013.jpg', 0, 300, 200);
        INSERT INTO FaceRect VALUES (39341, 10, 20, 30, 40, 0), (39342, 1, 2, 3, 4, 0), (39343, 5, 6, 7, 8, 0);
        INSERT INTO FacePose VALUES (39341, 0.1, 0.2, 0.3, 0);
        INSERT INTO FeatureCoords VALUES (39341, 1, 11.0, 22.0), (39341, 21, 15.5, 50.0), (39343, 15, 7.0, 8.0);
        """
    )
    database.commit()
    database.close()
    first, second = read_aflw(tmp_path / "aflw.sqlite", "images")
    assert (str(first.path), first.width, first.height, len(first)) == ("images/flickr/0/image00002.jpg", 600, 400, 2)
    np.testing.assert_array_equal(first.boxes[0], [10, 20, 40, 60])
    np.testing.assert_array_equal(first.landmarks[0, [0, 20]], [[11.5, 22.5], [16, 50.5]])
    assert first.visibility.sum(axis=1).tolist() == [4, 0]
    np.testing.assert_allclose(first.attributes["pose"][0], [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(second.landmarks[0, 14], [7.5, 8.5])
    with pytest.raises(DataError, match="no such file"):
        read_aflw(tmp_path / "gone.sqlite", "images")
    with pytest.raises(DataError, match="expected AFLW's database"):
        read_aflw(write(tmp_path / "no.sqlite", "hello" * 300), "images")


def test_aflw19_and_its_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    n = 20003
    data = np.ones((n, 38))
    data[20001, [0, 19]] = 0
    seen = np.ones((n, 19))
    seen[20001, :2] = 0
    names = [f"{i}.jpg" for i in range(n)]
    mat = savemat(
        tmp_path / "AFLWinfo_release.mat",
        nameList=cells(names),
        data=data,
        bbox=np.tile([10, 40, 20, 60], (n, 1)),
        mask_new=seen,
        ra=np.arange(1, n + 1)[None],
    )
    full = read_aflw19(mat, "images", "full")
    assert [s.path.name for s in full] == ["20000.jpg", "20001.jpg", "20002.jpg"]
    np.testing.assert_array_equal(full[0].boxes, [[10, 20, 40, 60]])
    np.testing.assert_array_equal(full[0].landmarks[0, 3], [1.5, 1.5])
    assert full[1].visibility[0, :3].tolist() == [0, 1, 2]
    assert [s.path.name for s in read_aflw19(mat, "images", "frontal")] == ["20000.jpg", "20002.jpg"]
    assert "4386 faces of split 'full' published, 3 found" in caplog.text
    with pytest.raises(OptionError, match="there are: all, train"):
        read_aflw19(mat, "images", "test")


PTS = "version: 1\nn_points: 2\n{\n1.0 1.0\n11.5 21.0\n}\n"


def test_pts(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_pts(write(tmp_path / "a.pts", PTS)), [[0.5, 0.5], [11, 20.5]])
    with pytest.raises(DataError, match="says 3, found 2"):
        read_pts(write(tmp_path / "a.pts", PTS.replace("2\n{", "3\n{")))
    with pytest.raises(DataError, match=r"a\.pts:4: expected 2 numbers"):
        read_pts(write(tmp_path / "a.pts", PTS.replace("1.0 1.0", "1.0")))
    with pytest.raises(DataError, match="expected 'version"):
        read_pts(write(tmp_path / "a.pts", "1 2\n3 4\n"))


def test_300w(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    points = "\n".join(f"{x} {2 * x}" for x in range(1, 69))
    for folder, name in (("helen/testset", "1_1"), ("lfpw/testset", "image_0001"), ("ibug", "image_003")):
        write(tmp_path / folder / f"{name}.pts", f"version: 1\nn_points:  68\n{{\n{points}\n}}")
        write(tmp_path / folder / f"{name}.png", "")
    samples = read_300w(tmp_path, "full")
    assert [s.path.name for s in samples] == ["1_1.png", "image_0001.png", "image_003.png"]
    np.testing.assert_array_equal(samples[0].boxes, [[0.5, 1.5, 67.5, 135.5]])
    assert samples[0].schema.name == "68"
    assert samples[0].box_source.tolist() == ["from-points"]
    assert "689 faces of split 'full' published, 3 found" in caplog.text
    entry = np.array([("image_003.png", np.array([[1.0, 2, 3, 4]]), np.array([[11.0, 12, 33, 44]]))],
                     [("imgName", object), ("bb_detector", object), ("bb_ground_truth", object)])  # fmt: skip
    (tmp_path / "boxes").mkdir()
    savemat(tmp_path / "boxes" / "bounding_boxes_ibug.mat", bounding_boxes=cells([entry.reshape(1, 1)], (1, 1)))
    (hard,) = read_300w(tmp_path, "challenging", boxes=tmp_path / "boxes")
    np.testing.assert_array_equal(hard.boxes, [[10, 11, 33, 44]])
    caplog.clear()
    assert read_300w(tmp_path, "full", boxes=tmp_path / "boxes")[0].box_source.tolist() == ["from-points"]
    assert "no official box for 2 of 3 faces" in caplog.text
    savemat(tmp_path / "boxes" / "bounding_boxes_ibug.mat", x=1)
    with pytest.raises(DataError, match="not laid out as bounding_boxes with imgName"):
        read_300w(tmp_path, "challenging", boxes=tmp_path / "boxes")
    (tmp_path / "ibug" / "image_003.png").unlink()
    with pytest.raises(DataError, match="no image of that name"):
        read_300w(tmp_path, "challenging")
    with pytest.raises(DataError, match="no such folder"):
        read_300w(tmp_path, "train")
    with pytest.raises(OptionError, match="there are: train, common"):
        read_300w(tmp_path, "hard")


def wflw_line(name: str, shift: float, flags: str) -> str:
    points = " ".join(f"{shift + i:.6f}" for i in range(196))
    return f"{points} 10 20 30 40 {flags} {name}\n"


def test_wflw(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = (
        wflw_line("b/2.jpg", 0, "1 0 0 0 0 1")
        + wflw_line("a/1.jpg", 5, "0 0 0 0 0 0")
        + wflw_line("b/2.jpg", 9, "0 1 0 0 0 0")
    )
    first, second = read_wflw(write(tmp_path / "list_98pt_rect_attr_test.txt", text), "images")
    assert (str(first.path), len(first), len(second)) == ("images/b/2.jpg", 2, 1)
    np.testing.assert_array_equal(first.landmarks[:, 0], [[0.5, 1.5], [9.5, 10.5]])
    np.testing.assert_array_equal(first.boxes[0], [10, 20, 30, 40])
    assert first.attributes["pose"].tolist() == [True, False]
    assert first.attributes["expression"].tolist() == [False, True]
    assert "2500 faces published, 3 found" in caplog.text
    assert "326 faces with pose published, 1 found" in caplog.text
    with pytest.raises(DataError, match=r"txt:1: expected 206 numbers, found 205"):
        read_wflw(write(tmp_path / "txt", text.replace("0.000000 ", "", 1)), "images")


def test_cofw(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    phis = np.stack([np.concatenate([np.arange(1, 30), np.arange(31, 60), np.eye(29)[0]]), np.zeros(87)])
    grey, colour = np.arange(20, dtype=np.uint8).reshape(4, 5), np.full((6, 7, 3), 9, np.uint8)
    mat = hdf5(
        tmp_path / "COFW_test.mat",
        {"phisT": phis, "bboxesT": np.array([[1.0, 2, 30, 40], [5, 6, 7, 8]]), "IsT": cells([grey, colour])},
    )
    first, second = read_cofw(mat, tmp_path / "pictures")
    np.testing.assert_array_equal(first.landmarks[0, 1], [1.5, 31.5])
    np.testing.assert_array_equal(first.boxes, [[0, 1, 30, 41]])
    assert first.visibility[0, :3].tolist() == [1, 2, 2]
    assert (first.width, first.height, second.width, second.height) == (5, 4, 7, 6)
    np.testing.assert_array_equal(np.asarray(Image.open(first.path)), grey)
    np.testing.assert_array_equal(np.asarray(Image.open(second.path)), colour)
    with pytest.raises(DataError, match="phisTr or phisT"):
        read_cofw(hdf5(tmp_path / "no.mat", {"x": np.zeros((1, 1))}), tmp_path)


def test_celeba(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    points = write(
        tmp_path / "list_landmarks_celeba.txt",
        "2\nlefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x rightmouth_y\n"
        "000001.jpg 165  184  244  176  196  249  194  271  266  260\n"
        "000002.jpg 140  204  220  204  168  254  146  289  226  289\n",
    )
    boxes = write(
        tmp_path / "list_bbox_celeba.txt",
        "2\nimage_id x_1 y_1 width height\n000001.jpg    95  71 226 313\n000002.jpg    72  94 221 306\n",
    )
    parts = write(tmp_path / "list_eval_partition.txt", "000001.jpg 0\n000002.jpg 2\n")
    first, second = read_celeba(points, "images", boxes=boxes)
    np.testing.assert_array_equal(first.boxes, [[95, 71, 321, 384]])
    np.testing.assert_array_equal(second.landmarks[0, 4], [226.5, 289.5])
    assert "202599 images published, 2 found" in caplog.text
    (test,) = read_celeba(points, "images", partition=parts, split="test")
    np.testing.assert_array_equal(test.boxes, [[140.5, 204.5, 226.5, 289.5]])
    with pytest.raises(OptionError, match="partition list"):
        read_celeba(points, "images", split="test")
    with pytest.raises(DataError, match="in the same order"):
        read_celeba(points, "images", boxes=write(tmp_path / "other.txt", "1\nx\n000002.jpg 1 2 3 4\n"))
    with pytest.raises(DataError, match="announces 3 images, found 2"):
        read_celeba(write(tmp_path / "list.txt", points.read_text().replace("2\n", "3\n", 1)), "images")


def test_sun(tmp_path: Path) -> None:
    points = "106.25 107.75 146.75 112.25 125.25 142.75 105.25 157.75 139.75 161.75"
    line = f"lfw_5590\\Aaron_Eckhart_0001.jpg 84 161 92 169 {points}\n"
    (sample,) = read_sun(write(tmp_path / "list.txt", line), "images")
    assert str(sample.path) == "images/lfw_5590/Aaron_Eckhart_0001.jpg"
    np.testing.assert_array_equal(sample.boxes, [[84, 92, 161, 169]])
    np.testing.assert_array_equal(sample.landmarks[0, 1], [147.25, 112.75])


def test_mtfl(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    line = " AFLW\\0001-image20056.jpg 55.6 100.3 78.6 42.8 92.2 42.3 57.1 69.0 85.2 102.9 1 1 2 3\n \n"
    (sample,) = read_mtfl(write(tmp_path / "testing.txt", line), "images")
    assert str(sample.path) == "images/AFLW/0001-image20056.jpg"
    np.testing.assert_allclose(sample.landmarks[0, 3], [43.3, 85.7], atol=1e-4)
    np.testing.assert_allclose(sample.boxes, [[43.3, 42.8, 100.8, 103.4]], atol=1e-4)
    words = {name: column.tolist() for name, column in sample.attributes.items()}
    assert words == {"gender": ["male"], "smile": ["smiling"], "glasses": ["no glasses"], "pose": ["frontal"]}
    assert "2995 faces published, 1 found" in caplog.text
    with pytest.raises(DataError, match=r"testing\.txt:1: expected gender, smile, glasses, pose as numbers up to"):
        read_mtfl(write(tmp_path / "testing.txt", line.replace("1 1 2 3", "1 3 2 3")), "images")


def test_rows_of_equal_names() -> None:
    assert [rows.tolist() for rows in grouped(["b", "a", "b", "c", "a"])] == [[0, 2], [1, 4], [3]]
    assert grouped([]) == []


def test_counts_are_warnings(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    read_wider(write(tmp_path / "wider_face_val_bbx_gt.txt", WIDER), "images")
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
