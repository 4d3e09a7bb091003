"""The command line as a whole."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import click
import pytest
import typer
from typer.testing import Result

import lineament
from lineament.cli import app
from lineament.weights import Model

Run = Callable[..., Result]


def test_version_and_help(run: Run) -> None:
    assert run("--version").stdout == f"lineament {lineament.__version__}\n"
    text = run("--help").stdout
    for command in ("detect", "models", "train", "export", "quantise", "report"):
        assert command in text
        assert run(command, "--help").exit_code == 0


def test_the_package_is_a_command() -> None:
    command = [sys.executable, "-m", "lineament", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("lineament ")


def test_only_the_core_is_imported_until_a_command_needs_more() -> None:
    extras = {"torch", "accelerate", "onnx", "scipy", "cv2", "matplotlib", "jinja2", "openvino"}
    code = f"import sys, lineament.cli; print(*({extras} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_a_missing_data_folder_is_named_before_anything_is_done(run: Run) -> None:
    result = run("train", "mtcnn", "--data", "nowhere")
    assert result.exit_code == 2
    assert "'nowhere' does not exist" in result.stderr


MODEL = Model(
    name="kpnet",
    method="kpnet",
    schema="5",
    file="kpnet.onnx",
    bytes=1_990_000,
    sha256="0123456789" + "0" * 54,
    licence="[c] code Apache-2.0; weights: see training data",
    training_data="three sets",
    recipe="recipes/kpnet.toml",
    version="0.1.0",
    scores={"AP easy": 0.8125},
)


def test_models_are_a_short_table_that_marks_the_default(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineament, "models", lambda: [MODEL, replace(MODEL, name="isnet-9", method="isnet")])
    heading, first, second, more = run("models").stdout.splitlines()
    assert heading.split() == ["name", "method", "kind", "landmarks", "size", "SHA-256"]
    assert first.split() == ["kpnet", "(default)", "kpnet", "detector", "5", "1.99", "MB", "01234567"]
    assert second.split()[:4] == ["isnet-9", "isnet", "landmark", "stage"]
    assert "licence" in more.lower()


def test_models_tell_programs_everything(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineament, "models", lambda: [MODEL])
    (told,) = json.loads(run("models", "--json").stdout)
    assert told == {**asdict(MODEL), "schemas": ["5"], "kind": "detector", "default": True}


def test_every_command_takes_verbosity(run: Run) -> None:
    def commands(of: click.Command, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
        for name, command in getattr(of, "commands", {}).items():
            yield from commands(command, *names, name)
        if not hasattr(of, "commands"):
            yield names, of

    found = dict(commands(typer.main.get_command(app)))
    assert len(found) > 12
    for names, command in found.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert options >= {"-v", "--verbose", "-q", "--quiet"}, names


def logs(data: Path, *given: object, **options: object) -> tuple[list[object], int]:
    """Replaces the writing of a report by messages of the library and of another package."""
    logging.getLogger("lineament.images").info("a detail")
    logging.getLogger("lineament.images").warning("a warning")
    logging.getLogger("another").warning("chatter")
    return [data], 0


@pytest.mark.parametrize(
    ("options", "shown"),
    [((), ["a warning"]), (("-v",), ["a detail", "a warning"]), (("-q",), []), (("-qv",), [])],
)
def test_messages_of_the_library_go_to_stderr(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: tuple[str, ...], shown: list[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("lineament.evaluate.report.write_report", logs)
    result = run("report", tmp_path, *options)
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == shown
    assert "detail" not in result.stdout
    assert not logging.getLogger("lineament").handlers
    assert logging.getLogger("lineament").level == logging.NOTSET


def test_problems_are_shown_however_quiet(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    result = run("detect", tmp_path, "-q", "--json", "-")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "a.jpg" in line


@pytest.mark.parametrize("command", ["quantise", "train", "export", "calibrate"])
def test_without_torch_the_extra_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for module in [name for name in sys.modules if name.startswith("lineament.methods.kpnet.")]:
        monkeypatch.delitem(sys.modules, module)
    given = {
        "quantise": ("kpnet", tmp_path, "--out", "x.onnx"),
        "train": ("kpnet", "--data", tmp_path),
        "export": ("kpnet", "--run", tmp_path, "--out", "x.onnx"),
        "calibrate": ("kpnet", "--data", tmp_path, "--out", "x.onnx"),
    }
    result = run(command, *given[command])
    assert result.exit_code == 2
    assert "needs torch, of the extra 'train': pip install 'PATH/TO/LINEAMENT[train]'" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_names_of_commands(shell: str) -> None:
    variables = {"_LINEAMENT_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "lineament mod"}
    words = {"COMP_WORDS": "lineament mod", "COMP_CWORD": "1", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    code = "from lineament.cli import main; main(prog_name='lineament')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables, **words},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "models" in done.stdout
