"""FoxNet's losses (Wu et al. 2019, section II B): discriminative embeddings, landmark maps, and sizes of faces."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lineament.train.task import divisor

EPSILON = 1e-6
"""Norm below which an embedding counts as of this norm: its direction means nothing."""


class Margins(NamedTuple):
    """Distances of equations 2 and 3.

    Attributes:
        inner: delta_v, up to which an embedding may be from its face's centre.
        outer: delta_d, half of what centres of two faces are to be apart.
    """

    inner: float
    outer: float


MARGINS = {
    # d = 1 - cos lies in [0, 2], and with printed margins next to nothing is pulled and everything is pushed
    "cosine": {"working": Margins(0.1, 0.5), "printed": Margins(1.0, 1.0)},
    "euclidean": {"working": Margins(0.5, 1.5), "printed": Margins(1.0, 1.0)},
}
"""By distance. "working" are ours: centres at a right angle, members within 26 degrees of theirs. For the Euclidean
distance they are those of the discriminative loss that the paper begins with (De Brabandere et al. 2017)."""


def discriminative(
    embedding: Tensor, owner: Tensor, *, distance: str, margins: Margins, radius: float
) -> dict[str, Tensor]:
    """Equations 2 to 4, each a mean over the images that it is defined for.

    The paper writes its cosine as a distance and prints the similarity; it is ``1 - cos`` here. The stray ``1/N_c`` of
    equation 3 is left out, and so are pairs of a face with itself.

    Args:
        embedding: (n, d, h, w). owner: (n, h, w) which face of its image each cell belongs to, negative for none.
        distance: "cosine", or "euclidean" for the loss that the paper replaces.
        margins: delta_v and delta_d. radius: R of equation 4.

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
    """How far vectors (..., d) are apart (...): ``1 - cos`` or the Euclidean distance."""
    if distance == "euclidean":
        return length(a - b)
    return 1 - (a * b).sum(-1) / (length(a).clamp(min=EPSILON) * length(b).clamp(min=EPSILON))


def length(x: Tensor) -> Tensor:
    """Norm (...) of vectors (..., d), whose gradient at 0 is 0."""
    squared = (x**2).sum(-1)
    zero = squared == 0
    return torch.where(zero, 0, torch.where(zero, 1, squared).sqrt())


def _mean(values: Tensor, which: Tensor) -> Tensor:
    """Mean over those (n, m) of each image, and then over the images that have some."""
    count = which.sum(1)
    means = torch.where(which, values, 0).sum(1) / count.clamp(min=1)
    return means.sum() / divisor((count > 0).sum())


def heat(logits: Tensor, target: Tensor, weight: Tensor, *, power: float = 2.0) -> Tensor:
    """The loss of landmark maps, over the number of cells in which a landmark is more likely than not.

    The paper calls the branch a segmentation and names no loss. Maps are almost empty, which calls for a focal loss;
    and for a peak to be found between cells its neighbours must come out as high as they are, which a focal loss with
    soft targets sees to (Li et al. 2020, Generalized Focal Loss, equation 5): it is least where both agree.

    Args:
        logits, target, weight: (n, K, h, w); targets in [0, 1], a bell of height 1 at each landmark.
        power: beta, of the difference of probability and target.
    """
    miss = (logits.sigmoid() - target).abs() ** power
    loss = miss * functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (loss * weight).sum() / divisor(((target > 0.5) * weight).sum())


def size(predicted: Tensor, owner: Tensor, side: Tensor) -> Tensor:
    """Mean absolute error of sizes in all cells that belong to a face.

    Args:
        predicted: (n, 1, h, w). owner: (n, h, w), negative for none. side: (n, f) what it should be, by face.
    """
    member = owner >= 0
    truth = side.gather(1, owner.clamp(min=0).flatten(1).long()).view_as(owner)
    return ((predicted[:, 0] - truth).abs() * member).sum() / divisor(member.sum())
