"""The frame of a face: upright, with its five landmarks close to fixed positions of a square crop.

Training and inference share it. Coordinates of the frame are fractions of the crop's side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lineament import similarity
from lineament.conventions import convention
from lineament.similarity import TEMPLATE

Array = NDArray[Any]

CENTRE = np.array([0.5, 0.68])  # centre of the face in the template of recognition crops, half way from brows to chin
EYES = float(TEMPLATE[1, 0] - TEMPLATE[0, 0])  # distance between the eyes at zoom 1


def template(zoom: float) -> Array:
    """Positions (5, 2) of the five landmarks. At zoom 1, the eyes are 0.314 apart, as in recognition crops."""
    return np.asarray(0.5 + zoom * (TEMPLATE - CENTRE))


def matrices(points: ArrayLike, boxes: ArrayLike, zoom: float) -> Array:
    """Transforms from the image into the frame of each face.

    Args:
        points: (n, 5, 2) in pixels. With fewer than two distinct points, the box decides.
        boxes: (n, 4) in pixels, from hairline to chin.
        zoom: See `template`.

    Returns:
        (n, 2, 3) float64 similarity transforms. NaN for a face with fewer than two points and an empty box.
    """
    target = template(zoom)
    found = similarity.fit(points, target)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_box = similarity.fit(convention("wider").points(boxes), target)
    fitted = np.where(np.isfinite(found).all(axis=(1, 2), keepdims=True), found, by_box)
    return np.where(np.isfinite(fitted).all(axis=(1, 2), keepdims=True), fitted, np.nan)
