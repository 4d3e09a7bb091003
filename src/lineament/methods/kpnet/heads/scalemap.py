"""The scalemap: positions and sizes of faces (equations 1 to 4), and its proposals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lineament import boxes as box_ops
from lineament.data.canvases import Labels
from lineament.methods.kpnet import scales
from lineament.methods.kpnet.heads.base import Proposals, Proposing, faces_of, padded
from lineament.methods.kpnet.heads.bells import Bells, Spread, bell_loss, bells, stacked, touched
from lineament.methods.kpnet.heads.boxes import CHANNELS, box_loss, decode
from lineament.methods.kpnet.layers import expect_rarely
from lineament.methods.kpnet.maps import around, at_cells, leading, shifts
from lineament.methods.kpnet.network import Backbone
from lineament.methods.kpnet.scales import BINS, PER_OCTAVE, SMALLEST, STRIDE
from lineament.methods.peaks import local_maxima, places
from lineament.train.precision import in_float32
from lineament.train.task import Batch, divisor

Array = NDArray[Any]

PROPOSALS = 1000
"""Largest number of faces in one view."""

FAINT = -5.0
"""Logit of proposals above which they learn their boxes: a probability of 0.0067."""

NEAR = 3
"""Bins on each side of a cell's best bin that count for the size of its face."""


class Scalemap(Proposing):
    """One map for each bin of equation 1. Its cells are faces of that size."""

    @property
    def extra(self) -> dict[str, int]:
        """``offset``, x and y, if cells are larger than the paper's; ``box`` if boxes are learned."""
        offset = {"offset": 2} if self.style.stride > STRIDE else {}
        return offset | ({"box": CHANNELS} if self.style.boxes else {})

    def head(self, backbone: Backbone, landmarks: int) -> nn.Module:  # noqa: D102
        head = backbone.head(BINS)
        expect_rarely(head)
        return head

    def targets(self, labels: Sequence[Labels], size: int) -> Batch:
        """Equations 2 and 3, the number of faces, their positions and sizes, and their boxes if these are learned."""
        faces, stride = faces_of(labels), self.style.stride
        cells, values = stacked([paint(own, size, self.style.spread, stride) for own in faces])
        targets = {
            "cells": cells,
            "values": values,
            "ignored": np.stack([touched(canvas.boxes[canvas.ignore], size, stride) for canvas in labels]),
            "faces": np.array([len(own) for own in faces], np.float32),
            "centres": padded([box_ops.centre(own) for own in faces]),
            "sides": padded([box_ops.longer_side(own) for own in faces]),
        }
        return targets | ({"boxes": padded(faces)} if self.style.boxes else {})

    def losses(self, maps: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``scale``, equation 4: per photo, or per face if focal; ``offset`` if cells are large; ``box`` if learned."""
        loss = bell_loss(maps["scale"], batch["ignored"], batch["cells"], batch["values"], focal=self.style.focal)
        count = divisor(batch["faces"].sum()) if self.style.focal else len(maps["scale"])
        parts = {"scale": loss / count}
        if "offset" in maps:
            centres, sides = batch["centres"], batch["sides"]
            parts["offset"] = offset_loss(maps["offset"], centres, sides, self.style.stride)
        if "box" in maps:
            parts["box"] = self._box_loss(maps, batch)
        return parts

    def _box_loss(self, maps: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        """The loss of the proposals' boxes. It does not move the proposals."""
        given = {name: maps[name].detach().float() for name in ("scale", "offset") if name in maps}
        given["box"] = maps["box"].float()
        proposals = self._proposals(given, torch.full_like(batch["faces"], FAINT))
        assert proposals.box is not None
        around = Proposals(batch["sides"], batch["centres"], batch["sides"]).regions
        return box_loss(proposals.box, proposals.regions, batch["boxes"], around, proposals.logit)

    def propose(self, features: Tensor, maps: Mapping[str, Tensor], threshold: Tensor) -> Proposals:  # noqa: D102
        return self._proposals(maps, threshold)

    def _proposals(self, maps: Mapping[str, Tensor], threshold: Tensor) -> Proposals:
        logit, cell, logits = strongest(maps["scale"], threshold)
        return self.squares(maps, logit, cell, logits, partial(neighbours, maps["scale"], cell))

    def squares(
        self,
        maps: Mapping[str, Tensor],
        logit: Tensor,
        cell: Tensor,
        logits: Tensor,
        near: Callable[[Tensor], Tensor],
    ) -> Proposals:
        """The squares of the cells from `strongest` or a function like it.

        Args:
            maps: Those of the network.
            logit: See `strongest`, as for the next two.
            cell: (n, f, 2).
            logits: (n, f, 60).
            near: `neighbours` of the cells in bins, or a function like it.
        """
        bins, stride = logits.argmax(dim=-1), self.style.stride
        if "offset" in maps:
            offset = at_cells(maps["offset"], cell)
        elif self.style.printed:
            offset = torch.zeros_like(cell, dtype=logit.dtype)
        else:
            offset = expected_offset(near(bins))
        of_bins = bins if self.style.printed else expected_bin(logits, bins)
        centre, side = (cell + 0.5 + offset) * stride, SMALLEST * torch.exp2((of_bins + 0.5) / PER_OCTAVE)
        box = decode(at_cells(maps["box"], cell), centre, side) if "box" in maps else None
        return Proposals(logit, centre, side, box)


def paint(boxes: Array, size: int, spread: Spread, stride: int = STRIDE) -> Bells:
    """Equations 2 and 3: a scalemap of faces, each a bell around its host cell in its bin.

    Args:
        boxes: (n, 4) faces in pixels of the input, each with a bin.
        size: Side of the input.
        spread: How far a face reaches.
        stride: Pixels of the input per cell.
    """
    cells = size // stride
    sides = box_ops.longer_side(boxes)
    host = np.floor(box_ops.centre(boxes) / stride).astype(np.int64)
    bins = scales.encode(sides)
    if spread.paper:
        radius = (bins + 1) // 10
        sigma = 0.1 * np.maximum(radius, 1e-6)
    else:
        sigma = np.maximum(spread.space * sides / stride, 0.5)
        radius = np.floor(3 * sigma).astype(np.int64)
    return bells(np.column_stack([bins, host[:, ::-1]]), sigma, radius, (BINS, cells, cells), spread.scale)


@in_float32
def offset_loss(offset: Tensor, centres: Tensor, sides: Tensor, stride: int) -> Tensor:
    """Ours: the error of the centres predicted from the cells that may be the peak: their own, and the neighbours whose
    centres are less than a cell away from them on both axes.

    Args:
        offset: (n, 2, h, w), in cells.
        centres: (n, f, 2) in pixels of the input.
        sides: (n, f), the longer ones; 0 for padding.
        stride: Pixels of the input per cell.

    Returns:
        The mean absolute error as a share of the face's side.
    """
    h, w = offset.shape[2:]
    own = (centres / stride).floor().long()
    column, row, there = around(own, h, w)
    found = offset.flatten(2).gather(2, (row * w + column).flatten(1)[:, None].expand(-1, 2, -1))
    aim = centres[:, :, None] / stride - torch.stack([column, row], dim=-1) - 0.5
    error = (found.view(-1, 2, *column.shape[1:]).permute(0, 2, 3, 1) - aim).abs().sum(-1)
    there = there & (aim.abs() < 1).all(dim=-1) & (sides > 0)[..., None]
    share = error * stride / sides.clamp(min=1e-6)[..., None]
    return (share * there).sum() / divisor(there.sum())


def strongest(scale: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best cells of scalemaps (n, 60, h, w) that are local maxima.

    Returns:
        Largest logits (n, f), cells (n, f, 2) as column and row, logits of all bins of a cell (n, f, 60); f by
        ``threshold`` (n,), see `leading`.
    """
    best = scale.amax(dim=1)
    logit, at = leading(local_maxima(best[:, None]).flatten(1), PROPOSALS, threshold)
    # the bins of few cells: the argmax of the whole map takes as long as a convolution
    return logit, places(best)[at], scale.flatten(2).gather(2, at[:, None].expand(-1, BINS, -1)).transpose(1, 2)


def neighbours(scale: Tensor, cell: Tensor, bins: Tensor) -> Tensor:
    """The logits (n, f, 9) of scalemaps (n, 60, h, w) in bins (n, f) of cells (n, f, 2) and of those around them.

    Outside the map they are minus infinity.
    """
    column, row, there = around(cell, *scale.shape[2:])
    image = torch.arange(scale.shape[0], device=scale.device)[:, None, None]
    return scale[image, bins[..., None], row, column].masked_fill(~there, -torch.inf)


def expected_offset(logits: Tensor) -> Tensor:
    """Ours: the expected centre of a face, between the centre of its cell and those of the eight neighbours.

    Each counts by its odds in the bin of the face. So if two cells are equally likely, the centre is on their border.

    Args:
        logits: (n, f, 9) from `neighbours`.

    Returns:
        (n, f, 2), x and y in cells from the centre of the peak's, in (-1, 1).
    """
    return logits.softmax(dim=-1) @ shifts(logits.device).to(logits.dtype)


def expected_bin(logits: Tensor, bins: Tensor) -> Tensor:
    """Ours: the expected bin, between a cell's best and the ``NEAR`` bins on each side, by their odds.

    Args:
        logits: (n, f, 60).
        bins: (n, f), the best.

    Returns:
        (n, f), fractions of bins.
    """
    all_bins = torch.arange(logits.shape[-1], device=logits.device)
    far = (all_bins - bins[..., None]).abs() > NEAR
    return (logits.masked_fill(far, -torch.inf).softmax(dim=-1) * all_bins).sum(dim=-1)
