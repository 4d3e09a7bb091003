"""The experiments of the paper on MaskFace at our scale, kept in docs/results/data.

python benchmarks/maskface_experiments.py cost                     # table 1: number of operations
python benchmarks/maskface_experiments.py forward                  # time of the landmark head for a face
python benchmarks/maskface_experiments.py vga                      # table 7: time by backbone
python benchmarks/maskface_experiments.py backbones --data DATA    # table 5: each trained under one budget
python benchmarks/maskface_experiments.py parts --data DATA        # table 6: context modules and keypoint head
python benchmarks/maskface_experiments.py levels --data DATA       # k0 of equation 6
python benchmarks/maskface_experiments.py storage --data DATA --run RUN    # a finished run in 32, 16 and 8 bits

``backbones``, ``parts`` and ``levels`` train. A stopped training continues. All accuracies are of validation photos.
``tables.py`` writes the tables of docs/results/maskface.md from the results.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import kept
import numpy as np
import torch
from photosets import VAL
from torch.utils.flop_counter import FlopCounterMode

import lineament
from lineament.data.readers.coco import read_coco
from lineament.data.subset import evenly_spaced
from lineament.evaluate.labelled import Evaluated
from lineament.evaluate.landmarks import evaluate_landmarks
from lineament.evaluate.origin import origin
from lineament.evaluate.recall import evaluate_recall
from lineament.evaluate.results import Result
from lineament.export import export
from lineament.methods.backbones import BACKBONES
from lineament.methods.maskface import training
from lineament.methods.maskface.export import entries
from lineament.methods.maskface.levels import POOLED
from lineament.methods.maskface.network import MaskFace
from lineament.runtime import load_graph, read_metadata
from lineament.train.checkpoint import initial_weights
from lineament.train.run import RECIPE, run

POINTS = "landmarks5-val.json"
EVERY = 8  # of the faces of POINTS one is looked at
SIDE = 640  # pixels of the input whose operations are counted
FACES = 32  # of a pass whose time is taken
PASSES = 100
LIGHT = {"width": 64, "head_width": 64, "head_layers": 4, "norm": "batch"}
CONTEXTS = {"none": "FPN", "branches": "FPN and context", "shared": "FPN and shared context"}
SCRATCH = {"pretrained": '""', "frozen": "-1"}


# --- table 1 ---


def operations(call: Callable[..., Any], *inputs: torch.Tensor) -> float:
    """Multiply-adds of a call, in units of 1e9."""
    with FlopCounterMode(display=False) as counter:
        call(*inputs)
    return counter.get_total_flops() / 2e9


def cost(args: argparse.Namespace) -> None:
    """Operations for the features of a photo of 640x640 pixels, and for the landmarks of one face."""
    with torch.device("meta"):
        pixels, pooled = torch.zeros(1, 3, SIDE, SIDE), {w: torch.zeros(1, w, POOLED, POOLED) for w in (256, 64)}
        for name, backbone, settings in (
            ("ResNet-50, as printed", "resnet-50", {}),
            ("EfficientNet-Lite0, as it ships", "efficientnet-lite0", LIGHT),
        ):
            rows = {}
            for context, what in CONTEXTS.items():
                network = MaskFace(BACKBONES[backbone](), {"5": 5, "68": 68}, context=context, **settings).eval()
                rows[f"{name}: {what}"] = operations(network, pixels)
            width = network.score.in_channels
            for schema in ("5", "68"):
                head = partial(network.landmarks, schema=schema)
                rows[f"{name}: a face's {schema} landmarks"] = operations(head, pooled[width])
            for row, value in rows.items():
                keep("cost", row, {"GMAC": value}, {"input": SIDE}, [])


# --- time ---


def forward(args: argparse.Namespace) -> None:
    """Milliseconds for the landmarks of a face with the shipped weights, including the features of its region."""
    for schema in ("5", "68"):
        decoder = lineament.load("maskface", landmarks=schema, threads=args.threads)._decoder
        graph, random = decoder.graph, np.random.default_rng(0)
        maps = random.standard_normal((1, 64, SIDE // 4, SIDE // 4)).astype(np.float32)
        boxes = random.uniform(0, 60, (FACES, 4)).astype(np.float32)
        boxes[:, 2:] = boxes[:, :2] + 25
        image, times = np.zeros(FACES, np.int64), []
        for _ in range(PASSES):
            start = time.perf_counter()
            (pooled,) = graph("regions", ("pooled",), features=maps, boxes=boxes, image=image)
            graph(f"landmarks_{schema}", ("points", "mass"), pooled=pooled)
            times.append(1e3 * (time.perf_counter() - start) / FACES)
        scores = {"ms a face": float(np.median(times)), "fastest": float(min(times))}
        keep("forward", f"{schema} landmarks", scores, {"faces": FACES}, ["maskface"], args.threads)


def vga(args: argparse.Namespace) -> None:
    """Table 7's form: milliseconds for the boxes in a photo of 640x480 pixels, with random weights."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 512, SIDE, 3), np.uint8)  # sides are multiples of 64
    for row, backbone, settings in (
        ("EfficientNet-Lite0, as it ships", "efficientnet-lite0", LIGHT | {"context": "shared"}),
        ("MobileNetV2, as printed", "mobilenet-v2", {}),
        ("ResNet-50, as printed", "resnet-50", {}),
    ):
        network = MaskFace(BACKBONES[backbone](), {"5": 5}, **settings).eval()
        with TemporaryDirectory() as folder:
            file = export(entries(network), Path(folder) / "vga.onnx", metadata={"method": "maskface"})
            graph = load_graph(file.read_bytes(), threads=args.threads)
        times = []
        for _ in range(PASSES // 10):
            start = time.perf_counter()
            graph("maskface", ("logit", "offset"), pixels=pixels)
            times.append(1e3 * (time.perf_counter() - start))
        keep(
            "table7",
            row,
            {"ms": float(np.median(times)), "fastest": min(times)},
            {"input": [480, SIDE]},
            [],
            args.threads,
        )


# --- accuracy ---


def backbones(args: argparse.Namespace) -> None:
    """Table 5. ImageNet weights are available for one only, so all rows but the first start from random weights."""
    rows = {"efficientnet-lite0, ImageNet": {}}
    rows |= {name: {"backbone": f'"{name}"', **SCRATCH} for name in ("efficientnet-lite0", "mobilenet-v2", "resnet-50")}
    for name, settings in rows.items():
        trained(args, "table5", name, settings)


def parts(args: argparse.Namespace) -> None:
    """Table 6."""
    for context in ("none", "shared"):
        for head in (False, True):
            row = f"{'without' if context == 'none' else 'with'} context, {'with' if head else 'without'} keypoint head"
            settings = {"context": f'"{context}"', "keypoint_head": str(head).lower()}
            trained(args, "table6", row, settings)


def levels(args: argparse.Namespace) -> None:
    """k0 of equation 6. All start from the shipped weights, whose k0 is 3. The backbone is not trained."""
    begin = {"initial": '"maskface"', "frozen": "99", "region_margin": "0.15"}
    for k0 in (3, 4, 5):
        trained(args, "levels", f"k0 = {k0}", begin | {"k0": str(k0)})


def trained(args: argparse.Namespace, table: str, row: str, settings: dict[str, str]) -> None:
    """One variant of the light build, trained for this number of steps and evaluated on validation photos."""
    scores: list[dict[str, float]] = []
    for seed in range(args.seeds):
        out = args.out / f"{table}-{row}-{seed}".replace(" ", "-").replace(",", "")
        file = out / "maskface.onnx"
        if not file.exists():
            budget = {"minutes": 0, "steps": args.steps, "warmup": args.steps // 10, "validate_every": args.steps}
            budget |= {
                "phases": [],
                "batch": args.batch,
                "canvas": args.canvas,
                "average": 0.99,
                "seed": seed,
                "regions": [24, 6],
            }
            overrides = {name: str(value) for name, value in budget.items()} | settings
            run(training, args.data, args.recipe, out, overrides=overrides)
        detector = lineament.load(file, threads=args.threads, settings={"input_size": 384})
        samples = read_coco(args.data / VAL)
        found = Evaluated(samples, [detector.detect(s.path, threshold=0.02) for s in samples])
        figures = {"AP": 100 * float(evaluate_recall(row, found).scores["ap"] or 0)}
        if settings.get("keypoint_head") != "false":
            figures["NME"] = nme(detector, args.data, POINTS)
        scores.append(figures)
    means = {name: float(np.mean([s[name] for s in scores])) for name in scores[0]}
    means |= {f"{name}: deviation": float(np.std([s[name] for s in scores])) for name in scores[0]}
    told = {"steps": args.steps, "batch": args.batch, "canvas": args.canvas, "seeds": args.seeds}
    keep(table, row, means, told, [])


def storage(args: argparse.Namespace) -> None:
    """The file of a finished run with weights in floats of 32 and 16 bits, and quantised to integers of 8 bits."""
    args.out.mkdir(parents=True, exist_ok=True)
    files = {bits: args.out / f"{bits}-bit.onnx" for bits in (32, 16, 8)}
    training.export_run(args.run, files[16])
    network = training.build(training.read(args.run / RECIPE), pretrained="")
    network.load_state_dict(initial_weights(args.run / training.METHOD))
    with patch("lineament.export.round_to_half"):
        made = entries(network)
    export(made, files[32], metadata=read_metadata(files[16].read_bytes()))
    samples = read_coco(args.data / VAL)
    images = [lineament.read_image(sample.path) for sample in evenly_spaced(samples, 32)]
    training.export_bytes(files[16].read_bytes(), images, files[8])
    detectors = {bits: lineament.load(file, threads=args.threads) for bits, file in files.items()}
    times: dict[int, list[float]] = {bits: [] for bits in files}
    for image, (bits, detector) in product(images, detectors.items()):
        start = time.perf_counter()
        detector.detect(image)
        times[bits].append(1e3 * (time.perf_counter() - start))
    for bits, detector in detectors.items():
        found = Evaluated(samples, [detector.detect(sample.path, threshold=0.02) for sample in samples])
        scores = {
            "MB": files[bits].stat().st_size / 1e6,
            "AP": 100 * float(evaluate_recall("maskface", found).scores["ap"] or 0),
            "NME": nme(detector, args.data, POINTS),
            "ms": float(np.median(times[bits])),
        }
        keep("storage", f"{bits} bits", scores, {}, [str(files[bits])], args.threads)


def nme(detector: lineament.Detector, data: Path, index: str) -> float:
    """Error in percent of the distance between the eyes, on a part of the validation faces."""
    samples = read_coco(data / index)[::EVERY]
    found = Evaluated(samples, [detector.detect(sample.path) for sample in samples])
    return 100 * float(evaluate_landmarks("maskface", found).scores["nme"] or np.nan)


def keep(
    table: str, row: str, scores: dict[str, float], settings: dict[str, Any], weights: list[str], threads: int = 1
) -> None:
    found = origin(weights=weights, data=None, threads=threads)
    kept.keep(f"maskface-{table}", row, Result("experiment", row, dict(scores), settings=settings, origin=found))
    print(row, scores, flush=True)


EXPERIMENTS = {f.__name__: f for f in (cost, forward, vga, backbones, parts, levels, storage)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--run", type=Path, default=Path("runs/maskface"), help="a finished training, for storage")
    parser.add_argument("--out", type=Path, default=Path("runs/maskface-experiments"))
    parser.add_argument("--recipe", type=Path, default=kept.ROOT / "recipes" / "maskface.toml")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--canvas", type=int, default=192)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.experiment not in ("cost", "forward", "vga") and args.data is None:
        parser.error("--data is missing: the folder of the data sets")
    EXPERIMENTS[args.experiment](args)


if __name__ == "__main__":
    main()
