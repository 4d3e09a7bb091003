"""FoxNet's losses (Wu et al. 2019, section II B): of the embeddings, the landmark maps and the sizes of faces."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lineament.train.task import divisor

EPSILON = 1e-6
"""Smallest norm by which an embedding is divided: the direction of a shorter one means nothing."""


class Margins(NamedTuple):
    """The margins of equations 2 and 3.

    Attributes:
        inner: delta_v, the largest distance of an embedding from the centre of its face without a loss.
        outer: delta_d, half the smallest distance of the centres of two faces without a loss.
    """

    inner: float
    outer: float


MARGINS = {
    # 1 - cos lies in [0, 2]. With the printed margins almost nothing is pulled, and everything is pushed.
    "cosine": {"working": Margins(0.1, 0.5), "printed": Margins(1.0, 1.0)},
    "euclidean": {"working": Margins(0.5, 1.5), "printed": Margins(1.0, 1.0)},
}
"""Margins by distance and name. "printed" are the paper's, "working" are ours. For the cosine they allow an angle of
26 degrees to the own centre and ask for 90 degrees between centres. For the Euclidean distance they are the margins of
the loss on which the paper builds (De Brabandere et al. 2017).
"""


def discriminative(
    embedding: Tensor, owner: Tensor, *, distance: str, margins: Margins, radius: float
) -> dict[str, Tensor]:
    """Equations 2 to 4, each a mean over the images for which it is defined.

    The paper needs a distance but prints the cosine similarity. Here it is ``1 - cos``. The ``1/N_c`` in equation 3, a
    misprint, is left out, and so are pairs of a face with itself.

    Args:
        embedding: (n, d, h, w).
        owner: (n, h, w) index of the face in each cell among those of its image, negative for none.
        distance: "cosine", or "euclidean" for the loss that the paper replaces.
        margins: delta_v and delta_d.
        radius: R of equation 4.

    Returns:
        ``pull`` (L_var), ``push`` (L_dist) and ``norm`` (L_reg), not weighted.
    """
    n, d = embedding.shape[:2]
    faces = int(owner.max().clamp(min=0)) + 1
    member = owner.flatten() >= 0
    x = embedding.permute(0, 2, 3, 1).reshape(-1, d)[member]
    image = torch.arange(n, device=owner.device)[:, None, None].expand_as(owner).flatten()[member]
    cluster = image * faces + owner.flatten()[member].long()
    count = torch.zeros(n * faces, dtype=x.dtype, device=x.device).index_add(0, cluster, torch.ones_like(x[:, 0]))
    total = torch.zeros(n * faces, d, dtype=x.dtype, device=x.device).index_add(0, cluster, x)
    centre = total / count.clamp(min=1)[:, None]
    there = (count > 0).view(n, faces)

    far = functional.relu(apart(x, centre[cluster], distance) - margins.inner) ** 2  # equation 2
    pull = torch.zeros_like(count).index_add(0, cluster, far) / count.clamp(min=1)
    by_image = centre.view(n, faces, d)
    between = apart(by_image[:, :, None], by_image[:, None], distance)
    pairs = there[:, :, None] & there[:, None] & ~torch.eye(faces, dtype=torch.bool, device=there.device)
    near = functional.relu(2 * margins.outer - between) ** 2  # equation 3
    off = (length(centre) - radius) ** 2  # equation 4
    return {
        "pull": _mean(pull.view(n, faces), there),
        "push": _mean(near.flatten(1), pairs.flatten(1)),
        "norm": _mean(off.view(n, faces), there),
    }


def apart(a: Tensor, b: Tensor, distance: str) -> Tensor:
    """The distance (...) of vectors (..., d): ``1 - cos`` or the Euclidean distance."""
    if distance == "euclidean":
        return length(a - b)
    return 1 - (a * b).sum(-1) / (length(a).clamp(min=EPSILON) * length(b).clamp(min=EPSILON))


def length(x: Tensor) -> Tensor:
    """The norm (...) of vectors (..., d). Its gradient at 0 is 0."""
    squared = (x**2).sum(-1)
    zero = squared == 0
    return torch.where(zero, 0, torch.where(zero, 1, squared).sqrt())


def _mean(values: Tensor, which: Tensor) -> Tensor:
    """The mean of the selected values (n, m) of each image, then the mean over the images that have any."""
    count = which.sum(1)
    means = torch.where(which, values, 0).sum(1) / count.clamp(min=1)
    return means.sum() / divisor((count > 0).sum())


def heat(logits: Tensor, target: Tensor, weight: Tensor, *, power: float = 2.0) -> Tensor:
    """The loss of landmark maps, divided by the weighted number of cells with a target above 0.5, at least 1 per image.

    The paper calls the branch a segmentation, and does not name its loss. Maps are almost empty, which calls for a
    focal loss. To locate a peak between cells, the cells around it must be as high as their targets. So it is the focal
    loss for soft targets, whose minimum is at the target (Li et al. 2020, Generalized Focal Loss, equation 5).

    Args:
        logits: (n, K, h, w).
        target: (n, K, h, w) in [0, 1], with a Gaussian of height 1 at each landmark.
        weight: (n, K, h, w) weights of the cells.
        power: beta, the exponent of the difference between probability and target.
    """
    miss = (logits.sigmoid() - target).abs() ** power
    loss = miss * functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # at least 1 per image: otherwise the background of images without landmarks would dominate the loss
    return (loss * weight).sum() / divisor(((target > 0.5) * weight).sum()).clamp(min=len(logits))


def size(predicted: Tensor, owner: Tensor, side: Tensor) -> Tensor:
    """The mean absolute error of the size map in all cells of faces.

    Args:
        predicted: (n, 1, h, w).
        owner: (n, h, w) index of the face in each cell, negative for none.
        side: (n, f) target of each face, see `lineament.methods.foxnet.targets.log_size`.
    """
    member = owner >= 0
    truth = side.gather(1, owner.clamp(min=0).flatten(1).long()).view_as(owner)
    return ((predicted[:, 0] - truth).abs() * member).sum() / divisor(member.sum())
