"""Networks in 8-bit integers: the same numbers on every processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import helper, numpy_helper

import lineament
from lineament import runtime
from lineament.methods.quantisation import in_bytes
from lineament.runtime import load_graph

PHOTO = Path(__file__).resolve().parents[2] / "examples" / "photos" / "astronaut.jpg"


def test_sums_beyond_16_bits_are_exact() -> None:
    """Processors without VNNI add pairs of products in 16 bits, and 2 x 255 x 127 is too large for these."""
    weights = np.ones((8, 16, 3, 3), np.float32)
    node = helper.make_node("Conv", ["net.x", "weights"], ["net.y"], name="conv")
    axes = (["n", 16, "h", "w"], ["n", 8, "h'", "w'"])
    given, found = (helper.make_tensor_value_info(f"net.{n}", 1, a) for n, a in zip("xy", axes, strict=True))
    graph = helper.make_graph([node], "conv", [given], [found], [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    brightest = np.ones((1, 16, 9, 9), np.float32)
    quantised = in_bytes(model, ["conv"], [{"net.x": brightest}])

    (sums,) = load_graph(quantised.SerializeToString(), threads=1)("net", ("y",), x=brightest)

    assert sums == pytest.approx(16 * 9, rel=0.01)
    assert onnx.load(runtime.SUMS).graph == quantised.graph  # by which the runtime knows whether sums overflow


def test_precise_sums_change_nothing_but_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = lineament.load("kpnet-lite-int8").detect(PHOTO)
    monkeypatch.setattr(runtime, "_overflows", lambda: True)
    precise = lineament.load("kpnet-lite-int8").detect(PHOTO)
    np.testing.assert_allclose(precise.boxes, usual.boxes, atol=1)
    np.testing.assert_allclose(precise.scores, usual.scores, atol=0.01)


def test_sums_that_overflow_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = onnx.load(runtime.SUMS)
    scale = next(i for i in model.graph.initializer if i.name == "net.y_scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) / 2, scale.name))
    (wrong := tmp_path / "wrong.onnx").write_bytes(model.SerializeToString())
    monkeypatch.setattr(runtime, "SUMS", wrong)
    assert runtime._overflows.__wrapped__()
