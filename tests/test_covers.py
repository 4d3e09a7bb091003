"""Covers: what is painted where, and what stays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import lineament
from lineament.covers import Cover, paint, redact
from lineament.errors import OptionError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (80, 100, 3)).astype(np.uint8)
FACE = np.array([[30.0, 20.0, 70.0, 60.0]])


def painted(cover: Cover, boxes: np.ndarray = FACE, image: np.ndarray = NOISE) -> np.ndarray:
    planes = [image.copy()]
    paint(planes, boxes, cover)
    return planes[0]


def test_a_box_with_a_margin_is_covered_and_nothing_else() -> None:
    new = painted(Cover("solid", "box", margin=0.25, rim=0, color=(1, 2, 3)))
    assert (new[10:70, 20:80] == (1, 2, 3)).all()
    changed = (new != NOISE).any(axis=2)
    changed[10:70, 20:80] = False
    assert not changed.any()


def test_a_rim_is_a_share_of_the_images_longer_side() -> None:
    new = painted(Cover("solid", "box", margin=0, rim=0.05, color=(1, 2, 3)))
    covered = (new == (1, 2, 3)).all(axis=2)
    assert covered[15:65, 25:75].all()
    assert covered.sum() == 50 * 50


def test_an_ellipse_covers_its_share_of_the_box() -> None:
    white = np.full((80, 100, 3), 255, np.uint8)
    new = painted(Cover("solid", margin=0, rim=0), image=white)
    assert (255 - new[..., 0]).sum() / 255 / 1600 == pytest.approx(np.pi / 4, rel=0.01)
    assert (new[22, 32] == 255).all(), "a corner of the box"
    assert (new[40, 31] == 0).all()


def test_pixelating_leaves_as_many_values_as_there_are_cells() -> None:
    new = painted(Cover("pixelate", "box", margin=0, rim=0, cells=4))
    blocks = new[20:60, 30:70].reshape(4, 10, 4, 10, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    means = NOISE[20:60, 30:70].reshape(4, 10, 4, 10, 3).mean(axis=(1, 3))
    assert np.abs(blocks[:, 0, :, 0] - means).max() <= 0.5


def test_blur_has_no_more_than_the_cells_in_it() -> None:
    """Two faces with the same means look the same once they are blurred."""
    shuffled = NOISE.copy()
    blocks = shuffled[20:60, 30:70].reshape(4, 10, 4, 10, 3)
    blocks[:] = blocks[:, ::-1, :, ::-1].copy()
    cover = Cover("blur", "box", margin=0, rim=0, cells=4)
    np.testing.assert_array_equal(painted(cover)[20:60, 30:70], painted(cover, image=shuffled)[20:60, 30:70])
    assert painted(cover)[20:60, 30:70].std() < NOISE.std() / 4


@pytest.mark.parametrize("box", [[-20, -20, 20, 20], [90, 70, 140, 120], [-50, 10, 150, 30], [49.9, 39.9, 50.1, 40.1]])
@pytest.mark.parametrize("style", ["blur", "pixelate", "solid", "picture"])
def test_faces_at_the_edge(box: list[float], style: str) -> None:
    cover = Cover(style, picture=np.zeros((7, 5, 3), np.uint8))  # type: ignore[arg-type]
    new = painted(cover, np.array([box]))
    assert (new != NOISE).any()
    assert new.shape == NOISE.shape


def test_a_face_outside_changes_nothing() -> None:
    np.testing.assert_array_equal(painted(Cover(), np.array([[200.0, 200, 240, 240]])), NOISE)


def test_a_picture_is_stretched_and_shows_the_face_where_it_is_clear() -> None:
    picture = np.zeros((2, 2, 4), np.uint8)
    picture[0] = (10, 20, 30, 255)
    new = painted(Cover("picture", "box", margin=0, rim=0, picture=picture))
    assert (new[21:28, 30:70] == (10, 20, 30)).all()
    np.testing.assert_array_equal(new[55:60, 30:70], NOISE[55:60, 30:70])


def test_a_picture_that_the_edge_cuts_is_not_squeezed() -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:, 20:] = 200
    new = painted(Cover("picture", "box", margin=0, rim=0, picture=picture), np.array([[-20.0, 20, 20, 60]]))
    assert (new[20:60, :20] == 200).all()


def test_planes_with_half_the_pixels_and_of_sixteen_bits() -> None:
    planes = [np.full((80, 100), 700, np.uint16), np.full((40, 50), 300, np.uint16)]
    patches = [np.array([[64]], np.uint16), np.array([[512]], np.uint16)]
    paint(planes, FACE, Cover("solid", "box", margin=0, rim=0), patches)
    assert (planes[0][20:60, 30:70] == 64).all()
    assert (planes[1][10:30, 15:35] == 512).all()
    assert (planes[1] == 512).sum() == 400


def test_redact_returns_a_new_image_and_leaves_the_old() -> None:
    faces = lineament.Faces.of(FACE, [0.9], np.full((1, 5, 2), np.nan), image_size=(100, 80))
    before = NOISE.copy()
    new = redact(NOISE, faces, Cover("solid", "box"))
    assert isinstance(new, Image.Image)
    assert new.getpixel((50, 40)) == (0, 0, 0)
    np.testing.assert_array_equal(before, NOISE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"style": "smudge"},
        {"shape": "star"},
        {"margin": -1},
        {"rim": 2},
        {"cells": 0},
        {"color": (0, 0, 300)},
        {"style": "picture"},
    ],
)
def test_wrong_covers(wrong: dict) -> None:
    with pytest.raises(OptionError):
        Cover(**wrong)


@pytest.mark.parametrize("color", ["red", "blue", (0.5, 1.0, 1.0), 5, None, (1, 2), (1, (2, 3), 4), (0, 0, True)])
def test_a_color_is_three_whole_numbers(color: object) -> None:
    with pytest.raises(OptionError, match="color is red, green and blue, each a whole number from 0 to 255, found"):
        Cover("solid", color=color)  # type: ignore[arg-type]


def test_a_color_may_be_numpys() -> None:
    assert (painted(Cover("solid", color=np.array([1, 2, 3])))[40, 50] == (1, 2, 3)).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (np.full((4, 4, 3), 0.5), r"float64 \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint8), r"uint8 \(4, 4\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"uint8 \(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \(0, 4, 3\)"),
        ([[[0, 0, 0]]], r"\[\[\[0, 0, 0\]\]\]"),
        (None, "None"),
    ],
)
def test_a_picture_is_an_array_of_bytes(picture: object, found: str) -> None:
    with pytest.raises(OptionError, match=f"takes a picture .*uint8.* found {found}"):
        Cover("picture", picture=picture)  # type: ignore[arg-type]
