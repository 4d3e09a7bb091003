"""Draw canvases in the memory of an accelerator, a whole batch at once.

There a network learns faster than processors can draw for it. `lineament.data.canvases` and `lineament.data.augment`
still decide the random layout and the labels, as for canvases that a processor draws. A few numbers of each canvas go
to the device, which has the photos.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lineament.data.augment import TO_YIQ, Cover, Looks, blurred
from lineament.data.cache import Photos
from lineament.data.canvases import Layout
from lineament.errors import OptionError

Array = NDArray[Any]
LEVELS = 5  # of a photo: its full size, down to a sixteenth; canvases rarely show less
BLUR = 19  # pixels, side of a kernel that holds both blurs of `Quality` at their maximum
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])  # JFIF


def plan(layouts: Sequence[Layout], covers: Sequence[Sequence[Cover]], looks: Looks) -> dict[str, Array]:
    """What `DeviceComposer.draw` needs to know about canvases of one size, as arrays with ``plan_`` in their names.

    Args:
        layouts: The canvases.
        covers: The objects in front of faces on each.
        looks: The light and quality of each.
    """
    n, most = len(layouts), max(len(layout.patches) for layout in layouts)
    made: dict[str, Array] = {
        "rows": np.zeros((n, most), np.int64),
        "areas": np.zeros((n, most, 4), np.int64),
        "matrices": np.zeros((n, most, 2, 3), np.float32),
        "replicated": np.zeros((n, most), bool),
        "around": np.zeros((n, most, 3), np.float32),
        **{name: getattr(looks, name).astype(np.float32) for name in ("colours", "gains", "brightness", "gamma")},
    }
    for i, layout in enumerate(layouts):
        for j, patch in enumerate(layout.patches):
            made["rows"][i, j], made["areas"][i, j] = patch.row, patch.area
            shift = np.array([[0, 0, patch.area[0]], [0, 0, patch.area[1]]])
            made["matrices"][i, j] = cv2.invertAffineTransform(patch.matrix + shift)  # from the canvas to the photo
            made["replicated"][i, j] = patch.border == cv2.BORDER_REPLICATE
            made["around"][i, j] = patch.colour or 0
    made["covered"], made["cover"] = _covered(covers, layouts[0].size)
    made["blurred"] = np.flatnonzero((looks.blur > 0) | (looks.motion[:, 0] > 0))
    point = np.zeros((BLUR, BLUR), np.float32)
    point[BLUR // 2, BLUR // 2] = 1
    kernels = [blurred(point, looks, i) for i in made["blurred"]]
    made["kernels"] = np.array(kernels, np.float32).reshape(-1, BLUR, BLUR)
    made["noisy"] = np.flatnonzero(looks.noise)
    made["noise"], made["seeds"] = looks.noise[made["noisy"]].astype(np.float32), looks.seed[made["noisy"]]
    made["compressed"] = np.flatnonzero(looks.quality)
    tables = [_tables(int(quality)) for quality in looks.quality[made["compressed"]]]
    made["tables"] = np.array(tables, np.float32).reshape(-1, 2, 8, 8)
    return {f"plan_{name}": array for name, array in made.items()}


def _covered(covers: Sequence[Sequence[Cover]], size: tuple[int, int]) -> tuple[Array, Array]:
    """Covered pixels, counted through all canvases of that size, each once, and their colours (c, 3)."""
    width, height = size
    places, colours = [np.zeros(0, np.int64)], [np.zeros((0, 3), np.uint8)]
    for i, those in enumerate(covers):
        for cover in those:
            row, column = np.nonzero(cover.mask)
            places.append((i * height + row + cover.top) * width + column + cover.left)
            colours.append(cover.fill[row, column])
    # of overlapping covers the last is visible
    kept, first = np.unique(np.concatenate(places)[::-1], return_index=True)
    return kept, np.concatenate(colours)[::-1][first]


@cache
def _tables(quality: int) -> Array:
    """The quantisation tables of lightness and of colour (2, 8, 8) in a JPEG of that quality."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "jpeg", quality=quality)
    with Image.open(file) as image:
        tables = image.quantization  # type: ignore[attr-defined]
    return np.array([tables[0], tables[1]], np.float32).reshape(2, 8, 8)


class DeviceComposer:
    """All photos in the memory of a device, each also at a half, a quarter and so on. Draws canvases there."""

    def __init__(self, photos: Photos, device: torch.device, size: int) -> None:
        """Copy the photos to the device, which takes a third more memory than they have.

        Args:
            photos: Those of the ``Composer`` whose canvases will be drawn.
            device: The device.
            size: Side of the canvases, a multiple of 16 pixels.
        """
        if size % 16:
            raise OptionError(f"an accelerator draws canvases whose side is a multiple of 16 pixels, found {size}")
        self.size = size
        seed = torch.Generator(device).manual_seed(0)
        self._noise = torch.randn(2 * 3 * size**2, generator=seed, device=device)
        full = np.array([(s.width, s.height) for s in photos.samples])
        sizes = np.stack([-(-full >> level) for level in range(LEVELS)], axis=1)  # (photos, levels, 2), rounded up
        ends = sizes.prod(axis=-1).cumsum().reshape(sizes.shape[:2])
        self._sizes, self._starts = torch.tensor(sizes), torch.tensor(ends - sizes.prod(axis=-1))
        self._pixels = torch.empty(int(ends[-1, -1]), 3, dtype=torch.uint8, device=device)
        for row, (places, extents) in enumerate(zip(self._starts.tolist(), sizes.tolist(), strict=True)):
            photo = torch.tensor(photos[row], device=device)
            for level, (at, (width, height)) in enumerate(zip(places, extents, strict=True)):
                if level:
                    channels = photo.permute(2, 0, 1).float()
                    photo = functional.avg_pool2d(channels, 2, ceil_mode=True).permute(1, 2, 0).round().byte()
                self._pixels[at : at + width * height] = photo.flatten(0, 1)
        self._sizes, self._starts = self._sizes.to(device), self._starts.to(device)

    def draw(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The canvases (n, h, w, 3) uint8 of a `plan` on the device."""
        # Nothing here waits for the device, which would be idle in the meantime.
        planned = {name.removeprefix("plan_"): value for name, value in batch.items() if name.startswith("plan_")}
        pixels = self._composed(planned)
        pixels.view(-1, 3)[planned["covered"]] = planned["cover"].float()
        pixels = distorted(pixels.permute(0, 3, 1, 2), planned, self._noise)
        return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _composed(self, planned: Mapping[str, Tensor]) -> Tensor:
        """The photos on their tiles (n, h, w, 3), float32 in [0, 255]; see `lineament.data.canvases.warp`."""
        rows, matrices = planned["rows"], planned["matrices"]
        # the level from which the pixels of the tile are made without skipping many
        shrinks = matrices[..., :2].det().abs().clamp(min=1e-12).log2() / 2
        level = shrinks.round().long().clamp(0, LEVELS - 1)
        sizes = self._sizes[rows, level]
        matrices = matrices * torch.exp2(-level)[..., None, None]
        owner = _owner(planned["areas"], self.size)
        image = torch.arange(len(owner), device=owner.device)[:, None, None]

        def of_tile(values: Tensor) -> Tensor:
            return values[image, owner]

        at = torch.arange(self.size, device=owner.device) + 0.5
        matrix = of_tile(matrices)
        # counted from the centres of pixels
        x, y = (matrix[..., i, 0] * at + matrix[..., i, 1] * at[:, None] + matrix[..., i, 2] - 0.5 for i in (0, 1))
        start, (width, height) = of_tile(self._starts[rows, level]), of_tile(sizes).unbind(-1)
        replicated, around = of_tile(planned["replicated"]), of_tile(planned["around"])
        left, top = x.floor(), y.floor()
        total = torch.zeros(*owner.shape, 3, device=owner.device)
        for row, share_y in ((top, top + 1 - y), (top + 1, y - top)):
            for column, share_x in ((left, left + 1 - x), (left + 1, x - left)):
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                nearest = row.clamp(min=0).long().minimum(height - 1), column.clamp(min=0).long().minimum(width - 1)
                seen = self._pixels[start + nearest[0] * width + nearest[1]].float()
                total += torch.where((inside | replicated)[..., None], seen, around) * (share_x * share_y)[..., None]
        return total


def _owner(areas: Tensor, size: int) -> Tensor:
    """The index of the area, out of (n, most, 4), that contains each pixel of each canvas -> (n, h, w) integers."""
    at = torch.arange(size, device=areas.device)
    owner = torch.zeros(len(areas), size, size, dtype=torch.long, device=areas.device)
    for i in range(1, areas.shape[1]):
        left, top, w, h = areas[:, i, :, None].unbind(1)
        columns, rows = (at >= left) & (at < left + w), (at >= top) & (at < top + h)
        owner.masked_fill_(rows[:, :, None] & columns[:, None], i)
    return owner


def distorted(pixels: Tensor, planned: Mapping[str, Tensor], noise: Tensor) -> Tensor:
    """Change light and quality of images (n, 3, h, w), float32 in [0, 255], as `lineament.data.augment.distort` does.

    Args:
        pixels: The images.
        planned: Of a `plan`.
        noise: Normal numbers, twice as many as an image has values. Each image starts at its own offset.
    """
    grey = pixels.mean(dim=(2, 3)) @ pixels.new_tensor(TO_YIQ[0])
    shift = grey[:, None] * (1 - planned["gains"]) + planned["brightness"][:, None]
    pixels = torch.einsum("nij,njhw->nihw", planned["colours"], pixels) + shift[..., None, None]
    pixels = 255 * (pixels.clamp(0, 255) / 255) ** planned["gamma"][:, None, None, None]
    if len(rows := planned["blurred"]):
        pixels[rows] = _convolved(pixels[rows], planned["kernels"])
    if len(rows := planned["noisy"]):
        count = len(noise) // 2
        at = planned["seeds"][:, None] % count + torch.arange(count, device=pixels.device)
        pixels[rows] += (noise[at] * planned["noise"][:, None]).view(len(rows), *pixels.shape[1:])
        pixels = pixels.clamp(0, 255)
    if len(rows := planned["compressed"]):
        pixels[rows] = compressed(pixels[rows], planned["tables"])
    return pixels


def _convolved(pixels: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each image (n, 3, h, w) with its kernel (n, k, k)."""
    n, channels, h, w = pixels.shape
    padded = functional.pad(pixels, [kernels.shape[1] // 2] * 4, mode="reflect")
    groups = kernels.repeat_interleave(channels, dim=0)[:, None]
    return functional.conv2d(padded.flatten(0, 1)[None], groups, groups=n * channels).view(n, channels, h, w)


def compressed(pixels: Tensor, tables: Tensor) -> Tensor:
    """Images after JPEG compression with half the resolution for colours.

    Args:
        pixels: (n, 3, h, w) in [0, 255], h and w multiples of 16.
        tables: (n, 2, 8, 8), quantisation tables of lightness and of colours.
    """
    to_ycc = pixels.new_tensor(TO_YCC)
    ycc = torch.einsum("ij,njhw->nihw", to_ycc, pixels)
    lightness = _rounded(ycc[:, :1] - 128, tables[:, 0]) + 128
    colours = _rounded(functional.avg_pool2d(ycc[:, 1:], 2), tables[:, 1])
    colours = functional.interpolate(colours, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = torch.einsum("ij,njhw->nihw", to_ycc.inverse(), torch.cat([lightness, colours], dim=1))
    return rgb.clamp(0, 255)


def _rounded(planes: Tensor, table: Tensor) -> Tensor:
    """Round the cosine coefficients of 8x8 blocks of planes (n, c, h, w) to multiples of a table (n, 8, 8)."""
    n, c, h, w = planes.shape
    at = torch.arange(8, device=planes.device, dtype=planes.dtype)
    cosines = (torch.pi / 8 * (at + 0.5) * at[:, None]).cos() / 2
    cosines[0] /= 2**0.5
    blocks = planes.view(n, c, h // 8, 8, w // 8, 8)
    coefficients = torch.einsum("ui,ncyixj,vj->ncyuxv", cosines, blocks, cosines)
    step = table[:, None, None, :, None]
    rounded = (coefficients / step).round() * step
    return torch.einsum("ui,ncyuxv,vj->ncyixj", cosines, rounded, cosines).reshape(n, c, h, w)
