"""Aligned crops of the faces of photo files, with what is needed to choose among them.

People who train face recognition need the faces of many photos upright and at one size, and numbers by which to leave
out the blurred, turned and doubtful ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from lineament.boxes import longer_side
from lineament.checks import number
from lineament.detector import Detector
from lineament.files import whole
from lineament.images import read_image
from lineament.schemas import FIVE, convert
from lineament.similarity import TEMPLATE, align

Array = NDArray[Any]

DEPTH = np.array([0.0, 0.0, 0.13, 0.03, 0.03])
"""How far the five points stand out from the plane of the eyes, in units of the template: nose 26 mm, mouth 6 mm."""
GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, eq=False)
class AlignedFace:
    """A crop that was written. The fields are the columns of a manifest.

    Attributes:
        path: The photo.
        face: Index of the face in the photo, best score first.
        crop: The file of the crop.
        score: Confidence score, 0 to 1.
        box: (4,) ``x1, y1, x2, y2`` in pixels of the photo.
        matrix: (2, 3) from pixels of the photo to those of the crop.
        scale: Pixels of the crop per pixel of the photo. Above 1, the crop is enlarged.
        sharpness: See ``sharpness``.
        pose: (3,) yaw, pitch and roll, see ``pose``.
    """

    path: Path
    face: int
    crop: Path
    score: float
    box: Array
    matrix: Array
    scale: float
    sharpness: float
    pose: Array

    COLUMNS = (
        *("path", "face", "crop", "score", "x1", "y1", "x2", "y2"),
        *("m11", "m12", "m13", "m21", "m22", "m23", "scale", "sharpness", "yaw", "pitch", "roll"),
    )

    def row(self) -> list[str | int | float]:
        """The values of the columns, rounded."""
        return [
            *(str(self.path), self.face, str(self.crop), round(self.score, 4)),
            *self.box.astype(float).round(2).tolist(),
            *self.matrix.ravel().round(6).tolist(),
            *(round(self.scale, 4), round(self.sharpness, 2)),
            *self.pose.round(1).tolist(),
        ]


def align_photo(
    source: str | os.PathLike[str],
    name: Callable[[int], Path],
    detector: Detector,
    *,
    size: int = 112,
    template: ArrayLike = TEMPLATE,
    threshold: float | None = None,
    min_face: float | None = None,
    largest: bool = False,
) -> list[AlignedFace]:
    """Write an aligned crop of each face of a photo.

    Args:
        source: The file.
        name: Returns the file of a crop from the index of the face. Its suffix is the format.
        detector: Detects the faces.
        size: Side of a crop in pixels.
        template: (5, 2) positions of the landmarks, as in ``lineament.align``.
        threshold: As in ``Detector.detect``.
        min_face: As in ``Detector.detect``.
        largest: The largest face alone.

    Returns:
        The crops, in the order of the faces. Faces with fewer than two of the five landmarks are left out.

    Raises:
        ImageError: The photo cannot be read.
        OptionError: An argument is out of range, or landmarks cannot be reduced to five.
    """
    image = read_image(source)
    faces = detector.detect(image, threshold=threshold, min_face=min_face)
    points = convert(faces.landmarks, faces.schema, FIVE)
    index = np.flatnonzero(np.isfinite(points).all(axis=2).sum(axis=1) >= 2)
    if largest and len(index):
        index = index[[longer_side(faces.boxes[index]).argmax()]]
    aligned = align(image, faces[index], size=size, template=template)
    sharp, turned = sharpness(aligned.crops), pose(points[index])
    written = []
    for i, (face, crop) in enumerate(zip(index.tolist(), aligned.crops, strict=True)):
        with whole(name(face)) as part:
            Image.fromarray(crop).save(part, quality=95)
        matrix = aligned.matrices[i]
        written.append(
            AlignedFace(
                path=Path(source),
                face=face,
                crop=name(face),
                score=float(faces.scores[face]),
                box=faces.boxes[face],
                matrix=matrix,
                scale=float(np.hypot(*matrix[:, 0])),
                sharpness=float(sharp[i]),
                pose=turned[i],
            )
        )
    return written


def with_margin(template: ArrayLike, margin: float) -> NDArray[np.float64]:
    """Move the points (5, 2) of a template towards its middle, so that a crop shows more.

    Args:
        template: (5, 2) positions, divided by the side of the crop.
        margin: What is added on each side, as a share of the crop without a margin.

    Raises:
        OptionError: The margin is out of range.
    """
    margin = number(margin, "margin is a share of the crop, above -0.25 and up to 5", low=-0.25, high=5)
    return np.asarray((np.asarray(template, float) - 0.5) / (1 + 2 * margin) + 0.5)


def sharpness(crops: Array) -> NDArray[np.float64]:
    """The variance of the Laplacian of the grey values (n,), over the middle half of crops (n, h, w, 3) uint8.

    Crops of one size are compared with each other. Enlarged and blurred faces have small values.
    """
    n, height, width = crops.shape[:3]
    if not n or min(height, width) < 8:
        return np.zeros(n)
    grey = crops[:, height // 4 : -(height // 4), width // 4 : -(width // 4)].astype(np.float32) @ GREY
    middle = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return np.asarray((around - 4 * middle).var(axis=(1, 2), dtype=np.float64))


def pose(points: Array) -> NDArray[np.float64]:
    """Estimate yaw, pitch and roll (n, 3) in degrees from five landmarks (n, 5, 2).

    A mean face in three dimensions is fitted to the landmarks, seen from far away (scaled orthography). Faces differ,
    so expect errors of ten degrees: enough to tell frontal faces from turned ones.

    Returns:
        Yaw is positive if the nose points to the right of the image, pitch if it points down, roll if the head is
        turned clockwise in the image. NaN if a landmark is missing.
    """
    model = np.column_stack([TEMPLATE, DEPTH])
    points = np.asarray(points, np.float64)
    centred = np.swapaxes(points - points.mean(axis=1, keepdims=True), 1, 2)
    axes = centred @ np.linalg.pinv(model - model.mean(axis=0)).T  # (n, 2, 3): where right, down and out point to
    with np.errstate(invalid="ignore", divide="ignore"):
        nose = axes[:, :, 2] / np.linalg.norm(axes, axis=2).mean(axis=1, keepdims=True)
        roll = np.arctan2(axes[:, 1, 0], axes[:, 0, 0])
        turned = (nose[:, 0] + 1j * nose[:, 1]) * np.exp(-1j * roll)
        yaw, pitch = (np.arcsin(np.clip(part, -1, 1)) for part in (turned.real, turned.imag))
    return np.degrees(np.stack([yaw, pitch, roll], axis=1))
