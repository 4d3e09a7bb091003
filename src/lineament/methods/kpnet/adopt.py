"""Networks out of exported files: what is folded there becomes layers again, that learn on or are exported anew."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from lineament.errors import OptionError
from lineament.methods.kpnet.decode import Config
from lineament.methods.kpnet.heads import build
from lineament.methods.kpnet.layers import ConvNorm
from lineament.methods.kpnet.network import DRNet, KPNet, Lite
from lineament.methods.normalisation import settle
from lineament.runtime import read_metadata
from lineament.schemas import schema
from lineament.weights import parse_metadata

_PREFIX = "kpnet.network."
_log = logging.getLogger(__name__)


def read_network(content: bytes) -> KPNet:
    """The network of a file, as it was before folding but for normalisation, which does nothing but add biases.

    Raises:
        OptionError: a file of another method, of a variant, or of 8 bits.
        WeightsError: no file of ours.
    """
    method, settings = parse_metadata(read_metadata(content))
    if method != "kpnet":
        raise OptionError(f"expected weights of kpnet, found weights of {method}")
    tensors = {
        tensor.name.removeprefix(_PREFIX): torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load_from_string(content).graph.initializer
        if tensor.name.startswith(_PREFIX)
    }
    if any(name.endswith("_quantized") for name in tensors):
        raise OptionError("expected weights in floats, found integers of 8 bits: name the file they were made from")
    config = config_of(settings)
    network = build(sum(len(schema(name)) for name in config.offered), config.backbone)
    try:
        network.unfold(tensors)
    except (KeyError, RuntimeError) as error:
        raise OptionError("expected weights of kpnet itself, found those of a variant of it") from error
    return network


def config_of(settings: Mapping[str, Any]) -> Config:
    """A file's settings, whatever version wrote it: those that this version does not know are dropped."""
    known = {field.name for field in fields(Config)}
    return Config(**{name: value for name, value in settings.items() if name in known})


def adopt(network: KPNet, content: bytes, pixels: Tensor) -> None:
    """Give a network the weights of a file: all where the backbone is the same, and the landmarks.

    A head of other landmarks, or of a variant, keeps what it has. A lite network takes from a DRNet the channels that
    carry most.

    Args:
        network: to begin with them.
        content: a KPNet file, see `read_network`.
        pixels: (n, 3, h, w) in [0, 255], pictures of the training, by which normalisation learns what it meets.

    Raises:
        OptionError: a file that cannot be read back, or of another backbone.
    """
    source = read_network(content)
    if isinstance(network.backbone, Lite) and isinstance(source.backbone, DRNet):
        state = narrowed(source.backbone, network.backbone)
    elif type(network.backbone) is type(source.backbone):
        state = source.state_dict()
    else:
        names = (type(part.backbone).__name__ for part in (network, source))
        raise OptionError("a {} cannot begin with the weights of a {}".format(*names))
    mine = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in mine and mine[name].shape == value.shape}
    network.load_state_dict(mine | fitting)
    settle(network, lambda: network(pixels))
    _log.info("begins with %d of %d tensors of the file", len(fitting), len(mine))


def narrowed(wide: DRNet, lite: Lite) -> dict[str, Tensor]:
    """A DRNet's layers that a lite network has, too, cut to its channels at stride 8: those that carry most."""
    mine = lite.state_dict().keys()
    state = {f"backbone.{name}": value for name, value in wide.state_dict().items() if name in mine}
    count = lite.down.first.conv.out_channels
    up = wide.up.conv
    assert isinstance(up, nn.Conv2d)
    assert isinstance(wide.down.shortcut, ConvNorm)
    writers = [wide.down.second.conv, wide.down.shortcut.conv, wide.deep.second.conv]
    kept = _strongest(count, writers=writers, readers=[wide.deep.first.conv, up])
    for name, block in (("down", wide.down), ("deep", wide.deep)):
        inner = _strongest(count, writers=[block.first.conv], readers=[block.second.conv])
        for layer, outputs in (("first", inner), ("second", kept), ("shortcut", kept)):
            for key in [key for key in state if key.startswith(f"backbone.{name}.{layer}.") and state[key].dim()]:
                state[key] = state[key][outputs]
        state[f"backbone.{name}.second.conv.weight"] = state[f"backbone.{name}.second.conv.weight"][:, inner]
    state["backbone.deep.first.conv.weight"] = state["backbone.deep.first.conv.weight"][:, kept]
    # an even place has taps a, b + c on what is upsampled, an odd one a + b, c; before it both have their mean
    mean = torch.tensor([[0.5, 0.0, 0.0], [0.5, 1.0, 0.5], [0.0, 0.0, 0.5]])
    state["backbone.up.conv.weight"] = torch.einsum("yv,xu,oivu->oiyx", mean, mean, up.weight[:, kept])
    return state


def _strongest(count: int, *, writers: list[nn.Conv2d], readers: list[nn.Conv2d]) -> Tensor:
    """Indices of the channels with the largest products of what is written to them and what is read from them."""
    written = torch.stack([torch.linalg.vector_norm(conv.weight, dim=(1, 2, 3)) for conv in writers]).sum(0)
    read = torch.stack([torch.linalg.vector_norm(conv.weight, dim=(0, 2, 3)) for conv in readers]).sum(0)
    return (written * read).topk(count).indices.sort().values
