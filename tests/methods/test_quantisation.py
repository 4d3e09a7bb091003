"""Networks in 8-bit integers: the same numbers on every processor."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import helper, numpy_helper

from lineament.methods.quantisation import HIGHEST, in_bytes
from lineament.runtime import load_graph
from lineament.weights import read_weights


def single(weights: np.ndarray) -> onnx.ModelProto:
    """A model of one convolution without padding."""
    node = helper.make_node("Conv", ["net.x", "weights"], ["net.y"], name="conv")
    axes = (["n", weights.shape[1], "h", "w"], ["n", len(weights), "h'", "w'"])
    given, found = (helper.make_tensor_value_info(f"net.{n}", 1, a) for n, a in zip("xy", axes, strict=True))
    graph = helper.make_graph([node], "conv", [given], [found], [numpy_helper.from_array(weights, "weights")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_sums_beyond_16_bits_are_exact() -> None:
    """Processors without VNNI add pairs of products in 16 bits, and 2 x 255 x 127 is too large for these."""
    weights = np.ones((8, 16, 3, 3), np.float32)
    model = single(weights)
    brightest = np.ones((1, 16, 9, 9), np.float32)
    quantised = in_bytes(model, ["conv"], [{"net.x": brightest}])

    (sums,) = load_graph(quantised.SerializeToString(), threads=1)("net", ("y",), x=brightest)

    assert sums == pytest.approx(16 * 9, rel=0.01)


def test_weights_are_rounded_by_the_inputs_of_their_layer() -> None:
    rng = np.random.default_rng(5)
    shapes = rng.uniform(size=(3, 16))  # three patterns that all channels consist of
    pixels = np.einsum("nphw,pc->nchw", rng.uniform(size=(2, 3, 9, 9)), shapes).astype(np.float32)
    weights = rng.normal(size=(8, 16, 1, 1)).astype(np.float32)
    model = single(weights)
    graph = in_bytes(model, ["conv"], [{"net.x": part[None]} for part in pixels]).graph
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    levels, scales = constants["weights_quantized"], constants["weights_scale"][:, None, None, None]
    assert np.abs(levels).max() <= HIGHEST
    assert HIGHEST * 2 * 255 < 2**15  # two products fit into 16 bits

    def error(found: np.ndarray) -> float:
        return float(np.square(np.einsum("nchw,oc->nohw", pixels, (found * scales - weights)[:, :, 0, 0])).mean())

    assert error(levels) < 0.3 * error(np.rint(weights / scales))


@pytest.mark.parametrize("name", ["kpnet-int8", "kpnet-lite-int8", "verifier-int8"])
def test_the_sums_of_shipped_weights_fit(name: str) -> None:
    graph = onnx.load_from_string(read_weights(name)).graph
    convolved = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    scaled = {n.input[0] for n in graph.node if n.op_type == "DequantizeLinear" and n.output[0] in convolved}
    levels = [numpy_helper.to_array(constant) for constant in graph.initializer if constant.name in scaled]
    assert len(levels) > 5
    assert all(values.dtype == np.int8 and np.abs(values).max() == HIGHEST for values in levels)
