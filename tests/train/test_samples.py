"""The photos of a recipe: lists, backgrounds, landmark schemas, and errors if there is not enough to learn from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lineament.data.sample import Sample
from lineament.errors import DataError, OptionError
from lineament.schemas import FIVE, SIXTY_EIGHT, TWENTY_NINE, Schema, convert
from lineament.train.recipe import Recipe
from lineament.train.samples import check_learnable, read_split

RECIPE = Recipe(train=("five.json", "rich.json", "five.json"), val=("five.json",), backgrounds=("none", "more"))


def index(folder: Path, name: str, schema: Schema, faces: int, *, ignored: int = 0) -> None:
    """An index file of one photo. The first landmark of each face is hidden."""
    points = np.random.default_rng(len(schema)).uniform(10, 90, (faces, len(schema), 2))
    seen = np.full((faces, len(schema), 1), 2)
    seen[:, 0] = 1
    annotations = [
        {"id": i, "image_id": 0, "bbox": [1, 2, 30, 40], "keypoints": row, "iscrowd": int(i < ignored)}
        for i, row in enumerate(np.concatenate([points, seen], axis=2).reshape(faces, -1).tolist())
    ]
    images = [{"id": 0, "file_name": f"{name}.jpg", "width": 100, "height": 100, "source": name}]
    categories = [{"id": 1, "name": "face", "keypoints": list(schema.points)}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(document))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    index(tmp_path, "five", FIVE, 3, ignored=1)
    index(tmp_path, "rich", SIXTY_EIGHT, 2)
    for name in ("none/a.png", "none/b.png", "more/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 10)).save(tmp_path / name)
    return tmp_path


def test_training_has_the_lists_as_often_as_they_stand_and_backgrounds(data: Path) -> None:
    found = read_split(data, RECIPE, "train", ["5"])
    names = [sample.path.name for sample in found.samples]
    assert names == ["five.jpg", "rich.jpg", "five.jpg", "a.png", "b.png", "c.png"]
    assert all(sample.schema is FIVE for sample in found.samples)
    assert found.to_dict() == {
        "lists": {
            "five.json": {"photos": 1, "faces": 2, "empty": 0},  # one is to be ignored
            "rich.json": {"photos": 1, "faces": 2, "empty": 0},
            "none": {"photos": 2, "faces": 0, "empty": 0},
            "more": {"photos": 1, "faces": 0, "empty": 0},
        },
        "sources": {"five": 1, "rich": 1, "none": 2, "more": 1},
    }
    validation = read_split(data, RECIPE, "val", ["5"])
    assert [sample.path.name for sample in validation.samples] == ["five.jpg"]
    assert validation.lists == {"five.json": {"photos": 1, "faces": 2, "empty": 0}}


def test_photos_of_an_event_are_set_apart_for_validation(data: Path) -> None:
    recipe = Recipe(train=("five.json", "rich.json", "rich.json"), val=("five.json",), apart=("ri",))
    sets = {split: read_split(data, recipe, split, ["5"]) for split in ("train", "val")}
    assert [sample.path.name for sample in sets["train"].samples] == ["five.jpg"]
    assert sets["train"].sources == {"five": 1}
    assert [sample.path.name for sample in sets["val"].samples] == ["five.jpg", "rich.jpg"]
    assert [counts["photos"] for counts in sets["val"].lists.values()] == [1, 1]
    for other in (replace(recipe, apart=("fi",)), replace(recipe, train=())):  # of a list for validation; of none
        assert [sample.path.name for sample in read_split(data, other, "val", ["5"]).samples] == ["five.jpg"]
    with pytest.raises(DataError, match=r"no photo of five.json, rich.json has a name that begins with 1_ or 2_"):
        read_split(data, replace(recipe, apart=("1_", "2_")), "val", ["5"])
    with pytest.raises(OptionError, match="apart has beginnings of file names, found an empty one"):
        replace(recipe, apart=("",))


def test_boxes_without_an_area_are_counted_and_no_faces(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    document = json.loads((data / "five.json").read_text())
    document["annotations"][2]["bbox"] = [10, 20, 0, 40]
    (data / "five.json").write_text(json.dumps(document))
    found = read_split(data, RECIPE, "val", ["5"])
    assert found.lists == {"five.json": {"photos": 1, "faces": 1, "empty": 1}}
    assert found.samples[0].learnable.tolist() == [False, True, False]
    assert caplog.messages == ["five.json: 1 boxes have no area and are left out"]


def test_landmarks_become_those_that_are_learnt(data: Path) -> None:
    both = read_split(data, RECIPE, "train", ["5", "68"]).samples
    assert [sample.schema for sample in both[:3]] == [FIVE, SIXTY_EIGHT, FIVE]
    assert both[3].schema is FIVE  # it does not matter for a background
    rich, five = both[1], read_split(data, RECIPE, "train", ["5"]).samples[1]
    np.testing.assert_allclose(five.landmarks, convert(rich.landmarks, SIXTY_EIGHT, FIVE))
    assert (five.visibility == 2).all()


def test_a_landmark_is_as_visible_as_the_least_that_it_comes_from(tmp_path: Path) -> None:
    index(tmp_path, "five", FIVE, 1)
    index(tmp_path, "rich", SIXTY_EIGHT, 1)
    path = tmp_path / "rich.json"
    document = json.loads(path.read_text())
    keypoints = np.array(document["annotations"][0]["keypoints"]).reshape(68, 3)
    keypoints[37, 2], keypoints[30, 2], keypoints[48, 2] = 1, 1, 0
    document["annotations"][0]["keypoints"] = keypoints.ravel().tolist()
    path.write_text(json.dumps(document))
    (sample,) = read_split(tmp_path, Recipe(train=("rich.json",)), "train", ["5"]).samples
    assert sample.visibility.tolist() == [[1, 2, 1, 0, 2]]
    assert np.isnan(sample.landmarks[0, 3]).all()


def test_landmarks_that_cannot_become_what_is_learnt_are_named(data: Path) -> None:
    with pytest.raises(
        DataError, match=r"five\.json has landmarks of schema '5', which cannot become those of '29' or '68'"
    ):
        read_split(data, RECIPE, "val", [TWENTY_NINE.name, "68"])


def photo(faces: int, *, ignore: bool = False, landmarks: bool = True, hole: bool = False) -> Sample:
    points = np.zeros((faces, 5, 2))
    points[:, 1:2] = np.nan if hole else 0
    return Sample.of("a.jpg", [[0, 0, 9, 9]] * faces, points if landmarks else None, ignore=[ignore] * faces)


NO_FACE, NO_LANDMARKS = "no face$", "no face with all its landmarks, from which kpnet learns"


@pytest.mark.parametrize(
    ("samples", "landmarks", "lacks"),
    [
        ([], False, NO_FACE),
        ([photo(0), photo(2, ignore=True)], True, NO_FACE),
        ([photo(2, landmarks=False), photo(1, ignore=True)], True, NO_LANDMARKS),
        ([photo(2, hole=True)], True, NO_LANDMARKS),
    ],
)
def test_data_that_teach_nothing_are_refused(samples: list[Sample], landmarks: bool, lacks: str) -> None:
    recipe = Recipe(train=("a.json", "b.json"))
    with pytest.raises(DataError, match=rf"the train data of kpnet \(a\.json, b\.json\) have {lacks}"):
        check_learnable(samples, recipe, "train", "kpnet", landmarks=landmarks)


def test_data_that_teach_something_are_enough() -> None:
    recipe = Recipe(train=("a.json",))
    check_learnable([photo(2, landmarks=False)], recipe, "train", "kpnet", landmarks=False)
    check_learnable([photo(0), photo(1, landmarks=False), photo(1)], recipe, "train", "kpnet", landmarks=True)


def test_what_the_data_folder_lacks_is_named_with_what_to_do(data: Path) -> None:
    with pytest.raises(DataError, match=r"away\.json: no such file.*'val'.*--val FILE"):
        read_split(data, Recipe(train=("five.json",), val=("away.json",)), "val", ["5"])
    recipe = Recipe(train=("five.json",), backgrounds=("away",))
    with pytest.raises(DataError, match=r"away: no such folder.*--set 'backgrounds=\[\]'"):
        read_split(data, recipe, "train", ["5"])
    assert read_split(
        data, Recipe(train=("five.json",), val=("five.json",), backgrounds=("away",)), "val", ["5"]
    ).samples
