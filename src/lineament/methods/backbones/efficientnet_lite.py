"""EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation), under the key names of its public weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from lineament.methods.backbones.base import Backbone

STEM = 32
HEAD = 1280
STAGES = (  # blocks, kernel size, stride of the first block, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

LAST = (2, 4, 10, 15)
"""Indices of the blocks whose outputs are C2 to C5: the last at each stride."""


class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0, 2.96 M parameters without the classifier.

    Its public weights come from TensorFlow. So pixels are scaled to about [-1, 1], and convolutions with stride 2 pad
    one pixel less above and on the left than below and on the right.
    """

    channels = (24, 40, 112, 320)
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)
    classifier_keys = ("_conv_head.", "_bn1.", "_fc.")

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, STEM, 3, stride=2)
        self._bn0 = _norm(STEM)
        blocks, inputs = [], STEM
        for repeats, kernel, stride, expansion, outputs in STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        if classes:
            self._conv_head, self._bn1 = SameConv(inputs, HEAD, 1), _norm(HEAD)
            self._fc = nn.Linear(HEAD, classes)

    def maps(self, x: Tensor) -> list[Tensor]:  # noqa: D102
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        kept = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in LAST:
                kept.append(x)
        return kept

    def keep(self, maps: int) -> None:  # noqa: D102
        self._blocks = self._blocks[: LAST[maps - 1] + 1]

    def classify(self, pixels: Tensor) -> Tensor:  # noqa: D102
        x = functional.relu6(self._bn1(self._conv_head(self(pixels)[-1])))
        logits: Tensor = self._fc(x.mean(dim=(2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection. The input is added if the output has the same shape."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expands, self.same = expansion > 1, inputs == outputs and stride == 1
        if self.expands:
            self._expand_conv, self._bn0 = SameConv(inputs, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = SameConv(wide, wide, kernel, stride=stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = SameConv(wide, outputs, 1), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h/stride, w/stride)."""
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.same else y


class SameConv(nn.Conv2d):
    """TensorFlow's "same" convolution, for inputs with even sides. At stride 2 its window starts one pixel later.

    The kernel is padded with zeros instead of the input, since the input is far larger.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self._before = int(stride > 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h/stride, w/stride)."""
        return self._conv_forward(x, self._padded(), self.bias)

    def fold(self) -> None:
        """Store the padded kernel, for inference."""
        self.weight, self._before = nn.Parameter(self._padded().detach()), 0

    def _padded(self) -> Tensor:
        return functional.pad(self.weight, (self._before, 0) * 2) if self._before else self.weight


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)
