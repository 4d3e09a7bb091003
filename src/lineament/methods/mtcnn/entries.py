"""The entries of an MTCNN file: the three networks, and the crops for R- and O-Net."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lineament.export import Entry
from lineament.methods.mtcnn.network import ONet, PNet, PReLU, RNet, Scaling

CROPS = (PNet.size, RNet.size, ONet.size)  # P-Net's are for its training only


def entries(networks: Mapping[str, nn.Module]) -> dict[str, Entry]:
    """The networks of the file. Pixels are uint8 (n, h, w, 3) for images, float32 (n, 3, size, size) for crops.

    P-Net's landmarks are left out: the cascade does not use them.
    """
    random = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (2, 61, 70, 3), dtype=torch.uint8, generator=random)

    def crops(size: int) -> Tensor:
        return torch.rand(3, 3, size, size, generator=random) * 255

    open_picture = {0: "n", 1: "h", 2: "w"}
    regions = torch.tensor([[0.0, 0.0, 24.0, 24.0], [3.0, 4.0, 20.0, 22.0]])
    crop_inputs = {"image": picture[:1], "regions": regions}
    crop_axes = {"image": open_picture, "regions": {0: "regions"}}
    return {
        "pnet": Entry(Scan(for_inference(networks["pnet"])), {"image": picture}, {"image": open_picture}),
        "rnet": Entry(for_inference(networks["rnet"]), {"pixels": crops(RNet.size)}, {"pixels": {0: "n"}}),
        "onet": Entry(for_inference(networks["onet"]), {"pixels": crops(ONet.size)}, {"pixels": {0: "n"}}),
        **{f"crop{size}": Entry(Crop(size), crop_inputs, crop_axes, check=False) for size in CROPS},
    }


class Scan(nn.Module):
    """P-Net on an image in its memory layout."""

    def __init__(self, pnet: nn.Module) -> None:
        super().__init__()
        self.pnet = pnet

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(n, h, w, 3) uint8 -> score (n, h', w') logits, box (n, 4, h', w')."""
        out = self.pnet(image.permute(0, 3, 1, 2).float())
        return {name: out[name] for name in ("score", "box")}


class Crop(nn.Module):
    """Cut square crops of an image with ONNX's RoiAlign: 2x2 bilinear samples per pixel, black outside the image.

    PyTorch has no such operator. This module is for export and computes nothing in PyTorch.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor, regions: Tensor) -> dict[str, Tensor]:
        """(1, h, w, 3) uint8 and (m, 4) float32 in its pixels -> pixels (m, 3, size, size) float32 in [0, 255]."""
        first = torch.zeros_like(regions[:, 0], dtype=torch.int64)
        attributes: dict[str, Any] = {
            "output_height": self.size,
            "output_width": self.size,
            "sampling_ratio": 2,
            "mode": "avg",
            "coordinate_transformation_mode": "half_pixel",
        }
        pixels = torch.onnx.ops.symbolic(
            "RoiAlign",
            (image.permute(0, 3, 1, 2).float(), regions, first),
            attributes,
            dtype=torch.float32,
            shape=(regions.shape[0], 3, self.size, self.size),
        )
        return {"pixels": pixels}


class Larger(nn.Module):
    """``max(x, a x)``, which is PReLU for slopes in [0, 1]. It is faster in onnxruntime than the PReLU operator."""

    def __init__(self, prelu: PReLU) -> None:
        super().__init__()
        self.slope = nn.Parameter(prelu.slope.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, ...) -> the same shape."""
        return torch.maximum(x, x * self.slope.view(-1, *[1] * (x.dim() - 2)))


def for_inference(network: nn.Module) -> nn.Module:
    """A copy that computes the same in less time, without scaling of the pixels and with cheaper activations.

    The first convolution includes the scaling, exactly, since nothing is padded: ``W ((x - m) s) + b = (s W) x + (b - m
    s sum(W))``.
    """
    folded = copy.deepcopy(network)
    for block in folded.modules():
        activation = getattr(block, "activation", None)
        if isinstance(activation, PReLU):
            block.activation = Larger(activation)
    body = folded.get_submodule("body")
    assert isinstance(body, nn.Sequential)
    conv = body[1].conv
    assert isinstance(body[0], Scaling)
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    with torch.no_grad():
        conv.bias -= Scaling.mean * Scaling.scale * conv.weight.sum(dim=(1, 2, 3))
        conv.weight *= Scaling.scale
    body[0] = nn.Identity()
    return folded
