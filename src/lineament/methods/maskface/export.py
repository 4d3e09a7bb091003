"""The entries of a MaskFace file: detection on whole images, pooling of regions, and landmarks in regions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18
from torch import Tensor, nn

from lineament.export import Entry, for_inference
from lineament.methods.maskface.levels import POOLED
from lineament.methods.maskface.network import MaskFace
from lineament.methods.maskface.roi import SAMPLES, bins
from lineament.methods.peaks import top

NEIGHBOURS = 1  # cells around a peak, in each direction, whose probability counts for the landmark


def entries(network: MaskFace) -> dict[str, Entry]:
    """The networks of the file. A detector runs one after the other.

    ``maskface`` takes pixels, ``regions`` the features of one level and boxes in its cells, and ``landmarks_SCHEMA``
    the pooled features of regions.

    Args:
        network: The trained network. It does not change. The entries have its weights, rounded to 16-bit floats.
    """
    random = torch.Generator().manual_seed(0)
    network = for_inference(network)
    pixels = torch.randint(0, 256, (2, 128, 192, 3), dtype=torch.uint8, generator=random)
    width = network.score.in_channels
    features = torch.rand(2, width, 16, 24, generator=random)
    boxes = torch.rand(5, 4, generator=random) * 8 + torch.tensor([-4, -4, 9, 14])
    pooled = torch.rand(3, width, POOLED, POOLED, generator=random)
    made = {
        "maskface": Entry(Whole(network), {"pixels": pixels}, {"pixels": {0: "n", 1: "h", 2: "w"}}, multiple=64),
        "regions": Entry(
            Regions(),
            {"features": features, "boxes": boxes, "image": torch.tensor([0, 1, 1, 0, 0])},
            {"features": {0: "n", 2: "h", 3: "w"}, "boxes": {0: "r"}, "image": {0: "r"}},
            translations=TRANSLATIONS,
        ),
    }
    if network.landmarks is not None:
        for name in network.landmarks.masks:
            made[f"landmarks_{name}"] = Entry(Peaks(network.landmarks, name), {"pooled": pooled}, {"pooled": {0: "r"}})
    return made


class Whole(nn.Module):
    """Backbone, pyramid, context modules and detection head."""

    def __init__(self, network: MaskFace) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, h, w, 3) uint8 RGB -> ``logit`` (n, a), ``offset`` (n, a, 4), and the features ``level_0``, ...

        ``h`` and ``w`` are multiples of 64. The levels begin with the finest.
        """
        features = self.network.features(pixels.permute(0, 3, 1, 2).float())
        return self.network.detect(features) | {f"level_{i}": level for i, level in enumerate(features)}


class Regions(nn.Module):
    """RoIAlign on one level."""

    def forward(self, features: Tensor, boxes: Tensor, image: Tensor) -> dict[str, Tensor]:
        """(n, c, h, w), (r, 4) in cells and (r,) -> ``pooled`` (r, c, 14, 14)."""
        return {"pooled": roi_align(features, boxes, image)}


class Peaks(nn.Module):
    """The landmark head and the peaks of its masks."""

    def __init__(self, head: nn.Module, schema: str) -> None:
        super().__init__()
        self.head, self.schema = head, schema

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        """Pooled features of regions (r, c, 14, 14) -> landmarks.

        Returns:
            ``points`` (r, K, 2) in [0, 1], relative to the region: the centre of the peak's cell, moved by at most half
            a cell to the vertex of the parabola through its neighbours. ``mass`` (r, K) in [0, 1]: the probability of
            the 3x3 cells around the peak.
        """
        masks = self.head(pooled, self.schema)
        side = masks.shape[2]
        flat = masks.flatten(2)
        # without the outermost cells, which lack neighbours
        inner = masks[..., 1:-1, 1:-1].flatten(2)
        best = inner.argmax(dim=2)
        row, column = best // (side - 2) + 1, best % (side - 2) + 1
        steps = torch.arange(-NEIGHBOURS, NEIGHBOURS + 1)
        around = (row[..., None, None] + steps[:, None]) * side + column[..., None, None] + steps
        near = flat.gather(2, around.flatten(2))
        mass = (near - flat.logsumexp(dim=2, keepdim=True)).exp().sum(dim=2)
        left, right, up, down, peak = near[..., 3], near[..., 5], near[..., 1], near[..., 7], near[..., 4]
        moved = [top(left, peak, right), top(up, peak, down)]
        cells = [column.float() + 0.5 + moved[0], row.float() + 0.5 + moved[1]]
        return {"points": torch.stack(cells, dim=-1) / side, "mass": mass}


@torch.library.custom_op("lineament::roi_align", mutates_args=())
def roi_align(features: Tensor, boxes: Tensor, image: Tensor) -> Tensor:
    """RoIAlign on one level: our own code in torch, the operator ``RoiAlign`` in ONNX. The export compares both."""
    level = torch.zeros(len(boxes), dtype=torch.long)
    return bins([features], [1], boxes, image, level, POOLED).contiguous()


@roi_align.register_fake
def _(features: Tensor, boxes: Tensor, image: Tensor) -> Tensor:
    return features.new_empty(boxes.shape[0], features.shape[1], POOLED, POOLED)


def _operator(features: Any, boxes: Any, image: Any) -> Any:
    return opset18.RoiAlign(
        features,
        boxes,
        image,
        coordinate_transformation_mode="half_pixel",
        mode="avg",
        output_height=POOLED,
        output_width=POOLED,
        sampling_ratio=SAMPLES,
        spatial_scale=1.0,
    )


TRANSLATIONS: dict[Any, Callable[..., Any]] = {torch.ops.lineament.roi_align.default: _operator}
