"""The entries of a FoxNet file: one per schema, from the pixels to the landmark candidates. They output no maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.export import Entry, for_inference
from lineament.methods.foxnet.network import FoxNet
from lineament.methods.peaks import local_maxima, places, top

ALL, FEWEST = 2560, 128
"""Candidates of an image, and of each landmark at least: enough for 512 faces with 5 points, or 128 with 68."""


def entries(network: FoxNet) -> dict[str, Entry]:
    """The networks of the file, ``foxnet_SCHEMA`` for each schema. They share most of their weights.

    Args:
        network: The trained network. It does not change. The entries have its weights, rounded to 16-bit floats.
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
    """The network and the peaks of one schema's landmark maps (section II C)."""

    def __init__(self, network: FoxNet, schema: str) -> None:
        super().__init__()
        self.network, self.schema = network, schema

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Landmark candidates: the local maxima over 3x3 cells of each landmark's map, best first.

        Args:
            pixels: (n, h, w, 3) uint8 RGB, h and w multiples of the network's ``multiple``.

        Returns:
            ``peak`` (n, m, 3): index of the landmark, column and row of the peak. ``place`` (n, m, 2): its position
            in pixels of the input. It is the vertex of the parabola through the log-probabilities of the peak and its
            neighbours, since the logarithm of a Gaussian is a parabola. ``score`` (n, m): logit of the peak, minus
            infinity in unused rows. ``embedding`` (n, m, d), not normalised. ``size`` (n, m): predicted longer side of
            the peak's face, in pixels of the input.
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
        wide = table[-1, 0] + 3  # cells of a row with one more at each end, which repeats the edge
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
