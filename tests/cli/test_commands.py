"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.testing import Result

import lineament
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


def test_models_lists_every_weight_with_its_licence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(
        name="mtcnn",
        method="mtcnn",
        schema="5",
        file="mtcnn.onnx",
        bytes=1_990_000,
        sha256="0" * 64,
        licence="[c] code Apache-2.0; weights: see training data",
        training_data="three sets",
        recipe="recipes/mtcnn.toml",
        version="0.1.0",
        scores={"AP easy": 0.8125},
    )
    monkeypatch.setattr(lineament, "models", lambda: [model])
    result = run("models")
    assert result.exit_code == 0
    for part in ("mtcnn", "1.99 MB", "[c] code Apache-2.0", "three sets", "recipes/mtcnn.toml", "AP easy: 0.8125"):
        assert part in result.stdout
