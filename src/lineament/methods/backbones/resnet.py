"""ResNet (He et al. 2016) and ResNeXt (Xie et al. 2017) with bottlenecks, under torchvision's key names."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from lineament.methods.backbones.base import Backbone

STEM = 64


class ResNet50(Backbone):
    """ResNet-50, 23.5 M parameters without the classifier.

    Subclasses change the number of blocks, and the groups of the 3x3 convolutions.

    Attributes:
        blocks: Number of blocks in each of the four stages.
        groups: Number of groups in a 3x3 convolution.
        width: Channels per group in the first stage.
    """

    channels = (256, 512, 1024, 2048)
    blocks: ClassVar[tuple[int, int, int, int]] = (3, 4, 6, 3)
    groups: ClassVar[int] = 1
    width: ClassVar[int] = 64

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        inputs = STEM
        for i, (count, outputs) in enumerate(zip(self.blocks, self.channels, strict=True)):
            narrow = self.groups * self.width * 2**i
            stage = nn.Sequential()
            for j in range(count):
                stage.append(Bottleneck(inputs, narrow, outputs, stride=2 if i and not j else 1, groups=self.groups))
                inputs = outputs
            setattr(self, f"layer{i + 1}", stage)
        if classes:
            self.fc = nn.Linear(inputs, classes)

    def maps(self, x: Tensor) -> list[Tensor]:  # noqa: D102
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        kept = []
        for name, stage in self.named_children():
            if name.startswith("layer"):
                x = stage(x)
                kept.append(x)
        return kept

    def keep(self, maps: int) -> None:  # noqa: D102
        for i in range(maps, len(self.blocks)):
            delattr(self, f"layer{i + 1}")

    def classify(self, pixels: Tensor) -> Tensor:  # noqa: D102
        logits: Tensor = self.fc(self(pixels)[-1].mean(dim=(2, 3)))
        return logits


class ResNeXt101(ResNet50):
    """ResNeXt-101 (32x8d), 86.7 M parameters without the classifier."""

    blocks = (3, 4, 23, 3)
    groups = 32
    width = 8


class ResNeXt152(ResNet50):
    """ResNeXt-152 (32x8d), 120.3 M parameters without the classifier. torchvision has no such network."""

    blocks = (3, 8, 36, 3)
    groups = 32
    width = 8


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1, added to the input. The 3x3 convolution has the stride, as in torchvision."""

    def __init__(self, inputs: int, narrow: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, narrow, 1, bias=False), nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.conv3, self.bn3 = nn.Conv2d(narrow, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride > 1 or inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h/stride, w/stride)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))
