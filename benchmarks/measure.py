"""Measure detectors, lineament's and others, on all sets of photos. Scores and origin are in docs/results/data.

python benchmarks/measure.py --data DATA                         # what is not yet measured of the shipped weights
python benchmarks/measure.py --data DATA kpnet-640 mtcnn         # only these
python benchmarks/measure.py --data DATA --tests wider-val fddb  # only these tests
python benchmarks/measure.py --data DATA --peers PEERS           # other packages too: their environments and weights
python benchmarks/measure.py --data DATA --time                  # times instead; needs an idle machine

A stopped run continues: detections in ``--work`` and stored results of the same weights and labels are not made again,
except with ``--again``. ``compared.py`` lists the detectors, ``photosets.py`` the photos, and ``tables.py`` writes the
tables of docs/ from the results.
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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import kept
import numpy as np
from compared import DETECTORS, REFERENCE, TIMES, Detector
from numpy.typing import NDArray
from photosets import CROWD, TESTS, VAL
from PIL import Image

import lineament
from lineament.evaluate.labelled import read_detections
from lineament.evaluate.origin import Origin, describe_weights, digest, origin, with_origin
from lineament.evaluate.results import Result, Scores, read_result
from lineament.evaluate.speed import COUNTS, FACE, Baseline, fit_line, mosaic
from lineament.images import read_image

Array = NDArray[Any]

PEER = Path(__file__).parent / "peers" / "peer.py"
THREADS = 2  # where time is measured
REPEATS = 5  # of every mosaic
ROUNDS = 3  # of the photos whose times are measured
PAUSE = 0.1  # seconds between two detectors: threads wait busily for more work after a call


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


def in_turn(bench: Bench, names: Sequence[str], paths: Sequence[Path], rounds: int) -> dict[str, Array]:
    """Milliseconds (rounds, images) of every detector, after an image to warm up.

    They take turns, each with all images: after each image of another program, caches would be cold, and its threads
    would still wait busily for more work.
    """
    with contextlib.ExitStack() as stack:
        started = {n: stack.enter_context(Baseline(shlex.join(bench.command(n)), THREADS)) for n in names}
        times: dict[str, list[list[float]]] = {name: [] for name in names}
        for _ in range(rounds):
            for name, process in started.items():
                time.sleep(PAUSE)
                process.time(paths[0])
                times[name].append([process.time(path) for path in paths])
    return {name: np.array(own) for name, own in times.items()}


def speed(bench: Bench, names: Sequence[str], most: int | None) -> dict[str, Scores]:
    """Medians over photos with a longer edge of 640 pixels, and medians of the ratios to the reference.

    Of each photo, the fastest of several rounds counts.
    """
    samples = bench.pictures("detection-val")
    paths = [sample.path for sample in samples if max(sample.width, sample.height) == 640][:most]
    asked = list(dict.fromkeys([*names, REFERENCE])) if bench.can_run(REFERENCE) else list(names)
    times = {name: own.min(axis=0) for name, own in in_turn(bench, asked, paths, ROUNDS).items()}
    reference = times.get(REFERENCE)
    return {
        name: {"pictures": len(paths), "ms": float(np.median(times[name]))}
        | ({} if reference is None else {"ratio": float(np.median(times[name] / reference))})
        for name in names
    }


def mosaics(bench: Bench, names: Sequence[str], most: int | None) -> dict[str, Scores]:
    """The mosaics of `lineament evaluate speed`: medians, the slope of the fitted line, and detections in the last."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{count}.png") for count in COUNTS]
        for count, path in zip(COUNTS, paths, strict=True):
            Image.fromarray(mosaic([read_image(FACE)], count)).save(path)
        times = in_turn(bench, names, paths, min(most or REPEATS, REPEATS))
        found = {name: faces_in(bench, name, paths[-1]) for name in names}
    medians = {name: np.median(own, axis=0) for name, own in times.items()}
    return {
        name: {f"ms, {n} face{'s' * (n > 1)}": float(own[COUNTS.index(n)]) for n in (1, 10, 50)}
        | {"ms per further face": fit_line(COUNTS, own).slope, "found of 50": found[name]}
        for name, own in medians.items()
    }


def faces_in(bench: Bench, name: str, path: Path) -> int:
    call = bench.command(name)
    answer = subprocess.run(call, input=f"{path}\n", stdout=subprocess.PIPE, text=True, check=True).stdout
    return len(json.loads(answer)["faces"])


CLOCKS = {"speed": speed, "mosaics": mosaics}


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
        for test, measure in CLOCKS.items():
            shown = [name for name in names if test in args.tests and test in DETECTORS[name].times]
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
            if test in args.tests and test in DETECTORS[name].tests and (args.again or not bench.is_there(name, test)):
                if args.again:
                    shutil.rmtree(bench.folder(name), ignore_errors=True)
                bench.measure(name, test)


if __name__ == "__main__":
    main()
