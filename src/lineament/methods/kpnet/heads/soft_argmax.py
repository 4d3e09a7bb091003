"""The scale adaptive soft-argmax (equations 5 and 6) and the landmarks' loss (equation 7), for all faces at once.

The sums of equation 6 over a proposal's region are products of three matrices: the rows of the region, the map of
exponentials, and the columns of the region. So no region is cut out, and one more face takes next to no time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lineament.data.canvases import Labels
from lineament.methods.kpnet.heads.base import Extraction, padded
from lineament.methods.kpnet.maps import inside, region_maximum, sample
from lineament.methods.kpnet.network import Backbone
from lineament.methods.kpnet.scales import STRIDE
from lineament.train.precision import in_float32
from lineament.train.task import Batch, divisor

Array = NDArray[Any]

DEEPEST = 60.0
"""Limit of exponents below the map's largest. float32 holds e^-60, and no peak is that faint."""


class SoftArgmax(Extraction):
    """A response map for each landmark. The mean of its softmax in a face's region is the landmark."""

    def head(self, backbone: Backbone, landmarks: int, extra: int = 0) -> nn.Module:  # noqa: D102
        return backbone.head(landmarks + extra)

    def targets(self, labels: Sequence[Labels], regions: Sequence[Array] | None, size: int) -> Batch:
        """The regions."""
        assert regions is not None
        return {"regions": padded(regions)}

    @in_float32
    def losses(self, response: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``squared``, ``absolute`` and ``peak`` of `landmark_losses`."""
        return landmark_losses(response, batch["regions"], batch["points"], batch["weights"], self.stride)

    def extract(self, response: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks by equation 6, and the largest values of equation 5, which equation 8 sums."""
        found = soft_argmax(response, regions, self.stride)
        largest = region_maximum(response, regions, self.stride)
        return found.points, (largest - found.log_total).clamp(max=0).exp()


class Expectation(NamedTuple):
    """The outputs of the soft-argmax for every region.

    Attributes:
        points: (n, f, K, 2), pixels of the input.
        log_total: (n, f, K), logarithm of the denominator of equation 5, relative to a response of zero.
    """

    points: Tensor
    log_total: Tensor


def soft_argmax(response: Tensor, regions: Tensor, stride: int = STRIDE) -> Expectation:
    """Equations 5 and 6. The cells of a region are those with centres inside. A region without cells gives its centre.

    Args:
        response: (n, K, h, w), the maps h.
        regions: (n, f, 4), ``x1, y1, x2, y2`` in pixels of the input.
        stride: Pixels of the input per cell.
    """
    peak = response.amax(dim=(2, 3), keepdim=True)
    weight = (response - peak).clamp(min=-DEEPEST).exp()
    rows, y = inside(regions[..., 1], regions[..., 3], response.shape[2], stride)
    columns, x = inside(regions[..., 0], regions[..., 2], response.shape[3], stride)
    # (n, 1, f, h) @ (n, K, h, w) -> (n, K, f, w); positions are relative to the centre of the region
    across = rows[:, None] @ weight
    down = (rows * y)[:, None] @ weight
    total = (across * columns[:, None]).sum(-1)
    sums = torch.stack([(across * (columns * x)[:, None]).sum(-1), (down * columns[:, None]).sum(-1)], dim=-1)
    empty = total == 0
    total = total.masked_fill(empty, 1.0)
    middle = (regions[..., :2] + regions[..., 2:]) / 2
    points = (sums / total[..., None]).transpose(1, 2) + middle[:, :, None]
    return Expectation(points, (total.log() + peak[..., 0]).transpose(1, 2))


def landmark_losses(
    response: Tensor, regions: Tensor, points: Tensor, weights: Tensor, stride: int = STRIDE
) -> dict[str, Tensor]:
    """The losses of landmarks, averaged over those with a weight.

    Args:
        response: (n, K, h, w).
        regions: (n, f, 4) in pixels of the input. Padding has squares of side 0.
        points: (n, f, K, 2) in pixels of the input, arbitrary if the weight is 0.
        weights: (n, f, K).
        stride: Pixels of the input per cell.

    Returns:
        ``squared``: equation 7, with positions as shares of the region's side. ``absolute`` (ours): the same with the
        absolute error. ``peak`` (ours): the cross-entropy of equation 5's distribution with the landmark's position,
        shared by the four cells around it, which makes peaks sharp.
    """
    found = soft_argmax(response, regions, stride)
    surprise = (found.log_total - sample(response, points, stride)).clamp(min=0)
    counting = weights * within(points, regions)
    return {
        **position_losses(found.points, regions, points, weights),
        "peak": (surprise * counting).sum() / divisor(counting.sum()),
    }


def position_losses(found: Tensor, regions: Tensor, points: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """``squared`` (equation 7) and ``absolute`` of `landmark_losses`, for points (n, f, K, 2) from any method."""
    side = (regions[..., 2] - regions[..., 0]).clamp(min=1e-6)
    error = (found - points) / side[..., None, None]
    weights = weights * within(points, regions)
    total = divisor(weights.sum())
    return {
        "squared": ((error**2).sum(-1) * weights).sum() / total / 2,
        "absolute": (error.abs().sum(-1) * weights).sum() / total,
    }


def within(points: Tensor, regions: Tensor) -> Tensor:
    """Which points (n, f, K, 2) are inside their regions; no others can be predicted -> (n, f, K) bool."""
    middle, side = (regions[..., :2] + regions[..., 2:]) / 2, regions[..., 2] - regions[..., 0]
    return (points - middle[..., None, :]).abs().amax(-1) < side[..., None] / 2 - 1
