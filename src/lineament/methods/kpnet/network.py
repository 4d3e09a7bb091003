"""KPNet's networks (Song et al. 2020, figures 2 and 3): two light backbones, and a head for each of the two maps.

Two more backbones are ours, for plain processors: their scalemaps have stride 4 and 8, and the positions of face
centres in their cells.

Pixels are scaled without a shift, so black is zero. The edge of a photo, a margin and the padding of the first
convolution are the same to the network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.methods.kpnet.layers import Apart, Columns, ConvNorm, Merge, Residual, Stem, UpConv, doubled, widen
from lineament.methods.kpnet.scales import GRIDS, Grid


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
        fine: Cells of a response map along a cell of the scalemap.
        columns: Columns of the image that are the channels of one column of the input, see ``fold``.
    """

    def __init__(self, backbone: Backbone, scale: nn.Module, response: nn.Module, *, extra: Mapping[str, int]) -> None:
        super().__init__()
        self.backbone, self.scale, self.response, self.extra = backbone, scale, response, dict(extra)
        self.stride, self.multiple, self.fine = backbone.grid
        self.columns = 1
        self._is_frozen = False

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, 3, h, w) in [0, 255], h and w multiples of ``multiple`` -> maps.

        Returns:
            With the paper's heads: ``scale`` (n, 60, h/stride, w/stride), logits; ``response`` (n, K, fine*h/stride,
            fine*w/stride), h of equation 5. If they are in ``extra``: ``offset`` (n, 2, h/stride, w/stride), x and y
            of a face's centre relative to the cell's centre, in cells; ``box`` (n, 4, h/stride, w/stride), a face's
            box relative to its proposal, as in R-CNN.
        """
        return self.maps(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """The input of the heads: (n, channels, ...), at the backbone's ``stride``."""
        features: Tensor = self.backbone(pixels / 128)
        return features

    def maps(self, features: Tensor) -> dict[str, Tensor]:
        """The maps of the heads."""
        maps = {"scale": self.scale(features), "response": self.response(features)}
        if self.extra:
            extra = self.extra.values()
            parts = torch.split(maps["response"], [maps["response"].shape[1] - sum(extra), *extra], dim=1)
            maps |= zip(("response", *self.extra), parts, strict=True)
        if self.fine > 1:
            maps["response"] = functional.pixel_shuffle(maps["response"], self.fine)
        return maps

    @property
    def channels(self) -> dict[str, int]:
        """The numbers of maps of the response head by name, in order. Not for a folded network."""
        layer = self.response.conv if isinstance(self.response, UpConv) else self.response
        assert isinstance(layer, nn.Conv2d)
        return {"response": layer.out_channels - sum(self.extra.values()), **self.extra}

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

    def fold(self, *, columns: bool = False) -> None:
        """Fold linear parts into single convolutions: the same function, for inference only.

        Args:
            columns: The first layer computes two columns at once, except the hourglass's, see
                `lineament.methods.kpnet.layers.Columns`. The input then has the shape (n, 12, h, w/4).
        """
        for module in self.modules():
            if isinstance(module, (ConvNorm, UpConv, Stem)):
                module.fold()
        if isinstance(self.backbone, DRNet):
            self.backbone.fill()
        if columns and isinstance(self.backbone, Trunk):
            first = self.backbone.stem.conv
            assert first.bias is not None
            self.backbone.stem.conv, self.backbone.apart = Columns(first.weight, first.bias), Apart()
            self.columns = 4

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
    """The common part of `DRNet`, `Lite` and `Compact`: down to stride 8.

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

    def fill(self, block: int = 16) -> None:
        """After folding, pad the early map with zero channels to whole blocks of channels.

        Runtimes store maps in such blocks. Only whole blocks can be concatenated without copying.
        """
        missing = -self.stem.conv.out_channels % block
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

    def __init__(self, early: int = 24, middle: int = 32, deep: int = 96) -> None:
        super().__init__(early, middle, deep)
        self.up = ConvNorm(deep, middle)
        self.smooth = ConvNorm(middle, middle)
        self.channels = middle

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, channels, h/4, w/4)."""
        _, shallow, deep = self.trunk(x)
        return functional.relu(self.smooth(functional.relu(doubled(self.up(deep)) + shallow)))


class Compact(Trunk):
    """Lite with narrow residual blocks, heads at stride 8, and more layers at stride 16, which see whole faces.

    Every cell has 2x2 cells of each response map, so landmarks have stride 4.

    Args:
        early: Channels of the stem.
        middle: Channels at stride 4.
        deep: Channels at strides 8 and 16.
        inner: Channels inside the residual blocks at strides 4 and 8.
        late: Channels of the features.
    """

    grid = GRIDS["compact"]
    stride = 8

    def __init__(
        self, early: int = 24, middle: int = 32, deep: int = 96, inner: tuple[int, int] = (24, 64), late: int = 64
    ) -> None:
        super().__init__(early, middle, deep, inner)
        self.context = nn.Sequential(Residual(deep, deep, stride=2), Residual(deep, deep))
        self.lateral = ConvNorm(deep, deep, size=1)
        self.smooth = ConvNorm(deep, late)
        self.channels = late

    def head(self, channels: int) -> nn.Conv2d:  # noqa: D102
        return nn.Conv2d(self.channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, channels, h/8, w/8)."""
        _, _, deep = self.trunk(x)
        return functional.relu(self.smooth(functional.relu(doubled(self.lateral(self.context(deep))) + deep)))


BACKBONES: dict[str, type[Backbone]] = {"drnet": DRNet, "hourglass": Hourglass, "lite": Lite, "compact": Compact}
