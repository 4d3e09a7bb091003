"""The learned weights of equation 1 in an exported file."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor
from torch.nn import Parameter


def read_beta(content: bytes) -> Tensor:
    """The weights (blocks,) of an ISNet file: the constants that maps are multiplied by, in the order of use."""
    graph = onnx.load_from_string(content).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    used = [name for node in graph.node if node.op_type == "Mul" for name in node.input]
    return torch.tensor([float(constants[name]) for name in used if name in constants and constants[name].ndim == 0])


@torch.no_grad()
def adopt_beta(logits: Parameter, content: bytes) -> None:
    """Copy the weights of a file to the logits (blocks,) of learned ones, if they are as many.

    The sum of learned weights is 1. So weights of a file with another sum, which were fixed, become their shares of it.
    """
    beta = read_beta(content)
    if beta.shape == logits.shape:
        logits.copy_(beta.clamp_min(1e-6).log())
