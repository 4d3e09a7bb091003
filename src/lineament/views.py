"""Views: what a network sees of an image (whole, overview, tiles, pyramid, mirrored), and the way back.

A view has pixels and a position in the image. Functions make single views. `Views` holds the views of all images of a
call, yields them in batches of one shape, and maps boxes and landmarks back to the images.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.images import resize
from lineament.schemas import Schema

Array = NDArray[Any]

EVERYWHERE = (-math.inf, -math.inf, math.inf, math.inf)


@dataclass(frozen=True)
class View:
    """A part of an image as a network sees it.

    Attributes:
        image: Index of the image.
        pixels: (h, w, 3) uint8. Black beyond the image.
        scale: Pixels of the view per pixel of the image.
        corner: (2,) position of the view's top left corner in pixels of the image, before mirroring.
        smallest: Smallest side of a face that counts in this view, in its pixels. Other views detect smaller faces.
        largest: Largest side of a face that counts in this view, in its pixels.
        inner: A box in pixels of the view. A face counts if its centre lies in it. Other views show the other faces.
        mirrored: Whether the view shows the image mirrored.
    """

    image: int
    pixels: Array
    scale: float
    corner: Array
    smallest: float = 0.0
    largest: float = math.inf
    inner: tuple[float, float, float, float] = EVERYWHERE
    mirrored: bool = False


def part(
    number: int,
    image: Array,
    *,
    scale: float,
    corner: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
    border: int = 0,
    multiple: int = 1,
) -> View:
    """Make a letterboxed view of a part of an image.

    Both axes have the same scale. A last row or column that the part would fill only in part is left out. At a scale of
    a half or less, pixels are averaged; otherwise they are bilinear.

    Args:
        number: Index of the image.
        image: (h, w, 3) uint8.
        scale: Pixels of the view per pixel of the image.
        corner: ``(x, y)`` of the top left corner of the part, in pixels of the image.
        size: ``(width, height)`` of the part, in pixels of the image. ``None``: to the end of the image.
        border: Width of the black border in pixels.
        multiple: Black padding to the right and below makes the sides multiples of this.
    """
    h, w = image.shape[:2]
    width, height = np.minimum(np.array([w, h]) - corner, size or (w, h))
    # 1e-9: 300 * (256 / 300) must not floor to 255
    new_w, new_h = (max(1, math.floor(length * scale + 1e-9)) for length in (width, height))
    full = [math.ceil((length + 2 * border) / multiple) * multiple for length in (new_h, new_w)]
    box = (
        float(corner[0]),
        float(corner[1]),
        min(corner[0] + width, corner[0] + new_w / scale),
        min(corner[1] + height, corner[1] + new_h / scale),
    )
    pixels = np.zeros((*full, 3), np.uint8)
    pixels[border : border + new_h, border : border + new_w] = resize(image, (new_w, new_h), box=box, means=True)
    return View(number, pixels, scale, np.array(corner) - border / scale)


def whole(number: int, image: Array, longer: int, *, margin: float = 0.0, multiple: int = 1) -> View:
    """Make a view of the whole image with a longer edge of ``longer`` pixels.

    Args:
        number: Index of the image.
        image: (h, w, 3) uint8.
        longer: Longer edge of the view in pixels, including the margin.
        margin: Black margin on each side as a share of ``longer``. It makes the image smaller.
        multiple: See ``part``.
    """
    border = round(margin * longer)
    scale = (longer - 2 * border) / max(image.shape[:2])
    return part(number, image, scale=scale, border=border, multiple=multiple)


def overview(view: View, longer: float, *, multiple: int = 1) -> View:
    """Resize a view so that its longer edge has ``longer`` pixels.

    It starts from the view, since resizing a large image again would take far longer.
    """
    ratio = longer / max(view.pixels.shape[:2])
    small = part(view.image, view.pixels, scale=ratio, multiple=multiple)
    return replace(small, scale=ratio * view.scale, corner=view.corner)


def tiles(number: int, image: Array, side: int, *, overlap: float, multiple: int = 1) -> Iterator[View]:
    """Cover an image with square tiles at full resolution. The last tiles end at the edge of the image.

    A face that the edge of a tile cuts is whole in the next tile. So the border between the faces that count in the one
    and in the other is the middle of what both show.

    Args:
        number: Index of the image.
        image: (h, w, 3) uint8.
        side: Side of a tile in pixels.
        overlap: Smallest share of a tile's side, in [0, 1), that it has in common with the next tile.
        multiple: See ``part``.
    """
    h, w = image.shape[:2]
    for top, above, below in _spans(h, side, overlap):
        for left, before, behind in _spans(w, side, overlap):
            tile = part(number, image, scale=1.0, corner=(left, top), size=(side, side), multiple=multiple)
            yield replace(tile, inner=(before - left, above - top, behind - left, below - top))


def _spans(length: int, side: int, overlap: float) -> Iterator[tuple[int, float, float]]:
    """The tiles that cover a length: where each starts, and the borders between which faces count in it."""
    count = max(math.ceil((length - side * overlap) / (side * (1 - overlap))), 1)
    starts = np.linspace(0, max(length - side, 0), count).round().astype(int)
    borders = [-math.inf, *(starts[:-1] + side + starts[1:]) / 2, math.inf]
    return zip(starts.tolist(), borders[:-1], borders[1:], strict=True)


def mirrored(view: View) -> View:
    """The mirrored view, at the same position."""
    pixels, width = np.ascontiguousarray(view.pixels[:, ::-1]), view.pixels.shape[1]
    left, top, right, bottom = view.inner
    return replace(view, pixels=pixels, inner=(width - right, top, width - left, bottom), mirrored=not view.mirrored)


class Views:
    """The views of all images of a call.

    The boxes and landmarks of all views are rows of one table. Each row has the number of its view.

    Attributes:
        views: The views. Their order defines their numbers.
        image: (v,) index of each view's image.
        smallest: (v,) see `View`.
        largest: (v,) see `View`.
    """

    def __init__(self, views: Iterable[View]) -> None:
        self.views = list(views)
        self.image = np.array([view.image for view in self.views], np.intp)
        self.smallest = np.array([view.smallest for view in self.views])
        self.largest = np.array([view.largest for view in self.views])
        self._scale = np.array([view.scale for view in self.views])
        self._corner = np.array([view.corner for view in self.views]).reshape(-1, 2)
        self._width = np.array([float(view.pixels.shape[1]) for view in self.views])
        self._inner = np.array([view.inner for view in self.views]).reshape(-1, 4)
        self._mirrored = np.array([view.mirrored for view in self.views], bool)

    def batches(self, pixels: int) -> Iterator[tuple[Array, Array]]:
        """Yield all views in batches of one shape: numbers (n,) and pixels (n, h, w, 3) uint8.

        Args:
            pixels: Largest number of pixels in a batch. A larger view is a batch of its own.
        """

        def shape_of(number: int) -> tuple[int, ...]:
            return self.views[number].pixels.shape

        for shape, alike in groupby(sorted(range(len(self.views)), key=shape_of), key=shape_of):
            numbers = np.array(list(alike))
            step = max(pixels // (shape[0] * shape[1]), 1)
            for start in range(0, len(numbers), step):
                batch = numbers[start : start + step]
                yield batch, np.stack([self.views[number].pixels for number in batch])

    def counts(self, boxes: Array, view: Array) -> Array:
        """Whether faces with these boxes (..., 4), in pixels of their views, count in their views (...)."""
        sides, inner = box_ops.longer_side(boxes), self._inner[view]
        centre = box_ops.centre(boxes)
        inside = ((centre >= inner[..., :2]) & (centre < inner[..., 2:])).all(axis=-1)
        return np.asarray((sides >= self.smallest[view]) & (sides <= self.largest[view]) & inside)

    def boxes(self, boxes: Array, view: Array) -> Array:
        """Map boxes (n, 4) from pixels of their views to pixels of their images, float64."""
        there = np.asarray(boxes, np.float64)
        there = np.where(self._mirrored[view, None], box_ops.mirror(there, self._width[view]), there)
        return np.asarray(there / self._scale[view, None] + np.tile(self._corner[view], 2))

    def points(self, points: Array, view: Array, schema: Schema) -> Array:
        """Map landmarks (n, k, 2) from pixels of their views to pixels of their images, float64.

        In mirrored views, landmarks swap with their mirror partners: a right eye is the left eye of the mirror image.
        """
        there = np.asarray(points, np.float64)
        if self._mirrored.any():
            back = there[:, schema.mirror] * [-1, 1]
            back[..., 0] += self._width[view, None]
            there = np.where(self._mirrored[view, None, None], back, there)
        return np.asarray(there / self._scale[view, None, None] + self._corner[view, None])

    def each(self, values: Array, view: Array, schema: Schema) -> Array:
        """Reorder values of the landmarks (n, k), such as scores, in the same way."""
        if not self._mirrored.any():
            return values
        return np.where(self._mirrored[view, None], values[:, schema.mirror], values)
