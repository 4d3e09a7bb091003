"""``lineament calibrate`` from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

import lineament
from scenes import write_data

pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

Run = Callable[..., Result]
RECIPE = 'train = ["scenes.json"]\nval = ["scenes.json"]\n[kpnet]\ncanvas = 64\n'


def kernels(content: bytes) -> dict[str, np.ndarray]:
    tensors = onnx.load_from_string(content).graph.initializer
    return {t.name: onnx.numpy_helper.to_array(t) for t in tensors if t.name.endswith("weight")}


def test_calibrated_weights_are_the_same_network_with_other_scores(run: Run, tmp_path: Path) -> None:
    write_data(tmp_path, 5)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    out, given = tmp_path / "mine.onnx", ["--data", str(tmp_path), "--recipe", str(tmp_path / "recipe.toml")]
    result = run("calibrate", "kpnet-lite", *given, "--set", "train=[]", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "mine.onnx" in (tmp_path / "manifest.json").read_text()
    before, after = kernels(lineament.weights.read_weights("kpnet-lite")), kernels(out.read_bytes())
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])
    shipped, mine = lineament.load("kpnet-lite"), lineament.load(out)
    assert mine.settings.refinement == shipped.settings.refinement
    assert mine.settings.calibration != shipped.settings.calibration


def test_what_cannot_be_calibrated_is_refused(run: Run, tmp_path: Path) -> None:
    for weights, said in (("mtcnn", "mtcnn"), ("kpnet-int8", "8 bits")):
        given = ["--data", str(tmp_path), "--recipe", "kpnet.toml", "--out", str(tmp_path / "mine.onnx")]
        result = run("calibrate", weights, *given)
        assert result.exit_code == 2
        assert said in result.stderr
