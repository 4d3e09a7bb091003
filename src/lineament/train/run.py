"""A run: the stages of a method and their phases in turn, from a recipe to an exported file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator

from lineament.errors import OptionError
from lineament.files import restored
from lineament.train.checkpoint import check_continues, is_finished
from lineament.train.loop import Report, train
from lineament.train.optim import Schedule
from lineament.train.recipe import Recipe, check_name, copy_recipe
from lineament.train.task import Task

RECIPE = "recipe.toml"
"""The recipe in the folder of a run, with its overrides."""


class Training(Protocol):
    """The training module of a method.

    Attributes:
        METHOD: Name of the method.
        STAGES: Names of its stages, in order. The recipe has a table for each.
    """

    METHOD: str
    STAGES: Sequence[str]

    def phases(self, recipe: Path, stage: str) -> Sequence[Recipe]:
        """The settings of a stage in each of its phases."""
        ...

    def prepare(self, stage: str, data: Path, recipe: Any, out: Path) -> Task:
        """The task of a stage, ready to train."""
        ...

    def finish(self, stage: str, task: Any, out: Path) -> None:
        """What follows when a stage is trained, such as the calibration of its scores."""
        ...

    def export_run(self, out: Path, file: Path, scores: Mapping[str, float] | None = None) -> Path:
        """Export the best weights of a run as an ONNX file."""
        ...


def run(
    method: Training,
    data: Path,
    recipe: Path,
    out: Path,
    *,
    stage: str | None = None,
    overrides: Mapping[str, str] | None = None,
    report: Callable[[str, int], Report] | None = None,
) -> Path:
    """Train a method, or one of its stages after the previous ones, and export it.

    A stopped run continues. Of several processes (``accelerate launch``), all train, and the first prepares and
    exports.

    Args:
        method: The training module of the method.
        data: Folder of the recipe's index files.
        recipe: TOML file with a table for each stage.
        out: Folder of the run.
        stage: The stage to train. ``None``: all in turn.
        overrides: Settings that replace the recipe's, written as in TOML.
        report: Makes a progress callback for a stage with this many steps, or seconds if it runs for a fixed time;
            0 if that is not known.

    Returns:
        The exported file in the folder of the run, or the folder if other stages are not trained yet.

    Raises:
        OptionError: The stage or a setting does not exist, a previous stage is not trained yet, or the folder has a run
            with other settings. The recipe of that run stays as it is.
        DataError: There are no faces, or no landmarks, to learn from.
    """
    if stage not in (None, *method.STAGES):
        raise OptionError(f"{method.METHOD} has no stage {stage!r}; it has: {', '.join(method.STAGES)}")
    check_name(recipe)
    processes = Accelerator()  # its state is that of the loop; a PartialState would not know of ACCELERATE_USE_CPU
    stages = method.STAGES if stage is None else [stage]
    if processes.is_main_process:
        with restored(out / RECIPE):
            copy_recipe(recipe, out / RECIPE, overrides or {})
            for name in stages:
                check_continues(out / name, method.phases(out / RECIPE, name))
    processes.wait_for_everyone()
    for name in stages:
        phases = method.phases(out / RECIPE, name)
        for number, settings in enumerate(phases, 1):
            if number < len(phases) and is_finished(out / name, settings, number):
                continue
            with processes.main_process_first():
                title = name if len(phases) == 1 else f"{name}, phase {number} of {len(phases)}"
                if report:
                    report(f"{title}: preparing", 0)
                task = method.prepare(name, data, settings, out)
            train(
                task, settings, out / name, report(title, Schedule(settings).length) if report else None, phase=number
            )
        if processes.is_main_process:
            if report:
                report(f"{name}: finishing", 0)
            method.finish(name, task, out)
    if stage not in (None, method.STAGES[-1]):
        return out
    file = out / f"{method.METHOD}.onnx"
    return method.export_run(out, file) if processes.is_main_process else file
