"""What KPNet learns from a canvas: cells of the scalemap (equations 1 to 3) and regions with landmarks (equation 7)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lineament.methods.kpnet import scales
from lineament.methods.kpnet.scales import BINS, STRIDE

Array = NDArray[Any]


class Spread(NamedTuple):
    """How a face's one cell spreads over its neighbours.

    Attributes:
        paper: equation 3 as printed: radius ``floor(b / 10)`` cells, sigma 0.1 of it.
        space: otherwise, sigma as a share of the face's side (at least half a cell), cut off at 3 sigma.
        scale: sigma over neighbouring bins, in bins; 0 for none, as in the paper.
    """

    paper: bool = False
    space: float = 0.04
    scale: float = 1.0


def paint(boxes: Array, size: int, spread: Spread, stride: int = STRIDE) -> tuple[Array, Array]:
    """The cells of a scalemap that are not zero, and their values in (0, 1].

    Args:
        boxes: (n, 4) faces in pixels of the input, each with a bin. size: side of the input.
        spread: how far a face reaches. stride: pixels of the input for one cell.

    Returns:
        (m, 3) integers ``bin, row, column``, none twice: overlapping faces take the maximum; and (m,) float32.
    """
    cells = size // stride
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    host = np.floor(middle / stride).astype(np.int64)
    bins = scales.encode(sides)
    if spread.paper:
        radius = (bins + 1) // 10
        sigma = 0.1 * np.maximum(radius, 1e-6)
    else:
        sigma = np.maximum(spread.space * sides / stride, 0.5)
        radius = np.floor(3 * sigma).astype(np.int64)
    return _bells(np.column_stack([bins, host[:, ::-1]]), sigma, radius, (BINS, cells, cells), spread.scale)


def heat(landmarks: Array, boxes: Array, size: int, spread: Spread) -> tuple[Array, Array]:
    """The cells of heat maps, one a landmark, that are not zero, as `paint` gives those of a scalemap.

    A landmark's place is known better than a face's: sigma is half of a face's, and equation 3's radius is 0.

    Args:
        landmarks: (n, K, 2) in pixels of the input. boxes: (n, 4) their faces. size: side of the input.
        spread: how far a landmark reaches.
    """
    n, k = landmarks.shape[:2]
    cells = size // STRIDE
    host = np.floor(landmarks.reshape(-1, 2) / STRIDE).astype(np.int64)
    sides = np.repeat((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0), k)
    sigma = np.maximum(spread.space * sides / STRIDE / 2, 0.5)
    radius = np.zeros(n * k, np.int64) if spread.paper else np.floor(3 * sigma).astype(np.int64)
    return _bells(np.column_stack([np.tile(np.arange(k), n), host[:, ::-1]]), sigma, radius, (k, cells, cells))


def _bells(
    centres: Array, sigma: Array, radius: Array, shape: tuple[int, int, int], over_channels: float = 0.0
) -> tuple[Array, Array]:
    """Gaussians on a volume of zeros, of which overlapping ones take the maximum.

    Args:
        centres: (n, 3) integers, channel, row and column. sigma, radius: (n,) in cells, where they are cut off.
        shape: of the volume. over_channels: sigma over channels; 0 for none.

    Returns:
        (m, 3) places that are not zero, and their values (m,) float32.
    """
    reach, over = int(radius.max(initial=0)), int(np.ceil(2 * over_channels))
    db, dy, dx = np.meshgrid(
        np.arange(-over, over + 1), np.arange(-reach, reach + 1), np.arange(-reach, reach + 1), indexing="ij"
    )
    near = np.maximum(abs(dx), abs(dy)).ravel() <= radius[:, None]
    value = np.exp(-(dx**2 + dy**2).ravel() / (2 * sigma[:, None] ** 2))
    if over:
        value = value * np.exp(-(db**2).ravel() / (2 * over_channels**2))
    at = centres[:, None] + np.stack([db.ravel(), dy.ravel(), dx.ravel()], axis=-1)
    good = near & (at >= 0).all(axis=-1) & (at < shape).all(axis=-1) & (value > 1e-3)
    flat = np.ravel_multi_index(tuple(at[good].T), shape)
    places, which = np.unique(flat, return_inverse=True)
    values = np.zeros(len(places), np.float32)
    np.maximum.at(values, which, value[good].astype(np.float32))
    return np.stack(np.unravel_index(places, shape), axis=-1).astype(np.int64), values


def ignored(regions: Array, size: int, stride: int = STRIDE) -> Array:
    """Cells (h, w) whose scale is not learned: those that regions (n, 4) touch."""
    first = np.floor(regions[:, :2] / stride)
    last = np.ceil(regions[:, 2:] / stride)
    at = np.arange(size // stride)
    columns = (at >= first[:, :1]) & (at < last[:, :1])
    rows = (at >= first[:, 1:]) & (at < last[:, 1:])
    return np.asarray((rows[:, :, None] & columns[:, None, :]).any(axis=0))


def proposals(rng: np.random.Generator, boxes: Array, jitter: float = 0.04) -> Array:
    """Square regions around faces, a little farther off than a proposal at inference is.

    Their centres are those of cells and their sides those of bins; besides, the cell that scores best is seldom the
    face's own, and the bin is now and then one beside it.

    Args:
        rng: random numbers. boxes: (n, 4), each with a bin. jitter: sigma of the centre, as a share of the side.

    Returns:
        (n, 4) in pixels of the input.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 + rng.normal(0, jitter, (len(boxes), 2)) * sides[:, None]
    centre = (np.floor(middle / STRIDE) + 0.5) * STRIDE
    bins = np.clip(scales.encode(sides) + rng.choice([-1, 0, 0, 1], len(boxes)), 0, BINS - 1)
    return squares(centre, scales.decode(bins))


def squares(centres: Array, sides: Array) -> Array:
    """Boxes (n, 4) of squares."""
    half = sides[:, None] / 2
    return np.concatenate([centres - half, centres + half], axis=1)
