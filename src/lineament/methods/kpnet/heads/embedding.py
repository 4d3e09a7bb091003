"""Associative embedding instead of the scalemap (Newell et al. 2017; the paper's table 6).

Each landmark has a heat map, whose peaks are landmarks of faces, and a map of tags, which are similar for landmarks of
one face. There are no regions: a face is a group of landmarks with similar tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lineament.data.canvases import Labels
from lineament.methods.kpnet.heads.base import Extraction, Found, Grouping
from lineament.methods.kpnet.maps import sample
from lineament.methods.kpnet.network import Backbone
from lineament.methods.kpnet.scales import STRIDE
from lineament.methods.peaks import local_maxima, places
from lineament.train.precision import in_float32
from lineament.train.task import Batch, divisor

Array = NDArray[Any]

GROUPS = 300
"""Faces of one view: as many as there are peaks of all heat maps together."""


class Embedding(Grouping):
    """A map of tags for each landmark."""

    compared = False  # without anything like a face, the grouping of peaks may depend on the last digit
    settings = MappingProxyType({"proposal": 0.0})  # the squares are around landmarks, not around faces

    def head(self, backbone: Backbone, landmarks: int) -> nn.Module:  # noqa: D102
        return backbone.head(landmarks)

    def regions(self, rng: np.random.Generator, faces: Sequence[Array]) -> None:
        """None."""

    def targets(self, labels: Sequence[Labels], size: int) -> Batch:
        """Nothing beside the landmarks."""
        return {}

    def losses(self, maps: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``tag``, see `tag_loss`."""
        return {"tag": tag_loss(maps["scale"], batch["points"], batch["weights"], self.style.stride)}

    def find(self, features: Tensor, maps: Mapping[str, Tensor], threshold: Tensor, extraction: Extraction) -> Found:
        """All groups, unordered. A group's probability is the mean of its landmarks', its square is around them and has
        at least the side of a cell.
        """
        heat = maps["response"]
        points, likelihood = group(heat, maps["scale"], GROUPS // heat.shape[1], self.style.stride)
        chance = likelihood.mean(-1).clamp(1e-6, 1 - 1e-6)
        logit = torch.log(chance / (1 - chance))
        low, high = points.amin(dim=2), points.amax(dim=2)
        surpass = torch.where(logit > threshold[:, None], logit, -torch.inf)
        side = (high - low).amax(dim=-1).clamp(min=self.style.stride)
        return Found(surpass, (low + high) / 2, side, points, likelihood)


@in_float32
def tag_loss(tags: Tensor, points: Tensor, weights: Tensor, stride: int = STRIDE) -> Tensor:
    """Tags should be similar within a face and different between the faces of an image.

    The squared distance of a face's tags from their mean, averaged over landmarks; and, averaged over pairs of faces,
    ``exp(-d^2 / 2)`` of the distance of their means.

    Args:
        tags: (n, K, h, w).
        points: (n, f, K, 2) in pixels of the input.
        weights: (n, f, K), 0 for missing landmarks.
        stride: Pixels of the input per cell.
    """
    there = (weights > 0).to(tags.dtype)
    found = sample(tags, points, stride)
    count = there.sum(-1)
    mean = (found * there).sum(-1) / count.clamp(min=1)
    pull = ((found - mean[..., None]) ** 2 * there).sum() / divisor(there.sum())
    faces = count > 0
    pairs = torch.triu(faces[:, :, None] & faces[:, None, :], diagonal=1)
    push = (torch.exp(-((mean[:, :, None] - mean[:, None, :]) ** 2) / 2) * pairs).sum() / divisor(pairs.sum())
    return pull + push


def group(heat: Tensor, tags: Tensor, count: int, stride: int = STRIDE) -> tuple[Tensor, Tensor]:
    """Group landmarks around each peak of any heat map.

    For each peak and each other landmark, the peak with the largest ``p exp(-d^2 / 2)`` is chosen, with its heat p and
    the distance d of the tags. So a face is detected once by each of its landmarks. In Newell et al., a landmark
    belongs to one face only; here suppression removes the duplicates.

    Args:
        heat: (n, K, h, w), logits.
        tags: (n, K, h, w).
        count: Peaks of each heat map.
        stride: Pixels of the input per cell.

    Returns:
        Points (n, K * count, K, 2) in pixels of the input, and the likelihoods above, (n, K * count, K).
    """
    logit, cell = local_maxima(heat).flatten(2).topk(count, dim=2)
    tag = tags.flatten(2).gather(2, cell)
    apart = tag.flatten(1)[:, :, None, None] - tag[:, None]
    likelihood, chosen = (functional.logsigmoid(logit)[:, None] - apart**2 / 2).max(dim=-1)
    cell = cell.gather(2, chosen.transpose(1, 2)).transpose(1, 2)
    points = (places(heat)[cell].to(heat.dtype) + 0.5) * stride
    return points, likelihood.exp()
