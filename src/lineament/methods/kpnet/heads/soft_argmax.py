"""The scale adaptive soft-argmax (equations 5 and 6) and the landmarks' loss (equation 7), for all faces at once.

The sums of equation 6 over a proposal's region are products of three matrices: which rows the region has, the map of
exponentials, which columns it has. So no region is cut out, and one more face costs next to nothing.
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
from lineament.train.task import Batch

Array = NDArray[Any]

DEEPEST = 60.0
"""Exponents below the map's largest; float32 holds e^-60, and no peak is that faint."""


class SoftArgmax(Extraction):
    """A response map for each landmark, whose softmax in a face's region has the landmark for its mean."""

    def head(self, backbone: Backbone, landmarks: int, offsets: int = 0) -> nn.Module:  # noqa: D102
        return backbone.head(landmarks + offsets)

    def targets(self, labels: Sequence[Labels], regions: Sequence[Array] | None, size: int) -> Batch:
        """The regions."""
        assert regions is not None
        return {"regions": padded(regions)}

    @in_float32
    def losses(self, response: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``squared``, ``absolute`` and ``peak`` of `landmark_losses`."""
        return landmark_losses(response, batch["regions"], batch["points"], batch["weights"], self.style.stride)

    def extract(self, response: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks by equation 6, and the largest values of equation 5, which equation 8 adds up."""
        found = soft_argmax(response, regions, self.style.stride)
        largest = region_maximum(response, regions, self.style.stride)
        return found.points, (largest - found.log_total).clamp(max=0).exp()


class Expectation(NamedTuple):
    """What the soft-argmax finds in every region.

    Attributes:
        points: (n, f, K, 2), pixels of the input.
        log_total: (n, f, K), logarithm of the denominator of equation 5, with the response's own zero.
    """

    points: Tensor
    log_total: Tensor


def soft_argmax(response: Tensor, regions: Tensor, stride: int = STRIDE) -> Expectation:
    """Equations 5 and 6. A region's cells are those whose centres lie in it; where it has none, its centre is given.

    Args:
        response: (n, K, h, w), the maps h.
        regions: (n, f, 4), ``x1, y1, x2, y2`` in pixels of the input.
        stride: pixels of the input for one cell.
    """
    peak = response.amax(dim=(2, 3), keepdim=True)
    weight = (response - peak).clamp(min=-DEEPEST).exp()
    rows, y = inside(regions[..., 1], regions[..., 3], response.shape[2], stride)
    columns, x = inside(regions[..., 0], regions[..., 2], response.shape[3], stride)
    # (n, 1, f, h) @ (n, K, h, w) -> (n, K, f, w); positions are counted from the middle of the region
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
    """The landmarks' losses, averaged over what carries weight.

    Args:
        response: (n, K, h, w).
        regions: (n, f, 4) in pixels of the input; squares of side 0 fill up what an image lacks.
        points: (n, f, K, 2) in pixels of the input, anything where the weight is 0.
        weights: (n, f, K). stride: pixels of the input for one cell.

    Returns:
        ``squared``, equation 7 with positions as shares of the region's side; ``absolute``, ours, the same with the
        absolute error; ``peak``, ours, the cross-entropy of equation 5's distribution with the landmark's own place,
        shared by the four cells around it, which makes peaks sharp.
    """
    found = soft_argmax(response, regions, stride)
    surprise = (found.log_total - sample(response, points, stride)).clamp(min=0)
    counting = weights * within(points, regions)
    return {
        **position_losses(found.points, regions, points, weights),
        "peak": (surprise * counting).sum() / counting.sum().clamp(min=1e-6),
    }


def position_losses(found: Tensor, regions: Tensor, points: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """``squared`` (equation 7) and ``absolute`` of `landmark_losses`, of points (n, f, K, 2) however found."""
    side = (regions[..., 2] - regions[..., 0]).clamp(min=1e-6)
    error = (found - points) / side[..., None, None]
    weights = weights * within(points, regions)
    total = weights.sum().clamp(min=1e-6)
    return {
        "squared": ((error**2).sum(-1) * weights).sum() / total / 2,
        "absolute": (error.abs().sum(-1) * weights).sum() / total,
    }


def within(points: Tensor, regions: Tensor) -> Tensor:
    """Which points (n, f, K, 2) lie in their regions: what lies outside cannot be pointed at -> (n, f, K) bool."""
    middle, side = (regions[..., :2] + regions[..., 2:]) / 2, regions[..., 2] - regions[..., 0]
    return (points - middle[..., None, :]).abs().amax(-1) < side[..., None] / 2 - 1
