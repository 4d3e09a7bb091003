"""The entry of an ISNet file: the network on crops of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lineament.export import Entry, for_inference
from lineament.methods.isnet.network import LightNet, PaperNet


def entries(network: PaperNet | LightNet, spread: float = 0.0) -> dict[str, Entry]:
    """The network of the file. ``spread`` is a constant for the paper's network, which does not predict its errors."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, network.size, network.size, 3), dtype=torch.uint8, generator=random)
    return {"isnet": Entry(OnCrops(for_inference(network), spread), {"pixels": pixels}, {"pixels": {0: "n"}})}


class OnCrops(nn.Module):
    """The network on pixels in their memory layout."""

    def __init__(self, network: nn.Module, spread: float) -> None:
        super().__init__()
        self.network, self.spread = network, spread

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, size, size, 3) uint8 -> points (n, K, 2) relative to the side of the crop, spread (n, K)."""
        out = self.network(pixels.permute(0, 3, 1, 2).float())
        points = out["points"]
        return {"points": points, "spread": out.get("spread", torch.full_like(points[..., 0], self.spread))}
