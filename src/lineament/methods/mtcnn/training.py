"""Training MTCNN: three networks, one after the other, each on what the ones before it let through (section II.C)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lineament import boxes as box_ops
from lineament.data.augment import turn
from lineament.data.readers.coco import read_coco
from lineament.data.readers.folder import read_faceless
from lineament.data.sample import Sample
from lineament.errors import DataError, OptionError
from lineament.export import describe, export
from lineament.images import read_image
from lineament.methods.mtcnn import targets
from lineament.methods.mtcnn.decode import MTCNN, Config, Stage
from lineament.methods.mtcnn.entries import entries
from lineament.methods.mtcnn.network import ONet, PNet, RNet
from lineament.methods.mtcnn.pyramid import Pyramid
from lineament.methods.mtcnn.targets import CropSet, CropSetWriter, Kind, Windows
from lineament.runtime import load_graph
from lineament.schemas import schema
from lineament.train.checkpoint import best_weights
from lineament.train.loop import Batch, Report, Task, generator, to_input, train
from lineament.train.recipe import Recipe, copy_recipe, read_recipe
from lineament.weights import register

Array = NDArray[Any]
STAGES: tuple[Stage, ...] = get_args(Stage)
NETWORKS: dict[Stage, Callable[[int], PNet | RNet | ONet]] = {"pnet": PNet, "rnet": RNet, "onet": ONet}
FILE, RECIPE = "mtcnn.onnx", "recipe.toml"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageRecipe(Recipe):
    """A stage's settings beside those of every training.

    Attributes:
        landmarks, codec: as in the cascade's ``Config``.
        hardest: share of hard samples in the classification loss; 1 turns hard mining off.
        box_weight, landmark_weight: the paper's alpha; 0 leaves the task out.
        jitter: windows tried around every face; positives, parts and landmark samples come from them.
        near, anywhere: windows that mostly miss, for every face and for every photo (P-Net only).
        proposals: negatives kept of a photo's proposals, the most face-like ones (R- and O-Net).
        pnet_threshold, rnet_threshold, min_face: how the proposals to learn from are made: low, so that they are hard.
        turns: landmark photos are also seen turned by so many random angles ...
        turn_by: ... of up to so many degrees.
        coarse: share of the crops that look enlarged from fewer pixels.
    """

    landmarks: str = "5"
    codec: str = "corner"
    hardest: float = 0.7
    box_weight: float = 0.5
    landmark_weight: float = 0.5
    jitter: int = 24
    near: int = 6
    anywhere: int = 60
    proposals: int = 150
    pnet_threshold: float = 0.4
    rnet_threshold: float = 0.3
    min_face: float = 12
    turns: int = 0
    turn_by: float = 40
    coarse: float = 0.3


class StageTask(Task):
    """One of the three networks and its crops."""

    def __init__(self, network: nn.Module, recipe: StageRecipe, crops: CropSet, held_out: CropSet) -> None:
        self.network, self.recipe, self.crops = network, recipe, crops
        self._mirror = schema(recipe.landmarks).mirror
        rows = np.arange(0, len(held_out.kind), max(len(held_out.kind) // 40_000, 1))
        self._held_out = {
            "pixels": np.ascontiguousarray(held_out.pixels[rows]),
            "kind": held_out.kind[rows].astype(np.int64),
            "box": held_out.box[rows],
            "points": held_out.points[rows].reshape(len(rows), -1),
        }

    def batch(self, step: int) -> Batch:
        """Crops at the paper's ratio, drawn and varied by that step's random numbers."""
        r = self.recipe
        rng = generator(r.seed, step)
        return targets.draw_batch(self.crops, rng, r.batch, mirror=self._mirror, codec=r.codec, coarse=r.coarse)

    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Equation 4 with this recipe's weights and hard mining."""
        r = self.recipe
        alpha = {"box_weight": r.box_weight, "landmark_weight": r.landmark_weight}
        return targets.losses(squeezed(outputs), batch, hardest=r.hardest, **alpha)

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Losses without mining on held-out crops; the negated sum, and the classification's accuracy."""
        device = next(network.parameters()).device
        pixels = torch.from_numpy(self._held_out["pixels"])
        outputs = [squeezed(network(to_input(part.to(device)))) for part in torch.split(pixels, 4096)]
        out = {name: torch.cat([o[name] for o in outputs]).cpu() for name in outputs[0]}
        truth = {name: torch.from_numpy(v) for name, v in self._held_out.items() if name != "pixels"}
        r = self.recipe
        alpha = {"box_weight": r.box_weight, "landmark_weight": r.landmark_weight}
        parts = {n: float(v) for n, v in targets.losses(out, truth, hardest=1.0, **alpha).items()}
        accuracy = targets.accuracy(out["score"].numpy(), self._held_out["kind"])
        return {"negated_loss": -sum(parts.values()), **parts, "accuracy": accuracy}


def squeezed(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of a network on crops of its own size, as float32: P-Net's maps are 1 x 1 then and become plain rows."""
    return {
        name: (v.flatten(1) if name != "score" else v.flatten(1)[:, 0] if v.dim() > 1 else v).float()
        for name, v in outputs.items()
    }


def run(
    data: Path,
    recipe: Path,
    out: Path,
    *,
    stage: str | None = None,
    overrides: dict[str, str] | None = None,
    report: Callable[[str, int], Report] | None = None,
) -> Path:
    """Train the cascade, or one stage of it on top of the stages before it, and export it.

    A run that was stopped goes on where it was: finished crop sets and networks are kept in ``out``.

    Args:
        data: folder that the recipe's index files lie in. recipe: TOML file with a table a stage.
        out: the run's folder; ``mtcnn.onnx`` appears there.
        stage: "pnet", "rnet" or "onet"; ``None`` for all in turn.
        overrides: settings that replace the recipe's, written as in TOML.
        report: makes a progress callback for a stage of so many steps.

    Raises:
        OptionError: no such stage or setting, or a stage before it is not trained yet.
        DataError: no landmarks or no faces to learn from.
    """
    if stage is not None and stage not in STAGES:
        raise OptionError(f"mtcnn has no stage {stage!r}; it has: {', '.join(STAGES)}")
    copy_recipe(recipe, out / RECIPE, overrides or {})
    for name in STAGES:
        if stage is None or name == stage:
            settings = read(out / RECIPE, name)
            task = prepare(name, data, settings, out)
            train(task, settings, out / name, report(name, settings.steps) if report else None)
            export_run(out, out / FILE)
    return out / FILE


def export_run(out: Path, file: Path, scores: Mapping[str, float] | None = None) -> Path:
    """Write a run's networks, each with its best weights so far, as one ONNX file that describes itself.

    Args:
        out: the run's folder. file: the ONNX file. scores: figures that the file should carry, by name.
    """
    recipe = read(out / RECIPE, "onet")
    config = Config(landmarks=recipe.landmarks, codec=recipe.codec)
    about = describe("mtcnn", config, out / RECIPE, scores)
    export(entries(_networks(out, recipe)), file, metadata=about)
    register(file)
    return file


def read(recipe: Path, stage: Stage) -> StageRecipe:
    """A stage's settings from a recipe file."""
    return read_recipe(recipe, StageRecipe, stage)


def prepare(stage: Stage, data: Path, recipe: StageRecipe, out: Path) -> StageTask:
    """A stage's task, ready to train: its crops are cut, if they are not there yet, with the stages before it."""
    _networks(out, recipe, before=stage)
    file = out / FILE if (out / FILE).exists() else export_run(out, out / FILE)
    sets = {}
    for split in ("train", "val"):
        folder = out / stage / split
        sets[split] = CropSet(folder) if CropSet.there(folder) else _cut_crops(stage, split, data, recipe, file, folder)
    torch.manual_seed(recipe.seed)
    return StageTask(NETWORKS[stage](len(schema(recipe.landmarks))), recipe, sets["train"], sets["val"])


def _networks(out: Path, recipe: StageRecipe, before: Stage | None = None) -> dict[Stage, nn.Module]:
    """The three networks with what is trained of them so far; the stages before ``before`` must be."""
    networks: dict[Stage, nn.Module] = {}
    for stage in STAGES:
        torch.manual_seed(recipe.seed)
        networks[stage] = NETWORKS[stage](len(schema(recipe.landmarks)))
        weights = best_weights(out / stage)
        if weights is not None:
            networks[stage].load_state_dict(weights)
        elif before and STAGES.index(stage) < STAGES.index(before):
            raise OptionError(f"{before} learns from what {stage} lets through; train {stage} first (in {out})")
    return networks


def _cut_crops(stage: Stage, split: str, data: Path, recipe: StageRecipe, file: Path, folder: Path) -> CropSet:
    """The crop set of a stage, from every photo of a split."""
    samples = [s for index in getattr(recipe, split) for s in read_coco(data / index)]
    if split == "train":
        samples += [s for name in recipe.backgrounds for s in read_faceless(data / name, schema(recipe.landmarks))]
    size = NETWORKS[stage](1).size
    writer = CropSetWriter(folder, size, len(schema(recipe.landmarks)))
    graph = load_graph(file.read_bytes(), threads=1)
    cascade = MTCNN(graph, Config(landmarks=recipe.landmarks, codec=recipe.codec))

    def work(number: int) -> list[tuple[Windows, Array]]:
        rng = np.random.default_rng([recipe.seed, STAGES.index(stage), number])
        image = read_image(samples[number].path)
        return list(_crops_of(stage, samples[number], image, recipe, cascade, rng))

    with ThreadPoolExecutor() as pool:
        for i, found in enumerate(pool.map(work, range(len(samples))), 1):
            for labelled, crops in found:
                writer.add(labelled, crops)
            if i % 500 == 0:
                _log.info("%s: crops of %d of %d %s photos", stage, i, len(samples), split)
    cut = writer.close()
    counts = {kind.name.lower(): len(rows) for kind, rows in cut.rows.items()}
    _log.info("%s %s crops: %s", stage, split, counts)
    for kind in (Kind.POSITIVE, Kind.LANDMARK):
        if not counts[kind.name.lower()] and (kind == Kind.POSITIVE or recipe.landmark_weight):
            lacks = "no face of 10 pixels or more" if kind == Kind.POSITIVE else "no face with all its landmarks"
            raise DataError(f"the {split} data of {stage} ({', '.join(getattr(recipe, split))}) have {lacks}")
    return cut


def _crops_of(
    stage: Stage, sample: Sample, image: Array, recipe: StageRecipe, cascade: MTCNN, rng: np.random.Generator
) -> Iterator[tuple[Windows, Array]]:
    """Labelled windows of one photo with their crops; the photo's turned versions give landmark samples only."""
    size = NETWORKS[stage](1).size
    pyramid = Pyramid(image)
    chosen = _choose(stage, sample, pyramid, recipe, cascade, rng)
    yield chosen, pyramid.crops(cascade.graph, chosen.windows, size)
    if recipe.turns and ((sample.landmark_source == "human") & ~sample.ignore).any():
        for angle in rng.uniform(-recipe.turn_by, recipe.turn_by, recipe.turns):
            pixels, turned = turn(image, sample, angle)
            around = targets.label(targets.jittered(rng, turned, 8), turned, recipe.codec)
            marked = targets.with_landmarks(around)
            yield marked, Pyramid(pixels).crops(cascade.graph, marked.windows, size)


def _choose(
    stage: Stage, sample: Sample, pyramid: Pyramid, recipe: StageRecipe, cascade: MTCNN, rng: np.random.Generator
) -> Windows:
    """A photo's windows to learn from: around its faces, and beside them or where the stages before were wrong."""
    around = targets.label(targets.jittered(rng, sample, recipe.jitter), sample, recipe.codec)
    keep_part = rng.random(len(around.kind)) < 0.5
    faces = around[(around.kind == Kind.POSITIVE) | ((around.kind == Kind.PART) & keep_part)]
    marked = targets.with_landmarks(around)
    if stage == "pnet":
        rest = targets.label(targets.astray(rng, sample, recipe.near, recipe.anywhere), sample, recipe.codec)
        return targets.joined([faces, marked, rest[rest.kind == Kind.NEGATIVE]])
    found = cascade.propose([pyramid], recipe.pnet_threshold, min_face=recipe.min_face, max_face=None)
    if stage == "onet":
        found = cascade.refine("rnet", [pyramid], found, recipe.rnet_threshold, nms=cascade.config.nms_rnet)
    proposed = targets.label(box_ops.square(found.boxes), sample, recipe.codec)
    negative = np.flatnonzero(proposed.kind == Kind.NEGATIVE)[: recipe.proposals]  # best score first
    hit = proposed[(proposed.kind == Kind.POSITIVE) | (proposed.kind == Kind.PART)]
    return targets.joined([faces, marked, hit, targets.with_landmarks(hit), proposed[negative]])
