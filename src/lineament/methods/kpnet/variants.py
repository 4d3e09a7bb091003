"""The paper's variants of KPNet by their names: other extraction (table 2), other grouping (table 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from lineament.errors import OptionError
from lineament.export import Entry
from lineament.methods.kpnet import extractions, rpn
from lineament.methods.kpnet.embedding import EmbeddingExtractor
from lineament.methods.kpnet.entries import Extractor, entries
from lineament.methods.kpnet.extract import soft_argmax
from lineament.methods.kpnet.network import BACKBONES, KPNet, expect_rarely
from lineament.schemas import Schema

EXTRACTIONS = ("soft-argmax", "argmax", "regression")
GROUPINGS = ("scalemap", "rpn", "embedding")


def check(extraction: str, grouping: str, backbone: str = "drnet") -> None:
    """Raise `OptionError` unless there is such a variant."""
    known = (
        ("extraction", extraction, EXTRACTIONS),
        ("grouping", grouping, GROUPINGS),
        ("backbone", backbone, BACKBONES),
    )
    for name, value, there in known:
        if value not in there:
            raise OptionError(f"kpnet has no {name} {value!r}; there are: {', '.join(there)}")
    if grouping == "embedding" and extraction != "soft-argmax":
        raise OptionError(f"grouping 'embedding' has no regions to extract from: leave out extraction {extraction!r}")
    if backbone == "lite" and (extraction, grouping) != ("soft-argmax", "scalemap"):
        raise OptionError(f"the variants are the paper's, of its backbones: not of backbone {backbone!r}")


def build(landmarks: int, backbone: str, extraction: str, grouping: str) -> KPNet:
    """A new network. Its map ``scale`` tells faces, by bins, anchors or tags; its map ``response`` tells landmarks.

    Args:
        landmarks: K. backbone: "drnet", "hourglass" or "lite". extraction, grouping: see `check`.
    """
    network = KPNet(2 * landmarks if extraction == "regression" else landmarks, backbone)
    if grouping == "rpn":
        network.scale = rpn.AnchorHead(network.backbone.channels, network.backbone.stride)
    if grouping == "embedding":
        network.scale = network.backbone.head(landmarks)
    if grouping == "embedding" or extraction == "argmax":
        expect_rarely(network.response, 1e-2)
    return network


def exported(network: nn.Module, landmarks: Schema, extraction: str, grouping: str) -> dict[str, Entry]:
    """What the file of such a network holds, as of `lineament.methods.kpnet.entries.entries`.

    Where nothing is like a face, as in the picture that exports are checked on, which peaks an embedding groups may
    turn on the last digit, and anchors of one place are told apart by theirs: only scalemaps go through that check.
    """
    extractor = EmbeddingExtractor if grouping == "embedding" else partial(RegionExtractor, extraction, grouping)
    made = entries(network, landmarks=landmarks, extractor=extractor)
    return {name: replace(entry, check=grouping == "scalemap") for name, entry in made.items()}


class RegionExtractor(Extractor):
    """An extractor of whatever landmarks in whatever regions."""

    def __init__(self, extraction: str, grouping: str, network: KPNet, counting: Sequence[int]) -> None:
        super().__init__(network, counting)
        self.extraction, self.grouping = extraction, grouping

    def propose(self, features: Tensor, maps: dict[str, Tensor], least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squares of the scalemap or of anchors."""
        return rpn.propose(maps["scale"], least) if self.grouping == "rpn" else super().propose(features, maps, least)

    def extract(self, response: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks and peaks; a regression has no response map, and so equation 8 the probability alone."""
        if self.extraction == "regression":
            return extractions.regress(response, regions), regions.new_zeros(*regions.shape[:2], len(self.counting))
        if self.extraction == "argmax":
            points, largest = extractions.argmax(response, regions)
            surprise = soft_argmax(response, regions).log_total - largest
            return points, torch.exp(-surprise[..., self.counting].clamp(min=0))
        return super().extract(response, regions)
