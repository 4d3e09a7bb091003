"""The search for beta by trainings. Each trial is a run of its own, several at a time, and none is repeated."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from lineament.errors import OptionError
from lineament.files import restored, write_whole
from lineament.methods.isnet import training
from lineament.methods.isnet.search import Measure, Search, search
from lineament.train.loop import train
from lineament.train.recipe import copy_recipe
from lineament.train.run import RECIPE

LOSS = "loss.json"


def search_weights(
    data: Path,
    recipe: Path,
    out: Path,
    *,
    trials: int = 15,
    phi: float = 0.5,
    processes: int = 1,
    seed: int = 0,
    overrides: Mapping[str, str] | None = None,
) -> Search:
    """Table 1: train with random weights and at the minima of fitted polynomials, until prediction and training agree.

    A stopped search continues. Finished trials are kept in ``out``, and an unfinished one continues from its
    checkpoint. All trials have the seed of the recipe, so they differ in beta alone.

    Args:
        data: Folder of the recipe's index files.
        recipe: TOML file of the trials.
        out: Folder of the search.
        trials: Number of random trials at the start.
        phi: See `lineament.methods.isnet.search.search`.
        processes: Number of trials at the same time.
        seed: Seed of the random weights.
        overrides: Settings that replace the recipe's, written as in TOML.

    Raises:
        OptionError: The folder has trials with other settings, the recipe's network has no weights to search, or an
            argument is wrong as in `search`.
    """
    if processes < 1:
        raise OptionError(f"processes is 1 or more, found {processes}")
    settings = _begun(recipe, out, overrides or {})
    if settings.twin:
        raise OptionError("the twin has no weights to search: leave twin out of the recipe")
    blocks = len(training.build(replace(settings, beta=())).beta())
    training.prepare(training.STAGES[0], data, settings, out)  # patches are cut once, before processes start
    with workers(data, out, processes) as measure:
        return search(measure, blocks=blocks, trials=trials, phi=phi, seed=seed)


def _begun(recipe: Path, out: Path, overrides: Mapping[str, str]) -> training.ISNetRecipe:
    """The settings of the trials, with their recipe in the folder of the search; or those of a stopped search."""
    (stage,), mine = training.STAGES, out / RECIPE
    before = training.read(mine, stage) if mine.exists() else None
    with restored(mine):
        copy_recipe(recipe, mine, overrides)
        settings = training.read(mine, stage)
        if before not in (None, settings):
            raise OptionError(f"{out} has trials by other settings; use another folder")
    return settings


@contextmanager
def workers(data: Path, out: Path, processes: int) -> Iterator[Measure]:
    """The function that measures weights by trials in ``out``, several at a time."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    one = partial(measure, data, out, threads=threads)
    if processes == 1:
        yield lambda betas: [one(beta) for beta in betas]
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda betas: list(pool.map(one, betas))


def measure(data: Path, out: Path, beta: Sequence[float], *, threads: int) -> float:
    """The loss of equation 3 on held-out faces, of a training with these weights or of an earlier one."""
    folder = out / "trials" / "-".join(f"{weight:.6g}" for weight in beta)
    if not (folder / LOSS).exists():
        torch.set_num_threads(threads)
        recipe = replace(training.read(out / RECIPE, training.STAGES[0]), beta=tuple(beta))
        task = training.prepare(training.STAGES[0], data, recipe, out)
        network = train(task, recipe, folder)
        with torch.no_grad():
            write_whole(folder / LOSS, json.dumps(task.validate(network)["equation_3"]))
    loss: float = json.loads((folder / LOSS).read_text())
    return loss
