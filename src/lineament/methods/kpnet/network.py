"""KPNet's networks (Song et al. 2020, figures 2 and 3): two light backbones, and a head for each of the two maps.

Two more backbones are ours, for plain processors: their maps have stride 4, and the positions of face centres in their
cells.

Pixels are scaled without a shift, so black is zero. The edge of a photo, a margin and the padding of the first
convolution are the same to the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.methods.kpnet.layers import (
    Apart,
    Columns,
    ConvNorm,
    Doubled,
    Merge,
    Phases,
    Residual,
    Stem,
    UpConv,
    doubled,
    layer_of,
    widen,
)
from lineament.methods.kpnet.least_squares import LeastSquares
from lineament.methods.kpnet.scales import GRIDS, Grid

BLOCK = 16
"""Channels in which runtimes store maps together."""
OBJECTNESS = "objectness"
"""The maps of ``KPNet.sketch``."""


class Packing(NamedTuple):
    """What brings values to the range of responses: they are first shifted, then enlarged."""

    factor: float
    shift: float = 0.0


PACKED = {"offset": Packing(8.0), "box": Packing(8.0), OBJECTNESS: Packing(2.5, shift=5.0)}
"""By name of the map. Faces have an objectness of -5 to 3. Larger values may all be the largest byte."""


class KPNet(nn.Module):
    """A backbone and its two heads (figure 2): ``scale`` detects faces, ``response`` predicts their landmarks.

    `lineament.methods.kpnet.heads.build` makes a network with the heads of the paper or of a variant.

    Args:
        backbone: Computes the features.
        scale: Features -> the map that detects faces; in the paper the scalemap.
        response: Features -> response maps, followed by those of ``extra``.
        extra: Numbers of further maps of the response head, by name and in order: ``offset`` 2, ``box`` 4, or neither.

    Attributes:
        stride: Pixels of the input per cell of the scalemap.
        multiple: The sides of an input are multiples of this.
        columns: Columns of the image that are the channels of one column of the input, see ``pack``.
    """

    def __init__(self, backbone: Backbone, scale: nn.Module, response: nn.Module, *, extra: Mapping[str, int]) -> None:
        super().__init__()
        self.backbone, self.scale, self.response, self.extra = backbone, scale, response, dict(extra)
        self.stride, self.multiple = backbone.grid
        self.columns = 1
        self._is_packed = False
        self._is_frozen = False

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, 3, h, w) in [0, 255], h and w multiples of ``multiple`` -> maps.

        Returns:
            With the paper's heads: ``scale`` (n, 60, h/stride, w/stride), logits; ``response`` (n, K, h/stride,
            w/stride), h of equation 5. If they are in ``extra``: ``offset`` (n, 2, h/stride, w/stride), x and y of a
            face's centre relative to the cell's centre, in cells; ``box`` (n, 4, h/stride, w/stride), a face's box
            relative to its proposal, as in R-CNN. After ``sketch``: ``objectness`` (n, h/stride, w/stride), nearly the
            largest of the 60 logits, instead of ``scale``.
        """
        return self.maps(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """The input of the heads: (n, channels, ...), at the backbone's ``stride``."""
        features: Tensor = self.backbone(pixels / 128)
        return features

    def maps(self, features: Tensor) -> dict[str, Tensor]:
        """The maps of the heads."""
        maps = {"response": self.response(features)}
        if OBJECTNESS not in self.extra:
            maps["scale"] = self.scale(features)
        if self.extra:
            maps |= self._apart(maps["response"])
        return maps

    def _apart(self, response: Tensor) -> dict[str, Tensor]:
        """The maps of the response head by name."""
        counts = {"response": response.shape[1] - sum(self.extra.values()), **self.extra}
        ends = zip(counts, accumulate(counts.values()), strict=True)
        maps = {name: response[:, end - counts[name] : end] for name, end in ends}
        if OBJECTNESS in maps:
            # rows of bytes, which have channels last in memory: runtimes would move the axis of a map back
            rows = maps[OBJECTNESS].permute(0, 2, 3, 1).flatten(1, 2)
            maps[OBJECTNESS] = torch.unflatten(rows.amax(dim=2), 1, response.shape[2:])
        if self._is_packed:
            maps |= {name: maps[name] / PACKED[name].factor - PACKED[name].shift for name in self.extra}
        return maps

    @property
    def channels(self) -> dict[str, int]:
        """The numbers of maps of the response head by name, in order. Not for a folded hourglass."""
        return {"response": layer_of(self.response).out_channels - sum(self.extra.values()), **self.extra}

    def freeze(self) -> None:
        """Keep everything but the response head as it is in training, including the statistics of normalisation."""
        self._is_frozen = True
        for part in (self.backbone, self.scale):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> KPNet:
        """As for any module. A frozen backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.train(mode and not self._is_frozen)
        return self

    def fold(self) -> None:
        """Fold linear parts into single convolutions: the same function, for inference only."""
        for module in self.modules():
            if isinstance(module, (ConvNorm, UpConv, Stem)):
                module.fold()
        if isinstance(self.backbone, DRNet):
            self.backbone.fill()

    @torch.no_grad()
    def sketch(self, views: Iterable[Tensor]) -> None:
        """Before folding, replace the scalemap by a few maps of the response head, for inference only.

        Each has the largest logit of a group of two to four neighbouring bins, approximately. Their kernels are alike,
        so it is nearly a linear function of the features, and fitted by least squares. That is good enough to locate
        faces. The maps fill whole blocks of channels, which is several times as fast.

        Args:
            views: (3, h, w) in [0, 255], to fit to.
        """
        layer = layer_of(self.response)
        count = BLOCK + -layer.out_channels % BLOCK

        def samples() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for view in views:
                features = self.features(view[None])
                groups = torch.tensor_split(self.scale(features)[0], count)
                seen = doubled(features) if isinstance(self.response, UpConv) else features
                yield seen[0], torch.stack([group.amax(dim=0) for group in groups]), torch.ones(seen.shape[2:])

        kernel, bias = LeastSquares(samples()).solve()
        assert layer.bias is not None
        layer.weight = nn.Parameter(torch.cat([layer.weight, kernel]))
        layer.bias = nn.Parameter(torch.cat([layer.bias, bias]))
        layer.out_channels += count
        self.extra[OBJECTNESS] = count

    @torch.no_grad()
    def pack(self) -> None:
        """After folding, prepare layers for 8-bit integers, once: the same function. The hourglass stays as it is.

        The first layer computes two columns at once (`lineament.methods.kpnet.layers.Columns`), from inputs of the
        shape (n, 12, h, w/4). Maps are enlarged by copies. All maps of the response head have one range in bytes, so
        further maps are brought to the range of responses inside (``PACKED``).
        """
        if not isinstance(self.backbone, Trunk):
            return
        first, response = self.backbone.stem.conv, self.response
        assert first.bias is not None
        self.backbone.stem.conv, self.backbone.apart = Columns(first.weight, first.bias), Apart()
        self.columns = 4
        for module in self.modules():
            if isinstance(module, (Doubled, Phases)):
                module.by_copies = True
        assert isinstance(response, nn.Conv2d)
        assert response.bias is not None
        start = self.channels["response"]
        for name, count in self.extra.items():
            rows, start = slice(start, start + count), start + count
            response.bias[rows] = (response.bias[rows] + PACKED[name].shift) * PACKED[name].factor
            response.weight[rows] *= PACKED[name].factor
        self._is_packed = True

    @torch.no_grad()
    def unfold(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the kernels and biases, by name, of a folded network of this kind: the same function, for further
        training.

        Normalisation then only adds the biases.
        """
        for name, module in self.named_modules():
            if isinstance(module, (ConvNorm, UpConv, Stem)):
                module.unfold(*(tensors[f"{name}.{module.folded}.{part}"] for part in ("weight", "bias")))
        for name, head in (("scale", self.scale), ("response", self.response)):
            if isinstance(head, nn.Conv2d):
                head.load_state_dict({part: tensors[f"{name}.{part}"] for part in ("weight", "bias")})


class Backbone(nn.Module):
    """Computes the features of the heads.

    Attributes:
        grid: The grid of the maps.
        stride: Pixels of the input per cell of the features.
        channels: Of the features.
    """

    grid: Grid
    stride: int
    channels: int

    def head(self, channels: int) -> nn.Conv2d | UpConv:
        """A layer for a head."""
        return nn.Conv2d(self.channels, channels, 3, padding=1)


class Trunk(Backbone):
    """The common part of `DRNet` and `Lite`: down to stride 8.

    Args:
        early: Channels of the stem.
        middle: Channels at stride 4.
        deep: Channels at stride 8.
        inner: Channels inside the blocks at strides 4 and 8. By default as many as outside.
    """

    def __init__(self, early: int, middle: int, deep: int, inner: tuple[int, int] | None = None) -> None:
        super().__init__()
        narrow, wide = inner or (middle, deep)
        self.stem = ConvNorm(3, early, stride=2)
        self.apart: nn.Module = nn.Identity()
        self.pool = nn.MaxPool2d(2)
        self.shallow = Residual(early, middle, inner=narrow)
        self.down = Residual(middle, deep, stride=2, inner=wide)
        self.deep = Residual(deep, deep, inner=wide)

    def trunk(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, 3, h, w) -> features at strides 2, 4 and 8."""
        early = self.apart(functional.relu(self.stem(x)))
        shallow = self.shallow(self.pool(early))
        return early, shallow, self.deep(self.down(shallow))


class DRNet(Trunk):
    """The De-redundancy Net (figure 3): most of its weights at stride 8, few operations at stride 2.

    Eleven 3x3 layers on the longest path, including the head: stem, three residual blocks, one convolution up to stride
    4, one after the sum there, one up to stride 2 and over the long skip's concatenation, head.
    """

    grid = GRIDS["drnet"]
    stride = 2

    def __init__(self, early: int = 24, middle: int = 32, deep: int = 176, late: int = 32) -> None:
        super().__init__(early, middle, deep)
        self.up = UpConv(deep, middle, norm=True)
        self.smooth = ConvNorm(middle, middle)
        self.last = Merge(middle, early, late)
        self.channels = late

    def fill(self) -> None:
        """After folding, pad the early map with zero channels to whole blocks of channels.

        Only whole blocks can be concatenated without copying.
        """
        missing = -self.stem.conv.out_channels % BLOCK
        widen(self.stem.conv, outputs=missing)
        assert isinstance(self.shallow.shortcut, ConvNorm)
        for reader in (self.shallow.first, self.shallow.shortcut, self.last):
            widen(reader.conv, inputs=missing)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, channels, h/2, w/2)."""
        early, shallow, deep = self.trunk(x)
        middle = functional.relu(self.smooth(functional.relu(self.up(deep) + shallow)))
        return functional.relu(self.last(middle, early))


class Hourglass(Backbone):
    """Hourglass-light: one stack of Newell et al. 2016 with 64 channels, upsampled to stride 2 at the end."""

    grid = GRIDS["hourglass"]
    stride = 4

    def __init__(self, channels: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.stem = Stem(channels)
        self.pool = nn.MaxPool2d(2)
        self.skips = nn.ModuleList(Residual(channels, channels) for _ in range(depth))
        self.downs = nn.ModuleList(Residual(channels, channels) for _ in range(depth))
        self.bottom = Residual(channels, channels)
        self.ups = nn.ModuleList(Residual(channels, channels) for _ in range(depth))
        self.channels = channels

    def head(self, channels: int) -> UpConv:
        """A layer for a head, which also upsamples."""
        return UpConv(self.channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, channels, h/4, w/4). The heads upsample it to stride 2."""
        x = self.pool(functional.relu(self.stem(x)))
        kept = []
        for skip, down in zip(self.skips, self.downs, strict=True):
            kept.append(skip(x))
            x = down(self.pool(x))
        x = self.bottom(x)
        for skipped, up in zip(reversed(kept), self.ups, strict=True):
            x = skipped + doubled(up(x))
        return x


class Lite(Trunk):
    """DRNet without its work at stride 2 after the stem, and narrower at stride 8: under a third of the operations.

    Its convolutions are dense, which processors with VNNI compute fastest.
    """

    grid = GRIDS["lite"]
    stride = 4

    def __init__(self, early: int = 24, middle: int = 32, deep: int = 96, inner: tuple[int, int] | None = None) -> None:
        super().__init__(early, middle, deep, inner)
        self.up = ConvNorm(deep, middle)
        self.enlarge = Doubled()
        self.smooth = ConvNorm(middle, middle)
        self.channels = middle

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, channels, h/4, w/4)."""
        _, shallow, deep = self.trunk(x)
        return functional.relu(self.smooth(functional.relu(self.enlarge(self.up(deep)) + shallow)))


class Slim(Lite):
    """Lite with fewer channels inside the residual blocks at stride 8."""

    grid = GRIDS["slim"]

    def __init__(
        self, early: int = 24, middle: int = 32, deep: int = 96, inner: tuple[int, int] | None = (32, 64)
    ) -> None:
        super().__init__(early, middle, deep, inner)


BACKBONES: dict[str, type[Backbone]] = {"drnet": DRNet, "hourglass": Hourglass, "lite": Lite, "slim": Slim}
