"""Train MTCNN: three networks in turn, each on what the previous ones let through (section II.C)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lineament import boxes as box_ops
from lineament.data.augment import Coarse, Light, turn
from lineament.data.crops import CropSet, CropSetWriter, astray, jittered
from lineament.data.sample import Sample
from lineament.errors import DataError, OptionError
from lineament.export import export
from lineament.images import read_image
from lineament.methods.mtcnn import targets
from lineament.methods.mtcnn.adopt import adopt
from lineament.methods.mtcnn.decode import MTCNN, Config, distinct
from lineament.methods.mtcnn.entries import entries
from lineament.methods.mtcnn.network import ONet, PNet, RNet
from lineament.methods.mtcnn.pyramid import Pyramid
from lineament.methods.mtcnn.targets import Kind, Windows
from lineament.methods.trained import write_trained
from lineament.parallel import in_order
from lineament.runtime import load_graph
from lineament.schemas import schema
from lineament.train.checkpoint import best_weights
from lineament.train.crops import CropRecipe, CropTask
from lineament.train.recipe import read_phases, settings_of
from lineament.train.run import RECIPE
from lineament.train.samples import Split, read_split
from lineament.train.task import Batch
from lineament.weights import is_weights, read_weights

Array = NDArray[Any]
METHOD = "mtcnn"
STAGES = ("pnet", "rnet", "onet")
NETWORKS: dict[str, Callable[[int], PNet | RNet | ONet]] = {"pnet": PNet, "rnet": RNet, "onet": ONet}
AT_ONCE = 16  # photos that are cut ahead of writing; bounds the memory
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageRecipe(CropRecipe):
    """Settings of a stage, beside those of every training on crops.

    Attributes:
        codec: As in the cascade's ``Config``.
        hardest: Share of hard samples in the classification loss. 1 switches hard mining off.
        box_weight: The paper's alpha for boxes. 0 leaves the task out.
        landmark_weight: The paper's alpha for landmarks. 0 leaves the task out.
        jitter: Number of windows around each face, for positives, parts and landmark samples.
        near: Number of windows near each face that mostly miss it (P-Net only).
        anywhere: Number of random windows in each photo (P-Net only).
        proposals: Number of negatives kept of a photo's proposals, those with the highest scores (R- and O-Net).
        pnet_threshold: P-Net's threshold for the proposals to learn from. Low, so that they are hard.
        rnet_threshold: R-Net's threshold for these proposals.
        min_face: Smallest face of these proposals, in pixels.
        turns: Number of random rotations in which landmark photos are also seen.
        turn_by: Largest angle of these rotations, in degrees.
    """

    light: Light | None = Light(gamma=0, hue=0, tint=0)
    coarse: Coarse | None = Coarse()
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.landmarks) > 1:
            raise OptionError(f"mtcnn learns one landmark schema, found {', '.join(self.landmarks)}")


# What decides a crop set, beside the photos and the previous stages.
CUT_BY = (
    "seed", "landmarks", "codec", "jitter", "near", "anywhere", "proposals", "pnet_threshold", "rnet_threshold",
    "min_face", "turns", "turn_by",
)  # fmt: skip


LABELS = ("boxes", "landmarks", "visibility", "ignore")


class StageTask(CropTask):
    """One of the three networks and its crops."""

    recipe: StageRecipe

    def __init__(
        self,
        stage: str,
        network: nn.Module,
        recipe: StageRecipe,
        crops: CropSet,
        held_out: CropSet,
        data: dict[str, Any],
    ) -> None:
        super().__init__(network, recipe, crops, held_out, data)
        self.stage = stage
        self._rows = targets.by_kind(crops.labels["kind"])

    def adopt(self, content: bytes) -> None:
        """Start from this stage of a file."""
        adopt(self.network, content, self.stage)

    def draw(self, rng: np.random.Generator) -> Array:
        """Rows with the paper's ratio of kinds."""
        return targets.at_ratio(rng, self._rows, self.recipe.batch)

    def mirrored(self, labels: Batch) -> Batch:
        """The landmarks and box offsets of mirrored crops."""
        return super().mirrored(labels) | {"box": box_ops.CODECS[self.recipe.codec].mirror(labels["box"])}

    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Equation 4 with the weights and the hard mining of this recipe."""
        return self._losses(outputs, batch, self.recipe.hardest)

    def figures(self, outputs: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, float]:
        """Losses without mining, the negative sum first, and the accuracy of the classification."""
        parts = {name: float(value) for name, value in self._losses(outputs, labels, 1.0).items()}
        scores = squeezed(outputs)["score"].cpu().numpy()
        accuracy = targets.accuracy(scores, labels["kind"].cpu().numpy())
        return {"negated_loss": -sum(parts.values()), **parts, "accuracy": accuracy}

    def _losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor], hardest: float) -> dict[str, Tensor]:
        alpha = {"box_weight": self.recipe.box_weight, "landmark_weight": self.recipe.landmark_weight}
        return targets.losses(squeezed(outputs), batch, hardest=hardest, **alpha)


def squeezed(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of a network on crops of its own size, float32. P-Net's maps are 1 x 1 then and become rows."""
    return {
        name: (v.flatten(1) if name != "score" else v.flatten(1)[:, 0] if v.dim() > 1 else v).float()
        for name, v in outputs.items()
    }


def phases(recipe: Path, stage: str) -> list[StageRecipe]:
    """The settings of a stage in every phase of a recipe file."""
    return read_phases(recipe, StageRecipe, stage)


def read(recipe: Path, stage: str) -> StageRecipe:
    """The settings of a stage in its last phase."""
    return phases(recipe, stage)[-1]


def prepare(stage: str, data: Path, recipe: StageRecipe, out: Path) -> StageTask:
    """The task of a stage, ready to train. Its crops are cut with the previous stages if they do not exist yet."""
    _config(recipe)
    before = _networks(out, recipe, before=stage)
    decides = [getattr(recipe, name) for name in CUT_BY], [_digest(before[name]) for name in _previous(stage)]
    cascade: MTCNN | None = None
    sets, about = {}, {}
    for split in ("train", "val"):
        found = read_split(data, recipe, split, recipe.landmarks)
        folder, digest = out / stage / split, found.digest(decides, LABELS)
        if not CropSet.is_there(folder, digest):
            cascade = cascade or _cascade(stage, recipe, before)
            _cut_crops(stage, split, recipe, found, cascade, folder, digest)
        sets[split], about[split] = CropSet(folder), found.to_dict()
    torch.manual_seed(recipe.seed)
    network = NETWORKS[stage](len(schema(recipe.landmarks[0])))
    return StageTask(stage, network, recipe, sets["train"], sets["val"], about)


def finish(stage: str, task: StageTask, out: Path) -> None:
    """Nothing follows a stage but the next one."""


def export_run(out: Path, file: Path, scores: Mapping[str, float] | None = None) -> Path:
    """Export the networks of a run, each with its best weights so far, as one ONNX file.

    Args:
        out: Folder of the run.
        file: The ONNX file to write.
        scores: Scores by name to store in the file.

    Raises:
        OptionError: A stage is not trained yet.
    """
    recipe = read(out / RECIPE, STAGES[-1])
    made = entries(_networks(out, recipe))
    untrained = {stage: _initial(out, stage) for stage in STAGES if best_weights(out / stage) is None}
    return write_trained(
        made, _config(recipe), file, run=out, method=METHOD, stages=STAGES, untrained=untrained, scores=scores
    )


def _config(recipe: StageRecipe) -> Config:
    config: Config = settings_of(Config, recipe, landmarks=recipe.landmarks[0], codec=recipe.codec)
    return config


def _networks(out: Path, recipe: StageRecipe, before: str | None = None) -> dict[str, nn.Module]:
    """The three networks with their trained weights. All must be trained, or those before a given stage.

    A stage that is not trained is taken from the file that is its ``initial``, if it is one.
    """
    networks: dict[str, nn.Module] = {}
    for stage in STAGES:
        torch.manual_seed(recipe.seed)
        networks[stage] = NETWORKS[stage](len(schema(recipe.landmarks[0])))
        weights = best_weights(out / stage)
        if weights is not None:
            networks[stage].load_state_dict(weights)
        elif before is None or stage in _previous(before):
            content = _initial(out, stage)
            if not content:
                needs = (
                    f"{before} learns from what {stage} lets through" if before else "the cascade has three networks"
                )
                raise OptionError(f"{needs}; train {stage} first (in {out}), or name a weight file as its initial")
            adopt(networks[stage], content, stage)
    return networks


def _initial(out: Path, stage: str) -> bytes:
    """The weight file that a stage of a run starts from. Empty if there is none."""
    name = phases(out / RECIPE, stage)[0].initial
    return read_weights(name) if is_weights(name) else b""


def _previous(stage: str) -> tuple[str, ...]:
    """The stages before a stage."""
    return STAGES[: STAGES.index(stage)]


def _digest(network: nn.Module) -> str:
    """A digest of the weights of a network."""
    digest = hashlib.sha256()
    for weights in network.state_dict().values():
        digest.update(weights.numpy().data)
    return digest.hexdigest()


def _cascade(stage: str, recipe: StageRecipe, networks: Mapping[str, nn.Module]) -> MTCNN:
    """The stages before a stage, and all that cuts its crops."""
    before = _previous(stage)
    wanted = {*before, *(f"crop{NETWORKS[name](1).size}" for name in (*before, stage))}
    with TemporaryDirectory() as temporary:
        parts = {name: entry for name, entry in entries(networks).items() if name in wanted}
        file = export(parts, Path(temporary) / "cascade.onnx", metadata={})
        graph = load_graph(file.read_bytes(), threads=1)
    return MTCNN(graph, Config(landmarks=recipe.landmarks[0], codec=recipe.codec))


def _cut_crops(
    stage: str, split: str, recipe: StageRecipe, found: Split, cascade: MTCNN, folder: Path, digest: str
) -> None:
    """The crop set of a stage, from all photos of a split."""
    samples = found.samples

    def work(number: int) -> list[tuple[Windows, Array]]:
        rng = np.random.default_rng([recipe.seed, STAGES.index(stage), number])
        image = read_image(samples[number].path)
        cut = _crops_of(stage, samples[number], image, recipe, cascade, rng)
        return [(windows, crops.round().astype(np.uint8).transpose(0, 2, 3, 1)) for windows, crops in cut]

    with CropSetWriter(folder, NETWORKS[stage](1).size, digest) as writer, ThreadPoolExecutor() as pool:
        kinds = []
        for i, cut in enumerate(in_order(pool, work, range(len(samples)), AT_ONCE), 1):
            for labelled, pixels in cut:
                box, points = labelled.box.astype(np.float32), labelled.points.astype(np.float32)
                writer.add(pixels, kind=labelled.kind.astype(np.int64), box=box, points=points)
                kinds.append(labelled.kind)
            if i % 500 == 0:
                _log.info("%s: crops of %d of %d %s photos", stage, i, len(samples), split)
        counts = {kind: int((np.concatenate(kinds) == kind).sum()) for kind in targets.RATIO}
        _log.info("%s %s crops: %s", stage, split, {kind.name.lower(): count for kind, count in counts.items()})
        for kind in (Kind.POSITIVE, Kind.LANDMARK):
            if not counts[kind] and (kind == Kind.POSITIVE or recipe.landmark_weight):
                lacks = "no face of 10 pixels or more" if kind == Kind.POSITIVE else "no face with all its landmarks"
                raise DataError(f"the {split} data of {stage} ({', '.join(getattr(recipe, split))}) have {lacks}")


def _crops_of(
    stage: str, sample: Sample, image: Array, recipe: StageRecipe, cascade: MTCNN, rng: np.random.Generator
) -> Iterator[tuple[Windows, Array]]:
    """Labelled windows of one photo with their crops. Rotated versions of the photo give landmark samples only."""
    size = NETWORKS[stage](1).size
    pyramid = Pyramid(image)
    chosen = _choose(stage, sample, pyramid, recipe, cascade, rng)
    yield chosen, pyramid.crops(cascade.graph, chosen.windows, size)
    if recipe.turns and ((sample.landmark_source == "human") & ~sample.ignore).any():
        for angle in rng.uniform(-recipe.turn_by, recipe.turn_by, recipe.turns):
            pixels, turned = turn(image, sample, angle)
            around = targets.label(jittered(rng, _learnable(turned), 8), turned, recipe.codec)
            marked = targets.with_landmarks(around)
            yield marked, Pyramid(pixels).crops(cascade.graph, marked.windows, size)


def _learnable(sample: Sample) -> Array:
    """The boxes (n, 4) of the faces to learn."""
    return sample.boxes[targets.learnable(sample)]


def _choose(
    stage: str, sample: Sample, pyramid: Pyramid, recipe: StageRecipe, cascade: MTCNN, rng: np.random.Generator
) -> Windows:
    """Windows of a photo to learn from: around its faces, and beside them or where the previous stages were wrong."""
    around = targets.label(jittered(rng, _learnable(sample), recipe.jitter), sample, recipe.codec)
    keep_part = rng.random(len(around.kind)) < 0.5
    faces = around[(around.kind == Kind.POSITIVE) | ((around.kind == Kind.PART) & keep_part)]
    marked = targets.with_landmarks(around)
    if stage == "pnet":
        size = (sample.width, sample.height)
        missing = astray(rng, _learnable(sample), size, recipe.near, recipe.anywhere)
        rest = targets.label(missing, sample, recipe.codec)
        return targets.joined([faces, marked, rest[rest.kind == Kind.NEGATIVE]])
    found = cascade.propose([pyramid], recipe.pnet_threshold, min_face=recipe.min_face, max_face=None)
    if stage == "onet":
        found = distinct(cascade.refine("rnet", [pyramid], found, recipe.rnet_threshold), cascade.config.nms_rnet)
    proposed = targets.label(box_ops.square(found.boxes), sample, recipe.codec)
    negative = np.flatnonzero(proposed.kind == Kind.NEGATIVE)[: recipe.proposals]  # best score first
    hit = proposed[(proposed.kind == Kind.POSITIVE) | (proposed.kind == Kind.PART)]
    return targets.joined([faces, marked, hit, targets.with_landmarks(hit), proposed[negative]])
