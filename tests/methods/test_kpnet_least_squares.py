"""Convolutions by least squares, from all channels or from some."""

from __future__ import annotations

from itertools import combinations

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from lineament.methods.kpnet.least_squares import LeastSquares  # noqa: E402


def samples(outputs: int = 3, *, noise: float = 0.0) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Inputs of five channels, the last nearly a sum of others; what a convolution makes of them; weights."""
    random = torch.Generator().manual_seed(0)
    kernel = torch.randn(outputs, 5, 3, 3, generator=random) * torch.tensor([1, 0.1, 2, 1, 1])[:, None, None]
    made = []
    for h, w in ((12, 20), (9, 7)):
        inputs = torch.randn(5, h, w, generator=random)
        inputs[4] = inputs[2] + inputs[3] + 0.01 * inputs[4]
        wanted = F.conv2d(inputs[None], kernel, torch.arange(float(outputs)), padding=1)[0]
        made.append((inputs, wanted + noise * torch.randn(wanted.shape, generator=random), torch.rand(h, w)))
    return made


def loss(kernel: torch.Tensor, bias: torch.Tensor, channels: torch.Tensor, noise: float = 0.3) -> float:
    """The weighted squared error of a convolution."""
    errors = [
        (weight * (F.conv2d(inputs[None, channels], kernel, bias, padding=1)[0] - wanted).square()).sum()
        for inputs, wanted, weight in fixed(noise)
    ]
    return float(sum(errors))


def fixed(noise: float) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    return samples(noise=noise)


def test_a_convolution_comes_back() -> None:
    kernel, bias = LeastSquares(fixed(0.0), ridge=1e-12).solve()
    assert loss(kernel, bias, torch.arange(5), noise=0.0) < 1e-4


def test_no_other_convolution_comes_nearer() -> None:
    kernel, bias = LeastSquares(fixed(0.3), ridge=0).solve()
    best = loss(kernel, bias, torch.arange(5))
    for _ in range(20):
        assert loss(kernel + 1e-3 * torch.randn(kernel.shape), bias, torch.arange(5)) > best
        assert loss(kernel, bias + 1e-3 * torch.randn(bias.shape), torch.arange(5)) > best


@pytest.mark.parametrize("count", [4, 3, 5])
def test_the_channels_that_stay_are_those_that_are_missed_most(count: int) -> None:
    fit = LeastSquares(fixed(0.3), ridge=1e-9)
    chosen = fit.most_useful(count)
    assert len(chosen) == count
    losses = {
        those: loss(*fit.solve(torch.tensor(those)), torch.tensor(those)) for those in combinations(range(5), count)
    }
    assert losses[tuple(chosen.tolist())] < 1.01 * min(losses.values())
