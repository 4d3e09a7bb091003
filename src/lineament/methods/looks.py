"""The views of an image for a detector, and which faces count in which view."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

from msgspec import Meta
from numpy.typing import NDArray

from lineament import views
from lineament.methods.settings import ViewSettings
from lineament.views import View

Array = NDArray[Any]

LARGEST_IN_TILES = 160.0
"""Largest side, in pixels, of a face that counts in a tile if other views show more of its surroundings."""
COMMON = 0.8
"""Smallest side in one view as a share of the largest side in the next."""
SMALLEST_OVERVIEW = 64
"""Longer edge of the smallest overview, in pixels."""


@dataclass(frozen=True)
class OverviewSettings(ViewSettings):
    """Settings of detectors that also use a smaller view, for large faces.

    Attributes:
        overview: Whether they do.
        overview_share: Longer edge of that view relative to the input, in (0, 1].
    """

    overview: bool = True
    overview_share: Annotated[float, Meta(gt=0, le=1)] = 0.375


class Limits(NamedTuple):
    """The limits of a network.

    Attributes:
        multiple: The sides of an input are multiples of this.
        largest: Largest side, in pixels of the input, of a face that counts if an overview shows it, too.
        overview: Longer edge of the largest overview, in pixels.
    """

    multiple: int
    largest: float
    overview: float


def looks(number: int, image: Array, settings: OverviewSettings, limits: Limits) -> list[View]:
    """The views of an image: the whole, an overview, more sizes, tiles; and the mirror images of all.

    Args:
        number: Index of the image.
        image: (h, w, 3) uint8.
        settings: The settings of the detector.
        limits: The limits of its network.
    """
    s, multiple = settings, limits.multiple
    whole = views.whole(number, image, s.input_size, margin=s.margin, multiple=multiple)
    tiled = s.tiles and max(image.shape[:2]) > s.input_size
    if tiled:  # tiles show larger what is small enough to be inside one of them, wherever it is
        whole = replace(whole, smallest=COMMON * min(s.overlap * s.input_size, LARGEST_IN_TILES) * whole.scale)
    sizes = [
        views.whole(number, image, round(ratio * s.input_size), margin=s.margin, multiple=multiple)
        for ratio in s.pyramid or ()
    ]
    shown = [whole, *sizes]
    size = min(s.overview_share * s.input_size, limits.overview)
    if s.overview and size >= SMALLEST_OVERVIEW:
        small = views.overview(whole, size, multiple=multiple)
        smallest = COMMON * limits.largest * small.scale / whole.scale
        shown = [*(replace(view, largest=limits.largest) for view in shown), replace(small, smallest=smallest)]
    if tiled:
        tiles = views.tiles(number, image, s.input_size, overlap=s.overlap, multiple=multiple)
        shown += [replace(tile, largest=LARGEST_IN_TILES) for tile in tiles]
    return [*shown, *map(views.mirrored, shown)] if s.flip else shown
