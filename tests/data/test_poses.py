"""Profiles: points of a head that is turned in space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lineament.data.poses import is_profile
from lineament.data.sample import Sample

HEAD = np.array([[-1, -0.55, 0], [1, -0.55, 0], [0, 0, -0.8], [-0.8, 0.45, 0], [0.8, 0.45, 0]])
"""Eyes, nose and corners of a mouth: right, down, away from the camera."""


def seen(axis: int, degrees: float) -> NDArray[np.float64]:
    """The head (5, 2) after a rotation around x, y or z."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    first, second = (other for other in range(3) if other != axis)
    matrix = np.eye(3)
    matrix[[first, first, second, second], [first, second, first, second]] = cosine, -sine, sine, cosine
    return 20 * (HEAD @ matrix.T)[:, :2] + 50


def of(points: NDArray[np.float64], **labels: object) -> bool:
    sample = Sample.of(Path("one.png"), [[0, 0, 100, 100]], [points], size=(100, 100), **labels)
    return bool(is_profile(sample)[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_profile_is_turned_by_over_30_degrees(axis: int, sign: int) -> None:
    assert not of(seen(axis, 0))
    assert not of(seen(axis, sign * 20))
    assert of(seen(axis, sign * 42))


def test_faces_without_landmarks_and_ignored_ones_are_none() -> None:
    turned = seen(2, 60)
    assert of(turned)
    assert of(seen(1, 90))
    assert is_profile(Sample.of(Path("none.png"), [], size=(100, 100))).shape == (0,)
    assert not of(np.full((5, 2), np.nan))
    assert not of(turned, ignore=[True])
