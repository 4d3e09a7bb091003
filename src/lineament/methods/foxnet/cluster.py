"""From landmark candidates to faces: mean shift on embeddings and positions (Wu et al. 2019, section II C).

Candidates of one face have similar embeddings and lie within about a face's size of each other. So the neighbours of a
candidate are searched around its position, and mean shift runs among them. The cost grows as n log n, however many
faces there are.

The paper's neighbour search is a tree. SciPy has one, but inference needs SciPy for nothing else, and SciPy is larger
than everything that inference installs besides onnxruntime. The sizes of the faces are known here, so lines through a
grid for each octave of sizes do as well: sorted once, and searched by bisection.

Mean shift does not start from every candidate: most of them climb to the same modes. It starts from the best candidate
of each cell of about a face's size. Candidates that no mode has reached start in the next rounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.errors import WeightsError

Array = NDArray[Any]

REACH = 0.8
"""Largest distance of candidates from the middle of their face, relative to its size. A box's corners are at 0.7."""
SLACK = 1.5
"""Neighbours lie within this times the reach, since modes move by up to half of it."""
LINES = 2
"""Lines of a grid above and below a candidate's own that its neighbours lie in."""
LIMITS = 1.0, 2.0**16
"""Smallest and largest size of a face in pixels. Networks that learned nothing predict any."""
FARTHER = 2.0
"""Squared distance, over the kernel's size, up to which an outlier belongs to a mode. Faces are at least at 1.6**2."""
STEPS = 20
STILL = 0.01
"""A mode has converged if it moves by less than this, relative to the bandwidth."""
TOGETHER = 0.5
"""Largest distance of two modes of one face, relative to the bandwidth."""


def bandwidth(distance: str, inner: float) -> float:
    """The bandwidth for embeddings, derived from the margin of their training.

    Two candidates of a face are apart by at most twice the margin. For unit vectors, this is an angle of
    ``2 arccos(1 - delta_v)``, and the bandwidth is its chord. It is at most that of a right angle, since the centres of
    faces can be that close with the working margins.

    Args:
        distance: "cosine" or "euclidean".
        inner: delta_v, above 0.
    """
    if distance == "euclidean":
        return 2 * inner
    return float(min(2 * np.sqrt(inner * (2 - inner)), np.sqrt(2)))


def faces(embeddings: Array, points: Array, sizes: Array, scores: Array, group: Array, *, width: float) -> Array:
    """Which face each candidate belongs to, by mean shift.

    The kernel is a ball around a mode, in which weights fall to 0 with the square of the distance. The square is the
    sum of two: the distance of embeddings over ``width``, and that of places over `REACH` times the size of the face.

    Args:
        embeddings: (n, d), of unit norm if they were trained with the cosine.
        points: (n, 2) in pixels.
        sizes: (n,) predicted sizes of their faces, in pixels.
        scores: (n,) above 0, their weights.
        group: (n,) integers from 0. Only candidates of one group are compared.
        width: See `bandwidth`.

    Returns:
        (n,) for each candidate the index of a candidate of its group, the same one for all candidates of a face.

    Raises:
        WeightsError: A value is not finite: the weights are damaged, or their training diverged.
    """
    bad = ~(np.isfinite(embeddings).all(axis=1) & np.isfinite(sizes) & np.isfinite(points).all(axis=1))
    if bad.any():
        raise WeightsError(
            f"embeddings of {bad.sum()} of {len(bad)} landmark candidates are not finite: these weights are damaged, "
            "or their training diverged. Load them anew, or train with a lower learning rate or clip=5"
        )
    if not len(points):
        return np.zeros(0, np.intp)
    sizes = np.clip(sizes, *LIMITS)
    octave = np.floor(np.log2(sizes))
    cell = _mixed(group, octave, *np.floor(points / 2 ** (octave[:, None] + 1)).T)
    features = np.column_stack([embeddings / width, points, np.log(sizes)]).astype(np.float32)
    near = Neighbours(points, sizes, group, SLACK * REACH)
    owner, modes, seeds = _climbed(features, scores.astype(np.float32), cell, near)
    return np.asarray(seeds[_together(modes, group[seeds])[owner]])


def _climbed(features: Array, scores: Array, cell: Array, near: Neighbours) -> tuple[Array, Array, Array]:
    """Modes, and the mode of each candidate.

    In each round, the best candidate of each cell climbs to its mode. A candidate belongs to the nearest mode, if that
    is in reach, and takes no part in further rounds. From the second round on, modes reach farther: what is left then
    are mostly outliers of faces that have a mode.

    Args:
        features: (n, d + 3) embedding over the bandwidth, position, logarithm of the size.
        scores: (n,) weights.
        cell: (n,) integers.
        near: The neighbours of all candidates.

    Returns:
        The index of each candidate's mode (n,), the modes (s, d + 3) and the candidates that climbed there (s,).
    """
    owner, least = np.zeros(len(scores), np.intp), np.full(len(scores), np.inf, features.dtype)
    modes, seeds, count, reach = [], [], 0, 1.0
    left = np.argsort(-scores, kind="stable")
    while len(left):
        start = left[np.unique(cell[left], return_index=True)[1]]
        i, j = near.of(start)
        reached, apart = _shifted(features, scores, start, i, j)
        apart[j == start[i]] = 0  # a candidate belongs where it climbed
        np.minimum.at(least, j, apart)
        nearest = apart == least[j]
        owner[j[nearest]] = i[nearest] + count
        modes.append(reached)
        seeds.append(start)
        count += len(start)
        left = left[least[left] > reach]
        reach = FARTHER
    return owner, np.concatenate(modes), np.concatenate(seeds)


def _shifted(features: Array, scores: Array, seeds: Array, i: Array, j: Array) -> tuple[Array, Array]:
    """Mean shift from seeds.

    Args:
        features: (n, d + 3) of all candidates: embedding over the bandwidth, position, logarithm of the size.
        scores: (n,) their weights.
        seeds: (s,) where to start.
        i: (m,) sorted indices of seeds.
        j: (m,) their neighbours, each seed's own candidate among them.

    Returns:
        The modes (s, d + 3), and the squared distances (m,) of the neighbours from them.
    """
    modes = features[seeds]
    climbing, at, members, weights = np.arange(len(seeds)), i, features[j], scores[j].astype(features.dtype)
    for _ in range(STEPS):
        old, starts = modes[climbing], np.searchsorted(at, np.arange(len(climbing)))
        kernel = np.maximum(1 - _apart(old[at], members), 0) * weights
        total = np.maximum(np.add.reduceat(kernel, starts), np.finfo(features.dtype).tiny)
        modes[climbing] = new = np.add.reduceat(kernel[:, None] * members, starts) / total[:, None]
        moving = _apart(new, old) >= STILL**2
        if not moving.any():
            break
        if moving.mean() < 0.8:  # the others stand, and need not be looked at again
            kept = moving[at]
            climbing, members, weights = climbing[moving], members[kept], weights[kept]
            at = (np.cumsum(moving) - 1)[at[kept]]
    return modes, _apart(modes[i], features[j])


def _apart(modes: Array, others: Array) -> Array:
    """Squared distance (m,) of features from modes, relative to the bandwidth."""
    apart = (modes - others)[:, :-1]
    apart[:, -2:] /= REACH * np.exp(modes[:, -1:])
    return np.asarray(np.einsum("md,md->m", apart, apart))


def _together(modes: Array, group: Array) -> Array:
    """For each mode (s,) the first one of its face."""
    near = Neighbours(modes[:, -3:-1], np.exp(modes[:, -1]), group, TOGETHER * REACH)
    i, j = near.of(np.arange(len(modes)))
    one = np.maximum(_apart(modes[i], modes[j]), _apart(modes[j], modes[i])) <= TOGETHER**2
    return _components(i[one], j[one], len(modes))


class Neighbours:
    """Finds the candidates near others.

    Each octave of sizes has a grid of lines. A candidate lies in the grids of its own octave and of the two beside it,
    in the order of its x. So the neighbours of a candidate are an interval of each of a few lines.
    """

    def __init__(self, points: Array, sizes: Array, group: Array, reach: float) -> None:
        """Sort the candidates.

        Args:
            points: (n, 2) in pixels, n at least 1.
            sizes: (n,) above 0, in pixels.
            group: (n,) integers. Neighbours are of one group.
            reach: Largest distance of a neighbour over the candidate's size.
        """
        self._points, self._sizes, self._radius = points, sizes, reach * sizes
        self._x = points[:, 0] - points[:, 0].min()
        self._width = self._x.max() + 2 * self._radius.max() + 1  # from line to line
        octaves = np.floor(np.log2(sizes)) + np.array([[0], [-1], [1]])
        row = np.floor(points[:, 1] / (reach * 2 ** (octaves + 1) / LINES))
        row -= row.min() - LINES
        line = _mixed(np.broadcast_to(group, octaves.shape), octaves) * (row.max() + LINES + 1) + row
        key = line * self._width + self._x
        self._line, order = line[0], np.argsort(key, axis=None)
        self._keys, self._candidates = key.ravel()[order], order % len(points)

    def of(self, rows: Array) -> tuple[Array, Array]:
        """All neighbours of some candidates: those in reach, with half to twice their size. Each is its own neighbour.

        Args:
            rows: (s,) indices of candidates.

        Returns:
            Indices (m,) into ``rows``, in order, and the indices (m,) of their neighbours.
        """
        lines = self._line[rows, None] + np.arange(-LINES, LINES + 1)
        middle, radius = lines * self._width + self._x[rows, None], self._radius[rows, None]
        start = np.searchsorted(self._keys, (middle - radius).ravel())
        count = np.searchsorted(self._keys, (middle + radius).ravel(), "right") - start
        i = np.repeat(np.repeat(np.arange(len(rows)), lines.shape[1]), count)
        j = self._candidates[np.arange(count.sum()) + np.repeat(start - np.cumsum(count) + count, count)]
        x, y = (self._points[rows[i]] - self._points[j]).T
        ratio = self._sizes[j] / self._sizes[rows[i]]
        near = (x**2 + y**2 <= self._radius[rows[i]] ** 2) & (ratio >= 0.5) & (ratio <= 2)
        return i[near], j[near]


def _mixed(*columns: Array) -> Array:
    """One integer for each combination of integers in columns of one shape."""
    mixed = np.zeros(columns[0].shape)
    for column in columns:
        mixed = mixed * (column.max() - column.min() + 1) + (column - column.min())
    return mixed


def _components(i: Array, j: Array, count: int) -> Array:
    """Connected components (count,) of a graph with edges in both orders, each by its smallest index."""
    label = np.arange(count)
    while True:
        least = label.copy()
        np.minimum.at(least, i, label[j])
        least = least[least]
        if (least == label).all():
            return label
        label = least


def best(face: Array, landmark: Array, scores: Array, count: int) -> tuple[Array, Array]:
    """Select the candidate with the highest score for each landmark of each face.

    Args:
        face: (n,) face of each candidate, as returned by `faces`.
        landmark: (n,) index of its landmark.
        scores: (n,) scores of the candidates.
        count: Number of landmarks of a face.

    Returns:
        The faces (m,), as in ``face``, and the indices (m, count) of their candidates, -1 for missing landmarks.
    """
    names, place = np.unique(face, return_inverse=True)
    chosen = np.full((len(names), count), -1)
    rising = np.argsort(scores, kind="stable")
    chosen[place[rising], landmark[rising]] = rising  # the last of several, the best, stays
    return names, chosen
