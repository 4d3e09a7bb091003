"""From torch to one self-describing ONNX file: several entries, checked against torch, written whole or not at all."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
OPSET = 18
LARGE = 256  # values of a constant from which it pays to share it or to store it in fewer bits
HALF = ".half"  # ends the names of constants that are stored in 16 bits
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One network of a file.

    Attributes:
        module: takes the inputs in order, returns a dict of named tensors.
        inputs: example values by name.
        open_axes: for each input, the axes whose length may change, with a name each.
        multiple: what the open axes' lengths, but the batch's, are multiples of.
        listed_by: where the outputs are ranked lists (n, m, ...), the output that tells their rows apart: they are
            compared in its order, since a rank may turn on the last digit.
        check: whether to hold the exported entry against the module (not where torch has no such operator,
            or where an output turns on the last digit).
        translations: torch's own name of an operator, and the function of onnxscript that stands for it in ONNX.
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
    """Write entries into one ONNX file, and hold it against torch.

    Args:
        entries: by name; inputs and outputs become ``entry.name``.
        path: the file to write; nothing is left of it when a check fails.
        metadata: key-value pairs that the file carries.
        tolerance: largest difference between torch and onnxruntime that passes, relative to the output's own size.
        half: store weights that floats of 16 bits hold exactly as such; they compute in 32 bits. See `round_to_half`.

    Raises:
        LineamentError: the exported file does not compute what the modules compute.
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
    """An ONNX file with these key-value pairs in place of its own."""
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
    """What a weight file says about itself (see ``lineament.weights.Model``).

    Args:
        method: name of the method. settings: its settings at inference, a dataclass.
        recipe: the TOML file it was trained by; its table ``[weights]`` names licence and training data.
        scores: figures by name.
        training: for each stage the record of every phase that made its weights (see
            `lineament.train.checkpoint.phases_of`).
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
    """What is known of the terms of weights whose recipe states none."""
    begun = [phase.get("initial", "") for phases in training.values() for phase in phases]
    files = dict.fromkeys(initial.partition(",")[0] for initial in begun if "SHA-256" in initial)
    return "not stated" + (f"; the terms of {', '.join(files)} hold, with which the training began" if files else "")


def _data(training: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The lists that weights were trained on, as their records say."""
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
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of what it calls itself
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
    """What torch is told of an open axis."""
    if axis == 0 or entry.multiple == 1:
        return torch.export.Dim.DYNAMIC
    return entry.multiple * torch.export.Dim(label)


def _merge(models: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """One graph that holds all of them side by side."""
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
        del part.metadata_props[:]  # among it where the exporting machine keeps which source file
    return onnx.helper.make_model(
        graph, producer_name="lineament", opset_imports=first.opset_import, ir_version=min(first.ir_version, 10)
    )


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Bring weights to the nearest floats of 16 bits, which then take half the space in a file."""
    for weight in module.parameters():
        weight.copy_(weight.half().float())


def _share(graph: onnx.GraphProto) -> None:
    """Keep one of several large constants that are the same: entries may have layers in common."""
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
    """Store large constants of floats that 16 bits hold exactly in those; a runtime widens them when it loads."""
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= LARGE and (values.astype(np.float16) == values).all():
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), name + HALF))
            cast = onnx.helper.make_node("Cast", [name + HALF], [name], name + ".cast", to=onnx.TensorProto.FLOAT)
            graph.node.insert(0, cast)


def widen(graph: onnx.GraphProto) -> None:
    """Undo `halve`."""
    for tensor in graph.initializer:
        if tensor.name.endswith(HALF):
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name.removesuffix(HALF)))
    casts = [node for node in graph.node if node.input and node.input[0].endswith(HALF)]
    for node in casts:
        graph.node.remove(node)


def _check_parity(content: bytes, name: str, entry: Entry, tolerance: float) -> None:
    """Raise unless onnxruntime gives what torch gives."""
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
    """Two sets of lists (n, m, ...) cut to the rows, joined in one order, whose value of one output is in both.

    Values are told apart by hundredths: smaller differences may be the last digit's. Rows that are not finite only fill
    a list up, and are left out.

    Raises:
        LineamentError: one row of twenty is in one alone; fewer may turn on the last digit, as a rank does.
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
