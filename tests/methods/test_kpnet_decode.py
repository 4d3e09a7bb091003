"""KPNet's decoding without a network: its views, and the faces it makes of given outputs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

from lineament import boxes as box_ops
from lineament.conventions import convention, fit
from lineament.errors import OptionError
from lineament.methods.kpnet.decode import LOGITS, REFINEMENT, Config, KPNetDecoder, evidence, refined
from lineament.views import View
from proposals import Fake, bare, face_row, told
from scenes import POINTS

Array = np.ndarray


SIZES = [64, 256, 384, 512, 640]
SHAPES = [(480, 640), (500, 333), (37, 211), (300, 300)]


def views_of(image: Array, **settings: Any) -> list[View]:
    return list(KPNetDecoder(told(), bare(**settings)).views(0, image))


def dots(shape: tuple[int, int], size: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """Black images with one soft white dot of some pixels at the network's size, and its position."""
    h, w = shape
    radius = max(3, 4 * max(shape) / size)
    rng = np.random.default_rng(seed)
    ys, xs = np.indices(shape) + 0.5
    for _ in range(3):
        place = rng.uniform(radius + 1, np.array([w, h]) - radius - 1)
        amount = np.clip(radius + 0.5 - np.hypot(xs - place[0], ys - place[1]), 0, 1)
        yield np.repeat((255 * amount).round().astype(np.uint8)[..., None], 3, axis=2), place


@pytest.mark.parametrize("margin", [0.0, 0.07])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_places_go_to_a_view_and_back(shape: tuple[int, int], size: int, margin: float) -> None:
    for image, place in dots(shape, size, seed=size):
        for v in views_of(image, input_size=size, margin=margin):
            assert v.pixels.shape[0] % 8 == v.pixels.shape[1] % 8 == 0
            amount = v.pixels[..., 0].astype(float)
            ys, xs = np.indices(amount.shape) + 0.5
            there = np.array([(amount * xs).sum(), (amount * ys).sum()]) / amount.sum()
            np.testing.assert_allclose(there / v.scale + v.corner, place, atol=0.15 / v.scale)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_views_are_black_where_the_image_ends(shape: tuple[int, int], size: int) -> None:
    margin = 0.1
    views = views_of(np.full((*shape, 3), 255, np.uint8), input_size=size, margin=margin, overview=False)
    assert [max(v.pixels.shape) for v in views] == [size]
    for v in views:
        white = (v.pixels == 255).all(axis=2)
        assert (white | (v.pixels == 0).all(axis=2)).all()
        rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
        assert white[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        # Without the margin, the longer edge of the image fills the view. Its corner lies where the view puts it.
        longest = max(white.shape)
        assert abs(max(len(rows), len(columns)) - longest * (1 - 2 * margin)) <= 1
        np.testing.assert_allclose([columns[0], rows[0]], -v.corner * v.scale, atol=1e-6)
        np.testing.assert_allclose(len(rows) / len(columns), shape[0] / shape[1], rtol=2 / min(len(rows), len(columns)))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("shape", [(700, 1000), (1400, 200), (513, 512), (900, 512)])
def test_tiles_cover_a_image_and_overlap(shape: tuple[int, int], overlap: float) -> None:
    image = np.random.default_rng(0).integers(1, 256, (*shape, 3), dtype=np.uint8)
    side = 512
    whole = views_of(image, input_size=side)
    tiles = views_of(image, input_size=side, tiles=True, overlap=overlap)[len(whole) :]
    seen = np.zeros(shape, int)
    for tile in tiles:
        assert tile.scale == 1
        x, y = tile.corner.astype(int)
        part = image[y : y + side, x : x + side]
        np.testing.assert_array_equal(tile.pixels[: part.shape[0], : part.shape[1]], part)
        assert tile.pixels.sum(dtype=int) == part.sum(dtype=int)  # black beyond
        seen[y : y + side, x : x + side] += 1
    assert seen.min() == 1
    for axis, length in ((0, shape[1]), (1, shape[0])):
        starts = sorted({int(tile.corner[axis]) for tile in tiles})
        assert starts[0] == 0
        assert starts[-1] == max(length - side, 0)
        assert all(b - a <= side * (1 - overlap) + 1 for a, b in pairwise(starts))


@pytest.mark.parametrize(("size", "overlap"), [(640, 0.25), (384, 0.25), (384, 0.5), (384, 0.0)])
def test_the_whole_image_leaves_small_faces_to_the_tiles(size: int, overlap: float) -> None:
    settings = {"input_size": size, "overlap": overlap}
    image = np.zeros((2400, 3200, 3), np.uint8)
    views = views_of(image, tiles=True, **settings)
    tiles, others = ([v for v in views if (v.scale == 1) is tile] for tile in (True, False))
    for side in np.geomspace(2, 2400, 200):  # in pixels of the image
        in_tiles = side <= min(overlap * size, tiles[0].largest)  # whole in one of them, wherever the face is
        in_others = any(v.smallest <= side * v.scale <= v.largest for v in others)
        assert in_tiles or in_others
        assert not (in_others and side < 0.75 * min(overlap * size, tiles[0].largest))
    assert min(v.smallest for v in views_of(image, **settings)) == 0


def test_small_images_have_no_tiles() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    assert len(views_of(image, input_size=512, tiles=True)) == len(views_of(image, input_size=512)) == 2


# From proposals to faces


def seen_square(pixels: Array) -> dict[str, Any]:
    """The white square in a view, to a fraction of a pixel."""
    amount = pixels[..., 0] / 255
    if amount.max() == 0:
        return face_row(np.array([0, 0, 9]), logit=-99)
    columns, rows = amount.max(axis=0), amount.max(axis=1)
    side = (columns.sum() + rows.sum()) / 2
    centre = [(line * (np.arange(len(line)) + 0.5)).sum() / line.sum() for line in (columns, rows)]
    return face_row(np.array([*(np.array(centre) - side / 2), side]), logit=side / 50 - 1)


@pytest.mark.parametrize(
    "settings",
    [*({"input_size": s} for s in SIZES), {"margin": 0.2}, {"input_size": 384, "margin": 0.05, "tiles": True}],
)
def test_faces_lie_where_the_image_shows_them(settings: dict[str, Any]) -> None:
    images = [np.zeros((h, w, 3), np.uint8) for h, w in ((480, 640), (900, 500), (240, 240))]
    squares = np.array([[300, 200, 120], [60, 700, 100], [90, 30, 80]])
    for image, (x, y, side) in zip(images, squares, strict=True):
        image[y : y + side, x : x + side] = 255
    decoder = KPNetDecoder(Fake(seen_square), bare(**settings, convention="square", proposal=1.0))
    for faces, (x, y, side) in zip(decoder(images, threshold=0.1, min_face=1, max_face=None), squares, strict=True):
        finest = 64 / 900 if settings.get("input_size") == 64 else 0.2
        np.testing.assert_allclose(faces.boxes[0], [x, y, x + side, y + side], atol=0.5 / finest)
        np.testing.assert_allclose(faces.landmarks[0], POINTS * side + [x, y], atol=0.5 / finest)


def test_pyramid_and_flip_are_further_views_whose_faces_count() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    usual = views_of(image, input_size=400, overview=False)
    several = views_of(image, input_size=400, overview=False, pyramid=(0.5, 2), flip=True)
    assert [v.pixels.shape[1] for v in usual] == [400]
    assert [(v.pixels.shape[1], v.mirrored) for v in several] == [
        (400, False), (200, False), (800, False), (400, True), (200, True), (800, True)
    ]  # fmt: skip
    image[100:180, 50:130] = 255
    settings = {"input_size": 400, "overview": False, "convention": "square", "proposal": 1.0, "nms": 1.0}
    decoder = KPNetDecoder(Fake(seen_square), bare(**settings, pyramid=(0.5, 2), flip=True))
    found = decoder.propose([image])
    assert len(found) == 6
    np.testing.assert_allclose(found.boxes, np.tile([50, 100, 130, 180], (6, 1)), atol=2)
    np.testing.assert_allclose(found.landmarks[:3], np.tile(POINTS * 80 + [50, 100], (3, 1, 1)), atol=2)
    np.testing.assert_allclose(found.landmarks[3:, 0, 0], 180 - found.landmarks[:3, 1, 0], atol=2)
    (faces,) = decoder([image], threshold=0.1, min_face=1, max_face=None)
    single = KPNetDecoder(Fake(seen_square), bare(**settings))
    (one,) = single([image], threshold=0.1, min_face=1, max_face=None)
    assert (len(faces), len(one)) == (6, 1)  # nms=1 keeps what every view shows
    voting = KPNetDecoder(Fake(seen_square), bare(**settings | {"nms": 0.5}, flip=True, voting=0.5))
    (voted,) = voting([image], threshold=0.1, min_face=1, max_face=None)
    np.testing.assert_allclose(voted.boxes, [[50, 100, 130, 180]], atol=0.5)


def test_large_faces_count_in_the_overview_alone() -> None:
    shown = views_of(np.zeros((300, 400, 3), np.uint8), input_size=400, pyramid=(0.5, 2))
    assert [view.pixels.shape[1] for view in shown] == [400, 200, 800, 152]
    assert [view.largest for view in shown] == [96, 96, 96, np.inf]
    assert shown[-1].smallest == pytest.approx(0.8 * 96 * 150 / 400)


SQUARE = np.array([40.0, 60, 80])


def alone(config: Config, *rows: dict[str, Any], **options: Any) -> Any:
    """The decoded faces of proposals in a view that equals its image."""
    (faces,) = KPNetDecoder(told(*rows), config)(
        [np.zeros((128, 128, 3), np.uint8)], **{"threshold": 0, "min_face": 1, "max_face": None, **options}
    )
    return faces


@pytest.mark.parametrize("name", ["wider", "square", "fddb-ellipse"])
def test_boxes_follow_the_convention(name: str) -> None:
    points = (POINTS * SQUARE[2] + SQUARE[:2])[None]
    (inferred,), (expected,) = convention(name).boxes(points), convention("wider").boxes(points)
    np.testing.assert_allclose(alone(bare(convention=name), face_row(SQUARE, 2)).boxes[0], inferred, atol=1e-3)
    # A proposal that agrees with the landmarks changes nothing, whatever the convention.
    longer = (expected[2:] - expected[:2]).max()
    agreed = face_row(SQUARE, 2) | {"centre": [(expected[:2] + expected[2:]) / 2], "side": [longer]}
    np.testing.assert_allclose(alone(bare(convention=name, proposal=0.7), agreed).boxes[0], inferred, atol=1e-3)
    # A shifted and larger proposal changes the box by its share. The aspect ratio stays.
    agreed["centre"] = [agreed["centre"][0] + [6, -4]]
    agreed["side"] = [longer * 1.5]
    half = (inferred[2:] - inferred[:2]) / 2 * 1.25
    centre = (inferred[:2] + inferred[2:]) / 2 + [3, -2]
    wanted = [*(centre - half), *(centre + half)]
    np.testing.assert_allclose(alone(bare(convention=name, proposal=0.5), agreed).boxes[0], wanted, atol=1e-3)


def a_refinement() -> Array:
    """Coefficients that treat mirrored faces alike."""
    drawn = np.random.default_rng(0).normal(0, 0.05, REFINEMENT)
    drawn[:, 1:, 0] = drawn[:, 0, 1:] = 0
    return drawn


@pytest.mark.parametrize("name", ["wider", "square", "fddb-ellipse"])
def test_refined_boxes_are_what_the_coefficients_say(name: str) -> None:
    row, given = face_row(SQUARE, 1.2, (0.6, 0.3, 0.15)), a_refinement()
    decoder = KPNetDecoder(told(row), bare(refinement=given.tolist(), convention=name))
    found = decoder.propose([np.zeros((128, 128, 3), np.uint8)])
    points = (POINTS * SQUARE[2] + SQUARE[:2])[None]
    (expected,), (x, y, side), (speaks,) = convention("wider").boxes(points), SQUARE, found.evidence
    x1, y1, x2, y2 = expected
    told_by_landmarks = [
        ((x1 + x2) / 2 - x - side / 2) / side,
        ((y1 + y2) / 2 - y - side / 2) / side,
        np.log((x2 - x1) / side),
        np.log((y2 - y1) / side),
        1.0,
    ]
    dx, dy, dw, dh = (
        sum(speaks[e] * told_by_landmarks[t] * given[e, t, o] for e, t in product(range(6), range(5))) for o in range(4)
    )
    middle = np.array([x + side / 2 + dx * side, y + side / 2 + dy * side])
    half = side * np.exp([dw, dh]) / 2
    if name == "square":
        half[:] = half.max()
    if name == "fddb-ellipse":  # the square differs from the refined box as it does from the learned convention's box
        (inferred,) = convention(name).boxes(points)
        middle += (inferred[:2] + inferred[2:] - expected[:2] - expected[2:]) / 2
        half *= (inferred[2:] - inferred[:2]) / (expected[2:] - expected[:2])
    np.testing.assert_allclose(found.boxes[0], [*(middle - half), *(middle + half)], atol=1e-4)


@pytest.mark.parametrize("name", ["wider", "square", "fddb-ellipse"])
def test_learned_boxes_are_those_of_the_file(name: str) -> None:
    """Of another convention: moved and resized as the file's box differs from the learned convention's."""
    points = (POINTS * SQUARE[2] + SQUARE[:2])[None]
    (inferred,), (expected,) = convention(name).boxes(points), convention("wider").boxes(points)
    row = face_row(SQUARE, 2) | {"box": [expected + np.array([-2, 1, 4, 5])]}
    middle = (inferred[:2] + inferred[2:]) / 2 + [1, 3]
    half = (inferred[2:] - inferred[:2]) / 2 * (1 + [6, 4] / (expected[2:] - expected[:2]))
    if name == "square":
        middle, half = (expected[:2] + expected[2:]) / 2 + [1, 3], (expected[2:] - expected[:2] + [6, 4]).max() / 2
    found = alone(bare(convention=name, boxes="learned", refinement=a_refinement().tolist()), row)
    np.testing.assert_allclose(found.boxes[0], [*(middle - half), *(middle + half)], atol=1e-3)
    (without,) = alone(bare(convention=name), row).boxes
    np.testing.assert_array_equal(without, alone(bare(convention=name), face_row(SQUARE, 2)).boxes[0])


def test_boxes_that_were_not_learned_are_refused() -> None:
    with pytest.raises(OptionError, match="no learned boxes; boxes='inferred'"):
        KPNetDecoder(told(face_row(SQUARE, 2)), bare(boxes="learned"))


def test_mirrored_faces_have_mirrored_boxes() -> None:
    rng = np.random.default_rng(2)
    expected = rng.uniform([0, 0, 40, 50], [20, 20, 60, 70], (9, 4))
    squares = box_ops.square(expected + rng.normal(0, 3, (9, 4)))
    speaks = rng.normal(0, 1, (9, 6))
    mirrored = refined(box_ops.mirror(expected, 100), box_ops.mirror(squares, 100), speaks, a_refinement())
    np.testing.assert_allclose(mirrored, box_ops.mirror(refined(expected, squares, speaks, a_refinement()), 100))


@pytest.mark.parametrize("refinement", [None, a_refinement().tolist()])
def test_landmarks_on_one_spot_are_no_face(refinement: Any) -> None:
    spot = face_row(SQUARE, 2) | {"landmarks": [np.full((5, 2), 70.0)]}
    faces = alone(bare(proposal=0.5, refinement=refinement), spot, face_row(SQUARE - [30, 50, 40], 2))
    assert len(faces) == 1
    assert np.isfinite(faces.boxes).all()


def test_the_square_of_a_proposal_alone() -> None:
    faces = alone(bare(convention="square", proposal=1), face_row(SQUARE, 2))
    np.testing.assert_allclose(faces.boxes[0], [40, 60, 120, 140], atol=1e-3)


def test_a_fitted_convention_goes_in_as_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    points = POINTS * 50 + rng.normal(0, 1, (40, 5, 2)) + rng.uniform(0, 100, (40, 1, 2))
    mine = fit(points, np.concatenate([points[:, 2] - 40, points[:, 2] + 40], axis=1))
    faces = alone(bare(convention=json.loads(json.dumps(mine.to_dict()))), face_row(SQUARE, 2))
    wanted = mine.boxes((POINTS * SQUARE[2] + SQUARE[:2])[None])[0]
    np.testing.assert_allclose(faces.boxes[0], wanted, atol=0.05)
    assert np.abs(wanted - alone(bare(), face_row(SQUARE, 2)).boxes[0]).max() > 5


def test_scores_are_equation_8_over_its_largest_value() -> None:
    shares = (0.6, 0.3, 0.15)
    row = face_row(SQUARE, 1.2, shares)
    probability = 1 / (1 + math.exp(-1.2))
    assert alone(bare(), row).scores[0] == pytest.approx((probability + sum(shares)) / 4, abs=1e-6)


def test_scores_are_the_sigmoid_of_weighted_evidence() -> None:
    shares = (0.6, 0.3, 0.15)
    row = face_row(SQUARE, 1.2, shares)
    inferred = convention("wider").boxes((POINTS * SQUARE[2] + SQUARE[:2])[None])[0]
    square = np.array([*SQUARE[:2], *(SQUARE[:2] + SQUARE[2])])
    agreement = float(box_ops.iou(box_ops.square(inferred[None]), square[None])[0, 0])
    seen = [1.2, math.log2(SQUARE[2] / 32), math.log(agreement + 0.05), math.log(0.35 + 1e-3), math.log(0.151), 1]
    for weights in np.eye(6), np.full((1, 6), 0.3):
        for weight in weights:
            score = alone(bare(evidence=tuple(weight)), row).scores[0]
            assert score == pytest.approx(1 / (1 + math.exp(-float(np.dot(weight, seen)))), abs=1e-5)


def test_landmark_scores_are_peaks_or_the_sigmoid_of_weighted_evidence() -> None:
    peaks = (0.6, 0.3, 0.15, 0.7, 0.02)
    row = face_row(SQUARE, 1.2, peaks)
    np.testing.assert_allclose(alone(bare(), row).landmark_scores, [peaks], rtol=1e-6)
    a, b, c = 0.8, -0.5, 1.5
    speaks = a * np.log(np.array(peaks) + 1e-3) + b * math.log2(SQUARE[2] / 32) + c
    found = alone(bare(landmark_evidence=(a, b, c)), row)
    np.testing.assert_allclose(found.landmark_scores, [1 / (1 + np.exp(-speaks))], rtol=1e-5)
    # equation 8 counts the eyes and the nose
    assert found.scores[0] == pytest.approx((1 / (1 + math.exp(-1.2)) + sum(peaks[:3])) / 4)


def test_landmark_scores_of_a_mirrored_view_change_places() -> None:
    peaks = (0.6, 0.3, 0.15, 0.7, 0.02)
    decoder = KPNetDecoder(told(face_row(SQUARE, 1.2, peaks)), bare(flip=True, overview=False))
    found = decoder.propose([np.zeros((128, 128, 3), np.uint8)])
    np.testing.assert_allclose(found.landmark_scores, [peaks, (0.3, 0.6, 0.15, 0.02, 0.7)], rtol=1e-6)


def test_of_several_schemas_in_a_file_one_is_chosen() -> None:
    row = face_row(SQUARE, 1.2, tuple(np.linspace(0.1, 0.9, 24)))
    nineteen = np.random.default_rng(0).uniform(40, 120, (19, 2))
    row["landmarks"] = [np.concatenate([nineteen, row["landmarks"][0]])]
    faces = alone(bare(schemas=("19", "5"), landmarks="5"), row)
    np.testing.assert_allclose(faces.landmarks, [POINTS * SQUARE[2] + SQUARE[:2]], rtol=1e-5)
    np.testing.assert_allclose(faces.landmark_scores, [np.linspace(0.1, 0.9, 24)[19:]], rtol=1e-5)


def test_calibrated_scores_are_the_maps() -> None:
    knots = {"scores": [0, 0.4, 1], "shares": [0.0, 0.8, 1.0]}
    for logit, shares in ((-5, (0, 0, 0)), (1.2, (0.6, 0.3, 0.15)), (30, (1, 1, 1))):
        raw = (1 / (1 + math.exp(-logit)) + sum(shares)) / 4
        score = alone(bare(calibration=knots), face_row(SQUARE, logit, shares)).scores[0]
        assert score == pytest.approx(np.interp(raw, knots["scores"], knots["shares"]), abs=1e-6)
        assert 0 <= score <= 1


@pytest.mark.parametrize(
    "evidence", [None, (1, 0.3, 1.5, 1, 0.5, 1), (1, 0.3, -1.5, 1, 0.5, 1), (2, -0.5, 0.3, 1, -0.4, 1)]
)
def test_only_what_cannot_reach_the_threshold_is_left_out(evidence: tuple[float, ...] | None) -> None:
    rng = np.random.default_rng(0)
    squares = rng.uniform([10, 10, 15], [180, 100, 60], (60, 3))
    points = [POINTS * s * rng.uniform(0.5, 1.2) + corner + rng.normal(0, 2, (5, 2)) for *corner, s in squares]
    rows = [
        {**face_row(square, logit, tuple(rng.uniform(0, 1, 3))), "landmarks": [p]}
        for square, logit, p in zip(squares, rng.normal(0, 3, 60), points, strict=True)
    ]
    decoder = KPNetDecoder(told(*rows), bare(evidence=evidence))
    image = np.zeros((128, 256, 3), np.uint8)
    every = decoder.propose([image])
    assert len(every) == 60
    for threshold in np.quantile(every.scores, [0.1, 0.5, 0.9]):
        some = decoder.propose([image], threshold)
        assert len(some) < 60
        assert (decoder.faintest(threshold) > LOGITS[0]) == (evidence is not None)
        np.testing.assert_array_equal(some.scores[some.scores >= threshold], every.scores[every.scores >= threshold])


@pytest.mark.parametrize(
    "weights",
    [(1, 0.3, 1.5, 1, 0.5, 1), (2, -0.5, 0.3, 1, -0.4, 1), (0.7, 0.9, -0.1, 0.6, 0.2, 2), (1, 0.5, 0.2, 0.3, -0.5, 1)],
)
@pytest.mark.parametrize("largest", [math.inf, 96.0])
def test_no_face_below_the_faintest_logit_reaches_the_threshold(weights: tuple[float, ...], largest: float) -> None:
    rng = np.random.default_rng(4)
    decoder, count = KPNetDecoder(told(), bare(evidence=weights)), 200_000
    side = np.exp2(rng.uniform(2, np.log2(min(largest, 256)), count))
    side[::3], side[1::3] = 4, min(largest, 256)
    agreement = rng.integers(0, 2, count)
    least = np.exp(rng.uniform(math.log(1e-4), 0, count))
    even = np.where(rng.random(count) < 0.5, 1, rng.uniform(0.05, 1, count))  # the least peak over the mean
    mean = np.minimum(least / even, 1)
    speaks = evidence(np.zeros(count), side, agreement, np.stack([2 * mean - least, least], axis=1))
    most = (speaks[:, 1:] @ weights[1:])[2 * mean >= least].max()
    for threshold in (0.1, 0.5, 0.9):
        enough = (math.log(threshold / (1 - threshold)) - most) / weights[0]
        if LOGITS[1] < enough < LOGITS[-1]:
            assert enough - 0.15 <= decoder.faintest(threshold, largest) <= enough
    assert decoder.faintest(1.0, largest) == LOGITS[-1]


def test_the_worse_of_two_that_overlap_falls() -> None:
    near, far = (SQUARE + np.array(shift) for shift in ([4, 4, 0], [60, 0, 0]))
    rows = face_row(near, 1), face_row(SQUARE, 2), face_row(far, 0)
    faces = alone(bare(), *rows)
    kept = convention("wider").boxes(np.stack([POINTS * s[2] + s[:2] for s in (SQUARE, far)]))
    assert box_ops.iou(kept, kept)[0, 1] < 0.6
    np.testing.assert_allclose(faces.boxes, kept, atol=1e-3)
    assert len(alone(bare(nms=1.0), *rows)) == 3


def test_images_do_not_suppress_each_other_and_options_hold() -> None:
    decoder = KPNetDecoder(told(face_row(SQUARE, 2), face_row(np.array([150, 150, 30]), 1)), bare())
    images = [np.zeros((128, 128, 3), np.uint8)] * 3
    both = decoder(images, threshold=0, min_face=1, max_face=None)
    assert [len(faces) for faces in both] == [2, 2, 2]
    assert [len(f) for f in decoder(images, threshold=0, min_face=50, max_face=None)] == [1, 1, 1]
    assert [len(f) for f in decoder(images, threshold=0, min_face=1, max_face=50)] == [1, 1, 1]
    threshold = float(both[0].scores.mean())
    assert [len(f) for f in decoder(images, threshold=threshold, min_face=1, max_face=None)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("input_size", "share", "overview"),
    [(64, 0.375, None), (256, 0.375, 96), (256, 0.5, 128), (384, 0.375, 144), (640, 0.375, 160), (640, 0.5, 160)],
)
def test_large_faces_are_those_of_the_overview_and_small_ones_of_the_input(
    input_size: int, share: float, overview: int | None
) -> None:
    settings = {"input_size": input_size, "overview_share": share}
    image = np.zeros((input_size, input_size, 3), np.uint8)
    levels = [input_size, overview] if overview else [input_size]
    assert [max(v.pixels.shape) for v in views_of(image, **settings)] == levels
    (single,) = views_of(image, input_size=input_size, overview=False)
    assert (single.smallest, single.largest) == (0, np.inf)

    def found(side: float) -> list[float]:
        """Sides of the detections if every view shows a face of this side, in pixels of the input."""
        look = partial(seen_face, side / input_size)
        decoder = KPNetDecoder(Fake(look), bare(**settings, convention="square", proposal=1.0, nms=1.0))
        (faces,) = decoder([image], threshold=0, min_face=1, max_face=None)
        return list(faces.boxes[:, 2] - faces.boxes[:, 0])

    np.testing.assert_allclose(found(60), [60], rtol=1e-5)
    np.testing.assert_allclose(found(90), [90] * len(levels), rtol=1e-5)  # where the two overlap
    np.testing.assert_allclose(found(150), [150], rtol=1e-5)


def seen_face(share: float, pixels: Array) -> dict[str, Any]:
    """A face in the corner of a view. ``share`` is its side relative to the view's width."""
    return face_row(np.array([0, 0, share * pixels.shape[1]]), 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"input_size": 63},
        {"overlap": 1.0},
        {"margin": 0.5},
        {"overview_share": 0.0},
        {"convention": "oval"},
        {"evidence": (1, 0)},
        {"refinement": [[0.5], [0.5, 0.5]]},
        {"boxes": "drawn"},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(settings))):
        KPNetDecoder(told(), Config(**settings))
