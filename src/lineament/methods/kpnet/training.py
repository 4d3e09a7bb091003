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
from lineament.calibration import fit, logistic, robust, sigmoid
from lineament.data.cache import Photos
from lineament.data.canvases import Canvas, LabelRules, Labels
from lineament.errors import OptionError
from lineament.export import describe, export
from lineament.files import write_whole
from lineament.methods.kpnet.adopt import adopt, read_network
from lineament.methods.kpnet.decode import REFINEMENT, Config, KPNetDecoder, terms
from lineament.methods.kpnet.export import entries
from lineament.methods.kpnet.heads import Heads, build
from lineament.methods.kpnet.heads.bells import FAINT, Spread
from lineament.methods.kpnet.network import KPNet
from lineament.methods.kpnet.quantise import quantise
from lineament.methods.kpnet.scales import GRIDS, LARGEST, SMALLEST
from lineament.runtime import load_graph
from lineament.schemas import schema
from lineament.train.canvases import CanvasRecipe, CanvasTask, composers
from lineament.train.checkpoint import initial_weights, phases_of
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
        grouping: which landmarks are one face's: those in a region of the "scalemap" or of an "rpn", a region proposal
            network, or those that an "embedding" holds together (table 6).
        extraction: how landmarks are found: in a region by "soft-argmax" or "regression", or as peaks by "argmax"
            (table 2), which is what an embedding takes.
        focal: the focal form of equation 4; else as printed.
        printed_spread: targets spread as in equation 3; else by ...
        spread: ... sigma as a share of the face's side, and ...
        scale_spread: ... sigma over neighbouring bins, in bins.
        scale_weight: of the scalemap's loss: for one face if focal, else for the sum over one photo's map.
        squared_weight, absolute_weight, peak_weight: of the landmarks' losses (see ``landmark_losses``); of argmax ...
        heat_weight: ... of the loss that scalemaps have, for one landmark if focal, else for one photo.
        tag_weight: of the embedding's. offset_weight: of the centres' places in their cells, where the maps are coarse.
        labels: faces without a bin are ignored.
    """

    backbone: str = "drnet"
    grouping: str = "scalemap"
    extraction: str = "soft-argmax"
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
        self.heads()

    def heads(self) -> Heads:
        """The heads of these names, in this style.

        Raises:
            OptionError: there are none, or they do not go together.
        """
        spread = Spread(self.printed_spread, self.spread, self.scale_spread)
        return Heads.of(self.grouping, self.extraction, self.backbone, focal=self.focal, spread=spread)


class KPNetTask(CanvasTask):
    """Canvases and what is to be found on them."""

    recipe: KPNetRecipe

    def adopt(self, content: bytes) -> None:
        """Begin with a file's weights; normalisation learns from the first canvases."""
        pixels = np.concatenate([self.batch(step)["pixels"] for step in range(max(64 // self.recipe.batch, 1))])
        assert isinstance(self.network, KPNet)
        adopt(self.network, content, to_input(torch.as_tensor(pixels)))

    def targets(self, rng: np.random.Generator, canvases: Sequence[Labels]) -> Batch:
        """What the heads are to say of canvases."""
        return self.recipe.heads().targets(rng, canvases, self.recipe.canvas)

    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The heads' losses, weighted; those without weight are left out."""
        r = self.recipe
        weights = {
            "scale": r.scale_weight,
            "tag": r.tag_weight,
            "squared": r.squared_weight,
            "absolute": r.absolute_weight,
            "peak": r.peak_weight,
            "heat": r.heat_weight,
            "offset": r.offset_weight,
        }
        parts = r.heads().losses(outputs, batch)
        return {name: weights[name] * value for name, value in parts.items() if weights[name]}


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
    by_canvases = KPNetDecoder(graph, replace(config, input_size=r.canvas, overview=False))
    config = replace(config, refinement=refinement(by_canvases, canvases))
    decoders = [KPNetDecoder(graph, replace(config, input_size=size)) for size in (r.canvas, config.input_size)]
    return {"refinement": config.refinement} | _scoring([_finds(decoder, task.held_out.photos) for decoder in decoders])


def refinement(decoder: KPNetDecoder, canvases: Iterable[Canvas]) -> list[Any] | None:
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


def _finds(decoder: KPNetDecoder, photos: Photos) -> tuple[Array, Array]:
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
        entries(network, recipe.heads(), landmarks=schema(recipe.landmarks[0])),
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
        "multiple": GRIDS[recipe.backbone].multiple,
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
    decoder = KPNetDecoder(graph, replace(Config(**parse_metadata(graph.metadata)[1]), input_size=RANGES))
    about = {"name": f"{graph.metadata['name']}-int8", "runtime": "onnx", "scores": json.dumps(dict(scores or {}))}
    with TemporaryDirectory() as folder:
        heads = Heads.of(backbone=decoder.config.backbone)
        two_passes = entries(network, heads, landmarks=decoder.schema, two_passes=True)
        whole = export(two_passes, Path(folder) / "floats.onnx", metadata=graph.metadata | about)
        quantise(whole, file, (view.pixels for image in images for view in decoder.views(0, image)))
    register(file)
    return file


def _network(recipe: KPNetRecipe) -> KPNet:
    torch.manual_seed(recipe.seed)
    return build(len(schema(recipe.landmarks[0])), recipe.backbone, recipe.heads())
