"""How labels are made of photos that were squeezed, and of what a detector finds in them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import wider_photos
from numpy.typing import NDArray
from peers.peer import Found
from PIL import Image

Array = NDArray[Any]
POINTS = np.array([[3.0, 4], [7, 4], [5, 6], [3, 8], [7, 8]])


def found(*faces: tuple[float, float, float]) -> Found:
    """Faces of 10x12 pixels at x, y with a score."""
    corner = np.array([face[:2] for face in faces]).reshape(-1, 2)
    boxes = np.concatenate([corner, np.add(corner, [10, 12])], axis=1)
    return Found(boxes, np.array([face[2] for face in faces]), POINTS + corner[:, None])


def test_a_squeezed_photo_gets_its_height_back() -> None:
    true = {f"known-{i}": 683 for i in range(9)} | {"portrait": 1536, "also": 1536}
    whole = {
        "a": (np.array([[100, 101, 152, 168], [411, 33, 447, 79]]), 683),
        "b": (np.array([[7, 11, 83, 109]]), 1536),
    }
    scale = {name: np.array([960 / 1024, 544 / height] * 2) for name, (_, height) in whole.items()}
    squeezed = {name: boxes * scale[name] for name, (boxes, _) in whole.items()}
    assert wider_photos.heights(squeezed, true) == {"a": 683, "b": 1536}
    assert wider_photos.heights(squeezed, true | {"a": 700})["a"] == 700
    assert wider_photos.heights({"odd": np.array([[7, 10.1234, 80, 99.9871], [9, 3.3333, 90, 77.7111]])}, true) == {}


def test_a_photo_and_its_mirror_image_are_read_as_one() -> None:
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, :50] = 255

    def detect(seen: Array) -> Found:
        return found((20, 5, 0.8), (60, 5, 0.4)) if seen[0, 0, 0] else found((70, 7, 0.4))

    both = wider_photos.both_ways(detect, image)
    assert both.points is not None
    np.testing.assert_allclose(both.scores, [0.6, 0.2])
    np.testing.assert_allclose(both.boxes[0], [20, 5 + 2 / 3, 30, 17 + 2 / 3])
    np.testing.assert_allclose(both.points[0], np.add(POINTS, [20, 5 + 2 / 3]))  # the mirrored right eye is a left one
    np.testing.assert_allclose(both.boxes[1], [60, 5, 70, 17])


def test_official_faces_get_points_and_others_are_added_or_ignored(tmp_path: Path) -> None:
    official = np.array([[20.0, 5, 30, 17], [50, 5, 60, 17], [80, 5, 80, 17], [90, 30, 94, 34]])
    seen = found((21, 5, 0.9), (5, 20, 0.7), (40, 22, 0.4), (70, 22, 0.1))
    sample = wider_photos.labelled(tmp_path / "a.webp", np.zeros((40, 100, 3), np.uint8), official, seen)
    np.testing.assert_allclose(sample.boxes[:, 0], [20, 50, 90, 5, 40])  # that without an area is left out
    assert sample.box_source.tolist() == ["human"] * 3 + ["detector"] * 2
    assert sample.landmark_source.tolist() == ["detector", "none", "none", "detector", "none"]
    assert sample.ignore.tolist() == [False, False, True, False, True]  # too small, and unsure
    np.testing.assert_allclose(sample.landmarks[0], np.add(POINTS, [21, 5]))


def test_files_with_names_of_wider_face_are_taken_from_a_repository(tmp_path: Path) -> None:
    name = "9_Press_Conference_Press_Conference_9_1"
    (tmp_path / "images").mkdir()
    for path in (f"images/{name}.jpg", "images/img_12.jpg", f"{name}.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / path)
    user = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for call in (["init", "-q"], ["add", "."], [*user, "commit", "-qm", "photos"]):
        subprocess.run(["git", "-C", str(tmp_path), *call], check=True)
    ((stem, content),) = wider_photos.contents(tmp_path / ".git", "images/")
    assert (stem, content) == (name, (tmp_path / "images" / f"{name}.jpg").read_bytes())


def test_photos_keep_their_true_aspect(tmp_path: Path) -> None:
    image = wider_photos.stored(Image.new("RGB", (960, 544)), (1024, 1536), tmp_path / "new" / "a.webp")
    assert image.size == (427, 640) == Image.open(tmp_path / "new" / "a.webp").size
