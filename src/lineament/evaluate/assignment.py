"""Assign detections to faces: optimally, or as FDDB's official tool does."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.errors import LineamentError
from lineament.evaluate.extra import require

Array = NDArray[Any]
TOLERANCE = 1e-15
MOST_STEPS = 100_000  # the method may never end; published results need far fewer steps
ZERO, ONE, STAR = 0, 1, 2


def optimal(gains: Array) -> Array:
    """The gains (min(m, n),) of the pairs in the assignment with the largest sum, for gains (m, n)."""
    rows, columns = require("scipy.optimize").linear_sum_assignment(gains, maximize=True)
    return np.asarray(gains[rows, columns])


def official(gains: Array) -> Array:
    """The gains (min(m, n),) of the pairs that FDDB's tool assigns, for gains (m, n).

    The tool's solver looks for a cover ``u_i + v_j >= gain_ij`` of least sum (Kuhn's method). A mistake in the choice
    of the step makes it stop too early in some cases. A row without a partner then counts as a partner of column 0.
    """
    if not gains.size:
        return np.zeros(0)
    wide = gains if gains.shape[0] <= gains.shape[1] else gains.T
    partners = _Kuhn(wide.tolist()).solve()
    return wide[np.arange(len(wide)), partners]


class _Kuhn:
    """One problem with no more rows than columns. Marks: ONE where the cover is tight, STAR for a chosen pair."""

    def __init__(self, gains: list[list[float]]) -> None:
        self.gains = gains
        self.m, self.n = len(gains), len(gains[0])
        self.star_in_row: list[int | None] = [None] * self.m
        self.star_in_column: list[int | None] = [None] * self.n
        rows = [max(0.0, *row) for row in gains]
        columns = [max(0.0, *column) for column in zip(*gains, strict=True)]
        self.by_rows = sum(rows) <= sum(columns)
        self.u = rows if self.by_rows else [0.0] * self.m
        self.v = [0.0] * self.n if self.by_rows else columns

    def solve(self) -> list[int]:
        """The column of each row."""
        self._mark()
        self._first_stars()
        for _ in range(MOST_STEPS):
            essential = self._augment()
            if not self._improve_cover(essential):
                return [0 if column is None else column for column in self.star_in_row]
            self._mark()
        raise LineamentError(f"FDDB's assignment did not end within {MOST_STEPS} steps; use the optimal one")

    def _mark(self) -> None:
        """Mark tight cells. A star that is no longer tight is removed."""
        self.tight = [
            [abs(u + v - gain) < TOLERANCE for v, gain in zip(self.v, row, strict=True)]
            for u, row in zip(self.u, self.gains, strict=True)
        ]
        for i, j in enumerate(self.star_in_row):
            if j is not None and not self.tight[i][j]:
                self.star_in_row[i] = self.star_in_column[j] = None

    def _star(self, i: int, j: int) -> None:
        self.star_in_row[i], self.star_in_column[j] = j, i

    def _first_stars(self) -> None:
        if self.by_rows:
            cells = ((i, j) for i in range(self.m) for j in range(self.n))
        else:
            cells = ((i, j) for j in range(self.n) for i in range(self.m))
        for i, j in cells:
            if self.tight[i][j] and self.star_in_row[i] is None and self.star_in_column[j] is None:
                self._star(i, j)

    def _augment(self) -> set[int]:
        """Extend the matching along alternating paths while there are any. Returns the essential rows."""
        while True:
            essential: set[int] = set()
            path = self._find_path(essential)
            if path is None:
                return essential
            for i, _ in path[1::2]:
                self.star_in_row[i] = None
            for i, j in path[::2]:
                self._star(i, j)

    def _find_path(self, essential: set[int]) -> list[tuple[int, int]] | None:
        """The cells of an alternating path, tight and starred in turn, from a column without a star to a row without
        one.

        The search returns to rows that it knows to be essential, as in the tool.
        """
        for start in range(self.n):
            if self.star_in_column[start] is not None:
                continue
            for first in range(self.m):
                if self.tight[first][start] and (path := self._follow((first, start), essential)):
                    return path
        return None

    def _follow(self, cell: tuple[int, int], essential: set[int]) -> list[tuple[int, int]] | None:
        path = [cell]
        from_row = 0
        for _ in range(MOST_STEPS):
            row = path[-1][0]
            column = self.star_in_row[row]
            if column is None:
                return path
            used = {i for i, _ in path}
            following = next((k for k in range(from_row, self.m) if self.tight[k][column] and k not in used), None)
            if following is not None:
                path += [(row, column), (following, column)]
                from_row = 0
                continue
            essential.add(row)
            if len(path) == 1:
                return None
            from_row = row + 1
            del path[-2:]
        raise LineamentError(f"FDDB's assignment did not end within {MOST_STEPS} steps; use the optimal one")

    def _improve_cover(self, essential: set[int]) -> bool:
        """One step of the dual. False if there is none left."""
        rows = [i for i in range(self.m) if i not in essential]
        held = {j for i in rows if (j := self.star_in_row[i]) is not None}
        columns = [j for j in range(self.n) if j not in held]
        step = 0.0
        for i in rows:
            for j in columns:
                slack = self.u[i] + self.v[j] - self.gains[i][j]
                # The mistake: a least slack of zero gives way to whatever follows it.
                if abs(step) < TOLERANCE or -TOLERANCE < slack < step:
                    step = slack
        if abs(step) < TOLERANCE:
            return False
        if any(self.u[i] == 0 for i in rows):
            step = min(step, *(self.v[j] for j in columns))
            for i in essential:
                self.u[i] += step
            for j in columns:
                self.v[j] -= step
        else:
            step = min(step, *(self.u[i] for i in rows))
            for i in rows:
                self.u[i] -= step
            for j in held:
                self.v[j] += step
        return True
