"""The Information-Synthesis Network (Pu): the weighted outputs of several blocks are joined before the dense layer.

All networks take square RGB crops with values in [0, 255] and predict landmarks relative to the side of the crop.
`PaperNet` is the network as printed. `LightNet` has the same idea with less computation: equation 1 itself, a weighted
sum of maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lineament.methods.normalisation import folded

CHANNELS = (20, 40, 60, 80)  # the paper gives none; those of Sun et al. 2013, whose data it uses
DENSE = 120  # also theirs


class Weights(nn.Module):
    """beta: the weight of each synthesised block, in [0, 1].

    Fixed weights are part of the module's state. Learned weights (ours) are a softmax, so their sum is 1 and the
    paper's constraint holds.
    """

    def __init__(self, blocks: int, beta: Sequence[float] | None) -> None:
        """Make the weights.

        Args:
            beta: One weight per block, in [0, 1]. ``None``: learn them.
            blocks: Number of blocks.

        Raises:
            ValueError: The number of weights is wrong, or one is outside [0, 1].
        """
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(blocks)) if beta is None else None
        if beta is not None:
            if len(beta) != blocks or not all(0 <= weight <= 1 for weight in beta):
                raise ValueError(f"beta has one weight in [0, 1] for each of {blocks} blocks, found {list(beta)}")
            self.register_buffer("fixed", torch.tensor([float(weight) for weight in beta]))

    def forward(self) -> Tensor:
        """(blocks,)."""
        if self.logits is None:
            return self.get_buffer("fixed")
        return self.logits.softmax(0)


class PaperNet(nn.Module):
    """S blocks of convolution, ReLU and max-pooling. ``beta_i c_i`` of blocks 2 to S are joined before the dense layer.

    The dense layer of a concatenation is the sum of one dense layer per block. So equation 1 (a sum) and the text (a
    concatenation) agree.
    """

    def __init__(
        self,
        landmarks: int = 5,
        size: int = 40,
        beta: Sequence[float] | None = None,
        *,
        twin: bool = False,
        grid: int = 0,
        channels: Sequence[int] = CHANNELS,
        dense: int = DENSE,
    ) -> None:
        """Make the network.

        Args:
            landmarks: K.
            size: Side of the crops in pixels.
            beta: Weights in [0, 1] of blocks 2 to S. ``None``: learn them.
            twin: The general CNN of the paper's comparison: only the last block goes to the dense layer.
            grid: Side of a common grid to which the maps of all blocks are averaged first. 0: not averaged.
            channels: Channels of the S blocks.
            dense: Width of the dense layer.
        """
        super().__init__()
        self.size = size
        inputs = (3, *channels[:-1])
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True))
            for i, o in zip(inputs, channels, strict=True)
        )
        self.first = len(channels) - 1 if twin else 1  # index of the first synthesised block
        self.beta = Weights(1, (1.0,)) if twin else Weights(len(channels) - 1, beta)
        self.grid = grid
        sides = [size]
        for _ in channels:
            sides.append(math.ceil(sides[-1] / 2))
        cells = [(grid or side) ** 2 for side in sides[1:]]
        flat = sum(c * n for c, n in zip(channels[self.first :], cells[self.first :], strict=True))
        self.dense = nn.Linear(flat, dense)
        self.points = nn.Linear(dense, 2 * landmarks)
        nn.init.constant_(self.points.bias, 0.5)  # the centre of the crop

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, 3, size, size) in [0, 255] -> points (n, K, 2) relative to the side of the crop."""
        x, maps = (pixels - 127.5) / 128, []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return {"points": self.points(F.relu(self.dense(self.synthesis(maps)))).unflatten(1, (-1, 2))}

    def synthesis(self, maps: Sequence[Tensor]) -> Tensor:
        """Equation 1 as a concatenation: the maps (n, c, h, w) of the blocks, weighted and flattened to (n, flat)."""
        beta = self.beta()
        chosen = [F.adaptive_avg_pool2d(m, self.grid) if self.grid else m for m in maps[self.first :]]
        return torch.cat([weight * m.flatten(1) for weight, m in zip(beta, chosen, strict=True)], dim=1)


class Convolution(nn.Sequential):
    """Convolution and batch normalisation, with a ReLU unless ``linear``."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, linear: bool = False) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.Identity() if linear else nn.ReLU(),
        )

    def fold(self) -> None:
        """Fold convolution and normalisation into one convolution."""
        conv, norm, _ = self
        assert isinstance(conv, nn.Conv2d)
        weight, bias = folded(conv.weight, norm)
        conv.weight, conv.bias, self[1] = nn.Parameter(weight), nn.Parameter(bias), nn.Identity()


class Residual(nn.Module):
    """``relu(x + f(x))`` with f a 3x3 convolution between two 1x1 at half the channels (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            Convolution(channels, half, 1), Convolution(half, half), Convolution(half, channels, 1, linear=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) -> the same shape."""
        return F.relu(x + self.body(x))


class LightNet(nn.Module):
    """Four residual blocks at strides 2 to 16, and equation 1 on the grid of the second: ``c = sum_i beta_i c_i``.

    Each landmark is the expectation over a response map, a 1x1 convolution of c, so its precision is finer than the
    grid. A small dense layer on c, averaged to 4x4 cells, adds what concerns the whole face, including landmarks
    outside the crop. It also predicts the error of each landmark.
    """

    stride, cells = 4, 4

    def __init__(
        self,
        landmarks: int = 5,
        size: int = 64,
        beta: Sequence[float] | None = None,
        *,
        channels: Sequence[int] = (16, 32, 64, 128),
        repeats: Sequence[int] = (1, 2, 2),
        shared: int = 64,
        dense: int = 96,
    ) -> None:
        """Make the network.

        Args:
            landmarks: K.
            size: Side of the crops in pixels, a multiple of 16.
            beta: Weights in [0, 1] of blocks 2 to 4. ``None``: learn them.
            channels: Channels of the four blocks.
            repeats: Residual parts of blocks 2 to 4.
            shared: Channels of c.
            dense: Width of the dense layer.

        Raises:
            ValueError: The size is not such a multiple, or the weights are wrong.
        """
        super().__init__()
        if size % (self.stride * self.cells):
            raise ValueError(f"crops' side is a multiple of {self.stride * self.cells}, found {size}")
        self.size = size
        self.stem = Convolution(3, channels[0], 3, 2)
        self.blocks = nn.ModuleList(
            nn.Sequential(Convolution(i, o, 3, 2), *(Residual(o) for _ in range(count)))
            for i, o, count in zip(channels[:-1], channels[1:], repeats, strict=True)
        )
        self.to_shared = nn.ModuleList(Convolution(o, shared, 1, linear=True) for o in channels[1:])
        self.beta = Weights(len(channels) - 1, beta)
        self.response = nn.Conv2d(shared, landmarks, 1)
        self.dense = nn.Linear(shared * self.cells**2, dense)
        self.whole = nn.Linear(dense, 3 * landmarks)
        nn.init.zeros_(self.whole.weight)
        nn.init.zeros_(self.whole.bias)
        with torch.no_grad():  # a uniform response would put every landmark into the centre, and learn slowly
            self.response.weight *= 8

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, 3, size, size) in [0, 255] -> points (n, K, 2) relative to the side of the crop, spread (n, K).

        ``spread`` is the logarithm of the scale of a landmark's error, relative to the side of the crop.
        """
        x, maps = self.stem((pixels - 127.5) / 128), []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        c = self.synthesis(maps)
        whole = self.whole(F.relu(self.dense(F.adaptive_avg_pool2d(c, self.cells).flatten(1))))
        moved, spread = whole.unflatten(1, (-1, 3)).split([2, 1], dim=2)
        return {"points": expectation(self.response(c)) + moved, "spread": spread[..., 0] - 4}

    def synthesis(self, maps: Sequence[Tensor]) -> Tensor:
        """Equation 1 as printed: maps (n, c_i, h_i, w_i) of blocks 2 to 4 -> c (n, shared, h_2, w_2), activated."""
        beta = self.beta()
        side = maps[0].shape[-2:]
        brought = [to(m) for to, m in zip(self.to_shared, maps, strict=True)]
        c = beta[0] * brought[0]
        for weight, m in zip(beta[1:], brought[1:], strict=True):
            c = c + F.interpolate(weight * m, size=side)
        return F.relu(c)


def expectation(response: Tensor) -> Tensor:
    """Soft-argmax: maps of logits (n, K, h, w) -> points (n, K, 2) relative to the sides of the map."""
    n, k, h, w = response.shape
    share = response.flatten(2).softmax(2).view(n, k, h, w)
    x = (torch.arange(w, device=response.device) + 0.5) / w
    y = (torch.arange(h, device=response.device) + 0.5) / h
    return torch.stack([(share.sum(2) * x).sum(2), (share.sum(3) * y).sum(2)], dim=2)
