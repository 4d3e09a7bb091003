"""Train KPNet: canvases with labels, the losses of both maps, and the export."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lineament.data.cache import Photos
from lineament.data.canvases import Canvas, Composer, LabelRules, Labels
from lineament.data.subset import evenly_spaced
from lineament.errors import OptionError
from lineament.export import describe, export, with_metadata
from lineament.files import write_whole
from lineament.methods.kpnet.adopt import adopt, begin_with, config_of, heads_of, read_network
from lineament.methods.kpnet.decode import Config, KPNetDecoder
from lineament.methods.kpnet.distillation import Teacher
from lineament.methods.kpnet.export import entries
from lineament.methods.kpnet.fitting import CANVASES, fitted
from lineament.methods.kpnet.heads import Heads, build
from lineament.methods.kpnet.heads.bells import Spread
from lineament.methods.kpnet.network import KPNet
from lineament.methods.kpnet.quantise import quantise
from lineament.methods.kpnet.scales import LARGEST, SMALLEST
from lineament.methods.trained import write_trained
from lineament.runtime import Graph, load_graph, read_metadata
from lineament.schemas import schema
from lineament.train.canvases import CanvasRecipe, CanvasTask, composers
from lineament.train.checkpoint import initial_weights
from lineament.train.recipe import as_dict, copy_recipe, read_about, read_phases, settings_of
from lineament.train.run import RECIPE
from lineament.train.samples import check_learnable, read_split
from lineament.train.task import Batch, generator, to_input
from lineament.weights import is_weights, parse_metadata, read_weights, register

Array = NDArray[Any]
_log = logging.getLogger(__name__)

METHOD = "kpnet"
STAGES = (METHOD,)
CALIBRATION = "calibration.json"
PHOTOS = 2048  # largest number of training photos for the canvases of a calibration
LEAST_JUDGED = 300
"""Smallest number of validation faces to fit scores to after fine-tuning. Fitted to 53 faces, they rank worse."""
SCORES = ("evidence", "calibration", "landmark_evidence")
RANGES = 512  # longer edge in pixels of the images that set the value ranges


@dataclass(frozen=True)
class KPNetRecipe(CanvasRecipe):
    """Settings beside those of every training on canvases.

    Attributes:
        backbone: As in the method's ``Config``.
        grouping: How landmarks are grouped to faces: in a region of the "scalemap" or of an "rpn", a region proposal
            network, or by an "embedding" (table 6).
        extraction: How landmarks are extracted: in a region by "soft-argmax" or "regression", or as peaks by "argmax"
            (table 2). An embedding needs "argmax".
        focal: The focal form of equation 4; otherwise as printed.
        printed_proposals: The proposals of the file have the centres of cells and bins, as in the paper. Otherwise
            their neighbours count, too.
        boxes: Boxes are learned, too (ours); only beside the scalemap.
        frozen: Only the boxes learn. Scores and landmarks stay as they are. Needs ``weight_decay`` 0.
        printed_spread: Targets spread as in equation 3. Otherwise by ``spread`` and ``scale_spread``.
        spread: Sigma as a share of the face's side.
        scale_spread: Sigma over neighbouring bins, in bins.
        scale_weight: Weight of the scalemap's loss: per face if focal, otherwise for the sum over the map of one photo.
        squared_weight: Weight of the landmarks' squared error (see ``landmark_losses``).
        absolute_weight: Weight of the landmarks' absolute error.
        peak_weight: Weight of the landmarks' cross-entropy.
        heat_weight: Weight of the heat maps' loss for argmax: per landmark if focal, otherwise per photo.
        tag_weight: Weight of the embedding's loss.
        offset_weight: Weight of the loss of centres in their cells, if the cells are large.
        box_weight: Weight of the loss of boxes, if they are learned.
        teacher: Trained weights whose maps the network imitates, a name or a file (ours, see
            `lineament.methods.kpnet.distillation`). Empty: none.
        scale_like_weight: Weight of the loss of the scalemap's difference from the teacher's.
        response_like_weight: Weight of the loss of the response maps' difference from the teacher's.
        labels: Which faces count. Faces without a bin are ignored.
    """

    backbone: str = "drnet"
    grouping: str = "scalemap"
    extraction: str = "soft-argmax"
    focal: bool = True
    printed_proposals: bool = False
    boxes: bool = False
    frozen: bool = False
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
    box_weight: float = 1.0
    teacher: str = ""
    scale_like_weight: float = 1.0
    response_like_weight: float = 1.0
    labels: LabelRules = LabelRules(smallest=SMALLEST, largest=LARGEST)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.landmarks) > 1:
            raise OptionError(f"kpnet learns one landmark schema, found {', '.join(self.landmarks)}")
        if self.frozen and not (self.boxes and self.weight_decay == 0):
            raise OptionError("frozen trains the boxes alone; it needs boxes = true and weight_decay = 0")
        self.heads()

    def heads(self) -> Heads:
        """The heads of these names, in this style.

        Raises:
            OptionError: The heads do not exist or do not fit together.
        """
        return Heads.of(
            self.grouping,
            self.extraction,
            self.backbone,
            focal=self.focal,
            spread=Spread(self.printed_spread, self.spread, self.scale_spread),
            printed=self.printed_proposals,
            boxes=self.boxes,
        )


class KPNetTask(CanvasTask):
    """Canvases and their targets."""

    recipe: KPNetRecipe

    def __init__(self, network: KPNet, recipe: KPNetRecipe, *photos: Any) -> None:
        super().__init__(network, recipe, *photos)
        self.teacher = Teacher(read_weights(recipe.teacher), network) if recipe.teacher else None

    def adopt(self, content: bytes) -> None:
        """Start from the weights of a file. Normalisation takes its statistics from the first canvases."""
        assert isinstance(self.network, KPNet)
        adopt(self.network, content, self._first_canvases())

    def go_on(self, weights: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> None:
        """Start from an earlier phase or another run, if of another network by `begin_with`.

        Raises:
            OptionError: It has another backbone whose trunk is not wider.
        """
        mine = {name: value.shape for name, value in self.network.state_dict().items()}
        if mine == {name: value.shape for name, value in weights.items()}:
            super().go_on(weights, recipe)
            return
        defaults = {field.name: field.default for field in fields(self.recipe)}
        told: dict[str, Any] = defaults | dict(recipe)  # older runs tell less
        heads = Heads.of(told["grouping"], told["extraction"], told["backbone"], boxes=told["boxes"])
        before = build(len(schema(told["landmarks"][0])), told["backbone"], heads)
        before.load_state_dict(weights)
        assert isinstance(self.network, KPNet)
        begin_with(self.network, before.eval(), self._first_canvases())

    def _first_canvases(self) -> Tensor:
        """Whole batches of up to 64 images (n, 3, h, w) in [0, 255], at least one batch."""
        batches = [self.batch(step)["pixels"] for step in range(max(64 // self.recipe.batch, 1))]
        return to_input(torch.as_tensor(np.concatenate(batches)))

    def targets(self, rng: np.random.Generator, canvases: Sequence[Labels]) -> Batch:
        """The targets of the heads for canvases."""
        return self.recipe.heads().targets(rng, canvases, self.recipe.canvas)

    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted losses of the heads. Those without a weight are left out."""
        r = self.recipe
        weights = {
            "scale": r.scale_weight,
            "tag": r.tag_weight,
            "squared": r.squared_weight,
            "absolute": r.absolute_weight,
            "peak": r.peak_weight,
            "heat": r.heat_weight,
            "offset": r.offset_weight,
            "box": r.box_weight,
            "scale_like": r.scale_like_weight,
            "response_like": r.response_like_weight,
        }
        if r.frozen:
            weights = {"box": r.box_weight}
        parts = r.heads().losses(outputs, batch)
        if self.teacher:
            parts |= self.teacher.losses(outputs, batch)
        return {name: weights[name] * value for name, value in parts.items() if weights.get(name)}


def phases(recipe: Path, stage: str = METHOD) -> list[KPNetRecipe]:
    """The settings of every phase of a recipe file."""
    return read_phases(recipe, KPNetRecipe, stage)


def read(recipe: Path, stage: str = METHOD) -> KPNetRecipe:
    """The settings of the last phase."""
    return phases(recipe, stage)[-1]


def prepare(stage: str, data: Path, recipe: KPNetRecipe, out: Path) -> KPNetTask:
    """The task, ready to train. Photos are decoded first if they are not yet."""
    _config(recipe)
    return KPNetTask(_network(recipe), recipe, *composers(stage, data, recipe, out))


def finish(stage: str, task: KPNetTask, out: Path) -> None:
    """Fit boxes and scores, see `lineament.methods.kpnet.fitting`."""
    (out / CALIBRATION).unlink(missing_ok=True)  # an earlier one belongs to weights of fewer steps
    with TemporaryDirectory() as folder:
        graph = load_graph(export_run(out, Path(folder) / "uncalibrated.onnx").read_bytes())
        write_whole(out / CALIBRATION, json.dumps(_fitted(graph, task)))


def _fitted(graph: Graph, task: KPNetTask) -> dict[str, Any]:
    """Fit boxes and scores of a file to the photos of a task."""
    r = task.recipe
    count = min(r.steps * r.batch, CANVASES)
    config = Config(**parse_metadata(graph.metadata)[1])
    kept = _kept(r, config, sum(int((~sample.ignore).sum()) for sample in task.held_out.photos.samples))
    _log.info("fitting boxes and scores")
    return kept | fitted(
        graph,
        replace(config, **kept),
        canvases=(task.composer.canvas(generator(r.seed, i), r.canvas) for i in range(count)),
        photos=task.held_out.photos,
        canvas=r.canvas,
        given={*r.settings, *(kept.keys() & set(SCORES))},
    )


def _kept(recipe: KPNetRecipe, config: Config, faces: int) -> dict[str, Any]:
    """Fits of the initial weights that a fine-tuning keeps: of boxes until they are fitted, of scores if it has too few
    validation faces.
    """
    if not is_weights(recipe.initial):
        return {}
    before = config_of(parse_metadata(read_metadata(read_weights(recipe.initial)))[1])
    if (before.backbone, before.landmarks) != (config.backbone, config.landmarks):
        return {}
    names = ["refinement"]
    if faces < LEAST_JUDGED:
        _log.info("%d validation faces are too few to fit scores to: those of %s are kept", faces, recipe.initial)
        names += SCORES
    return {name: getattr(before, name) for name in names if name not in recipe.settings}


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
    network = _network(recipe)
    network.load_state_dict(initial_weights(out / METHOD))
    fitted = json.loads((out / CALIBRATION).read_text()) if (out / CALIBRATION).exists() else {}
    made, config = entries(network, recipe.heads()), _config(recipe, **fitted)
    return write_trained(made, config, file, run=out, method=METHOD, stages=STAGES, scores=scores)


def _config(recipe: KPNetRecipe, **fitted: Any) -> Config:
    """The settings at inference. Those of the recipe override those that were fitted."""
    of_weights = {
        "landmarks": recipe.landmarks[0],
        "backbone": recipe.backbone,
        "boxes": "learned" if recipe.boxes else "inferred",
    }
    config: Config = settings_of(Config, recipe, **recipe.heads().grouping.settings, **of_weights, **fitted)
    return config


def calibrate_file(
    content: bytes,
    data: Path,
    recipe: Path,
    file: Path,
    overrides: Mapping[str, str] | None = None,
    scores: Mapping[str, float] | None = None,
) -> Path:
    """Export the network of a file again, with boxes and scores fitted to the photos of a recipe.

    The network computes the same. The new file has the form of this version, whatever version wrote the old one.

    Args:
        content: A KPNet file that is not quantised.
        data: Folder of the recipe's index files.
        recipe: TOML file that names validation photos, to which scores are fitted, and training photos, for the
            canvases to which boxes are fitted. Without training photos the boxes do not change. If its table
            ``[weights]`` has the name of the file, the new file keeps this name and recipe.
        file: The ONNX file to write.
        overrides: Settings that replace the recipe's, written as in TOML.
        scores: Scores by name to store in the file.

    Raises:
        OptionError: The file is of another method or a variant, or is quantised to 8 bits.
        DataError: The validation photos have no faces.
    """
    network, about = read_network(content), read_metadata(content)
    own = config_of(parse_metadata(about)[1])
    with TemporaryDirectory() as folder:
        copy_recipe(recipe, Path(folder) / RECIPE, overrides or {})
        r = read(Path(folder) / RECIPE)
        config: Config = settings_of(Config, r, **asdict(own))
        made = entries(network, heads_of(network, config))
        bare = export(made, Path(folder) / "floats.onnx", metadata={"method": METHOD}).read_bytes()
        photos, canvases = _labelled(data, replace(r, landmarks=config.offered), Path(folder))
        fits = fitted(
            load_graph(bare), config, photos=photos, canvases=canvases, canvas=r.canvas, given=r.settings.keys()
        )
    told = _told(about, replace(config, **fits), recipe, scores)
    write_whole(file, with_metadata(bare, told))
    register(file)
    return file


def _told(
    about: Mapping[str, str], config: Config, recipe: Path, scores: Mapping[str, float] | None
) -> Mapping[str, str]:
    """The metadata of a file with other settings. It keeps its name only if the recipe is its own."""
    if read_about(recipe).get("name") == about["name"]:
        made = [{"recipe": as_dict(phase), "data": {}} for phase in phases(recipe)]
        return describe(METHOD, config, recipe, scores, training={METHOD: made})
    settings = {"config": json.dumps(asdict(config)), "schema": config.landmarks, "version": version("lineament")}
    name = f"own-{about['name'].removeprefix('own-')}"
    return {**about, **settings, "name": name, "scores": json.dumps(dict(scores or {}))}


def _labelled(data: Path, recipe: KPNetRecipe, folder: Path) -> tuple[Photos, Iterable[Canvas] | None]:
    """The validation photos of a recipe, and canvases of some of its training photos, if it has any."""
    held_out = read_split(data, recipe, "val", recipe.landmarks).samples
    check_learnable(held_out, recipe, "val", METHOD, landmarks=False)
    photos = Photos.build(held_out, folder / "val", recipe.longest)
    if not recipe.train:
        return photos, None
    samples = read_split(data, recipe, "train", recipe.landmarks).samples
    some = evenly_spaced(samples, PHOTOS)
    check_learnable(some, recipe, "train", METHOD, landmarks=False)
    composer = Composer(Photos.build(some, folder / "train", recipe.longest), recipe.geometry, recipe.labels)
    return photos, (composer.canvas(generator(recipe.seed, i), recipe.canvas) for i in range(CANVASES))


def export_bytes(
    content: bytes, images: Iterable[Array], file: Path, scores: Mapping[str, float] | None = None
) -> Path:
    """Quantise the network of a file to 8-bit integers (see `quantise`). Its settings and calibration do not change.

    Args:
        content: A KPNet file that is not quantised.
        images: (h, w, 3) uint8 RGB, which set the value ranges and to which the first of two passes is fitted: a few
            dozen, with faces of all sizes.
        file: The ONNX file to write.
        scores: Scores by name to store in the file.

    Raises:
        OptionError: The file is of another method or a variant, or is already quantised, or there are no images.
    """
    network, graph = read_network(content), load_graph(content)
    decoder = KPNetDecoder(graph, replace(Config(**parse_metadata(graph.metadata)[1]), input_size=RANGES))
    about = {"name": f"{graph.metadata['name']}-int8", "runtime": "onnx", "scores": json.dumps(dict(scores or {}))}
    with TemporaryDirectory() as folder:
        views = [view.pixels for image in images for view in decoder.views(0, image)]
        if not views:
            raise OptionError("quantisation needs images, which set the value ranges; found none")
        two_passes = entries(network, heads_of(network, decoder.config), views=views)
        whole = export(two_passes, Path(folder) / "floats.onnx", metadata=graph.metadata | about)
        quantise(whole, file, views)
    register(file)
    return file


def _network(recipe: KPNetRecipe) -> KPNet:
    torch.manual_seed(recipe.seed)
    network = build(len(schema(recipe.landmarks[0])), recipe.backbone, recipe.heads())
    if recipe.frozen:
        network.freeze()
    return network
