"""The two pyramids of an image: the levels that P-Net scans, and the halvings from which crops are cut.

Both extend the image with black, so that faces which the edge cuts off, or which fill the image, are detected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lineament.boxes import longer_side
from lineament.images import resize
from lineament.runtime import Graph

Array = NDArray[Any]

CELL, STRIDE = 12, 2  # P-Net's window and step, in pixels of a level
BORDER = 4  # pixels of black around a level: windows may reach beyond it by a third
STRIP = 1 << 20  # pixels of a level in one pass of P-Net; bounds its activations to about 100 MB


@dataclass(frozen=True)
class Level:
    """One scale at which P-Net scans an image. It is processed in strips, since it may be larger than memory.

    Attributes:
        source: The image or one of its halvings, (h, w, 3) uint8.
        size: ``(width, height)`` of the level in pixels, without its black border.
        scale: ``(x, y)``: pixels of the image per pixel of the level.
    """

    source: Array
    size: tuple[int, int]
    scale: tuple[float, float]

    def strips(self) -> Iterator[tuple[int, Array]]:
        """Overlapping strips (h, w, 3) uint8 that contain every window once, each with the row of its first window."""
        width, height = (side + 2 * BORDER for side in self.size)
        rows = max(STRIP // width // STRIDE, 1) * STRIDE
        for top in range(0, max(height - CELL, 0) + 1, rows):
            yield top // STRIDE, self._drawn(top, min(top + rows + CELL - STRIDE, height))

    def _drawn(self, top: int, bottom: int) -> Array:
        """These rows of the level, including its border."""
        width, height = self.size
        strip = np.zeros((bottom - top, width + 2 * BORDER, 3), np.uint8)
        first, last = max(top - BORDER, 0), min(bottom - BORDER, height)
        if first < last:
            h, w = self.source.shape[:2]
            y1, y2 = first / height * h, last / height * h
            reach = math.ceil(h / height) + 1  # of the filter, beyond the region
            above, below = max(math.floor(y1) - reach, 0), min(math.ceil(y2) + reach, h)
            rows = resize(self.source[above:below], (width, last - first), box=(0, y1 - above, w, y2 - above))
            strip[first + BORDER - top : last + BORDER - top, BORDER:-BORDER] = rows
        return strip

    def windows(self, row: Array, column: Array) -> Array:
        """Boxes (n, 4) in the image for P-Net's cells at these rows and columns."""
        x, y = column * STRIDE - BORDER, row * STRIDE - BORDER
        return np.stack([x, y, x + CELL, y + CELL], axis=-1) * np.array([*self.scale, *self.scale])


class Pyramid:
    """An image and its halvings by exact 2x2 means."""

    def __init__(self, image: Array, coarsest: int = 12) -> None:
        self.width, self.height = image.shape[1], image.shape[0]
        self.halvings = [image]
        picture = Image.fromarray(image)
        while min(picture.size) >= 2 * coarsest:
            picture = picture.reduce(2)
            self.halvings.append(np.asarray(picture))

    def levels(self, min_face: float, max_face: float, factor: float) -> Iterator[Level]:
        """P-Net's levels: windows of ``min_face`` pixels, each ``1 / factor`` times the last, up to ``max_face``."""
        side = float(min_face)
        while side <= max_face:
            w, h = (round(n * CELL / side) for n in (self.width, self.height))
            if min(w, h) + 2 * BORDER < CELL:
                return  # even with its border, the image is shorter than a window
            enough = [p for p in self.halvings if p.shape[1] >= w and p.shape[0] >= h]  # the smallest one that suffices
            yield Level((enough or self.halvings[:1])[-1], (w, h), (self.width / w, self.height / h))
            side /= factor

    def crops(self, graph: Graph, windows: Array, size: int) -> Array:
        """Cut square crops of windows (n, 4), resampled to ``size``: (n, 3, size, size) float32 in [0, 255].

        Each comes from the halving in which its window has at least ``size`` and less than ``2 size`` pixels, with two
        by two bilinear samples per pixel. So there is no aliasing, and large faces take no more time.
        """
        crops = np.empty((len(windows), 3, size, size), np.float32)
        longer = np.maximum(longer_side(windows), 1e-6)
        depth = np.clip(np.floor(np.log2(longer / size)), 0, len(self.halvings) - 1).astype(int)
        for d in np.unique(depth):
            here = depth == d
            regions = (windows[here] / 2.0**d).astype(np.float32)
            (crops[here],) = graph(f"crop{size}", ("pixels",), image=self.halvings[d][None], regions=regions)
        return crops
