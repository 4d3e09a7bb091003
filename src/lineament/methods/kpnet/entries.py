"""What a KPNet file holds: pixels in, proposals with their landmarks out. The maps stay inside."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.export import Entry
from lineament.methods.kpnet.extract import soft_argmax
from lineament.methods.kpnet.network import KPNet
from lineament.methods.kpnet.scales import PER_OCTAVE, SMALLEST, STRIDE

PROPOSALS = 300
"""Faces at most of one view; an input of 64x64 has as many cells that can be a peak."""


def entries(network: nn.Module) -> dict[str, Entry]:
    """The file's one network. Pixels are uint8 (n, h, w, 3), h and w multiples of the backbone's."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 128, 192, 3), dtype=torch.uint8, generator=random)
    folded = copy.deepcopy(network).eval()
    assert isinstance(folded, KPNet)
    folded.fold()
    axes = {"pixels": {0: "n", 1: "h", 2: "w"}}
    return {
        "kpnet": Entry(
            Extractor(folded), {"pixels": pixels}, axes, multiple=folded.backbone.multiple, listed_by="centre"
        )
    }


class Extractor(nn.Module):
    """The network and all of its extraction: peaks of the scalemap, soft-argmax, the maxima of equation 8."""

    def __init__(self, network: KPNet, scored: tuple[int, ...] = (0, 1, 2)) -> None:
        super().__init__()
        self.network, self.scored = network, scored

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, h, w, 3) uint8 -> the best proposals of each view, best first; coordinates in pixels of the input.

        Returns:
            ``logit`` (n, f) of the scale probability; ``centre`` (n, f, 2); ``side`` (n, f); ``landmarks``
            (n, f, K, 2); ``peaks`` (n, f, 3): largest softmax value of either eye and the nose.
        """
        maps = self.network(pixels.permute(0, 3, 1, 2).float())
        logit, cell, bins = peaks(maps["scale"])
        centre = (cell.float() + 0.5) * STRIDE
        side = SMALLEST * torch.exp2((bins.float() + 0.5) / PER_OCTAVE)
        regions = torch.cat([centre - side[..., None] / 2, centre + side[..., None] / 2], dim=-1)
        found = soft_argmax(maps["response"], regions)
        scored = list(self.scored)
        largest = region_maximum(maps["response"][:, scored], regions)
        return {
            "logit": logit,
            "centre": centre,
            "side": side,
            "landmarks": found.points,
            "peaks": (largest - found.log_total[..., scored]).clamp(max=0).exp(),
        }


def peaks(scale: Tensor, count: int = PROPOSALS) -> tuple[Tensor, Tensor, Tensor]:
    """The best cells of scalemaps (n, 60, h, w) that no cell around them surpasses.

    Returns:
        Logits (n, f), cells (n, f, 2) as column and row, bins (n, f).
    """
    best, bins = scale.max(dim=1)
    around = functional.max_pool2d(best[:, None], 3, stride=1, padding=1)[:, 0]
    standing = torch.where(best >= around, best, best - 1000).flatten(1)
    logit, at = standing.topk(count, dim=1)
    h, w = best.shape[1:]
    grid = torch.stack([torch.arange(w).expand(h, w), torch.arange(h)[:, None].expand(h, w)], dim=-1).reshape(-1, 2)
    return logit, grid[at], bins.flatten(1).gather(1, at)


def region_maximum(maps: Tensor, regions: Tensor) -> Tensor:
    """Largest values of maps (n, c, h, w) in regions (n, f, 4), over the cells whose centres lie inside -> (n, f, c).

    ONNX has an operator for it; torch has none, and here goes through all cells.
    """
    n, f = regions.shape[:2]
    h, w = maps.shape[2:]
    limit = torch.tensor([w - 1, h - 1], dtype=regions.dtype)
    first = torch.minimum(torch.ceil(regions[..., :2] / STRIDE - 0.5).clamp(min=0), limit)
    last = torch.maximum(torch.minimum(torch.ceil(regions[..., 2:] / STRIDE - 0.5) - 1, limit), first)
    if torch.compiler.is_exporting():
        image = torch.arange(n).to(regions.dtype)[:, None, None].expand(n, f, 1)
        rois = torch.cat([image, first, last], dim=-1).flatten(0, 1)
        attributes: dict[str, Any] = {"pooled_shape": [1, 1], "spatial_scale": 1.0}
        shape = (rois.shape[0], maps.shape[1], 1, 1)
        pooled = torch.onnx.ops.symbolic("MaxRoiPool", (maps, rois), attributes, dtype=torch.float32, shape=shape)
        return pooled.reshape(n, f, maps.shape[1])
    rows, columns = (
        (torch.arange(size) >= first[..., None, axis]) & (torch.arange(size) <= last[..., None, axis])
        for axis, size in ((1, h), (0, w))
    )
    inside = rows[:, :, :, None] & columns[:, :, None, :]
    return torch.stack(
        [maps[:, c, None].masked_fill(~inside, -torch.inf).amax(dim=(2, 3)) for c in range(maps.shape[1])], dim=-1
    )
