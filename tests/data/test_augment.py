"""Light, quality and things in front of faces: what may change does, what must not does not."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

pytest.importorskip("cv2")

from lineament.data.augment import Distortion, Occlusion, distort, occlude
from lineament.data.compose import Canvas
from scenes import scene

NOTHING = replace(
    Distortion(**{field.name: 0 for field in fields(Distortion)}),
    blur_sigma=1.5,
    motion_length=7,
    jpeg_quality=(90, 95),
)


@pytest.fixture
def canvas() -> Canvas:
    picture, boxes, points = scene(0, width=160, height=160, faces=3)
    weights = np.ones((3, 5), np.float32)
    return Canvas(np.asarray(picture), boxes.astype(np.float32), points, weights, np.array([False, False, True]))


def test_without_strength_nothing_changes(canvas: Canvas) -> None:
    np.testing.assert_array_equal(distort(np.random.default_rng(0), canvas.pixels, NOTHING), canvas.pixels)


@pytest.mark.parametrize(
    "change",
    [
        {"brightness": 30},
        {"contrast": 0.3},
        {"gamma": 0.3},
        {"saturation": 0.4},
        {"hue": 12},
        {"tint": 0.1},
        {"grey": 1},
        {"blur": 1},
        {"motion": 1},
        {"noise": 1, "noise_sigma": 12},
        {"jpeg": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_change_keeps_what_is_to_be_seen(canvas: Canvas, change: dict[str, float]) -> None:
    before = canvas.pixels.copy()
    after = distort(np.random.default_rng(3), canvas.pixels, replace(NOTHING, **change))
    np.testing.assert_array_equal(canvas.pixels, before)
    assert (after.shape, after.dtype) == (before.shape, np.uint8)
    assert (after != before).mean() > 0.1
    assert np.corrcoef(after.mean(axis=2).ravel(), before.mean(axis=2).ravel())[0, 1] > 0.9
    np.testing.assert_array_equal(after, distort(np.random.default_rng(3), before, replace(NOTHING, **change)))


def test_all_together_stay_in_range(canvas: Canvas) -> None:
    always = Distortion(grey=0.5, blur=1, motion=1, noise=1, jpeg=1, brightness=200, contrast=0.9)
    for seed in range(10):
        after = distort(np.random.default_rng(seed), canvas.pixels, always)
        assert (after.shape, after.dtype) == (canvas.pixels.shape, np.uint8)


def test_grey_has_no_colour_and_keeps_lightness(canvas: Canvas) -> None:
    after = distort(np.random.default_rng(0), canvas.pixels, replace(NOTHING, grey=1, hue=12, tint=0.1)).astype(float)
    assert np.ptp(after, axis=2).max() <= 1
    np.testing.assert_allclose(after[..., 0], canvas.pixels @ [0.299, 0.587, 0.114], atol=1.5)


@pytest.mark.parametrize("change", [{"saturation": 0.4}, {"hue": 20}])
def test_colours_change_without_lightness(change: dict[str, float]) -> None:
    pixels = np.random.default_rng(0).integers(90, 160, (32, 32, 3), dtype=np.uint8)  # far from being cut off
    after = distort(np.random.default_rng(5), pixels, replace(NOTHING, **change))
    lightness = [0.299, 0.587, 0.114]
    np.testing.assert_allclose(after @ lightness, pixels @ lightness, atol=1.5)


def test_contrast_keeps_the_mean_brightness() -> None:
    pixels = np.random.default_rng(0).integers(90, 160, (32, 32, 3), dtype=np.uint8)
    after = distort(np.random.default_rng(1), pixels, replace(NOTHING, contrast=0.3))
    assert abs(after.std() / pixels.std() - 1) > 0.05
    assert abs(after.mean() - pixels.mean()) < 2


def test_jpeg_keeps_red_red() -> None:
    red = np.broadcast_to(np.array([220, 30, 60], np.uint8), (32, 32, 3))
    after = distort(np.random.default_rng(0), red, replace(NOTHING, jpeg=1))
    np.testing.assert_allclose(after.astype(int), red, atol=6)


def test_occlusion_covers_no_more_of_a_face_than_allowed(canvas: Canvas) -> None:
    settings = Occlusion(probability=1, most=0.4, smallest=1)
    one = replace(canvas, ignore=np.array([False, True, True]))
    x1, y1, x2, y2 = canvas.boxes[0]
    before = canvas.pixels.copy()
    shares = []
    for seed in range(40):
        after = occlude(np.random.default_rng(seed), one, settings)
        changed = (after.pixels != before).any(axis=2)
        shares.append(changed[int(y1) : int(y2), int(x1) : int(x2)].sum() / ((x2 - x1) * (y2 - y1)))
        assert changed.sum() <= 0.44 * (x2 - x1) * (y2 - y1)  # the edge takes in whole pixels
        assert after.boxes is one.boxes
        assert after.weights is one.weights
    assert max(shares) <= 0.44
    assert np.mean(shares) > 0.08
    np.testing.assert_array_equal(canvas.pixels, before)


def test_occlusion_leaves_small_and_ignored_faces(canvas: Canvas) -> None:
    rng = np.random.default_rng(0)
    assert occlude(rng, canvas, Occlusion(probability=0)) is canvas
    assert occlude(rng, canvas, Occlusion(probability=1, smallest=200)) is canvas
    assert occlude(rng, replace(canvas, ignore=np.ones(3, bool)), Occlusion(probability=1)) is not None
    np.testing.assert_array_equal(
        occlude(rng, replace(canvas, ignore=np.ones(3, bool)), Occlusion(probability=1)).pixels, canvas.pixels
    )


def test_a_canvas_without_faces_is_left_alone() -> None:
    empty = Canvas(
        np.zeros((8, 8, 3), np.uint8), np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros((0, 5)), np.zeros(0, bool)
    )
    assert occlude(np.random.default_rng(0), empty, Occlusion(probability=1)) is empty


def test_a_thing_at_the_edge_is_cut_off(canvas: Canvas) -> None:
    corner = replace(canvas, boxes=np.array([[-60, -60, 60, 60], [130, 130, 200, 190], [0, 0, 1, 1]], np.float32))
    for seed in range(20):
        after = occlude(np.random.default_rng(seed), corner, Occlusion(probability=1))
        assert after.pixels.shape == canvas.pixels.shape
