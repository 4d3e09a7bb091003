"""The two pyramids of a picture: the levels that P-Net scans, and the halvings that R- and O-Net's crops are cut from.

Both see the picture as if black went on beyond its edges, so that faces which are cut off or fill it are found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lineament.runtime import Graph

Array = NDArray[Any]

CELL, STRIDE = 12, 2  # P-Net's window and step, in pixels of a level
BORDER = 4  # pixels of black around a level: windows may hang over by a third
STRIP = 1 << 20  # pixels of a level that P-Net sees at once; bounds its activations to about 100 MB


@dataclass(frozen=True)
class Level:
    """One scale at which P-Net looks at a picture.

    Attributes:
        pixels: (h, w, 3) uint8, black border included.
        scale: ``(x, y)``: pixels of the picture for one pixel of the level.
    """

    pixels: Array
    scale: tuple[float, float]

    def strips(self) -> Iterator[tuple[int, Array]]:
        """Overlapping strips of rows that together give P-Net every window once, with the first window's row."""
        h, w = self.pixels.shape[:2]
        rows = max(STRIP // w // STRIDE, 1) * STRIDE
        for top in range(0, max(h - CELL, 0) + 1, rows):
            yield top // STRIDE, self.pixels[top : top + rows + CELL - STRIDE]

    def windows(self, row: Array, column: Array) -> Array:
        """(n, 4) boxes in the picture of P-Net's cells at those rows and columns."""
        x, y = column * STRIDE - BORDER, row * STRIDE - BORDER
        return np.stack([x, y, x + CELL, y + CELL], axis=-1) * np.array([*self.scale, *self.scale])


class Pyramid:
    """A picture and its halvings by exact 2x2 means."""

    def __init__(self, image: Array, coarsest: int = 12) -> None:
        self.width, self.height = image.shape[1], image.shape[0]
        self.halvings = [image]
        picture = Image.fromarray(image)
        while min(picture.size) >= 2 * coarsest:
            picture = picture.reduce(2)
            self.halvings.append(np.asarray(picture))

    def levels(self, min_face: float, max_face: float, factor: float) -> Iterator[Level]:
        """P-Net's levels: windows of ``min_face`` pixels and each time ``1 / factor`` longer, up to ``max_face``."""
        side = float(min_face)
        while side <= max_face:
            w, h = (round(n * CELL / side) for n in (self.width, self.height))
            if min(w, h) + 2 * BORDER < CELL:
                return  # even with its border the picture is shorter than a window
            yield Level(self._resized(w, h), (self.width / w, self.height / h))
            side /= factor

    def _resized(self, width: int, height: int) -> Array:
        """The picture at that size with its black border, drawn from the smallest halving that has enough pixels."""
        level = np.zeros((height + 2 * BORDER, width + 2 * BORDER, 3), np.uint8)
        enough = [p for p in self.halvings if p.shape[1] >= width and p.shape[0] >= height]
        source = Image.fromarray((enough or self.halvings[:1])[-1])
        level[BORDER:-BORDER, BORDER:-BORDER] = np.asarray(source.resize((width, height), Image.Resampling.BILINEAR))
        return level

    def crops(self, graph: Graph, windows: Array, size: int) -> Array:
        """Square crops of windows (n, 4), resampled to ``size``: (n, 3, size, size) float32 in [0, 255].

        Each is cut from the halving in which its window is at least ``size`` and less than ``2 size`` pixels long, by
        two by two bilinear samples a pixel, so that shrinking neither aliases nor costs more for large faces.
        """
        crops = np.empty((len(windows), 3, size, size), np.float32)
        longer = np.maximum((windows[:, 2:] - windows[:, :2]).max(1, initial=0), 1e-6)
        depth = np.clip(np.floor(np.log2(longer / size)), 0, len(self.halvings) - 1).astype(int)
        for d in np.unique(depth):
            here = depth == d
            regions = (windows[here] / 2.0**d).astype(np.float32)
            (crops[here],) = graph(f"crop{size}", ("pixels",), image=self.halvings[d][None], regions=regions)
        return crops
