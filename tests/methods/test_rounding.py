"""Rounding of weights by what they do to the outputs."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from lineament.methods.rounding import moments, rounded
from lineament.runtime import load_graph

PADS = (1, 0, 2, 1)


def convolution(weights: NDArray[np.float32], channels: int, groups: int) -> ModelProto:
    settings = {"group": groups, "pads": PADS, "strides": (2, 1), "dilations": (1, 2)}
    node = helper.make_node("Conv", ["net.x", "weights"], ["net.y"], name="conv", **settings)
    given = helper.make_tensor_value_info("net.x", 1, ["n", channels, "h", "w"])
    found = helper.make_tensor_value_info("net.y", 1, ["n", len(weights), "h'", "w'"])
    graph = helper.make_graph([node], "conv", [given], [found], [numpy_helper.from_array(weights, "weights")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def alike(rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    """Rows of positive numbers that rise and fall together, as features do."""
    return np.abs(rng.normal(size=(*shape[:-1], 3)) @ rng.normal(size=(3, shape[-1])) + 0.1 * rng.normal(size=shape))


def test_only_convolutions_with_constant_weights_are_sampled() -> None:
    model = convolution(np.ones((2, 3, 1, 1), np.float32), 3, 1)
    (conv,) = model.graph.node
    pixels = {"net.x": np.ones((1, 3, 4, 4), np.float32)}
    assert moments(model, ["another"], [pixels]) == {}
    conv.attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))
    assert moments(model, ["conv"], [pixels]) == {}
    conv.op_type = "Relu"
    assert moments(model, ["conv"], [pixels]) == {}


@pytest.mark.parametrize("groups", [1, 2])
def test_moments_tell_the_mean_square_of_the_outputs(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineament.methods.rounding.PATCHES", 40_000)
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(6, 4 // groups, 3, 2)).astype(np.float32)
    model = convolution(weights, 4, groups)
    pixels = rng.uniform(size=(2, 4, 12, 9)).astype(np.float32)
    (outputs,) = load_graph(model.SerializeToString())("net", ("y",), x=pixels)
    seen = moments(model, ["conv", "another"], [{"net.x": pixels[:1]}, {"net.x": pixels[1:]}])["weights"] / 80_000
    rows = weights.reshape(groups, 6 // groups, -1)
    squares = np.einsum("gok,gkl,gol->go", rows, seen, rows).ravel()
    np.testing.assert_allclose(squares, (outputs**2).mean(axis=(0, 2, 3)), rtol=0.03)


def test_outputs_change_less_than_by_rounding_to_the_nearest() -> None:
    rng = np.random.default_rng(2)
    groups, outputs, k = 3, 4, 18
    inputs = alike(rng, groups, 2000, k)
    weights = rng.normal(size=(groups * outputs, 2, 3, 3))
    scales = np.abs(weights).reshape(len(weights), -1).max(axis=1) / 7
    levels = rounded(weights, inputs.swapaxes(1, 2) @ inputs, scales, 7)
    assert levels.dtype == np.int8
    assert levels.shape == weights.shape
    assert np.abs(levels).max() <= 7

    def error(found: NDArray[np.float64]) -> NDArray[np.float64]:
        change = (found * scales[:, None, None, None] - weights).reshape(groups, outputs, k)
        return np.square(inputs @ change.swapaxes(1, 2)).mean(axis=1)

    nearest = error(np.rint(weights / scales[:, None, None, None]))
    best = error(levels.astype(np.float64))
    assert best.sum() < 0.2 * nearest.sum()
    assert (best < nearest).all()


def test_weights_on_levels_stay() -> None:
    rng = np.random.default_rng(3)
    levels = rng.integers(-64, 65, size=(5, 3, 3, 3))
    inputs = alike(rng, 1, 500, 27)
    found = rounded(levels * 0.25, inputs.swapaxes(1, 2) @ inputs, np.full(5, 0.25), 64)
    np.testing.assert_array_equal(found, levels)


def test_weights_of_large_inputs_come_first() -> None:
    inputs = np.array([[[1.0, 2.0], [2.0, 4.0]]])  # the second weight counts twice
    found = rounded(np.array([[[[0.4, 0.3]]]]), inputs.swapaxes(1, 2) @ inputs, np.ones(1), 64)
    np.testing.assert_array_equal(found.ravel(), [1, 0])  # in their own order: 0, 0


def test_inputs_that_are_always_zero_are_no_trouble() -> None:
    weights = np.random.default_rng(4).normal(size=(2, 1, 2, 2))
    scales = np.full(2, 0.1)
    found = rounded(weights, np.zeros((1, 4, 4)), scales, 64)
    np.testing.assert_array_equal(found, np.rint(weights / 0.1))
