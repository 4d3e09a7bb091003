"""The experiments of the paper on FoxNet at our scale, kept in docs/results/data.

python benchmarks/foxnet_experiments.py time                       # figure 4: network and parsing apart, by faces
python benchmarks/foxnet_experiments.py parsing                    # parsing alone, for made-up candidates
python benchmarks/foxnet_experiments.py embedding --data DATA      # losses, margins and coordinates
python benchmarks/foxnet_experiments.py composites --data DATA     # a detector trained on composed scenes alone

``embedding`` and ``composites`` train. A stopped training continues. ``tables.py`` writes the tables of
docs/results/foxnet.md from the results. ``measure.py`` measures tables I and II.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import kept
import numpy as np
import torch
from measure import PAUSE, REPEATS
from numpy.typing import NDArray
from photosets import VAL

import lineament
from lineament.boxes import longer_side
from lineament.conventions import convention
from lineament.data.cache import Photos
from lineament.data.canvases import Canvas
from lineament.data.readers.coco import read_coco
from lineament.data.readers.folder import read_faceless
from lineament.data.scenes import Arrangement, SceneComposer
from lineament.evaluate.labelled import Evaluated
from lineament.evaluate.origin import origin, packages
from lineament.evaluate.recall import evaluate_recall
from lineament.evaluate.results import Result, Scores
from lineament.evaluate.speed import FACE, fit_line, mosaic
from lineament.images import read_image
from lineament.methods.foxnet import cluster, training
from lineament.runtime import Graph
from lineament.train.loop import train
from lineament.train.recipe import copy_recipe
from lineament.train.run import run
from lineament.train.task import generator
from lineament.weights import read_weights

Array = NDArray[Any]
RECIPE = kept.ROOT / "recipes" / "foxnet.toml"
COUNTS = (1, 5, 9, 20, 35, 50)  # faces of a picture; the paper names the parsing of 9
SCHEMAS = ("5", "68")


# --- time ---


class Timed(Graph):
    """A graph that adds up the time of its calls, in seconds."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.seconds = graph, 0.0

    @staticmethod
    def devices() -> list[str]:
        return []

    def __call__(self, entry: str, outputs: tuple[str, ...], **inputs: Array) -> tuple[Array, ...]:
        start = time.perf_counter()
        found = self.graph(entry, outputs, **inputs)
        self.seconds += time.perf_counter() - start
        return found


def time_(args: argparse.Namespace) -> None:
    """Figure 4: milliseconds of the network and of all that follows, by the number of faces.

    The same face, tiled; medians of repeats, one of each number after the other.
    """
    pictures = [mosaic([read_image(FACE)], number) for number in COUNTS]
    for schema in SCHEMAS:
        detector = lineament.load(
            args.weights, landmarks=schema, threads=args.threads, settings={"input_size": args.input}
        )
        decoder = detector._decoder
        graph = decoder.graph = Timed(decoder.graph)
        times: dict[str, list[list[float]]] = {part: [[] for _ in COUNTS] for part in ("network", "parsing", "views")}
        found = [len(detector.detect(picture)) for picture in pictures]
        for _ in range(args.repeats):
            for number, picture in enumerate(pictures):
                time.sleep(PAUSE)
                began = time.perf_counter()
                decoder.views(0, picture)
                views = time.perf_counter() - began
                graph.seconds, began = 0.0, time.perf_counter()
                detector.detect(picture)
                whole = time.perf_counter() - began
                parts = {"network": graph.seconds, "parsing": whole - graph.seconds - views, "views": views}
                for part, seconds in parts.items():
                    times[part][number].append(1e3 * seconds)
        medians = {part: np.median(own, axis=1) for part, own in times.items()}
        for part, own in (medians | {"all": sum(medians.values())}).items():
            scores: Scores = {
                f"{n} face{'s' * (n > 1)}": float(ms) for n, ms in zip(COUNTS, own, strict=True) if n in (1, 9, 50)
            }
            scores |= {"ms per further face": fit_line(COUNTS, own).slope, "found of 50": found[-1]}
            settings = {"input_size": args.input, "repeats": args.repeats}
            keep("time", f"{schema} landmarks, {part}", scores, settings, [args.weights], args.threads)


def parsing(args: argparse.Namespace) -> None:
    """Milliseconds from candidates to faces, for made-up candidates."""
    for schema in SCHEMAS:
        for number in (9, 50):
            candidates = made_up(number, int(schema))
            times = []
            for _ in range(args.repeats * 4):
                began = time.perf_counter()
                names = cluster.faces(*candidates[:-1], width=cluster.bandwidth("cosine", 0.1))
                cluster.best(names, candidates[-1], candidates[3], int(schema))
                times.append(1e3 * (time.perf_counter() - began))
            scores: Scores = {"ms": float(np.median(times)), "fastest": min(times), "candidates": len(names)}
            keep("parsing", f"{schema} landmarks, {number} faces", scores, {}, [], 1)


def made_up(number: int, landmarks: int) -> tuple[Array, ...]:
    """Candidates of faces side by side: one of each landmark, a second of every fifth, and some that belong to none."""
    rng, side = np.random.default_rng(0), 50.0
    places = np.stack(np.divmod(np.arange(number), int(np.ceil(number**0.5))), axis=1) * 1.4 * side
    box = convention("wider").shape
    shape = box if landmarks == len(box) else rng.uniform(box.min(axis=0), box.max(axis=0), (landmarks, 2))
    face, landmark = (axis.ravel() for axis in np.mgrid[:number, :landmarks])
    again = rng.random(len(face)) < 0.2
    face, landmark = np.append(face, face[again]), np.append(landmark, landmark[again])
    centres = rng.normal(size=(number, 8))
    embeddings = centres[face] / np.linalg.norm(centres[face], axis=1, keepdims=True)
    embeddings += 0.1 * rng.normal(size=embeddings.shape)
    points = places[face] + side * (shape[landmark] + rng.normal(0, 0.02, (len(face), 2)))
    strays = 30
    embeddings = np.concatenate([embeddings, rng.normal(size=(strays, 8))])
    points = np.concatenate([points, rng.uniform(0, points.max(), (strays, 2))])
    landmark = np.append(landmark, rng.integers(0, landmarks, strays))
    n = len(landmark)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    sizes = side * np.exp(rng.normal(0, 0.1, n))
    return embeddings, points, sizes, rng.uniform(0.1, 1, n), np.zeros(n, int), landmark


# --- embeddings ---

VARIANTS: dict[str, dict[str, str]] = {
    "cosine, working margins": {},
    "cosine, margins 0.3 and 0.75": {"inner": "0.3", "outer": "0.75"},
    "cosine, printed margins": {"margins": '"printed"'},
    "Euclidean, working margins": {"distance": '"euclidean"'},
    "cosine, working margins, without coordinates": {"coordinates": "false"},
}
CROWDED = Arrangement(share=1, faces=(3, 10), min_side=12, covered=0.5)
EVERY = 4  # of the faces of landmarks5-val, so many-th is used
FRESH = ("place.", "embedding.")
"""Layers that do not begin with the weights of the file."""


def embedding(args: argparse.Namespace) -> None:
    """Cosine against Euclidean, margins, and coordinates: each trained alike, judged by its grouping of landmarks."""
    lists = {"train": '["landmarks5-train.json", "landmarks68-train.json"]', "val": '["landmarks68-val.json"]'}
    budget = {"canvas": args.canvas, "batch": args.batch, "steps": args.steps, "minutes": 0, "average": 0.98}
    budget |= {"warmup": args.steps // 10, "validate_every": args.steps, "longest": 320, "held_out": 16}
    common = lists | {name: str(value) for name, value in budget.items()}
    common |= {"initial": '""', "landmarks": '["5"]', "scenes.share": "1", "scenes.faces": "[2, 10]"}
    scores: dict[str, list[Scores]] = {}
    scenes = crowded(args)
    for seed in range(args.seeds):
        for row, changes in VARIANTS.items():
            out = args.out / f"embedding-{seed}-{row.replace(' ', '-').replace(',', '')}"
            task, recipe = prepared(args, out, common | {"seed": str(seed)} | changes)
            network = train(task, recipe, out / training.METHOD)
            judged = grouping(network, recipe, scenes, recipe.canvas)
            scores.setdefault(row, []).append(judged)
            print(row, seed, judged, flush=True)
    for row, own in scores.items():
        means: Scores = {name: float(np.mean([s[name] for s in own])) for name in own[0]}
        means |= {f"{name}: deviation": float(np.std([s[name] for s in own])) for name in own[0]}
        told = {name: getattr(args, name) for name in ("steps", "batch", "canvas", "seeds", "scenes")}
        keep("embedding", row, means, told, [args.weights])


def prepared(
    args: argparse.Namespace, out: Path, overrides: dict[str, str]
) -> tuple[training.FoxNetTask, training.FoxNetRecipe]:
    """A task that starts from the weights of the file, except for `FRESH`, and its recipe. Photos are decoded once."""
    out.mkdir(parents=True, exist_ok=True)
    (args.out / "photos").mkdir(exist_ok=True)
    if not (out / "photos").exists():
        (out / "photos").symlink_to((args.out / "photos").resolve())
    copy_recipe(args.recipe, out / "recipe.toml", overrides)
    recipe = training.read(out / "recipe.toml")
    task = training.prepare(training.METHOD, args.data, recipe, out)
    state = task.network.state_dict()
    fresh = {name: value.clone() for name, value in state.items() if name.startswith(FRESH)}
    task.adopt(read_weights(args.weights))
    task.network.load_state_dict(fresh, strict=False)
    return task, recipe


def crowded(args: argparse.Namespace) -> list[Canvas]:
    """Scenes of several partly covered faces, none of them from training."""
    samples = [*read_coco(args.data / "landmarks5-val.json")[::EVERY], *read_faceless(args.data / "backgrounds")]
    photos = Photos.build(samples, args.out / "photos" / "crowded", 320)
    composer = SceneComposer(photos, None, arrangement=CROWDED)
    return [composer.canvas(generator(28, i), args.canvas) for i in range(args.scenes)]


def grouping(network: torch.nn.Module, recipe: training.FoxNetRecipe, scenes: list[Canvas], size: int) -> Scores:
    """F1 over pairs of labelled landmarks that are assigned to one face, in percent.

    Landmarks and sizes are those of the labels, so only the embeddings matter: with positions as in use, and without.
    """
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes])).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        maps = network(pixels)["embedding"].permute(0, 2, 3, 1).numpy()
    width = cluster.bandwidth(recipe.distance, recipe.wanted.inner)
    counts = {"F1, embeddings and places": np.zeros(3), "F1, embeddings alone": np.zeros(3)}
    for scene, own in zip(scenes, maps, strict=True):
        points = scene.landmarks[:, :5]
        face, landmark = np.nonzero(
            (scene.weights[:, :5] > 0.5) & (points >= 0).all(axis=2) & (points < size).all(axis=2)
        )
        column, row = (points[face, landmark] / recipe.stride).astype(int).T
        embeddings = own[row, column].astype(float)
        if recipe.distance == "cosine":
            embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-6)
        sides = longer_side(scene.boxes[face])
        ones, same = np.ones(len(face)), face[:, None] == face
        for name, places, sizes in (
            ("F1, embeddings and places", points[face, landmark], sides),
            ("F1, embeddings alone", np.zeros((len(face), 2)), ones),
        ):
            found = cluster.faces(embeddings, places, sizes, ones, np.zeros(len(face), int), width=width)
            said = found[:, None] == found
            off = ~np.eye(len(face), dtype=bool)
            counts[name] += [(said & same & off).sum(), (said & off).sum(), (same & off).sum()]
    return {name: 200 * hits / (said + same) for name, (hits, said, same) in counts.items()}


# --- composites ---


def composites(args: argparse.Namespace) -> None:
    """AP on photos of a detector that was trained on composed scenes alone, from ImageNet weights."""
    budget = {"phases": [], "minutes": args.minutes, "canvas": 192, "validate_every": 100, "held_out": 32, "warmup": 50}
    overrides = {name: str(value) for name, value in budget.items()}
    overrides |= {"initial": '""', "frozen": "2", "average": "0.99", "landmarks": '["5"]', "scenes.share": "1"}
    overrides |= {"train": '["landmarks5-train.json", "landmarks68-train.json"]', "val": '["landmarks68-val.json"]'}
    out = args.out / "composites"
    if not (out / "foxnet.onnx").exists():
        run(training, args.data, args.recipe, out, overrides=overrides)  # type: ignore[arg-type]
    samples = read_coco(args.data / VAL)
    detector = lineament.load(out / "foxnet.onnx", threads=args.threads, settings={"input_size": 384})
    found = Evaluated(samples, [detector.detect(s.path, threshold=0.02) for s in samples])
    result = evaluate_recall("composites", found, threshold=0.02).scores
    log = [json.loads(line) for line in (out / training.METHOD / "log.jsonl").read_text().splitlines()]
    scores: Scores = {name: 100 * float(result[key] or 0) for name, key in (("AP", "ap"), ("recall", "recall"))}
    keep("composites", "scenes alone", scores, {"minutes": args.minutes, "steps": log[-1]["step"]}, [], args.threads)


def keep(table: str, row: str, scores: Scores, settings: dict[str, Any], weights: list[str], threads: int = 1) -> None:
    found = origin(weights=weights, data=None, threads=threads)
    if table in ("embedding", "composites"):
        found["packages"] |= packages("torch")
    kept.keep(f"foxnet-{table}", row, Result("experiment", row, dict(scores), settings=settings, origin=found))
    print(row, scores, flush=True)


EXPERIMENTS = {"time": time_, "parsing": parsing, "embedding": embedding, "composites": composites}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/foxnet-experiments"))
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--weights", default="foxnet", help="of time; of embedding, what its networks begin with")
    parser.add_argument("--input", type=int, default=640, help="time: longer edge of the input")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--steps", type=int, default=150, help="embedding: of each training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--canvas", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=64, help="embedding: on which a network is judged")
    parser.add_argument("--minutes", type=float, default=8, help="composites: of the training")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if args.experiment in ("embedding", "composites") and args.data is None:
        parser.error("--data is missing: the folder of the data sets")
    EXPERIMENTS[args.experiment](args)


if __name__ == "__main__":
    main()
