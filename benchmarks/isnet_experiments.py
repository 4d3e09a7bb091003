"""Measurements of the Information-Synthesis Network, kept in docs/results/data.

python benchmarks/isnet_experiments.py jitter --data DATA    # how a detector's landmarks and boxes differ from labels
python benchmarks/isnet_experiments.py boxes --data DATA     # the shipped weights on labelled boxes with jitter
python benchmarks/isnet_experiments.py compare --data DATA   # table 3 and figure 2: synthesis against general CNN
python benchmarks/isnet_experiments.py search --data DATA    # table 2 and equation 4: our own trials and function
python benchmarks/isnet_experiments.py forward               # forward time of both, and of the shipped weights

``compare`` and ``search`` train. A stopped training continues. ``tables.py`` writes the tables of docs/results/isnet.md
from the results.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import kept
import numpy as np
from numpy.typing import NDArray

import lineament
from lineament import similarity
from lineament.boxes import centre
from lineament.data.readers.coco import read_coco
from lineament.data.sample import Sample
from lineament.detector import load_stage
from lineament.evaluate.labelled import Evaluated
from lineament.evaluate.landmarks import evaluate_landmarks, match_confident
from lineament.evaluate.origin import origin, packages
from lineament.evaluate.results import Result, curve
from lineament.faces import Faces
from lineament.images import read_image
from lineament.methods.isnet import frame

Array = NDArray[Any]
VAL = "landmarks5-val.json"
DETECTORS = {"kpnet": {"input_size": 256, "verify": False}, "mtcnn": {}}
BOXES = {
    "isnet-5": (VAL, "landmarks5-test.json", "landmarks68-test.json"),
    "isnet-68": ("landmarks68-val.json", "landmarks68-test.json"),
}
SCALE, SHIFT = 0.1, 0.05  # deviations of the boxes' log size, and of their centre over their longer side
SEEDS = range(5)
VARIANTS = {"synthesis": {}, "general CNN": {"twin": "true"}}
RECIPE = kept.ROOT / "recipes" / "isnet-paper.toml"
CROPS = 32  # of a batch whose time is taken


def jitter(args: argparse.Namespace) -> None:
    """Rotation, scale and shift of crops from detections against crops from labels, in the units of the recipes."""
    samples = read_coco(args.data / VAL)[:: args.every]
    for name, settings in DETECTORS.items():
        detector = lineament.load(name, settings=settings, threads=1)
        moves: dict[str, list[Array]] = {"points": [], "boxes": []}
        for sample in samples:
            faces = detector.detect(sample.path)
            chosen = match_confident(faces, sample.boxes)
            rows = np.flatnonzero((chosen >= 0) & ~sample.ignore & (sample.landmark_source == "human"))
            to_picture = similarity.invert(frame.matrices(sample.landmarks[rows], sample.boxes[rows], 1.0))
            found = faces[chosen[rows]]
            for what, points in (("points", found.landmarks), ("boxes", np.full_like(found.landmarks, np.nan))):
                moves[what].append(similarity.compose(to_picture, frame.matrices(points, found.boxes, 1.0)))
        for what, parts in moves.items():
            move = np.concatenate(parts)
            factor = move[:, 0, 0] + 1j * move[:, 1, 0]
            middle = move @ [0.5, 0.5, 1] - 0.5
            columns = {"turn, degrees": np.degrees(np.angle(factor)), "log scale": np.log(np.abs(factor))}
            columns |= {"shift x": middle[:, 0], "shift y": middle[:, 1]}
            scores: dict[str, float | int | None] = {"faces": len(move)}
            for column, values in columns.items():
                scores |= {f"{column}: mean": float(values.mean()), f"{column}: deviation": float(values.std())}
                scores |= {f"{column}: 95 % within": float(np.quantile(np.abs(values), 0.95))}
            found_origin = origin(weights=[name], data=args.data / VAL, threads=1)
            result = Result("jitter", f"{name}, {what}", scores, settings={"every": args.every}, origin=found_origin)
            keep("isnet-jitter", result)


def keep(name: str, result: Result, *, tables: tuple[str, ...] = ()) -> None:
    kept.keep(name, result.name, result, tables=tables)
    print(result.name, {key: value for key, value in result.scores.items() if value is not None})


def boxes(args: argparse.Namespace) -> None:
    """NME on labelled boxes with jitter, without landmarks of a detector, and the calibration of landmark scores."""
    for weights, indices in BOXES.items() if not args.only else [(args.only, BOXES[args.only])]:
        stage = load_stage(args.weights / f"{weights}.onnx" if args.weights else weights, threads=1)
        for index in indices:
            samples = [_by_people(sample) for sample in read_coco(args.data / index)]
            faces = []
            for number, sample in enumerate(samples):
                image = read_image(sample.path)
                faces += stage([image], [_shaken(sample, image, number)])
            result = evaluate_landmarks(f"{weights}, {index.removesuffix('.json')}", Evaluated(samples, faces))
            scores = result.scores | _calibration(samples, faces)
            settings = result.settings | {"log size": SCALE, "shift": SHIFT}
            names = [weights] if not args.weights else [str(args.weights / f"{weights}.onnx")]
            found_origin = origin(weights=names, data=args.data / index, threads=1)
            keep(
                "isnet-boxes",
                replace(result, scores=scores, settings=settings, origin=found_origin),
                tables=("landmark NME",),
            )


def _by_people(sample: Sample) -> Sample:
    """The sample with all faces ignored whose landmarks people did not label."""
    return replace(sample, ignore=sample.ignore | (sample.landmark_source != "human"))


def _shaken(sample: Sample, image: Array, seed: int) -> Faces:
    """The labelled faces without landmarks, in shifted and resized boxes."""
    rng = np.random.default_rng(seed)
    sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
    centres = centre(sample.boxes) + SHIFT * sides.max(axis=1, keepdims=True) * rng.standard_normal((len(sample), 2))
    halves = sides / 2 * np.exp(SCALE * rng.standard_normal((len(sample), 1)))
    return Faces.of(
        np.concatenate([centres - halves, centres + halves], axis=1),
        np.ones(len(sample)),
        np.full((len(sample), 5, 2), np.nan),
        image_size=(image.shape[1], image.shape[0]),
    )


def _calibration(samples: Sequence[Sample], faces: Sequence[Faces]) -> dict[str, float | int | None]:
    """Mean landmark score, and the share of landmarks within a tenth of the eyes' distance, in the schema."""
    if samples[0].schema != faces[0].schema:
        return {}
    said, hits = [], []
    for sample, found in zip(samples, faces, strict=True):
        rows = ~sample.ignore
        truth = sample.landmarks[rows].astype(float)
        right, left = (list(sample.schema.groups[f"{side}_eye"]) for side in ("right", "left"))
        eyes = np.linalg.norm(truth[:, right].mean(axis=1) - truth[:, left].mean(axis=1), axis=1)
        said.append(found.landmark_scores[rows].ravel())
        hits.append((np.linalg.norm(found.landmarks[rows] - truth, axis=2) < 0.1 * eyes[:, None]).ravel())
    score, hit = np.concatenate(said), np.concatenate(hits)
    return {"mean landmark score": float(score.mean()), "share within a tenth": float(hit.mean())}


def compare(args: argparse.Namespace) -> None:
    """Table 3: training and test loss of synthesis and general CNN, trained alike with each seed."""
    from lineament.methods.isnet import training
    from lineament.train.run import run

    curves: dict[str, list[Array]] = {}
    for seed in SEEDS:
        for variant, changes in VARIANTS.items():
            out = args.run / f"{variant.replace(' ', '-').lower()}-{seed}"
            faces = args.run / "faces"
            if not (out / "faces").exists() and faces.exists():
                out.mkdir(parents=True, exist_ok=True)
                (out / "faces").symlink_to(faces.resolve())  # cut once
            overrides = changes | {"seed": str(seed)} | ({"steps": str(args.steps)} if args.steps else {})
            run(training, args.data, RECIPE, out, overrides=overrides)  # type: ignore[arg-type]
            if not faces.exists():
                (out / "faces").rename(faces)
                (out / "faces").symlink_to(faces.resolve())
            log = [json.loads(line) for line in (out / "crops" / "log.jsonl").read_text().splitlines()]
            train = np.array([(e["step"], e["landmarks"]) for e in log if "landmarks" in e])
            test = np.array([(e["step"], e["validation"]["equation_3"]) for e in log if "validation" in e])
            error = -max(e["validation"]["negated_error"] for e in log if "validation" in e)
            curves.setdefault(f"{variant}, train", []).append(train)
            curves.setdefault(f"{variant}, test", []).append(test)
            scores = {"train loss": float(train[-5:, 1].mean()), "test loss": float(test[-1, 1]), "error": error}
            found_origin = origin(weights=[], data=args.data / VAL, threads=1)
            found_origin["packages"] |= packages("torch")
            settings = {"steps": int(train[-1, 0]), "seed": seed}
            keep(
                "isnet-table3",
                Result("experiment", f"{variant}, seed {seed}", scores, settings=settings, origin=found_origin),
            )
    mean = {
        name: curve(runs[0][:, 0], np.mean([r[:, 1] for r in runs], axis=0), "step", "loss (equation 3)")
        for name, runs in curves.items()
    }
    (args.run / "curves.json").write_text(json.dumps(mean))
    plot(mean, kept.ROOT / "docs" / "images" / "isnet-loss.png")


def plot(curves: dict[str, dict[str, Any]], file: Path) -> None:
    """Figure 2: means over the seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), dpi=110)
    for name, shown in curves.items():
        colour = "tab:blue" if name.startswith("synthesis") else "tab:orange"
        axes.plot(shown["x"], shown["y"], color=colour, linestyle="-" if name.endswith("test") else ":", label=name)
    axes.set(xlabel="step", ylabel="loss (equation 3), pixels²", yscale="log")
    axes.legend()
    axes.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(file)


def search(args: argparse.Namespace) -> None:
    """Our own table 2 and equation 4."""
    from lineament.methods.isnet.trials import search_weights

    overrides = {"steps": str(args.steps)} if args.steps else {}
    found = search_weights(
        args.data, RECIPE, args.run, trials=args.trials, phi=args.phi, processes=args.processes, overrides=overrides
    )
    found_origin = origin(weights=[], data=args.data / VAL, threads=1)
    found_origin["packages"] |= packages("torch")
    settings: dict[str, Any] = {"steps": args.steps, "phi": args.phi, "agreed": found.agreed}
    confirming = len(found.betas) - len(found.rounds)
    for number, (beta, loss) in enumerate(zip(found.betas, found.losses, strict=True)):
        scores: dict[str, float | int | None] = {f"beta_{i}": weight for i, weight in enumerate(beta, 2)}
        scores["loss"] = loss
        title, own = f"{number + 1}", settings
        if number >= confirming:
            step = found.rounds[number - confirming]
            scores["predicted"] = step.predicted
            title = f"minimum, degree {step.polynomial.degree}"
            own = settings | {"function": str(step.polynomial)}
        keep("isnet-table2", Result("experiment", title, scores, settings=own, origin=found_origin))


def forward(args: argparse.Namespace) -> None:
    """Milliseconds per face in batches of 32, in onnxruntime: elapsed with two threads, processor time with one."""
    from lineament.export import export
    from lineament.methods.isnet.entries import entries
    from lineament.methods.isnet.network import PaperNet
    from lineament.runtime import load_graph
    from lineament.weights import read_weights

    files = {n: (args.weights / f"{n}.onnx").read_bytes() if args.weights else read_weights(n) for n in BOXES}
    for variant, twin in (("synthesis, as printed", False), ("general CNN", True)):
        network = PaperNet(5, 32, (0.4014, 0.0, 0.5986), twin=twin).eval()
        files[variant] = export(entries(network), args.run / "forward.onnx", metadata={}).read_bytes()
    for name, content in files.items():
        times: dict[int, list[float]] = {}
        for threads, clock in ((2, time.perf_counter), (1, time.process_time)):
            graph = load_graph(content, threads=threads)
            size = graph._session.get_inputs()[0].shape[1]  # type: ignore[attr-defined]
            pixels = np.random.default_rng(0).integers(0, 256, (CROPS, size, size, 3), dtype=np.uint8)
            for _ in range(100):
                began = clock()
                graph("isnet", ("points", "spread"), pixels=pixels)
                times.setdefault(threads, []).append(1e3 * (clock() - began) / CROPS)
        scores = {"ms a face": float(np.median(times[2])), "fastest": float(np.min(times[2]))}
        scores |= {"processor ms, 1 thread": float(np.median(times[1])), "KB": len(content) / 1000}
        names = [name] if name in BOXES and not args.weights else []
        keep("isnet-forward", Result("speed", name, scores, origin=origin(weights=names, data=None, threads=2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=["jitter", "boxes", "compare", "search", "forward"])
    parser.add_argument("--data", type=Path, help="folder of the index files")
    parser.add_argument("--run", type=Path, default=Path("runs/isnet-experiments"), help="folder of what is trained")
    parser.add_argument("--weights", type=Path, help="folder of weights other than those that ship")
    parser.add_argument("--only", choices=list(BOXES), help="boxes: these weights")
    parser.add_argument("--every", type=int, default=10, help="jitter: each so many of the validation photos")
    parser.add_argument("--steps", type=int, help="of every training, in place of the recipe's")
    parser.add_argument("--trials", type=int, default=15)
    parser.add_argument("--phi", type=float, default=0.1)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    experiments = {"jitter": jitter, "boxes": boxes, "compare": compare, "search": search, "forward": forward}
    experiments[args.experiment](args)


if __name__ == "__main__":
    main()
