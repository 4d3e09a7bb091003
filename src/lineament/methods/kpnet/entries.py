"""What a KPNet file holds: pixels in, proposals with their landmarks out. The maps stay inside."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lineament.export import Entry
from lineament.methods.kpnet.extract import soft_argmax
from lineament.methods.kpnet.network import KPNet, UpConv
from lineament.methods.kpnet.scales import PER_OCTAVE, SMALLEST, STRIDE
from lineament.schemas import FIVE, MAPS, Schema

PROPOSALS = 1000
"""Faces at most of one view."""

LEAST = -9.0
"""Logit of the scalemap above which a cell can be a proposal where there are two passes: a probability of 0.0001."""

NEAR = 3
"""Bins on either side of a cell's best that have a say in how large its face is."""

ROUGH = 0.5
"""How far a logit of the first of two passes may be from that of the second."""


def entries(
    network: nn.Module,
    *,
    landmarks: Schema = FIVE,
    two_passes: bool = False,
    extractor: Callable[[KPNet, Sequence[int]], nn.Module] | None = None,
) -> dict[str, Entry]:
    """The file's one network. Pixels are uint8 (n, h, w, 3), h and w multiples of the backbone's.

    Args:
        network: a KPNet, which is left as it is.
        landmarks: the schema of its landmarks.
        two_passes: compute the scalemap's logits a second time where the proposals are, so that the map itself may be
            as coarse as integers of 8 bits.
        extractor: what is exported around a variant of the network and its landmarks that count in equation 8.
    """
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 128, 192, 3), dtype=torch.uint8, generator=random)
    least = torch.tensor([-100.0, -100.0])
    folded = copy.deepcopy(network).eval()
    assert isinstance(folded, KPNet)
    second = SecondPass(folded.scale) if two_passes else None
    folded.fold()
    axes = {"pixels": {0: "n", 1: "h", 2: "w"}, "least": {0: "n"}}
    counting = eyes_and_nose(landmarks)
    return {
        "kpnet": Entry(
            extractor(folded, counting) if extractor else Extractor(folded, counting, second),
            {"pixels": pixels, "least": least},
            axes,
            multiple=folded.backbone.multiple,
            listed_by="centre",
        )
    }


def eyes_and_nose(landmarks: Schema) -> tuple[int, ...]:
    """Indices of the landmarks whose peaks equation 8 counts: all that make the eyes and the nose of five points.

    Where a schema has no map to five points, all of its landmarks count.
    """
    if landmarks == FIVE:
        return (0, 1, 2)
    parts = MAPS.get((landmarks.name, FIVE.name), [range(len(landmarks))])
    return tuple(sorted({index for part in parts[:3] for index in part}))


class Extractor(nn.Module):
    """The network and all of its extraction: peaks of the scalemap, soft-argmax, the maxima of equation 8."""

    def __init__(self, network: KPNet, counting: Sequence[int] = (0, 1, 2), second: SecondPass | None = None) -> None:
        super().__init__()
        self.network, self.counting, self.second = network, list(counting), second

    def forward(self, pixels: Tensor, least: Tensor) -> dict[str, Tensor]:
        """The best proposals of each view, best first; coordinates in pixels of the input.

        Args:
            pixels: (n, h, w, 3) uint8. least: (n,) logits that proposals of each view must surpass to count. There are
                as many rows f as the view with most of them has, at least one; further rows of others may be below.

        Returns:
            ``logit`` (n, f) of the scale probability; ``centre`` (n, f, 2); ``side`` (n, f); ``landmarks``
            (n, f, K, 2); ``peaks`` (n, f, m): largest softmax value of either eye and the nose.
        """
        features = self.network.features(pixels.permute(0, 3, 1, 2).float())
        maps = self.network.maps(features)
        logit, centre, side = self.propose(features, maps, least)
        regions = torch.cat([centre - side[..., None] / 2, centre + side[..., None] / 2], dim=-1)
        landmarks, peaks = self.extract(maps["response"], regions)
        return {"logit": logit, "centre": centre, "side": side, "landmarks": landmarks, "peaks": peaks}

    def propose(self, features: Tensor, maps: dict[str, Tensor], least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Squares, best first, by the features (n, c, ...) and the maps: logits, centres and sides, as returned."""
        scale = maps["scale"]
        logit, cell, logits = peaks(scale, least) if self.second is None else self.second(features, scale, least)
        bins = logits.argmax(dim=-1)
        if "offset" in maps:
            at = cell[..., 1] * scale.shape[3] + cell[..., 0]
            offset = maps["offset"].flatten(2).gather(2, at[:, None].expand(-1, 2, -1)).transpose(1, 2)
        else:
            offset = expected_offset(scale, cell, bins)
        centre = (cell + 0.5 + offset) * self.network.stride
        return logit, centre, SMALLEST * torch.exp2((expected_bin(logits, bins) + 0.5) / PER_OCTAVE)

    def extract(self, response: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks and peaks, as returned, in regions (n, f, 4) of the response map."""
        found = soft_argmax(response, regions, self.network.stride)
        largest = region_maximum(response[:, self.counting], regions, self.network.stride)
        return found.points, (largest - found.log_total[..., self.counting]).clamp(max=0).exp()


def peaks(scale: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The best cells of scalemaps (n, 60, h, w) that no cell around them surpasses.

    Returns:
        Largest logits (n, f), cells (n, f, 2) as column and row, logits of all of a cell's bins (n, f, 60); f by
        ``least`` (n,), see ``leading``.
    """
    logit, at, cell = _standing(scale, least)
    # the bins of few cells: the map's own argmax is as expensive as a convolution
    return logit, cell, scale.flatten(2).gather(2, at[:, None].expand(-1, scale.shape[1], -1)).transpose(1, 2)


def _standing(scale: Tensor, least: Tensor, floor: float = -torch.inf) -> tuple[Tensor, Tensor, Tensor]:
    """Peaks of scalemaps: logits (n, f), their cells as indices, and as column and row.

    Where none is left logits are at least 1000 less. Cells whose logit is not above ``floor`` are none.
    """
    best = scale.amax(dim=1)
    standing = functional.pad(local_maxima(best[:, None], floor).flatten(1), (0, PROPOSALS), value=-2000.0)
    logit, at = leading(least, *standing.topk(PROPOSALS, dim=1))
    at = at.clamp(max=best.shape[1] * best.shape[2] - 1)  # of a small map's last cell, again and again, at -2000
    return logit, at, places(best)[at]


def leading(least: Tensor, logit: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Lists (n, m, ...) cut behind the longest run of ``logit`` (n, m), best first, above ``least`` (n,), or 1."""
    count = (logit > least[:, None]).sum(dim=1).amax(dim=0).clamp(min=1).item()
    return tuple(values[:, :count] for values in (logit, *others))


def local_maxima(maps: Tensor, least: float = -torch.inf) -> Tensor:
    """Maps (n, c, h, w), 1000 less where a neighbour, or ``least``, surpasses them."""
    around = functional.pad(maps, (1, 1, 1, 1), value=least)
    for axis in (2, 3):  # runtimes pool few channels slowly, and take a maximum of two maps fast
        before, at, after = (around.narrow(axis, i, maps.shape[axis]) for i in range(3))
        around = torch.maximum(torch.maximum(before, at), after)
    return torch.where(maps >= around.clamp(min=least), maps, maps - 1000)


def expected_offset(scale: Tensor, cell: Tensor, bins: Tensor) -> Tensor:
    """Ours: where a face's centre is to be expected, between the centre of its cell and those of the eight around.

    Each counts by its odds in the face's own bin, so that of two cells that seem as likely the border is taken.

    Args:
        scale: scalemaps (n, 60, h, w). cell: (n, f, 2), columns and rows of peaks. bins: (n, f).

    Returns:
        (n, f, 2), x and y in cells from the centre of the peak's, in (-1, 1).
    """
    h, w = scale.shape[2:]
    column, row, inside, shifts = _around(cell, h, w)
    image = torch.arange(scale.shape[0], device=scale.device)[:, None, None]
    logits = scale[image, bins[..., None], row, column]
    return logits.masked_fill(~inside, -torch.inf).softmax(dim=-1) @ shifts.to(scale.dtype)


def expected_bin(logits: Tensor, bins: Tensor) -> Tensor:
    """Ours: which bin is to be expected, between a cell's best and the ``NEAR`` on either side, as of their odds.

    Args:
        logits: (n, f, 60). bins: (n, f), the best.

    Returns:
        (n, f), fractions of bins.
    """
    all_bins = torch.arange(logits.shape[-1], device=logits.device)
    far = (all_bins - bins[..., None]).abs() > NEAR
    return (logits.masked_fill(far, -torch.inf).softmax(dim=-1) * all_bins).sum(dim=-1)


def _around(cell: Tensor, h: int, w: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The nine cells around cells (n, f, 2), each itself among them.

    Returns:
        Columns and rows (n, f, 9), of those outside the map their nearest inside; whether they are inside; and how far
        each is from the middle one (9, 2).
    """
    shifts = torch.tensor([(dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1)], device=cell.device)
    size = torch.tensor([w, h], device=cell.device)
    around = cell[:, :, None] + shifts
    inside = ((around >= 0) & (around < size)).all(dim=-1)
    column, row = torch.minimum(around.clamp(min=0), size - 1).unbind(-1)
    return column, row, inside, shifts


def places(map_: Tensor) -> Tensor:
    """Column and row (h w, 2) of each cell of a map (..., h, w)."""
    h, w = map_.shape[-2:]
    columns, rows = (torch.arange(n, device=map_.device) for n in (w, h))
    columns, rows = columns.expand(h, w), rows[:, None].expand(h, w)
    return torch.stack([columns, rows], dim=-1).reshape(-1, 2)


class SecondPass(nn.Module):
    """The scalemap's layer anew for the cells of proposals alone, out of the features around each.

    Args:
        head: the layer, not folded.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        conv = head.conv if isinstance(head, UpConv) else head
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        self.doubling = 2 if isinstance(head, UpConv) else 1
        self.weight = nn.Parameter(conv.weight.detach().permute(2, 3, 1, 0).flatten(0, 2))  # (9 * channels, 60)
        self.bias = nn.Parameter(conv.bias.detach())

    def forward(self, features: Tensor, scale: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (n, c, ...), the scalemaps (n, 60, h, w) that they led to, and ``least`` (n,) -> as of ``peaks``."""
        rough, _, cell = _standing(scale, least - ROUGH, LEAST)
        column, row, inside, _ = _around(cell, scale.shape[2], scale.shape[3])
        image = torch.arange(features.shape[0])[:, None, None]
        patch = features.permute(0, 2, 3, 1)[image, row // self.doubling, column // self.doubling] * inside[..., None]
        logits = patch.flatten(2) @ self.weight + self.bias
        logit = logits.amax(dim=-1)
        return torch.where(rough > LEAST, logit, logit - 1000), cell, logits


def region_maximum(maps: Tensor, regions: Tensor, stride: int = STRIDE) -> Tensor:
    """Largest values of maps (n, c, h, w) in regions (n, f, 4), over the cells whose centres lie inside -> (n, f, c).

    ONNX has an operator for it; torch has none, and here goes through all cells.
    """
    n, f = regions.shape[:2]
    h, w = maps.shape[2:]
    limit = torch.tensor([w - 1, h - 1], dtype=regions.dtype, device=regions.device)
    first = torch.minimum(torch.ceil(regions[..., :2] / stride - 0.5).clamp(min=0), limit)
    last = torch.maximum(torch.minimum(torch.ceil(regions[..., 2:] / stride - 0.5) - 1, limit), first)
    if torch.compiler.is_exporting():
        image = torch.arange(n).to(regions.dtype)[:, None, None].expand(n, f, 1)
        rois = torch.cat([image, first, last], dim=-1).flatten(0, 1)
        attributes: dict[str, Any] = {"pooled_shape": [1, 1], "spatial_scale": 1.0}
        shape = (rois.shape[0], maps.shape[1], 1, 1)
        pooled = torch.onnx.ops.symbolic("MaxRoiPool", (maps, rois), attributes, dtype=torch.float32, shape=shape)
        return pooled.reshape(n, f, maps.shape[1])
    rows, columns = (
        (at >= first[..., None, axis]) & (at <= last[..., None, axis])
        for axis, size in ((1, h), (0, w))
        for at in [torch.arange(size, device=regions.device)]
    )
    inside = rows[:, :, :, None] & columns[:, :, None, :]
    return torch.stack(
        [maps[:, c, None].masked_fill(~inside, -torch.inf).amax(dim=(2, 3)) for c in range(maps.shape[1])], dim=-1
    )
