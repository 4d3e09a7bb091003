"""Overlaps, suppression and codecs against plain loops and their own inverses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lineament import boxes as box_ops


def random_boxes(rng: np.random.Generator, n: int, extent: float = 100) -> np.ndarray:
    corner = rng.uniform(0, extent, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(1, extent / 2, (n, 2))], axis=1)


def one_overlap(a: np.ndarray, b: np.ndarray, over: str) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    common = max(w, 0) * max(h, 0)
    areas = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return common / (sum(areas) - common if over == "union" else min(areas))


def greedy(boxes: np.ndarray, scores: np.ndarray, threshold: float, groups: np.ndarray, over: str) -> list[int]:
    """Suppression as in textbooks."""
    left = list(np.argsort(-scores, kind="stable"))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if groups[i] != groups[best] or one_overlap(boxes[i], boxes[best], over) <= threshold]
    return kept


@pytest.mark.parametrize(
    ("a", "b", "union", "smaller"),
    [
        ([0, 0, 2, 2], [0, 0, 2, 2], 1, 1),
        ([0, 0, 2, 2], [2, 0, 4, 2], 0, 0),  # touching is not overlapping
        ([0, 0, 4, 4], [1, 1, 3, 3], 1 / 4, 1),
        ([0, 0, 2, 2], [1, 0, 3, 2], 1 / 3, 1 / 2),
        ([0, 0, 0.5, 0.5], [0.25, 0.25, 0.5, 0.75], 1 / 5, 1 / 2),  # less than a pixel
        ([0, 0, 2, 2], [3, 3, 5, 5], 0, 0),  # apart along both axes
        ([2, 2, 0, 0], [0, 0, 2, 2], 0, 0),  # corners exchanged
        ([1, 1, 1, 1], [1, 1, 1, 1], 0, 0),  # no extent
    ],
)
def test_overlap_by_hand(a: list[float], b: list[float], union: float, smaller: float) -> None:
    one, other = np.array([a], float), np.array([b], float)
    assert box_ops.overlap(one, other)[0] == pytest.approx(union)
    assert box_ops.overlap(one, other, over="min")[0] == pytest.approx(smaller)
    assert box_ops.iou(other, one)[0, 0] == pytest.approx(union)


def test_centres_and_longer_sides_by_hand() -> None:
    boxes = np.array([[0, 0, 2, 3], [0.5, 1, 0.75, 3], [-4, 0, 0, 3]], np.float32)
    assert box_ops.centre(boxes).tolist() == [[1, 1.5], [0.625, 2], [-2, 1.5]]
    assert box_ops.longer_side(boxes).tolist() == [3, 2, 4]
    assert box_ops.centre(boxes).dtype == box_ops.longer_side(boxes).dtype == np.float32
    assert box_ops.centre(boxes[0]).tolist() == [1, 1.5]
    assert box_ops.centre(boxes[:0]).shape == (0, 2)


def test_areas_by_hand() -> None:
    boxes = np.array([[0, 0, 2, 3], [0.5, 1, 0.75, 3], [2, 0, 0, 3], [0, 3, 2, 0], [2, 3, 0, 0]])
    assert box_ops.area(boxes).tolist() == [6, 0.5, 0, 0, 0]


@pytest.mark.parametrize(("given", "found"), [("f4", "f4"), ("f8", "f8"), ("i8", "f8")])
def test_shares_are_as_precise_as_the_boxes(given: str, found: str) -> None:
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2]], given)
    assert box_ops.iou(boxes, boxes).dtype == box_ops.coverage(boxes, boxes).dtype == found
    np.testing.assert_allclose(box_ops.iou(boxes, boxes)[0], [1, 1 / 3])


def test_coverage_is_the_share_of_the_first() -> None:
    small, large = np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 11, 10]])
    assert box_ops.coverage(small, large)[0, 0] == pytest.approx(0.5)
    assert box_ops.coverage(large, small)[0, 0] == pytest.approx(0.02)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 60),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7]),
    over=st.sampled_from(["union", "min"]),
    groups=st.integers(1, 3),
)
@settings(max_examples=150)
def test_nms_keeps_what_the_sequential_algorithm_keeps(
    seed: int, n: int, threshold: float, over: str, groups: int
) -> None:
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, n)
    scores = rng.integers(0, 10, n) / 10  # with ties
    group = rng.integers(0, groups, n)
    kept = box_ops.nms(boxes, scores, threshold, groups=group, over=over)
    assert kept.tolist() == greedy(boxes, scores, threshold, group, over)


def test_boxes_of_one_pass_do_not_suppress_each_other() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8]])
    scores = np.array([0.9, 0.8, 0.7])
    assert box_ops.nms(boxes, scores, 0.5, passes=np.array([4, 4, 4])).tolist() == [0, 1, 2]
    assert box_ops.nms(boxes, scores, 0.5, passes=np.array([4, 2, 4])).tolist() == [0, 2]
    assert box_ops.nms(boxes, scores[::-1], 0.5, passes=np.array([4, 4, 2])).tolist() == [2]


def test_nms_of_boxes_far_apart_in_many_groups() -> None:
    """Every group has the same two boxes, on both sides of zero. Groups do not affect each other."""
    pair = np.array([[-1000.0, -5, -10, 5], [-900, -5, -5, 5]])
    boxes, groups = np.tile(pair, (5, 1)), np.repeat([7, 3, 4, 5, 0], 2)
    kept = box_ops.nms(boxes, np.linspace(1, 0.1, 10), 0.5, groups=groups)
    assert kept.tolist() == [0, 2, 4, 6, 8]


def test_an_overlap_of_just_the_threshold_stands() -> None:
    boxes = np.array([[0.0, 0, 4, 1], [2, 0, 4, 1]])  # a half of the union, all of the smaller box
    scores = np.array([0.9, 0.8])
    assert box_ops.nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert box_ops.nms(boxes, scores, 0.49).tolist() == [0]
    assert box_ops.nms(boxes, scores, 0.99, over="min").tolist() == [0]


def test_nms_in_rounds_of_bounded_memory_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    boxes, scores = random_boxes(rng, 300), rng.random(300)
    whole = box_ops.nms(boxes, scores, 0.4)
    monkeypatch.setattr(box_ops, "_PAIRS_AT_ONCE", 7)
    assert box_ops.nms(boxes, scores, 0.4).tolist() == whole.tolist()


def softened(
    boxes: np.ndarray, scores: np.ndarray, threshold: float, sigma: float | None, groups: np.ndarray, over: str
) -> np.ndarray:
    """Soft-NMS as in the paper, box by box."""
    result, left = scores.astype(float), list(range(len(scores)))
    while left:
        best = max(left, key=lambda i: (result[i], -i))
        left.remove(best)
        for i in left:
            if groups[i] == groups[best]:
                shared = one_overlap(boxes[i], boxes[best], over)
                if sigma:
                    result[i] *= np.exp(-(shared**2) / sigma)
                elif shared > threshold:
                    result[i] *= 1 - shared
    return result


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 50),
    sigma=st.sampled_from([None, 0.1, 0.5]),
    threshold=st.sampled_from([0.0, 0.3, 0.6]),
    over=st.sampled_from(["union", "min"]),
    groups=st.integers(1, 3),
)
@settings(max_examples=100)
def test_soft_nms_is_that_of_the_sequential_algorithm(
    seed: int, n: int, sigma: float | None, threshold: float, over: str, groups: int
) -> None:
    rng = np.random.default_rng(seed)
    boxes, group = random_boxes(rng, n), rng.integers(0, groups, n)
    scores = rng.integers(0, 10, n) / 10  # with ties
    found = box_ops.soft_nms(boxes, scores, threshold, sigma=sigma, groups=group, over=over)
    np.testing.assert_allclose(found, softened(boxes, scores, threshold, sigma, group, over), atol=1e-12)


def test_soft_nms_by_hand() -> None:
    boxes = np.array([[0.0, 0, 2, 2], [1, 0, 3, 2], [10, 0, 12, 2]])  # the first two share a third
    scores = np.array([0.6, 0.9, 0.5])
    np.testing.assert_allclose(box_ops.soft_nms(boxes, scores, 0.3), [0.6 * 2 / 3, 0.9, 0.5])
    np.testing.assert_allclose(box_ops.soft_nms(boxes, scores, 0.4), scores)
    np.testing.assert_allclose(box_ops.soft_nms(boxes, scores, 0.4, sigma=0.5), [0.6 * np.exp(-1 / 9 / 0.5), 0.9, 0.5])


@given(seed=st.integers(0, 10**6), n=st.integers(0, 40), groups=st.integers(1, 3))
@settings(max_examples=60)
def test_votes_are_weighted_means_of_what_overlaps(seed: int, n: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores, group = random_boxes(rng, n), rng.random(n), rng.integers(0, groups, n)
    kept = rng.permutation(n)[: n // 2]
    found = box_ops.vote(boxes, scores, kept, 0.3, groups=group)
    assert found.shape == (len(kept), 4)
    for box, i in zip(found, kept, strict=True):
        voters = [
            j for j in range(n) if group[i] == group[j] and (i == j or one_overlap(boxes[i], boxes[j], "union") > 0.3)
        ]
        weights = scores[voters] / scores[voters].sum()
        np.testing.assert_allclose(box, (weights[:, None] * boxes[voters]).sum(axis=0), atol=1e-9)


def test_votes_by_hand() -> None:
    boxes = np.array([[0.0, 0, 4, 4], [0, 0, 4, 5], [20, 20, 24, 24]])
    found = box_ops.vote(boxes, np.array([0.9, 0.3, 0.0]), np.array([2, 0]), 0.5)
    np.testing.assert_allclose(found, [[20, 20, 24, 24], [0, 0, 4, 4.25]])  # a score of 0 has no weight


def test_mirrors_and_sides() -> None:
    boxes = np.array([[1.0, 2, 4, 9], [0, 0, 8, 2]])
    np.testing.assert_allclose(box_ops.mirror(boxes, np.array([10, 20])), [[6, 2, 9, 9], [12, 0, 20, 2]])
    np.testing.assert_allclose(box_ops.mirror(box_ops.mirror(boxes, 7.0), 7.0), boxes)
    assert box_ops.longer_side(boxes).tolist() == [7, 8]


@pytest.mark.parametrize("name", list(box_ops.CODECS))
def test_codecs_are_inverse_and_mirror(name: str) -> None:
    rng = np.random.default_rng(2)
    codec = box_ops.CODECS[name]
    boxes, windows = random_boxes(rng, 50), random_boxes(rng, 50)
    offsets = codec.encode(boxes, windows)
    np.testing.assert_allclose(codec.decode(offsets, windows), boxes, atol=1e-9)
    flipped = codec.encode(boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1], windows[:, [2, 1, 0, 3]] * [-1, 1, -1, 1])
    np.testing.assert_allclose(codec.mirror(offsets), flipped, atol=1e-9)


def test_offsets_by_hand() -> None:
    """Corners over the window's sides. Centre over the window's sides, and the logarithm of the size ratio."""
    box, window = np.array([[12.0, 24, 52, 34]]), np.array([[10.0, 20, 30, 60]])
    np.testing.assert_allclose(box_ops.encode_corner(box, window), [[0.1, 0.1, 1.1, -0.65]])
    np.testing.assert_allclose(box_ops.encode_rcnn(box, window), [[0.6, -0.275, np.log(2), np.log(0.25)]])


def test_points_are_relative_to_their_window() -> None:
    rng = np.random.default_rng(3)
    windows, points = random_boxes(rng, 20), rng.uniform(0, 100, (20, 5, 2))
    offsets = box_ops.encode_points(points, windows)
    np.testing.assert_allclose(box_ops.decode_points(offsets, windows), points, atol=1e-9)
    np.testing.assert_allclose(box_ops.encode_points(windows[:, None, :2], windows), 0)
    np.testing.assert_allclose(box_ops.encode_points(windows[:, None, 2:], windows), 1)


def test_grown_boxes_by_hand() -> None:
    assert box_ops.grown(np.array([[10.0, 20, 30, 60]]), 0.25).tolist() == [[5, 10, 35, 70]]


def test_square_keeps_centre_and_longer_side() -> None:
    squares = box_ops.square(np.array([[0.0, 0, 4, 2], [1, 2, 2, 9]]))
    assert squares.tolist() == [[0, -1, 4, 3], [-2, 2, 5, 9]]
