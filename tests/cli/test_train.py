"""``lineament train``: the arguments of a run, and what the terminal shows of it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

pytest.importorskip("torch")

from lineament.methods.mtcnn import training
from lineament.train import run as run_module
from lineament.train.recipe import shipped_recipe

train_command = importlib.import_module("lineament.cli.train")  # the attribute of the package is the command


def test_it_runs_the_shipped_recipe_and_says_where_the_file_is(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {}

    def trained(method: Any, data: Path, recipe: Path, out: Path, **others: Any) -> Path:
        given.update(others, method=method, data=data, recipe=recipe, out=out)
        logging.getLogger("lineament.data").info("3 photos decoded")
        logging.getLogger("lineament.train").warning("a warning")
        logging.getLogger("another").info("chatter")
        given["report"]("pnet", 10)(5, {"score": 0.25})
        return out / "mtcnn.onnx"

    monkeypatch.setattr(run_module, "run", trained)
    result = run(
        "train", "mtcnn", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--set", "steps=5", "--set", "a.b=1"
    )
    assert result.exit_code == 0
    assert (given["method"], given["data"], given["out"]) == (training, tmp_path, tmp_path / "run")
    assert given["recipe"] == shipped_recipe("mtcnn")
    assert given["overrides"] == {"steps": "5", "a.b": "1"}
    assert "3 photos decoded" in result.output  # in a terminal, the progress line has it
    assert "a warning" in result.output
    assert "chatter" not in result.output
    assert f"trained: {tmp_path / 'run' / 'mtcnn.onnx'}" in result.output.replace("\n", "")
    assert not logging.getLogger("lineament").handlers


def test_a_method_without_a_recipe_of_its_name_lists_those_there_are(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    result = run("train", "isnet", "--data", str(tmp_path))
    assert result.exit_code == 2
    assert "no recipe ships as 'isnet'" in result.output
    assert "isnet-68" in result.output


def test_own_labels_replace_the_recipes_lists_and_backgrounds(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[dict[str, Any]] = []

    def trained(*arguments: Any, **others: Any) -> Path:
        given.append(others | {"recipe": arguments[2]})
        return tmp_path

    monkeypatch.setattr(run_module, "run", trained)
    own = ("--train", "a.json", "--train", "b.json", "--val", "c.json", "--initial", "kpnet", "--minutes", "2.5")
    assert run("train", "kpnet", "--data", tmp_path, *own, "--recipe", "kpnet-lite").exit_code == 0
    assert run("train", "kpnet", "--data", tmp_path, *own, "--set", 'backgrounds=["none"]').exit_code == 0
    lists = {"train": '["a.json", "b.json"]', "val": '["c.json"]', "initial": '"kpnet"', "minutes": "2.5"}
    assert given[0]["overrides"] == {**lists, "backgrounds": "[]", "apart": "[]"}
    assert given[0]["recipe"] == shipped_recipe("kpnet-lite")
    assert given[1]["overrides"] == {**lists, "backgrounds": '["none"]', "apart": "[]"}


def test_settings_are_listed_without_data(run: Callable[..., Result]) -> None:
    lines = run("train", "mtcnn", "--list-settings", "--recipe", "mtcnn-paper").stdout.splitlines()
    assert [line for line in lines if line.startswith("[")] == [
        f"[{stage}] of mtcnn-paper.toml" for stage in ("pnet", "rnet", "onet")
    ]
    assert 'optimizer = "sgd"' in lines
    assert "light = false" in lines
    missing = run("train", "mtcnn")
    assert missing.exit_code == 2
    assert "--data" in missing.stderr


def test_the_line_moves_while_nothing_is_counted() -> None:
    line = train_command._Line()
    show = line.report("kpnet", 10)
    show(10, {"loss": 0.5})
    (task,) = line._progress.tasks
    assert (task.description, task.total, task.finished, task.fields["latest"]) == ("kpnet", 10, True, "loss 0.5")
    line.report("kpnet: finishing", 0)
    (task,) = line._progress.tasks
    assert (task.description, task.total, task.finished) == ("kpnet: finishing", None, False)
