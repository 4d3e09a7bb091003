"""KPNet's losses: of the scalemap (equation 4, or a focal form of it) and of the landmarks (equation 7)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lineament.methods.kpnet.extract import soft_argmax
from lineament.methods.kpnet.scales import STRIDE

FAINT = -5.0
"""Logits below it, p < 0.0067, the focal form passes over: p^2 leaves them neither loss nor gradient to speak of."""


def scale_loss(logits: Tensor, ignored: Tensor, cells: Tensor, values: Tensor, *, focal: bool) -> Tensor:
    """The scalemap's loss, summed over the map.

    Equation 4 is the cross-entropy of every value; the focal form (ours, after CornerNet) takes ``(1 - p)^2`` of it in
    a face's own cell and ``(1 - t)^4 p^2`` elsewhere, t the target. The maps have millions of values, nearly all of
    them background that the network is sure of: the focal form goes through the others alone.

    Args:
        logits: (n, 60, h, w).
        ignored: (n, h, w) bool, cells that count for nothing.
        cells: (m, 4) integers ``image, bin, row, column`` of the targets that are not zero.
        values: (m,) those targets, in (0, 1].
    """
    n, bins, h, w = logits.shape
    flat = logits.permute(0, 2, 3, 1).flatten()  # as the values lie in memory
    learnt = ~ignored[tuple(cells[:, [0, 2, 3]].unbind(1))]
    image, bin_, row, column = cells[learnt].unbind(1)
    places, t = ((image * h + row) * w + column) * bins + bin_, values[learnt]
    if not focal:
        kept = functional.softplus(flat.float()).view(n, h, w, bins) * ~ignored[..., None]
        return kept.sum() - (flat[places].float() * t).sum()
    doubtful = ((flat.detach() > FAINT).view(n, h, w, bins) & ~ignored[..., None]).flatten().nonzero()[:, 0]
    chosen = flat.index_select(0, torch.cat([doubtful, places])).float()
    background, x = chosen[: len(doubtful)], chosen[len(doubtful) :]
    p = x.sigmoid()
    own = t > 0.999
    there = torch.where(own, (1 - p) ** 2 * functional.softplus(-x), (1 - t) ** 4 * p**2 * functional.softplus(x))
    # Where a target is, the loss of the background is taken off again.
    return _focal_background(background).sum() + (there - _focal_background(x) * (x.detach() > FAINT)).sum()


def _focal_background(x: Tensor) -> Tensor:
    """The focal loss of logits where no face is."""
    return x.sigmoid() ** 2 * functional.softplus(x)


def landmark_losses(
    response: Tensor, regions: Tensor, points: Tensor, weights: Tensor, stride: int = STRIDE
) -> dict[str, Tensor]:
    """The landmarks' losses, averaged over what carries weight.

    Args:
        response: (n, K, h, w).
        regions: (n, f, 4) in pixels of the input; squares of side 0 fill up what an image lacks.
        points: (n, f, K, 2) in pixels of the input, anything where the weight is 0.
        weights: (n, f, K). stride: pixels of the input for one cell.

    Returns:
        ``squared``, equation 7 with positions as shares of the region's side; ``absolute``, ours, the same with the
        absolute error; ``peak``, ours, the cross-entropy of equation 5's distribution with the landmark's own place,
        shared by the four cells around it, which makes peaks sharp.
    """
    found = soft_argmax(response, regions, stride)
    weights = weights * _within(points, regions)
    surprise = (found.log_total - at(response, points, stride)).clamp(min=0)
    return {
        **position_losses(found.points, regions, points, weights),
        "peak": (surprise * weights).sum() / weights.sum().clamp(min=1e-6),
    }


def position_losses(found: Tensor, regions: Tensor, points: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """``squared`` and ``absolute`` of `landmark_losses`, of points (n, f, K, 2) found by whatever means."""
    side = (regions[..., 2] - regions[..., 0]).clamp(min=1e-6)
    error = (found - points) / side[..., None, None]
    weights = weights * _within(points, regions)
    total = weights.sum().clamp(min=1e-6)
    return {
        "squared": ((error**2).sum(-1) * weights).sum() / total / 2,
        "absolute": (error.abs().sum(-1) * weights).sum() / total,
    }


def _within(points: Tensor, regions: Tensor) -> Tensor:
    """Which points (n, f, K, 2) lie in their regions: what lies outside cannot be pointed at -> (n, f, K) bool."""
    middle, side = (regions[..., :2] + regions[..., 2:]) / 2, regions[..., 2] - regions[..., 0]
    return (points - middle[..., None, :]).abs().amax(-1) < side[..., None] / 2 - 1


def offset_loss(offset: Tensor, centres: Tensor, sides: Tensor, stride: int) -> Tensor:
    """Ours: how far centres are missed from their own cells and the eight around, any of which may be the peak.

    Args:
        offset: (n, 2, h, w), in cells. centres: (n, f, 2) in pixels of the input. sides: (n, f), 0 where there is no
            face. stride: pixels of the input for one cell.

    Returns:
        The absolute error as a share of the face's side, averaged.
    """
    h, w = offset.shape[2:]
    around = torch.tensor([(dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1)], device=offset.device)
    cell = (centres / stride).floor().long()[:, :, None] + around  # (n, f, 9, 2)
    size = torch.tensor([w, h], device=offset.device)
    there = ((cell >= 0) & (cell < size)).all(-1) & (sides > 0)[..., None]
    cell = torch.minimum(cell.clamp(min=0), size - 1)
    flat = (cell[..., 1] * w + cell[..., 0]).flatten(1)
    found = offset.flatten(2).gather(2, flat[:, None].expand(-1, 2, -1)).view(-1, 2, *cell.shape[1:3])
    aim = centres[:, :, None] / stride - cell - 0.5
    error = (found.permute(0, 2, 3, 1) - aim).abs().sum(-1) * stride / sides.clamp(min=1e-6)[..., None]
    return (error * there).sum() / there.sum().clamp(min=1)


def at(maps: Tensor, points: Tensor, stride: int = STRIDE) -> Tensor:
    """Maps (n, K, h, w) between their cells' centres, at (n, f, K, 2) pixels of the input -> (n, f, K)."""
    n, k, h, w = maps.shape
    size = torch.tensor([w, h], dtype=maps.dtype, device=maps.device) * stride
    grid = (points / size * 2 - 1).transpose(1, 2).reshape(n * k, -1, 1, 2).to(maps.dtype)
    sampled = functional.grid_sample(
        maps.reshape(n * k, 1, h, w), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.reshape(n, k, -1).transpose(1, 2)
