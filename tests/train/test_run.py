"""A run trains the stages and phases of a method in turn, resumes, and exports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from lineament.errors import OptionError  # noqa: E402
from lineament.train.checkpoint import CHECKPOINT, is_finished, read_checkpoint, write_checkpoint  # noqa: E402
from lineament.train.recipe import Recipe, read_phases  # noqa: E402
from lineament.train.run import RECIPE, run  # noqa: E402
from lineament.train.task import WHOLE, Batch, Part, Task  # noqa: E402

TEXT = """
train = []
warmup = 0
workers = 0
batch = 2
validate_every = 2
[first]
steps = 3
[second]
steps = 100
[[second.phases]]
steps = 2
[[second.phases]]
steps = 4
seed = 5
"""


class Scale(Task):
    """Learn to scale a number to 1."""

    def __init__(self) -> None:
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        return {"one": np.ones((2, 1), np.float32)}

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"found": network(batch["one"])}

    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"error": (outputs["found"] - 1).square().mean()}

    def validate(self, network: nn.Module) -> dict[str, float]:
        return {"score": float(network(torch.ones(1, 1)))}


@dataclass
class Method:
    """A training module that records its calls."""

    asked: list[tuple[Any, ...]]
    METHOD = "scale"
    STAGES: Sequence[str] = ("first", "second")

    def phases(self, recipe: Path, stage: str) -> Sequence[Recipe]:
        assert recipe.name == RECIPE
        return read_phases(recipe, Recipe, stage)

    def prepare(self, stage: str, data: Path, recipe: Recipe, out: Path) -> Task:
        self.asked.append((stage, data.name, recipe.steps, recipe.seed))
        return Scale()

    def finish(self, stage: str, task: Task, out: Path) -> None:
        assert isinstance(task, Scale)
        self.asked.append(("finish", stage, (out / stage / "checkpoint.pt").exists()))

    def export_run(self, out: Path, file: Path, scores: Mapping[str, float] | None = None) -> Path:
        self.asked.append(("export", file.relative_to(out).as_posix()))
        return file


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "r.toml").write_text(TEXT)
    return tmp_path / "r.toml"


FIRST = [("first", "data", 3, 0), ("finish", "first", True)]
SECOND = [("second", "data", 2, 0), ("second", "data", 4, 5), ("finish", "second", True)]
EXPORT = [("export", "scale.onnx")]


def test_all_stages_and_phases_in_turn(recipe: Path, tmp_path: Path) -> None:
    method, titles = Method([]), []
    file = run(
        method, Path("data"), recipe, tmp_path / "run", report=lambda title, steps: titles.append((title, steps))  # type: ignore[func-returns-value]
    )  # fmt: skip
    assert method.asked == FIRST + SECOND + EXPORT
    assert [title for title in titles if title[1]] == [
        ("first", 3),
        ("second, phase 1 of 2", 2),
        ("second, phase 2 of 2", 4),
    ]
    assert [title for title, steps in titles if not steps] == [  # runs without a number of steps
        "first: preparing",
        "first: finishing",
        "second, phase 1 of 2: preparing",
        "second, phase 2 of 2: preparing",
        "second: finishing",
    ]
    assert file == tmp_path / "run" / "scale.onnx"
    assert (tmp_path / "run" / RECIPE).read_text() == TEXT


def test_stages_one_by_one(recipe: Path, tmp_path: Path) -> None:
    method = Method([])
    assert run(method, Path("data"), recipe, tmp_path, stage="first") == tmp_path
    assert method.asked == FIRST
    assert run(method, Path("data"), recipe, tmp_path, stage="second") == tmp_path / "scale.onnx"
    assert method.asked == FIRST + SECOND + EXPORT


def test_a_finished_phase_is_not_prepared_again(recipe: Path, tmp_path: Path) -> None:
    run(Method([]), Path("data"), recipe, tmp_path)
    method = Method([])
    run(method, Path("data"), recipe, tmp_path)
    assert method.asked == FIRST + SECOND[1:] + EXPORT  # the last phase counts for the stage


def test_other_settings_are_refused_before_anything_changes(recipe: Path, tmp_path: Path) -> None:
    run(Method([]), Path("data"), recipe, tmp_path / "run")
    for overrides, message in (
        ({"seed": "6"}, r"trained with other settings \(seed\)"),
        ({"seeds": "6"}, "no such setting"),
    ):
        method = Method([])
        with pytest.raises(OptionError, match=message):
            run(method, Path("data"), recipe, tmp_path / "run", overrides=overrides)
        assert method.asked == []
        assert (tmp_path / "run" / RECIPE).read_text() == TEXT


def test_a_phase_by_the_clock_is_finished_when_its_minutes_are_over(tmp_path: Path) -> None:
    recipe = Recipe(train=(), steps=1, minutes=2.0)
    for seconds, finished in ((90.0, False), (120.0, True)):
        write_checkpoint(tmp_path / CHECKPOINT, recipe, {"phase": 1, "step": 7, "seconds": seconds})
        assert is_finished(tmp_path, recipe, 1) == finished
        assert not is_finished(tmp_path, recipe, 2)
    assert not is_finished(tmp_path / "none", recipe, 1)


def test_overrides_go_into_the_runs_recipe(recipe: Path, tmp_path: Path) -> None:
    method = Method([])
    run(method, Path("data"), recipe, tmp_path, overrides={"steps": "1"})
    assert [asked[2] for asked in method.asked if asked[0] in method.STAGES] == [1, 1, 1]
    assert "[overrides]\nsteps = 1" in (tmp_path / RECIPE).read_text()


def test_another_stage_is_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="scale has no stage 'third'; it has: first, second"):
        run(Method([]), Path("data"), recipe, tmp_path / "run", stage="third")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before_alone(tmp_path: Path) -> None:
    recipe, state = Recipe(train=()), {"phase": 1, "step": 7, "seconds": 0.0}
    write_checkpoint(tmp_path / CHECKPOINT, recipe, state)
    with pytest.raises(AttributeError, match="pickle"):
        write_checkpoint(tmp_path / CHECKPOINT, recipe, state | {"best": lambda: None})
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    kept = read_checkpoint(tmp_path / CHECKPOINT)
    assert kept is not None
    assert kept["step"] == 7
