"""The paper's experiments with MTCNN's networks, kept in docs/results/data, and their curves.

python benchmarks/mtcnn_experiments.py --data DATA                             # all of them
python benchmarks/mtcnn_experiments.py table1 figure3 --data DATA              # some
python benchmarks/mtcnn_experiments.py --train P-Net --seeds 0 1 --data DATA   # only train this network

The shipped cascade makes the crops (mtcnn_experiments.toml). With each seed, every network is trained from random
weights on crops of its stage, on the same batches as the others of this stage. Crops and finished trainings are in the
folder of the run and are not made again.
``tables.py`` writes the tables of docs/results/mtcnn.md from the results.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import kept
import numpy as np
import torch
from numpy.typing import NDArray
from photosets import VAL
from torch import nn

from lineament.evaluate.origin import origin, packages
from lineament.evaluate.results import Result
from lineament.methods.mtcnn import training
from lineament.methods.mtcnn.network import SingleTaskNet
from lineament.methods.mtcnn.training import NETWORKS
from lineament.train.loop import train
from lineament.train.recipe import copy_recipe
from lineament.train.run import RECIPE
from lineament.train.task import to_input

Array = NDArray[Any]


class Variant(NamedTuple):
    """A network to train.

    Attributes:
        stage: The stage whose crops it learns from.
        changes: Settings that differ from those of the run.
        is_single: Whether it is the network that only classifies, of Li et al. 2015.
        seeds: Number of trainings.
    """

    stage: str
    changes: Mapping[str, Any] = {}
    is_single: bool = False
    seeds: int = 5

    def recipe(self, run: Path) -> training.StageRecipe:
        """Its settings."""
        return replace(training.read(run / RECIPE, self.stage), **self.changes)

    def network(self) -> nn.Module:
        """The untrained network."""
        made = NETWORKS[self.stage](5)
        return SingleTaskNet(made.size) if self.is_single else made


LONGER = {"steps": 2000, "batch": 256, "landmark_weight": 1.0}
"""More crops, and the paper's weights of O-Net's tasks."""
VARIANTS = {
    "P-Net": Variant("pnet"),
    "12-Net": Variant("pnet", is_single=True),
    "R-Net": Variant("rnet"),
    "24-Net": Variant("rnet", is_single=True),
    "O-Net": Variant("onet"),
    "48-Net": Variant("onet", is_single=True, seeds=1),  # it takes as long as three O-Nets
    "O-Net without mining": Variant("onet", {"hardest": 1.0}),
    "O-Net without landmarks": Variant("onet", {"landmark_weight": 0.0}),
    "O-Net, longer": Variant("onet", LONGER, seeds=2),
    "O-Net without landmarks, longer": Variant("onet", LONGER | {"landmark_weight": 0.0}, seeds=2),
    "O-Net without mining, longer": Variant("onet", LONGER | {"hardest": 1.0}, seeds=2),
}
NETS = {name: name for name in ("12-Net", "P-Net", "24-Net", "R-Net", "48-Net", "O-Net")}
"""Table 1."""
MINING = {"on": "O-Net", "off": "O-Net without mining"}
"""Figure 3a."""
JOINT = {"with landmarks": "O-Net", "without": "O-Net without landmarks"}
"""Figure 3b."""


def longer(rows: Mapping[str, str]) -> dict[str, str]:
    """The rows of a table whose networks are trained for longer."""
    return {f"{row}, longer": f"{name}, longer" for row, name in rows.items()}


EXPERIMENTS = {
    "table1": {"nets": NETS},
    "figure3": {"mining": MINING, "joint": JOINT},
    "figure3a-longer": {"mining": longer(MINING)},
    "figure3b-longer": {"joint": longer(JOINT)},
}
"""Rows of tables: the networks by their titles."""
LOSS, ACCURACY, BOX, TIME = "validation loss (eq. 1)", "accuracy, %", "box error (0.5 x eq. 2)", "300 forwards, s"
PANELS = {"mining": (LOSS,), "joint": (ACCURACY, BOX)}
"""The curves of each table that are plotted."""
IMAGES = {"figure3": "mtcnn-experiments.png", "figure3b-longer": "mtcnn-experiments-longer.png"}
VALIDATIONS = 5  # of a training
SETTINGS = Path(__file__).with_suffix(".toml")


class Curves(NamedTuple):
    """Validations of a network with each seed: (seeds, validations) each, but ``steps`` (validations,)."""

    steps: Array
    loss: Array
    accuracy: Array
    box: Array

    @classmethod
    def of(cls, folders: Sequence[Path]) -> Curves:
        """The curves of trainings."""
        logs = [[json.loads(line) for line in (f / "log.jsonl").read_text().splitlines()] for f in folders]
        rows = [{e["step"]: e["validation"] for e in log if "validation" in e} for log in logs]
        steps = np.array(sorted(rows[0]))
        loss, accuracy, box = (
            np.array([[run[step].get(name, np.nan) for step in steps] for run in rows])
            for name in ("score", "accuracy", "box")
        )
        return cls(steps, loss, 100 * accuracy, box)

    def last(self) -> dict[str, float]:
        """Means and standard deviations of the last validations over the seeds."""
        columns = {LOSS: self.loss, ACCURACY: self.accuracy, BOX: self.box}
        ends = {name: values[:, -1] for name, values in columns.items() if np.isfinite(values).all()}
        spread = {f"{name}, sd": float(v.std(ddof=1)) for name, v in ends.items() if len(v) > 1}
        return {name: float(v.mean()) for name, v in ends.items()} | spread


def trained(name: str, seed: int, task: training.StageTask, args: argparse.Namespace) -> Path:
    """The folder of a training, which is done unless it is finished.

    Args:
        name: A key of `VARIANTS`.
        seed: Of the weights and batches. The recipe's seed is that of the crops.
        task: The crops.
        args: The options.
    """
    variant = VARIANTS[name]
    recipe = variant.recipe(args.run)
    recipe = replace(recipe, seed=seed, initial="", validate_every=recipe.steps // VALIDATIONS)
    folder = args.run / f"{name}, {recipe.steps} steps, seed {seed}"
    torch.manual_seed(seed)
    task.network, task.recipe = variant.network(), recipe
    train(task, recipe, folder, lambda step, _: print(f"{name}, seed {seed}: {step}", end="\r"))
    return folder


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


def keep(table: str, row: str, name: str, curves: Curves, args: argparse.Namespace) -> None:
    """Store a row of a table: the last validations of a network."""
    variant, scores = VARIANTS[name], curves.last()
    if table == "nets":
        scores[TIME] = 0.3 * milliseconds(variant.network(), NETWORKS[variant.stage](5).size)
    recipe = variant.recipe(args.run)
    settings = {"steps": recipe.steps, "batch": recipe.batch, "seeds": variant.seeds}
    found = origin(weights=[], data=args.data / VAL, threads=torch.get_num_threads())
    found["packages"] |= packages("torch")
    kept.keep(f"mtcnn-{table}", row, Result("experiment", row, scores, settings=settings, origin=found))


def plot(tables: Mapping[str, Mapping[str, Curves]], file: Path) -> None:
    """Curves by table and title: means over the seeds, and one standard deviation to both sides."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels = [(table, title) for table in tables for title in PANELS[table]]
    figure, places = plt.subplots(1, len(panels), figsize=(11 / 3 * len(panels), 3.4), dpi=100)
    for axes, (table, title) in zip(places, panels, strict=True):
        for row, curves in tables[table].items():
            values = {LOSS: curves.loss, ACCURACY: curves.accuracy, BOX: curves.box}[title]
            mean, spread = values.mean(axis=0), values.std(axis=0, ddof=int(len(values) > 1))
            (line,) = axes.plot(curves.steps, mean, label=f"hard mining {row}" if table == "mining" else row)
            axes.fill_between(curves.steps, mean - spread, mean + spread, color=line.get_color(), alpha=0.2)
        axes.set(xlabel="step", title=title)
        axes.legend()
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=list(EXPERIMENTS), help=f"of {', '.join(EXPERIMENTS)}")
    parser.add_argument("--train", nargs="+", choices=VARIANTS, metavar="NETWORK", help="only train these networks")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="with --train, only these seeds")
    parser.add_argument("--run", type=Path, default=Path("runs/mtcnn-experiments"), help="folder to write to")
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    if unknown := set(args.experiments) - set(EXPERIMENTS):
        parser.error(f"no experiment {min(unknown)!r}; there are: {', '.join(EXPERIMENTS)}")
    torch.set_num_threads(1)
    copy_recipe(SETTINGS, args.run / RECIPE, {})
    chosen = {experiment: EXPERIMENTS[experiment] for experiment in args.experiments}
    shown = [name for tables in chosen.values() for rows in tables.values() for name in rows.values()]
    wanted = {name: VARIANTS[name] for name in args.train or shown}
    tasks = {
        stage: training.prepare(stage, args.data, training.read(args.run / RECIPE, stage), args.run)
        for stage in dict.fromkeys(variant.stage for variant in wanted.values())
    }
    folders: dict[str, list[Path]] = {name: [] for name in wanted}
    for seed in args.seeds or range(max(variant.seeds for variant in wanted.values())):
        for name, variant in wanted.items():
            if seed < variant.seeds:
                folders[name].append(trained(name, seed, tasks[variant.stage], args))
    if args.train:
        return
    for experiment, tables in chosen.items():
        curves = {table: {row: Curves.of(folders[n]) for row, n in rows.items()} for table, rows in tables.items()}
        for table, by_row in curves.items():
            for row, found in by_row.items():
                keep(table, row, tables[table][row], found, args)
        if experiment in IMAGES:
            plot(curves, kept.ROOT / "docs" / "images" / IMAGES[experiment])


if __name__ == "__main__":
    main()
