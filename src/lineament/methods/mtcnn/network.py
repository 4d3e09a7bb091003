"""The networks of the cascade (Zhang et al. 2016, figure 2), and the single-task networks that they replace.

All take RGB pixels in [0, 255] and scale them first. There is no padding, so export folds the scaling into the first
convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Scaling(nn.Module):
    """``(x - 127.5) / 128``: pixels in [0, 255] to about [-1, 1]."""

    mean, scale = 127.5, 1 / 128

    def forward(self, pixels: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return (pixels - self.mean) * self.scale


class PReLU(nn.Module):
    """``max(x, a x)`` with one slope per channel, kept in [0, 1]: a monotone function, so pooling can come first.

    Max-pooling and monotone functions commute. Pooling first leaves a quarter of the values to activate.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, ...) -> the same shape."""
        return F.prelu(x, self.slope.to(x.dtype))

    @property
    def slope(self) -> Tensor:
        """(channels,) slopes in [0, 1]."""
        return self.weight.clamp(0, 1)


class Block(nn.Module):
    """Convolution, max-pooling with stride 2 (rounded up) unless ``pool`` is 0, and activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, pool: int, activation: type[nn.Module] = PReLU) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel)
        self.pool = pool
        self.activation = activation(outputs) if activation is PReLU else activation()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h', w')."""
        x = self.conv(x)
        if self.pool:
            x = F.max_pool2d(x, self.pool, stride=2, ceil_mode=True)
        return self.activation(x)


class Heads(nn.ModuleDict):
    """The three tasks: face score (a logit), box offsets (4) and landmark offsets (2K), from features (n, c, h, w).

    The score is a softmax over two classes, as the one logit that it depends on.
    """

    def __init__(self, features: int, landmarks: int) -> None:
        tasks = {"score": 1, "box": 4, "landmarks": 2 * landmarks}
        super().__init__({name: nn.Conv2d(features, n, 1) for name, n in tasks.items()})


class PNet(nn.Module):
    """P-Net proposes windows of 12 pixels at stride 2. It is fully convolutional."""

    size, stride = 12, 2

    def __init__(self, landmarks: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(Scaling(), Block(3, 10, 3, 2), Block(10, 16, 3, 0), Block(16, 32, 3, 0))
        self.heads = Heads(32, landmarks)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, 3, h, w) in [0, 255] -> score (n, h', w') logits, box (n, 4, h', w'), landmarks (n, 2K, h', w')."""
        x = self.body(pixels)
        out = {name: head(x) for name, head in self.heads.items()}
        return {**out, "score": out["score"][:, 0]}


class CropNet(nn.Module):
    """A network for square crops: convolutions, one dense layer, heads. The base of R-Net and O-Net."""

    size: int

    def __init__(self, blocks: list[Block], dense: int, landmarks: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Scaling(), *blocks)
        with torch.no_grad():
            flat = self.body(torch.zeros(1, 3, self.size, self.size)).numel()
        self.dense = nn.Linear(flat, dense)
        self.activation = PReLU(dense)
        self.heads = Heads(dense, landmarks)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, 3, size, size) in [0, 255] -> score (n,) logits, box (n, 4), landmarks (n, 2K)."""
        x = self.activation(self.dense(self.body(pixels).flatten(1)))
        out = {name: head(x[:, :, None, None]).flatten(1) for name, head in self.heads.items()}
        return {**out, "score": out["score"][:, 0]}


class RNet(CropNet):
    """R-Net refines crops of 24 pixels."""

    size = 24

    def __init__(self, landmarks: int = 5) -> None:
        super().__init__([Block(3, 28, 3, 3), Block(28, 48, 3, 3), Block(48, 64, 2, 0)], 128, landmarks)


class ONet(CropNet):
    """O-Net outputs the final score, box and landmarks of crops of 48 pixels."""

    size = 48

    def __init__(self, landmarks: int = 5) -> None:
        blocks = [Block(3, 32, 3, 3), Block(32, 64, 3, 3), Block(64, 64, 3, 2), Block(64, 128, 2, 0)]
        super().__init__(blocks, 256, landmarks)


class SingleTaskNet(nn.Module):
    """12-, 24- or 48-Net of Li et al. 2015, which only classify faces (the paper's comparison of networks)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        body, dense = {
            12: ([Block(3, 16, 3, 3, nn.ReLU)], 16),
            24: ([Block(3, 64, 5, 3, nn.ReLU)], 128),
            48: ([Block(3, 64, 5, 3, nn.ReLU), Block(64, 64, 5, 3, nn.ReLU)], 256),
        }[size]
        self.body = nn.Sequential(Scaling(), *body)
        with torch.no_grad():
            flat = self.body(torch.zeros(1, 3, size, size)).numel()
        self.dense = nn.Linear(flat, dense)
        self.score = nn.Linear(dense, 1)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, 3, size, size) in [0, 255] -> score (n,) logits."""
        x = F.relu(self.dense(self.body(pixels).flatten(1)))
        return {"score": self.score(x)[:, 0]}
