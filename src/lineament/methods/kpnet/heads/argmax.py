"""Landmarks by the argmax of heat maps, which the paper compares with the soft-argmax (table 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from lineament.boxes import longer_side
from lineament.data.canvases import Labels
from lineament.methods.kpnet.heads.base import Extraction, faces_of
from lineament.methods.kpnet.heads.bells import Bells, Spread, bell_loss, bells, stacked, touched
from lineament.methods.kpnet.heads.soft_argmax import soft_argmax
from lineament.methods.kpnet.layers import expect_rarely
from lineament.methods.kpnet.maps import region_maximum
from lineament.methods.kpnet.network import Backbone
from lineament.methods.kpnet.scales import STRIDE
from lineament.methods.peaks import places
from lineament.train.task import Batch, divisor

Array = NDArray[Any]


class Argmax(Extraction):
    """A heat map for each landmark, trained like the scalemap."""

    in_regions = False

    def head(self, backbone: Backbone, landmarks: int, extra: int = 0) -> nn.Module:  # noqa: D102
        head = backbone.head(landmarks + extra)
        expect_rarely(head, 1e-2)
        return head

    def targets(self, labels: Sequence[Labels], regions: Sequence[Array] | None, size: int) -> Batch:
        """Heat maps, and where they are not trained: where a face lacks landmarks, and outside all regions.

        All landmarks count alike. Those under a mask are guesses, but the paper's loss has no weights for them.
        """
        stride, heated, ignored = self.stride, [], []
        for i, (canvas, boxes) in enumerate(zip(labels, faces_of(labels), strict=True)):
            whole = (canvas.weights[~canvas.ignore] > 0).all(axis=1)
            unknown = np.concatenate([canvas.boxes[canvas.ignore], boxes[~whole]])
            outside = touched(unknown, size, stride)
            if regions is not None:
                outside |= ~touched(regions[i], size, stride)
            ignored.append(outside)
            points = canvas.landmarks[~canvas.ignore][whole]
            heated.append(heat(points, boxes[whole], size, self.style.spread, stride))
        cells, values = stacked(heated)
        return {"heat_cells": cells, "heat_values": values, "heat_ignored": np.stack(ignored)}

    def losses(self, response: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``heat``, equation 4 of the heat maps: per photo, or per landmark if focal."""
        cells, values, focal = batch["heat_cells"], batch["heat_values"], self.style.focal
        loss = bell_loss(response, batch["heat_ignored"], cells, values, focal=focal)
        return {"heat": loss / (divisor((batch["weights"] > 0).sum()) if focal else len(response))}

    def extract(self, response: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """The centres of the largest cells, and equation 5 of their values."""
        points, largest = argmax(response, regions, self.stride)
        total = soft_argmax(response, regions, self.stride).log_total
        return points, (largest - total).clamp(max=0).exp()


def heat(landmarks: Array, boxes: Array, size: int, spread: Spread, stride: int = STRIDE) -> Bells:
    """Heat maps, one per landmark.

    A landmark is more precise than a face: sigma is half of that of a face, and the radius of equation 3 is 0.

    Args:
        landmarks: (n, K, 2) in pixels of the input.
        boxes: (n, 4) their faces.
        size: Side of the input.
        spread: How far a landmark reaches.
        stride: Pixels of the input per cell.
    """
    n, k = landmarks.shape[:2]
    cells = size // stride
    host = np.floor(landmarks.reshape(-1, 2) / stride).astype(np.int64)
    sides = np.repeat(longer_side(boxes), k)
    sigma = np.maximum(spread.space * sides / stride / 2, 0.5)
    radius = np.zeros(n * k, np.int64) if spread.paper else np.floor(3 * sigma).astype(np.int64)
    return bells(np.column_stack([np.tile(np.arange(k), n), host[:, ::-1]]), sigma, radius, (k, cells, cells))


def argmax(response: Tensor, regions: Tensor, stride: int = STRIDE) -> tuple[Tensor, Tensor]:
    """Centres of the cells where maps are largest in each region; of equals, one of them.

    The maximum of a region does not have its position. So the maximum of the cells' ranks is computed, which are all
    different.

    Args:
        response: (n, K, h, w).
        regions: (n, f, 4) in pixels of the input.
        stride: Pixels of the input per cell.

    Returns:
        Points (n, f, K, 2) in pixels of the input, values (n, f, K).
    """
    flat = response.flatten(2)
    order = flat.argsort(dim=2)
    rank = order.argsort(dim=2).view_as(response).to(response.dtype)  # below 2^24, up to which float32 counts exactly
    cell = order.gather(2, region_maximum(rank, regions, stride).long().transpose(1, 2))
    points = (places(response)[cell.transpose(1, 2)].to(response.dtype) + 0.5) * stride
    return points, flat.gather(2, cell).transpose(1, 2)
