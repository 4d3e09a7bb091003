"""Train the verifier on what detectors take for faces, best in photos that they have not seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lineament.data.augment import Coarse, coarsened, coarseness, distort, looks
from lineament.data.crops import CropSet, Jitter, mirrored, recut
from lineament.errors import OptionError
from lineament.methods import Decoder, DetectionMethod, open_weights
from lineament.methods.adopt import begin_with, read_tensors
from lineament.methods.quantisation import write_bytes
from lineament.methods.trained import write_trained
from lineament.methods.verifier import targets
from lineament.methods.verifier.decode import Config, Verifier
from lineament.methods.verifier.entries import entries
from lineament.methods.verifier.network import VerifierNet
from lineament.methods.verifier.quantise import quantise
from lineament.methods.verifier.targets import REACH, Kind
from lineament.runtime import load_graph
from lineament.similarity import transform
from lineament.train.checkpoint import initial_weights
from lineament.train.crops import CropRecipe, CropTask
from lineament.train.precision import in_float32
from lineament.train.recipe import read_phases, settings_of
from lineament.train.run import RECIPE
from lineament.train.samples import check_learnable, read_split
from lineament.train.task import WHOLE, Batch, Part, generator
from lineament.weights import parse_metadata, read_weights

Array = NDArray[Any]
METHOD = "verifier"
STAGES = ("crops",)
FINDER, THRESHOLD = "kpnet-lite-int8", 0.05  # the detector whose faces set the ranges of bytes
STEEP = 10.0  # offsets count in tenths: below one, the loss of a box is squared


@dataclass(frozen=True)
class VerifierRecipe(CropRecipe):
    """Settings beside those of every training on crops.

    Attributes:
        detectors: Names or files of detectors' weights. Their candidates are learned. They take turns: each photo is
            shown to one.
        lowest: Lowest score of a candidate, in [0, 1].
        context: Side of a crop relative to the longer side of the box.
        faces: Share of candidates that are faces in a batch.
        labels: Share of labelled boxes in a batch. The rest are candidates that are no faces.
        by_candidate: Jitter of crops around candidates.
        by_label: Jitter of crops around labelled boxes.
        box_weight: Weight of the loss of boxes.
    """

    coarse: Coarse | None = Coarse()
    detectors: tuple[str, ...] = ("kpnet-lite", "kpnet-int8")
    lowest: float = 0.02
    context: float = 1.7
    faces: float = 0.35
    labels: float = 0.15
    by_candidate: Jitter = Jitter(turn=7, scale=0.1, shift=0.025)
    by_label: Jitter = Jitter(turn=7, scale=0.18, shift=0.05)
    box_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.detectors:
            raise OptionError("detectors names weights of detectors, whose candidates are learned; found none")


class VerifierTask(CropTask):
    """Faces and false alarms, in crops that are jittered anew in every batch."""

    recipe: VerifierRecipe

    def __init__(
        self, network: VerifierNet, recipe: VerifierRecipe, crops: CropSet, held_out: CropSet, data: dict[str, Any]
    ) -> None:
        super().__init__(network, recipe, crops, held_out, data)
        self._rows = [np.flatnonzero(crops.labels["kind"] == kind) for kind in Kind]

    def adopt(self, content: bytes) -> None:
        """Start from the weights of a file."""
        begin_with(self, read_tensors(content, [METHOD], {".network.": ""}))

    def draw(self, rng: np.random.Generator) -> Array:
        """Rows (batch,) with the recipe's shares of kinds."""
        r = self.recipe
        faces, labels = round(r.faces * r.batch), round(r.labels * r.batch)
        counts = {Kind.NOTHING: r.batch - faces - labels, Kind.FACE: faces, Kind.LABEL: labels}
        return np.concatenate([rng.choice(self._rows[kind], count) for kind, count in counts.items() if count])

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        """Crops, jittered and augmented by the random numbers of the step."""
        r, rng = self.recipe, generator(self.recipe.seed, step)
        mine = np.array(part.of(r.batch))
        rows = self.draw(rng)
        labelled = self.crops.labels["kind"][rows] == Kind.LABEL
        draws = r.by_label.draw(rng, r.batch), r.by_candidate.draw(rng, r.batch)
        moves = mirrored(np.where(labelled[:, None, None], *draws), rng.random(r.batch) < r.mirror)[mine]
        shares, seen = coarseness(rng, r.batch, r.coarse)[mine], looks(rng, r.batch, r.light, r.quality)[mine]
        pixels = recut(self.crops.pixels, rows[mine], moves, size=VerifierNet.size, reach=REACH)
        labels = {name: values[rows[mine]] for name, values in self.crops.labels.items()}
        pixels = distort(coarsened(pixels, shares), seen)
        return {"pixels": pixels, "kind": labels["kind"], "box": offsets(labels["box"], moves, r.context)}

    @in_float32
    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The cross-entropy of the scores, and the smooth absolute error of faces' boxes."""
        face = batch["kind"] != Kind.NOTHING
        off = F.smooth_l1_loss(STEEP * outputs["box"][face], STEEP * batch["box"][face])
        score = F.binary_cross_entropy_with_logits(outputs["score"], face.float())
        return {"score": score, "box": self.recipe.box_weight * off}

    def figures(self, outputs: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, float]:
        """Losses on held-out crops, the negative sum first, and the accuracy of the scores."""
        still = np.tile(np.eye(2, 3), (len(labels["box"]), 1, 1))
        box = torch.as_tensor(offsets(labels["box"].cpu().numpy(), still, self.recipe.context))
        figures = super().figures(outputs, labels | {"box": box.to(outputs["box"])})
        right = (outputs["score"] > 0) == (labels["kind"] != Kind.NOTHING)
        return figures | {"accuracy": float(right.float().mean())}


def offsets(box: Array, moves: Array, context: float) -> Array:
    """Offsets (n, 4) of faces from the windows of their crops, as `lineament.boxes.encode_rcnn`.

    Args:
        box: (n, 4) boxes in sides of the window, from its centre.
        moves: (n, 2, 3) similarity transforms of the frame that the crops have undergone.
        context: Side of a crop relative to its window.
    """
    centre = 0.5 + (box[:, :2] + box[:, 2:]) / 2 / context
    moved = transform(centre[:, None], moves)[:, 0]
    size = (box[:, 2:] - box[:, :2]) * np.hypot(moves[:, 0, 0], moves[:, 1, 0])[:, None]
    return np.concatenate([(moved - 0.5) * context, np.log(size)], axis=1).astype(np.float32)


def phases(recipe: Path, stage: str) -> list[VerifierRecipe]:
    """The settings in every phase of a recipe file."""
    return read_phases(recipe, VerifierRecipe, stage)


def read(recipe: Path, stage: str) -> VerifierRecipe:
    """The settings in the last phase."""
    return phases(recipe, stage)[-1]


def prepare(stage: str, data: Path, recipe: VerifierRecipe, out: Path) -> VerifierTask:
    """The task, ready to train. The candidates are cut out if they are not there yet."""
    torch.manual_seed(recipe.seed)
    network = VerifierNet()
    decoders: list[Decoder] = []
    sets, about = {}, {}
    # Cutting takes long, so labels with an error are noticed before.
    splits = {split: read_split(data, recipe, split, recipe.landmarks) for split in ("train", "val")}
    for split, reach in (("train", REACH), ("val", 1.0)):
        found = splits[split]
        check_learnable(found.samples, recipe, split, stage, landmarks=False)
        sizes = {"lowest": recipe.lowest, "context": recipe.context, "reach": reach}
        detectors = [hashlib.sha256(read_weights(name)).hexdigest() for name in recipe.detectors]
        folder, digest = out / "candidates" / split, found.digest((detectors, sizes), ("boxes", "ignore"))
        if not CropSet.is_there(folder, digest):
            decoders = decoders or [_detector(name) for name in recipe.detectors]
            targets.cut(found.samples, decoders, folder, digest, **sizes)
        sets[split], about[split] = CropSet(folder), found.to_dict()
    return VerifierTask(network, recipe, sets["train"], sets["val"], about)


def _detector(name: str) -> Decoder:
    """A detector for several threads."""
    graph, _, kind, settings = open_weights(name, threads=1)
    if not isinstance(kind, DetectionMethod):
        raise OptionError(f"detectors names weights of detectors; {name} is a {kind.kind}")
    return kind.decoder(graph, settings)


def finish(stage: str, task: VerifierTask, out: Path) -> None:
    """Nothing follows."""


def export_bytes(
    content: bytes, images: Iterable[Array], file: Path, scores: Mapping[str, float] | None = None
) -> Path:
    """Quantise the network of a file to 8-bit integers (see `quantise`). Its settings do not change.

    Args:
        content: A verifier's file that is not quantised.
        images: (h, w, 3) uint8 RGB, a few dozen. What a detector finds in them sets the value ranges.
        file: The ONNX file to write.
        scores: Scores by name to store in the file.

    Raises:
        OptionError: The file is already quantised, or there is no face in the images.
    """
    graph = load_graph(content)
    verifier, detector = Verifier(graph, Config(**parse_metadata(graph.metadata)[1])), _detector(FINDER)

    def shown() -> Iterator[Array]:
        found = 0
        for image in images:
            (faces,) = detector([image], threshold=THRESHOLD, min_face=1, max_face=None)
            if len(faces):
                yield verifier.crops(image, faces.boxes.astype(np.float64))
            found += len(faces)
        if not found:
            raise OptionError("found no face in these images, and faces set the value ranges: name photos with faces")

    return write_bytes(quantise(content, shown()), file, graph.metadata, scores or {})


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
    network = VerifierNet()
    network.load_state_dict(initial_weights(out / stage))
    config = settings_of(Config, recipe, size=network.size, context=recipe.context)
    return write_trained(
        entries(network), config, file, run=out, method=METHOD, stages=STAGES, scores=scores, half=True
    )
