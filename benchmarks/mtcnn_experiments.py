"""The paper's experiments on the crops of a finished run of ``lineament train mtcnn``, kept in docs/results/data.

python benchmarks/mtcnn_experiments.py mining --run runs/mtcnn --data DATA   # figure 3a: online hard mining on and off
python benchmarks/mtcnn_experiments.py joint --run runs/mtcnn --data DATA    # figure 3b: with and without landmarks
python benchmarks/mtcnn_experiments.py nets --run runs/mtcnn --data DATA     # the table of networks

Every variant is trained from the same weights on the same batches for ``--steps`` steps, a fraction of a full training.
``tables.py`` writes the tables of docs/results/mtcnn.md from the results.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import kept
import numpy as np
import torch
from measure import VAL
from torch import nn

from lineament.evaluate.origin import origin, packages
from lineament.evaluate.results import Result
from lineament.methods.mtcnn import training
from lineament.methods.mtcnn.network import SingleTaskNet
from lineament.methods.mtcnn.training import NETWORKS
from lineament.train.loop import train
from lineament.train.run import RECIPE
from lineament.train.task import to_input


def validate(stage: str, name: str, network: nn.Module, args: argparse.Namespace, **changes: Any) -> dict[str, float]:
    """Train one variant, and return the numbers of its last validation."""
    recipe = replace(training.read(args.run / RECIPE, stage), steps=args.steps, validate_every=args.steps, **changes)
    task = training.prepare(stage, args.data, recipe, args.run)
    task.network = network
    folder = args.run / "experiments" / name
    train(task, recipe, folder, lambda step, _: print(f"{name}: {step} of {args.steps}", end="\r"))
    figures: dict[str, float] = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["validation"]
    return figures


def fresh(stage: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[stage](5)


LOSS, ACCURACY, BOX, TIME = "validation loss (eq. 1)", "accuracy, %", "box error (0.5 x eq. 2)", "300 forwards, s"


def keep(experiment: str, variant: str, figures: dict[str, float], args: argparse.Namespace, **more: float) -> None:
    """Store one row of an experiment's table."""
    scores = {LOSS: figures["score"], ACCURACY: 100 * figures["accuracy"]} | more
    found = origin(weights=[], data=args.data / VAL, threads=torch.get_num_threads())
    found["packages"] |= packages("torch")
    result = Result("experiment", variant, scores, settings={"steps": args.steps}, origin=found)
    kept.keep(f"mtcnn-{experiment}", variant, result)


def mining(args: argparse.Namespace) -> None:
    for variant, hardest in (("on", 0.7), ("off", 1.0)):
        keep("mining", variant, validate("onet", f"mining-{variant}", fresh("onet"), args, hardest=hardest), args)


def joint(args: argparse.Namespace) -> None:
    both = validate("onet", "mining-on", fresh("onet"), args, hardest=0.7)
    alone = validate("onet", "joint-off", fresh("onet"), args, hardest=0.7, landmark_weight=0.0)
    for variant, figures in (("with landmarks", both), ("without", alone)):
        keep("joint", variant, figures, args, **{BOX: figures["box"]})


@torch.no_grad()
def milliseconds(network: nn.Module, size: int, forwards: int = 300) -> float:
    """Median time of the forward pass of one crop."""
    network.eval()
    pixels = to_input(torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8))
    times = []
    for _ in range(forwards):
        start = time.perf_counter()
        network(pixels)
        times.append(time.perf_counter() - start)
    return float(np.median(times) * 1e3)


def nets(args: argparse.Namespace) -> None:
    for stage in training.STAGES:
        size = NETWORKS[stage](1).size
        torch.manual_seed(0)
        for name, network in ((stage, fresh(stage)), (f"{size}-net", SingleTaskNet(size))):
            figures = validate(stage, f"nets-{name}", network, args)
            keep("nets", name, figures, args, **{TIME: 0.3 * milliseconds(network, size)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=["mining", "joint", "nets"])
    parser.add_argument("--run", type=Path, default=Path("runs/mtcnn"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args()
    {"mining": mining, "joint": joint, "nets": nets}[args.experiment](args)


if __name__ == "__main__":
    main()
