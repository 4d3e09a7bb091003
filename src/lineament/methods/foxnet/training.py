"""Training of FoxNet on scenes and photos: landmark maps, embeddings and sizes of faces (Wu et al. 2019)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lineament import conventions
from lineament.data.canvases import Composer, Labels
from lineament.data.sample import Sample
from lineament.data.scenes import Arrangement, SceneComposer
from lineament.errors import OptionError
from lineament.files import write_whole
from lineament.methods.adopt import begin_with, read_tensors
from lineament.methods.foxnet import losses, targets
from lineament.methods.foxnet.decode import Config, FoxNetDecoder
from lineament.methods.foxnet.export import entries
from lineament.methods.foxnet.fitting import CANVASES, fitted
from lineament.methods.foxnet.losses import MARGINS, Margins
from lineament.methods.foxnet.network import FINEST, FoxNet
from lineament.methods.foxnet.quantise import quantise
from lineament.methods.quantisation import write_bytes
from lineament.methods.trained import BackboneRecipe, write_trained
from lineament.runtime import load_graph
from lineament.schemas import FIVE, schema
from lineament.train.canvases import CanvasTask, composers
from lineament.train.checkpoint import initial_weights
from lineament.train.precision import in_float32
from lineament.train.recipe import read_phases, settings_of
from lineament.train.run import RECIPE
from lineament.train.task import Batch, Completion, generator
from lineament.weights import parse_metadata

Array = NDArray[Any]
METHOD = "foxnet"
STAGES = (METHOD,)
INITIAL = ("foxnet", "maskface")  # methods whose files can initialise a training; those of MaskFace, the backbone
FITTED = "fitted.json"


@dataclass(frozen=True)
class FoxNetRecipe(BackboneRecipe):
    """Settings beside those of every training with a backbone.

    Attributes:
        width: As in ``FoxNet``.
        embedding: As in ``FoxNet``.
        stages: As in ``FoxNet``.
        levels: As in ``FoxNet``.
        stride: As in ``FoxNet``.
        coordinates: As in ``FoxNet``.
        scenes: The arrangement of faces in scenes, and the share of scenes among the canvases. Off: photos only.
        distance: Distance of embeddings, "cosine" or "euclidean".
        margins: Name of the margins, "working" or "printed", see `losses.MARGINS`.
        inner: delta_v. 0: that of ``margins``.
        outer: delta_d. 0: that of ``margins``.
        radius: R of equation 4.
        alpha: Weight of L_var in equation 5.
        beta: Weight of L_dist in equation 5.
        gamma: Weight of L_reg in equation 5.
        heat_weight: Weight of the loss of landmark maps. The paper does not give it.
        size_weight: Weight of the loss of sizes.
    """

    width: int = 96
    embedding: int = 8
    stages: int = 3
    levels: int = 5
    stride: int = FINEST
    coordinates: bool = True
    scenes: Arrangement | None = Arrangement()
    distance: str = "cosine"
    margins: str = "working"
    inner: float = 0.0
    outer: float = 0.0
    radius: float = 1.0
    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 0.001
    heat_weight: float = 1.0
    size_weight: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance not in MARGINS or self.margins not in MARGINS[self.distance]:
            raise OptionError(
                f"distance is one of {', '.join(MARGINS)} and margins one of {', '.join(MARGINS['cosine'])}, found "
                f"{self.distance!r} and {self.margins!r}"
            )
        first = {FINEST: 0, 2 * FINEST: 1}.get(self.stride)
        if first is None or not 1 <= self.stages <= min(self.levels, 4 - first):
            raise OptionError(
                "stride is 4 or 8; stages lies between 1 and levels, and is at most 4 at stride 4 and 3 at stride 8; "
                f"found stride {self.stride}, stages {self.stages}, levels {self.levels}"
            )
        if self.canvas % self.multiple:
            raise OptionError(
                f"canvas is a multiple of {self.multiple} pixels for an hourglass of {self.levels} levels at stride "
                f"{self.stride}, found {self.canvas}"
            )

    @property
    def multiple(self) -> int:
        """The sides of an input are multiples of this, in pixels."""
        return self.stride * 2 ** (self.levels - 1)

    @property
    def wanted(self) -> Margins:
        """The margins of equations 2 and 3."""
        named = MARGINS[self.distance][self.margins]
        return Margins(self.inner or named.inner, self.outer or named.outer)


class FoxNetTask(CanvasTask):
    """Canvases and their targets."""

    recipe: FoxNetRecipe
    network: FoxNet

    def adopt(self, content: bytes) -> None:
        """Start from the weights of a file where they fit."""
        begin_with(self, read_tensors(content, INITIAL, {".network.": ""}))

    def on(self, device: torch.device) -> Completion:
        """Processors draw the canvases if there are scenes, which a device cannot draw."""
        return super().on(torch.device("cpu")) if self.recipe.scenes else super().on(device)

    def targets(self, rng: np.random.Generator, canvases: Sequence[Labels]) -> Batch:
        """The face in each cell, the sizes of faces, and the landmark maps of each schema."""
        r = self.recipe
        most = max(1, *(len(canvas.boxes) for canvas in canvases))
        owner = [targets.owner(canvas, self.composer.schemas, r.canvas, r.stride) for canvas in canvases]
        unit = self.network.unit
        side = [np.pad(targets.log_size(c.boxes, unit), (0, most - len(c.boxes))) for c in canvases]
        batch: Batch = {"owner": np.stack(owner).astype(np.int64), "side": np.stack(side)}
        for name in r.landmarks:
            maps = [self._bells(canvas, name) for canvas in canvases]
            batch[f"bell_{name}"] = np.stack([bell for bell, _ in maps])
            batch[f"weight_{name}"] = np.stack([weight for _, weight in maps])
        return batch

    def _bells(self, canvas: Labels, name: str) -> tuple[Array, Array]:
        """The landmark maps of one schema and their weights, 0 on faces without its landmarks."""
        boxes, points, weights = self.known(canvas, name)
        unknown = [box for box in canvas.boxes if not (boxes == box).all(axis=1).any()]
        r = self.recipe
        return targets.bells(points, weights, boxes, np.array(unknown).reshape(-1, 4), r.canvas, r.stride)

    @in_float32
    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms of equation 5, and the weighted losses of sizes and of each schema's landmark maps."""
        r = self.recipe
        fox = losses.discriminative(
            outputs["embedding"], batch["owner"], distance=r.distance, margins=r.wanted, radius=r.radius
        )
        parts = {"pull": r.alpha * fox["pull"], "push": r.beta * fox["push"], "norm": r.gamma * fox["norm"]}
        parts["size"] = r.size_weight * losses.size(outputs["size"], batch["owner"], batch["side"])
        for name in r.landmarks:
            bell, weight = batch[f"bell_{name}"].float(), batch[f"weight_{name}"].float()
            parts[f"heat_{name}"] = r.heat_weight * losses.heat(outputs[f"heat_{name}"], bell, weight)
        return parts


def phases(recipe: Path, stage: str = METHOD) -> list[FoxNetRecipe]:
    """The settings of every phase of a recipe file."""
    return read_phases(recipe, FoxNetRecipe, stage)


def read(recipe: Path, stage: str = METHOD) -> FoxNetRecipe:
    """The settings of the last phase."""
    return phases(recipe, stage)[-1]


def prepare(stage: str, data: Path, recipe: FoxNetRecipe, out: Path) -> FoxNetTask:
    """The task, ready to train. Photos are decoded first if they are not yet.

    Raises:
        DataError: There are no faces to learn from, or none for scenes, or no backgrounds for them.
        OptionError: A scene has no room for the largest number of faces.
    """
    composer, held_out, about = composers(stage, data, recipe, out)
    if recipe.scenes:
        recipe.scenes.check_room(recipe.canvas)
        composer = SceneComposer(composer.photos, recipe.composition, recipe.labels, recipe.scenes)
    return FoxNetTask(build(recipe), recipe, composer, held_out, about)


def finish(stage: str, task: FoxNetTask, out: Path) -> None:
    """Fit boxes to training canvases without scenes, and scores and mean shapes to validation photos."""
    (out / FITTED).unlink(missing_ok=True)  # an earlier one belongs to weights of fewer steps
    r, photos = task.recipe, task.held_out.photos
    composer = Composer(task.composer.photos, r.composition, r.labels)
    canvases = (composer.canvas(generator(r.seed, i), r.canvas) for i in range(CANVASES))
    with TemporaryDirectory() as folder:
        graph = load_graph(export_run(out, Path(folder) / "bare.onnx").read_bytes())
        config = Config(**parse_metadata(graph.metadata)[1])
        fits = fitted(graph, config, photos=photos, canvases=canvases, canvas=r.canvas)
    fits["shapes"] = {name: shape for name in r.landmarks if (shape := mean_shape(photos.samples, name))}
    write_whole(out / FITTED, json.dumps(fits))


def mean_shape(samples: Sequence[Sample], name: str) -> list[list[float]] | None:
    """The mean shape (k, 2) of faces with all landmarks of a schema; without such faces a built-in one or ``None``."""
    rows = [(sample, (sample.visibility > 0).all(axis=1) & ~sample.ignore) for sample in samples]
    rows = [(sample, known) for sample, known in rows if sample.schema == schema(name) and known.any()]
    if not rows:
        return conventions.convention("wider").shape.tolist() if schema(name) == FIVE else None
    points, boxes = (np.concatenate([getattr(s, part)[known] for s, known in rows]) for part in ("landmarks", "boxes"))
    return list(conventions.fit(points, boxes, schema=schema(name)).shape.round(4).tolist())


def export_run(out: Path, file: Path, scores: Mapping[str, float] | None = None) -> Path:
    """Export the best weights of a run as an ONNX file. The scores of a finished run are calibrated.

    Args:
        out: Folder of the run.
        file: The ONNX file to write.
        scores: Scores by name to store in the file.

    Raises:
        OptionError: Nothing is trained there.
    """
    recipe = read(out / RECIPE)
    network = build(recipe, pretrained="")
    network.load_state_dict(initial_weights(out / METHOD))
    fits = json.loads((out / FITTED).read_text()) if (out / FITTED).exists() else {}
    own: dict[str, Any] = {"landmarks": recipe.landmarks[0], "schemas": list(recipe.landmarks)}
    own |= {"distance": recipe.distance, "inner": recipe.wanted.inner, "multiple": network.multiple}
    config = settings_of(Config, recipe, **own, **fits)
    made = entries(network)
    return write_trained(made, config, file, run=out, method=METHOD, stages=STAGES, scores=scores, half=True)


def export_bytes(
    content: bytes, images: Iterable[Array], file: Path, scores: Mapping[str, float] | None = None
) -> Path:
    """Quantise the networks of a file to 8-bit integers (see `quantise`). Its settings and calibration do not change.

    Args:
        content: A FoxNet file that is not quantised.
        images: (h, w, 3) uint8 RGB, which set the value ranges: a few dozen, with faces of all sizes.
        file: The ONNX file to write.
        scores: Scores by name to store in the file.

    Raises:
        OptionError: The file is already quantised.
    """
    graph = load_graph(content)
    decoder = FoxNetDecoder(graph, Config(**parse_metadata(graph.metadata)[1]))
    views = (view.pixels for image in images for view in decoder.views(0, image))
    return write_bytes(quantise(content, views), file, graph.metadata, scores or {})


def build(recipe: FoxNetRecipe, pretrained: str | None = None) -> FoxNet:
    """The network of a recipe. Only its backbone has pretrained weights.

    Args:
        recipe: The settings.
        pretrained: Weights of the backbone that replace the recipe's. Empty: random weights.

    Raises:
        OptionError: There is no such backbone, or no package has its weights.
        WeightsError: The weights are of another network.
        MissingExtraError: The extra ``pretrained`` is not installed.
    """
    return FoxNet(
        recipe.build_backbone(pretrained),
        {name: len(schema(name)) for name in recipe.landmarks},
        width=recipe.width,
        embedding=recipe.embedding,
        stages=recipe.stages,
        levels=recipe.levels,
        stride=recipe.stride,
        coordinates=recipe.coordinates,
        norm=recipe.norm,
    )
