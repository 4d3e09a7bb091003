"""MaskFace's network (Yashunin et al. 2020, section 3.2): a feature pyramid, context modules and two heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.methods.backbones.base import Backbone
from lineament.methods.maskface.levels import COARSEST, FINEST, POOLED
from lineament.methods.maskface.roi import bins
from lineament.methods.normalisation import ConvNorm

ANCHORS = 3  # per cell
PRIOR = 0.01  # initial probability of a face at every anchor
RegionsBySchema = Mapping[str, tuple[Tensor, Tensor, Tensor]]


class MaskFace(nn.Module):
    """A one-stage detector with a landmark head, whose regions are the detected boxes (figure 1).

    Args:
        backbone: Computes C2 to C5.
        landmarks: Number of landmarks by schema. Empty: no landmark head.
        width: Channels of the pyramid and the context modules.
        head_width: Channels of the convolutions in the landmark head.
        head_layers: Number of these convolutions.
        finest: The finest level in use, 2 for stride 4.
        context: The context modules: "branches" (the paper), "shared", where the two larger windows share their first
            convolution as in SSH, or "none" (table 6).
        norm: "group" (32 groups, the paper) or "batch", which costs nothing at inference.

    Attributes:
        strides: Pixels of the input per cell of each level.
    """

    def __init__(
        self,
        backbone: Backbone,
        landmarks: Mapping[str, int],
        *,
        width: int = 256,
        head_width: int = 256,
        head_layers: int = 8,
        finest: int = FINEST,
        context: str = "branches",
        norm: str = "group",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = Pyramid(backbone.channels[finest - FINEST :], width, norm)
        self.strides = tuple(2**level for level in range(finest, COARSEST + 1))
        self.context = nn.ModuleList(CONTEXTS[context](width, norm) for _ in self.strides)
        self.score = nn.Conv2d(width, ANCHORS, 1)
        self.offset = nn.Conv2d(width, 4 * ANCHORS, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        nn.init.normal_(self.offset.weight, std=0.01)
        nn.init.constant_(self.score.bias, -math.log(1 / PRIOR - 1))  # type: ignore[arg-type]
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        self.landmarks = LandmarkHead(width, landmarks, head_width, head_layers, norm) if landmarks else None
        self._finest = finest

    def forward(
        self, pixels: Tensor, regions: RegionsBySchema | Callable[[dict[str, Tensor]], RegionsBySchema] | None = None
    ) -> dict[str, Tensor]:
        """Detect faces, and compute the landmark masks of regions.

        Args:
            pixels: (n, 3, h, w) in [0, 255], h and w multiples of 32.
            regions: For each schema: boxes (r, 4) in pixels, the index (r,) of the image of each, and its level (r,) of
                the pyramid, 0 for the finest. Or a function of the outputs ``logit`` and ``offset`` that returns them:
                the regions of the paper are the detections of the network itself, and distributed training needs a
                single call for both.

        Returns:
            ``logit`` (n, a) and ``offset`` (n, a, 4) of all anchors, in the order of `lineament.anchors.all_anchors`.
            Under the name of each schema, the logits (r, K, 56, 56) of its masks.
        """
        features = self.features(pixels)
        outputs = self.detect(features)
        if self.landmarks is not None:
            given = regions(outputs) if callable(regions) else regions or {}
            for name, (boxes, image, level) in given.items():
                pooled = bins(features, self.strides, boxes, image, level, POOLED)
                outputs[name] = self.landmarks(pooled, name)
        return outputs

    def features(self, pixels: Tensor) -> list[Tensor]:
        """M2 to M6, from the finest level in use: (n, width, h/stride, w/stride) each."""
        pyramid = self.pyramid(self.backbone(pixels)[self._finest - FINEST :])
        return [context(level) for context, level in zip(self.context, pyramid, strict=True)]

    def detect(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """The detection head on the features of each level. All levels share its weights."""
        logits, offsets = [], []
        for level in features:
            logits.append(self.score(level).permute(0, 2, 3, 1).flatten(1))
            offsets.append(self.offset(level).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
        return {"logit": torch.cat(logits, 1), "offset": torch.cat(offsets, 1)}


class Pyramid(nn.Module):
    """The feature pyramid network (Lin et al. 2017): from C2..C5 to P2..P6."""

    def __init__(self, channels: Sequence[int], width: int, norm: str) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvNorm(inputs, width, norm, size=1) for inputs in channels)
        self.smooth = nn.ModuleList(ConvNorm(width, width, norm) for _ in channels)
        self.top = ConvNorm(channels[-1], width, norm, size=1)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps of the backbone -> as many levels of equal width, and one coarser level."""
        top = self.top(functional.max_pool2d(maps[-1], 2, ceil_mode=True))
        down = [lateral(level) for lateral, level in zip(self.lateral, maps, strict=True)]
        for i in reversed(range(len(down) - 1)):
            down[i] = down[i] + functional.interpolate(down[i + 1], scale_factor=2.0, mode="nearest")
        return [*(smooth(level) for smooth, level in zip(self.smooth, down, strict=True)), top]


class Context(nn.Module):
    """The context module (figure 3): stacked convolutions with windows of 3, 5 and 7 cells, concatenated."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        self.three, self.five, self.seven = (
            _stack(width, channels, layers, norm) for layers, channels in enumerate((width // 2, *[width // 4] * 2), 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) -> (n, width, h, w)."""
        return torch.cat([self.three(x), self.five(x), self.seven(x)], 1)


class SharedContext(nn.Module):
    """The context module whose two larger windows share their first convolution, as in SSH (Najibi et al. 2017)."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()
        quarter = width // 4
        self.three = _stack(width, width // 2, 1, norm)
        self.shared = _stack(width, quarter, 1, norm)
        self.five = _stack(quarter, quarter, 1, norm)
        self.seven = _stack(quarter, quarter, 2, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width, h, w) -> (n, width, h, w)."""
        shared = self.shared(x)
        return torch.cat([self.three(x), self.five(shared), self.seven(shared)], 1)


class NoContext(nn.Identity):
    """No context module: the features of the pyramid."""

    def __init__(self, width: int, norm: str) -> None:
        super().__init__()


CONTEXTS: dict[str, type[Context] | type[SharedContext] | type[NoContext]] = {
    "branches": Context,
    "shared": SharedContext,
    "none": NoContext,
}


def _stack(inputs: int, channels: int, layers: int, norm: str) -> nn.Sequential:
    """Convolutions, each followed by ReLU."""
    convs = [ConvNorm(channels if i else inputs, channels, norm) for i in range(layers)]
    return nn.Sequential(*(layer for conv in convs for layer in (conv, nn.ReLU())))


class LandmarkHead(nn.Module):
    """The keypoint head: convolutions on the features of a region, and a mask of 56x56 cells for each landmark.

    All schemas share the convolutions. So a schema with few labelled faces learns from the faces of the others.
    """

    def __init__(self, inputs: int, landmarks: Mapping[str, int], width: int, layers: int, norm: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNorm(width if i else inputs, width, norm) for i in range(layers))
        last = width if layers else inputs
        self.masks = nn.ModuleDict(
            {name: nn.ConvTranspose2d(last, count, 4, stride=2, padding=1) for name, count in landmarks.items()}
        )

    def forward(self, x: Tensor, schema: str) -> Tensor:
        """Pooled features of regions (r, inputs, 14, 14) -> logits of the masks (r, K, 56, 56)."""
        return self.upsampled(self.masks[schema](self.shared(x)))

    def shared(self, x: Tensor) -> Tensor:
        """The convolutions that all schemas share: (r, inputs, 14, 14) -> (r, width, 14, 14)."""
        for layer in self.layers:
            x = functional.relu(layer(x))
        return x

    @staticmethod
    def upsampled(masks: Tensor) -> Tensor:
        """Masks (r, K, 28, 28) -> (r, K, 56, 56)."""
        return functional.interpolate(masks, scale_factor=2.0, mode="bilinear", align_corners=False)
