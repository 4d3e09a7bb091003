"""KPNet's heads by their names in a recipe: grouping of landmarks to faces (table 6) and extraction (table 2).

The paper's own are the scalemap and the soft-argmax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from lineament.data.canvases import Labels
from lineament.errors import OptionError
from lineament.methods.kpnet.heads.argmax import Argmax
from lineament.methods.kpnet.heads.base import Extraction, Found, Grouping, Proposing, Style, faces_of, padded
from lineament.methods.kpnet.heads.boxes import expect_proposals
from lineament.methods.kpnet.heads.embedding import Embedding
from lineament.methods.kpnet.heads.regression import Regression
from lineament.methods.kpnet.heads.rpn import RPN
from lineament.methods.kpnet.heads.scalemap import Scalemap
from lineament.methods.kpnet.heads.soft_argmax import SoftArgmax
from lineament.methods.kpnet.network import BACKBONES, KPNet
from lineament.methods.kpnet.scales import GRIDS
from lineament.train.task import Batch

GROUPINGS: dict[str, type[Grouping]] = {"scalemap": Scalemap, "rpn": RPN, "embedding": Embedding}
EXTRACTIONS: dict[str, type[Extraction]] = {"soft-argmax": SoftArgmax, "argmax": Argmax, "regression": Regression}


@dataclass(frozen=True)
class Heads:
    """A pair of heads.

    Attributes:
        grouping: Detects faces.
        extraction: Predicts landmarks.
    """

    grouping: Grouping
    extraction: Extraction

    @classmethod
    def of(
        cls,
        grouping: str = "scalemap",
        extraction: str = "soft-argmax",
        backbone: str = "drnet",
        **style: Any,
    ) -> Heads:
        """The heads of these names on a backbone.

        Args:
            grouping: A key of `GROUPINGS`.
            extraction: A key of `EXTRACTIONS`.
            backbone: A key of ``BACKBONES``.
            style: Fields of `Style`. The stride is the backbone's.

        Raises:
            OptionError: The heads do not exist or do not fit together.
        """
        for kind, name, there in (
            ("grouping", grouping, GROUPINGS),
            ("extraction", extraction, EXTRACTIONS),
            ("backbone", backbone, BACKBONES),
        ):
            if name not in there:
                raise OptionError(f"kpnet has no {kind} {name!r}; there are: {', '.join(there)}")
        own = Style(GRIDS[backbone].stride, **style)
        if own.boxes and grouping != "scalemap":
            raise OptionError(f"boxes are learned with the grouping 'scalemap', found {grouping!r}")
        heads = cls(GROUPINGS[grouping](own), EXTRACTIONS[extraction](own))
        if heads.extraction.in_regions and not isinstance(heads.grouping, Proposing):
            without = ", ".join(name for name, kind in EXTRACTIONS.items() if not kind.in_regions)
            raise OptionError(
                f"grouping {grouping!r} has no regions to extract from, as {extraction!r} does; it goes with: {without}"
            )
        return heads

    def targets(self, rng: np.random.Generator, labels: Sequence[Labels], size: int) -> Batch:
        """The targets of a batch of canvases of ``size`` pixels, padded to f faces, the largest number on a canvas.

        ``points`` (n, f, K, 2) in pixels of the canvas, 0 if unknown, and their ``weights`` (n, f, K); and the targets
        of both heads.
        """
        regions = self.grouping.regions(rng, faces_of(labels))
        return {
            "points": padded([np.nan_to_num(canvas.landmarks[~canvas.ignore]) for canvas in labels]),
            "weights": padded([canvas.weights[~canvas.ignore] for canvas in labels]),
            **self.grouping.targets(labels, size),
            **self.extraction.targets(labels, regions, size),
        }

    def losses(self, maps: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parts of both heads' losses by name, without weights."""
        return self.grouping.losses(maps, batch) | self.extraction.losses(maps["response"], batch)

    def find(self, features: Tensor, maps: Mapping[str, Tensor], threshold: Tensor) -> Found:
        """The faces from a network's features and maps, best first, with logits above ``threshold`` (n,)."""
        return self.grouping.find(features, maps, threshold, self.extraction)


def build(landmarks: int = 5, backbone: str = "drnet", heads: Heads | None = None) -> KPNet:
    """An untrained network.

    Args:
        landmarks: K.
        backbone: A key of ``BACKBONES``.
        heads: Heads on that backbone. ``None``: the paper's.
    """
    heads = heads or Heads.of(backbone=backbone)
    below = BACKBONES[backbone]()
    extra = heads.grouping.extra
    scale = heads.grouping.head(below, landmarks)
    response = heads.extraction.head(below, landmarks, sum(extra.values()))
    if "box" in extra:
        expect_proposals(response)
    return KPNet(below, scale, response, extra=extra)
