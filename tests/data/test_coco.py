"""Our interchange format: round trips, the shared index files, and wrong files."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lineament.data.readers.coco import read_coco, read_coco_wholebody, write_coco
from lineament.data.sample import Sample
from lineament.errors import DataError
from lineament.schemas import SCHEMAS


def made_up(folder: Path, seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    samples = []
    for i, n in enumerate([3, 0, 1]):
        corner = rng.uniform(-10, 100, (n, 2)).round(2)
        points = rng.uniform(0, 100, (n, 5, 2)).round(2)
        points[:1, 2] = np.nan
        samples.append(
            Sample.of(
                folder / "sub" / f"{i}.jpg",
                np.concatenate([corner, corner + rng.uniform(1, 50, (n, 2)).round(2)], axis=1),
                points,
                visibility=rng.integers(1, 3, (n, 5)),
                ignore=rng.random(n) < 0.5,
                size=(640, 480 + i),
                source="made-up",
                box_source=np.array(["human", "detector", "human"])[:n],
                landmark_source="detector",
                attributes={"mask": rng.random(n) < 0.5, "pose": np.array(["left", "", "frontal"])[:n]},
            )
        )
    return samples


def test_round_trip(tmp_path: Path) -> None:
    wanted = made_up(tmp_path)
    write_coco(tmp_path / "index.json", wanted)
    found = read_coco(tmp_path / "index.json")
    assert [len(s) for s in found] == [3, 0, 1]
    for a, b in zip(wanted, found, strict=True):
        assert (a.path, a.width, a.height, a.source, a.schema) == (b.path, b.width, b.height, b.source, b.schema)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-3)
        np.testing.assert_allclose(a.landmarks, b.landmarks, atol=1e-3)
        for name in ("visibility", "ignore", "box_source", "landmark_source"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        for name in a.attributes:
            np.testing.assert_array_equal(a.attributes[name], b.attributes[name])


def test_attributes_that_some_faces_lack_are_left_out(tmp_path: Path) -> None:
    (wanted,) = (s for s in made_up(tmp_path) if len(s) == 3)
    blur, pose = np.array([2.0, np.nan, 0.0]), np.array(["left", "", ""])
    write_coco(tmp_path / "index.json", [replace(wanted, attributes={"blur": blur, "pose": pose})])
    told = [face.get("attributes") for face in json.loads((tmp_path / "index.json").read_text())["annotations"]]
    assert told == [{"blur": 2, "pose": "left"}, None, {"blur": 0}]
    (found,) = read_coco(tmp_path / "index.json")
    np.testing.assert_array_equal(found.attributes["blur"], blur)
    np.testing.assert_array_equal(found.attributes["pose"], pose)


def test_pictures_may_lie_elsewhere(tmp_path: Path) -> None:
    write_coco(tmp_path / "labels" / "index.json", made_up(tmp_path / "photos"), images=tmp_path / "photos")
    found = read_coco(tmp_path / "labels" / "index.json", tmp_path / "elsewhere")
    assert found[0].path == tmp_path / "elsewhere" / "sub" / "0.jpg"


def test_one_file_holds_one_schema(tmp_path: Path) -> None:
    other = Sample.of("a.jpg", np.zeros((0, 4)), schema=SCHEMAS["68"])
    with pytest.raises(DataError, match="one schema"):
        write_coco(tmp_path / "index.json", [*made_up(tmp_path), other])
    assert not list(tmp_path.iterdir())


def index_of(**changes: object) -> dict[str, object]:
    face = {"id": 7, "image_id": 1, "bbox": [1, 2, 3, 4], "keypoints": [1, 2, 2] * 5} | changes
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 10, "height": 10}],
        "annotations": [{"id": 6, "image_id": 1, "bbox": [1, 2, 3, 4]}, face],
        "categories": [],
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [1, 2, -3, 4]}, "negative"),
        ({"bbox": [1, 2, 3]}, "4 numbers, found 3"),
        ({"bbox": None}, "4 numbers, found 0"),
        ({"bbox": [1, float("nan"), 3, 4]}, "not finite"),
        ({"keypoints": [float("nan"), 2, 2] * 5}, "not finite"),
        ({"keypoints": [1, 2, 2] * 4}, "15 numbers, found 12"),
        ({"image_id": 9}, "image_id 9 has no entry"),
        ({"image_id": 1.9}, "image_id: expected `int | str`, got `float`"),
        ({"image_id": "1"}, "image_id '1' has no entry"),
        ({"iscrowd": "0"}, "iscrowd: expected `bool | int`, got `str`"),
        ({"iscrowd": 2}, "expected 0 or 1 as iscrowd, found 2"),
        ({"bbox": ["1", 2, 3, 4]}, "got `str`"),
        ({"bbox": [10**400, 2, 3, 4]}, "out of range"),
        ({"bbox": [2e9, 2, 3, 4]}, "too large"),
        ({"keypoints": [1, 2, 3] * 5}, "visibilities of 0, 1 or 2"),
        ({"attributes": "left"}, "attributes: expected `object`"),
    ],
)
def test_a_wrong_label_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps(index_of(**changes)))
    with pytest.raises(DataError, match=message) as error:
        read_coco(path)
    assert f"{path}, annotation 7" in str(error.value)


@pytest.mark.parametrize("blank", [None, [], {}])
def test_a_blank_value_is_none_at_all(tmp_path: Path, blank: object) -> None:
    path = tmp_path / "index.json"
    names = ("keypoints", "attributes", "iscrowd", "mask", "box_source", "keypoints_source")
    index = index_of(**dict.fromkeys(names, blank))
    index["images"] = [{"id": 1, "file_name": "a.jpg", "width": blank, "height": blank, "source": blank}]
    path.write_text(json.dumps(index | {"categories": blank}))
    (sample,) = read_coco(path)
    assert (sample.width, sample.height, len(sample), sample.attributes) == (0, 0, 2, {})
    assert not sample.ignore.any()


PERSON, HEAD = {"id": 1, "name": "person"}, {"id": 2, "name": "Face", "keypoints": list("abcde")}


def two_categories(folder: Path, categories: list[dict[str, object]], *used: int | None) -> Path:
    box = {"image_id": 1, "bbox": [1, 2, 3, 4]}
    annotations = [box | {"id": i} | ({} if c is None else {"category_id": c}) for i, c in enumerate(used)]
    index = index_of() | {"categories": categories, "annotations": annotations}
    (folder / "index.json").write_text(json.dumps(index))
    return folder / "index.json"


def test_of_several_categories_faces_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(read_coco(two_categories(tmp_path, [PERSON, HEAD], 2, 1, 2))[0]) == 2
    assert "1 annotations of other categories than 'Face' left out" in caplog.text
    assert len(read_coco(two_categories(tmp_path, [PERSON, HEAD], 1))[0]) == 0
    assert len(read_coco(two_categories(tmp_path, [PERSON, {"id": 2, "name": "head"}], 2, 2))[0]) == 2
    assert len(read_coco(two_categories(tmp_path, [PERSON], 1, None))[0]) == 2
    for wrong in (
        two_categories(tmp_path, [PERSON, {"id": 2, "name": "head"}], 1, 2),
        two_categories(tmp_path, [PERSON, HEAD], 2, None),
    ):
        with pytest.raises(DataError, match="which category holds the faces"):
            read_coco(wrong)
    with pytest.raises(DataError, match="annotation 0: category_id 7 has no entry"):
        read_coco(two_categories(tmp_path, [PERSON, HEAD], 7))


def test_keypoints_in_another_order_come_into_the_schemas(tmp_path: Path) -> None:
    names = ["left_eye", "right_eye", "nose", "mouth_left", "mouth_right"]
    index = index_of(category_id=1, keypoints=[1, 1, 2, 2, 2, 2, 3, 3, 2, 4, 4, 2, 5, 5, 1])
    (tmp_path / "index.json").write_text(json.dumps(index | {"categories": [{"id": 1, "keypoints": names}]}))
    (sample,) = read_coco(tmp_path / "index.json")
    assert sample.schema == SCHEMAS["5"]
    assert sample.landmarks[1, :, 0].tolist() == [2, 1, 3, 5, 4]
    assert sample.visibility[1].tolist() == [2, 2, 2, 1, 2]


def test_paths_of_windows(tmp_path: Path) -> None:
    index = index_of()
    index["images"] = [{"id": 1, "file_name": "sub\\a.jpg"}]
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert read_coco(tmp_path / "index.json")[0].path == tmp_path / "sub" / "a.jpg"
    (tmp_path / "sub\\a.jpg").touch()
    assert read_coco(tmp_path / "index.json")[0].path == tmp_path / "sub\\a.jpg"


@pytest.mark.parametrize("text", ["", "[]", '{"images": []}'])
def test_no_coco_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(DataError, match=r"index\.json"):
        read_coco(tmp_path / "index.json")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "two images have the same id, 1"),
        ([{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "a"}], "two images have the same file_name, a"),
        ([{"id": 1}], "image 1: object missing required field `file_name`"),
    ],
)
def test_wrong_images_are_named(tmp_path: Path, images: list[dict[str, object]], message: str) -> None:
    (tmp_path / "index.json").write_text(json.dumps({"images": images, "annotations": []}))
    with pytest.raises(DataError, match=message):
        read_coco(tmp_path / "index.json")


def test_missing_keypoints_are_not_labelled(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(json.dumps(index_of()))
    (sample,) = read_coco(tmp_path / "index.json")
    np.testing.assert_array_equal(sample.visibility, [[0] * 5, [2] * 5])
    assert np.isnan(sample.landmarks[0]).all()
    assert sample.landmark_source.tolist() == ["none", "human"]


def test_wholebody_faces(tmp_path: Path) -> None:
    person = {"image_id": 1, "bbox": [0, 0, 9, 9], "keypoints": [0] * 51}
    face = {"face_box": [10, 20, 30, 40], "face_kpts": [12, 22, 0.7] * 67 + [0, 0, 0], "face_valid": True}
    blank = {"face_box": [0, 0, 0, 0], "face_kpts": [0] * 204, "face_valid": False}
    index = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}],
        "annotations": [person | blank | {"id": 1}, person | face | {"id": 2}],
    }
    (tmp_path / "wholebody.json").write_text(json.dumps(index))
    (sample,) = read_coco_wholebody(tmp_path / "wholebody.json")
    np.testing.assert_array_equal(sample.boxes, [[10, 20, 40, 60]])
    np.testing.assert_array_equal(sample.landmarks[0, 0], [12.5, 22.5])
    assert sample.visibility[0].tolist() == [2] * 67 + [0]


@pytest.mark.parametrize(
    ("name", "pictures", "faces", "with_points", "ignored"),
    [
        ("detection-val", 298, 707, 674, 95),
        ("detection-val-crowd", 55, 665, 665, 494),
        ("landmarks5-test", 1498, 1498, 1498, 0),
        ("landmarks21-val", 138, 194, 194, 0),
    ],
)
def test_counts_of_the_shared_indices(
    shared: Path, name: str, pictures: int, faces: int, with_points: int, ignored: int
) -> None:
    samples = read_coco(shared / "data" / f"{name}.json")
    counted = [~s.ignore for s in samples]
    assert len(samples) == pictures
    assert sum(int(c.sum()) for c in counted) == faces
    labelled = [(s.visibility > 0).any(axis=1) & c for s, c in zip(samples, counted, strict=True)]
    assert sum(int(has.sum()) for has in labelled) == with_points
    assert sum(int(s.ignore.sum()) for s in samples) == ignored
    assert all(s.path.is_file() for s in samples[:5])


def test_reading_needs_numpy_only() -> None:
    code = "import sys, lineament.data.readers.coco; print(*{'torch', 'scipy', 'cv2', 'h5py'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []
