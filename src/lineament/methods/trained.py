"""What trainings of several methods have in common: a backbone with its settings, and the weight file of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lineament.errors import OptionError
from lineament.export import Entry, describe, export
from lineament.methods import backbones
from lineament.methods.backbones.base import Backbone, freeze
from lineament.train.canvases import CanvasRecipe
from lineament.train.checkpoint import phases_in, phases_of
from lineament.train.run import RECIPE
from lineament.weights import register

NORMS = ("group", "batch")


@dataclass(frozen=True)
class BackboneRecipe(CanvasRecipe):
    """Settings of a training on canvases whose network has a general backbone.

    Attributes:
        backbone: Name of the backbone, see `lineament.methods.backbones`.
        pretrained: Its initial weights, see `lineament.methods.backbones.build`.
        frozen: Number of its first convolutions that are not trained. Its normalisation never is.
        norm: Normalisation of the other layers, "group" or "batch", see
            `lineament.methods.normalisation.normalisation`.
    """

    backbone: str = "efficientnet-lite0"
    pretrained: str = "imagenet"
    frozen: int = 2
    norm: str = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in NORMS:
            raise OptionError(f"norm is {' or '.join(NORMS)}, found {self.norm!r}")

    def build_backbone(self, pretrained: str | None = None) -> Backbone:
        """The backbone, with its first convolutions frozen. The seed of random weights is that of the recipe.

        Args:
            pretrained: Weights that replace the recipe's. Empty: random weights.

        Raises:
            OptionError: There is no such backbone, or no package has its weights.
            WeightsError: The weights are of another network.
            MissingExtraError: The extra ``pretrained`` is not installed.
        """
        torch.manual_seed(self.seed)
        backbone = backbones.build(self.backbone, self.pretrained if pretrained is None else pretrained)
        freeze(backbone, self.frozen)
        return backbone


def write_trained(
    made: Mapping[str, Entry],
    config: Any,
    file: Path,
    *,
    run: Path,
    method: str,
    stages: Sequence[str],
    untrained: Mapping[str, bytes] | None = None,
    scores: Mapping[str, float] | None = None,
    half: bool = False,
) -> Path:
    """Write the networks of a run as a weight file, and add it to the manifest of its folder.

    Args:
        made: The networks by name.
        config: The settings of the method, a dataclass.
        file: The ONNX file to write.
        run: Folder of the run.
        method: Name of the method.
        stages: Names of the stages.
        untrained: For stages that were not trained in this run, the weight files that they are from.
        scores: Scores by name to store in the file.
        half: Whether weights are stored as 16-bit floats.
    """
    training = {stage: phases_of(run / stage) for stage in stages}
    training |= {stage: phases_in(content, stage) for stage, content in (untrained or {}).items()}
    export(made, file, metadata=describe(method, config, run / RECIPE, scores, training=training), half=half)
    register(file)
    return file
