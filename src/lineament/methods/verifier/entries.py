"""The entry of a verifier's file: the network on crops."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lineament.export import Entry, for_inference
from lineament.methods.verifier.network import VerifierNet


def entries(network: VerifierNet) -> dict[str, Entry]:
    """The network of the file, on pixels in their memory layout."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, network.size, network.size, 3), dtype=torch.uint8, generator=random)
    return {"verifier": Entry(OnCrops(for_inference(network)), {"pixels": pixels}, {"pixels": {0: "n"}})}


class OnCrops(nn.Module):
    """The network on uint8 crops."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, size, size, 3) uint8 -> score (n,) logits, box (n, 4) offsets from the window."""
        outputs: dict[str, Tensor] = self.network(pixels.permute(0, 3, 1, 2).float())
        return outputs
