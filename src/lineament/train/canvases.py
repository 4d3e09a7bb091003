"""Training on canvases: images of a fixed size with their faces, for methods that process whole images."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lineament.data.augment import Cover, Light, Looks, Occlusion, Quality, covers, distort, looks
from lineament.data.cache import Photos
from lineament.data.canvases import Composer, Composition, Cropping, LabelRules, Labels, Layout
from lineament.data.device import DeviceComposer, plan
from lineament.data.sample import NOT_LABELLED, Sample
from lineament.errors import DataError
from lineament.schemas import convert, is_convertible, least_of_parts, schema
from lineament.train.recipe import Recipe, to_toml
from lineament.train.samples import check_learnable, read_split
from lineament.train.task import WHOLE, Batch, Completion, Part, Task, generator, tensors

Array = NDArray[Any]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CanvasRecipe(Recipe):
    """Settings of a training on canvases. ``false`` switches off a table of data augmentation.

    Attributes:
        landmarks: Names of the landmark schemas to learn.
        canvas: Side of a canvas in pixels.
        longest: Longer edge in pixels to which photos are scaled down in the cache.
        held_out: Number of canvases of validation photos on which the losses are measured.
        composition: Geometry of the canvases. Off: whole photos, neither moved nor mirrored.
        cropping: Geometry of canvases that are crops of one photo. It replaces the composition. Off by default.
        light: Changes of light.
        quality: Loss of quality.
        occlusion: Occlusion of faces.
        labels: Which faces count, and the weights of their landmarks.
    """

    landmarks: tuple[str, ...] = ("5",)
    canvas: int = 256
    longest: int = 800
    held_out: int = 96
    composition: Composition | None = Composition()
    cropping: Cropping | None = None
    light: Light | None = Light()
    quality: Quality | None = Quality()
    occlusion: Occlusion | None = Occlusion()
    labels: LabelRules = LabelRules()

    @property
    def geometry(self) -> Composition | Cropping | None:
        """The geometry of the canvases; ``None`` for whole photos."""
        return self.cropping or self.composition


class CanvasTask(Task):
    """Canvases and their labels. A method adds the targets and the losses.

    Attributes:
        recipe: The settings.
        composer: Makes the canvases of the training.
        held_out: The canvases of validation.
    """

    def __init__(
        self, network: nn.Module, recipe: CanvasRecipe, composer: Composer, held_out: Composer, data: dict[str, Any]
    ) -> None:
        self.network, self.recipe, self.composer, self.held_out, self.data = network, recipe, composer, held_out, data
        self._draws = True
        self._outside = torch.zeros(())  # faces that were too small or too large since the last validation

    @abstractmethod
    def targets(self, rng: np.random.Generator, canvases: Sequence[Labels]) -> Batch:
        """The targets of canvases with these labels. All arrays begin with the canvas or name it."""

    def on(self, device: torch.device) -> Completion:
        """A CUDA device draws the canvases itself, from photos in its memory."""
        composer = None
        if device.type == "cuda":  # the drawing operations were tested on no other device
            composer = DeviceComposer(self.composer.photos, device, self.recipe.canvas)
            self._draws = False

        def complete(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            self._outside = self._outside.to(batch["outside"].device) + batch["outside"].sum()
            return batch | {"pixels": composer.draw(batch)} if composer else batch

        return complete

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        """Composed, partly covered and augmented canvases, or the plan from which a device draws them, with their
        targets.

        A canvas is a function of the seed, the step and its position in the batch, whichever process draws it.
        """
        r = self.recipe
        drawn = [self._drawn(generator(r.seed, step, i)) for i in part.of(r.batch)]
        layouts, things, seen = zip(*drawn, strict=True)
        labels = [layout.labels for layout in layouts]
        batch = self.targets(generator(r.seed, step, r.batch + part.index), labels)
        batch["outside"] = np.array([canvas.outside for canvas in labels], np.float32)
        if not self._draws:
            return batch | plan(layouts, things, Looks.joined(seen))
        canvases = np.stack([self.composer.draw(layout) for layout in layouts])
        for canvas, covering in zip(canvases, things, strict=True):
            for thing in covering:
                thing.onto(canvas)
        return batch | {"pixels": distort(canvases, Looks.joined(seen))}

    def _drawn(self, rng: np.random.Generator) -> tuple[Layout, list[Cover], Looks]:
        """The random choices for one canvas."""
        r = self.recipe
        layout = self.composer.layout(rng, r.canvas)
        things = covers(rng, layout.labels, layout.size, r.occlusion) if r.occlusion else []
        return layout, things, looks(rng, 1, r.light, r.quality)

    def known(self, canvas: Labels, name: str) -> tuple[Array, Array, Array]:
        """Boxes, landmarks and weights of a canvas's faces that have landmarks of a schema, or of a finer one."""
        wanted = schema(name)
        parts = [(np.zeros((0, 4)), np.zeros((0, len(wanted), 2)), np.zeros((0, len(wanted))))]
        for number, has in enumerate(self.composer.schemas):
            rows = (canvas.schema == number) & ~canvas.ignore & (canvas.weights > 0).any(axis=1)
            points, weights = canvas.landmarks[rows][:, : len(has)], canvas.weights[rows][:, : len(has)]
            if is_convertible(has, wanted):
                reduced = convert(points, has, wanted), least_of_parts(weights, has, wanted)
                parts.append((canvas.boxes[rows], *reduced))
        boxes, points, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
        return boxes, points, weights

    def validate(self, network: nn.Module) -> dict[str, float]:
        """The losses on held-out canvases, the negative sum first, and the number of faces that training left out.

        The latter, ``outside``, are faces since the last validation that were too small or too large to be learned.
        """
        device = next(network.parameters()).device
        sums: dict[str, float] = {}
        for arrays in self._held_out:
            batch = tensors(arrays, device)
            for name, value in self.losses(self.forward(network, batch), batch).items():
                sums[name] = sums.get(name, 0.0) + float(value) / len(self._held_out)
        outside, self._outside = float(self._outside), torch.zeros(())
        return {"negated_loss": -sum(sums.values()), **sums, "outside": outside}

    @cached_property
    def _held_out(self) -> list[Batch]:
        """The canvases of validation with their targets, the same at every validation."""
        r = self.recipe
        canvases = [self.held_out.canvas(generator(r.seed, i), r.canvas) for i in range(r.held_out)]
        parts = [canvases[i : i + r.batch] for i in range(0, len(canvases), r.batch)]
        return [
            self.targets(generator(0, i), part) | {"pixels": np.stack([canvas.pixels for canvas in part])}
            for i, part in enumerate(parts)
        ]


def composers(
    stage: str, data: Path, recipe: CanvasRecipe, out: Path, *, landmarks: bool = True
) -> tuple[Composer, Composer, dict[str, Any]]:
    """The composers of training and validation. Photos are decoded into the folder of the run if they are not there
    yet.

    Args:
        stage: Name of the stage, for messages.
        data: Folder of the recipe's index files.
        recipe: The settings.
        out: Folder of the run.
        landmarks: Whether the method needs faces with landmarks.

    Returns:
        The two composers, and a description of the data for the metadata of the weight file.

    Raises:
        DataError: There are no faces to learn from, or no landmarks.
    """
    made, about = [], {}
    for split in ("train", "val"):
        found = read_split(data, recipe, split, recipe.landmarks)
        check_learnable(found.samples, recipe, split, stage, landmarks=landmarks)
        if split == "train":
            _check_schemas(found.samples, recipe, stage)
        photos = Photos.build(found.samples, out / "photos" / split, recipe.longest)
        made.append(Composer(photos, recipe.geometry, recipe.labels))
        about[split] = found.to_dict()
        _log.info("%s: %d photos, %s", split, len(photos), found.lists)
    return made[0], made[1], about


def _check_schemas(samples: Sequence[Sample], recipe: CanvasRecipe, stage: str) -> None:
    """Raise `DataError` if a schema is to be learned of which no face has a landmark."""
    there = {s.schema.name: s.schema for s in samples if (s.visibility[s.learnable] > NOT_LABELLED).any()}
    for name in recipe.landmarks if there else ():
        if not any(is_convertible(has, schema(name)) for has in there.values()):
            raise DataError(
                f"the train data of {stage} ({', '.join(recipe.train)}) have no face with landmarks of schema "
                f"{name!r}; name a file that has, or learn others: --set 'landmarks={to_toml(sorted(there))}'"
            )
