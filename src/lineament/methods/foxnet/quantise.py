"""Quantise FoxNet to 8-bit integers: backbone and hourglass compute in bytes, the heads in floats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
from numpy.typing import NDArray

from lineament.methods.quantisation import in_bytes, in_floats, tidied

Array = NDArray[Any]

CARRIED = ("Conv", "Clip", "Relu", "MaxPool", "AveragePool", "Add", "Concat", "Resize")
"""Operators that compute in bytes."""
HEAD = ".heat."
"""Part of the names of the weights of the landmark heads, which take the features."""


def quantise(content: bytes, views: Iterable[Array]) -> onnx.ModelProto:
    """Quantise the features of a file in floats. The networks of all its schemas share their bytes.

    Args:
        content: The file.
        views: Images as the network sees them, (h, w, 3) uint8, with sides that are multiples of the network's. They
            set the value ranges: a few dozen, with faces of all sizes.

    Raises:
        OptionError: The file is already quantised.
    """
    model = in_floats(content)
    nodes = [node.name for node in _features(model.graph) if node.op_type in CARRIED]
    inputs = [value.name for value in model.graph.input]
    small = in_bytes(model, nodes, (dict.fromkeys(inputs, view[None]) for view in views))
    return tidied(small)


def _features(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that the features of all landmark heads come from."""
    wanted = {node.input[0] for node in graph.node if any(HEAD in name for name in node.input)}
    found = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found.append(node)
    return found
