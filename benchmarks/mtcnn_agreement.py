"""Fit MTCNN's ``agreement``: how well its views agree on a landmark, against whether it is close to a human label.

    python benchmarks/mtcnn_agreement.py --data DATA

prints the two coefficients and the calibration of the scores: for each tenth of the landmarks by score, the share whose
error is at most 5 % of the face's size (the square root of its box area).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import lineament
from lineament.calibration import logistic, sigmoid
from lineament.data.readers.coco import read_coco
from lineament.evaluate.landmarks import match_confident
from lineament.schemas import FIVE, convert

INDICES = ("landmarks5-val.json", "landmarks21-val.json")
NEAR = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help=f"folder of {' and '.join(INDICES)}")
    parser.add_argument("--photos", type=int, default=1000, help="of either file, at most")
    args = parser.parse_args()
    samples = [sample for index in INDICES for sample in read_coco(args.data / index)[: args.photos]]
    # a slope of 1 without a constant gives the evidence itself back
    detector = lineament.load("mtcnn", threads=1, settings={"agreement": [1.0, 0.0]})
    evidence, near, whose = [], [], []
    for number, sample in enumerate(samples):
        faces = detector.detect(sample.path)
        chosen = match_confident(faces, sample.boxes)
        rows = np.flatnonzero((chosen >= 0) & (sample.landmark_source == "human") & ~sample.ignore)
        found = faces[chosen[rows]]
        size = np.sqrt((found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1))
        truth = convert(sample.landmarks[rows], sample.schema, FIVE)
        error = np.linalg.norm(found.landmarks - truth, axis=2) / size[:, None]
        p = found.landmark_scores.astype(float)
        evidence.append(np.log(p / (1 - p))[np.isfinite(error)])
        near.append((error < NEAR)[np.isfinite(error)])
        whose.append(np.full(int(np.isfinite(error).sum()), number))
    speaks, hits, photo = np.concatenate(evidence), np.concatenate(near), np.concatenate(whose)
    features = np.stack([speaks, np.ones_like(speaks)], axis=1)
    half = photo % 2 == 0
    print(f"{len(hits)} landmarks, {hits.mean():.3f} near; coefficients {logistic(features, hits).round(3).tolist()}")
    scores = sigmoid(features @ logistic(features[half], hits[half]))[~half]
    print("fitted to every second photo, on the others:")
    for part in np.array_split(np.argsort(scores), 10):
        print(f"  score {scores[part].mean():.3f}  near {hits[~half][part].mean():.3f}")


if __name__ == "__main__":
    main()
