"""The sets of photos that detectors are measured on, and how their detections are scored."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lineament.boxes import longer_side
from lineament.data.readers.coco import read_coco
from lineament.data.readers.wider import read_wider_mat
from lineament.data.sample import Sample
from lineament.evaluate import fddb, pascal, wider
from lineament.evaluate.detections import Detections, pick
from lineament.evaluate.labelled import Evaluated
from lineament.evaluate.landmarks import evaluate_landmarks
from lineament.evaluate.recall import evaluate_recall
from lineament.evaluate.results import Result

VAL, CROWD = "detection-val.json", "detection-val-crowd.json"
SEED = 28  # of composed scenes
SMALLEST = 20  # longer side in pixels of a face that counts where detectors look as they ship


class Test(NamedTuple):
    """A set of photos, how to detect in it, and how to score the detections.

    Attributes:
        labels: File or folder in the data. Results have its digest.
        low: Detect with low thresholds, faces from 10 pixels. Otherwise as shipped.
        pictures: Returns the labelled images, given the folder of the data.
        score: Name, detections, folder of the data -> result.
        compose: Makes the labels in the working folder, given the folder of the data. ``None``: the data have them.
    """

    labels: str
    low: bool
    pictures: Callable[[Path], list[Sample]]
    score: Callable[[str, Evaluated, Path], Result]
    compose: Callable[[Path, Path], None] | None = None


def coco(index: str) -> Callable[[Path], list[Sample]]:
    return lambda data: read_coco(data / index)


def photos(folder: str) -> Callable[[Path], list[Sample]]:
    """Photos without labels, for tests with an official protocol."""
    return lambda data: [Sample.of(path, []) for path in sorted((data / folder).rglob("*.jpg"))]


def named(found: Evaluated, folder: Path) -> Detections:
    """Detections by the image names of official protocols: paths without suffix."""
    names = [sample.path.relative_to(folder).with_suffix("").as_posix() for sample in found.samples]
    return Detections.of(dict(zip(names, found.faces, strict=True)))


def wider_scores(name: str, found: Evaluated, data: Path) -> Result:
    detections = named(found, data / "wider-val" / "images")
    return wider.evaluate(detections, wider.read_ground_truth(data / "wider-val" / "ground_truth")).summary(name)


def fddb_scores(name: str, found: Evaluated, data: Path) -> Result:
    """On all photos, and on those that no training image of lineament shows."""
    detections = named(found, data / "fddb" / "images")
    truth = fddb.read_ground_truth(data / "fddb" / "ellipseList.txt", data / "fddb" / "image_sizes.txt")
    rows = [line.split("\t") for line in (data / "fddb" / "also-in-landmarks5.txt").read_text().splitlines()]
    seen = {row[0] for row in rows if "landmarks5-train" in row}
    unseen = [image for image in detections.images if image not in seen]
    result = fddb.evaluate(detections, truth.subset(detections.images)).summary(name)
    of_unseen = fddb.evaluate(pick(detections, unseen), truth.subset(unseen)).summary(name).scores
    added = {f"unseen: {score}": value for score, value in of_unseen.items() if "continuous" not in score}
    return replace(result, scores=result.scores | added)


def curve_scores(name: str, found: Evaluated, data: Path) -> Result:
    """Scores over all thresholds: plain average precision, and average precision of boxes in the labels' style."""
    result = evaluate_recall(name, found)
    kept_scores = {key: value for key, value in result.scores.items() if not key.startswith(("precision", "f1"))}
    return replace(result, scores=kept_scores | {"ap, styles alike": restyled_ap(found)}, tables={})


def restyled_ap(found: Evaluated) -> float:
    """By the rules for PASCAL faces: the mean deviation of a detector's boxes from the labels is removed first."""
    names = [str(sample.path) for sample in found.samples]
    boxes = [sample.boxes.astype(float) for sample in found.samples]
    small = [((b[:, 2:] - b[:, :2]) < pascal.LEAST_FACE).any(axis=1) for b in boxes]
    ignored = [sample.ignore | tiny for sample, tiny in zip(found.samples, small, strict=True)]
    truth = pascal.GroundTruth(dict(zip(names, boxes, strict=True)), dict(zip(names, ignored, strict=True)))
    return pascal.evaluate(Detections.of(dict(zip(names, found.faces, strict=True))), truth).ap


def shipped_scores(name: str, found: Evaluated, data: Path) -> Result:
    return evaluate_recall(name, found, threshold=0)  # the detector's own threshold decides


def landmark_scores(name: str, found: Evaluated, data: Path) -> Result:
    return evaluate_landmarks(name, found)


def crowd_scores(name: str, found: Evaluated, data: Path) -> Result:
    """F1 of the faces as shipped, and the landmark error of detected faces."""
    result, points = shipped_scores(name, found, data), evaluate_landmarks(name, found).scores
    return replace(result, scores=result.scores | {"nme": points["nme"], "landmarks: recall": points["recall"]})


def composed(schema: str, labels: str, most: int, count: int) -> Test:
    """Scenes of up to ``most`` faces from photos outside of all training. The backgrounds are those of the training.

    Args:
        schema: Schema of the landmarks.
        labels: Index file of the photos.
        most: Largest number of faces.
        count: Number of scenes.
    """
    index = f"scenes-{schema}-{most}/scenes.json"

    def compose(data: Path, work: Path) -> None:
        photos = ["--data", data / labels, "--backgrounds", data / "backgrounds", "--no-check"]
        options = ["--landmarks", schema, "--most", most, "--count", count, "--seed", SEED]
        command = [sys.executable, "-m", "lineament", "compose", work / Path(index).parent, *photos, *options]
        subprocess.run(list(map(str, command)), check=True)

    return Test(index, False, coco(index), crowd_scores, compose)


def large_faces(data: Path) -> list[Sample]:
    """WIDER FACE's photos with the boxes of all faces; those below 20 pixels do not count."""
    samples = read_wider_mat(data / "wider-val" / "ground_truth" / "wider_face_val.mat", data / "wider-val" / "images")
    return [replace(s, ignore=s.ignore | (longer_side(s.boxes) < SMALLEST)) for s in samples]


TESTS = {
    "wider-val": Test("wider-val/ground_truth", True, photos("wider-val/images"), wider_scores),
    "fddb": Test("fddb/ellipseList.txt", True, photos("fddb/images"), fddb_scores),
    "landmarks5-test": Test("landmarks5-test.json", False, coco("landmarks5-test.json"), landmark_scores),
    "landmarks68-test": Test("landmarks68-test.json", False, coco("landmarks68-test.json"), landmark_scores),
    "detection-val": Test(VAL, True, coco(VAL), curve_scores),
    "detection-val, as shipped": Test(VAL, False, coco(VAL), shipped_scores),
    "detection-val-crowd": Test(CROWD, True, coco(CROWD), curve_scores),
    "detection-val-crowd, as shipped": Test(CROWD, False, coco(CROWD), shipped_scores),
    "wider-val, as shipped": Test("wider-val/ground_truth", False, large_faces, shipped_scores),
    "scenes-5-10": composed("5", "landmarks5-val.json", 10, 100),
    "scenes-5-30": composed("5", "landmarks5-val.json", 30, 60),
    "scenes-68-10": composed("68", "landmarks68-test.json", 10, 100),
    "scenes-68-30": composed("68", "landmarks68-test.json", 30, 60),
}
CROWDS = {"5": ("scenes-5-10", "scenes-5-30"), "68": ("scenes-68-10", "scenes-68-30")}
"""Composed scenes by schema, see `composed`."""
