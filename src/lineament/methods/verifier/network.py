"""The verifier's network: is there a face in a window, and where exactly. Ours, in no paper."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from lineament.methods.kpnet.layers import ConvNorm, Residual

CHANNELS = (32, 48, 96, 160)
DENSE = 192


class VerifierNet(nn.Module):
    """Convolutions to strides 2, 4, 8 and 16 with a residual block after each but the first, and two dense heads.

    1.1 M parameters, 21 million multiply-adds for a crop.
    """

    size = 48  # side of its crops in pixels

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvNorm(3, CHANNELS[0], stride=2), nn.ReLU()]
        for inputs, outputs in pairwise(CHANNELS):
            layers += [ConvNorm(inputs, outputs, stride=2), nn.ReLU(), Residual(outputs, outputs)]
        self.body = nn.Sequential(*layers)
        self.dense = nn.Linear(CHANNELS[-1] * (self.size // 2 ** len(CHANNELS)) ** 2, DENSE)
        self.dropout = nn.Dropout(0.2)
        self.score, self.box = nn.Linear(DENSE, 1), nn.Linear(DENSE, 4)
        nn.init.zeros_(self.box.weight)
        nn.init.zeros_(self.box.bias)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(n, 3, size, size) in [0, 255] -> score (n,) logits, box (n, 4) offsets from the window."""
        x = self.body((pixels - 127.5) / 64)
        x = self.dropout(F.relu(self.dense(x.flatten(1))))
        return {"score": self.score(x)[:, 0], "box": self.box(x)}
