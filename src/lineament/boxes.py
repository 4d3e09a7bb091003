"""Arithmetic on boxes ``(n, 4)``: ``x1, y1, x2, y2`` in continuous pixels, ``x2 - x1`` the width.

``encode_corner``/``decode_corner`` and ``encode_rcnn``/``decode_rcnn`` are inverse pairs: the target that a network
learns for a box seen from a window, and the box that its output stands for.
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
    """(n,) areas in square pixels; 0 where a side is negative."""
    return np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(boxes[..., 3] - boxes[..., 1], 0)


def intersection(a: Array, b: Array) -> Array:
    """Common area of boxes that broadcast against each other, e.g. ``a[:, None]`` and ``b[None]`` for all pairs."""
    w = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    h = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    return np.maximum(w, 0) * np.maximum(h, 0)


def overlap(a: Array, b: Array, *, over: Overlap = "union") -> Array:
    """Intersection over union, or over the smaller area, of boxes that broadcast; 0 where both are empty."""
    common, one, other = intersection(a, b), area(a), area(b)
    whole = one + other - common if over == "union" else np.minimum(one, other)
    return _share(common, whole)


def iou(a: Array, b: Array) -> Array:
    """(n, m) intersection over union of every box of ``a`` (n, 4) with every box of ``b`` (m, 4)."""
    return overlap(a[:, None], b[None])


def coverage(a: Array, b: Array) -> Array:
    """(n, m) share of every box of ``a`` (n, 4) that lies inside each box of ``b`` (m, 4)."""
    common, one = intersection(a[:, None], b[None]), area(a)[:, None]
    return _share(common, np.broadcast_to(one, common.shape))


def _share(part: Array, whole: Array) -> Array:
    """Their ratio; 0 where there is nothing to share."""
    return np.divide(part, whole, out=np.zeros(part.shape, np.result_type(part, np.float32)), where=whole > 0)


def nms(
    boxes: Array, scores: Array, threshold: float, *, groups: Array | None = None, over: Overlap = "union"
) -> Array:
    """Greedy non-maximum suppression, without a loop over boxes.

    A box falls when a better one that stands overlaps it by more than ``threshold``. Pairs that can overlap are listed
    by a sweep over x; which boxes stand is then the fixed point of "nobody better that stands overlaps me", reached in
    as many rounds as the longest chain of suppressions, and equal to what the sequential algorithm keeps.

    Args:
        boxes: (n, 4). scores: (n,); of equal scores the earlier box is the better one.
        threshold: overlap in [0, 1] above which the worse box falls.
        groups: (n,) integers; only boxes of the same group (picture, pyramid level) suppress each other.
        over: "union" for intersection over union, "min" for intersection over the smaller area.

    Returns:
        Indices of the boxes that stand, best score first.
    """
    order = np.argsort(-scores, kind="stable")
    better, worse = _overlapping(boxes[order], None if groups is None else groups[order], threshold, over)
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
    """Scores after Soft-NMS (Bodla et al. 2017): a box loses score to every better box that it overlaps.

    The sequential algorithm takes the best box left, lowers the scores of those that overlap it, and repeats. Only
    boxes that overlap matter to each other, so here all boxes that are the best among those they overlap are taken in
    one round. The scores are the same, and there are as many rounds as the longest chain of overlaps.

    Args:
        boxes: (n, 4). scores: (n,) at least 0; of equal scores the earlier box is the better one.
        threshold: linear form (their equation 1): overlaps above it lower a score by the factor ``1 - overlap``.
        sigma: Gaussian form (their equation 3): every overlap lowers a score by ``exp(-overlap^2 / sigma)``; the
            threshold has no say. ``None`` for the linear form.
        groups: (n,) integers; only boxes of the same group (an image) matter to each other.
        over: what overlaps are measured over, as of ``nms``.

    Returns:
        (n,) float64, in the order of the boxes. None is dropped: cut them off at a score, and sort.
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
    """Box voting (Gidaris and Komodakis 2015): a box becomes the mean of those around it, weighted by their scores.

    Args:
        boxes: (n, 4) before suppression. scores: (n,) theirs, at least 0.
        kept: (m,) indices of the boxes that stand.
        threshold: boxes that overlap one that stands by more than this (intersection over union) have a say in it.
        groups: (n,) integers; boxes of other groups have no say.

    Returns:
        (m, 4) float64.
    """
    one, other = _overlapping(boxes, groups, threshold, "union")
    own = np.arange(len(boxes))  # each box has a say in itself
    place, voter = np.r_[own, one, other], np.r_[own, other, one]
    weights = scores.astype(np.float64)[voter]
    total = np.bincount(place, weights, minlength=len(boxes))
    sums = [np.bincount(place, weights * boxes[voter, side], minlength=len(boxes)) for side in range(4)]
    means = np.divide(sums, total, out=boxes.T.astype(np.float64), where=total > 0)  # all of score 0: as it is
    return np.asarray(means.T[kept])


def longer_side(boxes: Array) -> Array:
    """(n,) width or height, whichever is more."""
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).max(axis=-1))


def mirror(boxes: Array, width: Array | float) -> Array:
    """Boxes (n, 4) as they lie in mirrored images of that width (one, or one for each); its own inverse."""
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
    return np.stack([width - x2, y1, width - x1, y2], axis=-1)


def _overlapping(boxes: Array, groups: Array | None, threshold: float, over: Overlap) -> tuple[Array, Array]:
    """Index pairs (i, j), i < j, of boxes of one group that overlap by more than the threshold."""
    left = boxes[:, 0].astype(np.float64)
    reach = boxes[:, 2].astype(np.float64)
    if over == "union":  # the intersection must be at least threshold times each box's own area, hence its width too
        reach = reach - threshold * (reach - left)
    if groups is not None:  # lay the groups side by side, out of each other's reach
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
    """Squares around the same centres, as long as each box's longer side."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = longer_side(boxes)[..., None] / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def encode_corner(boxes: Array, windows: Array) -> Array:
    """Offsets of a box's two corners from its window's, over the window's width and height (n, 4)."""
    return (boxes - windows) / _sides(windows)


def decode_corner(offsets: Array, windows: Array) -> Array:
    """Inverse of ``encode_corner``: the boxes (n, 4) that offsets from windows stand for."""
    return windows + offsets * _sides(windows)


def encode_rcnn(boxes: Array, windows: Array) -> Array:
    """Centre offset over the window's size, and logarithm of the size ratio (n, 4) (Girshick et al. 2014)."""
    size, window = boxes[..., 2:] - boxes[..., :2], windows[..., 2:] - windows[..., :2]
    shift = (boxes[..., :2] + boxes[..., 2:] - windows[..., :2] - windows[..., 2:]) / 2
    return np.concatenate([shift / window, np.log(size / window)], axis=-1)


def decode_rcnn(offsets: Array, windows: Array) -> Array:
    """Inverse of ``encode_rcnn``: the boxes (n, 4) that offsets from windows stand for."""
    window = windows[..., 2:] - windows[..., :2]
    centre = (windows[..., :2] + windows[..., 2:]) / 2 + offsets[..., :2] * window
    half = np.exp(offsets[..., 2:]) * window / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def mirror_corner(offsets: Array) -> Array:
    """The corner offsets (n, 4) of the mirrored box from the mirrored window."""
    return offsets[..., [2, 1, 0, 3]] * [-1, 1, -1, 1]


def mirror_rcnn(offsets: Array) -> Array:
    """The centre and size offsets (n, 4) of the mirrored box from the mirrored window."""
    return offsets * [-1, 1, 1, 1]


class Codec(NamedTuple):
    """How a box is written as offsets from a window: an inverse pair, and what a mirror does to the offsets."""

    encode: Callable[[Array, Array], Array]
    decode: Callable[[Array, Array], Array]
    mirror: Callable[[Array], Array]


CODECS = {
    "corner": Codec(encode_corner, decode_corner, mirror_corner),
    "rcnn": Codec(encode_rcnn, decode_rcnn, mirror_rcnn),
}


def _sides(boxes: Array) -> Array:
    """(n, 4) width, height, width, height."""
    size = boxes[..., 2:] - boxes[..., :2]
    return np.concatenate([size, size], axis=-1)


def encode_points(points: Array, windows: Array) -> Array:
    """Points (n, k, 2) relative to their windows' corners, over the windows' width and height."""
    return (points - windows[:, None, :2]) / (windows[:, None, 2:] - windows[:, None, :2])


def decode_points(offsets: Array, windows: Array) -> Array:
    """Inverse of ``encode_points``: points (n, k, 2) in pixels."""
    return windows[:, None, :2] + offsets * (windows[:, None, 2:] - windows[:, None, :2])
