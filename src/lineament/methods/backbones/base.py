"""What a backbone is: pixels in, maps at strides 4, 8, 16 and 32 out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from lineament.methods.normalisation import folded


class Backbone(nn.Module, ABC):
    """A classification network without its classifier; its maps C2 to C5 are what a detector reads.

    Attributes:
        channels: of C2, C3, C4 and C5.
        mean, std: by which pixels in [0, 255] were normalised when it was trained, by channel.
        classifier_keys: first parts of the names of the classifier's weights.
    """

    channels: ClassVar[tuple[int, int, int, int]]
    mean: ClassVar[tuple[float, float, float]] = (123.675, 116.28, 103.53)
    std: ClassVar[tuple[float, float, float]] = (58.395, 57.12, 57.375)
    classifier_keys: ClassVar[tuple[str, ...]] = ("fc.",)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(n, 3, h, w) in [0, 255], h and w multiples of 32 -> C2 to C5, (n, channels, h/stride, w/stride)."""
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return self.maps((pixels - mean) / std)

    @abstractmethod
    def maps(self, x: Tensor) -> list[Tensor]:
        """As ``forward``, of normalised pixels."""

    @abstractmethod
    def keep(self, maps: int) -> None:
        """Drop the layers that only later maps need: with 2, C2 and C3 are all that ``maps`` returns."""

    @abstractmethod
    def classify(self, pixels: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 255] -> logits (n, classes); of a network that was built with classes."""


def freeze(network: nn.Module, convolutions: int) -> None:
    """Fix what the paper on MaskFace fixes (section 3.3): the first convolutions and all batch normalisation.

    Normalisation whose statistics, scale and shift are fixed is a linear map. It becomes part of the convolution
    before it, so that nobody pays for it; its shift becomes a bias, which is fixed as well.

    Args:
        network: each normalisation in it is registered right after its convolution.
        convolutions: how many of the first are fixed.
    """
    for parent, conv, name, norm in list(_normalised(network)):
        with torch.no_grad():
            weight, bias = folded(conv.weight, norm, conv.bias)
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias, requires_grad=False)
        setattr(parent, name, nn.Identity())
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for i, layer in enumerate(layers):
        layer.weight.requires_grad_(i >= convolutions)


def _normalised(network: nn.Module) -> Iterator[tuple[nn.Module, nn.Conv2d, str, nn.BatchNorm2d]]:
    """Convolutions with the normalisation right after them: its parent and its name there."""
    for parent in network.modules():
        children = list(parent.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                yield parent, conv, name, norm
