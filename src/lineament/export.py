"""Export PyTorch modules to one ONNX file with metadata: several entries, compared with PyTorch."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lineament.errors import LineamentError
from lineament.files import write_whole
from lineament.runtime import load_graph
from lineament.train.recipe import read_about

Array = NDArray[Any]
N = TypeVar("N", bound=nn.Module)
OPSET = 18
LARGE = 256  # values of a constant from which sharing it, or storing it in fewer bits, pays
HALF = ".half"  # suffix of the names of constants that are stored in 16 bits
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One network of a file.

    Attributes:
        module: Takes the inputs in order, and returns a dict of named tensors.
        inputs: Example values by name.
        open_axes: For each input, the axes of variable length, with a name each.
        multiple: The lengths of the open axes, except for the batch, are multiples of this.
        listed_by: If the outputs are ranked lists (n, m, ...), the output that identifies their rows. They are compared
            in its order, since a rank may depend on the last digit.
        check: Whether to compare the exported entry with the module. Not if PyTorch has no such operator, or if an
            output depends on the last digit.
        translations: PyTorch's name of an operator, and the function of onnxscript that represents it in ONNX.
    """

    module: nn.Module
    inputs: dict[str, Tensor]
    open_axes: dict[str, dict[int, str]]
    multiple: int = 1
    listed_by: str | None = None
    check: bool = True
    translations: Mapping[Any, Callable[..., Any]] = field(default_factory=dict)


def export(
    entries: Mapping[str, Entry],
    path: Path,
    *,
    metadata: Mapping[str, str],
    tolerance: float = 1e-3,
    half: bool = False,
) -> Path:
    """Export entries to one ONNX file, and compare it with PyTorch.

    Args:
        entries: By name. Inputs and outputs become ``entry.name``.
        path: The file to write. It is not written if a comparison fails.
        metadata: Metadata of the file.
        tolerance: Largest difference between PyTorch and onnxruntime, relative to the size of the output.
        half: Store weights that 16-bit floats represent exactly in 16 bits. They compute in 32 bits. See
            `round_to_half`.

    Raises:
        LineamentError: The exported file does not compute the same as the modules.
    """
    model = _merge({name: _convert(name, entry) for name, entry in entries.items()})
    _share(model.graph)
    if half:
        halve(model.graph)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    for name, entry in entries.items():
        if entry.check:
            _check_parity(content, name, entry, tolerance)
    write_whole(path, content)
    return path


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """An ONNX file with other metadata."""
    model = onnx.load_from_string(content)
    onnx.helper.set_model_props(model, dict(metadata))
    return bytes(model.SerializeToString())


def describe(
    method: str,
    settings: Any,
    recipe: Path,
    scores: Mapping[str, float] | None = None,
    *,
    training: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, str]:
    """The metadata of a weight file (see ``lineament.weights.Model``).

    Args:
        method: Name of the method.
        settings: Its settings at inference, a dataclass.
        recipe: The TOML file of the training. Its table ``[weights]`` has licence and training data.
        scores: Scores by name.
        training: For each stage, the record of every phase of its weights (see `lineament.train.checkpoint.phases_of`).
    """
    unsaid = {
        "name": f"own-{method}",
        "licence": _licence(training),
        "training_data": _data(training),
        "recipe": recipe.name,
    }
    return {
        **unsaid,
        **read_about(recipe),
        "method": method,
        "schema": settings.landmarks,
        "config": json.dumps(asdict(settings)),
        "settings": recipe.read_text(),
        "training": json.dumps(training),
        "scores": json.dumps(dict(scores or {})),
        "version": version("lineament"),
    }


def _licence(training: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """What is known about the licence of weights whose recipe states none."""
    begun = [phase.get("initial", "") for phases in training.values() for phase in phases]
    files = dict.fromkeys(initial.partition(",")[0] for initial in begun if "SHA-256" in initial)
    return "not stated" + (f"; the terms of {', '.join(files)} hold, with which the training began" if files else "")


def _data(training: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The lists on which weights were trained, from their records."""
    lists: dict[str, Any] = {}
    sources: dict[str, int] = {}
    for phase in (phase for phases in training.values() for phase in phases):
        lists |= phase["data"].get("train", {}).get("lists", {})
        sources |= phase["data"].get("train", {}).get("sources", {})
    counted = ", ".join(f"{name} ({of['photos']} photos, {of['faces']} faces)" for name, of in lists.items())
    named = ", ".join(source for source in sources if source)
    return (counted or "not stated") + (f"; sources: {named}" if named else "")


def _convert(name: str, entry: Entry) -> onnx.ModelProto:
    module = entry.module.eval()
    with torch.no_grad():
        names = list(module(*entry.inputs.values()))
    axes = {
        n: {axis: _length(axis, label, entry) for axis, label in entry.open_axes.get(n, {}).items()}
        for n in entry.inputs
    }
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own metadata
        program = torch.onnx.export(
            module,
            tuple(entry.inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(entry.inputs),
            output_names=names,
            dynamic_shapes=tuple(axes.values()),
            verbose=False,
            custom_translation_table=dict(entry.translations),
        )
    assert program is not None
    model = program.model_proto
    del model.graph.value_info[:]
    for value in model.graph.input:
        for axis, label in entry.open_axes.get(value.name, {}).items():
            value.type.tensor_type.shape.dim[axis].dim_param = label
    model = onnx.compose.add_prefix(model, prefix=f"{name}.")
    for value in [*model.graph.input, *model.graph.output]:  # a runtime takes axes of one name for equally long
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = f"{name}.{dim.dim_param}"
    return model


def _length(axis: int, label: str, entry: Entry) -> Any:
    """The description of an open axis for PyTorch."""
    if axis == 0 or entry.multiple == 1:
        return torch.export.Dim.DYNAMIC
    return entry.multiple * torch.export.Dim(label)


def _merge(models: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """One graph with all of them side by side."""
    first = next(iter(models.values()))
    graph = onnx.GraphProto(name="lineament")
    for model in models.values():
        if model.functions:
            raise LineamentError("an entry exported with local functions cannot be merged")
        graph.node.extend(model.graph.node)
        graph.initializer.extend(model.graph.initializer)
        graph.input.extend(model.graph.input)
        graph.output.extend(model.graph.output)
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]  # it contains paths of source files of the exporting machine
    return onnx.helper.make_model(
        graph, producer_name="lineament", opset_imports=first.opset_import, ir_version=min(first.ir_version, 10)
    )


class Foldable(Protocol):
    """A layer that has a simpler form for inference."""

    def fold(self) -> None:
        """Take that form."""
        ...


def for_inference(network: N) -> N:
    """A copy of a network in evaluation mode, with folded layers and with weights rounded to 16-bit floats."""
    made = copy.deepcopy(network).eval()
    for layer in list(made.modules()):
        if callable(getattr(layer, "fold", None)):
            cast(Foldable, layer).fold()
    round_to_half(made)
    return made


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Round weights to the nearest 16-bit floats, which take half the space in a file."""
    for weight in module.parameters():
        weight.copy_(weight.half().float())


def _share(graph: onnx.GraphProto) -> None:
    """Keep one of several equal large constants: entries may share layers."""
    kept: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for tensor in graph.initializer:
        if onnx.numpy_helper.to_array(tensor).size >= LARGE:
            nameless = onnx.TensorProto()
            nameless.CopyFrom(tensor)
            nameless.name = ""
            same[tensor.name] = kept.setdefault(nameless.SerializeToString(deterministic=True), tensor.name)
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    left = [tensor for tensor in graph.initializer if same.get(tensor.name, tensor.name) == tensor.name]
    del graph.initializer[:]
    graph.initializer.extend(left)


def halve(graph: onnx.GraphProto) -> None:
    """Store large constants of floats in 16 bits if this is exact. A runtime converts them when it loads the file."""
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= LARGE and (values.astype(np.float16) == values).all():
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), name + HALF))
            cast = onnx.helper.make_node("Cast", [name + HALF], [name], name + ".cast", to=onnx.TensorProto.FLOAT)
            graph.node.insert(0, cast)


def widen(graph: onnx.GraphProto) -> None:
    """Inverse of `halve`."""
    for tensor in graph.initializer:
        if tensor.name.endswith(HALF):
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name.removesuffix(HALF)))
    casts = [node for node in graph.node if node.input and node.input[0].endswith(HALF)]
    for node in casts:
        graph.node.remove(node)


def _check_parity(content: bytes, name: str, entry: Entry, tolerance: float) -> None:
    """Raise an error unless onnxruntime and PyTorch compute the same."""
    with torch.no_grad():
        expected = {output: value.numpy() for output, value in entry.module(*entry.inputs.values()).items()}
    graph = load_graph(content)
    values = graph(name, tuple(expected), **{n: v.numpy() for n, v in entry.inputs.items()})
    found = dict(zip(expected, values, strict=True))
    if entry.listed_by:
        expected, found = rows_of_both(expected, found, entry.listed_by)
    for output, truth in expected.items():
        value = found[output]
        worst = float(np.abs(truth - value).max(initial=0) / max(1.0, np.abs(truth).max(initial=0)))
        _log.info("%s.%s differs from torch by %.1e", name, output, worst)
        if not worst <= tolerance:
            raise LineamentError(f"export of {name}.{output} differs from torch by {worst:.2g} (allowed {tolerance:g})")


def rows_of_both(expected: Mapping[str, Array], found: Mapping[str, Array], key: str) -> list[dict[str, Array]]:
    """Two sets of lists (n, m, ...), reduced to the rows that are in both and in the same order.

    Values of one output identify the rows, rounded to hundredths, since smaller differences may be the last digit. Rows
    that are not finite are padding and are left out.

    Raises:
        LineamentError: More than one row in twenty is in one set only. Fewer may depend on the last digit, like a rank.
    """
    places: list[list[tuple[int, int]]] = [[], []]
    filled = [_filled(expected), _filled(found)]
    for i in range(len(expected[key])):
        at = [
            {row.tobytes(): j for j, row in enumerate(outputs[key][i].astype(np.float32).round(2)) if rows[i, j]}
            for outputs, rows in zip((expected, found), filled, strict=True)
        ]
        shared, count = sorted(at[0].keys() & at[1].keys()), len(at[0])
        if len(shared) < 0.95 * count:
            raise LineamentError(f"export of {key} differs from torch in {count - len(shared)} of {count} rows")
        for side, index in zip(places, at, strict=True):
            side += [(i, index[row]) for row in shared]
    return [
        {name: value[tuple(np.array(side, np.intp).T)] for name, value in outputs.items()}
        for outputs, side in zip((expected, found), places, strict=True)
    ]


def _filled(outputs: Mapping[str, Array]) -> Array:
    """Which rows (n, m) of lists (n, m, ...) are finite in all of them."""
    finite = [np.isfinite(values).reshape(*values.shape[:2], -1).all(axis=2) for values in outputs.values()]
    return np.asarray(np.all(finite, axis=0))
