"""Landmarks out of response maps: the scale adaptive soft-argmax (equations 5 and 6), for all proposals at once.

The sums of equation 6 over a proposal's region are products of three matrices: which rows the region has, the map of
exponentials, which columns it has. So no region is cut out, and one more face costs next to nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lineament.methods.kpnet.scales import STRIDE

DEEPEST = 60.0  # exponents below the map's largest; float32 holds e^-60, and no peak is that faint


class Extraction(NamedTuple):
    """What the soft-argmax finds in every region.

    Attributes:
        points: (n, f, K, 2), pixels of the input.
        log_total: (n, f, K), logarithm of the denominator of equation 5, with the response's own zero.
    """

    points: Tensor
    log_total: Tensor


def soft_argmax(response: Tensor, regions: Tensor, stride: int = STRIDE) -> Extraction:
    """Equations 5 and 6. A region's cells are those whose centres lie in it; where it has none, its centre is given.

    Args:
        response: (n, K, h, w), the maps h.
        regions: (n, f, 4), ``x1, y1, x2, y2`` in pixels of the input.
        stride: pixels of the input for one cell.
    """
    peak = response.amax(dim=(2, 3), keepdim=True)
    weight = (response - peak).clamp(min=-DEEPEST).exp()
    rows, y = inside(regions[..., 1], regions[..., 3], response.shape[2], stride)
    columns, x = inside(regions[..., 0], regions[..., 2], response.shape[3], stride)
    # (n, 1, f, h) @ (n, K, h, w) -> (n, K, f, w); positions are counted from the middle of the region
    across = rows[:, None] @ weight
    down = (rows * y)[:, None] @ weight
    total = (across * columns[:, None]).sum(-1)
    sums = torch.stack([(across * (columns * x)[:, None]).sum(-1), (down * columns[:, None]).sum(-1)], dim=-1)
    empty = total == 0
    total = total.masked_fill(empty, 1.0)
    middle = (regions[..., :2] + regions[..., 2:]) / 2
    points = (sums / total[..., None]).transpose(1, 2) + middle[:, :, None]
    return Extraction(points, (total.log() + peak[..., 0]).transpose(1, 2))


def inside(low: Tensor, high: Tensor, cells: int, stride: int = STRIDE) -> tuple[Tensor, Tensor]:
    """Which cells of an axis lie in (n, f) intervals, as (n, f, cells) of 0 and 1; and where, from the middle."""
    centre = (torch.arange(cells, device=low.device, dtype=low.dtype) + 0.5) * stride
    inside = (centre >= low[..., None]) & (centre < high[..., None])
    return inside.to(low.dtype), (centre - (low + high)[..., None] / 2) * inside
