"""``lineament train``: from photos with labels to an ONNX file."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import lineament
from lineament.cli.options import pairs
from lineament.errors import MissingExtraError
from lineament.methods import method as find_method

if TYPE_CHECKING:
    from lineament.train.run import Training


def train(
    method: Annotated[str, typer.Argument(help="What to train, e.g. mtcnn.")],
    data: Annotated[
        Path,
        typer.Option(
            exists=True, file_okay=False, help="Folder that the recipe's index files (COCO keypoints JSON) lie in."
        ),
    ],
    recipe: Annotated[
        Path | None, typer.Option(help="TOML file with the settings; that of the shipped weights if not given.")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Only this stage, where a method has several.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/METHOD if not given.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: a setting that replaces the recipe's; repeatable.")
    ] = None,
) -> None:
    """Train a method, or go on with a run that was stopped, and export it to ONNX."""
    training = training_of(method)
    from lineament.train.run import run  # imports torch: training_of has seen that it is there

    overrides = pairs(set_ or [], "--set")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[figures]}")) as progress:

        def report(name: str, steps: int) -> Any:
            bar = progress.add_task(name, total=steps, figures="")

            def show(step: int, figures: Mapping[str, float]) -> None:
                shown = " ".join(f"{key} {value:.4f}" for key, value in figures.items())
                progress.update(bar, completed=step, figures=shown)

            return show

        file = run(
            training,
            data,
            recipe or recipe_of(method),
            out or Path("runs") / method,
            stage=stage,
            overrides=overrides,
            report=report,
        )
    typer.echo(f"trained: {file}")


def training_of(method: str) -> Training:
    """The module that trains a method; needs the extra ``train``."""
    found = find_method(method)
    try:
        module: Any = importlib.import_module(found.training)
    except ImportError as error:
        raise MissingExtraError(f"training needs {error.name}: pip install 'lineament[train]'") from error
    return module


def recipe_of(method: str) -> Path:
    """The recipe of a method's shipped weights: inside the installed package, or in the clone that it is run from."""
    package = Path(lineament.__file__).parent
    places = [package / "recipes", package.parents[1] / "recipes"]
    return next((p / f"{method}.toml" for p in places if p.is_dir()), places[0] / f"{method}.toml")
