"""Training MaskFace on canvases: anchors, boxes and masks of landmarks at once (Yashunin et al. 2020, section 3)."""

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
from lineament.export import describe, export, with_metadata
from lineament.files import write_whole
from lineament.methods import backbones
from lineament.methods.adopt import adopt, read_tensors
from lineament.methods.backbones.base import freeze
from lineament.methods.fitting import fitted
from lineament.methods.maskface.decode import Config, MaskFaceDecoder
from lineament.methods.maskface.export import entries
from lineament.methods.maskface.levels import FINEST, SMALLEST, level_of, levels
from lineament.methods.maskface.network import CONTEXTS, MaskFace, RegionsBySchema
from lineament.methods.maskface.quantise import quantise
from lineament.methods.maskface.targets import BACKGROUND, FACE, jittered, match, matched, proposals
from lineament.methods.normalisation import settle
from lineament.runtime import load_graph
from lineament.schemas import schema
from lineament.train.canvases import CanvasRecipe, CanvasTask, composers
from lineament.train.checkpoint import initial_weights, phases_of
from lineament.train.precision import in_float32
from lineament.train.recipe import read_phases, settings_of
from lineament.train.run import RECIPE
from lineament.train.task import Batch, divisor, tensors, to_input
from lineament.weights import parse_metadata, register

Array = NDArray[Any]
METHOD = "maskface"
STAGES = (METHOD,)
CALIBRATION = "calibration.json"  # in a run's folder: what scores are worth
ROOTS = {".network.": "", ".head.": "landmarks."}  # of names in a file, and in the network
BETA = 1 / 9  # of the smooth L1 loss


@dataclass(frozen=True)
class MaskFaceRecipe(CanvasRecipe):
    """Settings beside those of every training on canvases.

    Attributes:
        backbone: see `lineament.methods.backbones`. pretrained: its weights, likewise.
        frozen: how many of its first convolutions do not learn; its normalisation never does.
        width, head_width, head_layers, finest, context, norm: as of ``MaskFace``.
        keypoint_head: whether there is one; without, boxes alone are learnt and found (table 6).
        smallest: side in pixels of the smallest anchor.
        k0: level of a face of 224 pixels (equation 6).
        regions: for each landmark schema, of how many faces of a batch landmarks are learnt, at most.
        regions_from: where their landmarks are looked for: "labels", in their boxes, moved and resized at random;
            "proposals", in the boxes that the network finds them by (the paper).
        jitter: sigma by which boxes from labels are moved and resized, as a share of the sides.
        region_margin: how much further than its face a region reaches on every side, as a share of the side:
            landmarks of a jaw lie at the edge of a box, or outside.
        alpha, gamma: of the focal loss (equation 2).
        landmark_weight: lambda of equation 1.
        labels: faces far from all anchors' sizes are ignored, as they would be matched badly.
    """

    backbone: str = "efficientnet-lite0"
    pretrained: str = "imagenet"
    frozen: int = 2
    width: int = 256
    head_width: int = 256
    head_layers: int = 8
    finest: int = FINEST
    context: str = "branches"
    keypoint_head: bool = True
    norm: str = "group"
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
            raise OptionError(f"the maps need a canvas whose side is a multiple of 32 pixels, found {self.canvas}")
        if self.norm not in ("group", "batch"):
            raise OptionError(f"norm is group or batch, found {self.norm!r}")
        if self.context not in CONTEXTS:
            raise OptionError(f"context is one of {', '.join(CONTEXTS)}, found {self.context!r}")
        if self.regions_from not in ("labels", "proposals"):
            raise OptionError(f"regions_from is labels or proposals, found {self.regions_from!r}")
        if len(self.regions) != len(self.landmarks):
            raise OptionError(f"regions has a number for each of landmarks {self.landmarks}, found {self.regions}")

    @property
    def learnt(self) -> tuple[str, ...]:
        """Names of the schemas whose landmarks are learnt."""
        return self.landmarks if self.keypoint_head else ()


class MaskFaceTask(CanvasTask):
    """Canvases and what is to be found on them."""

    recipe: MaskFaceRecipe

    def adopt(self, content: bytes) -> None:
        """Begin with a file's weights, wherever they fit; normalisation learns from the first canvases."""
        assert isinstance(self.network, MaskFace)
        adopt(self.network, read_tensors(content, [METHOD], ROOTS))
        batch = tensors(self.batch(0), torch.device("cpu"))
        settle(self.network, lambda: self.forward(self.network, batch))

    def targets(self, rng: np.random.Generator, canvases: Sequence[Labels]) -> Batch:
        """What anchors are, offsets of those that are faces, and regions with landmarks."""
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
        """By schema, as many regions as the recipe says, of faces whose landmarks are known; the last may be empty.

        Their number is always the same, since convolutions are prepared anew for every new size of a batch.
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
        """Regions of a schema, their images, levels and landmarks, and empty ones up to so many."""
        fill = most - len(boxes)
        return {
            f"boxes_{name}": np.concatenate([boxes, np.tile([0, 0, 1, 1], (fill, 1))]).astype(np.float32),
            f"level_{name}": np.pad(level_of(boxes, self.recipe.k0, self.recipe.finest), (0, fill)),
            f"image_{name}": np.pad(image, (0, fill)),
            f"points_{name}": np.pad(np.nan_to_num(points), ((0, fill), (0, 0), (0, 0))).astype(np.float32),
            f"weights_{name}": np.pad(weights, ((0, fill), (0, 0))).astype(np.float32),
        }

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Anchors everywhere, and masks in regions; with those regions, if the network itself proposes them."""
        proposed: dict[str, Tensor] = {}

        def regions(outputs: dict[str, Tensor]) -> RegionsBySchema:
            if self.recipe.regions_from == "proposals":
                proposed.update(self._proposed(outputs, batch))
            given = batch | proposed
            return {n: (given[f"boxes_{n}"], given[f"image_{n}"], given[f"level_{n}"]) for n in self.recipe.learnt}

        outputs: dict[str, Tensor] = network(to_input(batch["pixels"]), regions)
        return outputs | proposed

    def _proposed(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch's regions of all schemas, in boxes that the network finds its faces by."""
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
        """Equation 1, its landmarks' part by schema."""
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
    """Equation 2 of logits (n, a) and labels (n, a); ignored anchors have no part in it."""
    face = label == FACE
    wrong = torch.where(face, -logit, logit)  # probability of what an anchor is not, as a logit
    weight = torch.where(face, alpha, 1 - alpha) * (face | (label == BACKGROUND))
    loss = weight * wrong.sigmoid() ** gamma * functional.softplus(wrong)
    return loss.sum() / divisor(face.sum())


def spatial(logits: Tensor, boxes: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Equation 4: cross-entropy over the cells of masks, in the weighted mean of the landmarks that their regions hold.

    Args:
        logits: (r, K, m, m). boxes: (r, 4) regions. points: (r, K, 2), in the same pixels. weights: (r, K).
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
    """The task, ready to train: photos are decoded first, if they are not yet."""
    return MaskFaceTask(build(recipe), recipe, *composers(stage, data, recipe, out))


def finish(stage: str, task: MaskFaceTask, out: Path) -> None:
    """Calibrate the scores of faces and landmarks on validation photos."""
    (out / CALIBRATION).unlink(missing_ok=True)  # of fewer steps
    with TemporaryDirectory() as folder:
        graph = load_graph(export_run(out, Path(folder) / "uncalibrated.onnx").read_bytes())
        config = Config(**parse_metadata(graph.metadata)[1])
        fits = fitted(partial(MaskFaceDecoder, graph), config, task.held_out.photos, keypoint_head=False)
        write_whole(out / CALIBRATION, json.dumps(fits))


def export_run(out: Path, file: Path, scores: Mapping[str, float] | None = None) -> Path:
    """Write a run's best weights so far as an ONNX file that describes itself; a finished run's scores are calibrated.

    Args:
        out: the run's folder. file: the ONNX file. scores: figures that the file should carry, by name.

    Raises:
        OptionError: nothing was trained there.
    """
    recipe = read(out / RECIPE)
    network = build(recipe, pretrained="")
    network.load_state_dict(initial_weights(out / METHOD))
    fits = json.loads((out / CALIBRATION).read_text()) if (out / CALIBRATION).exists() else {}
    own: dict[str, Any] = {"landmarks": recipe.landmarks[0], "schemas": list(recipe.landmarks)}
    own |= {name: getattr(recipe, name) for name in ("finest", "smallest", "k0", "region_margin", "keypoint_head")}
    config = settings_of(Config, recipe, **own, **fits)
    about = describe(METHOD, config, out / RECIPE, scores, training={METHOD: phases_of(out / METHOD)})
    export(entries(network), file, metadata=about, half=True)
    register(file)
    return file


def export_bytes(
    content: bytes, images: Iterable[Array], file: Path, scores: Mapping[str, float] | None = None
) -> Path:
    """Write a file's network in integers of 8 bits (see `quantise`); its settings and calibrations stay the same.

    Args:
        content: a MaskFace file in floats.
        images: (h, w, 3) uint8 RGB, that ranges are taken from: a few dozen, with faces of all sizes.
        file: the ONNX file. scores: figures that the file should carry, by name.

    Raises:
        OptionError: a file of 8 bits already.
    """
    graph = load_graph(content)
    decoder = MaskFaceDecoder(graph, Config(**parse_metadata(graph.metadata)[1]))
    views = (view.pixels for image in images for view in decoder.views(0, image))
    about = {"name": f"{graph.metadata['name']}-int8", "runtime": "onnx", "scores": json.dumps(dict(scores or {}))}
    small = quantise(content, views)
    write_whole(file, with_metadata(small.SerializeToString(), graph.metadata | about))
    register(file)
    return file


def build(recipe: MaskFaceRecipe, pretrained: str | None = None) -> MaskFace:
    """The network of a recipe, untrained but for its backbone.

    Args:
        recipe: the settings. pretrained: in place of the recipe's.
    """
    torch.manual_seed(recipe.seed)
    backbone = backbones.build(recipe.backbone, recipe.pretrained if pretrained is None else pretrained)
    freeze(backbone, recipe.frozen)
    return MaskFace(
        backbone,
        {name: len(schema(name)) for name in recipe.learnt},
        width=recipe.width,
        head_width=recipe.head_width,
        head_layers=recipe.head_layers,
        finest=recipe.finest,
        context=recipe.context,
        norm=recipe.norm,
    )
