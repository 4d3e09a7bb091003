"""Networks from exported files: unfold their layers, to train on or to export again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.errors import OptionError
from lineament.methods.kpnet.decode import Config
from lineament.methods.kpnet.heads import Heads, build
from lineament.methods.kpnet.layers import ConvNorm, UpConv
from lineament.methods.kpnet.least_squares import least_squares
from lineament.methods.kpnet.network import DRNet, KPNet, Lite, Trunk
from lineament.methods.normalisation import folded, only_shift, settle
from lineament.runtime import read_metadata
from lineament.schemas import schema
from lineament.weights import parse_metadata

_PREFIX = "kpnet.network."
_log = logging.getLogger(__name__)


def read_network(content: bytes) -> KPNet:
    """The network of a file, as before folding, except that normalisation only adds biases.

    Raises:
        OptionError: The file is of another method or a variant, or is quantised to 8 bits.
        WeightsError: lineament did not export the file.
    """
    method, settings = parse_metadata(read_metadata(content))
    if method != "kpnet":
        raise OptionError(f"expected weights of kpnet, found weights of {method}")
    graph = onnx.load_from_string(content).graph
    tensors = {
        tensor.name.removeprefix(_PREFIX): torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in graph.initializer
        if tensor.name.startswith(_PREFIX)
    }
    if any(name.endswith("_quantized") for name in tensors):
        raise OptionError("expected weights in floats, found integers of 8 bits: name the file they were made from")
    config = config_of(settings)
    boxes = any(output.name == "kpnet.box" for output in graph.output)
    heads = Heads.of(backbone=config.backbone, boxes=boxes)
    network = build(sum(len(schema(name)) for name in config.offered), config.backbone, heads)
    try:
        network.unfold(tensors)
    except (KeyError, RuntimeError) as error:
        raise OptionError("expected weights of kpnet itself, found those of a variant of it") from error
    return network


def heads_of(network: KPNet, config: Config) -> Heads:
    """The heads of a network from `read_network`."""
    return Heads.of(backbone=config.backbone, boxes="box" in network.extra)


def config_of(settings: Mapping[str, Any]) -> Config:
    """The settings of a file of any version. Settings that this version does not know are dropped."""
    known = {field.name for field in fields(Config)}
    return Config(**{name: value for name, value in settings.items() if name in known})


def adopt(network: KPNet, content: bytes, pixels: Tensor) -> None:
    """Copy the weights of a file to a network, see `begin_with`.

    Args:
        network: The network to change.
        content: A KPNet file, see `read_network`.
        pixels: (n, 3, h, w) in [0, 255], training images for the statistics of normalisation.

    Raises:
        OptionError: The file cannot be unfolded, or has another backbone whose trunk is not wider.
    """
    begin_with(network, read_network(content).eval(), pixels)


def begin_with(network: KPNet, source: KPNet, pixels: Tensor) -> None:
    """Copy the weights of a network to another: of the same backbone all that have the same shape.

    Of a wider trunk, these are the most important channels (`narrowed`), and blocks are fitted to its own (`refit`).
    Heads come along, except from DRNet to another backbone. Maps of other landmarks, and of boxes that the source has
    not learned, keep their weights. Normalisation takes its statistics from the images.

    Args:
        network: The network to change.
        source: The network to copy from, in evaluation mode.
        pixels: As for `adopt`.

    Raises:
        OptionError: The source has another backbone whose trunk is not wider.
    """
    mine, wide = network.backbone, source.backbone
    if type(mine) is type(wide):
        _copy(source.state_dict() | joined(source, network), network)
    elif isinstance(wide, DRNet | Lite) and isinstance(mine, Lite) and _fits(mine, wide):
        state = source.state_dict() | joined(source, network) if isinstance(wide, Lite) else {}
        _copy(state | narrowed(wide, mine), network)
        training = mine.training
        refit(mine.eval(), wide, pixels)
        mine.train(training)
    else:
        names = (type(backbone).__name__ for backbone in (mine, wide))
        raise OptionError("a {} cannot begin with the weights of a {}".format(*names))
    settle(network, lambda: network(pixels))


def _copy(state: dict[str, Tensor], network: KPNet) -> None:
    """Copy the tensors that fit."""
    mine = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in mine and mine[name].shape == value.shape}
    network.load_state_dict(mine | fitting)
    _log.info("%d of %d tensors start from other weights", len(fitting), len(mine))


@torch.no_grad()
def refit(trunk: Lite, wide: DRNet | Lite, pixels: Tensor) -> None:
    """Fit the residual blocks of a narrow trunk to what those of the wider one compute (He et al. 2017).

    Of each block, this is the kernel of the second layer, by least squares: from the channels that are left, its output
    comes as near as it can.

    Args:
        trunk: A trunk with the layers of `narrowed`, in evaluation mode. It changes in place.
        wide: The trunk that they are from, in evaluation mode.
        pixels: As for `adopt`.
    """
    stream = _stream(wide, trunk)
    x = y = functional.max_pool2d(functional.relu(wide.stem(pixels / 128)), 2)
    for name, kept in (("shallow", slice(None)), ("down", stream), ("deep", stream)):
        mine, theirs = getattr(trunk, name), getattr(wide, name)
        inner = functional.relu(mine.first(x))
        wanted = theirs.second(functional.relu(theirs.first(y))) + theirs.shortcut(y)
        kernel, bias = least_squares(zip(inner, wanted[:, kept] - mine.shortcut(x), strict=True))
        mine.second.conv.weight.copy_(kernel)
        only_shift(mine.second.norm, bias)
        x, y = mine(x), functional.relu(wanted)


def joined(source: KPNet, network: KPNet) -> dict[str, Tensor]:
    """The response head of a network with the maps that a source has, too."""

    def parts(of: KPNet, name: str) -> dict[str, Tensor]:
        return dict(zip(of.channels, torch.split(of.state_dict()[name], list(of.channels.values())), strict=True))

    made = {}
    for name in network.response.state_dict(prefix="response."):
        there = parts(source, name)
        own = parts(network, name).items()
        made[name] = torch.cat([there[m] if len(there.get(m, ())) == len(mine) else mine for m, mine in own])
    return made


def _fits(narrow: Trunk, wide: Trunk) -> bool:
    """Whether a trunk has fewer channels than another somewhere, and nowhere more."""

    def widths(trunk: Trunk) -> list[int]:
        blocks = (trunk.shallow, trunk.down, trunk.deep)
        return [layer.conv.out_channels for block in blocks for layer in (block.first, block.second)]

    pairs = list(zip(widths(narrow), widths(wide), strict=True))
    return all(mine <= other for mine, other in pairs) and any(mine < other for mine, other in pairs)


def narrowed(wide: DRNet | Lite, trunk: Lite) -> dict[str, Tensor]:
    """The layers that two networks share, cut to the most important channels of the wide one."""
    shared = ("stem", "shallow", "down", "deep", "up", "smooth")
    state = {f"backbone.{name}": value for name, value in wide.state_dict().items() if name.split(".")[0] in shared}
    up = wide.up.conv
    assert isinstance(up, nn.Conv2d)
    stream = _stream(wide, trunk)
    middle = torch.arange(trunk.shallow.second.conv.out_channels)  # all trunks have the same channels at stride 4
    for name, kept in (("shallow", middle), ("down", stream), ("deep", stream)):
        block, count = getattr(wide, name), getattr(trunk, name).first.conv.out_channels
        inner = _strongest(count, writers=[block.first], readers=[block.second])
        for layer, outputs in (("first", inner), ("second", kept), ("shortcut", kept)):
            for key in [key for key in state if key.startswith(f"backbone.{name}.{layer}.") and state[key].dim()]:
                state[key] = state[key][outputs]
        state[f"backbone.{name}.second.conv.weight"] = state[f"backbone.{name}.second.conv.weight"][:, inner]
    state["backbone.deep.first.conv.weight"] = state["backbone.deep.first.conv.weight"][:, stream]
    if isinstance(wide, DRNet):
        # an even position has taps a, b + c on the upsampled map, an odd one a + b, c; before it both have their mean
        mean = torch.tensor([[0.5, 0.0, 0.0], [0.5, 1.0, 0.5], [0.0, 0.0, 0.5]])
        state["backbone.up.conv.weight"] = torch.einsum("yv,xu,oivu->oiyx", mean, mean, up.weight[:, stream])
    return state


def _stream(wide: DRNet | Lite, trunk: Lite) -> Tensor:
    """Indices of the channels at stride 8 that the narrow trunk has."""
    shortcut = wide.down.shortcut
    assert isinstance(shortcut, ConvNorm)
    writers, readers = [wide.down.second, shortcut, wide.deep.second], [wide.deep.first, wide.up]
    return _strongest(trunk.deep.second.conv.out_channels, writers=writers, readers=readers)


def _strongest(count: int, *, writers: Sequence[ConvNorm | UpConv], readers: Sequence[ConvNorm | UpConv]) -> Tensor:
    """Indices of the channels with the largest products of incoming and outgoing weights, with the normalisation."""

    def norms(layers: Sequence[ConvNorm | UpConv], dims: tuple[int, ...]) -> Tensor:
        kernels = [folded(layer.conv.weight, layer.norm)[0] for layer in layers]  # type: ignore[arg-type]
        return torch.stack([torch.linalg.vector_norm(kernel, dim=dims) for kernel in kernels]).sum(0)

    written, read = norms(writers, (1, 2, 3)), norms(readers, (0, 2, 3))
    return (written * read).topk(count).indices.sort().values
