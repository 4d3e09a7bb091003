"""Quantise KPNet to 8-bit integers: an exported file whose convolutions compute in bytes, with ranges from images.

The file must have two passes (see ``export.entries``): maps in bytes are good enough to locate proposals, but not to
score them. The maps of the hourglass, which are upsampled, stay in floats.

Such a file needs onnxruntime. OpenVINO (2026.4) loads it, but is slower, and less accurate with DRNet.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from lineament.errors import LineamentError
from lineament.files import write_whole
from lineament.methods.kpnet.export import LEAST
from lineament.methods.quantisation import drop_unused, in_bytes

Array = NDArray[Any]

PIXELS = "kpnet.pixels"
CARRIED = ("Conv", "Relu", "MaxPool", "Add", "Concat", "Resize")
"""Operators to quantise; not the convolutions of an upsampling (`Phases`) if floats set its four positions apart."""
MOVING = ("Transpose", "Reshape", "Slice")
"""Operators before the last layer that only move columns and rows."""
CHOOSING = ("ReduceMax", "Slice", "Transpose", "Reshape", "GatherND")
"""Operators behind them that only move or select values, and so can read bytes."""


def quantise(source: Path, out: Path, views: Iterable[Array]) -> Path:
    """Write a copy of a file that computes in bytes where it takes most of its time.

    Args:
        source: A KPNet file with two passes.
        out: The file to write.
        views: Images as the network sees them, (h, w, 3) uint8, with sides that are multiples of the backbone's. They
            set the value ranges. A few dozen, with faces of all sizes.

    Raises:
        LineamentError: The file has no second pass.
    """
    model = onnx.load(source)
    parts = _parts(model.graph)
    ranges = {parts.scaled: [{"rmin": np.float32(0), "rmax": np.float32(255 / 128)}]}
    feeds = ({PIXELS: view[None], "kpnet.threshold": np.array([LEAST], np.float32)} for view in views)
    small = in_bytes(model, [node.name for node in parts.nodes], feeds, ranges)
    _keep_bytes(small.graph, parts)
    drop_unused(small.graph)
    onnx.helper.set_model_props(small, {prop.key: prop.value for prop in model.metadata_props})
    onnx.checker.check_model(small)
    write_whole(out, small.SerializeToString())
    return out


class Parts(NamedTuple):
    """The parts of a graph to quantise: names of values, and nodes.

    Attributes:
        pixels: Bytes, channels first.
        scaled: The same as floats.
        nodes: The nodes that compute them.
    """

    pixels: str
    scaled: str
    nodes: list[onnx.NodeProto]


def _parts(graph: onnx.GraphProto) -> Parts:
    if not any(initializer.name == "kpnet.second.weight" for initializer in graph.initializer):
        raise LineamentError("bytes are for a KPNet file of two passes: entries(network, heads, views=...)")
    joined = [node.output[0] for node in graph.node if node.op_type == "Reshape" and node.input[0] == PIXELS]
    transposed = next(n for n in graph.node if n.op_type == "Transpose" and n.input[0] in (PIXELS, *joined))
    cast = next(node for node in graph.node if node.op_type == "Cast" and node.input[0] == transposed.output[0])
    scaled = next(node for node in graph.node if cast.output[0] in node.input)
    reshaped = {node.input[0] for node in graph.node if node.op_type == "Reshape"}
    last = max(at for at, node in enumerate(graph.node) if node.op_type == "Conv")
    reached, nodes = set(scaled.output), []
    for at, node in enumerate(graph.node):
        moves = at < last and node.op_type in MOVING
        carries = node.op_type in CARRIED and not (node.op_type == "Conv" and node.output[0] in reshaped)
        if (moves or carries) and reached.intersection(node.input):
            nodes.append(node)
            reached.update(node.output)
    return Parts(transposed.output[0], scaled.output[0], nodes)


def _keep_bytes(graph: onnx.GraphProto, parts: Parts) -> None:
    """Use pixels without conversion, and convert maps and the cells of the second pass after selection."""
    first = next(n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == parts.scaled)
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] == first.output[0]:
            node.input[0] = parts.pixels
    back = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
    quantised = {node.name for node in parts.nodes}
    for node in list(graph.node):
        if node.op_type in CHOOSING and node.input[0] in back and node.name not in quantised:
            name = node.output[0]
            floats = onnx.helper.make_node(
                "DequantizeLinear", [f"{name}.bytes", *back[node.input[0]].input[1:]], [name], f"{name}.floats"
            )
            node.input[0], node.output[0] = back[node.input[0]].input[0], f"{name}.bytes"
            graph.node.insert(list(graph.node).index(node) + 1, floats)
            back[name] = floats
