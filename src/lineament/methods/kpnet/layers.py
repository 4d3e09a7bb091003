"""The layers of KPNet's networks. For inference each becomes one convolution, which can become layers again.

Linear parts are folded: a convolution and its normalisation, two convolutions with nothing between them, an upsampling
and the following convolution. ``fold`` and ``unfold`` are inverse.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.methods.normalisation import folded, only_shift


class ConvNorm(nn.Module):
    """Convolution and batch normalisation."""

    folded = "conv"  # the layer that replaces all after folding

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h/stride, w/stride)."""
        out: Tensor = self.norm(self.conv(x))
        return out

    def fold(self) -> None:
        """Fold both into one convolution."""
        weight, bias = folded(self.conv.weight, self.norm)
        self.conv.weight, self.conv.bias, self.norm = nn.Parameter(weight), nn.Parameter(bias), nn.Identity()

    def unfold(self, weight: Tensor, bias: Tensor) -> None:
        """Start from a folded layer; channels beyond these were padding (see `DRNet.fill`)."""
        outputs, inputs = self.conv.weight.shape[:2]
        self.conv.weight.copy_(weight[:outputs, :inputs])
        only_shift(self.norm, bias[:outputs])


class Residual(nn.Module):
    """A basic residual block, with a 1x1 projection if the shape changes.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        stride: Of the first convolution.
        inner: Channels between the convolutions. By default the output's.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or outputs
        self.first = ConvNorm(inputs, inner, stride=stride)
        self.second = ConvNorm(inner, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h/stride, w/stride)."""
        return functional.relu(self.second(functional.relu(self.first(x))) + self.shortcut(x))


class Stem(nn.Module):
    """Two 3x3 convolutions, the first with stride 2 and nothing between them, then normalisation.

    All padding is before the first, so both together are exactly one 7x7 convolution. Inference uses that, with a
    quarter of the work.
    """

    folded = "first"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, stride=2, bias=False)
        self.second: nn.Module = nn.Conv2d(channels, channels, 3, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, channels, h/2, w/2)."""
        out: Tensor = self.norm(self.second(self.first(functional.pad(x, (3, 2, 3, 2)))))
        return out

    def fold(self) -> None:
        """Fold all three into one convolution."""
        assert isinstance(self.second, nn.Conv2d)
        both = functional.conv_transpose2d(self.second.weight, self.first.weight, stride=2)
        weight, bias = folded(both, self.norm)
        self.first = nn.Conv2d(3, len(weight), 7, stride=2)
        self.first.weight, self.first.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.second, self.norm = nn.Identity(), nn.Identity()

    def unfold(self, weight: Tensor, bias: Tensor) -> None:
        """Start from a folded layer: the second kernels that give it with the present first ones.

        Any first kernels that span all possible results will do; random ones do.
        """
        assert isinstance(self.second, nn.Conv2d)
        shape = self.second.weight.shape
        unit = torch.eye(shape[1:].numel(), dtype=weight.dtype).view(-1, *shape[1:])
        each = functional.conv_transpose2d(unit, self.first.weight, stride=2).flatten(1).double()
        second = torch.linalg.lstsq(each.T, weight.flatten(1).double().T, driver="gelsd").solution
        self.second.weight.copy_(second.T.reshape(shape))
        only_shift(self.norm, bias)


class UpConv(nn.Module):
    """Nearest-neighbour x2 upsampling and a 3x3 convolution.

    Every output sees copies: of its 3x3 inputs only 2x2 differ. So for inference the 3x3 kernel becomes four 2x2
    kernels on the map before upsampling, one for each position of an output in its upsampled cell. This takes 4/9 of
    the multiplications.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        norm: Batch normalisation instead of a bias.
    """

    folded = "conv"

    def __init__(self, inputs: int, outputs: int, norm: bool = False) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norm)
        self.norm: nn.Module = nn.BatchNorm2d(outputs) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, 2h, 2w)."""
        if isinstance(self.conv, Phases):
            return self.conv(x)
        return self.norm(self.conv(doubled(x)))

    def fold(self) -> None:
        """Fold the normalisation into the kernel, and split the kernel into four."""
        assert isinstance(self.conv, nn.Conv2d)
        weight, bias = self.conv.weight, self.conv.bias
        if isinstance(self.norm, nn.BatchNorm2d):
            weight, bias = folded(weight, self.norm)
        assert bias is not None
        self.conv, self.norm = Phases(weight, bias), nn.Identity()

    def unfold(self, weight: Tensor, bias: Tensor) -> None:
        """Start from a folded layer."""
        assert isinstance(self.conv, nn.Conv2d)
        even, odd = (_whole(row[0], row[1], axis=3) for row in torch.unflatten(weight, 0, (2, 2, -1)).unbind())
        self.conv.weight.copy_(_whole(even, odd, axis=2))
        shift = bias[: self.conv.out_channels]
        if self.conv.bias is None:
            only_shift(self.norm, shift)
        else:
            self.conv.bias.copy_(shift)


class Merge(ConvNorm):
    """A 3x3 convolution of two concatenated maps, one of them upsampled x2, and batch normalisation."""

    def __init__(self, coarse: int, fine: int, outputs: int) -> None:
        super().__init__(coarse + fine, outputs)
        self.enlarge = Doubled()

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:  # type: ignore[override]
        """(n, coarse, h, w), (n, fine, 2h, 2w) -> (n, outputs, 2h, 2w)."""
        return super().forward(torch.cat([self.enlarge(coarse), fine], dim=1))


class Phases(nn.Conv2d):
    """Upsampling and a 3x3 kernel as four 2x2 kernels. Their outputs are the four positions of a cell.

    Attributes:
        by_copies: Copy whole columns and rows, which is faster in bytes.
    """

    by_copies = False

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__(weight.shape[1], 4 * len(weight), 2, padding=1)
        rows = [_halved(weight, 2, odd) for odd in (False, True)]
        kernels = [_halved(kernel, 3, odd) for kernel in rows for odd in (False, True)]
        self.weight, self.bias = nn.Parameter(torch.cat(kernels)), nn.Parameter(bias.repeat(4))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, 2h, 2w)."""
        h, w = x.shape[2:]
        out = super().forward(x)
        if self.by_copies:
            return self._copied(out.permute(0, 2, 3, 1), h, w)
        places = torch.unflatten(out, 1, (4, -1))
        placed = [places[:, 2 * i + j, :, i : i + h, j : j + w] for i in (0, 1) for j in (0, 1)]
        return functional.pixel_shuffle(torch.stack(placed, dim=2).flatten(1, 2), 2)

    def _copied(self, out: Tensor, h: int, w: int) -> Tensor:
        """The same from (n, h + 1, w + 1, 4 * outputs), channels last."""
        n, outputs = out.shape[0], self.out_channels // 4
        rows = []
        for i in (0, 1):
            places = [(j, (2 * i + j) * outputs) for j in (0, 1)]
            pair = [out[:, i : i + h, j : j + w, first : first + outputs] for j, first in places]
            rows.append(torch.cat(pair, dim=3).reshape(n, h, 2 * w * outputs))
        return torch.cat(rows, dim=2).reshape(n, 2 * h, 2 * w, outputs).permute(0, 3, 1, 2)


class Columns(nn.Conv2d):
    """A 3x3 convolution with stride 2 that computes two columns at once, for images with few channels in bytes.

    Its input has the channels of four columns of the image as those of one: in memory, it is the same image. So
    runtimes copy the inputs of a kernel in fewer and longer pieces. That takes most of the time of such a layer.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        outputs, inputs = weight.shape[:2]
        super().__init__(4 * inputs, 2 * outputs, (3, 2), stride=(2, 1))
        # of the eight columns that a kernel sees, the first output needs the fourth to the sixth, the second two more
        seen = torch.stack([functional.pad(weight, (3 + 2 * place, 2 - 2 * place)) for place in (0, 1)])
        ordered = torch.unflatten(seen, -1, (2, 4)).movedim(-1, 2)  # (2, outputs, 4, inputs, 3, 2)
        self.weight, self.bias = nn.Parameter(ordered.reshape(self.weight.shape)), nn.Parameter(bias.repeat(2))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4 * inputs, h, w/4) -> (n, 2 * outputs, h/2, w/4)."""
        return super().forward(functional.pad(x, (1, 0, 1, 0)))


class Apart(nn.Module):
    """The two columns of `Columns`, side by side: (n, 2c, h, w) -> (n, c, h, 2w)."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        n, channels, h, _ = x.shape
        return x.permute(0, 2, 3, 1).reshape(n, h, -1, channels // 2).permute(0, 3, 1, 2)


class Doubled(nn.Module):
    """Repeat each cell four times: (n, c, h, w) -> (n, c, 2h, 2w).

    Attributes:
        by_copies: Copy whole columns and rows, which is faster in bytes.
    """

    by_copies = False

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if not self.by_copies:
            return doubled(x)
        n, channels, h, w = x.shape
        columns = x.permute(0, 2, 3, 1)
        rows = torch.cat([columns, columns], dim=3).reshape(n, h, 2 * w * channels)
        return torch.cat([rows, rows], dim=2).reshape(n, 2 * h, 2 * w, channels).permute(0, 3, 1, 2)


def layer_of(head: nn.Module) -> nn.Conv2d:
    """The convolution of a head that is not folded."""
    layer = head.conv if isinstance(head, UpConv) else head
    assert isinstance(layer, nn.Conv2d)
    return layer


def widen(conv: nn.Conv2d, inputs: int = 0, outputs: int = 0) -> None:
    """Append zero channels to the inputs or outputs of a convolution."""
    assert conv.bias is not None
    conv.weight = nn.Parameter(functional.pad(conv.weight, (0, 0, 0, 0, 0, inputs, 0, outputs)))
    conv.bias = nn.Parameter(functional.pad(conv.bias, (0, outputs)))


def doubled(x: Tensor) -> Tensor:
    """Repeat each cell four times: (n, c, h, w) -> (n, c, 2h, 2w)."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def _halved(weight: Tensor, axis: int, odd: bool) -> Tensor:
    """Three taps on copies as two taps on the original: an even position sees a, b, b; an odd one a, a, b."""
    first, second, third = weight.unbind(axis)
    return torch.stack([first + second, third] if odd else [first, second + third], dim=axis)


def _whole(even: Tensor, odd: Tensor, axis: int) -> Tensor:
    """Inverse of `_halved`."""
    first, others = even.unbind(axis)
    third = odd.select(axis, 1)
    return torch.stack([first, others - third, third], dim=axis)


def expect_rarely(head: nn.Module, prior: float = 1e-4) -> None:
    """Let every cell of a head's map start with this probability, so that false positives do not dominate the first
    steps.

    The cell of a face is one of many thousands. The paper does not mention it; the initialisation is that of Lin et al.
    2017 (focal loss, section 4.1).
    """
    last = layer_of(head)
    assert last.bias is not None
    nn.init.constant_(last.bias, -math.log(1 / prior - 1))
    if isinstance(head, UpConv):  # its inputs are sums that no layer normalised
        nn.init.normal_(last.weight, std=0.003)
