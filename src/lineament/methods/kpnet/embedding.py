"""Associative embedding in place of the scalemap (Newell et al. 2017; the paper's table 6).

Each landmark has a heat map, whose peaks are landmarks of faces, and a map of tags, which are alike for landmarks of
one face. There are no regions: what is found as a face are landmarks that tags bring together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.methods.kpnet.entries import local_maxima, places
from lineament.methods.kpnet.losses import at
from lineament.methods.kpnet.network import KPNet
from lineament.methods.kpnet.scales import STRIDE

GROUPS = 300
"""Those of one view: as many peaks of all heat maps together."""


def loss(tags: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Tags are to be alike within a face and apart between the faces of a picture.

    The squared distance of a face's tags from their mean, averaged over landmarks; and, averaged over pairs of faces,
    ``exp(-d^2 / 2)`` of the distance of their means.

    Args:
        tags: (n, K, h, w). points: (n, f, K, 2) in pixels of the input. weights: (n, f, K), 0 where there is none.
    """
    there = (weights > 0).to(tags.dtype)
    found = at(tags, points)
    count = there.sum(-1)
    mean = (found * there).sum(-1) / count.clamp(min=1)
    pull = ((found - mean[..., None]) ** 2 * there).sum() / there.sum().clamp(min=1)
    faces = count > 0
    pairs = torch.triu(faces[:, :, None] & faces[:, None, :], diagonal=1)
    push = (torch.exp(-((mean[:, :, None] - mean[:, None, :]) ** 2) / 2) * pairs).sum() / pairs.sum().clamp(min=1)
    return pull + push


def group(heat: Tensor, tags: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The landmarks that go with each peak of any heat map.

    For each peak, and each landmark, that peak is taken for which ``p exp(-d^2 / 2)`` is largest, p its heat and d the
    distance of the tags; so a face is found by each of its landmarks. Newell et al. let every landmark belong to one
    face only; here the suppression of faces that overlap sees to that.

    Args:
        heat: (n, K, h, w), logits. tags: (n, K, h, w). count: peaks of each heat map.

    Returns:
        Points (n, K * count, K, 2) in pixels of the input, and the likelihoods above, (n, K * count, K).
    """
    logit, cell = local_maxima(heat).flatten(2).topk(count, dim=2)
    tag = tags.flatten(2).gather(2, cell)
    apart = tag.flatten(1)[:, :, None, None] - tag[:, None]
    likelihood, chosen = (functional.logsigmoid(logit)[:, None] - apart**2 / 2).max(dim=-1)
    cell = cell.gather(2, chosen.transpose(1, 2)).transpose(1, 2)
    points = (places(heat)[cell].to(heat.dtype) + 0.5) * STRIDE
    return points, likelihood.exp()


class EmbeddingExtractor(nn.Module):
    """The network and its groups. A group's probability is its landmarks' mean, its square the one around them."""

    def __init__(self, network: KPNet, counting: Sequence[int] = (0, 1, 2)) -> None:
        super().__init__()
        self.network, self.counting = network, list(counting)

    def forward(self, pixels: Tensor, least: Tensor) -> dict[str, Tensor]:
        """What `lineament.methods.kpnet.entries.Extractor` returns, all groups in place of proposals, in no order."""
        maps = self.network(pixels.permute(0, 3, 1, 2).float())
        heat = maps["response"]
        points, likelihood = group(heat, maps["scale"], GROUPS // heat.shape[1])
        chance = likelihood.mean(-1).clamp(1e-6, 1 - 1e-6)
        logit = torch.log(chance / (1 - chance))
        low, high = points.amin(dim=2), points.amax(dim=2)
        return {
            "logit": torch.where(logit > least[:, None], logit, logit - 1000),
            "centre": (low + high) / 2,
            "side": (high - low).amax(dim=-1),
            "landmarks": points,
            "peaks": likelihood[..., self.counting],
        }
