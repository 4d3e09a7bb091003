"""The paper's tables 1, 2, 3 and 6, figure 1, and other comparisons, for docs/results/kpnet.md.

python benchmarks/kpnet_experiments.py --data DATA                             # all of them
python benchmarks/kpnet_experiments.py table2 --data DATA                      # one
python benchmarks/kpnet_experiments.py --train argmax rpn --data DATA          # only train these variants
python benchmarks/kpnet_experiments.py boxes --boxes mine.onnx --data DATA     # of a file with learned boxes
python benchmarks/kpnet_experiments.py cost --data DATA                        # operations and times
python benchmarks/kpnet_experiments.py seen --data DATA                        # needs the lists of wider_photos.py

All variants, KPNet itself included, start from the backbone of shipped weights (``--start``) and from untrained heads.
They are trained as a whole, on the same batches, for ``--steps`` steps. This is a fraction of a training, so compare
their rows with each other, not with those of shipped weights. Finished trainings are in ``--out`` and are not repeated.
``tables.py`` writes the tables from the results.

The score of each variant is fitted and calibrated on the photos of the measurement, as KPNet's is. Regression has no
peaks. The peak of the embedding is the mean of its landmarks' peaks. The proposals of the RPN are squares, as in the
scalemap.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import kept
import numpy as np
import torch
from compared import SIZES
from numpy.typing import NDArray
from photosets import CROWD, SMALLEST, TESTS, VAL, named, wider_scores
from torch.utils.flop_counter import FlopCounterMode

import lineament
from lineament import boxes as box_ops
from lineament.conventions import convention
from lineament.data.poses import is_profile
from lineament.data.readers.coco import read_coco
from lineament.data.sample import Sample
from lineament.detector import VERIFIERS, Detector
from lineament.evaluate import fddb
from lineament.evaluate.labelled import Evaluated
from lineament.evaluate.landmarks import evaluate_landmarks
from lineament.evaluate.origin import origin, with_origin
from lineament.evaluate.recall import evaluate_recall
from lineament.evaluate.results import Result, Scores
from lineament.export import export
from lineament.faces import Faces
from lineament.methods.kpnet import training
from lineament.methods.kpnet.adopt import config_of, heads_of, read_network
from lineament.methods.kpnet.decode import eyes_and_nose
from lineament.methods.kpnet.export import entries
from lineament.methods.kpnet.heads import Heads, build
from lineament.methods.kpnet.network import BACKBONES, KPNet
from lineament.methods.kpnet.quantise import quantise
from lineament.methods.normalisation import settle
from lineament.runtime import load_graph, read_metadata
from lineament.schemas import schema
from lineament.train.loop import train
from lineament.train.recipe import copy_recipe
from lineament.train.run import RECIPE
from lineament.train.task import to_input
from lineament.views import whole
from lineament.weights import parse_metadata, read_weights

Array = NDArray[Any]
Detect = Callable[[Array], Faces]
VARIANTS: dict[str, dict[str, Any]] = {
    "soft-argmax": {},
    "argmax": {"extraction": "argmax"},
    "regression": {"extraction": "regression"},
    "rpn": {"grouping": "rpn"},
    "embedding": {"grouping": "embedding", "extraction": "argmax"},
    "one bin": {"scale_spread": 0.0},
}
"""Settings in which the variants differ from KPNet."""
ALONE = {
    "convention": "square",
    "boxes": "inferred",
    "refinement": None,
    "proposal": 1.0,
    "evidence": (1, 0, 0, 0, 0, 0),
    "calibration": None,
}
"""The squares of the proposals by the probability of the scale."""
INFERRED = {"boxes": "inferred", "refinement": None, "proposal": 0.0}
"""Boxes from the landmarks alone."""
TURNS = {"upright": 0, "-90°": -90, "+90°": 90}
"""Rotations of the photos in degrees, counter-clockwise."""
FAINT = 0.02
"""Score above which faces count on FDDB and WIDER FACE."""
SEEN = {"learned from": "detection-wider-sharp.json", "new": "detection-wider-more.json"}
"""Photos of WIDER FACE train, of wider_photos.py."""
EVERY = 4
"""One in so many of these photos is measured."""
SHIPPED = {"DRNet": "kpnet", "Hourglass-light": "kpnet-hourglass"}
"""Weights of the paper's backbones."""
LANDSCAPE = (480, 640)
"""Height and width in pixels of the photo whose operations are counted."""
ROUNDS = 20
"""Forward passes that are timed. The fastest counts."""


class Experiments:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    # --- what is measured ---

    def variant(self, name: str) -> Path:
        """The file of a variant, trained unless it exists."""
        args, folder = self.args, self.args.out / name
        file = folder / "kpnet.onnx"
        if file.exists():
            return file
        content = read_weights(args.start)
        settings = {
            "backbone": config_of(parse_metadata(read_metadata(content))[1]).backbone,
            "initial": "",
            "steps": args.steps,
            "batch": args.batch,
            "learning_rate": 1e-3,
            "warmup": min(200, args.steps),
            "average": 0.998,
            "validate_every": min(500, args.steps),  # a stopped training goes on from there
            "workers": 1,
            "phases": [],
        }
        folder.mkdir(parents=True, exist_ok=True)
        written = {key: json.dumps(value) for key, value in (settings | VARIANTS[name]).items()}
        copy_recipe(args.recipe, folder / RECIPE, written)
        recipe = training.read(folder / RECIPE)
        task = training.prepare("kpnet", args.data, recipe, args.out)  # all variants share the decoded photos
        task.network.backbone.load_state_dict(read_network(content).backbone.state_dict())
        pixels = to_input(torch.as_tensor(task.batch(0)["pixels"]))
        settle(task.network, lambda: task.network(pixels))
        train(task, recipe, folder / "kpnet", lambda step, _: print(f"{name}: {step} of {args.steps}", end="\r"))
        training.finish("kpnet", task, folder)
        return training.export_run(folder, file)

    def detector(self, file: str | Path, **settings: Any) -> Detector:
        """The single pass of the paper."""
        single = {"input_size": self.args.input_size, "overview": False, "verify": False}
        return lineament.load(file, threads=self.args.threads, settings=single | settings)

    @cache  # noqa: B019
    def samples(self, index: str) -> list[Sample]:
        return read_coco(self.args.data / index)[: self.args.pictures]

    def detect(self, detector: Detector, index: str, *, profiles: bool = False) -> Evaluated:
        """All detections in the images of an index, or only in images with a profile face."""
        samples = [s for s in self.samples(index) if not profiles or is_profile(s).any()]
        return Evaluated(samples, [detector.detect(sample.path, threshold=0) for sample in samples])

    def on_test(self, test: str, file: str | Path, degrees: int = 0, **settings: Any) -> Evaluated:
        """Detections in the photos of a test of ``photosets.py``, rotated."""
        detector, samples = self.detector(file, **settings), TESTS[test].pictures(self.args.data)[: self.args.pictures]
        images = (np.rot90(lineament.read_image(sample.path), degrees // 90) for sample in samples)
        return Evaluated(samples, [detector.detect(np.ascontiguousarray(i), threshold=FAINT) for i in images])

    @cache  # noqa: B019
    def of_fddb(self, file: str | Path, degrees: int = 0, **settings: Any) -> fddb.Result:
        """On FDDB, folds 1-5, with photos and faces rotated."""
        data = self.args.data / "fddb"
        found = named(self.on_test("fddb", file, degrees, **settings), data / "images")
        truth = fddb.read_ground_truth(data / "ellipseList.txt", data / "image_sizes.txt").rotated(degrees)
        return fddb.evaluate(found, truth.subset(found.images))

    @cache  # noqa: B019
    def of_wider(self, file: Path) -> Scores:
        """Average precision on WIDER FACE by difficulty, in percent."""
        return wider_scores("kpnet", self.on_test("wider-val", file), self.args.data).scores

    # --- the paper's tables ---

    def keep(
        self,
        table: str,
        row: str,
        file: str | Path,
        scores: dict[str, float | None],
        *others: str,
        index: str = VAL,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Store one row of a table, with shares in percent. A variant's has its training in the title.

        Args:
            table: Name of the table.
            row: Title of the row.
            file: The weights.
            scores: Shares by column.
            others: Names of further weights.
            index: The labels.
            settings: Of the detector. ``None``: those of the single pass.
        """
        args, weights = self.args, file
        settings = settings or {"input_size": args.input_size, "overview": False}
        if Path(file).is_relative_to(args.out):
            row, weights = f"{row}, {args.steps:,} x {args.batch}", args.start
            settings |= {"steps": args.steps, "batch": args.batch}
        result = Result(
            "experiment", row, {k: None if v is None else 100 * v for k, v in scores.items()}, settings=settings
        )
        found = origin(weights=[weights, *others], data=args.data / index, threads=args.threads)
        kept.keep(f"kpnet-{table}", row, with_origin(result, found))

    def table1(self) -> None:
        """Recall of the 100 best proposals."""
        for row, file in self.proposers():
            detector = self.detector(file, **ALONE, nms=0.7)
            found = {Path(index).stem: recall(self.detect(detector, index))["recall top 100"] for index in (VAL, CROWD)}
            self.keep("table1", row, file, found)

    def proposers(self) -> Iterator[tuple[str, str | Path]]:
        for backbone, weights in SHIPPED.items():
            yield f"scalemap of {backbone}, as it ships", weights
        for heads, variant in (("scalemap", "soft-argmax"), ("RPN", "rpn")):
            yield heads, self.variant(variant)

    def table2(self) -> None:
        """Extraction of the landmarks."""
        for name in ("regression", "argmax", "soft-argmax"):
            file = self.variant(name)
            scores = {turn: self.of_fddb(file, degrees).recall(50) for turn, degrees in TURNS.items()}
            scores["upright, 1 fp"] = self.of_fddb(file).recall(1)
            sideways = self.detect(self.detector(file), VAL, profiles=True)
            for least in (0.7, 0.8):
                scores[f"profiles, IoU {least}"] = recall(sideways, least_iou=least)["recall at 50 fp"]
            self.keep("table2", name, file, scores | {"NME": nme(self.detect(self.detector(file), VAL))})

    def table3(self) -> None:
        """Errors of the proposals and of the landmarks. The last two have boxes from the landmarks alone."""
        for backbone, weights in SHIPPED.items():
            rows = {
                "proposals alone": self.detect(self.detector(weights, **ALONE), VAL),
                "+ soft-argmax": self.detect(self.detector(weights), VAL),
                "+ soft-argmax, landmarks' boxes": self.detect(self.detector(weights, **INFERRED), VAL),
                "true boxes, landmarks' boxes": self.in_true_boxes(weights, VAL),
            }
            for row, found in rows.items():
                scores = recall(found)
                figures = {"at 50 false positives": scores["recall at 50 fp"], "at 1": scores["recall at 1 fp"]}
                self.keep("table3", f"{backbone}, {row}", weights, figures)

    @torch.no_grad()
    def in_true_boxes(self, weights: str, index: str) -> Evaluated:
        """Soft-argmax and convention in the labelled boxes."""
        content, faces = read_weights(weights), []
        network, config = read_network(content).eval(), config_of(parse_metadata(read_metadata(content))[1])
        extraction, decisive = heads_of(network, config).extraction, eyes_and_nose(schema(config.landmarks))
        for sample in self.samples(index):
            image = lineament.read_image(sample.path)
            h, w = image.shape[:2]
            seen = whole(0, image, self.args.input_size, multiple=network.multiple)
            squares = torch.as_tensor(box_ops.square(sample.boxes[~sample.ignore]) * seen.scale)[None].float()
            response = network(to_input(torch.as_tensor(seen.pixels)[None]))["response"]
            points, peaks = (values[0].numpy() for values in extraction.extract(response, squares))
            points = points / seen.scale
            counted = peaks[:, decisive]
            scores = (1 + counted.sum(-1)) / (1 + counted.shape[1])
            faces.append(Faces.of(convention("wider").boxes(points), scores, points, image_size=(w, h)))
        return Evaluated(self.samples(index), faces)

    def table6(self) -> None:
        """Grouping of landmarks to faces."""
        for row, name in (("RPN", "rpn"), ("associative embedding", "embedding"), ("KPNet", "soft-argmax")):
            self.compare("table6", row, self.variant(name))

    def smoothing(self) -> None:
        """Targets of the scalemap in one bin, as in the paper, or with its neighbours."""
        for row, name in (("one bin", "one bin"), ("neighbouring bins, too", "soft-argmax")):
            self.compare("smoothing", row, self.variant(name))

    def turned(self) -> None:
        """Rotated photos, with and without the setting for them, alone and verified."""
        ways: dict[str, dict[str, Any]] = {"as they are": {}, "in all orientations (`turns`)": {"turns": True}}
        ways |= {f"{row}, and verified": settings | {"verify": True} for row, settings in ways.items()}
        for row, settings in ways.items():
            scores: dict[str, float | None] = {}
            for turn, degrees in TURNS.items():
                found = self.of_fddb("kpnet", degrees, **settings)
                scores |= {f"{turn}, {wrong} fp": found.recall(wrong) for wrong in (50, 1)}
            self.keep("turned", row, "kpnet", scores, *([VERIFIERS["floats"]] if "verify" in settings else []))

    def seen(self) -> None:
        """Photos that the weights have learned from, beside new ones. Large enough faces with official boxes count."""
        for weights, verify in product(("kpnet", "kpnet-lite"), (False, True)):
            scores: dict[str, float | None] = {}
            settings = {"verify": verify}
            detector = lineament.load(weights, threads=self.args.threads, settings=settings)
            for photos, index in SEEN.items():
                samples = [_official(sample) for sample in self.samples(index)[::EVERY]]
                found = [detector.detect(sample.path, threshold=FAINT) for sample in samples]
                for least in (0.5, 0.3):
                    scores[f"{photos}: AP at IoU {least}"] = recall(Evaluated(samples, found), least)["ap"]
            row = f"`{weights}`" if verify else f"`{weights}`, alone"
            others = [VERIFIERS["floats"]] if verify else []
            self.keep("seen", row, weights, scores, *others, index=SEEN["new"], settings=settings)

    def compare(self, table: str, row: str, file: Path) -> None:
        """Store a row of what is found, and how accurately."""
        scores: dict[str, float | None] = {f"FDDB, {wrong} fp": self.of_fddb(file).recall(wrong) for wrong in (50, 1)}
        scores |= {name: self.of_wider(file)[name] / 100 for name in ("easy", "medium", "hard")}
        self.keep(table, row, file, scores | {"NME": nme(self.detect(self.detector(file), VAL))})

    def boxes(self) -> None:
        """Ways to make the boxes of a file that has learned some."""
        kinds = {"from landmarks alone": INFERRED, "refined": {"boxes": "inferred"}, "learned": {"boxes": "learned"}}
        for row, settings in kinds.items():
            detector, scores = self.detector(self.args.boxes, **settings), {}
            for name, index in (("val", VAL), ("crowd", CROWD)):
                found = self.detect(detector, index)
                scores |= {f"{name}: AP at IoU {least}": recall(found, least)["ap"] for least in (0.5, 0.7)}
            self.keep("boxes", row, self.args.boxes, scores)

    def cost(self) -> None:
        """Parameters, multiply-adds and times for a photo without faces, with the sides that the backbone needs."""
        rows, runs = {}, {}
        for backbone in BACKBONES:
            network = untrained(backbone)
            h, w = (-(-side // network.multiple) * network.multiple for side in LANDSCAPE)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(torch.zeros(1, 3, h, w))
            parameters = sum(parameter.numel() for parameter in network.parameters())
            rows[backbone] = {"parameters": parameters, "GMAC": counter.get_total_flops() / 2e9}
            for name, file in self.exported(network, backbone).items():
                feed = {"pixels": np.zeros((1, h, w, 3), np.uint8), "threshold": np.full(1, 100, np.float32)}
                graph = load_graph(file.read_bytes(), threads=self.args.threads)
                runs[backbone, name] = partial(graph, "kpnet", ("logit", "landmarks"), **feed)
        taken = dict.fromkeys(runs, np.inf)
        for _ in range(ROUNDS):
            for key, forward in runs.items():
                start = time.perf_counter()
                forward()
                taken[key] = min(taken[key], 1e3 * (time.perf_counter() - start))
        kept.write("kpnet-cost", {})
        for backbone, scores in rows.items():
            found = origin(weights=[], data=None, threads=self.args.threads)
            times = {name: taken[backbone, name] for name in ("ms", "ms in bytes")}
            result = Result("experiment", backbone, scores | times, settings={"input": LANDSCAPE}, origin=found)
            kept.keep("kpnet-cost", backbone, result)

    def figure1(self) -> None:
        """Networks against resolutions: accuracy of the shipped weights over their operations, from stored results."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt

        cost = kept.read("kpnet-cost")
        figure, panels = plt.subplots(1, 3, figsize=(11, 3.4), dpi=100)
        for axes, difficulty in zip(panels, ("easy", "medium", "hard"), strict=True):
            for weights, backbone in (("kpnet-lite", "lite"), ("kpnet", "drnet"), ("kpnet-hourglass", "hourglass")):
                found = {size: kept.read(f"{weights}-{size}, alone")["wider-val"].scores[difficulty] for size in SIZES}
                macs = [cost[backbone].scores["GMAC"] * (size / LANDSCAPE[1]) ** 2 for size in SIZES]
                axes.plot(macs, found.values(), marker="o", label=weights)
                for x, (size, y) in zip(macs, found.items(), strict=True):
                    axes.annotate(str(size), (x, y), textcoords="offset points", xytext=(4, -10), fontsize=7)
            axes.set(xscale="log", xlabel="GMAC for a photo of 4:3", title=f"average precision, {difficulty}")
            axes.grid(alpha=0.3)
        panels[2].legend(loc="lower right")
        figure.tight_layout()
        figure.savefig(kept.ROOT / "docs" / "images" / "kpnet-resolution.png")

    def exported(self, network: KPNet, backbone: str) -> dict[str, Path]:
        """The files of an untrained network in floats and in bytes."""
        heads = Heads.of(backbone=backbone)
        floats, two, small = (self.args.out / f"{backbone}-{kind}.onnx" for kind in ("floats", "two", "bytes"))
        export(entries(network, heads), floats, metadata={})
        noise = np.random.default_rng(0).integers(0, 256, (4, 128, 192, 3), dtype=np.uint8)
        export(entries(network, heads, views=noise), two, metadata={})
        return {"ms": floats, "ms in bytes": quantise(two, small, noise)}


@torch.no_grad()
def untrained(backbone: str) -> KPNet:
    """A network with random weights, whose normalisation has the statistics of noise."""
    torch.manual_seed(0)
    network = build(backbone=backbone)
    for _ in range(30):
        network(255 * torch.rand(2, 3, 128, 128))
    return network.eval()


def _official(sample: Sample) -> Sample:
    """The sample with all faces ignored but those of `SMALLEST` pixels with a box by people."""
    counts = (sample.box_source == "human") & (box_ops.longer_side(sample.boxes) >= SMALLEST)
    return replace(sample, ignore=sample.ignore | ~counts)


def recall(found: Evaluated, least_iou: float = 0.5) -> Scores:
    return evaluate_recall("kpnet", found, least_iou=least_iou).scores


def nme(found: Evaluated) -> float:
    return float(evaluate_landmarks("kpnet", found).scores["nme visible"] or np.nan)


def main() -> None:
    tables = ["table1", "table2", "table3", "table6", "smoothing", "turned", "cost", "figure1", "seen", "boxes"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=tables[:-2], metavar="TABLE", help=f"of {', '.join(tables)}")
    parser.add_argument("--train", nargs="+", choices=VARIANTS, metavar="VARIANT", help="only train these variants")
    parser.add_argument("--start", default="kpnet", help="weights whose backbone the variants start from")
    parser.add_argument("--boxes", type=Path, help="a file with learned boxes, for the table of boxes")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/kpnet-experiments"))
    parser.add_argument("--recipe", type=Path, default=Path("recipes/kpnet.toml"))
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--input-size", type=int, default=256)
    parser.add_argument("--pictures", type=int, help="so many of each index only")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    experiments = Experiments(args)
    if args.train:
        for variant in args.train:
            experiments.variant(variant)
        return
    for name in args.tables:
        if name not in tables:
            parser.error(f"no table {name!r}; there are: {', '.join(tables)}")
        getattr(experiments, name)()


if __name__ == "__main__":
    main()
