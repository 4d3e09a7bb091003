"""The Information-Synthesis Network (Pu): blocks whose maps are weighted and joined before the dense layer.

All networks take square RGB crops with values in [0, 255] and give landmarks over the crop's side. `PaperNet` is the
network as printed, `LightNet` the same idea with less to compute: equation 1 itself, a weighted sum of maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = (20, 40, 60, 80)  # the paper names none: those of Sun et al. 2013, whose data it uses
DENSE = 120  # theirs, too


class Weights(nn.Module):
    """beta: how much each synthesised block counts, each in [0, 1].

    Fixed weights are part of the module's state. Learned ones (ours) are a softmax, so their sum is 1 and the paper's
    constraint holds.
    """

    def __init__(self, blocks: int, beta: Sequence[float] | None) -> None:
        """``beta``: as many weights as blocks, in [0, 1]; ``None`` to learn them.

        Raises:
            ValueError: another number of weights, or one outside [0, 1].
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
    """S blocks of convolution, ReLU and max-pooling; ``beta_i c_i`` of blocks 2 to S joined before the dense layer.

    The dense layer of a concatenation is the sum of a dense layer a block, which is how equation 1 (a sum) and the
    text (a concatenation) agree.
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
            landmarks: K. size: side of the crops in pixels.
            beta: a weight in [0, 1] for each of blocks 2 to S; ``None`` to learn them.
            twin: the general CNN that the paper compares with: the last block alone goes to the dense layer.
            grid: side of a common grid that every block's map is averaged to first; 0 leaves the maps as they are.
            channels: of the S blocks. dense: width of the dense layer.
        """
        super().__init__()
        self.size = size
        inputs = (3, *channels[:-1])
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True))
            for i, o in zip(inputs, channels, strict=True)
        )
        self.first = len(channels) - 1 if twin else 1  # index of the first block that is synthesised
        self.beta = Weights(1, (1.0,)) if twin else Weights(len(channels) - 1, beta)
        self.grid = grid
        sides = [size]
        for _ in channels:
            sides.append(math.ceil(sides[-1] / 2))
        cells = [(grid or side) ** 2 for side in sides[1:]]
        flat = sum(c * n for c, n in zip(channels[self.first :], cells[self.first :], strict=True))
        self.dense = nn.Linear(flat, dense)
        self.points = nn.Linear(dense, 2 * landmarks)
        nn.init.constant_(self.points.bias, 0.5)  # the crop's middle

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, 3, size, size) in [0, 255] -> points (n, K, 2) over the crop's side."""
        x, maps = (pixels - 127.5) / 128, []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return {"points": self.points(F.relu(self.dense(self.synthesis(maps)))).unflatten(1, (-1, 2))}

    def synthesis(self, maps: Sequence[Tensor]) -> Tensor:
        """Equation 1, read as a concatenation: the blocks' maps (n, c, h, w), weighted and flattened to (n, flat)."""
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

    Each landmark is the expectation over a response map that a 1x1 convolution makes of c, so precision does not end
    at the grid; a small dense layer on c averaged to 4x4 cells adds what concerns the face as a whole, points outside
    the crop among it, and says how far off each landmark may be.
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
            landmarks: K. size: side of the crops in pixels, a multiple of 16.
            beta: a weight in [0, 1] for each of blocks 2 to 4; ``None`` to learn them.
            channels: of the four blocks. repeats: residual parts of blocks 2 to 4.
            shared: channels of c. dense: width of the dense layer.

        Raises:
            ValueError: a size that does not divide, or weights that are not such.
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
        with torch.no_grad():  # an even response would put every landmark into the middle, and learn slowly
            self.response.weight *= 8

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, 3, size, size) in [0, 255] -> points (n, K, 2) over the crop's side, spread (n, K).

        ``spread`` is the logarithm of the scale of a landmark's error, over the crop's side.
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
    """Soft-argmax: maps of logits (n, K, h, w) -> points (n, K, 2) over the map's sides."""
    n, k, h, w = response.shape
    share = response.flatten(2).softmax(2).view(n, k, h, w)
    x = (torch.arange(w, device=response.device) + 0.5) / w
    y = (torch.arange(h, device=response.device) + 0.5) / h
    return torch.stack([(share.sum(2) * x).sum(2), (share.sum(3) * y).sum(2)], dim=2)


def euclidean(points: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Equation 3, Caffe's EuclideanLoss: ``1/(2n) sum_i ||x_i - t_i||^2`` over n faces.

    Args:
        points, truth: (n, K, 2). weights: (n, K), how much each landmark counts.
    """
    return (weights * (points - truth).square().sum(2)).sum() / (2 * len(points))


def distance(points: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """The mean distance of landmarks (n, K, 2) from where they should be, weighted by (n, K): what the NME is."""
    return _mean(_length(points - truth), weights)


def spread_loss(spread: Tensor, points: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Negative log-likelihood of the errors under a two-dimensional Laplace distribution of scale ``exp(spread)``.

    Its density is ``exp(-r / b) / (2 pi b^2)``. The landmarks themselves learn nothing from it.

    Args:
        spread: (n, K) log b. points, truth: (n, K, 2). weights: (n, K).
    """
    error = _length(points - truth).detach()
    return _mean(error * torch.exp(-spread) + 2 * spread, weights)


def _length(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(-1) + 1e-8).sqrt()  # its slope at 0 would be infinite otherwise


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1e-6)
