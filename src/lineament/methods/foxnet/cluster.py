"""From landmark candidates to faces: mean shift on embeddings and places (Wu et al. 2019, section II C).

Candidates of one face have embeddings that are alike, and lie within about a face's size of each other. So a
candidate's neighbours are looked for around its place, and mean shift goes on among those: the cost grows as n log n,
however many faces there are.

The paper's neighbour search is a tree. SciPy has one, but inference needs SciPy for nothing else, and SciPy is larger
than everything that inference installs besides onnxruntime. Sizes of faces are known here, so that a grid for each
octave of sizes, with cells as large as the reach, is as good: sorted once, and searched by bisection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.errors import WeightsError

Array = NDArray[Any]

REACH = 0.8
"""How far candidates may be from the middle of their face, over its size: corners of a box are at 0.7."""
SLACK = 1.5
"""Pairs are as far apart as this times the reach: modes move by up to half of it."""
STEPS = 20
STILL = 1e-3
"""Move of a mode, over the kernel's size, below which it stands."""
TOGETHER = 0.5
"""Distance, over the kernel's size, up to which two modes are one face."""


def bandwidth(distance: str, inner: float) -> float:
    """The kernel's size for embeddings, derived from the margin that they were trained with.

    Two members of a face may be as far apart as twice the margin from its centre. For unit vectors that is an angle of
    ``2 arccos(1 - delta_v)``, whose chord this is; above a right angle, faces of the working margins are no longer told
    apart.

    Args:
        distance: "cosine" or "euclidean". inner: delta_v.
    """
    if distance == "euclidean":
        return 2 * inner
    return float(min(2 * np.sqrt(inner * (2 - inner)), np.sqrt(2)))


def faces(embeddings: Array, points: Array, sizes: Array, scores: Array, group: Array, *, width: float) -> Array:
    """Which face each candidate belongs to, by mean shift.

    The kernel is a ball around a candidate's mode, in which weights fall to 0 with the square of the distance: that of
    embeddings over ``width`` and that of places over `REACH` times the face's size, together.

    Args:
        embeddings: (n, d), of unit norm if they were trained with the cosine.
        points: (n, 2) in pixels. sizes: (n,) of the faces that they seem to belong to, in pixels.
        scores: (n,) above 0, what they weigh. group: (n,) only candidates of one group are compared.
        width: see `bandwidth`.

    Returns:
        (n,) integers; those of one face are the same, and one of theirs.

    Raises:
        WeightsError: something is not finite: the weights are damaged, or their training diverged.
    """
    bad = ~(np.isfinite(embeddings).all(axis=1) & np.isfinite(sizes) & np.isfinite(points).all(axis=1))
    if bad.any():
        raise WeightsError(
            f"embeddings of {bad.sum()} of {len(bad)} landmark candidates are not finite: these weights are damaged, "
            "or their training diverged. Load them anew, or train with a lower learning rate or clip=5"
        )
    if not len(points):
        return np.zeros(0, np.intp)
    i, j = pairs(points, sizes, group, SLACK * REACH)
    i, j = (np.concatenate([side, np.arange(len(points))]) for side in (i, j))  # each is its own neighbour
    features = np.column_stack([embeddings / width, points, np.log(sizes)])
    modes = features
    for _ in range(STEPS):
        weights = np.maximum(1 - _apart(modes[i], features[j]), 0) * scores[j]
        total = np.maximum(np.bincount(i, weights, len(points)), 1e-12)[:, None]
        moved = np.stack([np.bincount(i, weights * column, len(points)) for column in features[j].T], axis=1) / total
        still = _apart(moved, modes).max() < STILL**2
        modes = moved
        if still:
            break
    together = np.maximum(_apart(modes[i], modes[j]), _apart(modes[j], modes[i])) <= TOGETHER**2
    return _components(i[together], j[together], len(points))


def _apart(modes: Array, others: Array) -> Array:
    """Squared distance (m,) of features ``embedding, x, y, log size`` from modes, over the kernel's size."""
    apart = (modes - others)[:, :-1]
    apart[:, -2:] /= REACH * np.exp(modes[:, -1:])
    return np.asarray((apart**2).sum(axis=1))


def pairs(points: Array, sizes: Array, group: Array, reach: float) -> tuple[Array, Array]:
    """All pairs that are near each other, each in both orders.

    Args:
        points: (n, 2). sizes: (n,) above 0. group: (n,) integers from 0 on.
        reach: largest distance over the geometric mean of both sizes, which differ by a factor of 2 at most.

    Returns:
        Two arrays (m,) of indices.
    """
    found = [np.zeros((2, 0), np.intp)]
    octave = np.floor(np.log2(sizes)).astype(int)
    for top in np.unique(octave):
        own = np.flatnonzero(octave == top)
        those = np.flatnonzero((octave == top) | (octave == top - 1))
        cell = np.floor(points / (reach * 2.0 ** (top + 1))).astype(np.int64)  # no pair of these is farther apart
        cell -= cell[those].min(axis=0) - 1
        columns, rows = cell[those].max(axis=0) + 2
        key = (group * (rows + 1) + cell[:, 1]) * columns + cell[:, 0]
        those = those[np.argsort(key[those], kind="stable")]
        for row in (-1, 0, 1):
            start = np.searchsorted(key[those], key[own] + row * columns - 1, "left")
            count = np.searchsorted(key[those], key[own] + row * columns + 1, "right") - start
            place = np.arange(count.sum()) + np.repeat(start - np.cumsum(count) + count, count)
            pair = np.stack([np.repeat(own, count), those[place]])
            found += [pair, pair[::-1, octave[pair[1]] < top]]
    i, j = np.concatenate(found, axis=1)
    ratio = sizes[i] / sizes[j]
    far = ((points[i] - points[j]) ** 2).sum(axis=1) > reach**2 * sizes[i] * sizes[j]
    kept = ~far & (ratio <= 2) & (ratio >= 0.5) & (i != j) & (group[i] == group[j])
    return i[kept], j[kept]


def _components(i: Array, j: Array, count: int) -> Array:
    """Connected components (count,) of a graph with edges in both orders: each the least index in it."""
    label = np.arange(count)
    while True:
        least = label.copy()
        np.minimum.at(least, i, label[j])
        least = least[least]
        if (least == label).all():
            return label
        label = least


def best(face: Array, landmark: Array, scores: Array, count: int) -> tuple[Array, Array]:
    """At most one candidate for each landmark of a face: that with the highest score.

    Args:
        face: (n,) see `faces`. landmark: (n,) which it is a candidate for. scores: (n,). count: landmarks of a face.

    Returns:
        The faces' names (m,), and the candidates' indices (m, count), -1 for landmarks that are missing.
    """
    names, place = np.unique(face, return_inverse=True)
    chosen = np.full((len(names), count), -1)
    rising = np.argsort(scores, kind="stable")
    chosen[place[rising], landmark[rising]] = rising  # of several the last stays
    return names, chosen
