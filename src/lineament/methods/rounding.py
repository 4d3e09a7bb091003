"""Round the weights of convolutions to a few levels so that their outputs change least.

Each weight is rounded in turn, and those that are still to come make up for its error (GPTQ, Frantar et al. 2023,
algorithm 1). Weights of large inputs come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[Any]

PATCHES = 512
"""Number of places where the inputs of a convolution are sampled, in each run of the model."""
DAMPING = 0.01
"""Added to the mean square of each input, relative to the mean of all."""


def moments(model: onnx.ModelProto, nodes: Iterable[str], feeds: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    """Sample the inputs of convolutions.

    Args:
        model: The model in floats.
        nodes: Names of nodes. Only convolutions of images, with constant weights and explicit padding, are sampled.
        feeds: Inputs of the model by name.

    Returns:
        Sums of products of the inputs by name of the weights: (groups, k, k), where k is the number of weights of an
        output channel, in their order. Convolutions that share weights share an entry.
    """
    import onnxruntime as ort

    wanted = set(nodes)
    shapes = {constant.name: tuple(constant.dims) for constant in model.graph.initializer}
    convolutions = [n for n in model.graph.node if n.name in wanted and _is_sampled(n, shapes)]
    if not convolutions:
        return {}
    names = sorted({node.input[0] for node in convolutions})
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    sums: dict[str, Array] = {}
    for feed in feeds:
        values = dict(zip(names, session.run(names, dict(feed)), strict=True))
        for node in convolutions:
            weights = node.input[1]
            patches = _patches(values[node.input[0]], node, shapes[weights][2:], rng)
            sums[weights] = sums.get(weights, 0) + patches.swapaxes(1, 2) @ patches
    return sums


def _is_sampled(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    is_image = node.op_type == "Conv" and len(shapes.get(node.input[1], ())) == 4
    return is_image and _settings(node).get("auto_pad", b"NOTSET") == b"NOTSET"


def _settings(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _patches(values: Array, node: onnx.NodeProto, size: tuple[int, ...], rng: np.random.Generator) -> Array:
    """What a convolution sees at random places: (groups, PATCHES, k), float64."""
    settings = _settings(node)
    top, left, bottom, right = settings.get("pads", (0, 0, 0, 0))
    (rows, columns), (down, across) = settings.get("dilations", (1, 1)), settings.get("strides", (1, 1))
    padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
    reach = [(side - 1) * step + 1 for side, step in zip(size, (rows, columns), strict=True)]
    windows = sliding_window_view(padded, reach, axis=(2, 3))[:, :, ::down, ::across, ::rows, ::columns]
    n, _, h, w = windows.shape[:4]
    image, y, x = np.unravel_index(rng.integers(n * h * w, size=PATCHES), (n, h, w))
    seen = windows[image, :, y, x].reshape(PATCHES, settings.get("group", 1), -1)
    return seen.swapaxes(0, 1).astype(np.float64)


def rounded(weights: Array, moments: Array, scales: Array, most: int) -> Array:
    """Round the weights of a convolution.

    Args:
        weights: (o, ...), floats.
        moments: See `moments`: (groups, k, k).
        scales: Distance (o,) between two levels.
        most: The highest level, at most 127. The lowest is its negative.

    Returns:
        Levels (o, ...), int8.
    """
    groups, k = moments.shape[:2]
    squares = np.diagonal(moments, axis1=1, axis2=2)
    order = np.argsort(-squares, axis=1)[:, None]
    damping = DAMPING * squares.mean(axis=1) + np.finfo(float).tiny ** 0.5
    damped = moments + damping[:, None, None] * np.eye(k)
    damped = np.take_along_axis(np.take_along_axis(damped, order, axis=2), order.swapaxes(1, 2), axis=1)
    factors = np.linalg.cholesky(np.linalg.inv(damped)).swapaxes(1, 2)
    exact = (weights.reshape(len(weights), -1) / scales[:, None]).astype(np.float64).reshape(groups, -1, k)
    exact, levels = np.take_along_axis(exact, order, axis=2), np.zeros(exact.shape)
    for at in range(k):
        levels[..., at] = np.clip(np.rint(exact[..., at]), -most, most)
        errors = (exact[..., at] - levels[..., at]) / factors[:, at, at, None]
        exact[..., at:] -= errors[..., None] * factors[:, None, at, at:]
    return np.take_along_axis(levels, np.argsort(order, axis=2), axis=2).reshape(weights.shape).astype(np.int8)
