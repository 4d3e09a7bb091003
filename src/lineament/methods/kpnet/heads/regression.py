"""Landmarks by regression, which the paper compares with the soft-argmax (table 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lineament.data.canvases import Labels
from lineament.methods.kpnet.heads.base import Extraction, padded
from lineament.methods.kpnet.heads.soft_argmax import position_losses
from lineament.methods.kpnet.maps import inside
from lineament.methods.kpnet.network import Backbone
from lineament.methods.kpnet.scales import STRIDE
from lineament.train.precision import in_float32
from lineament.train.task import Batch

Array = NDArray[Any]


class Regression(Extraction):
    """Two maps for each landmark, x and y, which are averaged over a region."""

    def head(self, backbone: Backbone, landmarks: int, extra: int = 0) -> nn.Module:  # noqa: D102
        return backbone.head(2 * landmarks + extra)

    def targets(self, labels: Sequence[Labels], regions: Sequence[Array] | None, size: int) -> Batch:
        """The regions."""
        assert regions is not None
        return {"regions": padded(regions)}

    @in_float32
    def losses(self, response: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``squared`` and ``absolute``, as in `position_losses`."""
        regions = batch["regions"]
        found = regress(response, regions, self.stride)
        return position_losses(found, regions, batch["points"], batch["weights"])

    def extract(self, response: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """The landmarks. Without a response map there are no peaks, and equation 8 is the probability alone."""
        points = regress(response, regions, self.stride)
        return points, torch.zeros_like(points[..., 0])


def regress(maps: Tensor, regions: Tensor, stride: int = STRIDE) -> Tensor:
    """Positions from a fully connected layer on the average of the features over each region.

    The average is linear, so the layer comes first, as a convolution with 2K outputs and the size of the other heads'.
    Then no region is cut out, as in the soft-argmax. A region without a cell gives its centre.

    Args:
        maps: (n, 2K, h, w), per cell x1, y1, x2, ... relative to a region's centre, divided by its side.
        regions: (n, f, 4), ``x1, y1, x2, y2`` in pixels of the input.
        stride: Pixels of the input per cell.

    Returns:
        (n, f, K, 2) in pixels of the input.
    """
    rows, _ = inside(regions[..., 1], regions[..., 3], maps.shape[2], stride)
    columns, _ = inside(regions[..., 0], regions[..., 2], maps.shape[3], stride)
    total = ((rows[:, None] @ maps) * columns[:, None]).sum(-1).transpose(1, 2)
    mean = total / (rows.sum(-1) * columns.sum(-1)).clamp(min=1)[..., None]
    middle, side = (regions[..., :2] + regions[..., 2:]) / 2, regions[..., 2] - regions[..., 0]
    return middle[:, :, None] + torch.unflatten(mean, -1, (-1, 2)) * side[..., None, None]
