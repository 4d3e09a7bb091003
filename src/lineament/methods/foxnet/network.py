"""FoxNet's network (Wu et al. 2019, section II A): a backbone, an hourglass with Fox Blocks, and point-wise heads."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.methods.backbones.base import Backbone
from lineament.methods.normalisation import ConvNorm

POOLS = (1, 3, 5, 7)
"""Window sides of the average pools in a Fox Block, in cells (figure 2)."""
FINEST = 4
"""Stride of the first feature map of a backbone."""
UNIT = 8
"""Side in cells of a face whose ``size`` is 0."""
PRIOR = 0.01
"""Initial probability of a landmark in every cell."""


class FoxNet(nn.Module):
    """Landmark maps and pixel embeddings of a whole image with any number of faces.

    Args:
        backbone: The ResNet head of figure 1. Its layers behind the maps in use are dropped.
        landmarks: Number of landmarks by schema.
        width: Channels of the hourglass.
        embedding: Channels of the pixel embeddings, n in the paper.
        stages: Number of the backbone's maps that form the first levels of the contracting half of the hourglass. The
            other levels have their own layers. 1 is the paper. A larger number uses more of the pretrained backbone.
        levels: Number of resolutions of the hourglass.
        stride: Pixels of the input per cell of the maps, 4 or 8.
        coordinates: Whether the embedding head gets the coordinates of each cell. Without them, similar faces have
            similar embeddings.
        norm: "group" or "batch", see `lineament.methods.normalisation.normalisation`.

    Attributes:
        stride: Pixels of the input per cell of the maps.
        multiple: The sides of an input are multiples of this, in pixels.
        unit: Side in pixels of a face whose ``size`` is 0.
    """

    def __init__(
        self,
        backbone: Backbone,
        landmarks: Mapping[str, int],
        *,
        width: int = 96,
        embedding: int = 8,
        stages: int = 3,
        levels: int = 5,
        stride: int = 4,
        coordinates: bool = True,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self._first = int(math.log2(stride / FINEST))
        backbone.keep(self._first + stages)
        self.backbone, self.stride, self.multiple = backbone, stride, stride * 2 ** (levels - 1)
        self.unit = float(UNIT * stride)
        channels = backbone.channels[self._first : self._first + stages]
        self.lateral = nn.ModuleList(ConvNorm(inputs, width, norm, size=1) for inputs in channels)
        self.contract = nn.ModuleList(ConvNorm(width, width, norm) for _ in range(levels - stages))
        self.fox = nn.ModuleList(FoxBlock(width, norm) for _ in range(levels))
        self.expand = nn.ModuleList(ConvNorm(width, width, norm) for _ in range(levels - 1))
        self.heat = nn.ModuleDict({name: nn.Conv2d(width, count, 1) for name, count in landmarks.items()})
        self.place = nn.Conv2d(width + 2 * coordinates, width, 1)
        self.embedding = nn.Conv2d(width, embedding, 1)
        self.size = nn.Conv2d(width, 1, 1)
        for head in self.heat.values():
            assert isinstance(head, nn.Conv2d)
            assert head.bias is not None
            nn.init.normal_(head.weight, std=0.01)
            nn.init.constant_(head.bias, -math.log(1 / PRIOR - 1))
        self._coordinates = coordinates

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Compute the maps of all heads.

        Args:
            pixels: (n, 3, h, w) RGB in [0, 255], h and w multiples of ``multiple``.

        Returns:
            Maps of h/stride x w/stride cells. ``heat_SCHEMA`` (n, K, ...): logits of the landmarks of each schema.
            ``embedding`` (n, d, ...): embeddings, not normalised. ``size`` (n, 1, ...): log2 of the longer side of the
            face in the cell, relative to ``unit``.
        """
        features = self.features(pixels)
        heat = {f"heat_{name}": head(features) for name, head in self.heat.items()}
        return heat | self.embed(features)

    def features(self, pixels: Tensor) -> Tensor:
        """The output of the hourglass (n, width, h/stride, w/stride)."""
        maps = self.backbone(pixels)[self._first :]
        down = [functional.relu(lateral(level)) for lateral, level in zip(self.lateral, maps, strict=True)]
        for contract in self.contract:
            down.append(functional.relu(contract(functional.max_pool2d(down[-1], 2))))
        skips = [fox(level) for fox, level in zip(self.fox, down, strict=True)]
        up: Tensor = skips.pop()
        for expand in self.expand:
            up = skips.pop() + functional.interpolate(up, scale_factor=2.0, mode="nearest")
            up = functional.relu(expand(up))
        return up

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        """``embedding`` and ``size`` from the output of the hourglass, see ``forward``."""
        placed = features
        if self._coordinates:
            placed = torch.cat([features, coordinates(features)], 1)
        return {"embedding": self.embedding(functional.relu(self.place(placed))), "size": self.size(features)}


class FoxBlock(nn.Module):
    """Average pools of several sizes at stride 1, concatenated, and a point-wise convolution (figure 2)."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.point = ConvNorm(len(POOLS) * width, width, norm, size=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) -> (n, width, h, w). Means at the edge are over the cells inside the map."""
        pooled = [x if k == 1 else functional.avg_pool2d(x, k, 1, k // 2, count_include_pad=False) for k in POOLS]
        return functional.relu(self.point(torch.cat(pooled, 1)))


def coordinates(maps: Tensor) -> Tensor:
    """x and y (n, 2, h, w) of each cell of maps: from the centre, relative to half the longer side, in (-1, 1)."""
    h, w = maps.shape[2:]
    columns, rows = (torch.arange(length, device=maps.device, dtype=maps.dtype) for length in (w, h))
    longer = torch.maximum(columns[-1], rows[-1]) + 1  # a tensor, since sizes are unknown in an export
    x, y = (2 * columns + 1 - w) / longer, (2 * rows + 1 - h) / longer
    placed = torch.stack([x[None].expand(h, w), y[:, None].expand(h, w)])
    return placed[None].expand(maps.shape[0], 2, h, w)
