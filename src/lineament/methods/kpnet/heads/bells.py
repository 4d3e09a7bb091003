"""Maps of bells: a Gaussian around each face or landmark (equation 3), and the loss of such maps (equation 4).

The scalemap is one. Heat maps whose maxima are landmarks are others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Array = NDArray[Any]

FAINT = -5.0
"""The focal form skips lower logits, p < 0.0067: with p^2 their loss and gradient are negligible."""


class Spread(NamedTuple):
    """How the cell of a face spreads over its neighbours.

    Attributes:
        paper: Equation 3 as printed: radius ``floor(b / 10)`` cells, sigma 0.1 of it.
        space: Otherwise, sigma as a share of the face's side (at least half a cell), cut off at 3 sigma.
        scale: Sigma over neighbouring bins, in bins. 0: none, as in the paper.
    """

    paper: bool = False
    space: float = 0.04
    scale: float = 1.0


class Bells(NamedTuple):
    """The non-zero values of a map.

    Attributes:
        cells: (m, 3) unique integers ``channel, row, column``.
        values: (m,) float32 in (0, 1].
    """

    cells: Array
    values: Array


def bells(
    centres: Array, sigma: Array, radius: Array, shape: tuple[int, int, int], over_channels: float = 0.0
) -> Bells:
    """Equation 3: Gaussians on a map of zeros. Where they overlap, the maximum counts. Values up to 0.001 are dropped.

    Args:
        centres: (n, 3) integers, channel, row and column.
        sigma: (n,) in cells.
        radius: (n,) in cells, the reach.
        shape: Shape of the map.
        over_channels: Sigma over channels. 0: none.
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
    return Bells(np.stack(np.unravel_index(places, shape), axis=-1).astype(np.int64), values)


def stacked(maps: Sequence[Bells]) -> tuple[Array, Array]:
    """The cells (m, 4) of a batch of maps, with the image first, and the values (m,)."""
    cells = [np.concatenate([np.full((len(at), 1), i), at], axis=1) for i, (at, _) in enumerate(maps)]
    return np.concatenate(cells), np.concatenate([values for _, values in maps])


def touched(regions: Array, size: int, stride: int) -> Array:
    """Which cells (h, w) of a map of ``size`` pixels the regions (n, 4) touch."""
    first = np.floor(regions[:, :2] / stride)
    last = np.ceil(regions[:, 2:] / stride)
    at = np.arange(size // stride)
    columns = (at >= first[:, :1]) & (at < last[:, :1])
    rows = (at >= first[:, 1:]) & (at < last[:, 1:])
    return np.asarray((rows[:, :, None] & columns[:, None, :]).any(axis=0))


def bell_loss(logits: Tensor, ignored: Tensor, cells: Tensor, values: Tensor, *, focal: bool) -> Tensor:
    """Equation 4, summed over the maps.

    As printed, it is the cross-entropy of all values. The focal form (ours, after CornerNet) multiplies it by ``(1 -
    p)^2`` in the cell of a face and by ``(1 - t)^4 p^2`` elsewhere, with the target t. The maps have millions of
    values, nearly all of them background with certainty; the focal form computes only the others.

    Args:
        logits: (n, c, h, w).
        ignored: (n, h, w) bool, cells without a loss.
        cells: (m, 4) integers ``image, channel, row, column`` of the non-zero targets.
        values: (m,) these targets, in (0, 1].
        focal: Use the focal form.
    """
    n, channels, h, w = logits.shape
    flat = logits.permute(0, 2, 3, 1).flatten()  # in memory order
    learnt = ~ignored[tuple(cells[:, [0, 2, 3]].unbind(1))]
    image, channel, row, column = cells[learnt].unbind(1)
    places, t = ((image * h + row) * w + column) * channels + channel, values[learnt]
    if not focal:
        kept = functional.softplus(flat.float()).view(n, h, w, channels) * ~ignored[..., None]
        return kept.sum() - (flat[places].float() * t).sum()
    doubtful = ((flat.detach() > FAINT).view(n, h, w, channels) & ~ignored[..., None]).flatten().nonzero()[:, 0]
    chosen = flat.index_select(0, torch.cat([doubtful, places])).float()
    background, x = chosen[: len(doubtful)], chosen[len(doubtful) :]
    p = x.sigmoid()
    own = t > 0.999
    there = torch.where(own, (1 - p) ** 2 * functional.softplus(-x), (1 - t) ** 4 * p**2 * functional.softplus(x))
    # subtract the loss of the background at targets
    return _focal_background(background).sum() + (there - _focal_background(x) * (x.detach() > FAINT)).sum()


def _focal_background(x: Tensor) -> Tensor:
    """The focal loss of background logits."""
    return x.sigmoid() ** 2 * functional.softplus(x)
