"""Quantise the verifier to 8-bit integers: the body computes in bytes, the heads in floats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
from numpy.typing import NDArray

from lineament.methods.quantisation import in_bytes, in_floats, tidied

Array = NDArray[Any]

CARRIED = ("Conv", "Relu", "Add", "Gemm")
"""Operators that compute in bytes."""
HEADS = (".score.", ".box.")
"""Parts of the names of the weights of the heads."""


def quantise(content: bytes, crops: Iterable[Array]) -> onnx.ModelProto:
    """Quantise the body of a file in floats.

    Args:
        content: The file.
        crops: Batches of crops as the network sees them, (n, size, size, 3) uint8. They set the value ranges.

    Raises:
        OptionError: The file is already quantised.
    """
    model = in_floats(content)
    heads = {node.name for node in model.graph.node if any(head in name for name in node.input for head in HEADS)}
    nodes = [node.name for node in model.graph.node if node.op_type in CARRIED and node.name not in heads]
    (pixels,) = (value.name for value in model.graph.input)
    small = in_bytes(model, nodes, ({pixels: batch} for batch in crops))
    return tidied(small)
