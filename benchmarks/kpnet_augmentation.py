"""Trials of data augmentation: kpnet-lite trains on with one change each, kept in docs/results/data.

lineament detect DATA/backgrounds --method kpnet-lite --threshold 0.02 --min-face 32 --crops DATA/hard --no-align
python benchmarks/kpnet_augmentation.py --run runs/kpnet-augmentation --data DATA

All trials start from the shipped weights and have as many steps. The controls have today's canvases. Average precision
is that of validation photos at 640: as they are, and changed as the trials change canvases, but by other means. Boxes
and scores are made from the network's output as for the shipped weights. Finished trainings are in the folder of the
run and are not repeated. ``tables.py`` writes the table of docs/results/kpnet.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import kept
import numpy as np
from numpy.typing import NDArray
from photosets import CROWD, VAL

import lineament
from lineament.boxes import coverage
from lineament.data.cache import Photos
from lineament.data.poses import is_profile
from lineament.data.readers.coco import read_coco
from lineament.data.sample import Sample
from lineament.evaluate.labelled import Evaluated
from lineament.evaluate.origin import origin, packages
from lineament.evaluate.recall import evaluate_recall
from lineament.evaluate.results import Result
from lineament.methods.kpnet import training
from lineament.methods.kpnet.adopt import config_of
from lineament.runtime import read_metadata
from lineament.similarity import transform
from lineament.train.loop import train
from lineament.train.recipe import copy_recipe
from lineament.train.run import RECIPE
from lineament.weights import parse_metadata, read_weights

Array = NDArray[Any]
Change = Callable[[np.random.Generator, Array, Sample], tuple[Array, Sample]]

TRIALS: dict[str, Mapping[str, str]] = {
    "control": {},
    "turned more often": {"composition.turned": "0.3"},
    "more profiles": {"composition.profiles": "5"},
    "hands and objects": {"occlusion.probability": "0.3", "occlusion.most": "0.5", "occlusion.hands": "0.5"},
    "low light": {"light.dark": "0.2"},
    "cut at the edge": {"composition.cut": "0.15"},
    "more backgrounds": {"composition.backgrounds": "0.2"},
    "hard backgrounds, too": {"composition.backgrounds": "0.2", "backgrounds": '["backgrounds", "hard"]'},
    "control, another seed": {"seed": "1"},
}
START = "kpnet-lite"
SIZE = 640


def unchanged(_: np.random.Generator, image: Array, sample: Sample) -> tuple[Array, Sample]:
    """A photo as it is."""
    return image, sample


def on_its_side(rng: np.random.Generator, image: Array, sample: Sample) -> tuple[Array, Sample]:
    """A photo rotated by 90 degrees to either side."""
    return turned(image, sample, int(rng.choice([-90, 90])))


def turned(image: Array, sample: Sample, degrees: int) -> tuple[Array, Sample]:
    """An image and its labels, rotated counter-clockwise by a multiple of 90 degrees."""
    h, w = image.shape[:2]
    matrix = {0: [[1, 0, 0], [0, 1, 0]], 90: [[0, 1, 0], [-1, 0, w]], -90: [[0, -1, h], [1, 0, 0]]}[degrees]
    corners = transform(sample.boxes.reshape(-1, 2, 2), np.array(matrix, float))
    pixels = np.ascontiguousarray(np.rot90(image, degrees // 90))
    return pixels, replace(
        sample,
        width=pixels.shape[1],
        height=pixels.shape[0],
        boxes=np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1),
        landmarks=transform(sample.landmarks, np.array(matrix, float)),
    )


def covered(rng: np.random.Generator, image: Array, sample: Sample) -> tuple[Array, Sample]:
    """A photo whose faces are each covered by a piece of it, if one without faces is found."""
    image, pieces = image.copy(), image
    limits = np.array([sample.width, sample.height])
    for box in sample.boxes[sample.learnable].astype(float):
        extent = box[2:] - box[:2]
        axis = int(rng.integers(2))
        extent[axis] *= 0.4
        low = box[:2] + rng.random(2) * (box[2:] - box[:2] - extent)
        x, y, right, bottom = np.rint(np.clip([*low, *(low + extent)], 0, np.tile(limits, 2))).astype(int).tolist()
        w, h = right - x, bottom - y
        for left, top in (rng.random((20, 2)) * np.maximum(limits - (w, h), 0)).astype(int).tolist():
            piece = np.array([[left, top, left + w, top + h]], float)
            if min(w, h) > 0 and not coverage(sample.boxes.astype(float), piece).any():
                image[y:bottom, x:right] = pieces[top : top + h, left : left + w]
                break
    return image, sample


def darkened(rng: np.random.Generator, image: Array, sample: Sample) -> tuple[Array, Sample]:
    """A photo with a fifteenth of its light, the noise of so few electrons, and a gain of three."""
    light = 1 / 15 * (image / 255) ** 2.2
    electrons = rng.poisson(light * 600) / 600
    return np.rint(255 * np.clip(3 * electrons, 0, 1) ** (1 / 2.2)).astype(np.uint8), sample


def cut(rng: np.random.Generator, image: Array, sample: Sample) -> tuple[Array, Sample]:
    """A photo that ends at 70 % of the width of one of its faces. Faces with under 60 % left are ignored."""
    faces = sample.boxes[sample.learnable].astype(float)
    if not len(faces):
        return image, sample
    x1, _, x2, _ = faces[rng.integers(len(faces))]
    if x1 + x2 < sample.width:
        low, high = round(x1 + 0.3 * (x2 - x1)), sample.width
    else:
        low, high = 0, round(x1 + 0.7 * (x2 - x1))
    low, high = max(low, 0), min(high, sample.width)
    visible = coverage(sample.boxes.astype(float), np.array([[low, 0, high, sample.height]], float))[:, 0]
    boxes = (sample.boxes - [low, 0, low, 0]).clip(0, [high - low, sample.height] * 2)
    ignore = sample.ignore | (visible < 0.6)
    landmarks = sample.landmarks - [low, 0]
    return np.ascontiguousarray(image[:, low:high]), replace(
        sample, width=high - low, boxes=boxes, landmarks=landmarks, ignore=ignore
    )


CHANGES: dict[str, Change] = {
    "as they are": unchanged,
    "on their side": on_its_side,
    "covered": covered,
    "dark": darkened,
    "cut": cut,
}
PROFILES = "with profiles"


class Trials:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        samples = [sample for index in (VAL, CROWD) for sample in read_coco(args.data / index)]
        photos = Photos.build(samples, args.run / "photos" / "val", SIZE)
        self.photos = {
            name: [change(np.random.default_rng(i), photos[i], sample) for i, sample in enumerate(photos.samples)]
            for name, change in CHANGES.items()
        }
        before = config_of(parse_metadata(read_metadata(read_weights(START)))[1])
        same = ("refinement", "proposal", "overview_share", *training.SCORES)
        self.settings = {"input_size": SIZE, "verify": False} | {name: getattr(before, name) for name in same}

    def trained(self, name: str) -> Path:
        """The file of a trial, trained unless it exists."""
        args = self.args
        folder = args.run / f"{args.steps} steps" / name
        file = folder / "kpnet.onnx"
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            length = {"steps": str(args.steps), "validate_every": str(args.steps)}
            copy_recipe(Path(__file__).with_suffix(".toml"), folder / RECIPE, {**length, **TRIALS[name]})
            settings = training.read(folder / RECIPE)
            decoded = folder if "backgrounds" in TRIALS[name] else args.run  # the photos of all others are the same
            task = training.prepare("kpnet", args.data, settings, decoded)
            task.adopt(read_weights(START))  # not the recipe's initial weights, which would be kept if they are better
            train(task, settings, folder / "kpnet")
            training.export_run(folder, file)
        return file

    def scores(self, weights: str | Path) -> dict[str, float]:
        """Average precision in percent, by change."""
        detector = lineament.load(weights, threads=1, settings=self.settings)
        made = {}
        for name, photos in self.photos.items():
            faces = [detector.detect(image, threshold=0.01) for image, _ in photos]
            labels = [sample for _, sample in photos]
            made[name] = precision(Evaluated(labels, faces))
            if CHANGES[name] is unchanged:
                rows = [i for i, sample in enumerate(labels) if is_profile(sample).any()]
                made[PROFILES] = precision(Evaluated([labels[i] for i in rows], [faces[i] for i in rows]))
        return made


def precision(found: Evaluated) -> float:
    return 100 * evaluate_recall("kpnet", found).scores["ap"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/kpnet-augmentation"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    trials = Trials(args)
    found = origin(weights=[], data=args.data / VAL, threads=1)
    found["packages"] |= packages("torch")
    files = {"before": START} | {name: trials.trained(name) for name in TRIALS}
    kept.write("kpnet-augmentation", {})
    for name, file in files.items():
        settings = {"steps": args.steps, **TRIALS[name]} if name in TRIALS else {}
        result = Result("experiment", name, trials.scores(file), settings=settings, origin=found)
        kept.keep("kpnet-augmentation", name, result)


if __name__ == "__main__":
    main()
