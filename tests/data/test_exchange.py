"""Formats of faces: each reads what it writes, and so does the next reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from lineament.cli import app
from lineament.data.exchange import FORMATS, Around, at_least, to_faces, to_sample
from lineament.data.readers.coco import read_coco, write_coco
from lineament.data.readers.label_studio import read_label_studio
from lineament.data.readers.yolo import read_yolo, write_yolo
from lineament.data.sample import Sample
from lineament.errors import DataError, OptionError
from lineament.faces import Faces
from lineament.records import Record, read_records
from lineament.schemas import FIVE, SIXTY_EIGHT

SIZES = [(400, 300), (120, 200), (50, 50)]


def found(folder: Path) -> list[Sample]:
    """Detections in photos with two faces, one and none. One landmark is missing."""
    rng = np.random.default_rng(0)
    samples = []
    for i, size in enumerate(SIZES):
        path = folder / "photos" / f"{i % 2}" / f"photo {i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
        n = 2 - i
        corner = rng.uniform(0, 0.4, (n, 2)) * size
        boxes = np.hstack([corner, corner + rng.uniform(10, 0.5 * min(size), (n, 2))])
        points = boxes[:, None, :2] + rng.uniform(0, 1, (n, 5, 2)) * (boxes[:, None, 2:] - boxes[:, None, :2])
        if i == 0:
            points[1, 2] = np.nan
        faces = Faces.of(boxes, [0.9, 0.4][:n], points, landmark_scores=rng.uniform(0, 1, (n, 5)), image_size=size)
        samples.append(to_sample(Record(str(path), faces)))
    return samples


def around(folder: Path) -> Around:
    labels = [Sample.of(sample.path, [], size=size) for sample, size in zip(found(folder), SIZES, strict=True)]
    write_coco(folder / "index.json", labels, images=folder / "photos")
    return Around(images=folder / "photos", index=folder / "index.json")


def assert_same(a: list[Sample], b: list[Sample], atol: float) -> None:
    assert [s.path.resolve() for s in a] == [s.path.resolve() for s in b]
    for one, other in zip(a, b, strict=True):
        assert (one.width, one.height) == (other.width, other.height)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=atol)
        np.testing.assert_allclose(one.landmarks, other.landmarks, atol=atol)


@pytest.mark.parametrize(("name", "atol"), [("jsonl", 0.006), ("coco", 2e-3), ("coco-results", 2e-3), ("yolo", 2e-3)])
def test_what_is_written_is_read_again(name: str, atol: float, tmp_path: Path) -> None:
    samples, told = found(tmp_path), around(tmp_path)
    if name == "yolo":
        samples.sort(key=lambda sample: sample.path)  # the order of the folder
    target = tmp_path / "written.json"
    FORMATS[name].write(target, samples, told)
    again = list(FORMATS[name].read(target, told))
    assert_same(again, samples, atol)
    if name != "yolo":
        np.testing.assert_allclose(again[0].attributes["score"], [0.9, 0.4], atol=1e-4)
    if name in ("jsonl", "coco-results"):
        sure = np.where(np.isfinite(samples[0].landmarks[..., 0]), samples[0].attributes["landmark_scores"], np.nan)
        read = np.where(np.isfinite(again[0].landmarks[..., 0]), again[0].attributes["landmark_scores"], np.nan)
        np.testing.assert_allclose(read, sure, atol=1e-4)


def test_label_studio_predictions_are_annotations_once_accepted(tmp_path: Path) -> None:
    samples, told = found(tmp_path), around(tmp_path)
    FORMATS["label-studio"].write(tmp_path / "tasks.json", samples, told)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[1]["data"]["image"] == "/data/local-files/?d=1/photo%201.png"
    assert tasks[0]["predictions"][0]["result"][0]["score"] == 0.9
    ids = [region["id"] for region in tasks[0]["predictions"][0]["result"]]
    assert len(set(ids)) == len(ids) == 2 + 9
    for task in tasks:
        task["annotations"] = [{"result": prediction["result"]} for prediction in task.pop("predictions")]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    again = read_label_studio(tmp_path / "export.json", tmp_path / "photos")
    assert_same(again[:2], samples[:2], 2e-3)
    assert len(again[2]) == 0


def test_pycocotools_ids_are_the_indexs(tmp_path: Path) -> None:
    samples, told = found(tmp_path), around(tmp_path)
    FORMATS["coco-results"].write(tmp_path / "results.json", samples[::-1], told)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [entry["image_id"] for entry in results] == [2, 1, 1]
    assert results[1].keys() == {"image_id", "category_id", "bbox", "score", "keypoints"}
    assert [len(entry["keypoints"]) for entry in results] == [15] * 3
    elsewhere = Sample.of(tmp_path / "other.png", [])
    with pytest.raises(DataError, match=r"index.json: has no image .*other.png"):
        FORMATS["coco-results"].write(tmp_path / "results.json", [elsewhere], told)
    with pytest.raises(OptionError, match="--index"):
        list(FORMATS["coco-results"].read(tmp_path / "results.json", Around()))


def test_yolo_knows_mirror_partners_and_keeps_to_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "a.jpg")
    points = np.full((1, 5, 2), 50.0)
    points[0, 0] = [-3, 50]
    sample = Sample.of(tmp_path / "a.jpg", [[-10, 20, 60, 80]], points, size=(100, 100), visibility=[[2, 1, 2, 2, 2]])
    write_yolo(tmp_path / "labels", [sample], images=tmp_path)
    assert (
        tmp_path / "labels" / "data.yaml"
    ).read_text() == "kpt_shape: [5, 3]\nflip_idx: [1, 0, 2, 4, 3]\nnames:\n  0: face\n"
    line = (tmp_path / "labels" / "a.txt").read_text()
    assert line == "0 0.300000 0.500000 0.600000 0.600000 0 0 0 0.5 0.5 1 0.5 0.5 2 0.5 0.5 2 0.5 0.5 2\n"
    with pytest.raises(OptionError, match="not an empty folder"):
        write_yolo(tmp_path / "labels", [sample], images=tmp_path)


POINTS = "0.1 0.2 0.3 0.2 0.2 0.3 0.1 0.4"


@pytest.mark.parametrize(
    ("line", "seen", "score"),
    [
        ("0 0.5 0.5 0.2 0.4", [0] * 5, None),
        ("0 0.5 0.5 0.2 0.4 0.75", [0] * 5, 0.75),
        (f"0 0.5 0.5 0.2 0.4 {POINTS} -1 -1", [2, 2, 2, 2, 0], None),
        (f"0 0.5 0.5 0.2 0.4 {POINTS} 0 0 0.5", [2, 2, 2, 2, 0], 0.5),
        ("0 0.5 0.5 0.2 0.4 0.1 0.2 1 0.3 0.2 2 0.2 0.3 2 0.1 0.4 2 0 0 0", [1, 2, 2, 2, 0], None),
        ("0 0.5 0.5 0.2 0.4 0.1 0.2 0.3 0.3 0.2 0.9 0.2 0.3 1 0.1 0.4 1 0 0 0 0.5", [2, 2, 2, 2, 0], 0.5),
    ],
)
def test_dialects_of_yolo(line: str, seen: list[int], score: float | None, tmp_path: Path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text(line)
    (sample,) = read_yolo(tmp_path, tmp_path)
    np.testing.assert_allclose(sample.boxes, [[80, 30, 120, 70]])
    assert sample.visibility.tolist() == [seen]
    assert sample.attributes.get("score", [None])[0] == score
    if seen[1]:
        np.testing.assert_allclose(sample.landmarks[0, :2], [[20, 20], [60, 20]], rtol=1e-6)


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.2", "0 0.5 0.5 0.2 0.4 1 1 1", "0 a 0.5 0.2 0.4", "0 nan 0.5 0.2 0.4"])
def test_a_damaged_line_of_yolo_is_named(line: str, tmp_path: Path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.2 0.4\n" + line)
    with pytest.raises(DataError, match=r"a\.txt:2: "):
        read_yolo(tmp_path, tmp_path)


def test_ignored_faces_and_low_scores_are_left_out(tmp_path: Path) -> None:
    (sample, *_) = found(tmp_path)
    assert to_faces(at_least(sample, 0.5)).scores.tolist() == pytest.approx([0.9])
    label = Sample.of("a.jpg", [[0, 0, 9, 9], [1, 1, 5, 5]], ignore=[True, False], size=(9, 9))
    assert to_faces(label).boxes.tolist() == [[1, 1, 5, 5]]
    assert to_faces(label).scores.tolist() == [1]
    assert at_least(label, 0.5) is label


@pytest.fixture
def convert() -> Callable[..., Result]:
    return lambda *given: CliRunner().invoke(app, ["convert", *map(str, given)])


def test_the_command_goes_from_results_to_labels_and_back(tmp_path: Path, convert: Callable[..., Result]) -> None:
    samples, told = found(tmp_path), around(tmp_path)
    lines, labels, yolo = tmp_path / "faces.jsonl", tmp_path / "labels.json", tmp_path / "yolo"
    FORMATS["jsonl"].write(lines, samples, told)
    photos = ("--images", tmp_path / "photos")
    result = convert(lines, labels, "--to", "coco", "--threshold", 0.5, *photos)
    assert result.exit_code == 0, result.output
    assert "2 faces in 3 images" in result.output
    assert "is --images right" not in result.output
    assert [set(s.box_source) for s in read_coco(labels)] == [{"detector"}, {"detector"}, set()]
    assert convert(labels, yolo, "--from", "coco", *photos).exit_code == 0
    assert convert(yolo, tmp_path / "again.jsonl", *photos).exit_code == 0
    counts = {Path(r.path).name: len(r.faces) for r in read_records(tmp_path / "again.jsonl")}
    wrong = convert(labels, tmp_path / "a.jsonl", "--from", "coco")
    assert f"such as {tmp_path / '0' / 'photo 0.png'}; is --images right?" in wrong.output.replace("\n", "")
    assert counts == {"photo 0.png": 1, "photo 1.png": 1, "photo 2.png": 0}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("faces.json", "a.jsonl"), "--from: expected a format, found '' for faces.json; there are: jsonl, coco"),
        (("faces.jsonl", "a.jsonl", "--from", "xml"), "found 'xml'"),
        (("none.jsonl", "a.jsonl"), "none.jsonl: cannot be read"),
        (("none", "a.jsonl"), "none: expected a folder"),
        (("none.json", "a.jsonl", "--from", "coco-results"), "give --index"),
        (("empty.jsonl", "a.jsonl"), "no image in it that could be read"),
        (("faces.jsonl", "a.jsonl", "--schema", "6"), "unknown landmark schema '6'"),
    ],
)
def test_a_wrong_command_says_what_to_do(
    given: tuple[str, ...], words: str, tmp_path: Path, convert: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text('{"path": "a.jpg", "error": "no such file"}\n')
    result = convert(*given)
    assert result.exit_code == 2
    assert words in result.output.replace("\n", " ")
    assert not (tmp_path / "a.jsonl").exists()


def test_supervision_gets_boxes_points_and_scores() -> None:
    pytest.importorskip("supervision")
    boxes, points = [[0, 0, 10, 10], [5, 5, 9, 9]], np.arange(20.0).reshape(2, 5, 2)
    points[1, 3] = np.nan
    faces = Faces.of(boxes, [0.9, 0.5], points, image_size=(20, 20))
    detections, key_points = faces.to_supervision()
    np.testing.assert_array_equal(detections.xyxy, boxes)
    np.testing.assert_allclose(detections.confidence, [0.9, 0.5])
    assert detections[detections.confidence > 0.6].data["class_name"].tolist() == ["face"]
    np.testing.assert_array_equal(key_points.xy[0], points[0])
    assert key_points.xy[1, 3].tolist() == [0, 0]
    assert key_points.visible.tolist() == [[True] * 5, [True, True, True, False, True]]
    none, no_points = Faces.empty((20, 20), SIXTY_EIGHT).to_supervision()
    assert (len(none), no_points.xy.shape) == (0, (0, 68, 2))
    assert len(FIVE) == key_points.xy.shape[1]
