"""Cover faces: blurred, pixelated, by a colour or by a picture.

All styles paint a small grid of values over a face, enlarged to its size. For "blur" and "pixelate" these are means of
the face's own pixels, so however large a face is, no more than the grid is left of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lineament.boxes import grown
from lineament.checks import number, whole
from lineament.errors import OptionError
from lineament.faces import Faces, expect_faces
from lineament.images import Color, Source, read_image

Array = NDArray[Any]
Style = Literal["blur", "pixelate", "solid", "picture"]
Shape = Literal["ellipse", "box"]


@dataclass(frozen=True, eq=False)
class Cover:
    """How faces are covered.

    Attributes:
        style: "blur", "pixelate", "solid" (a colour) or "picture".
        shape: "ellipse" or "box".
        margin: Enlargement of the bounding box on each side, as a share of its width and height.
        rim: Further enlargement on each side, as a share of the longer side of the image. Boxes are wrong by some
            pixels of the detector's input, whatever the size of the face, so small faces need more than a margin.
        cells: For "blur" and "pixelate": number of means over the longer side of the bounding box.
        color: For "solid": RGB, whole numbers from 0 to 255.
        picture: For "picture": (h, w, 3) or, with opacity, (h, w, 4) uint8. It is stretched over each face.

    Raises:
        OptionError: An attribute is out of range or of another type, or there is no picture.
    """

    style: Style = "blur"
    shape: Shape = "ellipse"
    margin: float = 0.03
    rim: float = 0.005
    cells: int = 3
    color: tuple[int, int, int] = (0, 0, 0)
    picture: Array | None = None

    def __post_init__(self) -> None:
        for name, kinds in (("style", get_args(Style)), ("shape", get_args(Shape))):
            if getattr(self, name) not in kinds:
                raise OptionError(f"{name} is one of {', '.join(kinds)}, found {getattr(self, name)!r}")
        number(self.margin, "margin is a share of a face's side, 0 to 10", low=0, high=10)
        number(self.rim, "rim is a share of the image's longer side, 0 to 1", low=0, high=1)
        whole(self.cells, "cells are 1 to 100", low=1, high=100)
        expected = "color is red, green and blue, each a whole number from 0 to 255"
        try:
            red, green, blue = self.color
        except (TypeError, ValueError):
            raise OptionError(f"{expected}, found {self.color!r:.80}") from None
        for value in (red, green, blue):
            whole(value, expected, low=0, high=255)
        if self.style == "picture":
            _check_picture(self.picture)

    def over(self, boxes: Array, size: tuple[int, int]) -> Array:
        """The boxes (n, 4) that are covered in an image of ``(width, height)``: bounding boxes, enlarged."""
        outwards = np.array([-1, -1, 1, 1]) * self.rim * max(size)
        return grown(np.asarray(boxes, np.float64).reshape(-1, 4), self.margin) + outwards

    @property
    def patch(self) -> Array | None:
        """What is painted, (h, w, 3) uint8; ``None`` if it is made of the face's own pixels."""
        if self.style == "solid":
            return np.array([[self.color]], np.uint8)
        return None if self.picture is None or self.style != "picture" else self.picture[..., :3]

    @property
    def opacity(self) -> Array | None:
        """The opacity of the picture (h, w) in [0, 1]; ``None`` if it has none."""
        if self.style != "picture" or self.picture is None or self.picture.shape[2] == 3:
            return None
        return self.picture[..., 3] / np.float32(255)


def _check_picture(picture: Any) -> None:
    """Raise unless this is a picture (h, w, 3) or (h, w, 4), uint8."""
    if isinstance(picture, np.ndarray):
        if picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] in (3, 4) and picture.size:
            return
        found = f"{picture.dtype} {picture.shape}"
    else:
        found = f"{picture!r:.80}"
    raise OptionError(
        f"style 'picture' takes a picture (h, w, 3) or (h, w, 4), uint8, by `picture` or --picture FILE, found {found}"
    )


BLUR = Cover()
"""The default."""


def redact(image: Source, faces: Faces, cover: Cover = BLUR, *, color: Color = "rgb") -> Image.Image:
    """Cover the faces in a copy of their image.

    Args:
        image: The image in which the faces were detected, in any form that ``read_image`` takes.
        faces: The faces to cover.
        cover: How.
        color: The channel order of an array, "rgb" or "bgr".

    Returns:
        A new RGB image with the size of the upright image.

    Raises:
        ImageError: The image cannot be read.
        OptionError: ``faces`` is not ``Faces``.
    """
    expect_faces(faces)
    pixels = np.array(read_image(image, color=color))
    paint([pixels], faces.boxes, cover)
    return Image.fromarray(pixels)


def paint(planes: Sequence[Array], boxes: Array, cover: Cover, patches: Sequence[Array | None] | None = None) -> None:
    """Cover faces, in place.

    Args:
        planes: (h, w) or (h, w, c) of any type of number: the image, or its components, of which some may have fewer
            pixels. The first has the size of the image.
        boxes: (n, 4) bounding boxes in pixels of the image.
        cover: How.
        patches: ``cover.patch`` in the colours of each plane. ``None``: the planes are one RGB image.
    """
    patches = [cover.patch] * len(planes) if patches is None else patches
    height, width = planes[0].shape[:2]
    for plane, patch in zip(planes, patches, strict=True):
        scale = np.tile([plane.shape[1] / width, plane.shape[0] / height], 2)
        for face, area in zip(np.asarray(boxes) * scale, cover.over(boxes, (width, height)) * scale, strict=True):
            _paint(plane, face, area, cover, patch)


def _paint(plane: Array, face: Array, area: Array, cover: Cover, patch: Array | None) -> None:
    """Cover one face with bounding box (4,) by what is painted into another box, in pixels of the plane."""
    limits = np.array(plane.shape[1::-1])
    left, top = np.clip(np.floor(area[:2]), 0, limits).astype(int).tolist()
    right, bottom = np.clip(np.ceil(area[2:]), 0, limits).astype(int).tolist()
    if left >= right or top >= bottom:
        return
    under = plane[top:bottom, left:right]
    corner = np.array([left, top])
    amount = _coverage(area - np.tile(corner, 2), (bottom - top, right - left), cover.shape)
    if patch is None:
        cell = max(float((face[2:] - face[:2]).max()) / cover.cells, 1e-6)
        cells = [max(round(side / cell), 1) for side in under.shape[:2]]
        means = _resampled(under.astype(np.float32), (cells[0], cells[1]))
        new = _resampled(means, under.shape[:2], smooth=cover.style == "blur")
    else:
        width, height = np.maximum(np.ceil(area[2:]) - np.floor(area[:2]), 1).astype(int).tolist()
        first = (corner - np.floor(area[:2])).astype(int)
        seen = np.s_[first[1] : first[1] + under.shape[0], first[0] : first[0] + under.shape[1]]
        new = _resampled(patch.astype(np.float32), (height, width))[seen]
        if cover.opacity is not None:
            amount = amount * _resampled(cover.opacity, (height, width))[seen]
    if plane.ndim == 3:
        amount = amount[..., None]
    mixed = under + (new - under) * amount
    under[:] = np.rint(mixed) if plane.dtype.kind in "ui" else mixed


def _coverage(area: Array, shape: tuple[int, int], form: Shape) -> Array:
    """How much of each pixel (h, w) a box or its ellipse covers, in [0, 1]."""
    xs, ys = np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5
    centre, half = (area[:2] + area[2:]) / 2, np.maximum((area[2:] - area[:2]) / 2, 0.5)
    away = np.abs(xs - centre[0]) / half[0], np.abs(ys - centre[1])[:, None] / half[1]
    radius = np.hypot(*away) if form == "ellipse" else np.maximum(*away)
    return np.clip((1 - radius) * half.min() + 0.5, 0, 1).astype(np.float32)


def _resampled(grid: Array, shape: tuple[int, int], *, smooth: bool = True) -> Array:
    """Resize (h, w) or (h, w, c): means where it shrinks; where it grows, bilinear or, if not smooth, nearest."""
    for axis, new in enumerate(shape):
        grid = np.moveaxis(np.tensordot(_weights(grid.shape[axis], new, smooth), grid, (1, axis)), 0, axis)
    return grid


def _weights(old: int, new: int, smooth: bool) -> Array:
    """The weights (new, old) of the values of an axis in each value of the resized axis."""
    if new < old:
        edges = np.arange(new + 1) * (old / new)
        cells = np.arange(old)
        shared = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
        weights = np.maximum(shared, 0) * (new / old)
    else:
        at = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
        away = np.abs((at if smooth else np.rint(at))[:, None] - np.arange(old))
        weights = np.maximum(1 - away, 0)
    return weights.astype(np.float32)
