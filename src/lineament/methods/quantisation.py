"""Quantise ONNX graphs to 8-bit integers: the common part of all methods."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from lineament.errors import OptionError
from lineament.export import halve, widen, with_metadata
from lineament.files import write_whole
from lineament.methods.rounding import moments, rounded
from lineament.weights import register

Array = NDArray[Any]


HIGHEST = 64
"""Level of the largest weights. On processors without VNNI, onnxruntime adds two products at a time in 16 bits, and
2 x 255 x 64 just fits."""


def in_floats(content: bytes) -> onnx.ModelProto:
    """The model of a file, with all its weights in 32-bit floats.

    Raises:
        OptionError: The file is already quantised.
    """
    model = onnx.load_from_string(content)
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        raise OptionError("expected weights in floats, found integers of 8 bits: name the file they were made from")
    widen(model.graph)
    return model


def in_bytes(
    model: onnx.ModelProto,
    nodes: Sequence[str],
    feeds: Iterable[Mapping[str, Array]],
    ranges: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    """A copy of a model with some nodes quantised to 8 bits: unsigned activations, and signed weights per channel.

    The weights of convolutions are rounded so that the outputs change least (`rounding`).

    Args:
        model: The model in floats.
        nodes: Names of the nodes to quantise.
        feeds: Inputs by name. Their values set the ranges of activations.
        ranges: Known ranges of activations, as onnxruntime's quantisation tool expects them
            (``TensorQuantOverrides``).
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds: Iterator[Mapping[str, Array]] = iter(given)

        def get_next(self) -> Mapping[str, Array] | None:
            return next(self._feeds, None)

    given = list(feeds)
    seen = moments(model, nodes, given)
    weights = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer if c.name in seen}
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # on the root logger, the tool recommends steps that the export has done
    try:
        with TemporaryDirectory() as folder, np.errstate(invalid="ignore"):  # the scale of channels that are always 0
            file = Path(folder) / "bytes.onnx"
            quantize_static(
                model,
                file,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=True,  # to the levels of HIGHEST
                nodes_to_quantize=list(nodes),
                extra_options={"TensorQuantOverrides": dict(ranges or {})},
            )
            small = onnx.load(file)
    finally:
        logging.root.setLevel(level)
    constants = {constant.name: constant for constant in small.graph.initializer}
    for name, exact in weights.items():
        levels = rounded(exact, seen[name], numpy_helper.to_array(constants[f"{name}_scale"]), HIGHEST)
        constants[f"{name}_quantized"].CopyFrom(numpy_helper.from_array(levels, f"{name}_quantized"))
    return small


def tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A quantised model without unused nodes and constants, and with 16-bit floats where they are exact. In place."""
    drop_unused(model.graph)
    halve(model.graph)
    return model


def write_bytes(model: onnx.ModelProto, file: Path, metadata: Mapping[str, str], scores: Mapping[str, float]) -> Path:
    """Write a quantised model with the metadata of the file that it was made from, and list it in its folder.

    Args:
        model: The model.
        file: The ONNX file.
        metadata: Metadata of the weights in floats.
        scores: Scores of the quantised weights by name.
    """
    about = {"name": f"{metadata['name']}-int8", "runtime": "onnx", "scores": json.dumps(dict(scores))}
    write_whole(file, with_metadata(model.SerializeToString(), {**metadata, **about}))
    register(file)
    return file


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove unused nodes and constants."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    constants = [initializer for initializer in graph.initializer if initializer.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    del graph.value_info[:]
