"""A network out of an exported file, to learn on."""

from __future__ import annotations

import logging

import onnx
import torch
from torch import Tensor, nn

from lineament.errors import OptionError
from lineament.export import HALF
from lineament.methods.maskface.network import MaskFace
from lineament.methods.normalisation import ConvNorm, only_shift
from lineament.runtime import read_metadata
from lineament.weights import parse_metadata

_log = logging.getLogger(__name__)


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """A file's weights under the network's own names.

    Raises:
        OptionError: a file of another method, or of 8 bits.
    """
    method, _ = parse_metadata(read_metadata(content))
    if method != "maskface":
        raise OptionError(f"expected weights of maskface, found weights of {method}")
    found = {}
    for tensor in onnx.load_from_string(content).graph.initializer:
        name = tensor.name.removesuffix(HALF)
        if name.endswith("_quantized"):
            raise OptionError("expected weights in floats, found integers of 8 bits: name the file they were made from")
        for prefix, at in (("maskface.network.", ""), (".head.", "landmarks.")):
            if prefix in name:
                own = at + name.split(prefix, 1)[1]
                found[own] = torch.from_numpy(onnx.numpy_helper.to_array(tensor).astype("float32"))
    return found


@torch.no_grad()
def adopt(network: MaskFace, content: bytes) -> None:
    """Give a network the weights of a file, wherever name and shape are the same; what does not fit stays as it is.

    Raises:
        OptionError: a file of another method, of 8 bits, or of another backbone.
    """
    given, taken = read_tensors(content), 0
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
    if not any(f"backbone.{name}" in given for name, _ in network.backbone.named_parameters()):
        raise OptionError(f"these weights are not of a {type(network.backbone).__name__}, the recipe's backbone")
    _log.info("begins with %d layers of the file", taken)
