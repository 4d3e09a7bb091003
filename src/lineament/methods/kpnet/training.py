"""Training KPNet: canvases with labels, the losses of both maps, and the export of what was learned."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lineament import boxes as box_ops
from lineament.calibration import fit, logistic, robust
from lineament.data.cache import Photos
from lineament.data.canvases import Canvas, LabelRules, Labels
from lineament.errors import OptionError
from lineament.export import describe, export
from lineament.files import write_whole
from lineament.methods.kpnet import embedding, rpn, targets, variants
from lineament.methods.kpnet.adopt import adopt, read_network
from lineament.methods.kpnet.decode import REFINEMENT, Config, sigmoid, terms
from lineament.methods.kpnet.decode import KPNet as Decoder
from lineament.methods.kpnet.entries import entries
from lineament.methods.kpnet.extractions import regress
from lineament.methods.kpnet.losses import FAINT, landmark_losses, offset_loss, position_losses, scale_loss
from lineament.methods.kpnet.network import BACKBONES, KPNet
from lineament.methods.kpnet.quantise import quantise
from lineament.methods.kpnet.scales import LARGEST, SMALLEST
from lineament.methods.kpnet.targets import Spread
from lineament.runtime import load_graph
from lineament.schemas import schema
from lineament.train.canvases import CanvasRecipe, CanvasTask, composers
from lineament.train.checkpoint import initial_weights, phases_of
from lineament.train.precision import in_float32
from lineament.train.recipe import read_phases, settings_of
from lineament.train.run import RECIPE
from lineament.train.task import Batch, generator, to_input
from lineament.weights import parse_metadata, register

Array = NDArray[Any]
METHOD = "kpnet"
STAGES = (METHOD,)
CALIBRATION = "calibration.json"
CANVASES, LEAST_FITTED = 1024, 1000  # that boxes are fitted to, at most; finds there, at least
RANGES = 512  # longer edge in pixels of the pictures that ranges of bytes are taken from
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KPNetRecipe(CanvasRecipe):
    """Settings beside those of every training on canvases.

    Attributes:
        backbone: as in the method's ``Config``.
        extraction: how landmarks are found in a region: "soft-argmax", "argmax" or "regression" (table 2).
        grouping: which landmarks are one face's: those in a region of the "scalemap" or of an "rpn", a region proposal
            network, or those that an "embedding" holds together, which finds them by peaks of its own (table 6).
        focal: the focal form of equation 4; else as printed.
        printed_spread: targets spread as in equation 3; else by ...
        spread: ... sigma as a share of the face's side, and ...
        scale_spread: ... sigma over neighbouring bins, in bins.
        scale_weight: of the scalemap's loss: for one face if focal, else for the sum over one photo's map.
        squared_weight, absolute_weight, peak_weight: of the landmarks' losses (see ``landmark_losses``); where they are
            found by a maximum ...
        heat_weight: ... of the loss that scalemaps have, for one landmark if focal, else for one photo.
        tag_weight: of the embedding's. offset_weight: of the centres' places in their cells, where the maps are coarse.
        labels: faces without a bin are ignored.
    """

    backbone: str = "drnet"
    extraction: str = "soft-argmax"
    grouping: str = "scalemap"
    focal: bool = True
    printed_spread: bool = False
    spread: float = 0.04
    scale_spread: float = 1.0
    scale_weight: float = 1.0
    squared_weight: float = 0.0
    absolute_weight: float = 4.0
    peak_weight: float = 0.2
    heat_weight: float = 1.0
    tag_weight: float = 1.0
    offset_weight: float = 2.0
    labels: LabelRules = LabelRules(smallest=SMALLEST, largest=LARGEST)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.landmarks) > 1:
            raise OptionError(f"kpnet learns one landmark schema, found {', '.join(self.landmarks)}")
        variants.check(self.extraction, self.grouping, self.backbone)

    @property
    def stride(self) -> int:
        """Pixels of the input for one cell of a map."""
        return BACKBONES[self.backbone].cell

    @property
    def by_maxima(self) -> bool:
        """Whether landmarks are where maps are largest, and are learnt as heat maps."""
        return self.extraction == "argmax" or self.grouping == "embedding"


class KPNetTask(CanvasTask):
    """Canvases and what is to be found on them."""

    recipe: KPNetRecipe

    def adopt(self, content: bytes) -> None:
        """Begin with a file's weights; normalisation learns from the first canvases."""
        pixels = np.concatenate([self.batch(step)["pixels"] for step in range(max(64 // self.recipe.batch, 1))])
        assert isinstance(self.network, KPNet)
        adopt(self.network, content, to_input(torch.as_tensor(pixels)))

    def targets(self, rng: np.random.Generator, canvases: Sequence[Labels]) -> Batch:
        """Cells of the scalemap, or what is in its place, and landmarks with their regions."""
        return _targets(rng, canvases, self.recipe)

    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of the scalemap, or what is in its place, and of the landmarks, weighted."""
        r = self.recipe
        parts = self._of_grouping(outputs["scale"], batch) | self._of_extraction(outputs["response"], batch)
        if "offset" in outputs:
            parts["offset"] = in_float32(offset_loss)(outputs["offset"], batch["centres"], batch["sides"], r.stride)
        weights = {
            "scale": r.scale_weight,
            "tags": r.tag_weight,
            "squared": r.squared_weight,
            "absolute": r.absolute_weight,
            "peak": r.peak_weight,
            "heat": r.heat_weight,
            "offset": r.offset_weight,
        }
        return {name: weights[name] * value for name, value in parts.items() if weights[name]}

    def _of_grouping(self, maps: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        focal = self.recipe.focal
        if self.recipe.grouping == "rpn":
            return {"scale": rpn.loss(maps.float(), batch["labels"], batch["offsets"], focal=focal)}
        if self.recipe.grouping == "embedding":
            return {"tags": embedding.loss(maps.float(), batch["points"], batch["weights"])}
        loss = scale_loss(maps, batch["ignored"], batch["cells"], batch["values"], focal=focal)
        return {"scale": loss / (batch["faces"].sum().clamp(min=1) if focal else len(maps))}

    @in_float32
    def _of_extraction(self, maps: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        focal = self.recipe.focal
        regions, points, weights = batch["regions"], batch["points"], batch["weights"]
        if self.recipe.by_maxima:
            loss = scale_loss(maps, batch["heat_ignored"], batch["heat_cells"], batch["heat_values"], focal=focal)
            return {"heat": loss / ((weights > 0).sum().clamp(min=1) if focal else len(maps))}
        if self.recipe.extraction == "regression":
            return position_losses(regress(maps, regions), regions, points, weights)
        return landmark_losses(maps, regions, points, weights, self.recipe.stride)


def _targets(rng: np.random.Generator, canvases: Sequence[Labels], recipe: KPNetRecipe) -> Batch:
    """The targets of a batch of canvases; faces are padded to the number of the fullest canvas."""
    spread = Spread(recipe.printed_spread, recipe.spread, recipe.scale_spread)
    k = len(schema(recipe.landmarks[0]))
    n, f = len(canvases), max(max((int((~c.ignore).sum()) for c in canvases), default=0), 1)
    batch: Batch = {
        "faces": np.array([int((~c.ignore).sum()) for c in canvases], np.float32),
        "ignored": np.stack([targets.ignored(c.boxes[c.ignore], recipe.canvas, recipe.stride) for c in canvases]),
        "regions": np.zeros((n, f, 4), np.float32),
        "points": np.zeros((n, f, k, 2), np.float32),
        "weights": np.zeros((n, f, k), np.float32),
        "centres": np.zeros((n, f, 2), np.float32),
        "sides": np.zeros((n, f), np.float32),
    }
    faces = [c.boxes[~c.ignore] for c in canvases]
    for i, (canvas, boxes) in enumerate(zip(canvases, faces, strict=True)):
        batch["regions"][i, : len(boxes)] = targets.proposals(rng, boxes)
        batch["points"][i, : len(boxes)] = np.nan_to_num(canvas.landmarks[~canvas.ignore])
        batch["weights"][i, : len(boxes)] = canvas.weights[~canvas.ignore]
        batch["centres"][i, : len(boxes)] = (boxes[:, :2] + boxes[:, 2:]) / 2
        batch["sides"][i, : len(boxes)] = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    if recipe.grouping == "scalemap":
        painted = [targets.paint(boxes, recipe.canvas, spread, recipe.stride) for boxes in faces]
        batch["cells"], batch["values"] = _together(painted)
    if recipe.grouping == "rpn":
        assigned = [
            rpn.assign(boxes, c.boxes[c.ignore], recipe.canvas) for c, boxes in zip(canvases, faces, strict=True)
        ]
        batch["labels"], batch["offsets"] = map(np.stack, zip(*assigned, strict=True))
    if recipe.by_maxima:
        batch |= _heat_targets(batch, faces, recipe, spread)
    return batch


def _heat_targets(batch: Batch, faces: list[Array], recipe: KPNetRecipe, spread: Spread) -> Batch:
    """Heat maps, and where they are not learnt: where a face lacks landmarks and, for argmax, outside all regions.

    Landmarks count alike, whoever set them: those under a mask are guesses that the paper's loss cannot weigh.
    """
    whole = [(batch["weights"][i, : len(boxes)] > 0).all(axis=1) for i, boxes in enumerate(faces)]
    ignored = batch["ignored"].copy()
    painted = []
    for i, (boxes, known) in enumerate(zip(faces, whole, strict=True)):
        ignored[i] |= targets.ignored(boxes[~known], recipe.canvas)
        if recipe.grouping != "embedding":
            ignored[i] |= ~targets.ignored(batch["regions"][i, : len(boxes)], recipe.canvas)
        painted.append(targets.heat(batch["points"][i, : len(boxes)][known], boxes[known], recipe.canvas, spread))
    cells, values = _together(painted)
    return {"heat_cells": cells, "heat_values": values, "heat_ignored": ignored}


def _together(painted: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Cells (m, 4) with their image in front, and values (m,), of the cells and values of each image."""
    cells = [np.concatenate([np.full((len(at), 1), i), at], axis=1) for i, (at, _) in enumerate(painted)]
    return np.concatenate(cells), np.concatenate([values for _, values in painted])


def phases(recipe: Path, stage: str = METHOD) -> list[KPNetRecipe]:
    """The settings of every phase of a recipe file."""
    return read_phases(recipe, KPNetRecipe, stage)


def read(recipe: Path, stage: str = METHOD) -> KPNetRecipe:
    """The settings of the last phase."""
    return phases(recipe, stage)[-1]


def prepare(stage: str, data: Path, recipe: KPNetRecipe, out: Path) -> KPNetTask:
    """The task, ready to train: photos are decoded first, if they are not yet."""
    _config(recipe)
    return KPNetTask(_network(recipe), recipe, *composers(stage, data, recipe, out))


def finish(stage: str, task: KPNetTask, out: Path) -> None:
    """Calibrate a trained run's scores on the photos that were held out."""
    (out / CALIBRATION).unlink(missing_ok=True)  # of fewer steps
    with TemporaryDirectory() as folder:
        file = export_run(out, Path(folder) / "uncalibrated.onnx")
        write_whole(out / CALIBRATION, json.dumps(calibrated(file, task)))


def calibrated(file: Path, task: KPNetTask) -> dict[str, Any]:
    """Settings of a file that labelled pictures tell: how boxes are refined, and scores made and calibrated.

    The first is fitted to canvases of the training. What scores are made of is to the photos that were held out, as
    they are shown by default and as large as a canvas together: fitted to a large input alone, scores rank small faces
    too low at any. Calibrated they are as shown by default alone.

    Args:
        file: a file that was not calibrated yet. task: what it was trained for.
    """
    graph, r = load_graph(file.read_bytes()), task.recipe
    config = Config(**parse_metadata(graph.metadata)[1])
    canvases = (task.composer.canvas(generator(r.seed, i), r.canvas) for i in range(min(r.steps * r.batch, CANVASES)))
    by_canvases = Decoder(graph, replace(config, input_size=r.canvas, overview=False))
    config = replace(config, refinement=refinement(by_canvases, canvases))
    decoders = [Decoder(graph, replace(config, input_size=size)) for size in (r.canvas, config.input_size)]
    return {"refinement": config.refinement} | _scoring([_finds(decoder, task.held_out.photos) for decoder in decoders])


def refinement(decoder: Decoder, canvases: Iterable[Canvas]) -> list[Any] | None:
    """Coefficients of ``refined`` by which a network's boxes are nearest to those of faces on canvases.

    A mirrored face has the mirrored box. ``None`` of too few faces to tell.
    """
    parts = []
    for canvas in canvases:
        found = decoder.propose([canvas.pixels])
        found = found[(found.evidence[:, 0] > FAINT) & np.isfinite(found.expected).all(axis=1)]
        faces = canvas.boxes[~canvas.ignore]
        overlaps = box_ops.iou(found.squares, box_ops.square(faces))
        near = np.flatnonzero(overlaps.max(axis=1, initial=0) > 0.3)
        found, truth = found[near], faces[overlaps[near].argmax(axis=1)] if len(near) else faces[:0]
        parts.append((found.evidence, terms(found.expected, found.squares), box_ops.encode_rcnn(truth, found.squares)))
    speaks, told, wanted = map(np.concatenate, zip(*parts, strict=True))
    if len(wanted) < LEAST_FITTED:
        _log.warning("boxes are not refined: %d finds on the training's canvases are too few to fit to", len(wanted))
        return None
    coefficients = np.zeros(REFINEMENT)
    for offset, counting in enumerate(([0], [1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4])):
        features = (speaks[:, :, None] * told[:, None, counting]).reshape(len(told), -1)
        fitted = robust(features, wanted[:, offset])
        coefficients[:, counting, offset] = fitted.reshape(-1, len(counting))
    return list(coefficients.round(5).tolist())


def _scoring(finds: Sequence[tuple[Array, Array]]) -> dict[str, Any]:
    """What the scores of finds are made of, and the calibration of the last of them."""
    evidence, is_face = finds[-1]
    if is_face.all() or not is_face.any():
        _log.warning(
            "scores stay as they are: of %d finds in the validation photos %d are faces", len(is_face), is_face.sum()
        )
        return {}
    coefficients = logistic(*map(np.concatenate, zip(*finds, strict=True)))
    calibration = fit(sigmoid(evidence @ coefficients), is_face)
    return {"evidence": coefficients.round(4).tolist(), "calibration": calibration.to_dict()}


def _finds(decoder: Decoder, photos: Photos) -> tuple[Array, Array]:
    """Evidence (n, 6) for what is found above ``FAINT`` and stands after suppression, and whether it is a face (n,).

    What is no face and lies on ignore regions is left out.
    """
    rows, hits = [], []
    for i, sample in enumerate(photos.samples):
        found = decoder.propose([photos[i]])
        found = found[found.evidence[:, 0] > FAINT]
        found = found[box_ops.nms(found.boxes, found.scores, decoder.config.nms)]
        hit = box_ops.iou(found.boxes, sample.boxes[~sample.ignore]).max(axis=1, initial=0) >= 0.5
        unsure = box_ops.coverage(found.boxes, sample.boxes[sample.ignore]).max(axis=1, initial=0) > 0.5
        rows.append(found.evidence[hit | ~unsure])
        hits.append(hit[hit | ~unsure])
    return np.concatenate(rows), np.concatenate(hits)


def export_run(out: Path, file: Path, scores: Mapping[str, float] | None = None) -> Path:
    """Write a run's best weights so far as an ONNX file that describes itself; a finished run's scores are calibrated.

    Args:
        out: the run's folder. file: the ONNX file. scores: figures that the file should carry, by name.

    Raises:
        OptionError: nothing was trained there.
    """
    recipe = read(out / RECIPE)
    network = _network(recipe)
    network.load_state_dict(initial_weights(out / METHOD))
    fitted = json.loads((out / CALIBRATION).read_text()) if (out / CALIBRATION).exists() else {}
    about = {METHOD: phases_of(out / METHOD)}
    export(
        variants.exported(network, schema(recipe.landmarks[0]), recipe.extraction, recipe.grouping),
        file,
        metadata=describe(METHOD, _config(recipe, **fitted), out / RECIPE, scores, training=about),
    )
    register(file)
    return file


def _config(recipe: KPNetRecipe, **fitted: Any) -> Config:
    """The settings at inference; what the recipe says goes before what was fitted."""
    of_weights = {
        "landmarks": recipe.landmarks[0],
        "backbone": recipe.backbone,
        "multiple": BACKBONES[recipe.backbone].multiple,
    }
    config: Config = settings_of(Config, recipe, **of_weights, **fitted)
    return config


def export_bytes(
    content: bytes, images: Iterable[Array], file: Path, scores: Mapping[str, float] | None = None
) -> Path:
    """Write a file's network in integers of 8 bits (see `quantise`); its settings and calibration stay the same.

    Args:
        content: a KPNet file in floats.
        images: (h, w, 3) uint8 RGB, that ranges are taken from: a few dozen, with faces of all sizes.
        file: the ONNX file. scores: figures that the file should carry, by name.

    Raises:
        OptionError: a file of another method, of a variant, or of 8 bits already.
    """
    network, graph = read_network(content), load_graph(content)
    decoder = Decoder(graph, replace(Config(**parse_metadata(graph.metadata)[1]), input_size=RANGES))
    about = {"name": f"{graph.metadata['name']}-int8", "runtime": "onnx", "scores": json.dumps(dict(scores or {}))}
    with TemporaryDirectory() as folder:
        two_passes = entries(network, landmarks=decoder.schema, two_passes=True)
        whole = export(two_passes, Path(folder) / "floats.onnx", metadata=graph.metadata | about)
        quantise(whole, file, (view.pixels for image in images for view in decoder.views(0, image)))
    register(file)
    return file


def _network(recipe: KPNetRecipe) -> KPNet:
    torch.manual_seed(recipe.seed)
    return variants.build(len(schema(recipe.landmarks[0])), recipe.backbone, recipe.extraction, recipe.grouping)
