"""Initialise a network that has a backbone with the weights of an exported file, for further training."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

import onnx
import torch
from torch import Tensor, nn

from lineament.errors import OptionError
from lineament.export import HALF
from lineament.methods.normalisation import ConvNorm, only_shift
from lineament.runtime import read_metadata
from lineament.weights import parse_metadata

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
    for tensor in onnx.load_from_string(content).graph.initializer:
        name = tensor.name.removesuffix(HALF)
        if name.endswith("_quantized"):
            raise OptionError("expected weights in floats, found integers of 8 bits: name the file they were made from")
        for root, at in roots.items():
            if root in name:
                own = at + name.split(root, 1)[1]
                found[own] = torch.from_numpy(onnx.numpy_helper.to_array(tensor).astype("float32"))
    return found


@torch.no_grad()
def adopt(network: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Copy the weights of a file into a network, wherever name and shape are the same. The others do not change.

    Args:
        network: The network, which has a ``backbone``.
        given: Weights by name, see `read_tensors`.

    Raises:
        OptionError: The file has another backbone.
    """
    taken = 0
    for name, module in network.named_modules():
        weight, bias = given.get(f"{name}.weight"), given.get(f"{name}.bias")
        if weight is None or not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.GroupNorm)):
            continue
        weight = weight[..., -module.weight.shape[-2] :, -module.weight.shape[-1] :] if weight.dim() == 4 else weight
        if weight.shape != module.weight.shape:
            continue
        module.weight.copy_(weight)
        taken += 1
        parent = network.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, ConvNorm) and isinstance(parent.norm, nn.BatchNorm2d) and bias is not None:
            only_shift(parent.norm, bias)
        elif bias is not None and module.bias is not None:
            module.bias.copy_(bias)
    backbone = network.get_submodule("backbone")
    if not any(f"backbone.{name}" in given for name, _ in backbone.named_parameters()):
        raise OptionError(f"these weights are not of a {type(backbone).__name__}, the recipe's backbone")
    _log.info("%d layers start from the file", taken)
