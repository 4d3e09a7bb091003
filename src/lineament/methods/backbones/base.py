"""The interface of a backbone: pixels in, feature maps at strides 4, 8, 16 and 32 out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from lineament.methods.normalisation import folded


class Backbone(nn.Module, ABC):
    """A classification network without its classifier. Detectors use its feature maps C2 to C5.

    Attributes:
        channels: Channels of C2, C3, C4 and C5.
        mean: Mean of pixels in [0, 255], by channel, that its training subtracted.
        std: Standard deviation of pixels in [0, 255], by channel, by which its training divided.
        classifier_keys: Prefixes of the names of the classifier's weights.
    """

    channels: ClassVar[tuple[int, int, int, int]]
    mean: ClassVar[tuple[float, float, float]] = (123.675, 116.28, 103.53)
    std: ClassVar[tuple[float, float, float]] = (58.395, 57.12, 57.375)
    classifier_keys: ClassVar[tuple[str, ...]] = ("fc.",)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(n, 3, h, w) RGB in [0, 255], h and w multiples of 32 -> C2 to C5, (n, channels, h/stride, w/stride)."""
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return self.maps((pixels - mean) / std)

    @abstractmethod
    def maps(self, x: Tensor) -> list[Tensor]:
        """As ``forward``, but for normalised pixels."""

    @abstractmethod
    def keep(self, maps: int) -> None:
        """Keep the first ``maps`` feature maps, and drop the layers behind them. 2 keeps C2 and C3."""

    @abstractmethod
    def classify(self, pixels: Tensor) -> Tensor:
        """(n, 3, h, w) RGB in [0, 255] -> logits (n, classes). Only for a network that was made with ``classes``."""


def freeze(network: nn.Module, convolutions: int) -> None:
    """Freeze the first convolutions and all batch normalisation, as in the paper on MaskFace (section 3.3).

    Frozen normalisation is a linear map. It is folded into the convolution before it and so costs nothing. Its shift
    becomes the bias of the convolution, which is frozen, too.

    Args:
        network: Registers each normalisation right after its convolution.
        convolutions: Number of convolutions to freeze.
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
    """Each convolution with a normalisation right after it: the parent of both, the convolution, and the name and the
    module of the normalisation.
    """
    for parent in network.modules():
        children = list(parent.named_children())
        for (_, conv), (name, norm) in pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                yield parent, conv, name, norm
