"""Fine-tuning with 60 photos of one's own, as docs/train-your-own.md describes it, measured for that page.

python benchmarks/fine_tuning.py --data DATA

The photos are of one index file that no shipped weights have learned from: 48 to train on, 12 to validate, the others
held out. Their draw is fixed. What is trained lies in ``--work`` and is not trained again; ``tables.py`` writes the
page's table.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

import kept

import lineament
from lineament.data.readers.coco import read_coco, write_coco
from lineament.evaluate.labelled import detect_all
from lineament.evaluate.origin import origin, with_origin
from lineament.evaluate.recall import evaluate_recall
from lineament.evaluate.results import Result

INDEX = "detection-occluded.json"
OTHERS = "detection-val.json"
"""Photos of other kinds, to see what is forgotten."""
OVERLAPS = (0.5, 0.7)
TRAIN, VAL = 48, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--index", default=INDEX, help="the photos")
    parser.add_argument("--work", type=Path, default=Path("runs/fine-tuning"))
    args = parser.parse_args()
    data = args.work / Path(args.index).stem
    split(args.data / args.index, data)
    file = data / "own.onnx"
    if not file.exists():
        run("train", "kpnet", "--recipe", "kpnet-lite-finetune", "--data", data, "--out", data / "run")
        run("export", "kpnet", "--run", data / "run", "--out", file)
    log = [json.loads(line) for line in (data / "run" / "kpnet" / "log.jsonl").read_text().splitlines()]
    steps = max(line.get("step", 0) for line in log)
    for weights, row in (("kpnet-lite", "`kpnet-lite`, `verify=false`"), (str(file), "fine-tuned")):
        detector = lineament.load(weights, threads=1, settings={"verify": False})  # the networks alone
        scores: dict[str, float | None] = {}
        for title, labels in (("held out", data / "held-out.json"), ("other photos", args.data / OTHERS)):
            found = detect_all(
                read_coco(labels), lambda path, d=detector: d.detect(path, threshold=0.02), empty=detector.schema
            )
            for iou in OVERLAPS:
                scores[f"{title}, IoU {iou}"] = evaluate_recall(row, found, threshold=0.5, least_iou=iou).scores["ap"]
        print(row, scores)
        result = Result("fine-tuning", row, scores, settings={"index": args.index, "steps": steps})
        about = origin(weights=[weights], data=data / "held-out.json", threads=1)
        if args.index == INDEX:
            kept.keep("fine-tuning", row, with_origin(result, about))


def split(index: Path, data: Path) -> None:
    """Write train.json, val.json and held-out.json into a data folder, unless they are there."""
    if (data / "held-out.json").exists():
        return
    data.mkdir(parents=True, exist_ok=True)
    photos = read_coco(index)
    random.Random(25).shuffle(photos)
    parts = {"train": photos[:TRAIN], "val": photos[TRAIN : TRAIN + VAL], "held-out": photos[TRAIN + VAL :]}
    for name, samples in parts.items():
        write_coco(data / f"{name}.json", samples)


def run(*arguments: object) -> None:
    """Run a command of lineament, given as on the command line."""
    subprocess.run([sys.executable, "-m", "lineament", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
