"""Peaks of maps: local maxima, and their positions between the cells."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def places(maps: Tensor) -> Tensor:
    """Column and row (h w, 2) of each cell of maps (..., h, w)."""
    h, w = maps.shape[-2:]
    columns, rows = (torch.arange(n, device=maps.device) for n in (w, h))
    columns, rows = columns.expand(h, w), rows[:, None].expand(h, w)
    return torch.stack([columns, rows], dim=-1).reshape(-1, 2)


def local_maxima(maps: Tensor, floor: float = -torch.inf, slack: float = 0.0) -> Tensor:
    """Maps (n, c, h, w) with minus infinity wherever ``floor`` or one of the eight neighbours is larger.

    Neighbours may be larger by ``slack``.
    """
    largest = functional.pad(maps, (1, 1, 1, 1), value=floor)
    for axis in (2, 3):  # runtimes are slow at pooling few channels, and fast at the maximum of two maps
        before, at, after = (largest.narrow(axis, i, maps.shape[axis]) for i in range(3))
        largest = torch.maximum(torch.maximum(before, at), after)
    largest = largest.clamp(min=floor)
    return torch.where(maps >= (largest - slack if slack else largest), maps, -torch.inf)


def top(before: Tensor, peak: Tensor, after: Tensor) -> Tensor:
    """The vertex of the parabola through three neighbouring values, in cells from the middle one, in [-0.5, 0.5]."""
    bend = (2 * peak - before - after).clamp(min=1e-6)
    return ((after - before) / (2 * bend)).clamp(-0.5, 0.5)
