"""Train the Information-Synthesis Network on upright crops of single faces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lineament import calibration
from lineament.data.augment import Occlusion, Quality, coarsened, coarseness, covers, distort, looks
from lineament.data.canvases import Labels
from lineament.data.crops import CropSet, Jitter
from lineament.errors import DataError, OptionError
from lineament.files import write_whole
from lineament.methods.adopt import begin_with, read_tensors
from lineament.methods.isnet import frame, targets
from lineament.methods.isnet.adopt import adopt_beta
from lineament.methods.isnet.decode import NEAR, Config, within
from lineament.methods.isnet.entries import entries
from lineament.methods.isnet.losses import distance, euclidean, spread_loss
from lineament.methods.isnet.network import LightNet, PaperNet
from lineament.methods.isnet.targets import Cutting
from lineament.methods.trained import write_trained
from lineament.schemas import FIVE, MAPS, schema
from lineament.train.checkpoint import initial_weights
from lineament.train.crops import CropRecipe, CropTask
from lineament.train.precision import in_float32
from lineament.train.recipe import read_phases, settings_of
from lineament.train.run import RECIPE
from lineament.train.samples import read_split
from lineament.train.task import WHOLE, Batch, Part, generator

Array = NDArray[Any]
METHOD = "isnet"
STAGES = ("crops",)
LABELS = ("boxes", "landmarks", "visibility", "ignore", "landmark_source")  # what decides a set of faces
SCORES = "scores.json"  # in the folder of a run: calibration of the landmark scores


@dataclass(frozen=True)
class ISNetRecipe(CropRecipe):
    """Settings beside those of every training on crops.

    Attributes:
        preset: "paper", the network as printed with equation 3 as its loss; or "light".
        size: Side of the crops in pixels.
        zoom: Size of the face in its crop (see ``frame.template``).
        beta: Weights of blocks 2 to S, in [0, 1]. Empty: learn them (ours).
        twin: The paper's general CNN instead of the synthesis ("paper" only).
        grid: Side of the common grid to which blocks are averaged. 0: not averaged ("paper" only).
        smallest: Faces whose box has a shorter longer side, in pixels, are left out.
        detected: Weight of landmarks from a machine; human landmarks have 1.
        fives: Share of a batch with faces that have only five landmarks, if there are others.
        by_points: Jitter of crops placed by a detector's landmarks.
        by_box: Jitter of crops placed by a detector's box.
        boxes: Share of crops placed by a box.
        occlusion: What covers a part of the face.
        spread: Weight of the loss of the errors' scale ("light" only).
    """

    quality: Quality | None = Quality(blur=0.2)
    preset: str = "light"
    size: int = 64
    zoom: float = 1.0
    beta: tuple[float, ...] = ()
    twin: bool = False
    grid: int = 0
    smallest: float = 40
    detected: float = 0.5
    fives: float = 0.4
    by_points: Jitter = Jitter(turn=3, scale=0.06, shift=0.025)
    by_box: Jitter = Jitter(turn=14, scale=0.13, shift=0.06)
    boxes: float = 0.4
    occlusion: Occlusion | None = Occlusion(probability=0.3, most=0.35)
    spread: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.landmarks) != 1:
            raise OptionError(f"isnet learns one landmark schema, found {', '.join(self.landmarks) or 'none'}")

    @property
    def eyes(self) -> float:
        """Distance between the eyes in the frame, relative to the side of the crop."""
        return frame.EYES * self.zoom


class ISNetTask(CropTask):
    """Landmarks in crops that are jittered anew in every batch."""

    recipe: ISNetRecipe
    network: PaperNet | LightNet

    def __init__(
        self, network: PaperNet | LightNet, recipe: ISNetRecipe, crops: CropSet, held_out: CropSet, data: dict[str, Any]
    ) -> None:
        super().__init__(network, recipe, crops, held_out, data)
        self.schema = schema(recipe.landmarks[0])
        whole = crops.labels["weights"].any(axis=1)
        if not held_out.labels["weights"].any():
            raise DataError(
                f"the val data ({', '.join(recipe.val)}) have no landmarks of the schema {self.schema.name}: "
                "nothing to validate on"
            )
        self._lots = np.flatnonzero(whole), np.flatnonzero(~whole)

    def adopt(self, content: bytes) -> None:
        """Start from the weights of a file where they fit, so also from those of another schema."""
        begin_with(self, read_tensors(content, [METHOD], {".network.": ""}))
        if self.network.beta.logits is not None:
            adopt_beta(self.network.beta.logits, content)

    def draw(self, rng: np.random.Generator) -> Array:
        """Faces with all landmarks, and a share with only five."""
        r = self.recipe
        whole, fives = self._lots
        few = round(r.fives * r.batch) if len(whole) and len(fives) else r.batch * (not len(whole))
        lots = ((whole, r.batch - few), (fives, few))
        return np.concatenate([rng.choice(lot, count) for lot, count in lots if count])

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        """Crops, jittered and augmented by the random numbers of the step."""
        r, rng = self.recipe, generator(self.recipe.seed, step)
        mine = np.array(part.of(r.batch))
        rows = self.draw(rng)
        by_box = rng.random(r.batch) < r.boxes
        moves = np.where(by_box[:, None, None], r.by_box.draw(rng, r.batch), r.by_points.draw(rng, r.batch))
        flip = rng.random(r.batch) < r.mirror
        batch = targets.placed(self.crops, rows[mine], moves[mine], flip[mine], size=r.size, schema=self.schema)
        pixels = batch["pixels"]
        if r.occlusion:
            self._cover(pixels, [generator(r.seed, step, sample) for sample in mine.tolist()], r.occlusion)
        if r.coarse:
            pixels = coarsened(pixels, coarseness(rng, r.batch, r.coarse)[mine])
        if r.light or r.quality:
            pixels = distort(pixels, looks(rng, r.batch, r.light, r.quality)[mine])
        return batch | {"pixels": pixels}

    def _cover(self, pixels: Array, rngs: list[np.random.Generator], occlusion: Occlusion) -> None:
        """Cover some of the faces, in place."""
        size = self.recipe.size
        face = size * np.array([[0.2, 0.1, 0.8, 0.9]])
        labels = Labels(face, np.zeros((1, 0, 2)), np.zeros((1, 0)), np.zeros(1, bool), np.zeros(1, int), 0)
        for crop, rng in zip(pixels, rngs, strict=True):
            for cover in covers(rng, labels, (size, size), occlusion):
                cover.onto(crop)

    @in_float32
    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of the preset.

        Returns:
            "paper": equation 3 in pixels of the crop. "light": the mean distance relative to the distance between the
            eyes (for faces with five landmarks, of the five that the map from the schema gives), and the likelihood of
            the errors.
        """
        r = self.recipe
        points, truth, weights = outputs["points"], batch["points"], batch["weights"]
        if r.preset == "paper":
            return {"landmarks": euclidean(points * r.size, truth * r.size, weights)}
        parts = {
            "landmarks": distance(points, truth, weights) / r.eyes,
            "spread": r.spread * spread_loss(outputs["spread"], points, truth, weights),
        }
        if self.schema != FIVE and r.fives:
            five = torch.stack([points[:, list(i)].mean(1) for i in MAPS[self.schema.name, FIVE.name]], dim=1)
            parts["five"] = r.fives * distance(five, batch["five"], batch["five_weights"]) / r.eyes
        return parts

    @in_float32
    def figures(self, outputs: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, float]:
        """The negative mean error relative to the distance between the eyes, and equation 3 in pixels of the crop."""
        points, truth, weights, size = outputs["points"], labels["points"], labels["weights"], self.recipe.size
        error = float(distance(points, truth, weights)) / self.recipe.eyes
        return {"negated_error": -error, "equation_3": float(euclidean(points * size, truth * size, weights))}


def phases(recipe: Path, stage: str) -> list[ISNetRecipe]:
    """The settings in every phase of a recipe file."""
    return read_phases(recipe, ISNetRecipe, stage)


def read(recipe: Path, stage: str) -> ISNetRecipe:
    """The settings in the last phase."""
    return phases(recipe, stage)[-1]


def prepare(stage: str, data: Path, recipe: ISNetRecipe, out: Path) -> ISNetTask:
    """The task, ready to train. Its faces are cut out if they are not there yet."""
    network = build(recipe)
    kind = schema(recipe.landmarks[0])
    train = Cutting(
        schema=kind,
        side=round(recipe.size * targets.REACH),
        zoom=recipe.zoom,
        reach=targets.REACH,
        smallest=recipe.smallest,
        detected=recipe.detected,
    )
    cuttings = {"train": train, "val": replace(train, side=recipe.size, reach=1, jitter=recipe.by_points)}
    sets, about = {}, {}
    for split, cutting in cuttings.items():
        found = read_split(data, recipe, split, tuple(dict.fromkeys((kind.name, FIVE.name))))
        folder, digest = out / "faces" / split, found.digest(cutting, LABELS)
        if not CropSet.is_there(folder, digest):
            targets.cut(found.samples, folder, digest, cutting)
        sets[split], about[split] = CropSet(folder), found.to_dict()
    return ISNetTask(network, recipe, sets["train"], sets["val"], about)


def build(recipe: ISNetRecipe) -> PaperNet | LightNet:
    """The untrained network of a recipe.

    Raises:
        OptionError: The preset does not exist, its weights are wrong, or it does not have such a setting.
    """
    torch.manual_seed(recipe.seed)
    landmarks, beta = len(schema(recipe.landmarks[0])), recipe.beta or None
    try:
        if recipe.preset == "paper":
            return PaperNet(landmarks, recipe.size, beta, twin=recipe.twin, grid=recipe.grid)
        if recipe.preset == "light" and not (recipe.twin or recipe.grid):
            return LightNet(landmarks, recipe.size, beta)
    except ValueError as error:
        raise OptionError(str(error)) from error
    raise OptionError(f"preset is paper or light, and twin and grid are of paper; found {recipe.preset!r}")


def finish(stage: str, task: ISNetTask, out: Path) -> None:
    """Calibrate landmark scores on the held-out faces, with the best weights.

    For "light", the predicted probability is mapped to the share of landmarks within a tenth of the distance between
    the eyes. "paper" does not predict its errors: it gets the one scale under which the held-out errors are most
    likely.
    """
    network = build(task.recipe)
    network.load_state_dict(initial_weights(out / stage))
    with torch.no_grad():
        outputs, labels = task.looked_at(network.eval())
    counted = labels["weights"].numpy() > 0
    errors = (outputs["points"] - labels["points"]).norm(dim=2).numpy()[counted]
    kept: dict[str, Any] = {"spread": float(np.log(errors.mean() / 2)), "scores": None}
    if "spread" in outputs:
        promised = within(outputs["spread"].numpy(), task.recipe.zoom)[counted]
        hits = errors < NEAR * task.recipe.eyes
        if 0 < hits.mean() < 1:
            kept["scores"] = calibration.fit(promised, hits).to_dict()
    write_whole(out / SCORES, json.dumps(kept))


def export_run(out: Path, file: Path, scores: Mapping[str, float] | None = None) -> Path:
    """Export the best weights of a run as an ONNX file.

    Args:
        out: Folder of the run.
        file: The ONNX file to write.
        scores: Scores by name to store in the file.

    Raises:
        OptionError: Nothing is trained yet.
    """
    (stage,) = STAGES
    recipe = read(out / RECIPE, stage)
    network = build(recipe)
    network.load_state_dict(initial_weights(out / stage))
    kept: dict[str, Any] = {"spread": 0.0, "scores": None}
    if (out / SCORES).exists():
        kept = json.loads((out / SCORES).read_text())
    own = {"landmarks": recipe.landmarks[0], "size": recipe.size, "zoom": recipe.zoom, "scores": kept["scores"]}
    config = settings_of(Config, recipe, **own)
    made = entries(network, kept["spread"])
    return write_trained(made, config, file, run=out, method=METHOD, stages=STAGES, scores=scores, half=True)
