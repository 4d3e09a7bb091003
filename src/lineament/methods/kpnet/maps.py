"""Operations on maps (n, c, h, w) that heads share: neighbours of cells, interpolation, and values in regions.

A cell of a map has ``stride`` pixels of the input. The centre of the first is at ``stride / 2``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def shifts(device: torch.device) -> Tensor:
    """The columns and rows (9, 2) from a cell to those around it, and to itself."""
    return torch.tensor([(dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1)], device=device)


def around(cell: Tensor, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    """The nine cells around cells (n, f, 2), including themselves, in the order of `shifts`.

    Returns:
        Columns and rows (n, f, 9), clipped to the map; and whether they are inside.
    """
    size = torch.tensor([w, h], device=cell.device)
    cells = cell[:, :, None] + shifts(cell.device)
    there = ((cells >= 0) & (cells < size)).all(dim=-1)
    column, row = torch.minimum(cells.clamp(min=0), size - 1).unbind(-1)
    return column, row, there


def leading(values: Tensor, count: int, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of values (n, m) and their indices, best first: f each, at most ``count``.

    f is the number above ``threshold`` (n,) in the row that has most, at least 1.
    """
    above = (values > threshold[:, None]).sum(dim=1).amax(dim=0)
    most: Any = above.clamp(min=1, max=count).item()
    torch._check(most <= values.shape[1])  # type: ignore[no-untyped-call]  # export cannot know
    return values.topk(most, dim=1)


def at_cells(maps: Tensor, cell: Tensor) -> Tensor:
    """The values (n, f, c) of maps (n, c, h, w) at cells (n, f, 2), column and row."""
    at = cell[..., 1] * maps.shape[3] + cell[..., 0]
    return maps.flatten(2).gather(2, at[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)


def sample(maps: Tensor, points: Tensor, stride: int) -> Tensor:
    """Interpolate maps (n, K, h, w) at (n, f, K, 2) pixels of the input -> (n, f, K)."""
    n, k, h, w = maps.shape
    size = torch.tensor([w, h], dtype=maps.dtype, device=maps.device) * stride
    grid = (points / size * 2 - 1).transpose(1, 2).reshape(n * k, -1, 1, 2).to(maps.dtype)
    sampled = functional.grid_sample(
        maps.reshape(n * k, 1, h, w), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.reshape(n, k, -1).transpose(1, 2)


def inside(low: Tensor, high: Tensor, cells: int, stride: int) -> tuple[Tensor, Tensor]:
    """Which cells of an axis are in intervals (n, f), as (n, f, cells) of 0 and 1; and their offsets from the middle.

    The centre of a cell decides. The first edge of an interval belongs to it.
    """
    centre = (torch.arange(cells, device=low.device, dtype=low.dtype) + 0.5) * stride
    there = (centre >= low[..., None]) & (centre < high[..., None])
    return there.to(low.dtype), (centre - (low + high)[..., None] / 2) * there


def region_maximum(maps: Tensor, regions: Tensor, stride: int) -> Tensor:
    """Largest values of maps (n, c, h, w) in regions (n, f, 4), over the cells with centres inside -> (n, f, c).

    ONNX has an operator for this. PyTorch has none, so here it goes through all cells.
    """
    n, f = regions.shape[:2]
    h, w = maps.shape[2:]
    limit = torch.tensor([w - 1, h - 1], dtype=regions.dtype, device=regions.device)
    first = torch.minimum(torch.ceil(regions[..., :2] / stride - 0.5).clamp(min=0), limit)
    last = torch.maximum(torch.minimum(torch.ceil(regions[..., 2:] / stride - 0.5) - 1, limit), first)
    if torch.compiler.is_exporting():
        image = torch.arange(n).to(regions.dtype)[:, None, None].expand(n, f, 1)
        rois = torch.cat([image, first, last], dim=-1).flatten(0, 1)
        attributes: dict[str, Any] = {"pooled_shape": [1, 1], "spatial_scale": 1.0}
        shape = (rois.shape[0], maps.shape[1], 1, 1)
        pooled = torch.onnx.ops.symbolic("MaxRoiPool", (maps, rois), attributes, dtype=torch.float32, shape=shape)
        return pooled.reshape(n, f, maps.shape[1])
    rows, columns = (
        (at >= first[..., None, axis]) & (at <= last[..., None, axis])
        for axis, size in ((1, h), (0, w))
        for at in [torch.arange(size, device=regions.device)]
    )
    there = rows[:, :, :, None] & columns[:, :, None, :]
    return torch.stack(
        [maps[:, c, None].masked_fill(~there, -torch.inf).amax(dim=(2, 3)) for c in range(maps.shape[1])], dim=-1
    )
