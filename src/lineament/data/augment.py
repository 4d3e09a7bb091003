"""Changes to a photo together with its labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lineament.data.sample import Sample

Array = NDArray[Any]


def turn(image: Array, sample: Sample, degrees: float) -> tuple[Array, Sample]:
    """The photo turned counter-clockwise around its centre, on a canvas of the same size, black where it ends.

    A box becomes the box of the same size around its turned centre, which is right for what is about as high as wide.

    Args:
        image: (h, w, 3) uint8. sample: its labels. degrees: any angle.
    """
    h, w = image.shape[:2]
    radians = np.deg2rad(degrees)
    forward = np.array([[np.cos(radians), np.sin(radians)], [-np.sin(radians), np.cos(radians)]])
    centre = np.array([w / 2, h / 2])
    middles = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
    half = (sample.boxes[:, 2:] - sample.boxes[:, :2]) / 2
    moved = (middles - centre) @ forward.T + centre
    turned = replace(
        sample,
        boxes=np.concatenate([moved - half, moved + half], axis=1).astype(np.float32),
        landmarks=((sample.landmarks - centre) @ forward.T + centre).astype(np.float32),
    )
    picture = Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR)
    return np.asarray(picture), turned
