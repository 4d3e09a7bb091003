"""``lineament search-weights``: search the block weights of an Information-Synthesis Network."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from lineament.cli.messages import messages
from lineament.cli.options import pairs
from lineament.cli.train import training_of
from lineament.errors import OptionError
from lineament.evaluate.results import plain
from lineament.files import write_whole
from lineament.train.recipe import shipped_recipe


def search_weights(
    method: Annotated[str, typer.Argument(help="Method to search: isnet.")],
    data: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Folder of the recipe's index files (COCO keypoints JSON)."),
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(help="TOML file with the settings of a trial (default: the recipe of the paper's network)."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the search. A stopped search continues there.")] = (
        Path("runs") / "isnet-search"
    ),
    trials: Annotated[int, typer.Option(min=8, help="Number of trainings with random weights.")] = 15,
    phi: Annotated[float, typer.Option(help="Stop when the predicted and the measured loss differ by less.")] = 0.5,
    processes: Annotated[int, typer.Option(min=1, help="Trainings to run at the same time.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: replace a setting of the recipe. Repeatable.")
    ] = None,
) -> None:
    """Search the block weights (beta) of isnet.

    The search trains with random weights and fits polynomials to the losses (table 1 of the paper).
    """
    training_of(method)  # says what is missing
    if method != "isnet":
        raise OptionError(f"{method} has no block weights to search; use isnet")
    from lineament.methods.isnet import trials as isnet

    messages.verbose()
    found = isnet.search_weights(
        data,
        recipe or shipped_recipe("isnet-paper"),
        out,
        trials=trials,
        phi=phi,
        processes=processes,
        seed=seed,
        overrides=pairs(set_ or [], "--set"),
    )
    names = [f"beta_{i}" for i in range(2, len(found.beta) + 2)]
    table = Table("trial", *names, "loss")
    for number, (beta, loss) in enumerate(zip(found.betas, found.losses, strict=True), 1):
        table.add_row(str(number), *(f"{weight:.4f}" for weight in beta), f"{loss:.4f}")
    Console().print(table)
    for step in found.rounds:
        at = ", ".join(f"{weight:.4f}" for weight in step.beta)
        typer.echo(f"f = {step.polynomial}")
        typer.echo(f"minimum {step.predicted:.4f} at ({at}); trained there: {step.measured:.4f}")
    agreed = "predicted and measured loss agree" if found.agreed else "they never agreed; this is the best trial"
    typer.echo(f"beta = [{', '.join(f'{weight:.4f}' for weight in found.beta)}] ({agreed})")
    write_whole(out / "search.json", json.dumps(plain(asdict(found)), indent=1) + "\n")
