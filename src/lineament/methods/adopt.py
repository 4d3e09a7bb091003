"""Initialise a network with the weights of an exported file, for further training."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import onnx
import torch
from torch import Tensor, nn

from lineament.errors import OptionError
from lineament.methods.normalisation import only_shift, settle
from lineament.methods.quantisation import in_floats
from lineament.runtime import read_metadata
from lineament.train.task import Task, tensors
from lineament.weights import parse_metadata

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.GroupNorm, nn.Linear)
_log = logging.getLogger(__name__)


def read_tensors(content: bytes, methods: Collection[str], roots: Mapping[str, str]) -> dict[str, Tensor]:
    """The weights of a file, by their names in the network.

    Args:
        content: The file.
        methods: Names of the methods whose files are accepted.
        roots: Prefixes of names in the file, and the prefixes that replace them in the network.

    Raises:
        OptionError: The file is of another method, or quantised to 8 bits.
    """
    method, _ = parse_metadata(read_metadata(content))
    if method not in methods:
        raise OptionError(f"expected weights of {' or '.join(methods)}, found weights of {method}")
    found = {}
    for tensor in in_floats(content).graph.initializer:
        for root, at in roots.items():
            if root in tensor.name:
                own = at + tensor.name.split(root, 1)[1]
                found[own] = torch.from_numpy(onnx.numpy_helper.to_array(tensor).astype("float32"))
    return found


def begin_with(task: Task, given: Mapping[str, Tensor]) -> None:
    """Start a training from the weights of a file where they fit, see `adopt`.

    Normalisation takes its statistics from the first batch.
    """
    adopt(task.network, given)
    batch = tensors(task.batch(0), torch.device("cpu"))
    settle(task.network, lambda: task.forward(task.network, batch))


@torch.no_grad()
def adopt(network: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Copy the weights of a file into a network, wherever name and shape are the same. The others do not change.

    Args:
        network: The network. Its ``backbone``, if it has one, or else any layer must be in the file.
        given: Weights by name, see `read_tensors`.

    Raises:
        OptionError: The file has another backbone, or another network.
    """
    taken = []
    for name, module in network.named_modules():
        weight, bias = given.get(f"{name}.weight"), given.get(f"{name}.bias")
        if weight is None or not isinstance(module, LAYERS):
            continue
        weight = weight[..., -module.weight.shape[-2] :, -module.weight.shape[-1] :] if weight.dim() == 4 else weight
        if weight.shape != module.weight.shape:
            continue
        module.weight.copy_(weight)
        taken.append(name)
        siblings = [*network.get_submodule(name.rpartition(".")[0]).children(), None]
        following = siblings[siblings.index(module) + 1]
        if isinstance(following, nn.BatchNorm2d) and bias is not None:
            only_shift(following, bias)
        elif bias is not None and module.bias is not None:
            module.bias.copy_(bias)
    root = "backbone." if hasattr(network, "backbone") else ""
    if not any(name.startswith(root) for name in taken):
        kind = type(network.get_submodule(root.removesuffix("."))).__name__
        raise OptionError(f"these weights are not of a {kind}, the recipe's {root.removesuffix('.') or 'network'}")
    _log.info("%d layers start from the file", len(taken))
