"""KPNet in integers of 8 bits: an exported file whose convolutions compute in bytes, ranges taken from pictures.

The file must be one of two passes (see ``export.entries``): a scalemap in bytes is good enough to say where the
proposals are, and not what they are worth. The response map stays as it is: its softmax takes differences that a byte
has not.

Such a file is for onnxruntime. OpenVINO (2026.4) loads it and computes something else where phases are laid out.
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
"""Operators on bytes; not those that lay out phases, nor the convolutions before them, which floats do as fast."""
CHOOSING = ("ReduceMax", "Transpose", "GatherND")
"""Operators behind them that only choose among values, and so may read bytes as well."""
HIGHEST = 12.0  # logit that the scalemap's bytes reach; above it peaks look alike, until the second pass


def quantise(source: Path, out: Path, views: Iterable[Array]) -> Path:
    """Write a copy of a file that computes in bytes where most of its time goes.

    Args:
        source: a KPNet file of two passes. out: the file to write.
        views: pictures as the network sees them, (h, w, 3) uint8, sides multiples of the backbone's: what ranges are
            taken from. A few dozen, with faces of all sizes.

    Raises:
        LineamentError: the file has no second pass.
    """
    model = onnx.load(source)
    parts = _parts(model.graph)
    ranges = {parts.scaled: [{"rmin": np.float32(0), "rmax": np.float32(255 / 128)}]}
    if parts.scalemap:
        ranges[parts.scalemap] = [{"rmin": np.float32(LEAST), "rmax": np.float32(HIGHEST)}]
    feeds = ({PIXELS: view[None], "kpnet.threshold": np.array([LEAST], np.float32)} for view in views)
    small = in_bytes(model, [node.name for node in parts.nodes], feeds, ranges)
    _keep_bytes(small.graph, parts)
    drop_unused(small.graph)
    onnx.helper.set_model_props(small, {prop.key: prop.value for prop in model.metadata_props})
    onnx.checker.check_model(small)
    write_whole(out, small.SerializeToString())
    return out


class Parts(NamedTuple):
    """What of a graph becomes bytes: names of values, and nodes.

    Attributes:
        pixels: bytes, channels first. scaled: the same as floats. scalemap: logits (n, 60, h, w), if they
            are to be bytes. nodes: what leads there.
    """

    pixels: str
    scaled: str
    scalemap: str | None
    nodes: list[onnx.NodeProto]


def _parts(graph: onnx.GraphProto) -> Parts:
    if not any(initializer.name == "kpnet.second.weight" for initializer in graph.initializer):
        raise LineamentError("bytes are for a KPNet file of two passes: entries(network, two_passes=True)")
    transposed = next(node for node in graph.node if node.op_type == "Transpose" and node.input[0] == PIXELS)
    cast = next(node for node in graph.node if node.op_type == "Cast" and node.input[0] == transposed.output[0])
    scaled = next(node for node in graph.node if cast.output[0] in node.input)
    reshaped = {node.input[0] for node in graph.node if node.op_type == "Reshape"}
    reached, nodes = set(scaled.output), []
    for node in graph.node:
        exact = any(name.startswith("kpnet.network.response.") for name in node.input) or node.output[0] in reshaped
        if node.op_type in CARRIED and not exact and reached.intersection(node.input):
            nodes.append(node)
            reached.update(node.output)
    scalemap = next(node.input[0] for node in graph.node if node.op_type == "ReduceMax")
    return Parts(transposed.output[0], scaled.output[0], scalemap if scalemap in reached else None, nodes)


def _keep_bytes(graph: onnx.GraphProto, parts: Parts) -> None:
    """Take pixels as they come; the scalemap's maximum and the second pass's cells leave bytes when they are chosen."""
    first = next(n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == parts.scaled)
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] == first.output[0]:
            node.input[0] = parts.pixels
    back = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
    for node in list(graph.node):
        if node.op_type in CHOOSING and node.input[0] in back:
            name = node.output[0]
            floats = onnx.helper.make_node(
                "DequantizeLinear", [f"{name}.bytes", *back[node.input[0]].input[1:]], [name], f"{name}.floats"
            )
            node.input[0], node.output[0] = back[node.input[0]].input[0], f"{name}.bytes"
            graph.node.insert(list(graph.node).index(node) + 1, floats)
            back[name] = floats
