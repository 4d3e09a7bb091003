"""Measurements of the Information-Synthesis Network, kept in docs/results/data.

python benchmarks/isnet_experiments.py jitter --data DATA   # how a detector's points and boxes differ from labels

``tables.py`` writes the tables of docs/results/isnet.md from the results.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import kept
import numpy as np
from numpy.typing import NDArray

import lineament
from lineament import similarity
from lineament.data.readers.coco import read_coco
from lineament.evaluate.landmarks import match_confident
from lineament.evaluate.origin import origin
from lineament.evaluate.results import Result
from lineament.methods.isnet import frame

Array = NDArray[Any]
VAL = "landmarks5-val.json"
DETECTORS = {"kpnet": {"input_size": 256}, "mtcnn": {}}


def jitter(args: argparse.Namespace) -> None:
    """Of crops placed by detectors against crops placed by labels: turn, scale and shift, as the recipes state them."""
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
                moves[what].append(_joined(to_picture, frame.matrices(points, found.boxes, 1.0)))
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
            kept.keep("isnet-jitter", result.name, result)
            print(result.name, {key: round(value, 3) for key, value in scores.items() if value is not None})


def _joined(first: Array, second: Array) -> Array:
    """The similarities (n, 2, 3) that go through one and then the other."""
    linear = second[:, :, :2] @ first
    linear[:, :, 2] += second[:, :, 2]
    return linear


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=["jitter"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--every", type=int, default=10, help="each so many of the validation photos")
    args = parser.parse_args()
    {"jitter": jitter}[args.experiment](args)


if __name__ == "__main__":
    main()
