"""Anchors against loops and by hand, and their number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lineament.anchors import Level, all_anchors, anchors, grid, octaves
from lineament.boxes import area


def test_a_grid_has_the_centres_of_its_cells() -> None:
    centres = grid(20, 12, 8)
    assert centres.shape == (2, 3, 2)
    assert centres[0].tolist() == [[4, 4], [12, 4], [20, 4]]
    assert centres[1, 0].tolist() == [4, 12]


@pytest.mark.parametrize(("width", "height"), [(32, 32), (40, 16), (33, 7)])
def test_anchors_are_those_of_the_loops(width: int, height: int) -> None:
    level = Level(8, (10.0, 30.0), (0.5, 1.0, 2.0))
    found = anchors(width, height, level)
    assert found.shape == (math.ceil(height / 8), math.ceil(width / 8), 6, 4)
    for row, column in np.ndindex(found.shape[:2]):
        x, y = 8 * column + 4, 8 * row + 4
        wanted = []
        for side in level.sides:
            for ratio in level.ratios:
                w, h = side / math.sqrt(ratio), side * math.sqrt(ratio)
                assert h / w == pytest.approx(ratio)
                wanted.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        np.testing.assert_allclose(found[row, column], wanted)
    np.testing.assert_allclose(area(found)[0, 0], np.repeat(np.square(level.sides), 3))


def test_three_an_octave_at_five_strides_are_102_300() -> None:
    levels = octaves((4, 8, 16, 32, 64))
    assert [level.sides[0] for level in levels] == [16, 32, 64, 128, 256]
    assert levels[-1].sides[-1] == pytest.approx(256 * 2 ** (2 / 3))
    found = all_anchors(640, 640, levels)
    assert found.shape == (102_300, 4)
    np.testing.assert_array_equal(found[: 160 * 160 * 3].reshape(160, 160, 3, 4), anchors(640, 640, levels[0]))
    np.testing.assert_array_equal(found[-1], anchors(640, 640, levels[-1])[-1, -1, -1])


def test_anchors_are_made_once_and_cannot_be_spoilt() -> None:
    level = Level(8, (10.0,))
    assert anchors(64, 64, level) is anchors(64, 64, level)
    with pytest.raises(ValueError, match="read-only"):
        anchors(64, 64, level)[:] = 0
