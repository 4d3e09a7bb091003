"""Aligned crops of files: pose, sharpness, and what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

import lineament
from lineament.alignment import DEPTH, AlignedFace, align_photo, pose, sharpness, with_margin
from lineament.errors import OptionError
from lineament.similarity import TEMPLATE

ROOT = Path(__file__).resolve().parents[1]
PORTRAIT = ROOT / "examples" / "photos" / "astronaut.jpg"


def seen(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The five points (5, 2) of the mean face, turned, as a distant camera sees them."""
    y, p, r = np.radians([yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return (np.column_stack([TEMPLATE, DEPTH]) @ (about_z @ about_x @ about_y).T)[:, :2] * 80 + [300, 200]


@pytest.mark.parametrize(
    "turned", [(0, 0, 0), (30, 0, 0), (-30, 0, 0), (0, 20, 0), (0, -20, 0), (0, 0, 50), (25, 0, -30)]
)
def test_the_pose_of_a_turned_face(turned: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(pose(seen(*turned)[None])[0], turned, atol=3)


def test_the_mirror_image_is_turned_the_other_way() -> None:
    points = seen(20, 10, 15)
    mirrored = (points * [-1, 1])[[1, 0, 2, 4, 3]]
    np.testing.assert_allclose(pose(mirrored[None]), pose(points[None]) * [-1, 1, -1], atol=1e-9)


def test_poses_of_no_face_and_of_missing_points() -> None:
    assert pose(np.zeros((0, 5, 2))).shape == (0, 3)
    assert np.isnan(pose(np.full((2, 5, 2), np.nan))).all()


def test_blurred_crops_are_less_sharp() -> None:
    image = Image.open(PORTRAIT).convert("RGB").crop((170, 50, 282, 162))
    crops = np.stack([np.asarray(image.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 3)])
    sharp = sharpness(crops)
    assert sharp[0] > 2 * sharp[1] > 4 * sharp[2]
    assert sharpness(crops[:0]).shape == (0,)
    assert sharpness(np.zeros((1, 4, 4, 3), np.uint8)).tolist() == [0]


def test_a_margin_shows_more_around_the_same_middle() -> None:
    wide = with_margin(TEMPLATE, 0.5)
    np.testing.assert_allclose((wide - 0.5) * 2, TEMPLATE - 0.5)
    with pytest.raises(OptionError, match="margin"):
        with_margin(TEMPLATE, -0.5)


def test_a_photo_gives_the_crops_of_align(tmp_path: Path) -> None:
    detector = lineament.load("kpnet-lite-int8", threads=1)
    (face,) = align_photo(PORTRAIT, lambda i: tmp_path / f"{i}.png", detector)
    found = detector.detect(PORTRAIT)
    wanted = lineament.align(PORTRAIT, found)
    np.testing.assert_array_equal(np.asarray(Image.open(face.crop)), wanted.crops[0])
    np.testing.assert_array_equal(face.matrix, wanted.matrices[0])
    assert face.score == pytest.approx(found.score)
    assert np.abs(face.pose[[0, 2]]).max() < 20
    row = dict(zip(AlignedFace.COLUMNS, face.row(), strict=True))
    assert row["path"] == str(PORTRAIT)
    assert row["m11"] == pytest.approx(face.matrix[0, 0], abs=1e-6)
