"""Label Studio's JSON export: its labels, and exports that have no meaning for faces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lineament.data.readers.coco import read_coco, write_coco
from lineament.data.readers.label_studio import read_label_studio
from lineament.errors import DataError

SIZE = {"original_width": 200, "original_height": 100}


def rectangle(name: str, x: float, y: float, side: float, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": side, "height": side, "rotation": 0, "rectanglelabels": ["face"]}
    return {"id": name, "type": "rectanglelabels", "value": value | more, **SIZE}


def point(name: str, x: float, y: float, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": 0.2, "keypointlabels": [name]}
    return {"id": f"{name}{x}", "type": "keypointlabels", "value": value, **SIZE, **more}


def export(folder: Path, *result: dict[str, Any], image: str = "/data/upload/1/0a1b2c3d-a.jpg") -> Path:
    first = {"result": [rectangle("old", 0, 0, 99)], "was_cancelled": False}
    cancelled = {"result": [], "was_cancelled": True}
    work = [first, {"result": list(result), "was_cancelled": False}, cancelled]
    (folder / "export.json").write_text(json.dumps([{"id": 7, "data": {"image": image}, "annotations": work}]))
    return folder / "export.json"


def test_faces_and_their_points_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "a.jpg")
    path = export(
        tmp_path,
        rectangle("large", 10, 10, 60),
        rectangle("small", 20, 20, 10),
        point("nose", 25, 25),  # in both: the smaller one's
        point("left_eye", 21, 21, parentID="large"),
        {"type": "choices", "value": {"choices": ["good"]}},
    )
    (sample,) = read_label_studio(path, tmp_path)
    assert sample.path == tmp_path / "a.jpg"
    assert (sample.width, sample.height) == (200, 100)
    assert sample.boxes.tolist() == [[20, 10, 140, 70], [40, 20, 60, 30]]
    assert sample.visibility.tolist() == [[0, 2, 0, 0, 0], [0, 0, 2, 0, 0]]
    np.testing.assert_allclose(sample.landmarks[0, 1], [42, 21])
    np.testing.assert_allclose(sample.landmarks[1, 2], [50, 25])
    write_coco(tmp_path / "labels.json", [sample])
    (again,) = read_coco(tmp_path / "labels.json")
    np.testing.assert_allclose(again.landmarks, sample.landmarks)


@pytest.mark.parametrize(
    ("image", "file"),
    [
        ("/data/upload/1/0a1b2c3d-my%20photo.jpg", "0a1b2c3d-my photo.jpg"),
        ("/data/local-files/?d=deep/down/a.jpg", "deep/down/a.jpg"),
        ("/data/local-files/?d=deep/down/a.jpg", "a.jpg"),
        ("s3://bucket/down/a.jpg", "down/a.jpg"),
    ],
)
def test_images_are_found_below_the_folder(tmp_path: Path, image: str, file: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    (sample,) = read_label_studio(export(tmp_path, image=image), tmp_path)
    assert sample.path == tmp_path / file
    assert len(sample) == 0


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([rectangle("a", 0, 0, 50), point("noose", 9, 9)], r"task 7: key point 'noose'; expected right_eye"),
        ([rectangle("a", 0, 0, 50), point("nose", 90, 9)], "'nose' lies in no rectangle"),
        ([rectangle("a", 0, 0, 50), point("nose", 9, 9), point("nose", 8, 9)], "two key points 'nose'"),
        ([rectangle("a", 0, 0, 50, rotation=9)], "rotated"),
        ([rectangle("a", 0, 0, "wide")], r"position 0: annotations\[1\].*expected `float`"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, result: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_label_studio(export(tmp_path, *result), tmp_path)


@pytest.mark.parametrize("text", ['{"a": 1}', "[1]", "no JSON", '[{"data": {}}]'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(DataError, match=r"export\.json"):
        read_label_studio(tmp_path / "export.json", tmp_path)
