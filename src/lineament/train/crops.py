"""Training on crops: sets of labelled crops on disk, drawn, mirrored and augmented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lineament.data.augment import Coarse, Light, Quality, coarsened, coarseness, distort, looks
from lineament.data.crops import CropSet
from lineament.data.subset import evenly_spaced
from lineament.schemas import schema
from lineament.train.recipe import Recipe
from lineament.train.task import WHOLE, Batch, Part, Task, generator, tensors

Array = NDArray[Any]
VALIDATED = 40_000  # largest number of held-out crops, evenly spaced
AT_ONCE = 4096  # of them in one pass


@dataclass(frozen=True)
class CropRecipe(Recipe):
    """Settings of a training on crops. ``false`` switches off a table of data augmentation.

    Attributes:
        landmarks: Name of the landmark schema.
        mirror: Probability of a mirrored crop.
        light: Changes of light.
        quality: Loss of quality.
        coarse: Enlargement from fewer pixels.
    """

    landmarks: tuple[str, ...] = ("5",)
    mirror: float = 0.5
    light: Light | None = Light()
    quality: Quality | None = None
    coarse: Coarse | None = None


class CropTask(Task):
    """Crops and their labels. A method adds the losses, the drawing of crops and the mirroring of labels.

    Attributes:
        recipe: The settings.
        crops: The crops of the training.
        held_out: The crops of validation.
    """

    def __init__(
        self, network: nn.Module, recipe: CropRecipe, crops: CropSet, held_out: CropSet, data: dict[str, Any]
    ) -> None:
        self.network, self.recipe, self.crops, self.held_out, self.data = network, recipe, crops, held_out, data

    def draw(self, rng: np.random.Generator) -> Array:
        """The rows (batch,) of a batch. By default, all crops have the same probability."""
        return rng.integers(len(self.crops), size=self.recipe.batch)

    def mirrored(self, labels: Batch) -> Batch:
        """The labels of mirrored crops. By default ``points`` (n, k, 2), as shares of the crop's side."""
        order = list(schema(self.recipe.landmarks[0]).mirror)
        return labels | {"points": labels["points"][:, order] * [-1, 1] + [1, 0]}

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        """Crops with their labels, drawn and augmented by the random numbers of the step."""
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
        """The scores on held-out crops, not augmented."""
        return self.figures(*self.looked_at(network))

    def looked_at(self, network: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The outputs of a network for held-out crops, and their labels."""
        device = next(network.parameters()).device
        rows = np.array(evenly_spaced(range(len(self.held_out)), VALIDATED))
        outputs: list[dict[str, Tensor]] = []
        for start in range(0, len(rows), AT_ONCE):
            pixels = {"pixels": self.held_out.pixels[rows[start : start + AT_ONCE]]}
            outputs.append(self.forward(network, tensors(pixels, device)))
        labels = {name: values[rows] for name, values in self.held_out.labels.items()}
        return {n: torch.cat([o[n] for o in outputs]) for n in outputs[0]}, tensors(labels, device)

    def figures(self, outputs: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, float]:
        """Validation scores by name. For the first, larger is better. By default the negative sum of the losses."""
        parts = {name: float(value) for name, value in self.losses(outputs, labels).items()}
        return {"negated_loss": -sum(parts.values()), **parts}
