"""Training on crops: sets of labelled crops on disk, drawn, mirrored and varied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lineament.data.augment import Coarse, Light, Quality, coarsened, coarseness, distort, looks
from lineament.data.crops import CropSet
from lineament.schemas import schema
from lineament.train.recipe import Recipe
from lineament.train.task import WHOLE, Batch, Part, Task, generator, tensors

Array = NDArray[Any]
VALIDATED = 40_000  # held-out crops at most, drawn evenly
AT_ONCE = 4096  # of them in one pass


@dataclass(frozen=True)
class CropRecipe(Recipe):
    """Settings of a training on crops. Every table of augmentation can be switched off by ``false``.

    Attributes:
        landmarks: name of the landmark schema.
        mirror: probability of a mirrored crop.
        light, quality, coarse: how pixels change.
    """

    landmarks: tuple[str, ...] = ("5",)
    mirror: float = 0.5
    light: Light | None = Light()
    quality: Quality | None = None
    coarse: Coarse | None = None


class CropTask(Task):
    """Crops and their labels; a method adds the losses, and says how crops are drawn and labels mirrored.

    Attributes:
        recipe: the settings. crops: of the training. held_out: of the validation.
    """

    def __init__(
        self, network: nn.Module, recipe: CropRecipe, crops: CropSet, held_out: CropSet, data: dict[str, Any]
    ) -> None:
        self.network, self.recipe, self.crops, self.held_out, self.data = network, recipe, crops, held_out, data

    def draw(self, rng: np.random.Generator) -> Array:
        """The rows (batch,) of a batch: by default all crops alike."""
        return rng.integers(len(self.crops), size=self.recipe.batch)

    def mirrored(self, labels: Batch) -> Batch:
        """The labels of mirrored crops: by default of ``points`` (n, k, 2), as shares of the crop's side."""
        order = list(schema(self.recipe.landmarks[0]).mirror)
        return labels | {"points": labels["points"][:, order] * [-1, 1] + [1, 0]}

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        """Crops with their labels, drawn and varied by that step's random numbers."""
        r, rng = self.recipe, generator(self.recipe.seed, step)
        mine = np.array(part.of(r.batch))
        rows = self.draw(rng)[mine]
        flip = (rng.random(r.batch) < r.mirror)[mine]
        shares = coarseness(rng, r.batch, r.coarse)[mine]
        seen = looks(rng, r.batch, r.light, r.quality)[mine]
        pixels = self.crops.pixels[rows]
        pixels[flip] = pixels[flip][:, :, ::-1]
        pixels = coarsened(pixels, shares) if r.coarse else pixels
        labels = {name: values[rows] for name, values in self.crops.labels.items()}
        for name, values in self.mirrored({name: values[flip] for name, values in labels.items()}).items():
            labels[name][flip] = values
        return labels | {"pixels": distort(pixels, seen) if r.light or r.quality else pixels}

    def validate(self, network: nn.Module) -> dict[str, float]:
        """The figures of held-out crops, as they are."""
        return self.figures(*self.looked_at(network))

    def looked_at(self, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What a network says of held-out crops, and their labels."""
        device = next(network.parameters()).device
        rows = np.arange(0, len(self.held_out), max(len(self.held_out) // VALIDATED, 1))
        outputs: list[dict[str, Tensor]] = []
        for start in range(0, len(rows), AT_ONCE):
            pixels = {"pixels": self.held_out.pixels[rows[start : start + AT_ONCE]]}
            outputs.append(self.forward(network, tensors(pixels, device)))
        labels = {name: values[rows] for name, values in self.held_out.labels.items()}
        return {n: torch.cat([o[n] for o in outputs]) for n in outputs[0]}, tensors(labels, device)

    def figures(self, outputs: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, float]:
        """Figures of validation by name, the first the larger the better: by default the losses, negated in sum."""
        parts = {name: float(value) for name, value in self.losses(outputs, labels).items()}
        return {"negated_loss": -sum(parts.values()), **parts}
