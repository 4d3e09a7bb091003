"""Quantise MaskFace to 8-bit integers: the backbone, the pyramid and the context modules. The heads stay in floats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
from numpy.typing import NDArray

from lineament.methods.quantisation import drop_unused, in_bytes, in_floats, tidied

Array = NDArray[Any]

ENTRY = "maskface."
CARRIED = ("Conv", "Clip", "Relu", "MaxPool", "Add", "Concat", "Resize")
"""Operators that are quantised."""
HEADS = ("maskface.network.score.", "maskface.network.offset.")


def quantise(content: bytes, views: Iterable[Array]) -> onnx.ModelProto:
    """A copy of a file that computes its features in 8-bit integers.

    Args:
        content: A MaskFace file that is not quantised.
        views: Inputs of the network (h, w, 3) uint8 RGB, with sides that are multiples of 64. They set the value
            ranges: a few dozen, with faces of all sizes.

    Raises:
        OptionError: The file is already quantised.
    """
    model = in_floats(content)
    whole, rest = _part(model, of_entry=True), _part(model, of_entry=False)
    nodes = [n.name for n in whole.graph.node if n.op_type in CARRIED and not _is_head(n)]
    small = in_bytes(whole, nodes, ({f"{ENTRY}pixels": view[None]} for view in views))
    there = {initializer.name for initializer in small.graph.initializer}
    small.graph.node.extend(rest.graph.node)
    small.graph.initializer.extend(i for i in rest.graph.initializer if i.name not in there)
    small.graph.input.extend(rest.graph.input)
    small.graph.output.extend(rest.graph.output)
    return tidied(small)


def _is_head(node: onnx.NodeProto) -> bool:
    return any(name.startswith(HEADS) for name in node.input)


def _part(model: onnx.ModelProto, *, of_entry: bool) -> onnx.ModelProto:
    """A copy with the entry ``maskface`` only, or with all other entries."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    for values in (part.graph.input, part.graph.output):
        kept = [value for value in values if value.name.startswith(ENTRY) == of_entry]
        del values[:]
        values.extend(kept)
    drop_unused(part.graph)
    return part
