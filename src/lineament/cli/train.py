"""``lineament train``: train a method on labelled photos and export it as an ONNX file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lineament.cli.messages import messages
from lineament.cli.options import pairs
from lineament.errors import MissingExtraError
from lineament.methods import method as find_method
from lineament.train.recipe import shipped_recipe

if TYPE_CHECKING:
    from lineament.train.loop import Report
    from lineament.train.run import Training


def train(
    method: Annotated[str, typer.Argument(help="Method to train, such as mtcnn.")],
    data: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Folder of the recipe's index files (COCO keypoints JSON)."),
    ],
    recipe: Annotated[
        Path | None, typer.Option(help="TOML file with the settings (default: the recipe of the shipped weights).")
    ] = None,
    stage: Annotated[str | None, typer.Option(help="Train only this stage of a method with several.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/METHOD).")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="NAME=VALUE: replace a setting of the recipe, written as in TOML, such as steps=2000, "
            "'train=[\"own.json\"]', light=false or composition.mirror=0. Repeatable.",
        ),
    ] = None,
) -> None:
    """Train a method and export it to ONNX.

    A stopped run continues where it stopped.
    """
    training = training_of(method)
    from lineament.train.run import run  # imports torch: training_of has seen that it is there

    overrides = pairs(set_ or [], "--set")
    with _Line() as line:
        result = run(
            training,
            data,
            recipe or shipped_recipe(method),
            out or Path("runs") / method,
            stage=stage,
            overrides=overrides,
            report=line.report,
        )
    typer.echo(f"trained: {result}")


class _Line:
    """One line that always moves: what is done at the moment, as the library's log says, and how far it is."""

    def __init__(self) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
        self._progress = messages.progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[latest]}"))
        self._task = self._progress.add_task("reading", total=None, latest="")

    def __enter__(self) -> _Line:
        messages.verbose()
        messages.latest = self._tell
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
        messages.latest = None

    def report(self, title: str, total: int) -> Report:
        """A stage begins; what is returned is told how much of it is done."""
        self._progress.update(self._task, description=title, total=total, completed=0, latest="")

        def show(done: int, figures: Mapping[str, float]) -> None:
            self._progress.update(self._task, completed=done)
            if figures:
                self._tell(" ".join(f"{name} {value:.3g}" for name, value in figures.items()))

        return show

    def _tell(self, latest: str) -> None:
        self._progress.update(self._task, latest=latest[:100])


def training_of(method: str) -> Training:
    """The module that trains a method; needs the extra ``train``."""
    found = find_method(method)
    try:
        module: Any = importlib.import_module(found.training)
    except ImportError as error:
        raise MissingExtraError.of("train", f"this command needs {error.name}") from error
    return module
