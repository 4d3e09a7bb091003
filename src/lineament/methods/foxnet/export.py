"""What a FoxNet file holds: for each schema, the network down to its landmark candidates; no map leaves it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.export import Entry, for_inference
from lineament.methods.foxnet.network import FoxNet
from lineament.methods.peaks import local_maxima, places, top

ALL, FEWEST = 2560, 128
"""Candidates of one image, and of each landmark at least: 512 faces with five points, 128 with 68."""


def entries(network: FoxNet) -> dict[str, Entry]:
    """The file's networks, ``foxnet_SCHEMA`` for each schema, which have most of their weights in common.

    Args:
        network: is left as it is; the file has its weights in 16 bits.
    """
    random = torch.Generator().manual_seed(0)
    network = for_inference(network)
    step = network.multiple
    pixels = torch.randint(0, 256, (2, 2 * step, 3 * step, 3), dtype=torch.uint8, generator=random)
    return {
        f"foxnet_{name}": Entry(
            Candidates(network, name),
            {"pixels": pixels},
            {"pixels": {0: "n", 1: "h", 2: "w"}},
            multiple=step,
            listed_by="peak",
        )
        for name in network.heat
    }


class Candidates(nn.Module):
    """The network, and the peaks of one schema's landmark maps (section II C)."""

    def __init__(self, network: FoxNet, schema: str) -> None:
        super().__init__()
        self.network, self.schema = network, schema

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Landmark candidates: the peaks of each landmark's map over its eight neighbours, best first.

        Args:
            pixels: (n, h, w, 3) uint8, h and w multiples of the network's.

        Returns:
            ``peak`` (n, m, 3): which landmark, the peak's column and row. ``place`` (n, m, 2): where it is in pixels
            of the input, between cells by the parabola through the peak's neighbours in the logarithm of the
            probability, which of a bell is one. ``score`` (n, m): the peak's logit, minus infinity in rows that only
            fill up. ``embedding`` (n, m, d) of any norm.
            ``size`` (n, m): side in pixels of the face that the peak belongs to.
        """
        features = self.network.features(pixels.permute(0, 3, 1, 2).float())
        heat = self.network.heat[self.schema](features)
        maps = self.network.embed(features)
        k = heat.shape[1]
        most = max(ALL // k, FEWEST)
        peaks = functional.pad(local_maxima(heat).flatten(2), (0, most), value=-torch.inf)
        score, cell = peaks.topk(most, dim=2)
        cell = torch.where(torch.isfinite(score), cell, 0)
        table = places(heat)
        column, row = table[cell].unbind(-1)
        wide = table[-1, 0] + 3  # cells of a row and one at either end, where values are those of the edge
        likely = functional.pad(functional.logsigmoid(heat), (1, 1, 1, 1), mode="replicate").flatten(2)
        at = (row + 1) * wide + column + 1
        here, left, right, above, below = (likely.gather(2, at + by) for by in (0, -1, 1, -wide, wide))
        x = (column + 0.5 + top(left, here, right)) * self.network.stride
        y = (row + 0.5 + top(above, here, below)) * self.network.stride
        which = torch.arange(k)[:, None].expand_as(cell)
        flat = cell.flatten(1)
        embedding, size = (
            maps[name].flatten(2).gather(2, flat[:, None].expand(-1, maps[name].shape[1], -1)).transpose(1, 2)
            for name in ("embedding", "size")
        )
        return {
            "peak": torch.stack([which, column, row], dim=-1).flatten(1, 2).float(),
            "place": torch.stack([x, y], dim=-1).flatten(1, 2),
            "score": score.flatten(1),
            "embedding": embedding,
            "size": size[..., 0].exp2() * self.network.unit,
        }
