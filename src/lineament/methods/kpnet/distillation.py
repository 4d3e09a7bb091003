"""Distillation (Hinton et al. 2015): a small network imitates the maps of a large one. Not in the paper.

Labels say where faces are. The maps of a trained network also say which background is like a face, and how certain each
landmark is. So an untrained network learns faster from both.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from lineament.errors import OptionError
from lineament.methods.kpnet.adopt import read_network
from lineament.methods.kpnet.heads.bells import FAINT
from lineament.methods.kpnet.heads.soft_argmax import DEEPEST, soft_argmax
from lineament.methods.kpnet.maps import inside
from lineament.methods.kpnet.network import KPNet
from lineament.train.precision import in_float32
from lineament.train.task import divisor, to_input


class Teacher:
    """A trained network whose maps another imitates.

    Args:
        content: A KPNet file, see `lineament.methods.kpnet.adopt.read_network`.
        student: The network that learns.

    Raises:
        OptionError: The file cannot be unfolded, or the teacher has larger cells or other landmarks.
    """

    def __init__(self, content: bytes, student: KPNet) -> None:
        teacher = read_network(content).eval().requires_grad_(False)
        mine, own = (network.channels["response"] for network in (student, teacher))
        if mine != own:
            raise OptionError(f"a teacher has the landmarks of the network that learns, {mine}; found {own}")
        if student.stride < teacher.stride:
            raise OptionError(f"a teacher has cells of at most {student.stride} pixels, found {teacher.stride}")
        teacher.fold()
        self._network = teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._stride, self._share = student.stride, student.stride // teacher.stride

    def losses(self, maps: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``scale_like`` per face and ``response_like`` per landmark, see `scale_loss` and `response_loss`."""
        with torch.no_grad():
            taught = self._network.to(batch["pixels"].device)(to_input(batch["pixels"]))
        target = functional.max_pool2d(taught["scale"], self._share)
        return {
            "scale_like": scale_loss(maps["scale"], target) / divisor(batch["faces"].sum()),
            "response_like": response_loss(
                maps["response"], taught["response"], batch["regions"], self._stride, self._share
            ),
        }


@in_float32
def scale_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The quality focal loss (Li et al. 2020) of scalemaps towards the probabilities of a teacher's, summed.

    It is the cross-entropy times the squared difference of both probabilities. Cells that are faint in both maps are
    left out.

    Args:
        logits: (n, 60, h, w).
        target: (n, 60, h, w), logits of the teacher.
    """
    counts = torch.maximum(logits.detach(), target) > FAINT
    x, t = logits[counts], target[counts].sigmoid()
    return ((x.sigmoid() - t) ** 2 * functional.binary_cross_entropy_with_logits(x, t, reduction="none")).sum()


@in_float32
def response_loss(response: Tensor, target: Tensor, regions: Tensor, stride: int, share: int = 1) -> Tensor:
    """The mean divergence (Kullback and Leibler) of equation 5's distributions from a teacher's, over all regions.

    Args:
        response: (n, K, h, w).
        target: (n, K, share*h, share*w) of the teacher.
        regions: (n, f, 4) in pixels of the input. Padding has squares of side 0.
        stride: Pixels of the input per cell of the response.
        share: Cells of the teacher along such a cell.
    """
    peak = target.amax(dim=(2, 3), keepdim=True)
    weight = functional.avg_pool2d((target - peak).clamp(min=-DEEPEST).exp(), share)
    rows, _ = inside(regions[..., 1], regions[..., 3], response.shape[2], stride)
    columns, _ = inside(regions[..., 0], regions[..., 2], response.shape[3], stride)

    def summed(values: Tensor) -> Tensor:
        """The sums (n, f, K) over the cells of the regions."""
        return ((rows[:, None] @ values) * columns[:, None]).sum(-1).transpose(1, 2)

    total = summed(weight)
    there = total > 0
    total = total.masked_fill(~there, 1.0)
    surprise = summed(weight * (weight.log() - response)) / total - total.log()
    divergence = surprise + soft_argmax(response, regions, stride).log_total
    return (divergence * there).sum() / divisor(there.sum())
