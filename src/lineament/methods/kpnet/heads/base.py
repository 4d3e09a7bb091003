"""The interfaces of KPNet's two heads: one detects faces, one predicts their landmarks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lineament import boxes as box_ops
from lineament.data.canvases import Labels
from lineament.methods.kpnet import scales
from lineament.methods.kpnet.heads.bells import Spread
from lineament.methods.kpnet.network import Backbone
from lineament.methods.kpnet.scales import BINS, STRIDE
from lineament.train.task import Batch

Array = NDArray[Any]


@dataclass(frozen=True)
class Style:
    """The options of heads.

    Attributes:
        stride: Pixels of the input per cell.
        focal: The focal form of equation 4; otherwise as printed.
        spread: How far bells reach, equation 3.
        printed: Proposals as in the paper: the centre of a cell and of a bin. Otherwise the neighbours of the best cell
            and the best bin count, too (ours).
        boxes: Boxes are learned beside the landmarks (ours).
    """

    stride: int = STRIDE
    focal: bool = True
    spread: Spread = field(default_factory=Spread)
    printed: bool = False
    boxes: bool = False


class Found(NamedTuple):
    """The faces that heads detect in n views, at most f in each. Padding rows have a logit of minus infinity.

    Attributes:
        logit: (n, f) of the probability of a face.
        centre: (n, f, 2) of its square.
        side: (n, f) of its square.
        landmarks: (n, f, K, 2). All coordinates are pixels of the input.
        peaks: (n, f, K), the certainty of each landmark in [0, 1]: the largest softmax value of equation 8, or the
            like.
        box: (n, f, 4), if boxes are learned.
    """

    logit: Tensor
    centre: Tensor
    side: Tensor
    landmarks: Tensor
    peaks: Tensor
    box: Tensor | None = None

    def outputs(self) -> dict[str, Tensor]:
        """What there is, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Extraction(ABC):
    """Extraction of landmarks (table 2).

    Attributes:
        in_regions: Whether it needs the region of a face.
        stride: Pixels of the input per cell of a response map.
    """

    in_regions = True

    def __init__(self, style: Style) -> None:
        self.style, self.stride = style, style.stride

    @abstractmethod
    def head(self, backbone: Backbone, landmarks: int, extra: int = 0) -> nn.Module:
        """The layer for K landmarks, and ``extra`` more maps behind them."""

    @abstractmethod
    def targets(self, labels: Sequence[Labels], regions: Sequence[Array] | None, size: int) -> Batch:
        """The targets of canvases of ``size`` pixels, beside ``points`` and ``weights``.

        Args:
            labels: The labels of the canvases.
            regions: (f, 4) of the faces of each, or ``None`` if there are none.
            size: Side of the canvases in pixels.
        """

    @abstractmethod
    def losses(self, response: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss of response maps by name, without weights."""

    @abstractmethod
    def extract(self, response: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks (n, f, K, 2) in regions (n, f, 4), both in pixels of the input, and their peaks (n, f, K)."""


class Grouping(ABC):
    """Grouping of landmarks to faces (table 6).

    Attributes:
        compared: Whether an exported file lists the same faces as PyTorch. Export then compares them.
        settings: Settings of a file whose defaults are for regions around faces.
    """

    compared = True
    settings: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, style: Style) -> None:
        self.style = style

    @property
    def extra(self) -> dict[str, int]:
        """Numbers of further maps behind those of the landmarks, by name."""
        return {}

    @abstractmethod
    def head(self, backbone: Backbone, landmarks: int) -> nn.Module:
        """The layer for K landmarks."""

    @abstractmethod
    def regions(self, rng: np.random.Generator, faces: Sequence[Array]) -> list[Array] | None:
        """Regions (f, 4) to train extraction, from the faces (f, 4) of each canvas; ``None`` if there are none."""

    @abstractmethod
    def targets(self, labels: Sequence[Labels], size: int) -> Batch:
        """The targets of canvases of ``size`` pixels, beside ``points`` and ``weights``."""

    @abstractmethod
    def losses(self, maps: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss of a network's maps by name, without weights."""

    @abstractmethod
    def find(self, features: Tensor, maps: Mapping[str, Tensor], threshold: Tensor, extraction: Extraction) -> Found:
        """The faces from a network's features and maps, best first, with logits above ``threshold`` (n,)."""


class Proposals(NamedTuple):
    """Squares, best first, and the boxes of faces there, in pixels of the input.

    Attributes:
        logit: (n, f).
        centre: (n, f, 2).
        side: (n, f).
        box: (n, f, 4), if boxes are learned.
    """

    logit: Tensor
    centre: Tensor
    side: Tensor
    box: Tensor | None = None

    @property
    def regions(self) -> Tensor:
        """As boxes (n, f, 4)."""
        half = self.side[..., None] / 2
        return torch.cat([self.centre - half, self.centre + half], dim=-1)


class Proposing(Grouping):
    """A grouping by regions: the landmarks extracted in a region belong to one face."""

    def regions(self, rng: np.random.Generator, faces: Sequence[Array]) -> list[Array]:  # noqa: D102
        return [near_proposals(rng, boxes) for boxes in faces]

    @abstractmethod
    def propose(self, features: Tensor, maps: Mapping[str, Tensor], threshold: Tensor) -> Proposals:
        """The squares in which landmarks are extracted, best first, with logits above ``threshold`` (n,)."""

    def find(self, features: Tensor, maps: Mapping[str, Tensor], threshold: Tensor, extraction: Extraction) -> Found:
        """Extract landmarks from the proposals."""
        proposals = self.propose(features, maps, threshold)
        points, peaks = extraction.extract(maps["response"], proposals.regions)
        return Found(proposals.logit, proposals.centre, proposals.side, points, peaks, proposals.box)


def near_proposals(rng: np.random.Generator, boxes: Array, jitter: float = 0.04) -> Array:
    """Square regions around faces, slightly farther off than proposals at inference.

    Their centres are those of cells and their sides those of bins. At inference, the best cell is rarely the face's
    own, and the bin is sometimes the next one.

    Args:
        rng: Random numbers.
        boxes: (n, 4), each with a bin.
        jitter: Sigma of the centre, as a share of the side.

    Returns:
        (n, 4) in pixels of the input.
    """
    sides = box_ops.longer_side(boxes)
    middle = box_ops.centre(boxes) + rng.normal(0, jitter, (len(boxes), 2)) * sides[:, None]
    centre = (np.floor(middle / STRIDE) + 0.5) * STRIDE
    bins = np.clip(scales.encode(sides) + rng.choice([-1, 0, 0, 1], len(boxes)), 0, BINS - 1)
    half = scales.decode(bins)[:, None] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def faces_of(labels: Sequence[Labels]) -> list[Array]:
    """The boxes (f, 4) of each canvas without ignored regions."""
    return [canvas.boxes[~canvas.ignore] for canvas in labels]


def padded(rows: Sequence[Array]) -> Array:
    """Stack lists of rows (f, ...) into one array (n, f, ...) float32, padded with zeros, at least one row."""
    longest = max([1, *map(len, rows)])
    out = np.zeros((len(rows), longest, *rows[0].shape[1:]), np.float32)
    for mine, values in zip(out, rows, strict=True):
        mine[: len(values)] = values
    return out
