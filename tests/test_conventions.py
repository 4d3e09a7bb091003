"""Boxes from landmarks: fits recover known conventions, faces may be rotated, and the built-in conventions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluate.golden import unpack, unpack_file
from lineament import boxes as box_ops
from lineament.conventions import BUILT_IN, FDDB_EDGES, Convention, convention, fit, read
from lineament.data.readers.coco import read_coco
from lineament.data.readers.fddb import read_fddb as read_ellipses
from lineament.errors import DataError, OptionError
from lineament.evaluate.detections import read_fddb
from lineament.schemas import FIVE, TWENTY_ONE
from lineament.similarity import transform

RNG = np.random.default_rng(5)
WIDER = convention("wider")


def turned(angle: float, scale: float = 1.0, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[[a, -b, x], [b, a, y]]])


def faces(count: int, *, pose: float = 0.05) -> np.ndarray:
    """Landmarks of turned and tilted heads of all sizes, anywhere, nearly upright."""
    shapes = WIDER.shape + RNG.normal(0, pose, (count, 5, 2))
    matrices = [turned(RNG.normal(0, 0.05), RNG.uniform(10, 300), *RNG.uniform(-100, 900, 2))[0] for _ in range(count)]
    return transform(shapes, np.array(matrices))


@pytest.mark.parametrize("name", BUILT_IN)
def test_points_and_boxes_are_a_pair(name: str) -> None:
    own = convention(name)
    box = own.box if not own.square else box_ops.square(own.box)
    drawn = box * RNG.uniform(5, 500, (20, 1)) + np.tile(RNG.uniform(-50, 900, (20, 2)), 2)
    assert np.allclose(own.boxes(own.points(drawn)), drawn)
    wide = np.array([[10.0, 20.0, 90.0, 60.0]])
    again = own.boxes(own.points(wide))
    assert box_ops.area(again) == pytest.approx(box_ops.area(wide))
    assert again[0, :2] + again[0, 2:] == pytest.approx([100, 80])


@pytest.mark.parametrize("name", BUILT_IN)
def test_boxes_move_scale_and_mirror_with_the_face(name: str) -> None:
    own, points = convention(name), faces(30)
    boxes = own.boxes(points)
    assert np.allclose(own.boxes(3 * points + [7, -9]), 3 * boxes + [7, -9, 7, -9])
    mirrored = points[:, FIVE.mirror] * [-1, 1]
    assert np.allclose(own.boxes(mirrored), boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1], atol=0.01)


def test_a_face_that_lies_on_its_side_has_width_and_height_exchanged() -> None:
    points = faces(10)
    upright = WIDER.boxes(points)
    for angle in (np.pi / 2, -np.pi / 2, np.pi):
        matrix = turned(angle)
        expected = np.sort(transform(upright.reshape(-1, 2, 2), matrix), axis=1).reshape(-1, 4)
        # the faces are turned a little themselves, so their boxes are not exactly the turned boxes
        assert np.abs(WIDER.boxes(transform(points, matrix)) - expected).max() < 1e-6 * np.abs(points).max()


def test_slanted_faces_keep_to_the_ellipse() -> None:
    """At 45 degrees, the box of the inscribed ellipse is a square with the same diagonal as the upright box."""
    box = WIDER.boxes(transform(WIDER.shape[None], turned(np.pi / 4)))[0]
    sides = box[2:] - box[:2]
    own = WIDER.box[2:] - WIDER.box[:2]
    assert sides == pytest.approx(np.full(2, np.hypot(*own) / np.sqrt(2)))


def test_fit_finds_a_convention_again() -> None:
    points = faces(400)
    found = fit(points, WIDER.boxes(points), noise=0, name="again")
    fresh = faces(100)
    assert box_ops.overlap(found.boxes(fresh), WIDER.boxes(fresh)).min() > 0.98
    assert np.allclose(found.shape, WIDER.shape, atol=0.02)
    assert (found.name, found.schema) == ("again", "5")


def test_without_pose_a_fit_is_the_mean_box_in_the_mean_shapes_frame() -> None:
    points = faces(200, pose=0)
    found = fit(points, np.concatenate([points[:, 0] - 10, points[:, 0] + 10], axis=1), noise=1e6)
    assert np.abs(found.pose).max() < 1e-6
    assert np.allclose((found.box[:2] + found.box[2:]) / 2, (found.shape[0] + found.shape[1]) / 2, atol=1e-3)


def test_noise_holds_boxes_still() -> None:
    points = faces(300)
    boxes = WIDER.boxes(points) + RNG.normal(0, 1, (300, 4))
    strengths = [np.linalg.norm(fit(points, boxes, noise=noise).pose) for noise in (0.0, 0.02, 0.1)]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[2] < strengths[0] / 2


def test_weights_count_faces() -> None:
    points = faces(60)
    boxes = WIDER.boxes(points)
    boxes[30:] += 40
    some = fit(points, boxes, weights=np.arange(60) < 30)
    only = fit(points[:30], boxes[:30])
    assert np.allclose(some.boxes(points), only.boxes(points))


def test_missing_landmarks() -> None:
    points = np.repeat(WIDER.points([[0, 0, 80, 100]]), 3, axis=0)
    points[0, 2] = np.nan
    points[1, 1:] = np.nan
    boxes = WIDER.boxes(points)
    assert np.allclose(boxes[0], boxes[2])
    assert np.isnan(boxes[1]).all()
    assert WIDER.boxes(np.zeros((0, 5, 2))).shape == (0, 4)
    holes = faces(50)
    complete = fit(holes[1:], WIDER.boxes(holes)[1:])
    boxes, holes[0, 3] = WIDER.boxes(holes), np.nan
    assert np.allclose(fit(holes, boxes).boxes(points), complete.boxes(points), equal_nan=True)


def test_richer_landmarks_are_reduced() -> None:
    points = np.full((1, 21, 2), np.nan)
    points[:, [16, 17, 18, 19, 20]] = faces(1)
    assert np.allclose(WIDER.boxes(points, TWENTY_ONE), WIDER.boxes(points[:, 16:]))


def test_dictionaries_and_files(tmp_path: Path) -> None:
    points = faces(5)
    plain = json.loads(json.dumps(WIDER.to_dict()))
    assert np.allclose(Convention.from_dict(plain).boxes(points), WIDER.boxes(points), atol=1e-2)
    square = convention("square")
    square.write(tmp_path / "square.json")
    assert read(tmp_path / "square.json").to_dict() == square.to_dict()


def test_what_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'oval'; there are: wider, square, fddb-ellipse"):
        convention("oval")
    with pytest.raises(OptionError, match=r"for 5 landmarks .* found shape \(1, 21, 2\)"):
        WIDER.boxes(np.zeros((1, 21, 2)))
    with pytest.raises(OptionError, match="missing is: 'pose'"):
        Convention.from_dict({"name": "a", "schema": "5", "shape": [[0, 0]] * 5, "box": [0, 0, 1, 1], "square": False})
    with pytest.raises(OptionError, match=r"found \(5, 2\), \(3,\)"):
        Convention.from_dict(WIDER.to_dict() | {"box": [0, 0, 1]})
    with pytest.raises(OptionError, match="none of 1 faces has a box"):
        fit(np.zeros((1, 5, 2)), np.zeros((1, 4)))
    with pytest.raises(OptionError, match=r"landmarks \(n, 5, 2\)"):
        fit(np.zeros((1, 21, 2)), np.zeros((1, 4)))
    (tmp_path / "list.json").write_text("[1]")
    for name in ("list.json", "gone.json"):
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)


def test_pose_raises_the_overlap_on_labels_that_no_fit_has_seen(shared: Path) -> None:
    """The numbers of docs/boxes.md for detection-val-crowd.json."""
    samples = read_coco(shared / "data" / "detection-val-crowd.json")
    points = np.concatenate([sample.landmarks[~sample.ignore] for sample in samples])
    boxes = np.concatenate([sample.boxes[~sample.ignore] for sample in samples])
    rigid = replace(WIDER, pose=np.zeros_like(WIDER.pose))
    posed, mean = (box_ops.overlap(c.boxes(points), boxes) for c in (WIDER, rigid))
    assert posed.mean() == pytest.approx(0.884, abs=0.001)
    assert mean.mean() == pytest.approx(0.70, abs=0.01)


def test_fddb_edges_are_those_of_published_detectors(shared: Path, tmp_path: Path) -> None:
    """The measurement behind FDDB_EDGES, with detectors that were trained on WIDER FACE's boxes."""
    pytest.importorskip("cv2")
    golden = shared / "golden"
    folds = next(unpack(golden / "fddb_gt" / "FDDB-folds.tar.xz", tmp_path).rglob("*ellipseList.txt")).parent
    truth = {sample.path.with_suffix("").as_posix(): sample.boxes for sample in read_ellipses(folds, "")}
    edges = []
    for name in ("fddb_faceboxes", "fddb_s3fd_official", "fddb_ssh_400x600_dropempty"):
        found = read_fddb(unpack_file(golden / name / "detections.txt.xz", tmp_path)).images
        assert len(found.keys() & truth.keys()) > 2800
        pairs = [_matched(truth[key], rows[:, :4]) for key, rows in found.items() if key in truth and len(rows)]
        ellipses, boxes = (np.concatenate(side) for side in zip(*pairs, strict=True))
        edges.append(np.median(box_ops.encode_corner(ellipses, boxes), axis=0))
    left, top, right, bottom = np.mean(edges, axis=0)
    assert np.abs([(left - right) / 2, top, (right - left) / 2, bottom] - FDDB_EDGES).max() < 0.01


def test_the_ellipse_convention_moves_the_edges_of_widers_boxes() -> None:
    upright = WIDER.points([[0, 0, 80, 100]])
    wider, ellipse = (convention(name).boxes(upright) for name in ("wider", "fddb-ellipse"))
    assert np.allclose(box_ops.encode_corner(ellipse, wider), FDDB_EDGES)


def _matched(faces: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    iou = box_ops.iou(faces, found)
    hit = iou.max(axis=1) > 0.4
    return faces[hit], found[iou.argmax(axis=1)[hit]]
