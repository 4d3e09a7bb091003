"""Initialise a network of the cascade with the weights of an exported file, for further training."""

from __future__ import annotations

import logging

import onnx
import torch
from torch import nn

from lineament.methods.adopt import read_tensors
from lineament.methods.mtcnn.network import PReLU, Scaling

FIRST = "body.1.conv"
_log = logging.getLogger(__name__)


@torch.no_grad()
def adopt(network: nn.Module, content: bytes, stage: str) -> None:
    """Copy the weights of a stage, and undo what export folds (`lineament.methods.mtcnn.entries.for_inference`).

    Weights of another shape do not change, such as those of other landmarks. P-Net's landmarks are not in the file.

    Args:
        network: The network of the stage.
        content: An MTCNN file.
        stage: Name of the stage.

    Raises:
        OptionError: The file is of another method.
    """
    given = read_tensors(content, ["mtcnn"], {f"{stage}.": "", f"{stage}.{stage}.": ""})
    activations = [name for name, module in network.named_modules() if isinstance(module, PReLU)]
    for name, slopes in zip(activations, _factors(content, stage), strict=True):
        given[f"{name}.weight"] = given[slopes].flatten()
    given[f"{FIRST}.bias"] += Scaling.mean * given[f"{FIRST}.weight"].sum(dim=(1, 2, 3))
    given[f"{FIRST}.weight"] /= Scaling.scale
    mine = network.state_dict()
    fitting = {name: value for name, value in given.items() if name in mine and mine[name].shape == value.shape}
    network.load_state_dict(mine | fitting)
    _log.info("%s: %d of %d tensors start from the file", stage, len(fitting), len(mine))


def _factors(content: bytes, stage: str) -> list[str]:
    """The names of the constants that a stage multiplies by, the slopes of its activations, in the order of use."""
    graph = onnx.load_from_string(content).graph
    constants = {tensor.name for tensor in graph.initializer}
    used = [name for node in graph.node if node.op_type == "Mul" for name in node.input if name in constants]
    return [name.removeprefix(f"{stage}.") for name in used if name.startswith(f"{stage}.")]
