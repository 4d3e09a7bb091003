"""A run: a method's stages and their phases, one after the other, from a recipe to an exported file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from accelerate import PartialState

from lineament.errors import OptionError
from lineament.train.checkpoint import is_finished
from lineament.train.loop import Report, train
from lineament.train.optim import Schedule
from lineament.train.recipe import Recipe, check_name, copy_recipe
from lineament.train.task import Task

RECIPE = "recipe.toml"
"""The recipe in a run's folder, as it was trained by."""


class Training(Protocol):
    """A method's training module.

    Attributes:
        METHOD: the method's name.
        STAGES: names of what is trained, in order; the recipe has a table of each name.
    """

    METHOD: str
    STAGES: Sequence[str]

    def phases(self, recipe: Path, stage: str) -> Sequence[Recipe]:
        """A stage's settings in each of its phases."""
        ...

    def prepare(self, stage: str, data: Path, recipe: Any, out: Path) -> Task:
        """A stage's task, ready to train."""
        ...

    def finish(self, stage: str, task: Any, out: Path) -> None:
        """What follows when a stage is trained, such as the calibration of its scores."""
        ...

    def export_run(self, out: Path, file: Path, scores: Mapping[str, float] | None = None) -> Path:
        """Write a run's best weights so far as an ONNX file that describes itself."""
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
    """Train a method, or one stage of it on top of the stages before it, and export it.

    A run that was stopped goes on where it was. Of several processes (``accelerate launch``) each trains, and the first
    prepares and exports.

    Args:
        method: the method's training module. data: folder that the recipe's index files lie in.
        recipe: TOML file with a table for each stage. out: the run's folder.
        stage: the stage to train; ``None`` for all in turn.
        overrides: settings that replace the recipe's, written as in TOML.
        report: makes a progress callback for a stage of so many steps, or seconds if it goes by the clock.

    Returns:
        The exported file in the run's folder; the folder where stages are still to be trained.

    Raises:
        OptionError: no such stage or setting, or a stage before it is not trained yet.
        DataError: no faces, or no landmarks, to learn from.
    """
    if stage not in (None, *method.STAGES):
        raise OptionError(f"{method.METHOD} has no stage {stage!r}; it has: {', '.join(method.STAGES)}")
    check_name(recipe)
    processes = PartialState()
    if processes.is_main_process:
        copy_recipe(recipe, out / RECIPE, overrides or {})
    processes.wait_for_everyone()
    for name in method.STAGES if stage is None else [stage]:
        phases = method.phases(out / RECIPE, name)
        for number, settings in enumerate(phases, 1):
            if number < len(phases) and is_finished(out / name, settings, number):
                continue
            with processes.main_process_first():
                task = method.prepare(name, data, settings, out)
            title = name if len(phases) == 1 else f"{name}, phase {number} of {len(phases)}"
            train(
                task, settings, out / name, report(title, Schedule(settings).length) if report else None, phase=number
            )
        if processes.is_main_process:
            method.finish(name, task, out)
    if stage not in (None, method.STAGES[-1]):
        return out
    file = out / f"{method.METHOD}.onnx"
    return method.export_run(out, file) if processes.is_main_process else file
