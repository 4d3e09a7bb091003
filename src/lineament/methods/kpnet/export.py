"""The entry of a KPNet file: pixels to faces with landmarks. The maps stay inside the graph."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lineament.export import Entry
from lineament.methods.kpnet.heads import Heads
from lineament.methods.kpnet.heads.base import Proposals, Style
from lineament.methods.kpnet.heads.scalemap import Scalemap, standing
from lineament.methods.kpnet.layers import UpConv
from lineament.methods.kpnet.maps import around
from lineament.methods.kpnet.network import KPNet

LEAST = -9.0
"""Logit of the scalemap above which a cell can be a proposal if there are two passes: a probability of 0.0001."""

ROUGH = 0.5
"""Largest difference of a logit between the first and the second of two passes."""


def entries(network: KPNet, heads: Heads, *, two_passes: bool = False) -> dict[str, Entry]:
    """The network of the file. Pixels are uint8 (n, h, w, 3); h and w are multiples of the network's.

    Args:
        network: The network. It does not change.
        heads: Its heads.
        two_passes: For 8-bit integers: compute the logits of the scalemap again at the proposals, so that the map
            itself may be as coarse, and pack layers (``KPNet.pack``).
    """
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 128, 192, 3), dtype=torch.uint8, generator=random)
    folded = copy.deepcopy(network).eval()
    if two_passes:
        heads = replace(heads, grouping=TwoPasses(folded.scale, heads.grouping.style))
    folded.fold()
    if two_passes:
        folded.pack()
    return {
        "kpnet": Entry(
            Extractor(folded, heads),
            {"pixels": pixels, "threshold": torch.tensor([-100.0, -100.0])},
            {"pixels": {0: "n", 1: "h", 2: "w"}, "threshold": {0: "n"}},
            multiple=network.multiple,
            listed_by="centre",
            check=heads.grouping.compared,
        )
    }


class Extractor(nn.Module):
    """The network and the proposals of its heads."""

    def __init__(self, network: KPNet, heads: Heads) -> None:
        super().__init__()
        self.network, self.heads = network, heads
        self.second = heads.grouping if isinstance(heads.grouping, nn.Module) else None

    def forward(self, pixels: Tensor, threshold: Tensor) -> dict[str, Tensor]:
        """The faces of each view, best first. Coordinates are pixels of the input.

        Args:
            pixels: (n, h, w, 3) uint8.
            threshold: (n,) logits that faces of each view must exceed. The number of rows f is that of the view with
                the most faces, at least one. Other views may have padding rows with lower logits.

        Returns:
            ``logit`` (n, f) of the probability of a face, minus infinity in padding rows; ``centre`` (n, f, 2) and
            ``side`` (n, f) of its square; ``landmarks`` (n, f, K, 2); ``peaks`` (n, f, K), the largest softmax values
            of the landmarks; ``box`` (n, f, 4) if boxes are learned.
        """
        if self.network.columns > 1:
            n, h, _, channels = pixels.shape
            pixels = pixels.reshape(n, h, -1, self.network.columns * channels)
        features = self.network.features(pixels.permute(0, 3, 1, 2).float())
        return self.heads.find(features, self.network.maps(features), threshold).outputs()


class TwoPasses(nn.Module, Scalemap):
    """The scalemap with its last layer computed again for the cells of proposals, from the features around them.

    Args:
        head: The layer, not folded.
        style: The style of the scalemap.
    """

    def __init__(self, head: nn.Module, style: Style) -> None:
        super().__init__()
        self.style = style
        conv = head.conv if isinstance(head, UpConv) else head
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        self.doubling = 2 if isinstance(head, UpConv) else 1
        self.weight = nn.Parameter(conv.weight.detach().permute(2, 3, 1, 0).flatten(0, 2))  # (9 * channels, 60)
        self.bias = nn.Parameter(conv.bias.detach())

    def propose(self, features: Tensor, maps: Mapping[str, Tensor], threshold: Tensor) -> Proposals:  # noqa: D102
        return self.squares(maps, *self.strongest(features, maps["scale"], threshold))

    def strongest(self, features: Tensor, scale: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Like `lineament.methods.kpnet.heads.scalemap.strongest`, from the features of the scalemaps."""
        # bytes have channels last in memory; rows, since runtimes would move the axis of a map back
        rows = scale.permute(0, 2, 3, 1).flatten(1, 2)
        best = torch.unflatten(rows.amax(dim=2), 1, scale.shape[2:])
        rough, _, cell = standing(best, threshold - ROUGH, LEAST)
        column, row, there, _ = around(cell, scale.shape[2], scale.shape[3])
        image = torch.arange(features.shape[0])[:, None, None]
        patch = features.permute(0, 2, 3, 1)[image, row // self.doubling, column // self.doubling] * there[..., None]
        logits = patch.flatten(2) @ self.weight + self.bias
        return torch.where(rough > LEAST, logits.amax(dim=-1), -torch.inf), cell, logits
