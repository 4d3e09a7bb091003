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
from lineament.methods.kpnet.least_squares import LeastSquares
from lineament.methods.kpnet.network import DRNet, KPNet, Lite, Trunk
from lineament.methods.normalisation import folded, only_shift, settle
from lineament.runtime import read_metadata
from lineament.schemas import schema
from lineament.weights import parse_metadata

_PREFIX = "kpnet.network."

FAINT = -4.0
"""Logit of the scalemap at which a cell counts half as much as a face when blocks are fitted."""
BACKGROUND = 0.05
"""How much a cell without faces counts."""
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
        with torch.no_grad():
            weight = (source(pixels)["scale"].amax(dim=1, keepdim=True) - FAINT).sigmoid() + BACKGROUND
        refit(mine.eval(), wide, pixels, weight)
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
def refit(trunk: Lite, wide: DRNet | Lite, pixels: Tensor, weight: Tensor) -> None:
    """Fit the residual blocks of a narrow trunk to what those of the wider one compute (He et al. 2017).

    Of each block, the first layer keeps the channels that are missed least. The second layer comes as near as it can
    from them, by least squares.

    Args:
        trunk: A trunk with the layers of `narrowed`, in evaluation mode. It changes in place.
        wide: The trunk that they are from, in evaluation mode.
        pixels: As for `adopt`.
        weight: (n, 1, h, w), how much the cells of a map count.
    """
    every, stream = torch.arange(trunk.shallow.second.conv.out_channels), _stream(wide, trunk)
    x = y = functional.max_pool2d(functional.relu(wide.stem(pixels / 128)), 2)
    inputs = torch.arange(x.shape[1])
    for name, outputs in (("shallow", every), ("down", stream), ("deep", stream)):
        mine, theirs = getattr(trunk, name), getattr(wide, name)
        kernel, bias = folded(theirs.first.conv.weight[:, inputs], theirs.first.norm)
        inner = functional.relu(functional.conv2d(x, kernel, bias, theirs.first.conv.stride, padding=1))
        wanted = theirs.second(functional.relu(theirs.first(y))) + theirs.shortcut(y)
        counts = functional.adaptive_max_pool2d(weight, wanted.shape[2:])[:, 0]
        fit = LeastSquares(zip(inner, wanted[:, outputs] - mine.shortcut(x), counts, strict=True))
        kept = fit.most_useful(mine.first.conv.out_channels)
        for layer, (weights, shift) in ((mine.first, (kernel[kept], bias[kept])), (mine.second, fit.solve(kept))):
            layer.conv.weight.copy_(weights)
            only_shift(layer.norm, shift)
        x, y, inputs = mine(x), functional.relu(wanted), outputs


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
    """The layers that two networks share, cut to the most important channels of the wide one's stream at stride 8.

    Those inside the residual blocks are left out, see `refit`.
    """
    up = wide.up.conv
    assert isinstance(up, nn.Conv2d)
    stream = _stream(wide, trunk)
    shared = ("stem", "shallow.shortcut", "down.shortcut", "up", "smooth")
    state = {f"backbone.{name}": value for name, value in wide.state_dict().items() if name.startswith(shared)}
    for key in [key for key in state if key.startswith("backbone.down.shortcut") and state[key].dim()]:
        state[key] = state[key][stream]
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
