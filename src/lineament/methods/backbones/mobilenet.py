"""MobileNetV2 (Sandler et al. 2018), under torchvision's key names."""

from __future__ import annotations

from torch import Tensor, nn

from lineament.methods.backbones.base import Backbone

STEM = 32
HEAD = 1280
STAGES = (  # expansion, channels, blocks, stride of the first block
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST = (3, 6, 13, 17)
"""Indices of the layers whose outputs are C2 to C5: the last at each stride."""


class MobileNetV2(Backbone):
    """MobileNetV2, 1.81 M parameters without the classifier and the last convolution."""

    channels = (24, 32, 96, 320)
    classifier_keys = ("features.18.", "classifier.")

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = [_layer(3, STEM, 3, stride=2)]
        inputs = STEM
        for expansion, outputs, repeats, stride in STAGES:
            for i in range(repeats):
                layers.append(InvertedResidual(inputs, outputs, 1 if i else stride, expansion))
                inputs = outputs
        if classes:
            layers.append(_layer(inputs, HEAD, 1))
        self.features = nn.ModuleList(layers)
        if classes:
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(HEAD, classes))

    def maps(self, x: Tensor) -> list[Tensor]:  # noqa: D102
        kept = []
        for i, layer in enumerate(self.features[: LAST[-1] + 1]):
            x = layer(x)
            if i in LAST:
                kept.append(x)
        return kept

    def keep(self, maps: int) -> None:  # noqa: D102
        self.features = self.features[: LAST[maps - 1] + 1]

    def classify(self, pixels: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.classifier(self.features[-1](self(pixels)[-1]).mean(dim=(2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection. The input is added if the output has the same shape."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.same = inputs == outputs and stride == 1
        self.conv = nn.Sequential(
            *([_layer(inputs, wide, 1)] if expansion > 1 else []),
            _layer(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h/stride, w/stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.same else y


def _layer(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())
