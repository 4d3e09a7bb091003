"""A region proposal network instead of the scalemap (Ren et al. 2015; the paper's table 6): anchors and their offsets.

Anchors are squares at each cell of a map of stride 8, one per octave, among them the paper's of 16, 32 and 64 times the
root of 2. As with the scalemap, a face is the square around its centre with its longer side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from lineament import boxes as box_ops
from lineament.anchors import Level, anchors
from lineament.data.canvases import Labels
from lineament.methods.kpnet.heads.base import Proposals, Proposing, faces_of
from lineament.methods.kpnet.layers import expect_rarely
from lineament.methods.kpnet.maps import leading
from lineament.methods.kpnet.network import Backbone
from lineament.methods.kpnet.scales import LARGEST, SMALLEST
from lineament.methods.peaks import local_maxima
from lineament.train.precision import in_float32
from lineament.train.task import Batch, divisor

Array = NDArray[Any]

CELL = 8
"""Pixels of the input per cell of the anchors' map."""
SIDES = SMALLEST * 2 ** (np.arange(np.log2(LARGEST / SMALLEST)) + 0.5)
"""Sides of the anchors in pixels of the input."""
LEVEL = Level(CELL, tuple(SIDES.tolist()))
PROPOSALS = 300
"""Largest number of faces in one view. An input of 64x64 has 384 anchors."""
POSITIVE, NEGATIVE = 0.5, 0.3
"""Intersection over union with a face: from this on an anchor is positive, and below that it is background."""


class RPN(Proposing):
    """Anchors, their classes and their offsets."""

    compared = False  # anchors of one position may differ by the last digit

    def head(self, backbone: Backbone, landmarks: int) -> nn.Module:  # noqa: D102
        return AnchorHead(backbone.channels, backbone.stride)

    def targets(self, labels: Sequence[Labels], size: int) -> Batch:
        """The target of each anchor."""
        of_each = [
            assign(boxes, canvas.boxes[canvas.ignore], size)
            for canvas, boxes in zip(labels, faces_of(labels), strict=True)
        ]
        kinds, offsets = map(np.stack, zip(*of_each, strict=True))
        return {"anchors": kinds, "anchor_offsets": offsets}

    def losses(self, maps: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``scale``, the loss of the anchors."""
        anchors, offsets = batch["anchors"], batch["anchor_offsets"]
        return {"scale": anchor_loss(maps["scale"], anchors, offsets, focal=self.style.focal)}

    def propose(self, features: Tensor, maps: Mapping[str, Tensor], threshold: Tensor) -> Proposals:  # noqa: D102
        return propose(maps["scale"], threshold)


class AnchorHead(nn.Module):
    """A hidden layer on a cell's features, and one convolution each for the anchors' scores and offsets.

    Args:
        channels: Channels of the features.
        stride: Pixels of the input per cell of the features.
    """

    def __init__(self, channels: int, stride: int, hidden: int = 64) -> None:
        super().__init__()
        self.cell = nn.Conv2d(channels, hidden, CELL // stride, stride=CELL // stride)
        self.score = nn.Conv2d(hidden, len(SIDES), 3, padding=1)
        self.offset = nn.Conv2d(hidden, 3 * len(SIDES), 3, padding=1)
        expect_rarely(self.score, 1e-2)

    def forward(self, features: Tensor) -> Tensor:
        """(n, channels, H/stride, W/stride) -> (n, 4A, H/8, W/8): A logits; x, y and log side of each of A anchors."""
        hidden = functional.relu(self.cell(features))
        return torch.cat([self.score(hidden), self.offset(hidden)], dim=1)


def assign(boxes: Array, ignore: Array, size: int) -> tuple[Array, Array]:
    """The targets of the anchors of an input.

    An anchor is positive if it overlaps a face by `POSITIVE`, or as much as any anchor does. It is background if it
    overlaps none by `NEGATIVE`. The others have no loss, nor do those with half of their area in ignored regions.

    Args:
        boxes: (n, 4) faces in pixels of the input.
        ignore: (m, 4) ignored regions in pixels of the input.
        size: Side of the input.

    Returns:
        (A, h, w) float32: 1 for a face, 0 for background, -1 for no loss. (3, A, h, w) float32: the centre of the
        face's square relative to the anchor, divided by its side, and the logarithm of the ratio of their sides;
        arbitrary without a face.
    """
    faces, places = box_ops.square(boxes.astype(float)), np.moveaxis(anchors(size, size, LEVEL), 2, 0)
    overlaps = box_ops.iou(places.reshape(-1, 4), faces)
    nearest = overlaps.argmax(axis=0)
    best = np.pad(overlaps, ((0, 0), (0, 1))).argmax(axis=1)  # the last column: no face
    best[nearest] = np.arange(len(faces))
    most = overlaps.max(axis=1, initial=0)
    left_out = (most >= NEGATIVE) | (box_ops.coverage(places.reshape(-1, 4), ignore) >= 0.5).any(axis=1)
    kinds = np.where(most >= POSITIVE, 1.0, np.where(left_out, -1.0, 0.0))
    kinds[nearest] = 1
    own = np.concatenate([faces, np.ones((1, 4))])[best].reshape(places.shape)
    side, own_side = (b[..., 2] - b[..., 0] for b in (places, own))
    shift = (own[..., :2] + own[..., 2:] - places[..., :2] - places[..., 2:]) / 2 / side[..., None]
    # the row of no face is a point: any positive side will do
    offsets = np.stack([shift[..., 0], shift[..., 1], np.log(np.where(own_side > 0, own_side, side) / side)])
    return kinds.reshape(places.shape[:3]).astype(np.float32), offsets.astype(np.float32)


@in_float32
def anchor_loss(maps: Tensor, anchors: Tensor, offsets: Tensor, *, focal: bool) -> Tensor:
    """Cross-entropy of the anchors' scores and smooth L1 of the faces' offsets, summed, per positive anchor.

    Args:
        maps: (n, 4A, h, w) of `AnchorHead`.
        anchors: (n, A, h, w) of `assign`.
        offsets: (n, 3, A, h, w) of `assign`.
        focal: Weigh an anchor by the square of its error, as in the scalemap's focal loss.
    """
    a = anchors.shape[1]
    logits, found = maps[:, :a], torch.unflatten(maps[:, a:], 1, (3, a))
    of_face = anchors == 1
    surprise = functional.binary_cross_entropy_with_logits(logits, of_face.to(maps.dtype), reduction="none")
    if focal:
        surprise = surprise * (logits.sigmoid() - of_face.to(maps.dtype)) ** 2
    misplaced = functional.smooth_l1_loss(found, offsets, beta=0.1, reduction="none").sum(1)
    return (surprise * (anchors >= 0) + misplaced * of_face).sum() / divisor(of_face.sum())


def propose(maps: Tensor, threshold: Tensor) -> Proposals:
    """The best squares of `AnchorHead`, f of each by ``threshold`` (n,), see `leading`.

    Of large anchors of one side, only local maxima: each face has dozens. Small anchors have neighbours of other faces
    only.
    """
    a = len(SIDES)
    logits, offsets = maps[:, :a], torch.unflatten(maps[:, a:], 1, (3, a))
    h, w = maps.shape[2:]
    sides = torch.tensor(SIDES, dtype=maps.dtype)[:, None, None]
    standing = torch.where(sides < 2 * CELL, logits, local_maxima(logits))
    logit, at = leading(standing.flatten(1), PROPOSALS, threshold)
    x = (torch.arange(w) + 0.5) * CELL + offsets[:, 0] * sides
    y = (torch.arange(h)[:, None] + 0.5) * CELL + offsets[:, 1] * sides
    side = sides * offsets[:, 2].clamp(-2, 2).exp()
    found = torch.stack([x, y, side], dim=-1).flatten(1, 3).gather(1, at[..., None].expand(-1, -1, 3))
    return Proposals(logit, found[..., :2], found[..., 2])
