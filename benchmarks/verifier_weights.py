"""Choose the verifier's ``weight``, ``bias`` and ``share`` on validation photos.

    python benchmarks/verifier_weights.py --data DATA [--verifier FILE]

prints the average precision of each detector for some values of ``weight`` and ``share``, the mean overlap of boxes
with labelled faces, and the ``bias`` with which as many faces as before have a score of 0.5 or more.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import lineament
from lineament import boxes as box_ops
from lineament.calibration import logit, sigmoid
from lineament.data.readers.coco import read_coco
from lineament.detector import VERIFIERS
from lineament.evaluate.labelled import Evaluated
from lineament.evaluate.recall import evaluate_recall
from lineament.images import read_image
from lineament.methods import open_weights
from lineament.methods.verifier.decode import MOST, OVERLAP, SURE, Verifier

INDICES = ("detection-val.json", "detection-val-crowd.json")
DETECTORS = ("kpnet-int8", "kpnet-lite-int8")
WEIGHTS, SHARES = (0.0, 0.3, 0.5, 0.7, 1.0), (0.0, 0.5, 0.65, 0.75, 0.85, 1.0)
LOWEST = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of {' and '.join(INDICES)}")
    parser.add_argument("--verifier", default=VERIFIERS["floats"], help="name or file of the verifier's weights")
    parser.add_argument("--detectors", nargs="+", default=DETECTORS)
    args = parser.parse_args()
    graph, _, _, config = open_weights(args.verifier, threads=1)
    verifier = Verifier(graph, config)
    for name in args.detectors:
        detector = lineament.load(name, threads=1, settings={"verify": False})
        for index in INDICES:
            samples = read_coco(args.data / index)
            images = [read_image(sample.path) for sample in samples]
            faces = [detector.detect(image, threshold=LOWEST) for image in images]
            opinions = [verifier.opinions([image], [found])[0] for image, found in zip(images, faces, strict=True)]
            for weight, share in product(WEIGHTS, SHARES):
                judged = [_judged(f, *o, weight, share) for f, o in zip(faces, opinions, strict=True)]
                scores = evaluate_recall(name, Evaluated(samples, judged)).scores
                before = sum((found.scores >= 0.5).sum() for found in faces)
                sums = np.sort(np.concatenate([logit(found.scores) for found in judged]))[::-1]
                shown = {"ap": scores["ap"], "overlap": _overlap(samples, judged), "bias": -sums[before]}
                told = "  ".join(f"{what} {value:.4g}" for what, value in shown.items())
                print(f"{name}, {index}: weight {weight}, share {share}: {told}", flush=True)


def _judged(faces: lineament.Faces, logits: Any, boxes: Any, weight: float, share: float) -> lineament.Faces:
    scores = sigmoid(logit(np.minimum(faces.scores.astype(float), SURE)) + weight * np.minimum(logits, MOST))
    moved = faces.boxes + share * (boxes - faces.boxes)
    return replace(faces, scores=scores, boxes=moved)[box_ops.nms(moved, scores, OVERLAP)]


def _overlap(samples: Any, faces: list[lineament.Faces]) -> float:
    """Mean overlap in percent of labelled faces with the box that fits best, if one overlaps by 0.3."""
    pairs = zip(samples, faces, strict=True)
    best = np.concatenate([box_ops.iou(s.boxes[~s.ignore], f.boxes).max(axis=1, initial=0) for s, f in pairs])
    return 100 * float(best[best > 0.3].mean())


if __name__ == "__main__":
    main()
