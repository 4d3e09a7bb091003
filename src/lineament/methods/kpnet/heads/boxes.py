"""Learned boxes: four maps beside the landmarks'. A cell has the offsets of a face's box from its proposal.

The paper derives boxes from landmarks alone; these are ours. They are trained where they are used at inference: at the
network's own proposal for each face.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lineament.methods.kpnet.layers import layer_of
from lineament.train.precision import in_float32
from lineament.train.task import divisor

CHANNELS = 4
LIMIT = 1.5
"""Largest offset. The centre of a face is hardly a side away from its proposal's, and its sides differ by less than a
factor of 4.
"""
NEAR = 0.3
"""Smallest IoU of a proposal for a face with the square around it."""


def expect_proposals(head: nn.Module) -> None:
    """Let the last four maps of a head start with zeros: boxes that are the proposals."""
    layer = layer_of(head)
    assert layer.bias is not None
    for values in (layer.weight, layer.bias):
        nn.init.zeros_(values[-CHANNELS:])


def decode(offsets: Tensor, centre: Tensor, side: Tensor) -> Tensor:
    """Boxes (n, f, 4) from their offsets from squares, like ``lineament.boxes.decode_rcnn``.

    Args:
        offsets: (n, f, 4): shift of the centre by the square's side, and logarithms of the ratios of width and height.
        centre: (n, f, 2) of the squares, in pixels.
        side: (n, f) of the squares, in pixels.
    """
    shift, growth = torch.split(offsets.clamp(-LIMIT, LIMIT), 2, dim=-1)
    middle, half = centre + shift * side[..., None], growth.exp() * side[..., None] / 2
    return torch.cat([middle - half, middle + half], dim=-1)


@in_float32
def box_loss(boxes: Tensor, squares: Tensor, faces: Tensor, around: Tensor, logit: Tensor) -> Tensor:
    """The generalised IoU loss (Rezatofighi et al. 2019), averaged over the faces that have a proposal.

    A face has the most probable proposal that overlaps its square by ``NEAR``. At inference, this is the one that
    stands. A large face has dozens of others, which suppression removes.

    Args:
        boxes: (n, f, 4), learned.
        squares: (n, f, 4), the proposals.
        faces: (n, m, 4), labelled boxes; of padding, points.
        around: (n, m, 4), the squares around the labelled boxes; of padding, points.
        logit: (n, f) of the proposals, minus infinity for padding.
    """
    near = iou(squares[:, :, None], around[:, None]) >= NEAR
    best, own = logit[..., None].masked_fill(~near, -torch.inf).max(dim=1)
    counts = best.isfinite()
    found = boxes.gather(1, own[..., None].expand(-1, -1, 4))
    return ((1 - generalised_iou(found, faces)) * counts).sum() / divisor(counts.sum())


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) that broadcast and are not both points."""
    common = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    return common / (_area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - common)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes (..., 4) minus the share of the smallest box around both that neither covers, in (-1, 1]."""
    around = _area(torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:]))
    common = _area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = _area(a[..., :2], a[..., 2:]) + _area(b[..., :2], b[..., 2:]) - common
    return common / union - (around - union) / around


def _area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low).clamp(min=0).prod(dim=-1)
