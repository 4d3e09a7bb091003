"""``lineament train``: from photos with labels to an ONNX file."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lineament.cli.options import pairs
from lineament.errors import MissingExtraError
from lineament.methods import method as find_method
from lineament.train.recipe import shipped_recipe

if TYPE_CHECKING:
    from lineament.train.loop import Report
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
        list[str] | None,
        typer.Option(
            "--set",
            help="NAME=VALUE: a setting that replaces the recipe's, written as in TOML, such as steps=2000, "
            "'train=[\"own.json\"]', light=false or composition.mirror=0; repeatable.",
        ),
    ] = None,
) -> None:
    """Train a method, or go on with a run that was stopped, and export it to ONNX."""
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


class _Line(logging.Handler):
    """One line that always moves: what is done at the moment, as the library's log says, and how far it is."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn())
        self._progress = Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[latest]}"))
        self._task = self._progress.add_task("reading", total=None, latest="")
        self._log = logging.getLogger("lineament")

    def __enter__(self) -> _Line:
        self._level = self._log.level
        self._log.setLevel(logging.INFO)
        self._log.addHandler(self)
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
        self._log.removeHandler(self)
        self._log.setLevel(self._level)

    def report(self, title: str, total: int) -> Report:
        """A stage begins; what is returned is told how much of it is done."""
        self._progress.update(self._task, description=title, total=total, completed=0, latest="")

        def show(done: int, figures: Mapping[str, float]) -> None:
            shown = " ".join(f"{name} {value:.3g}" for name, value in figures.items())
            self._progress.update(self._task, completed=done, latest=shown)

        return show

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message of the library in the line; above it, if it is a warning or a file is written to."""
        if record.levelno >= logging.WARNING or not self._progress.console.is_terminal:
            self._progress.console.print(record.getMessage(), highlight=False, soft_wrap=True)
        else:
            self._progress.update(self._task, latest=record.getMessage()[:100])


def training_of(method: str) -> Training:
    """The module that trains a method; needs the extra ``train``."""
    found = find_method(method)
    try:
        module: Any = importlib.import_module(found.training)
    except ImportError as error:
        raise MissingExtraError(f"training needs {error.name}: pip install 'lineament[train]'") from error
    return module
