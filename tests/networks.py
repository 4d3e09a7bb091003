"""Networks for tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lineament.methods.backbones.base import Backbone
from lineament.methods.kpnet.scales import Grid

ALL = -100.0
"""Logit that every peak of a scalemap surpasses."""


class Glance(nn.Module):
    """Replaces a backbone, so that exports take no time."""

    grid = Grid(2, 8)
    stride = 2
    channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, self.channels, 5, stride=2, padding=2)

    def head(self, channels: int) -> nn.Conv2d:
        return nn.Conv2d(self.channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def thresholds(n: int, logit: float = ALL) -> Tensor:
    """Thresholds (n,) for the proposals of n views."""
    return torch.full((n,), logit)


def unlike(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module in float64 and in evaluation mode, with non-trivial normalisation."""
    random = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight.data, part.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=random))
            for tensor in (part.bias.data, part.running_mean):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=random))
    return module.double().eval()


class Stairs(Backbone):
    """The smallest backbone: one convolution per map."""

    channels = (8, 8, 16, 16)

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        sides = zip((3, *self.channels), self.channels, (4, 2, 2, 2), strict=False)
        self.steps = nn.ModuleList(nn.Conv2d(i, o, stride + 1, stride, stride // 2) for i, o, stride in sides)

    def maps(self, x: Tensor) -> list[Tensor]:
        kept = []
        for step in self.steps:
            x = step(x).relu()
            kept.append(x)
        return kept

    def keep(self, maps: int) -> None:
        self.steps = self.steps[:maps]

    def classify(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError
