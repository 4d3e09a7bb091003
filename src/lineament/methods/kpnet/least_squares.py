"""Convolutions fitted by least squares to what another function computes, from all channels or from the most useful."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional


class LeastSquares:
    """The normal equations of the convolution that comes nearest to given outputs.

    Args:
        samples: Inputs (i, h, w), outputs (o, h, w) and the weight of each cell (h, w). At least one sample.
        size: Side of the kernel.
        ridge: Weight of the kernel's squares, relative to the mean square of the inputs.
    """

    def __init__(self, samples: Iterable[tuple[Tensor, Tensor, Tensor]], size: int = 3, ridge: float = 1e-5) -> None:
        self._size = size
        inner, outer = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for inputs, outputs, weight in samples:
            patches = functional.unfold(inputs[None], size, padding=size // 2)[0].double()
            patches = torch.cat([patches, torch.ones(1, patches.shape[1], dtype=torch.float64)])  # for the bias
            weighted = patches * weight.flatten().double()
            inner = inner + weighted @ patches.T
            outer = outer + weighted @ outputs.flatten(1).T.double()
        strength = ridge * inner.diagonal()[:-1].mean()
        inner.diagonal()[:-1] += strength  # not of the bias
        self._inner, self._outer = inner, outer

    def solve(self, channels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Kernel (o, c, size, size) and bias (o,) of the best convolution from c input channels. ``None``: from all."""
        taps = torch.arange(len(self._inner) - 1).view(-1, self._size**2)
        rows = torch.cat([taps[slice(None) if channels is None else channels].flatten(), torch.tensor([-1])])
        found = torch.linalg.solve(self._inner[rows][:, rows], self._outer[rows]).T.float()
        return found[:, :-1].unflatten(1, (-1, self._size, self._size)), found[:, -1]

    def most_useful(self, count: int) -> Tensor:
        """Indices (count,) of input channels to keep: the others go one by one, each time the one that is missed least.

        The loss without a channel has a closed form if the kernels of all others may change (optimal brain surgeon,
        Hassibi and Stork 1993).
        """
        inverse = torch.linalg.inv(self._inner)
        found = inverse @ self._outer
        taps = torch.arange(len(inverse) - 1).view(-1, self._size**2)
        kept = list(range(len(taps)))
        while len(kept) > count:
            rows = taps[kept]
            blocks = torch.linalg.inv(inverse[rows[:, :, None], rows[:, None]])
            losses = torch.einsum("cto,ctu,cuo->c", found[rows], blocks, found[rows])
            least = int(losses.argmin())
            gone = taps[kept.pop(least)]
            change = inverse[:, gone] @ blocks[least]
            found = found - change @ found[gone]
            inverse = inverse - change @ inverse[gone]
        return torch.tensor(kept)
