"""How faces are turned, by their landmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.data.sample import Sample
from lineament.schemas import FIVE, convert, is_convertible

Array = NDArray[Any]
PROFILE = 30
"""Degrees of roll, yaw or pitch from which on a face is a profile, as in the paper on KPNet."""


def is_profile(sample: Sample) -> Array:
    """Which faces (n,) of a photo are turned by over `PROFILE` degrees. Not those that lack one of the five points.

    Nor those that are ignored, or that have landmarks of a schema without these points.

    Roll is that of the eyes. Yaw and pitch move the nose along the line of the eyes and across it, since it stands out
    from the face by two fifths of the distance of the eyes. In a frontal face, it lies midway between the eyes, and at
    0.55 of the way to the mouth.
    """
    if not is_convertible(sample.schema, FIVE):
        return np.zeros(len(sample.boxes), bool)
    points = convert(sample.landmarks, sample.schema, FIVE)
    right, left, nose, *mouth = np.moveaxis(points.astype(float), 1, 0)
    across, down = left - right, np.mean(mouth, axis=0) - (right + left) / 2
    eyes, height = np.linalg.norm(across, axis=1), np.linalg.norm(down, axis=1)
    from_middle = nose - (right + left) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        roll = np.abs(np.rad2deg(np.arctan2(across[:, 1], across[:, 0])))
        yaw = np.arctan(np.abs((from_middle * across).sum(1)) / eyes**2 / 0.4)
        pitch = np.arctan(np.abs((from_middle * down).sum(1) / height**2 - 0.55) * height / eyes / 0.4)
        angle = np.fmax(roll, np.rad2deg(np.fmax(yaw, pitch)))
    is_turned = (angle > PROFILE) | (eyes == 0)  # of a pure profile, both eyes are one point
    return np.asarray(is_turned & ~np.isnan(points).any(axis=(1, 2)) & ~sample.ignore)
