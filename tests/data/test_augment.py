"""Augmentation by light, quality and occlusion: the pixels that may change do, and no others."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cv2")

from lineament.data.augment import (
    TO_YIQ,
    Coarse,
    Light,
    Looks,
    Occlusion,
    Quality,
    blurred,
    coarsened,
    coarseness,
    covers,
    distort,
    looks,
    turn,
)
from lineament.data.canvases import Canvas, Labels
from lineament.data.sample import Sample
from scenes import scene

NO_LIGHT = Light(**{field.name: 0 for field in fields(Light)})
NO_LOSS = Quality(blur=0, motion=0, noise=0, jpeg=0, jpeg_quality=(90, 95))


def drawn(seed: int, n: int = 1, **changes: Any) -> Looks:
    """Random looks with these settings. All other settings change nothing."""
    light = {name: value for name, value in changes.items() if hasattr(NO_LIGHT, name)}
    quality = {name: value for name, value in changes.items() if name not in light}
    return looks(np.random.default_rng(seed), n, replace(NO_LIGHT, **light), replace(NO_LOSS, **quality))


def changed(pixels: np.ndarray, look: Looks) -> np.ndarray:
    """One image after the changes of one look."""
    (image,) = distort(pixels[None], look)
    return image


@pytest.fixture
def canvas() -> Canvas:
    picture, boxes, points = scene(0, width=160, height=160, faces=3)
    weights = np.ones((3, 5), np.float32)
    ignore = np.array([False, False, True])
    labels = Labels(boxes.astype(np.float32), points, weights, ignore, schema=np.zeros(3, int), outside=0)
    return Canvas(**vars(labels), pixels=np.asarray(picture))


def test_without_strength_nothing_changes(canvas: Canvas) -> None:
    np.testing.assert_array_equal(changed(canvas.pixels, drawn(0)), canvas.pixels)
    switched_off = looks(np.random.default_rng(0), 1, None, None)
    np.testing.assert_array_equal(changed(canvas.pixels, switched_off), canvas.pixels)


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
    after = changed(canvas.pixels, drawn(3, **change))
    np.testing.assert_array_equal(canvas.pixels, before)
    assert (after.shape, after.dtype) == (before.shape, np.uint8)
    assert (after != before).mean() > 0.1
    assert np.corrcoef(after.mean(axis=2).ravel(), before.mean(axis=2).ravel())[0, 1] > 0.9
    np.testing.assert_array_equal(after, changed(before, drawn(3, **change)))


def test_draws_fill_their_ranges() -> None:
    """Each setting is a symmetric range or a probability, and is drawn independently."""
    n = 4000
    light = Light(brightness=30, contrast=0.3, gamma=0.2, saturation=0.4, hue=20, tint=0.1, grey=0.25)
    quality = Quality(blur=0.5, blur_sigma=2, motion=0.3, motion_length=9, noise=0.2, noise_sigma=12, jpeg=0.6)
    found = looks(np.random.default_rng(0), n, light, replace(quality, jpeg_quality=(40, 60)))

    def fills(values: np.ndarray, low: float, high: float) -> None:
        margin = 0.02 * (high - low)
        assert low - 1e-9 <= values.min() <= low + margin
        assert high - margin <= values.max() <= high + 1e-9
        assert values.mean() == pytest.approx((low + high) / 2, abs=2 * margin)

    def share(values: np.ndarray, probability: float) -> None:
        assert (values > 0).mean() == pytest.approx(probability, abs=0.03)

    fills(found.brightness, -30, 30)
    fills(np.log(found.gamma), -0.2, 0.2)
    # in a grey look, the gains are only the contrast
    turned = TO_YIQ @ (found.colours / found.gains[:, :, None]) @ np.linalg.inv(TO_YIQ)
    strength, angle = np.hypot(turned[:, 1, 1], turned[:, 2, 1]), np.arctan2(turned[:, 2, 1], turned[:, 1, 1])
    grey = strength < 1e-9
    share(grey, 0.25)
    fills(found.gains[grey].mean(axis=1), 0.7, 1.3)
    assert np.ptp(found.gains[grey], axis=1).max() < 1e-9
    fills(strength[~grey], 0.6, 1.4)
    fills(np.rad2deg(angle[~grey]), -20, 20)
    tint = found.gains[~grey] / found.gains[~grey].mean(axis=1, keepdims=True) - 1
    assert 0.09 < np.abs(tint).max() < 0.15
    assert np.abs(np.corrcoef(tint.T)[0, 1] + 0.5) < 0.1  # the deviation of each channel from their mean
    np.testing.assert_allclose(turned[:, 0], np.broadcast_to([1, 0, 0], (n, 3)), atol=1e-9)
    np.testing.assert_allclose(turned[:, [1, 2], [2, 1]].sum(axis=1), 0, atol=1e-9)  # a rotation, no reflection
    for values, probability, low, high in (
        (found.blur, 0.5, 0.3, 2),
        (found.motion[:, 0], 0.3, 2, 9),
        (found.noise, 0.2, 1, 12),
        (found.quality, 0.6, 40, 60),
    ):
        share(values, probability)
        fills(values[values > 0], low, high)
    fills(found.motion[found.motion[:, 0] > 0, 1], 0, np.pi)
    assert len(np.unique(found.seed)) == n


def test_dark_images_have_a_larger_exponent_and_noise() -> None:
    light = Light(gamma=0, dark=0.3, dark_gamma=(2, 4), dark_noise=20)
    found = looks(np.random.default_rng(0), 2000, light, NO_LOSS)
    dark = found.gamma > 1
    assert dark.mean() == pytest.approx(0.3, abs=0.04)
    np.testing.assert_array_equal(dark, found.noise > 0)
    assert found.gamma[dark].min() == pytest.approx(2, abs=0.03)
    assert found.gamma[dark].max() == pytest.approx(4, abs=0.03)
    assert found.noise.max() == pytest.approx(20, abs=0.2)


def test_light_by_hand() -> None:
    """Brightness shifts, contrast scales around the mean grey, and gamma is an exponent of the share of white."""
    pixels = np.full((4, 4, 3), 100, np.uint8)
    pixels[:2] = 140  # a mean of 120
    plain = drawn(0)
    brighter = replace(plain, brightness=np.array([25.0]))
    assert np.unique(changed(pixels, brighter)).tolist() == [125, 165]
    gains = np.full((1, 3), 1.5)
    spread = replace(plain, gains=gains, colours=gains[:, :, None] * plain.colours)
    assert np.unique(changed(pixels, spread)).tolist() == [90, 150]
    darker = replace(plain, gamma=np.array([2.0]))
    assert np.unique(changed(pixels, darker)).tolist() == [39, 77]


@pytest.mark.parametrize("degrees", [0, 45, 90, 150])
def test_motion_is_a_line_as_long_and_steep_as_drawn(degrees: float) -> None:
    point = np.zeros((41, 41), np.float32)
    point[20, 20] = 1
    motion = np.array([[12.0, np.deg2rad(degrees)]])
    line = blurred(point, replace(drawn(0), motion=motion), 0)
    assert line.sum() == pytest.approx(1, abs=1e-5)
    rows, columns = np.nonzero(line > line.max() / 4)
    assert np.hypot(np.ptp(rows), np.ptp(columns)) == pytest.approx(12, abs=2)
    spread = line * ((np.mgrid[:41, :41] - 20) * [[[np.cos(motion[0, 1])]], [[-np.sin(motion[0, 1])]]]).sum(0) ** 2
    assert spread.sum() < 0.4  # of the squared distance from that line


def test_turning_moves_pixels_and_points_alike() -> None:
    _, _, points = scene(3, faces=1)
    image = np.zeros((121, 161, 3), np.uint8)
    x, y = points[0, 0].astype(int)
    image[y - 2 : y + 3, x - 2 : x + 3] = 255
    sample = Sample.of("x.png", [[0, 0, 161, 121]], np.array([[[x + 0.5, y + 0.5]] * 5]), size=(161, 121))
    for degrees in (-30, 20, 90):
        pixels, turned = turn(image, sample, degrees)
        rows, columns = np.nonzero(pixels[..., 0] > 128)
        assert np.hypot(*(turned.landmarks[0, 0] - [columns.mean() + 0.5, rows.mean() + 0.5])) < 0.7
        assert len(rows) == pytest.approx(25, abs=4)
        np.testing.assert_allclose(turned.boxes, sample.boxes, atol=1e-4)  # about the centre and of the same size


def test_all_together_stay_in_range(canvas: Canvas) -> None:
    light, quality = Light(grey=0.5, brightness=200, contrast=0.9), Quality(blur=1, motion=1, noise=1, jpeg=1)
    images = np.stack([canvas.pixels] * 10)
    after = distort(images, looks(np.random.default_rng(0), 10, light, quality))
    assert (after.shape, after.dtype) == (images.shape, np.uint8)


def test_images_of_a_batch_change_each_by_its_own_look(canvas: Canvas) -> None:
    images = np.stack([canvas.pixels, canvas.pixels[:, ::-1], canvas.pixels])
    look = looks(np.random.default_rng(1), 3, Light(), Quality(blur=0.5, motion=0.5, noise=0.5, jpeg=0.5))
    together = distort(images, look)
    for i in range(3):
        np.testing.assert_array_equal(changed(images[i], look[[i]]), together[i])
    assert (together[0] != together[2]).mean() > 0.5
    joined = Looks.joined([look[:1], look[1:]])
    assert all((getattr(joined, field.name) == getattr(look, field.name)).all() for field in fields(Looks))


def test_grey_has_no_colour_and_keeps_lightness(canvas: Canvas) -> None:
    after = changed(canvas.pixels, drawn(0, grey=1, hue=12, tint=0.1)).astype(float)
    assert np.ptp(after, axis=2).max() <= 1
    np.testing.assert_allclose(after[..., 0], canvas.pixels @ [0.299, 0.587, 0.114], atol=1.5)


@pytest.mark.parametrize("change", [{"saturation": 0.4}, {"hue": 20}])
def test_colours_change_without_lightness(change: dict[str, float]) -> None:
    pixels = np.random.default_rng(0).integers(90, 160, (32, 32, 3), dtype=np.uint8)  # far from being cut off
    after = changed(pixels, drawn(5, **change))
    lightness = [0.299, 0.587, 0.114]
    np.testing.assert_allclose(after @ lightness, pixels @ lightness, atol=1.5)


def test_contrast_keeps_the_mean_brightness() -> None:
    pixels = np.random.default_rng(0).integers(90, 160, (32, 32, 3), dtype=np.uint8)
    after = changed(pixels, drawn(1, contrast=0.3))
    assert abs(after.std() / pixels.std() - 1) > 0.05
    assert abs(after.mean() - pixels.mean()) < 2


def test_jpeg_keeps_red_red() -> None:
    red = np.broadcast_to(np.array([220, 30, 60], np.uint8), (32, 32, 3))
    after = changed(red, drawn(0, jpeg=1))
    np.testing.assert_allclose(after.astype(int), red, atol=6)


def covered(seed: int, canvas: Canvas, settings: Occlusion) -> np.ndarray:
    """The pixels of a canvas with occluded faces."""
    pixels = canvas.pixels.copy()
    for cover in covers(np.random.default_rng(seed), canvas, pixels.shape[1::-1], settings):
        cover.onto(pixels)
    return pixels


@pytest.mark.parametrize("hands", [0, 1])
def test_covers_hide_no_more_of_a_face_than_allowed(canvas: Canvas, hands: float) -> None:
    settings = Occlusion(probability=1, most=0.4, smallest=1, hands=hands)
    one = replace(canvas, ignore=np.array([False, True, True]))
    x1, y1, x2, y2 = canvas.boxes[0]
    shares = []
    for seed in range(40):
        changed = (covered(seed, one, settings) != canvas.pixels).any(axis=2)
        shares.append(changed[int(y1) : int(y2), int(x1) : int(x2)].sum() / ((x2 - x1) * (y2 - y1)))
        assert changed.sum() <= (0.46 if hands else 0.44) * (x2 - x1) * (y2 - y1)  # the edge includes whole pixels
    assert max(shares) <= (0.46 if hands else 0.44)
    assert np.mean(shares) > 0.08


def test_small_and_ignored_faces_stay_uncovered(canvas: Canvas) -> None:
    ignored = replace(canvas, ignore=np.ones(3, bool))
    for of, settings in (
        (canvas, Occlusion(probability=0)),
        (canvas, Occlusion(probability=1, smallest=200)),
        (ignored, Occlusion(probability=1)),
    ):
        assert covers(np.random.default_rng(0), of, (160, 160), settings) == []
    assert len(covers(np.random.default_rng(0), canvas, (160, 160), Occlusion(probability=1))) == 2


def test_without_faces_nothing_is_covered() -> None:
    none = np.zeros(0, int)
    empty = Labels(np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros((0, 5)), none.astype(bool), schema=none, outside=0)
    assert covers(np.random.default_rng(0), empty, (8, 8), Occlusion(probability=1)) == []


def test_a_thing_at_the_edge_is_cut_off(canvas: Canvas) -> None:
    corner = replace(canvas, boxes=np.array([[-60, -60, 60, 60], [130, 130, 200, 190], [0, 0, 1, 1]], np.float32))
    sizes = set()
    for seed in range(20):
        for cover in covers(np.random.default_rng(seed), corner, (160, 160), Occlusion(probability=1)):
            assert min(cover.left, cover.top) >= 0
            assert cover.left + cover.mask.shape[1] <= 160
            assert cover.top + cover.mask.shape[0] <= 160
            assert cover.fill.shape == (*cover.mask.shape, 3)
            sizes.add(cover.mask.shape)
    assert len(sizes) > 10


def test_things_are_as_large_and_as_varied_as_drawn(canvas: Canvas) -> None:
    face = replace(
        canvas, boxes=np.array([[40, 30, 120, 130]], np.float32), ignore=np.zeros(1, bool), schema=np.zeros(1, int)
    )
    things = [covers(np.random.default_rng(s), face, (160, 160), Occlusion(1, 0.4, 1))[0] for s in range(300)]
    shares = np.array([thing.mask.sum() for thing in things if thing.left > 0 and thing.top > 0]) / 8000
    assert 0.07 < shares.min() < 0.11
    assert shares.max() > 0.33
    filled = [thing.mask.any(axis=0).sum() * thing.mask.any(axis=1).sum() for thing in things]
    stretch = [np.log(thing.mask.any(axis=0).sum() / thing.mask.any(axis=1).sum()) for thing in things]
    assert min(stretch) < -0.8
    assert max(stretch) > 0.8
    assert len(set(filled)) > 100
    centres = np.array([[t.left + t.mask.shape[1] / 2, t.top + t.mask.shape[0] / 2] for t in things])
    assert np.ptp(centres, axis=0).min() > 60
    plain = np.array([np.ptp(thing.fill, axis=(0, 1)).max() == 0 for thing in things])
    assert plain.mean() == pytest.approx(0.2, abs=0.08)  # of one colour


def test_how_coarse_images_are_is_drawn() -> None:
    shares = coarseness(np.random.default_rng(0), 4000, Coarse(probability=0.3, least=0.2, most=0.6))
    assert (shares < 1).mean() == pytest.approx(0.3, abs=0.03)
    assert 0.2 <= shares.min() < 0.21
    assert 0.59 < shares[shares < 1].max() <= 0.6


def test_coarse_images_lose_detail_and_keep_their_place() -> None:
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 256, (40, 48, 48, 3), dtype=np.uint8)
    assert (coarsened(fine, coarseness(rng, 40, None)) == fine).all()
    assert (coarsened(fine, coarseness(rng, 40, Coarse(probability=0))) == fine).all()
    always = coarseness(rng, 40, Coarse(probability=1))
    detail = np.diff(coarsened(fine, always).astype(float), axis=2).std(axis=(1, 2, 3))
    assert (detail < np.diff(fine.astype(float), axis=2).std() / 1.5).all()
    halves = np.zeros((40, 48, 48, 3), np.uint8)
    halves[:, :, 24:] = 255
    blurred = coarsened(halves, always).mean(axis=(1, 3))
    np.testing.assert_allclose(blurred + blurred[:, ::-1], 255, atol=3)
