"""What the paper holds the soft-argmax against (table 2): landmarks by regression, and by the argmax of a region."""

from __future__ import annotations

import torch
from torch import Tensor

from lineament.methods.kpnet.entries import places, region_maximum
from lineament.methods.kpnet.extract import inside
from lineament.methods.kpnet.scales import STRIDE


def regress(maps: Tensor, regions: Tensor) -> Tensor:
    """Positions that a fully connected layer gives for the features' average over each region.

    An average is linear, so that the layer comes first, as a convolution with 2K outputs, of the size of the other
    heads'; then no region is cut out, as in the soft-argmax. Where a region has no cell, its centre is given.

    Args:
        maps: (n, 2K, h, w), per cell x1, y1, x2, ... from a region's centre, over its side.
        regions: (n, f, 4), ``x1, y1, x2, y2`` in pixels of the input.

    Returns:
        (n, f, K, 2) in pixels of the input.
    """
    rows, _ = inside(regions[..., 1], regions[..., 3], maps.shape[2])
    columns, _ = inside(regions[..., 0], regions[..., 2], maps.shape[3])
    total = ((rows[:, None] @ maps) * columns[:, None]).sum(-1).transpose(1, 2)
    mean = total / (rows.sum(-1) * columns.sum(-1)).clamp(min=1)[..., None]
    middle, side = (regions[..., :2] + regions[..., 2:]) / 2, regions[..., 2] - regions[..., 0]
    return middle[:, :, None] + torch.unflatten(mean, -1, (-1, 2)) * side[..., None, None]


def argmax(response: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of the cells where maps are largest in each region, of equals one of them.

    A region's maximum is not where it is: what is looked for is the maximum of the cells' ranks, which no two share.

    Args:
        response: (n, K, h, w). regions: (n, f, 4) in pixels of the input.

    Returns:
        Points (n, f, K, 2) in pixels of the input, values (n, f, K).
    """
    flat = response.flatten(2)
    order = flat.argsort(dim=2)
    rank = order.argsort(dim=2).view_as(response).to(response.dtype)  # below 2^24, which float32 can count to
    cell = order.gather(2, region_maximum(rank, regions).long().transpose(1, 2))
    points = (places(response)[cell.transpose(1, 2)].to(response.dtype) + 0.5) * STRIDE
    return points, flat.gather(2, cell).transpose(1, 2)
