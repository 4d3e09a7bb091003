"""RoIAlign (He et al. 2017) over the levels of a pyramid, in torch.

An exported file uses the ONNX operator of the same name. Tests compare both with a float64 reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SAMPLES = 2  # along each side of a bin


def bins(
    features: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, image: Tensor, level: Tensor, size: int
) -> Tensor:
    """Pool the features of each box into ``size`` x ``size`` bins. Each is the mean of 2x2 bilinear samples.

    Coordinates are continuous: the centre of the first cell of a map is at 0.5. Samples up to one cell outside the map
    take the value at its edge; samples farther out are 0.

    Args:
        features: Maps (n, c, h, w), one per level.
        strides: Pixels of the input per cell of each map.
        boxes: (r, 4) in pixels of the input.
        image: (r,) index of the image of each box.
        level: (r,) index of the map of each box.
        size: Number of bins along a side.

    Returns:
        (r, c, size, size).
    """
    heights, widths = (torch.tensor([f.shape[axis] for f in features], device=boxes.device) for axis in (2, 3))
    areas = heights * widths * features[0].shape[0]
    start = (areas.cumsum(0) - areas)[level]
    table = torch.cat([f.permute(0, 2, 3, 1).flatten(0, 2) for f in features])  # the cells of all maps
    channels = table.shape[1]
    height, width = heights[level], widths[level]
    cells = boxes / torch.tensor(strides, device=boxes.device, dtype=boxes.dtype)[level, None]
    steps = (torch.arange(size * SAMPLES, device=boxes.device, dtype=boxes.dtype) + 0.5) / (size * SAMPLES)
    x, y = (cells[:, i, None] + steps * (cells[:, i + 2] - cells[:, i])[:, None] - 0.5 for i in (0, 1))
    columns, rows = _neighbours(x, width), _neighbours(y, height)
    first = (start + image * height * width)[:, None, None]
    total: Tensor | None = None
    for row, share_y in rows:
        for column, share_x in columns:
            cell = first + row[:, :, None] * width[:, None, None] + column[:, None, :]
            share = (share_y[:, :, None] * share_x[:, None, :])[..., None]
            seen = table.index_select(0, cell.flatten()).view(*cell.shape, channels) * share.to(table.dtype)
            total = seen if total is None else total + seen
    assert total is not None
    pooled = total.view(len(boxes), size, SAMPLES, size, SAMPLES, channels).mean(dim=(2, 4))
    return pooled.permute(0, 3, 1, 2)


def _neighbours(at: Tensor, length: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The cells (r, s) on both sides of positions (r, s), and their weights in a linear interpolation.

    Integer positions are the centres of cells. ``length`` (r,) is the number of cells.
    """
    last = length[:, None] - 1
    inside = (at >= -1) & (at <= last + 1)
    at = at.clamp(min=0).minimum(last.to(at.dtype))
    low = at.floor().long().minimum(last)
    high = (low + 1).minimum(last)
    share = (at - low).to(at.dtype)
    return [(low, (1 - share) * inside), (high, share * inside)]
