"""Link the faces of a video over its frames.

`Tracker` links frame by frame, as a camera needs it. `link` links a whole video, whose `Tracks` can then be completed
with what is known only later: gaps are filled, and faces are held before they are first and after they are last seen.

Trackers of other packages bring OpenCV, SciPy or torch along; faces that move little from frame to frame need none of
their means. A face here is predicted to go on with its velocity, and linked to the detection that overlaps it most.
Boxes are enlarged before they are compared, so that small and fast faces overlap as well (Yang et al. 2023). Faint
detections are linked after the others (Zhang et al. 2022), and a track counts once one of its detections is sure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.boxes import centre, iou, longer_side
from lineament.checks import number, whole

Array = NDArray[Any]

BUFFER = 0.5
"""Enlargement of boxes on each side, as a share of their sides, before they are compared."""
SIMILAR = 0.3
"""Lowest overlap of enlarged boxes that are linked."""
INERTIA = 0.5
"""Share of the velocity that a new detection leaves."""
FRICTION = 0.85
"""Share of the velocity that a frame without the face leaves."""
ALIKE = 0.5
"""Lowest correlation of two successive frames of a shot."""
GROWTH = 3.0
"""How fast the needed mean score grows with the side of a face, as a share of the frame's."""
MOST = 2.5
"""Largest factor by which it grows."""
REACH = 4
"""Number of detections over which the velocity at the end of a track is measured."""
FLAT = 2.0
"""Standard deviation of the grey values of a frame that shows nothing."""


class Tracker:
    """Links detections frame by frame."""

    def __init__(self, *, threshold: float = 0.5, gap: int = 15) -> None:
        """Start without tracks.

        Args:
            threshold: Detections with a lower score are faint: they are linked after the others.
            gap: Largest number of frames in which a track may not be seen.

        Raises:
            OptionError: An argument is out of range.
        """
        self._threshold = number(threshold, "threshold must lie in [0, 1]", low=0, high=1)
        self._gap = whole(gap, "gap is a number of frames, at least 0", low=0)
        self._next = 0
        self._clear()

    def _clear(self) -> None:
        self._id, self._missed = np.zeros(0, np.intp), np.zeros(0, np.intp)
        self._state, self._velocity = np.zeros((0, 4)), np.zeros((0, 4))

    def cut(self) -> None:
        """End all tracks: what follows is another shot."""
        self._clear()

    def update(self, boxes: Array, scores: Array) -> NDArray[np.intp]:
        """Link the detections of the next frame.

        Args:
            boxes: (n, 4) in pixels.
            scores: (n,) in [0, 1].

        Returns:
            (n,) the number of each detection's track. Numbers rise from 0 on and are not used again.
        """
        seen = _to_state(np.asarray(boxes, np.float64).reshape(-1, 4))
        expected = self._state + self._velocity
        similar = iou(_to_boxes(expected, BUFFER), _to_boxes(seen, BUFFER))
        similar[similar < SIMILAR] = 0
        similar += (similar > 0) * (np.asarray(scores) >= self._threshold)  # sure ones first
        old, new = _best_pairs(similar)
        ids = np.full(len(seen), -1, np.intp)
        ids[new] = self._id[old]
        born = np.flatnonzero(ids < 0)
        ids[born] = self._next + np.arange(len(born))
        self._next += len(born)

        moved = seen[new] - self._state[old]
        known = self._velocity[old]
        lost = np.setdiff1d(np.arange(len(self._id)), old)
        lost = lost[self._missed[lost] < self._gap]
        self._velocity = np.concatenate(
            [INERTIA * known + (1 - INERTIA) * moved, FRICTION * self._velocity[lost], np.zeros((len(born), 4))]
        )
        self._state = np.concatenate([seen[new], expected[lost], seen[born]])
        self._missed = np.concatenate([np.zeros(len(new), np.intp), self._missed[lost] + 1, np.zeros_like(born)])
        self._id = np.concatenate([ids[new], self._id[lost], ids[born]])
        return ids


def _to_state(boxes: Array) -> Array:
    """Boxes (n, 4) as centre, and logarithms of width and height."""
    with np.errstate(divide="ignore"):
        size = np.log(np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-3))
    return np.concatenate([centre(boxes), size], axis=1)


def _to_boxes(state: Array, buffer: float = 0.0) -> Array:
    """Inverse of ``_to_state``; enlarged on each side by a share of the sides."""
    half = np.exp(state[:, 2:]) * (0.5 + buffer)
    return np.concatenate([state[:, :2] - half, state[:, :2] + half], axis=1)


def _best_pairs(similar: Array) -> tuple[Array, Array]:
    """Rows and columns of a greedy assignment: the most similar pair, then the most similar of what is left."""
    rows, columns = [], []
    left = similar.copy()
    while left.size and left.max() > 0:
        best = left.argmax(axis=1)  # pairs that are each other's best do not depend on others
        mutual = np.flatnonzero((left.max(axis=1) > 0) & (left.argmax(axis=0)[best] == np.arange(len(left))))
        rows.append(mutual)
        columns.append(best[mutual])
        left[mutual] = 0
        left[:, best[mutual]] = 0
    none = np.zeros(0, np.intp)
    return np.concatenate([none, *rows]), np.concatenate([none, *columns])


@dataclass(frozen=True, eq=False)
class Tracks:
    """The faces of a video, one row for each face in a frame, ordered by track and frame.

    Attributes:
        track: (m,) number of the track.
        frame: (m,) number of the frame.
        boxes: (m, 4) float64 in pixels.
        scores: (m,) confidence scores in [0, 1]; 0 where the face was not detected but filled in or held.
    """

    track: NDArray[np.intp]
    frame: NDArray[np.intp]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.track)

    def __getitem__(self, rows: Any) -> Tracks:
        return Tracks(self.track[rows], self.frame[rows], self.boxes[rows], self.scores[rows])

    def counted(self, best: float, mean: float, side: float) -> Tracks:
        """The tracks whose best score and mean score are high enough.

        A face is detected in most frames of its track. A pattern that looks like a face in a single frame is not. A
        large face is detected more surely than a small one, so its mean has to be higher.

        Args:
            best: Lowest best score.
            mean: Lowest mean score of a tiny face, frames without a detection included.
            side: Longer side of the frames in pixels.
        """
        if not len(self):
            return self
        start = np.flatnonzero(np.diff(self.track, prepend=-1))
        length = np.diff(start, append=len(self))
        size = np.maximum.reduceat(longer_side(self.boxes), start) / side
        needed = mean * np.minimum(1 + GROWTH * size, MOST)
        counts = np.maximum.reduceat(self.scores, start) >= best
        counts &= np.add.reduceat(self.scores, start) >= needed * length
        return self[np.repeat(counts, length)]

    def filled(self) -> Tracks:
        """The tracks without gaps: between two detections, boxes are interpolated."""
        if not len(self):
            return self
        steps = np.diff(self.frame, append=self.frame[-1] + 1)
        steps[np.diff(self.track, append=-1) != 0] = 1
        row = np.repeat(np.arange(len(self)), steps)
        offset = np.arange(len(row)) - np.repeat(np.cumsum(steps) - steps, steps)
        share = (offset / steps[row])[:, None]
        after = np.minimum(row + 1, len(self) - 1)
        return Tracks(
            self.track[row],
            self.frame[row] + offset,
            (1 - share) * self.boxes[row] + share * self.boxes[after],
            np.where(offset == 0, self.scores[row], 0),
        )

    def held(self, frames: int, shots: Array) -> Tracks:
        """The tracks, prolonged at both ends within their shots.

        A face goes on with the velocity that it had, less in each further frame. It is held over half as many frames
        as it was detected in at most: what lights up for a moment is rarely a face.

        Args:
            frames: Largest number of frames before a face is first and after it is last detected.
            shots: (frames of the video,) number of the shot of each frame.
        """
        if not len(self) or not frames:
            return self
        start = np.flatnonzero(np.diff(self.track, prepend=-1))
        end = np.append(start[1:], len(self)) - 1
        inside = np.minimum(end - start, REACH)
        most = np.minimum(np.add.reduceat((self.scores > 0).astype(np.intp), start) // 2, frames)
        parts = [
            self,
            self._beyond(start, start + inside, -1, most, shots),
            self._beyond(end, end - inside, 1, most, shots),
        ]
        columns = (np.concatenate(column) for column in zip(*(part.columns for part in parts), strict=True))
        joined = Tracks(*columns)
        return joined[np.lexsort([joined.frame, joined.track])]

    def _beyond(self, at: Array, inner: Array, way: int, most: Array, shots: Array) -> Tracks:
        """What follows rows or, if ``way`` is -1, precedes them: up to so many frames, with the velocity since inner
        rows.
        """
        state = _to_state(self.boxes)
        apart = np.maximum(np.abs(self.frame[at] - self.frame[inner]), 1)
        velocity = (state[at] - state[inner]) / apart[:, None] * [1, 1, 0, 0]
        step = np.arange(1, most.max() + 1)
        distance = np.cumsum(FRICTION**step)
        frame = self.frame[at, None] + way * step
        there = (step <= most[:, None]) & (frame >= 0) & (frame < len(shots))
        there[there] = shots[frame[there]] == np.repeat(shots[self.frame[at]], there.sum(axis=1))
        row, number_ = np.nonzero(there)
        boxes = _to_boxes(state[at[row]] + velocity[row] * distance[number_, None])
        return Tracks(self.track[at[row]], frame[there], boxes, np.zeros(len(row)))

    def by_frame(self, frames: int) -> list[Tracks]:
        """The faces of each frame of a video with so many frames."""
        ordered = self[np.argsort(self.frame, kind="stable")]
        ends = np.searchsorted(ordered.frame, np.arange(frames + 1))
        return [ordered[start:end] for start, end in pairwise(ends)]

    @property
    def columns(self) -> tuple[Array, ...]:
        """All attributes."""
        return self.track, self.frame, self.boxes, self.scores


def link(detections: Iterable[tuple[Array, Array]], shots: Array, *, threshold: float = 0.5, gap: int = 15) -> Tracks:
    """Link the detections of a whole video.

    Args:
        detections: Of each frame, boxes (n, 4) in pixels and scores (n,).
        shots: (frames,) number of the shot of each frame. Tracks end where a shot ends.
        threshold: See `Tracker`.
        gap: See `Tracker`.
    """
    tracker = Tracker(threshold=threshold, gap=gap)
    found: list[tuple[Array, ...]] = [(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros((0, 4)), np.zeros(0))]
    for number_, (boxes, scores) in enumerate(detections):
        if number_ and shots[number_] != shots[number_ - 1]:
            tracker.cut()
        ids = tracker.update(boxes, scores)
        found.append((ids, np.full(len(ids), number_), boxes, scores))
    tracks = Tracks(*(np.concatenate(column) for column in zip(*found, strict=True)))
    return tracks[np.lexsort([tracks.frame, tracks.track])]


class Shots:
    """Finds the cuts of a video: frames that have nothing in common with the one before.

    Frames are compared by their correlation, so a flash or a fade is no cut.
    """

    def __init__(self) -> None:
        self._before: Array | None = None
        self._shot = 0

    def update(self, grey: Array) -> int:
        """The number of the shot of the next frame.

        Args:
            grey: (h, w) a small version of the frame, the same size for all.
        """
        now = np.asarray(grey, np.float64)
        now = now - now.mean()
        deviation = now.std()
        now = now / deviation if deviation > FLAT else np.zeros_like(now)
        if self._before is not None:
            flat = not now.any(), not self._before.any()
            alike = float((now * self._before).mean()) if not any(flat) else float(all(flat))
            self._shot += alike < ALIKE
        self._before = now
        return self._shot
