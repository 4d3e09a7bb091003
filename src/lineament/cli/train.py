"""``lineament train``: train a method on labelled photos and export it as an ONNX file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from lineament.cli.messages import messages
from lineament.cli.options import pairs
from lineament.errors import MissingExtraError, OptionError
from lineament.methods import method as find_method
from lineament.train.recipe import find_recipe, list_settings, to_toml

if TYPE_CHECKING:
    from lineament.train.loop import Report
    from lineament.train.run import Training


def train(
    method: Annotated[str, typer.Argument(help="Method to train, such as mtcnn.")],
    data: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder of the labels. Required to train.")
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(
            "--train",
            metavar="FILE",
            help="Labels to train on (COCO keypoints JSON in --data), in place of the recipe's lists and backgrounds. "
            "Repeatable.",
        ),
    ] = None,
    val: Annotated[
        list[str] | None,
        typer.Option("--val", metavar="FILE", help="Labels of other photos for validation. Repeatable."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Name of a shipped recipe, or a TOML file (default: METHOD)."),
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE|RUN", help="Initial weights: a shipped name, an ONNX file, or the folder of a run."
        ),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Train for this time, instead of a number of steps.")] = None,
    stage: Annotated[str | None, typer.Option(help="Train only this stage of a method with several.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/METHOD).")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="NAME=VALUE: replace a setting of the recipe, written as in TOML, such as steps=2000, light=false or "
            "composition.mirror=0. Repeatable. --list-settings prints them all.",
        ),
    ] = None,
    list_: Annotated[
        bool, typer.Option("--list-settings", help="Print the settings that --set can replace, and exit.")
    ] = False,
) -> None:
    """Train a method and export it to ONNX.

    A stopped run continues where it stopped.
    """
    training = training_of(method)
    from lineament.train.run import run  # imports torch: training_of has seen that it is there

    file = find_recipe(recipe or method)
    own: dict[str, Any] = {"backgrounds": (), "apart": ()} if train else {}
    own |= {"train": train or None, "val": val or None, "initial": initial, "minutes": minutes}
    given = {name: to_toml(value) for name, value in own.items() if value is not None}
    overrides = given | pairs(set_ or [], "--set")
    if list_:
        _print_settings(training, file, [stage] if stage else training.STAGES)
        return
    if data is None:
        raise OptionError("--data is missing: the folder of the labels")
    with _Line() as line:
        result = run(
            training,
            data,
            file,
            out or Path("runs") / method,
            stage=stage,
            overrides=overrides,
            report=line.report,
        )
    typer.echo(f"trained: {result}")


class _Line:
    """A progress line: the current work, from the library's log, and how far it is."""

    def __init__(self) -> None:
        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # what other columns leave
        self._progress = messages.progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(12),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[latest]}", table_column=rest),
            expand=True,
        )
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
        """Start a stage. Returns a callback for its progress."""
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(title, total=total or None, latest="")

        def show(done: int, figures: Mapping[str, float]) -> None:
            self._progress.update(self._task, completed=done)
            if figures:
                self._tell(" ".join(f"{name} {value:.3g}" for name, value in figures.items()))

        return show

    def _tell(self, latest: str) -> None:
        self._progress.update(self._task, latest=latest)


def _print_settings(training: Training, recipe: Path, stages: Sequence[str]) -> None:
    """Print the settings of a recipe in the last phase of each stage."""
    for stage in stages:
        typer.echo(f"[{stage}] of {recipe.name}")
        for name, value in list_settings(training.phases(recipe, stage)[-1]).items():
            typer.echo(f"{name} = {value}")


def training_of(method: str) -> Training:
    """Import the module that trains a method. It needs the extra ``train``."""
    found = find_method(method)
    try:
        module: Any = importlib.import_module(found.training)
    except ImportError as error:
        raise MissingExtraError.of("train", f"this command needs {error.name}") from error
    return module
