"""Normalisation after a convolution: folded for inference, unfolded for further training."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

GROUPS = 32


class ConvNorm(nn.Module):
    """Convolution and normalisation."""

    def __init__(self, inputs: int, outputs: int, norm: str, size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
        self.norm = normalisation(norm, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h, w)."""
        out: Tensor = self.norm(self.conv(x))
        return out

    def fold(self) -> None:
        """Prepare for inference: fold batch normalisation into the convolution, or make group normalisation plain."""
        if isinstance(self.norm, nn.BatchNorm2d):
            weight, bias = folded(self.conv.weight, self.norm)
            self.conv.weight, self.conv.bias, self.norm = nn.Parameter(weight), nn.Parameter(bias), nn.Identity()
        if isinstance(self.norm, nn.GroupNorm):
            plain = PlainGroupNorm(self.norm.num_groups, self.norm.num_channels, self.norm.eps)
            plain.weight, plain.bias = self.norm.weight, self.norm.bias
            self.norm = plain


class PlainGroupNorm(nn.GroupNorm):
    """Group normalisation whose ONNX operators also accept an empty batch. It is slower in training."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, channels, h, w) -> (n, channels, h, w)."""
        groups = torch.unflatten(input, 1, (self.num_groups, self.num_channels // self.num_groups))
        centred = groups - groups.mean(dim=(2, 3, 4), keepdim=True)
        variance = centred.square().mean(dim=(2, 3, 4), keepdim=True)
        normal = (centred / (variance + self.eps).sqrt()).flatten(1, 2)
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


def normalisation(kind: str, channels: int) -> nn.Module:
    """Normalisation by its name: "group", with 32 groups or as many as divide the channels evenly, or "batch"."""
    if kind == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    return nn.BatchNorm2d(channels)


def folded(weight: Tensor, norm: nn.Module, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Kernel (outputs, ...) and bias (outputs,) of one convolution that equals a convolution and its normalisation.

    Args:
        weight: Kernel of the convolution.
        norm: The batch normalisation after it. It counts as in evaluation.
        bias: Bias of the convolution, if it has one.
    """
    mean, variance = _statistics(norm)
    assert isinstance(norm, nn.BatchNorm2d)
    scale = norm.weight / torch.sqrt(variance + norm.eps)
    shift = -mean if bias is None else bias - mean
    return weight * scale[:, None, None, None], norm.bias + shift * scale


def only_shift(norm: nn.Module, bias: Tensor) -> None:
    """Change a normalisation, in place, so that in evaluation it only adds a bias (channels,)."""
    mean, variance = _statistics(norm)
    assert isinstance(norm, nn.BatchNorm2d)
    mean.zero_()
    variance.fill_(1 - norm.eps)
    norm.weight.fill_(1)
    norm.bias.copy_(bias)


@torch.no_grad()
def settle(network: nn.Module, run: Callable[[], object]) -> None:
    """Set the statistics of every batch normalisation to those of its input, and its scale and shift to the inverse.

    So the network computes the same in evaluation, but can be trained further.

    Args:
        network: The network. It changes in place.
        run: Calls the network on samples of the training.
    """

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, variance = _statistics(norm)
        assert isinstance(norm, nn.BatchNorm2d)
        met = inputs[0].mean(dim=(0, 2, 3)), inputs[0].var(dim=(0, 2, 3), correction=0)
        gain = norm.weight / torch.sqrt(variance + norm.eps)
        norm.bias.add_(gain * (met[0] - mean))
        norm.weight.copy_(gain * torch.sqrt(met[1] + norm.eps))
        mean.copy_(met[0])
        variance.copy_(met[1])

    hooks = [m.register_forward_pre_hook(measure) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    training = network.training
    network.eval()
    run()
    network.train(training)
    for hook in hooks:
        hook.remove()


def _statistics(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """The running mean and variance of a batch normalisation."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
