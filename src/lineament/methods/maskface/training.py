"""Training of MaskFace on canvases: scores, boxes and landmark masks together (Yashunin et al. 2020, section 3)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lineament import boxes as box_ops
from lineament.anchors import all_anchors
from lineament.data.canvases import LabelRules, Labels
from lineament.errors import OptionError
from lineament.files import write_whole
from lineament.methods.adopt import begin_with, read_tensors
from lineament.methods.fitting import fitted
from lineament.methods.maskface.decode import Config, MaskFaceDecoder
from lineament.methods.maskface.export import entries
from lineament.methods.maskface.levels import FINEST, SMALLEST, level_of, levels
from lineament.methods.maskface.network import CONTEXTS, MaskFace, RegionsBySchema
from lineament.methods.maskface.quantise import quantise
from lineament.methods.maskface.targets import BACKGROUND, FACE, jittered, match, matched, proposals
from lineament.methods.quantisation import write_bytes
from lineament.methods.trained import BackboneRecipe, write_trained
from lineament.runtime import load_graph
from lineament.schemas import schema
from lineament.train.canvases import CanvasTask, composers
from lineament.train.checkpoint import initial_weights
from lineament.train.precision import in_float32
from lineament.train.recipe import read_phases, settings_of
from lineament.train.run import RECIPE
from lineament.train.task import Batch, divisor, tensors, to_input
from lineament.weights import parse_metadata

Array = NDArray[Any]
METHOD = "maskface"
STAGES = (METHOD,)
CALIBRATION = "calibration.json"
ROOTS = {".network.": "", ".head.": "landmarks."}  # prefixes of weights in a file, and in the network
BETA = 1 / 9  # of the smooth L1 loss


@dataclass(frozen=True)
class MaskFaceRecipe(BackboneRecipe):
    """Settings beside those of every training with a backbone.

    Attributes:
        width: As in ``MaskFace``.
        head_width: As in ``MaskFace``.
        head_layers: As in ``MaskFace``.
        finest: As in ``MaskFace``.
        context: As in ``MaskFace``.
        keypoint_head: Whether there is a landmark head. Otherwise the network predicts boxes only (table 6).
        smallest: Side of the smallest anchor, in pixels of the input.
        k0: Level of the landmark features of a face of 224 pixels (equation 6).
        regions: Largest number of faces per batch whose landmarks are learned, for each landmark schema.
        regions_from: The regions for the landmarks: the boxes of the "labels", moved and resized at random, or
            "proposals", the detections of the network (the paper).
        jitter: Standard deviation of the shift and of the change of size of boxes from labels, as a share of their
            sides.
        region_margin: Margin around a face on every side of its region, as a share of the face's side. Landmarks of
            the jaw lie at the edge of the box or outside.
        alpha: Weight of faces in the focal loss, that of background is 1 - alpha (equation 2).
        gamma: Exponent of the focal loss (equation 2).
        landmark_weight: lambda of equation 1.
        labels: Which faces count. Faces much smaller or larger than all anchors are ignored, since their matches would
            be bad.
    """

    norm: str = "group"
    width: int = 256
    head_width: int = 256
    head_layers: int = 8
    finest: int = FINEST
    context: str = "branches"
    keypoint_head: bool = True
    smallest: float = SMALLEST
    k0: int = 3
    regions: tuple[int, ...] = (48,)
    regions_from: str = "labels"
    jitter: float = 0.06
    region_margin: float = 0.0
    alpha: float = 0.25
    gamma: float = 2.0
    landmark_weight: float = 0.25
    labels: LabelRules = LabelRules(smallest=0.4**0.5 * 16, largest=2.5**0.5 * 406)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.canvas % 32:
            raise OptionError(f"canvas is a multiple of 32 pixels, found {self.canvas}")
        if self.context not in CONTEXTS:
            raise OptionError(f"context is one of {', '.join(CONTEXTS)}, found {self.context!r}")
        if self.regions_from not in ("labels", "proposals"):
            raise OptionError(f"regions_from is labels or proposals, found {self.regions_from!r}")
        if len(self.regions) != len(self.landmarks):
            raise OptionError(f"regions needs one number for each of landmarks {self.landmarks}, found {self.regions}")

    @property
    def learnt(self) -> tuple[str, ...]:
        """Names of the schemas whose landmarks are learned."""
        return self.landmarks if self.keypoint_head else ()


class MaskFaceTask(CanvasTask):
    """Canvases and their targets."""

    recipe: MaskFaceRecipe

    def adopt(self, content: bytes) -> None:
        """Start from the weights of a file where they fit."""
        assert isinstance(self.network, MaskFace)
        begin_with(self, read_tensors(content, [METHOD], ROOTS))

    def targets(self, rng: np.random.Generator, canvases: Sequence[Labels]) -> Batch:
        """The labels of anchors, the offsets of positive ones, and regions with landmarks."""
        r = self.recipe
        kinds = levels(r.finest, r.smallest)
        boxes = all_anchors(r.canvas, r.canvas, kinds)
        matches = [match(kinds, r.canvas, c.boxes[~c.ignore], c.boxes[c.ignore]) for c in canvases]
        image = np.concatenate([np.full((m.label == FACE).sum(), i) for i, m in enumerate(matches)])
        anchor = np.concatenate([np.flatnonzero(m.label == FACE) for m in matches])
        truth = np.concatenate(
            [c.boxes[~c.ignore][m.face[m.face >= 0]] for c, m in zip(canvases, matches, strict=True)]
        )
        return {
            "label": np.stack([m.label for m in matches]),
            "positive": np.stack([image, anchor], axis=1),
            "offset": box_ops.encode_rcnn(truth.astype(np.float64), boxes[anchor]).astype(np.float32),
            **self._regions(rng, canvases),
        }

    def _regions(self, rng: np.random.Generator, canvases: Sequence[Labels]) -> Batch:
        """For each schema, regions of faces with known landmarks.

        Empty regions fill them up to the number in the recipe: convolutions are slow whenever a batch has a new size.
        """
        r = self.recipe
        batch: Batch = {}
        for name, most in zip(r.learnt, r.regions, strict=False):
            rows = [self.known(canvas, name) for canvas in canvases]
            boxes, points, weights = (np.concatenate(parts) for parts in zip(*rows, strict=True))
            image = np.repeat(np.arange(len(rows)), [len(mine[0]) for mine in rows])
            some = np.sort(rng.permutation(len(boxes))[:most])
            found = boxes[some]
            if r.regions_from == "labels":
                found = box_ops.grown(jittered(rng, found, r.jitter), r.region_margin)
            batch |= self._filled(name, most, found, image[some], points[some], weights[some])
        return batch

    def _filled(self, name: str, most: int, boxes: Array, image: Array, points: Array, weights: Array) -> Batch:
        """The targets of one schema: regions with their images, levels and landmarks, and empty ones up to ``most``."""
        fill = most - len(boxes)
        return {
            f"boxes_{name}": np.concatenate([boxes, np.tile([0, 0, 1, 1], (fill, 1))]).astype(np.float32),
            f"level_{name}": np.pad(level_of(boxes, self.recipe.k0, self.recipe.finest), (0, fill)),
            f"image_{name}": np.pad(image, (0, fill)),
            f"points_{name}": np.pad(np.nan_to_num(points), ((0, fill), (0, 0), (0, 0))).astype(np.float32),
            f"weights_{name}": np.pad(weights, ((0, fill), (0, 0))).astype(np.float32),
        }

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of the network, and the regions if the network proposes them."""
        proposed: dict[str, Tensor] = {}

        def regions(outputs: dict[str, Tensor]) -> RegionsBySchema:
            if self.recipe.regions_from == "proposals":
                proposed.update(self._proposed(outputs, batch))
            given = batch | proposed
            return {n: (given[f"boxes_{n}"], given[f"image_{n}"], given[f"level_{n}"]) for n in self.recipe.learnt}

        outputs: dict[str, Tensor] = network(to_input(batch["pixels"]), regions)
        return outputs | proposed

    def _proposed(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Regions of all schemas from the detections of the network."""
        r, device = self.recipe, batch["pixels"].device
        logit, offset = (outputs[name].detach().float().cpu().numpy() for name in ("logit", "offset"))
        boxes, image = proposals(logit, offset, all_anchors(r.canvas, r.canvas, levels(r.finest, r.smallest)))
        made: Batch = {}
        for name, most in zip(r.learnt, r.regions, strict=False):
            parts = (batch[f"{part}_{name}"].cpu().numpy() for part in ("boxes", "image", "points", "weights"))
            faces, of, points, weights = parts
            rows, face = matched(boxes, image, faces, np.where(weights.any(axis=1), of, -1))
            rows, face = rows[:most], face[:most]
            regions = box_ops.grown(boxes[rows], r.region_margin)
            made |= self._filled(name, most, regions, image[rows], points[face], weights[face])
        return tensors(made, device)

    @in_float32
    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms of equation 1, with one term for the landmarks of each schema."""
        r = self.recipe
        image, anchor = batch["positive"].unbind(1)
        offsets = outputs["offset"][image, anchor]
        parts = {
            "score": focal(outputs["logit"], batch["label"], r.alpha, r.gamma),
            "box": functional.smooth_l1_loss(offsets, batch["offset"], beta=BETA, reduction="sum")
            / divisor(image.new_tensor(len(image))),
        }
        given = batch | outputs
        for name in r.learnt:
            regions = (given[f"{part}_{name}"] for part in ("boxes", "points", "weights"))
            parts[f"landmarks_{name}"] = r.landmark_weight * spatial(outputs[name], *regions)
        return parts


def focal(logit: Tensor, label: Tensor, alpha: float, gamma: float) -> Tensor:
    """The focal loss (equation 2) of logits (n, a) and labels (n, a), divided by the number of faces among the anchors.

    Ignored anchors do not count.
    """
    face = label == FACE
    wrong = torch.where(face, -logit, logit)  # logit of the wrong class
    weight = torch.where(face, alpha, 1 - alpha) * (face | (label == BACKGROUND))
    loss = weight * wrong.sigmoid() ** gamma * functional.softplus(wrong)
    return loss.sum() / divisor(face.sum())


def spatial(logits: Tensor, boxes: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """The cross-entropy over the cells of the masks (equation 4): a weighted mean over the landmarks.

    Landmarks outside their region do not count.

    Args:
        logits: (r, K, m, m) masks.
        boxes: (r, 4) regions in pixels.
        points: (r, K, 2) landmarks in pixels.
        weights: (r, K) weights of the landmarks, 0 if unknown.
    """
    side = logits.shape[-1]
    share = (points - boxes[:, None, :2]) / (boxes[:, None, 2:] - boxes[:, None, :2])
    weights = weights * ((share >= 0) & (share < 1)).all(dim=2)
    column, row = (share * side).floor().long().clamp(0, side - 1).unbind(-1)
    known = logits.flatten(2).log_softmax(2).gather(2, (row * side + column)[..., None])[..., 0]
    return -(known * weights).sum() / divisor(weights.sum())


def phases(recipe: Path, stage: str = METHOD) -> list[MaskFaceRecipe]:
    """The settings of every phase of a recipe file."""
    return read_phases(recipe, MaskFaceRecipe, stage)


def read(recipe: Path, stage: str = METHOD) -> MaskFaceRecipe:
    """The settings of the last phase."""
    return phases(recipe, stage)[-1]


def prepare(stage: str, data: Path, recipe: MaskFaceRecipe, out: Path) -> MaskFaceTask:
    """The task, ready to train. Photos are decoded first if they are not yet."""
    return MaskFaceTask(build(recipe), recipe, *composers(stage, data, recipe, out, landmarks=recipe.keypoint_head))


def finish(stage: str, task: MaskFaceTask, out: Path) -> None:
    """Calibrate the scores of faces and landmarks on validation photos."""
    (out / CALIBRATION).unlink(missing_ok=True)  # an earlier one belongs to weights of fewer steps
    with TemporaryDirectory() as folder:
        graph = load_graph(export_run(out, Path(folder) / "uncalibrated.onnx").read_bytes())
        config = Config(**parse_metadata(graph.metadata)[1])
        fits = fitted(partial(MaskFaceDecoder, graph), config, task.held_out.photos, keypoint_head=False)
        write_whole(out / CALIBRATION, json.dumps(fits))


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
    fits = json.loads((out / CALIBRATION).read_text()) if (out / CALIBRATION).exists() else {}
    own: dict[str, Any] = {"landmarks": recipe.landmarks[0], "schemas": list(recipe.landmarks)}
    own |= {name: getattr(recipe, name) for name in ("finest", "smallest", "k0", "region_margin", "keypoint_head")}
    config = settings_of(Config, recipe, **own, **fits)
    made = entries(network)
    return write_trained(made, config, file, run=out, method=METHOD, stages=STAGES, scores=scores, half=True)


def export_bytes(
    content: bytes, images: Iterable[Array], file: Path, scores: Mapping[str, float] | None = None
) -> Path:
    """Quantise the network of a file to 8-bit integers (see `quantise`). Its settings and calibration do not change.

    Args:
        content: A MaskFace file that is not quantised.
        images: (h, w, 3) uint8 RGB, which set the value ranges: a few dozen, with faces of all sizes.
        file: The ONNX file to write.
        scores: Scores by name to store in the file.

    Raises:
        OptionError: The file is already quantised.
    """
    graph = load_graph(content)
    decoder = MaskFaceDecoder(graph, Config(**parse_metadata(graph.metadata)[1]))
    views = (view.pixels for image in images for view in decoder.views(0, image))
    return write_bytes(quantise(content, views), file, graph.metadata, scores or {})


def build(recipe: MaskFaceRecipe, pretrained: str | None = None) -> MaskFace:
    """The network of a recipe. Only its backbone has pretrained weights.

    Args:
        recipe: The settings.
        pretrained: Weights of the backbone that replace the recipe's. Empty: random weights.

    Raises:
        OptionError: There is no such backbone, or no package has its weights.
        WeightsError: The weights are of another network.
        MissingExtraError: The extra ``pretrained`` is not installed.
    """
    return MaskFace(
        recipe.build_backbone(pretrained),
        {name: len(schema(name)) for name in recipe.learnt},
        width=recipe.width,
        head_width=recipe.head_width,
        head_layers=recipe.head_layers,
        finest=recipe.finest,
        context=recipe.context,
        norm=recipe.norm,
    )
