"""The entry of a KPNet file: pixels to faces with landmarks. The maps stay inside the graph."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lineament.export import Entry
from lineament.methods.kpnet.heads import Heads
from lineament.methods.kpnet.heads.base import Proposals, Style
from lineament.methods.kpnet.heads.scalemap import PROPOSALS, Scalemap
from lineament.methods.kpnet.layers import UpConv, layer_of
from lineament.methods.kpnet.maps import around, leading
from lineament.methods.kpnet.network import OBJECTNESS, KPNet
from lineament.methods.peaks import local_maxima, places
from lineament.train.task import to_input

Array = NDArray[Any]

LEAST = -9.0
"""Objectness above which a cell can be a proposal if there are two passes: a probability of 0.0001."""

ROUGH = 0.25
"""How much larger than its objectness the logit of a cell may be, unless it is `CERTAIN`."""

CERTAIN = -2.5
"""Objectness of a cell whose logit is computed whatever the threshold: logits of certain faces differ by more."""

SLACK = 0.1
"""How much larger the objectness of a cell beside a local maximum of the logits can be."""

CANDIDATES = 4 * PROPOSALS
"""Largest number of cells whose logits are computed."""


def entries(network: KPNet, heads: Heads, *, views: Iterable[Array] | None = None) -> dict[str, Entry]:
    """The network of the file. Pixels are uint8 (n, h, w, 3); h and w are multiples of the network's.

    Args:
        network: The network. It does not change.
        heads: Its heads.
        views: For 8-bit integers: images (h, w, 3) uint8 as the network sees them, a few dozen with faces of all sizes.
            The file has two passes: maps fitted to these images locate proposals (``KPNet.sketch``), whose logits are
            then computed. Layers are packed (``KPNet.pack``).
    """
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 128, 192, 3), dtype=torch.uint8, generator=random)
    folded = copy.deepcopy(network).eval()
    if views is not None:
        folded.sketch(to_input(torch.as_tensor(view)[None])[0] for view in views)
        heads = replace(heads, grouping=TwoPasses(folded.scale, heads.grouping.style))
    folded.fold()
    if views is not None:
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
    """The scalemap at the proposals alone, from the features around them. Maps of objectness locate them.

    Args:
        head: The layer of the scalemap, not folded.
        style: The style of the scalemap.
    """

    def __init__(self, head: nn.Module, style: Style) -> None:
        super().__init__()
        self.style = style
        self.doubling = 2 if isinstance(head, UpConv) else 1
        conv = layer_of(head)
        assert conv.bias is not None
        self.weight = nn.Parameter(conv.weight.detach().permute(2, 3, 1, 0).flatten(0, 2))  # (9 * channels, 60)
        self.bias = nn.Parameter(conv.bias.detach())

    def propose(self, features: Tensor, maps: Mapping[str, Tensor], threshold: Tensor) -> Proposals:  # noqa: D102
        logit, cell, logits = self.strongest(features, maps[OBJECTNESS], threshold)
        return self.squares(maps, logit, cell, logits, partial(self.neighbours, features, cell))

    def strongest(self, features: Tensor, objectness: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Like `lineament.methods.kpnet.heads.scalemap.strongest`, from the candidates that the objectness shows."""
        reaching = (threshold - ROUGH).clamp(min=LEAST, max=CERTAIN)
        rough, at = leading(local_maxima(objectness[:, None], LEAST, SLACK).flatten(1), CANDIDATES, reaching)
        cell = places(objectness)[at]
        logits = self._patches(features, cell) @ self.weight + self.bias
        stands = rough > reaching[:, None]
        drawn = torch.full_like(functional.pad(objectness.flatten(1), (0, 1)), -torch.inf)  # one more, for padding
        drawn = drawn.scatter(1, torch.where(stands, at, drawn.shape[1] - 1), logits.amax(dim=-1))
        peaks = local_maxima(drawn[:, None, :-1].view_as(objectness[:, None])).flatten(1).gather(1, at)
        logit, order = leading(torch.where(stands, peaks, -torch.inf), PROPOSALS, threshold)
        cell, logits = (of.gather(1, order[..., None].expand(-1, -1, of.shape[2])) for of in (cell, logits))
        return logit, cell, logits

    def neighbours(self, features: Tensor, cell: Tensor, bins: Tensor) -> Tensor:
        """Like `lineament.methods.kpnet.heads.scalemap.neighbours`, from the features of the scalemaps."""
        h, w = (self.doubling * length for length in features.shape[2:])
        column, row, there = around(cell, h, w)
        patches = self._patches(features, torch.stack([column, row], dim=-1).flatten(1, 2))
        kernels = self.weight.T[bins][..., None]  # (n, f, 9 * channels, 1)
        logits = torch.unflatten(patches, 1, (-1, there.shape[2])) @ kernels
        return (logits[..., 0] + self.bias[bins][..., None]).masked_fill(~there, -torch.inf)

    def _patches(self, features: Tensor, cell: Tensor) -> Tensor:
        """The 3x3 features (n, f, 9 * channels) around cells (n, f, 2)."""
        column, row, there = around(cell, *(self.doubling * length for length in features.shape[2:]))
        image = torch.arange(features.shape[0])[:, None, None]
        patch = features.permute(0, 2, 3, 1)[image, row // self.doubling, column // self.doubling]
        return (patch * there[..., None]).flatten(2)
