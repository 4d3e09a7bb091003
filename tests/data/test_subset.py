"""Evenly spaced parts of a sequence."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lineament.data.subset import evenly_spaced


@pytest.mark.parametrize(
    ("total", "count", "wanted"),
    [(90, 2, [0, 89]), (5, 3, [0, 2, 4]), (3, 9, [0, 1, 2]), (4, 4, [0, 1, 2, 3]), (0, 3, []), (3, 0, []), (7, 1, [0])],
)
def test_parts_reach_from_end_to_end(total: int, count: int, wanted: list[int]) -> None:
    assert evenly_spaced(range(total), count) == wanted


@pytest.mark.parametrize(("total", "count"), [(90, 48), (79_999, 40_000), (100, 99)])
def test_the_parts_are_as_many_as_asked_and_different(total: int, count: int) -> None:
    found = evenly_spaced(range(total), count)
    assert len(set(found)) == len(found) == count
    steps = [after - before for before, after in pairwise(found)]
    assert max(steps) <= min(steps) + 1
