"""Convolutions fitted by least squares to what another function computes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional


def least_squares(pairs: Iterable[tuple[Tensor, Tensor]], size: int = 3, ridge: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Kernel (o, i, size, size) and bias (o,) of the convolution that comes nearest to given outputs.

    Args:
        pairs: Inputs (i, h, w) and outputs (o, h, w), at least one pair.
        size: Side of the kernel.
        ridge: Weight of the kernel's squares, relative to the mean square of the inputs.
    """
    inner, outer = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for inputs, outputs in pairs:
        patches = functional.unfold(inputs[None], size, padding=size // 2)[0].double()
        patches = torch.cat([patches, torch.ones(1, patches.shape[1], dtype=torch.float64)])
        inner = inner + patches @ patches.T
        outer = outer + patches @ outputs.flatten(1).T.double()
    strength = ridge * inner.diagonal()[:-1].mean()
    inner.diagonal()[:-1] += strength  # not of the bias
    found = torch.linalg.solve(inner, outer).T.float()
    return found[:, :-1].unflatten(1, (-1, size, size)), found[:, -1]
