"""What a network is shown of an image: the whole of it, an overview, tiles, a pyramid, mirrored; and the way back.

A view is pixels and the place they have in the image. Functions make single views; `Views` holds those of all images of
a call, hands them out in batches of one shape, and brings boxes and landmarks back into the images.
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


@dataclass(frozen=True)
class View:
    """A part of an image as a network sees it.

    Attributes:
        image: index of the image.
        pixels: (h, w, 3) uint8, black where the image ends.
        scale: pixels of the view for one of the image.
        corner: (2,), in pixels of the image, the place of the upper left corner of the view, not mirrored.
        smallest, largest: sides in pixels of the view between which a face counts; others are another view's.
        mirrored: whether the view shows the image mirrored.
    """

    image: int
    pixels: Array
    scale: float
    corner: Array
    smallest: float = 0.0
    largest: float = math.inf
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
    """A view of the part of an image that begins at ``corner``, letterboxed.

    One scale holds for both axes: a last row that the part would fill only in part is left out. Where the scale is a
    half or less, pixels are means of those they cover; else bilinear.

    Args:
        number: index of the image. image: (h, w, 3) uint8.
        scale: pixels of the view for one of the image.
        corner, size: ``(x, y)`` and ``(width, height)`` of the part in pixels of the image; left out, the whole.
        border: black pixels around.
        multiple: black fills the view up to multiples of it, to the right and below.
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
    """The whole image with its longer edge brought to ``longer`` pixels.

    Args:
        margin: black around the image, as a share of ``longer`` on each side; the image gets the smaller for it.
    """
    border = round(margin * longer)
    scale = (longer - 2 * border) / max(image.shape[:2])
    return part(number, image, scale=scale, border=border, multiple=multiple)


def overview(view: View, longer: float, *, multiple: int = 1) -> View:
    """What a view shows, in a smaller view: its longer edge is brought to ``longer`` pixels.

    It is made of the view, as to shrink a large image once more would take far longer.
    """
    ratio = longer / max(view.pixels.shape[:2])
    small = part(view.image, view.pixels, scale=ratio, multiple=multiple)
    return replace(small, scale=ratio * view.scale, corner=view.corner)


def tiles(number: int, image: Array, side: int, *, overlap: float, multiple: int = 1) -> Iterator[View]:
    """Squares of ``side`` pixels in the image's own resolution that cover it; the last are flush with its end.

    Args:
        overlap: share of a tile's side in [0, 1) that it has in common with the next, at least.
    """
    h, w = image.shape[:2]
    for top in _starts(h, side, overlap):
        for left in _starts(w, side, overlap):
            yield part(number, image, scale=1.0, corner=(left, top), size=(side, side), multiple=multiple)


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Where tiles begin that cover a length."""
    count = max(math.ceil((length - side * overlap) / (side * (1 - overlap))), 1)
    return np.linspace(0, max(length - side, 0), count).round().astype(int).tolist()


def mirrored(view: View) -> View:
    """The view's mirror image, at the same place."""
    return replace(view, pixels=np.ascontiguousarray(view.pixels[:, ::-1]), mirrored=not view.mirrored)


class Views:
    """The views of all images of a call.

    Boxes and landmarks that a network finds are rows of one table for all views, and each row says its view's number.

    Attributes:
        views: in the order given, which numbers them.
        image: (v,) index of each view's image.
        smallest, largest: (v,) as of `View`.
    """

    def __init__(self, views: Iterable[View]) -> None:
        self.views = list(views)
        self.image = np.array([view.image for view in self.views], np.intp)
        self.smallest = np.array([view.smallest for view in self.views])
        self.largest = np.array([view.largest for view in self.views])
        self._scale = np.array([view.scale for view in self.views])
        self._corner = np.array([view.corner for view in self.views]).reshape(-1, 2)
        self._width = np.array([float(view.pixels.shape[1]) for view in self.views])
        self._mirrored = np.array([view.mirrored for view in self.views], bool)

    def batches(self, pixels: int) -> Iterator[tuple[Array, Array]]:
        """All views, those of one shape together: numbers (n,) and pixels (n, h, w, 3) uint8.

        Args:
            pixels: of the views of one batch in all, at most, unless a single one has more.
        """

        def shape_of(number: int) -> tuple[int, ...]:
            return self.views[number].pixels.shape

        for shape, alike in groupby(sorted(range(len(self.views)), key=shape_of), key=shape_of):
            numbers = np.array(list(alike))
            step = max(pixels // (shape[0] * shape[1]), 1)
            for start in range(0, len(numbers), step):
                batch = numbers[start : start + step]
                yield batch, np.stack([self.views[number].pixels for number in batch])

    def counts(self, sides: Array, view: Array) -> Array:
        """(n,) whether faces with such sides, in pixels of their views, are theirs to find."""
        return np.asarray((sides >= self.smallest[view]) & (sides <= self.largest[view]))

    def boxes(self, boxes: Array, view: Array) -> Array:
        """Boxes (n, 4) in pixels of their views as boxes in pixels of their images, float64."""
        there = np.asarray(boxes, np.float64)
        there = np.where(self._mirrored[view, None], box_ops.mirror(there, self._width[view]), there)
        return np.asarray(there / self._scale[view, None] + np.tile(self._corner[view], 2))

    def points(self, points: Array, view: Array, schema: Schema) -> Array:
        """Landmarks (n, k, 2) of a schema in pixels of their views as landmarks in pixels of their images, float64.

        Those of mirrored views change places with their mirror partners: a right eye is the mirror image's left eye.
        """
        there = np.asarray(points, np.float64)
        if self._mirrored.any():
            back = there[:, schema.mirror] * [-1, 1]
            back[..., 0] += self._width[view, None]
            there = np.where(self._mirrored[view, None, None], back, there)
        return np.asarray(there / self._scale[view, None, None] + self._corner[view, None])

    def each(self, values: Array, view: Array, schema: Schema) -> Array:
        """What is known of each landmark (n, k), such as its score, likewise in the order of the image's landmarks."""
        if not self._mirrored.any():
            return values
        return np.where(self._mirrored[view, None], values[:, schema.mirror], values)
