"""Views: coordinates convert to any view and back, mirrored or not. Batches contain every view once."""

from __future__ import annotations

import numpy as np
import pytest

from lineament import boxes as box_ops
from lineament import views
from lineament.schemas import FIVE
from lineament.views import View, Views

RNG = np.random.default_rng(0)


def shown(image: np.ndarray) -> list[View]:
    """Every kind of view of an image."""
    whole = views.whole(0, image, 96, margin=0.1, multiple=8)
    straight = [
        whole,
        views.overview(whole, 70, multiple=8),
        views.whole(0, image, 200),
        *views.tiles(0, image, 100, overlap=0.5, multiple=32),
    ]
    return [*straight, *map(views.mirrored, straight)]


@pytest.mark.parametrize("shape", [(120, 160), (150, 90)])
def test_points_and_boxes_go_to_a_view_and_back(shape: tuple[int, int]) -> None:
    """A dot is drawn into the image, located in the view's pixels, and converted back."""
    h, w = shape
    ys, xs = np.indices(shape) + 0.5
    place = np.array([0.53 * w, 0.47 * h])  # in every tile
    image = np.zeros((*shape, 3), np.uint8)
    image[np.hypot(xs - place[0], ys - place[1]) < 5] = 255
    every = Views(shown(image))
    assert len(every.views) >= 10
    for number, view in enumerate(every.views):
        amount = view.pixels[..., 0].astype(float)
        ys, xs = np.indices(amount.shape) + 0.5
        there = np.array([(amount * xs).sum(), (amount * ys).sum()]) / amount.sum()
        of = np.array([number])
        points = every.points(np.tile(there, (1, 5, 1)), of, FIVE)
        np.testing.assert_allclose(points, np.tile(place, (1, 5, 1)), atol=0.3)
        (box,) = every.boxes((there + np.array([[-3, -5], [4, 6]])).reshape(1, 4), of)
        ahead = [-4, -5] if view.mirrored else [-3, -5]
        np.testing.assert_allclose(box[:2], place + np.array(ahead) / view.scale, atol=0.3)
        np.testing.assert_allclose(box[2:] - box[:2], np.array([7, 11]) / view.scale)


def test_a_mirror_swaps_landmarks_and_what_is_known_of_them() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    straight = View(3, image, 1.0, np.zeros(2))
    both = Views([straight, views.mirrored(straight)])
    points, scores = RNG.uniform(0, 40, (2, 5, 2)), RNG.random((2, 5))
    of = np.array([0, 1])
    found = both.points(points, of, FIVE)
    np.testing.assert_array_equal(found[0], points[0])
    right_eye, left_eye = 0, 1
    np.testing.assert_allclose(found[1, right_eye], [60 - points[1, left_eye, 0], points[1, left_eye, 1]])
    np.testing.assert_array_equal(both.each(scores, of, FIVE), [scores[0], scores[1][[1, 0, 2, 4, 3]]])
    box = np.array([[1.0, 2, 11, 22]] * 2)
    np.testing.assert_array_equal(both.boxes(box, of), [box[0], box_ops.mirror(box[1], 60)])
    assert both.image.tolist() == [3, 3]


def test_batches_hold_every_view_once_by_shape_and_bounded() -> None:
    sizes = [(8, 8), (16, 8), (8, 8), (8, 8), (16, 8), (40, 40)]
    every = Views(View(i, np.full((*size, 3), i, np.uint8), 1.0, np.zeros(2)) for i, size in enumerate(sizes))
    batches = list(every.batches(2 * 8 * 8))
    assert sorted(n for numbers, _ in batches for n in numbers) == list(range(6))
    for numbers, pixels in batches:
        assert pixels[:, 0, 0, 0].tolist() == numbers.tolist()
        assert pixels.shape[0] * pixels.shape[1] * pixels.shape[2] <= 128 or len(numbers) == 1
    assert [len(numbers) for numbers, _ in batches] == [2, 1, 1, 1, 1]


def test_faces_count_in_their_own_views() -> None:
    view = View(0, np.zeros((8, 8, 3), np.uint8), 1.0, np.zeros(2), smallest=10, largest=20)
    free = View(0, view.pixels, 1.0, np.zeros(2))
    boxes = np.array([[0, 0, side, side / 2] for side in (9.9, 10, 20, 20.1)])
    assert Views([view, free]).counts(boxes, np.zeros(4, int)).tolist() == [False, True, True, False]
    assert Views([view, free]).counts(boxes, np.ones(4, int)).all()


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_a_face_counts_in_one_tile_and_whole_if_it_is_no_larger_than_the_overlap(overlap: float, mirror: bool) -> None:
    width, height, side = 700, 300, 256
    tiles = list(views.tiles(0, np.zeros((height, width, 3), np.uint8), side, overlap=overlap))
    shown = Views(map(views.mirrored, tiles) if mirror else tiles)
    y, x = np.mgrid[2:height:7, 2:width:7]
    half = min(overlap * side / 2, 30)
    boxes = np.stack([x - half, y - half, x + half, y + half], axis=-1).reshape(-1, 4)
    inside = ((boxes[:, :2] >= 0) & (boxes[:, 2:] <= [width, height])).all(axis=1)
    in_tile = np.stack([boxes - np.tile(tile.corner, 2) for tile in tiles])
    in_view = box_ops.mirror(in_tile, side) if mirror else in_tile
    counted = shown.counts(in_view, np.arange(len(tiles))[:, None])
    assert (counted.sum(axis=0) == 1).all()
    assert ((in_tile[counted & inside] >= 0) & (in_tile[counted & inside] <= side)).all()


def test_no_view_is_no_batch() -> None:
    none = Views([])
    assert list(none.batches(100)) == []
    assert none.boxes(np.empty((0, 4)), np.empty(0, int)).shape == (0, 4)
    assert none.points(np.empty((0, 5, 2)), np.empty(0, int), FIVE).shape == (0, 5, 2)


@pytest.mark.parametrize(
    "shape", [(300, 500), (500, 300), (256, 256), (97, 1001), (1, 5000), (5000, 1), (1, 1), (12, 12)]
)
def test_a_whole_view_keeps_one_scale_for_both_axes(shape: tuple[int, int]) -> None:
    h, w = shape
    ramp = np.zeros((h, w, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 250, w) if w > 1 else 0
    ramp[..., 1] = np.linspace(0, 250, h)[:, None] if h > 1 else 0
    ramp[..., 2] = 255
    view = views.whole(0, ramp, 256, multiple=256)
    canvas, scale = view.pixels, view.scale
    assert (canvas.shape, canvas.dtype) == ((256, 256, 3), np.uint8)
    assert scale == 256 / max(h, w)
    filled = canvas[..., 2] == 255
    assert filled[0, 0]
    assert filled.any(1).sum() == max(1, int(h * scale + 1e-9))
    assert filled.any(0).sum() == max(1, int(w * scale + 1e-9))
    if min(h, w) > 100:  # the ramps encode the origin of each pixel's centre
        y, x = 100, 120
        assert canvas[y, x, 0] == pytest.approx((x + 0.5) / scale / w * 250, abs=1.5)
        assert canvas[y, x, 1] == pytest.approx((y + 0.5) / scale / h * 250, abs=1.5)
