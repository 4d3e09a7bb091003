"""Operations on boxes ``(n, 4)``: ``x1, y1, x2, y2`` in continuous pixels; ``x2 - x1`` is the width.

``encode_corner``/``decode_corner`` and ``encode_rcnn``/``decode_rcnn`` are inverse pairs. The first gives the target
that a network learns for a box relative to a window, the second the box for the network's output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Overlap = Literal["union", "min"]

_PAIRS_AT_ONCE = 1 << 20  # bounds the memory of nms: about 100 MB of float32 temporaries


def area(boxes: Array) -> Array:
    """Areas (n,) in square pixels. 0 if a side is negative."""
    return np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(boxes[..., 3] - boxes[..., 1], 0)


def intersection(a: Array, b: Array) -> Array:
    """Intersection areas of boxes that broadcast, such as ``a[:, None]`` and ``b[None]`` for all pairs."""
    w = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    h = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    return np.maximum(w, 0) * np.maximum(h, 0)


def overlap(a: Array, b: Array, *, over: Overlap = "union") -> Array:
    """Intersection over the union, or over the smaller area, of boxes that broadcast. 0 if both are empty."""
    common, one, other = intersection(a, b), area(a), area(b)
    whole = one + other - common if over == "union" else np.minimum(one, other)
    return _share(common, whole)


def iou(a: Array, b: Array) -> Array:
    """Intersection over union (n, m) of each box of ``a`` (n, 4) with each box of ``b`` (m, 4)."""
    return overlap(a[:, None], b[None])


def coverage(a: Array, b: Array) -> Array:
    """Share (n, m) of each box of ``a`` (n, 4) that lies inside each box of ``b`` (m, 4)."""
    common, one = intersection(a[:, None], b[None]), area(a)[:, None]
    return _share(common, np.broadcast_to(one, common.shape))


def _share(part: Array, whole: Array) -> Array:
    """Their ratio; 0 where ``whole`` is 0."""
    return np.divide(part, whole, out=np.zeros(part.shape, np.result_type(part, np.float32)), where=whole > 0)


def nms(
    boxes: Array,
    scores: Array,
    threshold: float,
    *,
    groups: Array | None = None,
    passes: Array | None = None,
    over: Overlap = "union",
) -> Array:
    """Greedy non-maximum suppression, without a loop over boxes.

    A box is removed if a kept box with a higher score overlaps it by more than ``threshold``. A sweep over x lists the
    pairs that can overlap. The kept boxes are then the fixed point of this rule. It takes as many rounds as the longest
    chain of suppressions, and the result equals that of the sequential algorithm.

    Args:
        boxes: (n, 4).
        scores: (n,). Of equal scores, the earlier box wins.
        threshold: Overlap in [0, 1] above which the box with the lower score is removed.
        groups: (n,) integers. Only boxes of the same group (image, pyramid level) suppress each other.
        passes: (n,) integers. Boxes of the same pass do not suppress each other: Soft-NMS has dealt with them already.
        over: "union" for intersection over union, "min" for intersection over the smaller area.

    Returns:
        The indices of the kept boxes, best score first.
    """
    order = np.argsort(-scores, kind="stable")
    better, worse = _overlapping(boxes[order], None if groups is None else groups[order], threshold, over)
    if passes is not None:
        apart = passes[order[better]] != passes[order[worse]]
        better, worse = better[apart], worse[apart]
    stands = np.ones(len(order), bool)
    while True:
        fallen = worse[stands[better]]
        new = np.ones_like(stands)
        new[fallen] = False
        if np.array_equal(new, stands):
            return order[stands]
        stands = new


def soft_nms(
    boxes: Array,
    scores: Array,
    threshold: float,
    *,
    sigma: float | None = None,
    groups: Array | None = None,
    over: Overlap = "union",
) -> Array:
    """Soft-NMS (Bodla et al. 2017): each box with a higher score lowers the scores of the boxes that it overlaps.

    The sequential algorithm takes the best remaining box, lowers the scores of the boxes that overlap it, and repeats.
    Boxes that do not overlap are independent. So each round here takes all boxes that are the best among those they
    overlap. The scores are the same, in as many rounds as the longest chain of overlaps.

    Args:
        boxes: (n, 4).
        scores: (n,) at least 0. Of equal scores, the earlier box wins.
        threshold: Linear form (their equation 1): overlaps above it multiply a score by ``1 - overlap``.
        sigma: Gaussian form (their equation 3): each overlap multiplies a score by ``exp(-overlap^2 / sigma)``, and the
            threshold is ignored. ``None`` for the linear form.
        groups: (n,) integers. Only boxes of the same group (an image) affect each other.
        over: How overlap is measured, as in ``nms``.

    Returns:
        New scores (n,) float64 in the order of the boxes. No box is removed: apply a threshold and sort.
    """
    one, other = _overlapping(boxes, groups, 0.0 if sigma else threshold, over)
    shared = overlap(boxes[one], boxes[other], over=over).astype(np.float64)
    factor = np.exp(-(shared**2) / sigma) if sigma else 1 - shared
    taker, loser, factor = np.r_[one, other], np.r_[other, one], np.r_[factor, factor]
    left = scores.astype(np.float64)
    waits = np.ones(len(left), bool)
    while waits.any():
        rank = np.empty(len(left), np.intp)
        rank[np.argsort(-left, kind="stable")] = np.arange(len(left))
        best = np.full(len(left), len(left))  # rank of the best box that overlaps and waits as well
        np.minimum.at(best, taker, rank[loser])
        taken = waits & (rank < best)
        waits &= ~taken
        hit = taken[taker]
        np.multiply.at(left, loser[hit], factor[hit])
        on = waits[taker] & waits[loser]
        taker, loser, factor = taker[on], loser[on], factor[on]
    return left


def vote(boxes: Array, scores: Array, kept: Array, threshold: float, *, groups: Array | None = None) -> Array:
    """Box voting (Gidaris and Komodakis 2015): each kept box becomes the score-weighted mean of its neighbours.

    Args:
        boxes: (n, 4) before suppression.
        scores: (n,) at least 0.
        kept: (m,) indices of the boxes that suppression keeps.
        threshold: Boxes that overlap a kept box by more than this (intersection over union) are its neighbours.
        groups: (n,) integers. Only boxes of the same group are neighbours.

    Returns:
        (m, 4) float64.
    """
    one, other = _overlapping(boxes, groups, threshold, "union")
    own = np.arange(len(boxes))  # each box is a neighbour of itself
    place, voter = np.r_[own, one, other], np.r_[own, other, one]
    weights = scores.astype(np.float64)[voter]
    total = np.bincount(place, weights, minlength=len(boxes))
    sums = [np.bincount(place, weights * boxes[voter, side], minlength=len(boxes)) for side in range(4)]
    means = np.divide(sums, total, out=boxes.T.astype(np.float64), where=total > 0)  # all scores 0: unchanged
    return np.asarray(means.T[kept])


def centre(boxes: Array) -> Array:
    """The centre (n, 2) of each box."""
    return np.asarray((boxes[..., :2] + boxes[..., 2:]) / 2)


def longer_side(boxes: Array) -> Array:
    """The longer side (n,) of each box."""
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).max(axis=-1))


def sized(boxes: Array, smallest: float, largest: float | None) -> Array:
    """Which boxes (n,) have a longer side from ``smallest`` to ``largest``. ``None``: no upper limit."""
    side = longer_side(boxes)
    return np.asarray((side >= smallest) & (side <= (np.inf if largest is None else largest)))


def grown(boxes: Array, margin: float) -> Array:
    """Boxes (n, 4) that reach ``margin`` of their sides further on every side."""
    reach = (boxes[..., 2:] - boxes[..., :2]) * margin
    return np.concatenate([boxes[..., :2] - reach, boxes[..., 2:] + reach], axis=-1)


def mirror(boxes: Array, width: Array | float) -> Array:
    """Boxes (n, 4) in the mirrored image of that width (one for all, or one for each). Its own inverse."""
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
    return np.stack([width - x2, y1, width - x1, y2], axis=-1)


def _overlapping(boxes: Array, groups: Array | None, threshold: float, over: Overlap) -> tuple[Array, Array]:
    """Pairs of indices i < j of boxes in one group that overlap by more than the threshold."""
    left = boxes[:, 0].astype(np.float64)
    reach = boxes[:, 2].astype(np.float64)
    if over == "union":  # the intersection must be at least threshold times each box's own area, hence its width too
        reach = reach - threshold * (reach - left)
    if groups is not None:  # place the groups side by side, so that they do not overlap
        step = float(reach.max() - left.min() + 1) if len(left) else 0.0
        left, reach = left + groups * step, reach + groups * step
    sweep = np.argsort(left, kind="stable")
    left, reach = left[sweep], reach[sweep]
    first = np.arange(1, len(sweep) + 1)
    count = np.maximum(np.searchsorted(left, reach, side="right") - first, 0)
    ends = np.cumsum(count)
    found: list[tuple[Array, Array]] = []
    start = 0
    while start < len(count):  # rounds of bounded memory
        base = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, base + _PAIRS_AT_ONCE, side="right")), start + 1)
        n = count[start:stop]
        i = np.repeat(np.arange(start, stop), n)
        j = np.arange(len(i)) - np.repeat(ends[start:stop] - n - base, n) + i + 1
        i, j = sweep[i], sweep[j]
        hit = overlap(boxes[i], boxes[j], over=over) > threshold
        found.append((np.minimum(i, j)[hit], np.maximum(i, j)[hit]))
        start = stop
    if not found:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


def square(boxes: Array) -> Array:
    """Squares with the same centres and each box's longer side."""
    middle, half = centre(boxes), longer_side(boxes)[..., None] / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def encode_corner(boxes: Array, windows: Array) -> Array:
    """Offsets (n, 4) of the corners of boxes from those of their windows, divided by the windows' width and height."""
    return (boxes - windows) / _sides(windows)


def decode_corner(offsets: Array, windows: Array) -> Array:
    """Inverse of ``encode_corner``: boxes (n, 4) from offsets and windows."""
    return windows + offsets * _sides(windows)


def encode_rcnn(boxes: Array, windows: Array) -> Array:
    """Offsets of the centres divided by the windows' sizes, and logarithms of the size ratios (n, 4).

    Girshick et al. 2014.
    """
    size, window = boxes[..., 2:] - boxes[..., :2], windows[..., 2:] - windows[..., :2]
    shift = (boxes[..., :2] + boxes[..., 2:] - windows[..., :2] - windows[..., 2:]) / 2
    return np.concatenate([shift / window, np.log(size / window)], axis=-1)


def decode_rcnn(offsets: Array, windows: Array) -> Array:
    """Inverse of ``encode_rcnn``: boxes (n, 4) from offsets and windows."""
    window = windows[..., 2:] - windows[..., :2]
    middle = centre(windows) + offsets[..., :2] * window
    half = np.exp(offsets[..., 2:]) * window / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def mirror_corner(offsets: Array) -> Array:
    """Corner offsets (n, 4) of mirrored boxes from mirrored windows."""
    return offsets[..., [2, 1, 0, 3]] * [-1, 1, -1, 1]


def mirror_rcnn(offsets: Array) -> Array:
    """Centre and size offsets (n, 4) of mirrored boxes from mirrored windows."""
    return offsets * [-1, 1, 1, 1]


class Codec(NamedTuple):
    """An encoding of boxes as offsets from windows: an inverse pair, and the mirror of the offsets."""

    encode: Callable[[Array, Array], Array]
    decode: Callable[[Array, Array], Array]
    mirror: Callable[[Array], Array]


CODECS = {
    "corner": Codec(encode_corner, decode_corner, mirror_corner),
    "rcnn": Codec(encode_rcnn, decode_rcnn, mirror_rcnn),
}


def _sides(boxes: Array) -> Array:
    """Width, height, width, height (n, 4)."""
    size = boxes[..., 2:] - boxes[..., :2]
    return np.concatenate([size, size], axis=-1)


def encode_points(points: Array, windows: Array) -> Array:
    """Points (n, k, 2) relative to the windows' top left corners, divided by the windows' width and height."""
    return (points - windows[:, None, :2]) / (windows[:, None, 2:] - windows[:, None, :2])


def decode_points(offsets: Array, windows: Array) -> Array:
    """Inverse of ``encode_points``: points (n, k, 2) in pixels."""
    return windows[:, None, :2] + offsets * (windows[:, None, 2:] - windows[:, None, :2])


def corrected(boxes: Array, expected: Array, seen: Array, share: float = 1.0) -> Array:
    """Move and resize boxes (n, 4) by a share of the difference between two others. This keeps their convention.

    Args:
        boxes: (n, 4) to correct.
        expected: (n, 4) expectation of ``seen`` from the same landmarks.
        seen: (n, 4).
        share: 0 leaves the boxes unchanged, 1 corrects the whole difference.

    Returns:
        (n, 4), not finite where ``expected`` has no area.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        grown = (seen[:, 2:] - seen[:, :2]) / (expected[:, 2:] - expected[:, :2])
    moved = (seen[:, :2] + seen[:, 2:] - expected[:, :2] - expected[:, 2:]) / 2
    middle = centre(boxes) + share * moved
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * (1 + share * (grown - 1))
    return np.concatenate([middle - half, middle + half], axis=1)
