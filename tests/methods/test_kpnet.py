"""KPNet's parts against what the paper says, by slow and direct references in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402
from torch import fx, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from lineament import boxes as box_ops  # noqa: E402
from lineament.conventions import convention, fit  # noqa: E402
from lineament.data.cache import Photos  # noqa: E402
from lineament.data.canvases import Canvas, Composition  # noqa: E402
from lineament.data.device import DeviceComposer  # noqa: E402
from lineament.errors import DataError, OptionError  # noqa: E402
from lineament.export import rows_of_both  # noqa: E402
from lineament.methods.kpnet import scales, training  # noqa: E402
from lineament.methods.kpnet.decode import LOGITS, REFINEMENT, Config, KPNet, View, refined  # noqa: E402
from lineament.methods.kpnet.export import Extractor, entries  # noqa: E402
from lineament.methods.kpnet.heads import Heads, build  # noqa: E402
from lineament.methods.kpnet.heads.base import near_proposals  # noqa: E402
from lineament.methods.kpnet.heads.bells import FAINT, Spread, bell_loss, touched  # noqa: E402
from lineament.methods.kpnet.heads.scalemap import offset_loss, paint, strongest  # noqa: E402
from lineament.methods.kpnet.heads.soft_argmax import landmark_losses, soft_argmax  # noqa: E402
from lineament.methods.kpnet.layers import Stem, UpConv  # noqa: E402
from lineament.methods.kpnet.maps import region_maximum, sample  # noqa: E402
from lineament.methods.kpnet.network import BACKBONES  # noqa: E402
from lineament.methods.kpnet.scales import BINS, STRIDE  # noqa: E402
from lineament.runtime import load_graph  # noqa: E402
from lineament.schemas import schema  # noqa: E402
from lineament.train import canvases as canvas_task  # noqa: E402
from lineament.train.checkpoint import CHECKPOINT  # noqa: E402
from lineament.train.loop import train  # noqa: E402
from lineament.train.run import run  # noqa: E402
from lineament.train.task import WHOLE, Part  # noqa: E402
from networks import least, unlike  # noqa: E402
from scenes import POINTS, write_data  # noqa: E402

Array = np.ndarray
H, W = 10, 14  # of maps: an input of 20 x 28 pixels
REGIONS = {
    "inside": (4, 2, 16, 14),
    "between cells": (5.3, 3.1, 13.9, 11.7),
    "cut left and on top": (-7, -5, 9, 11),
    "cut right and below": (17.5, 9.2, 33.5, 25.2),
    "around everything": (-10, -10, 40, 40),
    "one cell": (6.5, 4.5, 7.5, 5.5),
    "a centre on its first edge": (7, 5, 9, 7),
}
EMPTY = {"between centres": (7.2, 5.2, 8.8, 6.8), "outside": (30, 2, 40, 12), "a point": (0, 0, 0, 0)}


def cells_in(region: tuple[float, ...], h: int = H, w: int = W) -> list[tuple[int, int]]:
    """Rows and columns of the cells whose centres lie in a region, its first edges included."""
    x1, y1, x2, y2 = region
    return [
        (i, j)
        for i, j in product(range(h), range(w))
        if x1 <= (j + 0.5) * STRIDE < x2 and y1 <= (i + 0.5) * STRIDE < y2
    ]


def equation_5(h: Array, region: tuple[float, ...]) -> dict[tuple[int, int], float]:
    """The softmax of one channel (h, w) in a region, by cell."""
    inside = cells_in(region, *h.shape)
    total = math.fsum(math.exp(h[cell]) for cell in inside)
    return {cell: math.exp(h[cell]) / total for cell in inside}


def equation_6(h: Array, region: tuple[float, ...]) -> tuple[float, float]:
    """Where a landmark is in its region, in shares of the region's sides."""
    x1, y1, x2, y2 = region
    psi_x = psi_y = 0.0
    for (i, j), phi in equation_5(h, region).items():
        psi_x += ((j + 0.5) * STRIDE - x1) / (x2 - x1) * phi
        psi_y += ((i + 0.5) * STRIDE - y1) / (y2 - y1) * phi
    return psi_x, psi_y


def random_maps(*shape: int, spread: float = 4.0, seed: int = 0) -> torch.Tensor:
    return spread * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Equations 5 and 6


@pytest.mark.parametrize("name", REGIONS)
def test_soft_argmax_is_the_double_loop(name: str) -> None:
    region, response = REGIONS[name], random_maps(2, 3, H, W)
    found = soft_argmax(response, torch.tensor([[region], [region]], dtype=torch.float64))
    assert found.points.shape == (2, 1, 3, 2)
    for image, channel in product(range(2), range(3)):
        h = response[image, channel].numpy()
        share = np.array(equation_6(h, region))
        wanted = np.array(region[:2]) + share * (region[2] - region[0], region[3] - region[1])
        np.testing.assert_allclose(found.points[image, 0, channel], wanted, atol=1e-9)
        total = math.log(math.fsum(math.exp(h[cell]) for cell in cells_in(region)))
        assert found.log_total[image, 0, channel].item() == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("name", EMPTY)
def test_a_region_without_cells_gives_its_middle(name: str) -> None:
    region = EMPTY[name]
    assert not cells_in(region)
    response = random_maps(1, 2, H, W).requires_grad_()
    found = soft_argmax(response, torch.tensor([[region]], dtype=torch.float64))
    middle = (np.array(region[:2]) + region[2:]) / 2
    np.testing.assert_allclose(found.points[0, 0].detach(), [middle, middle])
    found.points.sum().backward()
    assert (response.grad == 0).all()


def test_regions_do_not_see_each_other() -> None:
    regions = torch.tensor([*REGIONS.values(), *EMPTY.values()], dtype=torch.float64)
    response = random_maps(1, 3, H, W)
    together = soft_argmax(response, regions[None]).points[0]
    for region, found in zip(regions, together, strict=True):
        assert torch.equal(soft_argmax(response, region[None, None]).points[0, 0], found)


def test_soft_argmax_does_not_overflow() -> None:
    """Any zero of the response is as good, in float32 too."""
    response, regions = random_maps(1, 2, H, W).float(), torch.tensor([[REGIONS["inside"]]], dtype=torch.float32)
    low, high = soft_argmax(response, regions), soft_argmax(response + 2**12, regions)
    assert torch.allclose(low.points, high.points, atol=1e-2)
    assert high.log_total.isfinite().all()


def test_soft_argmax_has_the_right_gradient() -> None:
    regions = torch.tensor([[REGIONS["inside"], REGIONS["cut right and below"], EMPTY["outside"]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r: tuple(soft_argmax(r, regions)), random_maps(1, 2, H, W).requires_grad_())


# Equation 4


def dense_scale_loss(x: torch.Tensor, ignored: torch.Tensor, target: torch.Tensor, focal: bool) -> torch.Tensor:
    """Every value of the map on its own, in float64."""
    p = x.sigmoid()
    if focal:
        own = target > 0.999
        loss = torch.where(own, -((1 - p) ** 2) * p.log(), -((1 - target) ** 4) * p**2 * (1 - p).log())
    else:
        loss = -(target * p.log() + (1 - target) * (1 - p).log())
    return loss.masked_fill(ignored[:, None], 0).sum()


def scale_case(low: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, ignored cells, targets as a list, and as a map; some targets lie in ignored cells."""
    random = torch.Generator().manual_seed(1)
    shape = (2, BINS, 6, 8)
    logits = low + (6 - low) * torch.rand(shape, generator=random)
    ignored = torch.rand(2, 6, 8, generator=random) < 0.2
    target = torch.rand(shape, dtype=torch.float64, generator=random)
    target[torch.rand(shape, generator=random) > 0.01] = 0
    target[target > 0.7] = 1
    cells = target.nonzero()
    assert ignored[tuple(cells[:, [0, 2, 3]].T)].any()
    assert (target == 1).any()
    return logits, ignored, cells, target[tuple(cells.T)].float(), target


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("focal", [False, True])
def test_scale_loss_is_that_of_every_value(focal: bool, memory: torch.memory_format) -> None:
    logits, ignored, cells, values, target = scale_case(low=FAINT + 0.01)
    mine = logits.clone(memory_format=memory).requires_grad_()
    reference = logits.double().requires_grad_()
    loss = bell_loss(mine, ignored, cells, values, focal=focal)
    wanted = dense_scale_loss(reference, ignored, target, focal)
    loss.backward()
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    np.testing.assert_allclose(mine.grad, reference.grad, atol=1e-5)
    assert (mine.grad.movedim(1, -1)[ignored] == 0).all()


def test_what_the_focal_form_leaves_out_is_bounded() -> None:
    """Of values below FAINT without a target: at most p^3 in the loss and 3 p^3 in a gradient, p that of FAINT."""
    logits, ignored, cells, values, target = scale_case(low=2 * FAINT)
    mine, reference = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss = bell_loss(mine, ignored, cells, values, focal=True)
    wanted = dense_scale_loss(reference, ignored, target, True)
    loss.backward()
    wanted.backward()
    faint = (logits <= FAINT) & (target == 0) & ~ignored[:, None]
    assert faint.float().mean() > 0.2
    bound = (1 / (1 + math.exp(-FAINT))) ** 3
    assert abs(loss.item() - wanted.item()) <= 1.01 * bound * int(faint.sum()) + 1e-5 * wanted.item()
    assert (mine.grad[faint] == 0).all()
    assert reference.grad[faint].abs().max() <= 3.01 * bound
    np.testing.assert_allclose(mine.grad[~faint], reference.grad[~faint], atol=1e-5)


# Equation 7


def landmark_case() -> dict[str, torch.Tensor]:
    """Two images with two faces each, one of the four being what fills up."""
    random = torch.Generator().manual_seed(2)
    regions = torch.tensor(
        [[REGIONS["inside"], REGIONS["around everything"]], [REGIONS["cut left and on top"], (0, 0, 0, 0)]],
        dtype=torch.float64,
    )
    side = (regions[..., 2:] - regions[..., :2])[:, :, None]
    shares = 0.2 + 0.6 * torch.rand(2, 2, 3, 2, dtype=torch.float64, generator=random)
    points = regions[:, :, None, :2] + side * shares
    points = torch.minimum(points.clamp(min=1.5), torch.tensor([2.0 * W, 2.0 * H]) - 1.5)  # on the map
    weights = torch.rand(2, 2, 3, dtype=torch.float64, generator=random)
    weights[1, 1] = weights[0, 0, 1] = 0
    points[0, 0, 1] = 1e6
    points[0, 0, 2] = regions[0, 0, :2] + 0.5  # carries weight, but at the edge of its region
    return {"response": random_maps(2, 3, H, W, spread=1.0), "regions": regions, "points": points, "weights": weights}


def looped_landmark_losses(
    response: torch.Tensor, regions: torch.Tensor, points: torch.Tensor, weights: torch.Tensor
) -> dict[str, float]:
    sums = {"squared": 0.0, "absolute": 0.0, "peak": 0.0}
    total = 0.0
    for image, face, channel in product(*map(range, weights.shape)):
        x1, y1, x2, y2 = region = tuple(regions[image, face].tolist())
        x, y = points[image, face, channel].tolist()
        weight = weights[image, face, channel].item()
        if not (weight and x1 + 1 < x < x2 - 1 and y1 + 1 < y < y2 - 1):
            continue
        h = response[image, channel].numpy()
        psi = equation_6(h, region)
        error = [psi[0] - (x - x1) / (x2 - x1), psi[1] - (y - y1) / (y2 - y1)]
        j, i = math.floor(x / STRIDE - 0.5), math.floor(y / STRIDE - 0.5)
        dx, dy = x / STRIDE - 0.5 - j, y / STRIDE - 0.5 - i
        place = {(i, j): (1 - dx) * (1 - dy), (i, j + 1): dx * (1 - dy)}
        place |= {(i + 1, j): (1 - dx) * dy, (i + 1, j + 1): dx * dy}
        log_total = math.log(math.fsum(math.exp(h[cell]) for cell in cells_in(region)))
        sums["squared"] += weight * (error[0] ** 2 + error[1] ** 2) / 2
        sums["absolute"] += weight * (abs(error[0]) + abs(error[1]))
        sums["peak"] += weight * sum(share * (log_total - h[cell]) for cell, share in place.items())
        total += weight
    return {name: value / total for name, value in sums.items()}


def test_landmark_losses_are_those_of_the_loops() -> None:
    case = landmark_case()
    wanted = looped_landmark_losses(**case)
    for name, value in landmark_losses(**case).items():
        assert value.item() == pytest.approx(wanted[name], abs=1e-9), name


def test_landmark_losses_have_the_right_gradient() -> None:
    case = landmark_case()
    response = case.pop("response").requires_grad_()
    assert torch.autograd.gradcheck(lambda r: tuple(landmark_losses(r, **case).values()), response)


def test_cells_of_four_pixels_are_those_of_two_in_half_the_picture() -> None:
    case = landmark_case()
    maps, regions, points = case["response"], case["regions"], case["points"]
    for coarse, fine in zip(soft_argmax(maps, 2 * regions, 4), soft_argmax(maps, regions), strict=True):
        assert torch.allclose(coarse, 2 * fine if coarse.dim() == 4 else fine)
    assert torch.equal(sample(maps, 2 * points, 4), sample(maps, points, 2))
    assert torch.equal(region_maximum(maps, 2 * regions, 4), region_maximum(maps, regions, 2))
    boxes = FACES[:3]
    np.testing.assert_array_equal(touched(2 * boxes, 128, 4), touched(boxes, 64, 2))
    (places, values), (wanted, heights) = paint(2 * boxes, 128, Spread(), 4), paint(boxes, 64, Spread())
    np.testing.assert_array_equal(places, np.add(wanted, [scales.PER_OCTAVE, 0, 0]))
    np.testing.assert_allclose(values, heights, atol=1e-6)


def looped_offset_loss(offset: Array, centres: Array, sides: Array) -> float:
    """By image and face, over the nine cells of four pixels around the face's centre."""
    errors = []
    for image, face in np.argwhere(sides):
        x, y = centres[image, face] / 4
        for row, column in product(range(int(y) - 1, int(y) + 2), range(int(x) - 1, int(x) + 2)):
            if 0 <= row < offset.shape[2] and 0 <= column < offset.shape[3]:
                dx, dy = offset[image, :, row, column]
                missed = abs(column + 0.5 + dx - x) + abs(row + 0.5 + dy - y)
                errors.append(4 * missed / sides[image, face])
    return float(np.mean(errors))


def test_offset_loss_is_that_of_the_loops() -> None:
    offset = random_maps(2, 2, H, W, spread=1.0)
    centres = torch.tensor([[[13.0, 9.0], [1.0, 2.0]], [[4.0 * W - 1, 4.0 * H - 3], [0.0, 0.0]]], dtype=torch.float64)
    sides = torch.tensor([[10.0, 25.0], [40.0, 0.0]], dtype=torch.float64)
    found = offset_loss(offset, centres, sides, 4)
    assert found.item() == pytest.approx(looped_offset_loss(offset.numpy(), centres.numpy(), sides.numpy()))
    assert torch.autograd.gradcheck(lambda o: offset_loss(o, centres, sides, 4), offset.requires_grad_())
    assert offset_loss(offset, centres, torch.zeros_like(sides), 4) == 0


def test_no_landmark_costs_nothing() -> None:
    case = landmark_case()
    case["weights"] = torch.zeros_like(case["weights"])
    losses = landmark_losses(case.pop("response").requires_grad_(), **case)
    assert [value.item() for value in losses.values()] == [0, 0, 0]


# Equations 1 to 3


def test_bins_are_equation_1() -> None:
    sides = np.random.default_rng(0).uniform(4.01, 255.9, 500)
    for side, found in zip(sides, scales.encode(sides), strict=True):
        b = 10 * (math.log2(side * 2048 / 256) - 5)
        assert found == math.ceil(b) - 1


def test_bins_have_their_edges() -> None:
    edges = 4 * 2 ** (np.arange(1, 60) / 10)
    assert scales.encode(edges - 1e-6).tolist() == list(range(59))
    assert scales.encode(edges + 1e-6).tolist() == list(range(1, 60))
    assert scales.encode(np.array([4, 256])).tolist() == [0, 59]
    outside = np.array([3.999, 256.001, 0, -5, np.nan, np.inf])
    assert scales.encode(outside).tolist() == [-1] * 6


def test_bins_go_there_and_back() -> None:
    every = np.arange(BINS)
    assert scales.encode(scales.decode(every)).tolist() == every.tolist()
    sides = np.random.default_rng(1).uniform(4, 256, 500)
    ratio = scales.decode(scales.encode(sides)) / sides
    assert np.abs(np.log2(ratio)).max() <= 0.05 + 1e-9  # half a bin


FACES = np.array(
    [
        [3, 5, 9, 11],  # bin 6, r = 0
        [20, 20, 33, 31],  # r = 1
        [24, 18, 37, 32],  # the same bin, in part on the same cells
        [40, 2, 62, 24],
        [-12, -10, 52, 54],  # r = 4
        [10, 30, 60, 63],
        [58, 58, 64, 63.9],  # the corner
        [4, 50, 8, 54],  # the first bin
    ],
    float,
)


def painted(boxes: Array, size: int, spread: Spread) -> Array:
    """The scalemap (60, h, w), value by value."""
    cells = size // STRIDE
    M = np.zeros((BINS, cells, cells))
    for x1, y1, x2, y2 in boxes:
        side = max(x2 - x1, y2 - y1)
        b = max(math.ceil(10 * math.log2(side / 4)), 1)
        x_h, y_h = math.floor((x1 + x2) / 2 / STRIDE), math.floor((y1 + y2) / 2 / STRIDE)
        sigma = max(spread.space * side / STRIDE, 0.5)
        r = b // 10 if spread.paper else math.floor(3 * sigma)
        for c, y, x in product(range(1, BINS + 1), range(cells), range(cells)):
            dx, dy, db = x - x_h, y - y_h, c - b
            if max(abs(dx), abs(dy)) > r or abs(db) > math.ceil(2 * spread.scale):
                continue
            if not spread.paper:
                value = math.exp(-(dx**2 + dy**2) / (2 * sigma**2))
            elif r == 0:
                value = 1.0
            else:
                value = math.exp(-((dx / r) ** 2 + (dy / r) ** 2) / (2 * 0.1**2))
            if spread.scale:
                value *= math.exp(-(db**2) / (2 * spread.scale**2))
            M[c - 1, y, x] = max(M[c - 1, y, x], value)
    M[M <= 1e-3] = 0
    return M


@pytest.mark.parametrize(
    "spread",
    [Spread(paper=True, scale=0), Spread(paper=True, scale=0.7), Spread(scale=0), Spread(space=0.08), Spread()],
)
def test_targets_are_equations_2_and_3(spread: Spread) -> None:
    at, values = paint(FACES, 64, spread)
    assert len(np.unique(at, axis=0)) == len(at)
    M = np.zeros((BINS, 32, 32))
    M[tuple(at.T)] = values
    np.testing.assert_allclose(M, painted(FACES, 64, spread), atol=1e-6)
    host = np.floor((FACES[:, :2] + FACES[:, 2:]) / 2 / STRIDE).astype(int)
    bins = scales.encode((FACES[:, 2:] - FACES[:, :2]).max(axis=1))
    assert (M[bins, host[:, 1], host[:, 0]] == 1).all()


def test_overlapping_faces_take_the_maximum() -> None:
    spread = Spread(space=0.2)
    each = [painted(face[None], 64, spread) for face in FACES[1:3]]
    assert (np.minimum(*each) > 0).any()
    at, values = paint(FACES[1:3], 64, spread)
    np.testing.assert_allclose(values, np.maximum(*each)[tuple(at.T)], atol=1e-6)


def test_no_face_paints_nothing() -> None:
    at, values = paint(np.zeros((0, 4)), 64, Spread())
    assert at.shape == (0, 3)
    assert values.shape == (0,)
    assert not touched(np.zeros((0, 4)), 64, STRIDE).any()


def test_ignored_are_the_cells_that_regions_touch() -> None:
    regions = np.array([[3, 4, 9.5, 8], [-5, 60, 3, 80], [31.9, 32, 32.1, 34], [50, 10, 52, 12], [6, 6, 7, 30]])
    found = touched(regions, 64, STRIDE)
    for i, j in product(range(32), range(32)):
        there = any(x1 < 2 * j + 2 and x2 > 2 * j and y1 < 2 * i + 2 and y2 > 2 * i for x1, y1, x2, y2 in regions)
        assert found[i, j] == there, (i, j)


def test_proposals_in_training_are_those_of_cells_and_bins() -> None:
    sides = np.repeat([4.1, 60.0, 255], 400)
    middle = np.random.default_rng(0).uniform(0, 256, (len(sides), 2))
    boxes = np.concatenate([middle - sides[:, None] / 2, middle + sides[:, None] / 2], axis=1)
    exact = near_proposals(np.random.default_rng(1), boxes, jitter=0)
    np.testing.assert_allclose((exact[:, :2] + exact[:, 2:]) / 2, np.floor(middle / 2) * 2 + 1)
    np.testing.assert_allclose(exact[:, 2] - exact[:, 0], exact[:, 3] - exact[:, 1])
    off = scales.encode(exact[:, 2] - exact[:, 0]) - scales.encode(sides)
    assert [sorted(set(off[i : i + 400].tolist())) for i in (0, 400, 800)] == [[0, 1], [-1, 0, 1], [-1, 0]]
    moved = near_proposals(np.random.default_rng(1), boxes, jitter=0.04)
    shift = ((moved[:, :2] + moved[:, 2:]) / 2 - middle)[400:] / sides[400:, None]
    assert shift.std() == pytest.approx(0.04, rel=0.1)


# Networks


@pytest.mark.parametrize("backbone", ["drnet", "hourglass"])
@pytest.mark.parametrize("landmarks", [5, 19])
def test_networks_have_about_a_million_parameters(backbone: str, landmarks: int) -> None:
    assert 0.95e6 <= sum(p.numel() for p in build(landmarks, backbone).parameters()) <= 1.10e6


def test_drnet_has_eleven_layers() -> None:
    """3x3 convolutions on the longest path from the pixels to a map."""
    network = build()
    traced = fx.symbolic_trace(network)
    depth: dict[fx.Node, int] = {}
    for node in traced.graph.nodes:
        module = dict(traced.named_modules())[node.target] if node.op == "call_module" else None
        layer = isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
        depth[node] = max((depth[n] for n in node.all_input_nodes), default=0) + layer
    assert max(depth.values()) == 11


@pytest.mark.parametrize(("backbone", "stride"), [("drnet", 2), ("hourglass", 2), ("lite", 4)])
def test_maps_have_their_stride(backbone: str, stride: int) -> None:
    network = build(7, backbone)
    m = network.multiple
    maps = network(torch.randint(0, 256, (2, 3, m * (128 // m), m * (192 // m))).float())
    cells = (128 // stride, 192 // stride)
    wanted = {"scale": (2, BINS, *cells), "response": (2, 7, *cells)}
    if stride > 2:
        wanted["offset"] = (2, 2, *cells)
    assert network.stride == stride
    assert {name: tuple(map_.shape) for name, map_ in maps.items()} == wanted


@pytest.mark.parametrize("backbone", BACKBONES)
def test_faces_are_rare_before_training(backbone: str) -> None:
    torch.manual_seed(0)
    maps = build(5, backbone)(torch.randint(0, 256, (2, 3, 128, 128)).float())
    assert 1e-5 < maps["scale"].sigmoid().mean() < 1e-3


@pytest.mark.parametrize("backbone", BACKBONES)
def test_folded_networks_compute_the_same(backbone: str) -> None:
    network = unlike(build(5, backbone))
    pixels = torch.randint(0, 256, (2, 3, 64, 128), dtype=torch.float64)
    with torch.no_grad():
        before = network(pixels)
        network.fold()
        after = network(pixels)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    for name, value in before.items():
        assert (value - after[name]).abs().max() <= 1e-9 * value.abs().max(), name


@pytest.mark.parametrize("norm", [False, True])
def test_upconv_is_nearest_upsampling_and_a_convolution(norm: bool) -> None:
    layer = unlike(UpConv(3, 5, norm=norm))
    x = random_maps(2, 3, 5, 7)
    doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    wanted = layer.norm(F.conv2d(doubled, layer.conv.weight, layer.conv.bias, padding=1))
    assert torch.allclose(layer(x), wanted, atol=1e-12)
    layer.fold()
    assert torch.allclose(layer(x), wanted, atol=1e-12)


def test_the_stem_is_two_convolutions_with_nothing_between() -> None:
    stem = unlike(Stem(8))
    assert isinstance(stem.second, nn.Conv2d)
    x = random_maps(1, 3, 16, 24)
    wanted = stem.norm(F.conv2d(F.conv2d(F.pad(x, (3, 2, 3, 2)), stem.first.weight, stride=2), stem.second.weight))
    assert wanted.shape == (1, 8, 8, 12)
    assert torch.allclose(stem(x), wanted, atol=1e-12)
    stem.fold()
    assert torch.allclose(stem(x), wanted, atol=1e-9)


# What leaves the file


def looped_peaks(scale: Array) -> list[tuple[float, int, int, int]]:
    """Logit, column, row and bin of the cells of (60, h, w) that no cell around them surpasses, best first."""
    best = scale.max(axis=0)
    h, w = best.shape
    found = []
    for i, j in product(range(h), range(w)):
        around = [best[a, b] for a in range(max(i - 1, 0), min(i + 2, h)) for b in range(max(j - 1, 0), min(j + 2, w))]
        if best[i, j] >= max(around):
            found.append((float(best[i, j]), j, i, int(scale[:, i, j].argmax())))
    return sorted(found, reverse=True)


def looped_offset(map_: Array, column: int, row: int) -> Array:
    """From a cell of (h, w) logits to the mean of the centres around it, weighed by their odds; x and y in cells."""
    h, w = map_.shape
    rows, columns = range(max(row - 1, 0), min(row + 2, h)), range(max(column - 1, 0), min(column + 2, w))
    odds = {(x - column, y - row): np.exp(map_[y, x]) for x, y in product(columns, rows)}
    return np.asarray(sum(value * np.array(shift) for shift, value in odds.items()) / sum(odds.values()))


def looped_bin(logits: Array, best: int) -> float:
    """The mean of a cell's best bin and the three on either side, weighed by their odds."""
    odds = {b: np.exp(logits[b] - logits[best]) for b in range(max(best - 3, 0), min(best + 4, len(logits)))}
    return float(sum(b * value for b, value in odds.items()) / sum(odds.values()))


@pytest.mark.parametrize("rank", [5, -1])
def test_peaks_are_those_of_the_loops(rank: int) -> None:
    scale = random_maps(2, BINS, H, W, seed=3)
    loops = [looped_peaks(maps.numpy()) for maps in scale]
    assert all(10 < len(wanted) < 40 for wanted in loops)
    limits = torch.tensor([wanted[rank][0] for wanted in loops], dtype=scale.dtype) - 1e-9
    logit, cell, logits = strongest(scale, limits)
    bins = logits.argmax(-1)
    assert logit.shape[1] == max(len(wanted) if rank < 0 else rank + 1 for wanted in loops)
    for image, wanted in enumerate(loops):
        rows = list(zip(logit[image].tolist(), cell[image].tolist(), bins[image].tolist(), strict=True))
        assert [(x, *place, b) for x, place, b in rows[: len(wanted)]] == wanted[: len(rows)]
        assert torch.isneginf(logit[image, len(wanted) :]).all()  # beaten by a neighbour


def test_the_maximum_in_a_region_is_that_of_the_loops() -> None:
    maps = random_maps(2, 3, H, W, seed=4)
    regions = torch.tensor([list(REGIONS.values())] * 2, dtype=torch.float64)
    found = region_maximum(maps, regions, STRIDE)
    for image, (face, region), channel in product(range(2), enumerate(REGIONS.values()), range(3)):
        wanted = max(maps[image, channel][cell].item() for cell in cells_in(region))
        assert found[image, face, channel].item() == wanted


def vivid(network: nn.Module) -> nn.Module:
    """The network with maps that go up and down, as trained ones do."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("scale.", "response.")) and name.endswith("weight"):
                parameter.mul_(20)
    return network.eval()


@pytest.mark.parametrize("backbone", ["drnet", "lite"])
def test_proposals_carry_what_the_equations_give(backbone: str) -> None:
    torch.manual_seed(0)
    network = vivid(build(5, backbone))
    stride = network.stride
    pixels = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        found = {
            name: value.numpy()
            for name, value in Extractor(network, Heads.of(backbone=backbone))(pixels, least(2)).items()
        }
        maps = {n: v.double().numpy() for n, v in network(pixels.permute(0, 3, 1, 2).float()).items()}
    for image in range(2):
        wanted = looped_peaks(maps["scale"][image])[: 60 // stride]
        assert len(wanted) == 60 // stride
        for rank, (logit, column, row, b) in enumerate(wanted):
            side = 4 * 2 ** ((looped_bin(maps["scale"][image, :, row, column], b) + 0.5) / 10)
            centre = stride * (np.array([column, row]) + 0.5)
            if "offset" in maps:
                centre = centre + stride * maps["offset"][image, :, row, column]
            else:
                centre = centre + stride * looped_offset(maps["scale"][image, b], column, row)
            assert found["logit"][image, rank] == pytest.approx(logit, abs=1e-4)
            np.testing.assert_allclose(found["centre"][image, rank], centre, rtol=1e-5)
            assert found["side"][image, rank] == pytest.approx(side, rel=1e-5)
            region = np.array((*(centre - side / 2), *(centre + side / 2))) * STRIDE / stride  # as if cells were of two
            h = maps["response"][image]
            points = centre - side / 2 + side * np.array([equation_6(channel, region) for channel in h])
            np.testing.assert_allclose(found["landmarks"][image, rank], points, atol=1e-3)
            largest = [max(equation_5(channel, region).values()) for channel in h[:3]]
            np.testing.assert_allclose(found["peaks"][image, rank], largest, atol=1e-4)


# Views


SIZES = [64, 256, 384, 512, 640]
SHAPES = [(480, 640), (500, 333), (37, 211), (300, 300)]


class Fake:
    """A graph that sees what it is told to: a function from one view's pixels to rows of an output's values."""

    def __init__(self, see: Any) -> None:
        self.see = see

    def __call__(self, entry: str, outputs: tuple[str, ...], **inputs: Array) -> tuple[Array, ...]:
        rows = [self.see(pixels) for pixels in inputs["pixels"]]
        return tuple(np.stack([np.asarray(row[name], np.float32) for row in rows]) for name in outputs)


def face_row(square: Array, logit: float, shares: tuple[float, ...] = (0.5, 0.5, 0.5)) -> dict[str, Any]:
    """One proposal: a square ``x, y, side`` with the landmarks of a drawn face."""
    x, y, side = square
    return {
        "logit": [logit],
        "centre": [[x + side / 2, y + side / 2]],
        "side": [side],
        "landmarks": [POINTS * side + [x, y]],
        "peaks": [shares],
    }


def told(*rows: dict[str, Any]) -> Fake:
    """A graph that sees the same in every view."""
    return Fake(lambda pixels: {name: np.concatenate([row[name] for row in rows]) for name in rows[0]})


def views_of(image: Array, **settings: Any) -> list[View]:
    return list(KPNet(told(), bare(**settings)).views(0, image))


def dots(shape: tuple[int, int], size: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """Black pictures with one soft white dot, of some pixels at the size they are brought to, and where it is."""
    h, w = shape
    radius = max(3, 4 * max(shape) / size)
    rng = np.random.default_rng(seed)
    ys, xs = np.indices(shape) + 0.5
    for _ in range(3):
        place = rng.uniform(radius + 1, np.array([w, h]) - radius - 1)
        amount = np.clip(radius + 0.5 - np.hypot(xs - place[0], ys - place[1]), 0, 1)
        yield np.repeat((255 * amount).round().astype(np.uint8)[..., None], 3, axis=2), place


@pytest.mark.parametrize("margin", [0.0, 0.07])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_places_go_to_a_view_and_back(shape: tuple[int, int], size: int, margin: float) -> None:
    for image, place in dots(shape, size, seed=size):
        for v in views_of(image, input_size=size, margin=margin, multiple=8):
            assert v.pixels.shape[0] % 8 == v.pixels.shape[1] % 8 == 0
            amount = v.pixels[..., 0].astype(float)
            ys, xs = np.indices(amount.shape) + 0.5
            there = np.array([(amount * xs).sum(), (amount * ys).sum()]) / amount.sum()
            np.testing.assert_allclose(there / v.scale + v.corner, place, atol=0.15 / v.scale)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_views_are_black_where_the_picture_ends(shape: tuple[int, int], size: int) -> None:
    margin = 0.1
    views = views_of(np.full((*shape, 3), 255, np.uint8), input_size=size, margin=margin, overview=False)
    assert [max(v.pixels.shape) for v in views] == [size]
    for v in views:
        white = (v.pixels == 255).all(axis=2)
        assert (white | (v.pixels == 0).all(axis=2)).all()
        rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
        assert white[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        # The picture's longer edge fills the view but for the margin, and its corner is where the view says
        longest = max(white.shape)
        assert abs(max(len(rows), len(columns)) - longest * (1 - 2 * margin)) <= 1
        np.testing.assert_allclose([columns[0], rows[0]], -v.corner * v.scale, atol=1e-6)
        np.testing.assert_allclose(len(rows) / len(columns), shape[0] / shape[1], rtol=2 / min(len(rows), len(columns)))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("shape", [(700, 1000), (1400, 200), (513, 512), (900, 512)])
def test_tiles_cover_a_picture_and_overlap(shape: tuple[int, int], overlap: float) -> None:
    image = np.random.default_rng(0).integers(1, 256, (*shape, 3), dtype=np.uint8)
    side = 512
    whole = views_of(image, input_size=side)
    tiles = views_of(image, input_size=side, tiles=True, overlap=overlap)[len(whole) :]
    seen = np.zeros(shape, int)
    for tile in tiles:
        assert tile.scale == 1
        x, y = tile.corner.astype(int)
        part = image[y : y + side, x : x + side]
        np.testing.assert_array_equal(tile.pixels[: part.shape[0], : part.shape[1]], part)
        assert tile.pixels.sum(dtype=int) == part.sum(dtype=int)  # black beyond
        seen[y : y + side, x : x + side] += 1
    assert seen.min() == 1
    for axis, length in ((0, shape[1]), (1, shape[0])):
        starts = sorted({int(tile.corner[axis]) for tile in tiles})
        assert starts[0] == 0
        assert starts[-1] == max(length - side, 0)
        assert all(b - a <= side * (1 - overlap) + 1 for a, b in pairwise(starts))


@pytest.mark.parametrize(("size", "overlap"), [(640, 0.25), (384, 0.25), (384, 0.5), (384, 0.0)])
def test_the_whole_picture_leaves_small_faces_to_the_tiles(size: int, overlap: float) -> None:
    settings = {"input_size": size, "overlap": overlap}
    image = np.zeros((2400, 3200, 3), np.uint8)
    views = views_of(image, tiles=True, **settings)
    tiles, others = ([v for v in views if (v.scale == 1) is tile] for tile in (True, False))
    for side in np.geomspace(2, 2400, 200):  # in pixels of the picture
        in_tiles = side <= min(overlap * size, tiles[0].most)  # whole in one of them, wherever the face is
        in_others = any(v.least <= side * v.scale <= v.most for v in others)
        assert in_tiles or in_others
        assert not (in_others and side < 0.75 * min(overlap * size, tiles[0].most))
    assert min(v.least for v in views_of(image, **settings)) == 0


def test_small_pictures_have_no_tiles() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    assert len(views_of(image, input_size=512, tiles=True)) == len(views_of(image, input_size=512)) == 2


# From proposals to faces


def seen_square(pixels: Array) -> dict[str, Any]:
    """The white square in a view, measured to a part of a pixel."""
    amount = pixels[..., 0] / 255
    if amount.max() == 0:
        return face_row(np.array([0, 0, 9]), logit=-99)
    columns, rows = amount.max(axis=0), amount.max(axis=1)
    side = (columns.sum() + rows.sum()) / 2
    centre = [(line * (np.arange(len(line)) + 0.5)).sum() / line.sum() for line in (columns, rows)]
    return face_row(np.array([*(np.array(centre) - side / 2), side]), logit=side / 50 - 1)


@pytest.mark.parametrize(
    "settings",
    [*({"input_size": s} for s in SIZES), {"margin": 0.2}, {"input_size": 384, "margin": 0.05, "tiles": True}],
)
def test_faces_lie_where_the_picture_shows_them(settings: dict[str, Any]) -> None:
    images = [np.zeros((h, w, 3), np.uint8) for h, w in ((480, 640), (900, 500), (240, 240))]
    squares = np.array([[300, 200, 120], [60, 700, 100], [90, 30, 80]])
    for image, (x, y, side) in zip(images, squares, strict=True):
        image[y : y + side, x : x + side] = 255
    decoder = KPNet(Fake(seen_square), bare(**settings, convention="square", proposal=1.0))
    for faces, (x, y, side) in zip(decoder(images, threshold=0.1, min_face=1, max_face=None), squares, strict=True):
        finest = 64 / 900 if settings.get("input_size") == 64 else 0.2
        np.testing.assert_allclose(faces.boxes[0], [x, y, x + side, y + side], atol=0.5 / finest)
        np.testing.assert_allclose(faces.landmarks[0], POINTS * side + [x, y], atol=0.5 / finest)


SQUARE = np.array([40.0, 60, 80])


def bare(**settings: Any) -> Config:
    """Settings under which boxes are the convention's, and scores equation 8's, unless told otherwise."""
    return Config(**{"input_size": 128, "proposal": 0.0, "evidence": None, **settings})


def alone(config: Config, *rows: dict[str, Any], **options: Any) -> Any:
    """What a decoder makes of proposals in a view that is its picture."""
    (faces,) = KPNet(told(*rows), config)(
        [np.zeros((128, 128, 3), np.uint8)], **{"threshold": 0, "min_face": 1, "max_face": None, **options}
    )
    return faces


@pytest.mark.parametrize("name", ["wider", "square", "fddb-ellipse"])
def test_boxes_follow_the_convention(name: str) -> None:
    points = (POINTS * SQUARE[2] + SQUARE[:2])[None]
    (inferred,), (expected,) = convention(name).boxes(points), convention("wider").boxes(points)
    np.testing.assert_allclose(alone(bare(convention=name), face_row(SQUARE, 2)).boxes[0], inferred, atol=1e-3)
    # A proposal that is where and as large as the landmarks say changes nothing, whatever the convention
    longer = (expected[2:] - expected[:2]).max()
    agreed = face_row(SQUARE, 2) | {"centre": [(expected[:2] + expected[2:]) / 2], "side": [longer]}
    np.testing.assert_allclose(alone(bare(convention=name, proposal=0.7), agreed).boxes[0], inferred, atol=1e-3)
    # One that lies elsewhere and is larger takes the box along by its share, in its own aspect
    agreed["centre"] = [agreed["centre"][0] + [6, -4]]
    agreed["side"] = [longer * 1.5]
    half = (inferred[2:] - inferred[:2]) / 2 * 1.25
    centre = (inferred[:2] + inferred[2:]) / 2 + [3, -2]
    wanted = [*(centre - half), *(centre + half)]
    np.testing.assert_allclose(alone(bare(convention=name, proposal=0.5), agreed).boxes[0], wanted, atol=1e-3)


def a_refinement() -> Array:
    """Coefficients that leave what mirrored faces have in common."""
    drawn = np.random.default_rng(0).normal(0, 0.05, REFINEMENT)
    drawn[:, 1:, 0] = drawn[:, 0, 1:] = 0
    return drawn


@pytest.mark.parametrize("name", ["wider", "square", "fddb-ellipse"])
def test_refined_boxes_are_what_the_coefficients_say(name: str) -> None:
    row, given = face_row(SQUARE, 1.2, (0.6, 0.3, 0.15)), a_refinement()
    decoder = KPNet(told(row), bare(refinement=given.tolist(), convention=name))
    found = decoder.propose([np.zeros((128, 128, 3), np.uint8)])
    points = (POINTS * SQUARE[2] + SQUARE[:2])[None]
    (expected,), (x, y, side), (speaks,) = convention("wider").boxes(points), SQUARE, found.evidence
    x1, y1, x2, y2 = expected
    told_by_landmarks = [
        ((x1 + x2) / 2 - x - side / 2) / side,
        ((y1 + y2) / 2 - y - side / 2) / side,
        np.log((x2 - x1) / side),
        np.log((y2 - y1) / side),
        1.0,
    ]
    dx, dy, dw, dh = (
        sum(speaks[e] * told_by_landmarks[t] * given[e, t, o] for e, t in product(range(6), range(5))) for o in range(4)
    )
    middle = np.array([x + side / 2 + dx * side, y + side / 2 + dy * side])
    half = side * np.exp([dw, dh]) / 2
    if name == "square":
        half[:] = half.max()
    if name == "fddb-ellipse":  # differs from the refined box as it differs from the learned one
        (inferred,) = convention(name).boxes(points)
        middle += (inferred[:2] + inferred[2:] - expected[:2] - expected[2:]) / 2
        half *= (inferred[2:] - inferred[:2]) / (expected[2:] - expected[:2])
    np.testing.assert_allclose(found.boxes[0], [*(middle - half), *(middle + half)], atol=1e-4)


def test_mirrored_faces_have_mirrored_boxes() -> None:
    rng = np.random.default_rng(2)
    expected = rng.uniform([0, 0, 40, 50], [20, 20, 60, 70], (9, 4))
    squares = box_ops.square(expected + rng.normal(0, 3, (9, 4)))
    speaks = rng.normal(0, 1, (9, 6))
    mirrored = refined(mirror(expected), mirror(squares), speaks, a_refinement())
    np.testing.assert_allclose(mirrored, mirror(refined(expected, squares, speaks, a_refinement())))


def mirror(boxes: Array) -> Array:
    """In a picture 100 pixels wide."""
    return np.asarray([100, 0, 100, 0] + boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1])


@pytest.mark.parametrize("refinement", [None, a_refinement().tolist()])
def test_landmarks_on_one_spot_are_no_face(refinement: Any) -> None:
    spot = face_row(SQUARE, 2) | {"landmarks": [np.full((5, 2), 70.0)]}
    faces = alone(bare(proposal=0.5, refinement=refinement), spot, face_row(SQUARE - [30, 50, 40], 2))
    assert len(faces) == 1
    assert np.isfinite(faces.boxes).all()


def test_the_square_of_a_proposal_alone() -> None:
    faces = alone(bare(convention="square", proposal=1), face_row(SQUARE, 2))
    np.testing.assert_allclose(faces.boxes[0], [40, 60, 120, 140], atol=1e-3)


def test_a_fitted_convention_goes_in_as_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    points = POINTS * 50 + rng.normal(0, 1, (40, 5, 2)) + rng.uniform(0, 100, (40, 1, 2))
    mine = fit(points, np.concatenate([points[:, 2] - 40, points[:, 2] + 40], axis=1))
    faces = alone(bare(convention=json.loads(json.dumps(mine.to_dict()))), face_row(SQUARE, 2))
    wanted = mine.boxes((POINTS * SQUARE[2] + SQUARE[:2])[None])[0]
    np.testing.assert_allclose(faces.boxes[0], wanted, atol=0.05)
    assert np.abs(wanted - alone(bare(), face_row(SQUARE, 2)).boxes[0]).max() > 5


def test_scores_are_equation_8_over_its_largest_value() -> None:
    shares = (0.6, 0.3, 0.15)
    row = face_row(SQUARE, 1.2, shares)
    probability = 1 / (1 + math.exp(-1.2))
    assert alone(bare(), row).scores[0] == pytest.approx((probability + sum(shares)) / 4, abs=1e-6)


def test_scores_are_the_sigmoid_of_weighted_evidence() -> None:
    shares = (0.6, 0.3, 0.15)
    row = face_row(SQUARE, 1.2, shares)
    inferred = convention("wider").boxes((POINTS * SQUARE[2] + SQUARE[:2])[None])[0]
    square = np.array([*SQUARE[:2], *(SQUARE[:2] + SQUARE[2])])
    agreement = float(box_ops.iou(box_ops.square(inferred[None]), square[None])[0, 0])
    seen = [1.2, math.log2(SQUARE[2] / 32), math.log(agreement + 0.05), math.log(0.35 + 1e-3), math.log(0.151), 1]
    for weights in np.eye(6), np.full((1, 6), 0.3):
        for weight in weights:
            score = alone(bare(evidence=tuple(weight)), row).scores[0]
            assert score == pytest.approx(1 / (1 + math.exp(-float(np.dot(weight, seen)))), abs=1e-5)


def test_calibrated_scores_are_the_maps() -> None:
    knots = {"scores": [0, 0.4, 1], "shares": [0.0, 0.8, 1.0]}
    for logit, shares in ((-5, (0, 0, 0)), (1.2, (0.6, 0.3, 0.15)), (30, (1, 1, 1))):
        raw = (1 / (1 + math.exp(-logit)) + sum(shares)) / 4
        score = alone(bare(calibration=knots), face_row(SQUARE, logit, shares)).scores[0]
        assert score == pytest.approx(np.interp(raw, knots["scores"], knots["shares"]), abs=1e-6)
        assert 0 <= score <= 1


@pytest.mark.parametrize(
    "evidence", [None, (1, 0.3, 1.5, 1, 0.5, 1), (1, 0.3, -1.5, 1, 0.5, 1), (2, -0.5, 0.3, 1, -0.4, 1)]
)
def test_only_what_cannot_reach_the_threshold_is_left_out(evidence: tuple[float, ...] | None) -> None:
    rng = np.random.default_rng(0)
    squares = rng.uniform([10, 10, 15], [180, 100, 60], (60, 3))
    points = [POINTS * s * rng.uniform(0.5, 1.2) + corner + rng.normal(0, 2, (5, 2)) for *corner, s in squares]
    rows = [
        {**face_row(square, logit, tuple(rng.uniform(0, 1, 3))), "landmarks": [p]}
        for square, logit, p in zip(squares, rng.normal(0, 3, 60), points, strict=True)
    ]
    decoder = KPNet(told(*rows), bare(evidence=evidence))
    image = np.zeros((128, 256, 3), np.uint8)
    every = decoder.propose([image])
    assert len(every) == 60
    for threshold in np.quantile(every.scores, [0.1, 0.5, 0.9]):
        some = decoder.propose([image], threshold)
        assert len(some) < 60
        assert (decoder.least(threshold) > LOGITS[0]) == (evidence is not None)
        np.testing.assert_array_equal(some.scores[some.scores >= threshold], every.scores[every.scores >= threshold])


def test_the_worse_of_two_that_overlap_falls() -> None:
    near, far = (SQUARE + np.array(shift) for shift in ([4, 4, 0], [60, 0, 0]))
    rows = face_row(near, 1), face_row(SQUARE, 2), face_row(far, 0)
    faces = alone(bare(), *rows)
    kept = convention("wider").boxes(np.stack([POINTS * s[2] + s[:2] for s in (SQUARE, far)]))
    assert box_ops.iou(kept, kept)[0, 1] < 0.6
    np.testing.assert_allclose(faces.boxes, kept, atol=1e-3)
    assert len(alone(bare(nms=1.0), *rows)) == 3


def test_pictures_do_not_suppress_each_other_and_options_hold() -> None:
    decoder = KPNet(told(face_row(SQUARE, 2), face_row(np.array([150, 150, 30]), 1)), bare())
    images = [np.zeros((128, 128, 3), np.uint8)] * 3
    both = decoder(images, threshold=0, min_face=1, max_face=None)
    assert [len(faces) for faces in both] == [2, 2, 2]
    assert [len(f) for f in decoder(images, threshold=0, min_face=50, max_face=None)] == [1, 1, 1]
    assert [len(f) for f in decoder(images, threshold=0, min_face=1, max_face=50)] == [1, 1, 1]
    threshold = float(both[0].scores.mean())
    assert [len(f) for f in decoder(images, threshold=threshold, min_face=1, max_face=None)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("input_size", "share", "overview"),
    [(64, 0.375, None), (256, 0.375, 96), (256, 0.5, 128), (384, 0.375, 144), (640, 0.375, 160), (640, 0.5, 160)],
)
def test_large_faces_are_those_of_the_overview_and_small_ones_of_the_input(
    input_size: int, share: float, overview: int | None
) -> None:
    settings = {"input_size": input_size, "overview_share": share}
    image = np.zeros((input_size, input_size, 3), np.uint8)
    levels = [input_size, overview] if overview else [input_size]
    assert [max(v.pixels.shape) for v in views_of(image, **settings)] == levels
    (single,) = views_of(image, input_size=input_size, overview=False)
    assert (single.least, single.most) == (0, np.inf)

    def found(side: float) -> list[float]:
        """Sides that are found of a face of this side in pixels of the input, which every view shows."""
        look = partial(seen_face, side / input_size)
        decoder = KPNet(Fake(look), bare(**settings, convention="square", proposal=1.0, nms=1.0))
        (faces,) = decoder([image], threshold=0, min_face=1, max_face=None)
        return list(faces.boxes[:, 2] - faces.boxes[:, 0])

    np.testing.assert_allclose(found(60), [60], rtol=1e-5)
    np.testing.assert_allclose(found(90), [90] * len(levels), rtol=1e-5)  # where the two overlap
    np.testing.assert_allclose(found(150), [150], rtol=1e-5)


def seen_face(share: float, pixels: Array) -> dict[str, Any]:
    """A face in the corner that is so large for a view."""
    return face_row(np.array([0, 0, share * pixels.shape[1]]), 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"input_size": 63},
        {"overlap": 1.0},
        {"margin": 0.5},
        {"overview_share": 0.0},
        {"convention": "oval"},
        {"evidence": (1, 0)},
        {"refinement": [[0.5], [0.5, 0.5]]},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(settings))):
        KPNet(told(), Config(**settings))


# Training


TINY = 'seed = 1\ntrain = ["scenes.json"]\nval = ["scenes.json"]\n[kpnet]\n' + "\n".join(
    ["canvas = 64", "batch = 2", "steps = 6", "warmup = 2", "validate_every = 2", "workers = 0", "held_out = 2"]
)


def tiny(folder: Path, **changes: Any) -> training.KPNetRecipe:
    (folder / "r.toml").write_text(TINY)
    return replace(training.read(folder / "r.toml"), **changes)


def relabel(index: Path, change: Any) -> None:
    """Change every annotation of an index file in place."""
    document = json.loads(index.read_text())
    for annotation in document["annotations"]:
        change(annotation)
    index.write_text(json.dumps(document))


def test_a_killed_run_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path, 4)
    recipe = tiny(tmp_path)

    def run(folder: str) -> dict[str, Any]:
        train(training.prepare("kpnet", tmp_path, recipe, tmp_path), recipe, tmp_path / folder)
        state: dict[str, Any] = torch.load(tmp_path / folder / CHECKPOINT, weights_only=True)
        return state

    whole = run("whole")
    batch = training.KPNetTask.batch
    with monkeypatch.context() as patch:

        def killed(task: training.KPNetTask, step: int, part: Part = WHOLE) -> Any:
            if step == 5:
                raise KeyboardInterrupt
            return batch(task, step, part)

        patch.setattr(training.KPNetTask, "batch", killed)
        with pytest.raises(KeyboardInterrupt):
            run("killed")
    assert torch.load(tmp_path / "killed" / CHECKPOINT, weights_only=True)["step"] == 4
    resumed = run("killed")
    fresh = training.prepare("kpnet", tmp_path, recipe, tmp_path).network.state_dict()
    for part in ("network", "average"):
        for name, value in whole[part].items():
            assert torch.equal(value, resumed[part][name]), name
        assert any(not torch.equal(value, fresh[name]) for name, value in whole[part].items())
    assert whole["best"]["score"] == resumed["best"]["score"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_data_without_landmarks_say_what_is_missing(tmp_path: Path, split: str) -> None:
    write_data(tmp_path, 2)
    write_data(tmp_path, 2, name="bare", landmarks=False)
    recipe = tiny(tmp_path, **{split: ("bare.json",)})
    with pytest.raises(DataError, match=rf"the {split} data .*bare\.json.* no face with all its landmarks"):
        training.prepare("kpnet", tmp_path, recipe, tmp_path)


def test_data_without_faces_say_so(tmp_path: Path) -> None:
    relabel(write_data(tmp_path, 2), lambda face: face.update(iscrowd=1))
    with pytest.raises(DataError, match=r"the train data .*scenes\.json.* no face$"):
        training.prepare("kpnet", tmp_path, tiny(tmp_path), tmp_path)


@pytest.mark.parametrize("key", ["bbox", "keypoints"])
def test_a_label_that_is_no_number_is_named(tmp_path: Path, key: str) -> None:
    def spoil(face: dict[str, Any]) -> None:
        if face["id"] == 3:
            face[key][1] = float("nan")

    relabel(write_data(tmp_path, 3), spoil)
    with pytest.raises(DataError, match=rf"(?s)scenes\.json, annotation 3: {key} .*not finite"):
        training.prepare("kpnet", tmp_path, tiny(tmp_path), tmp_path)


def test_data_of_another_schema_are_named(tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    with pytest.raises(DataError, match=r"scenes\.json has landmarks of schema '5', which cannot become .*'21'"):
        training.prepare("kpnet", tmp_path, tiny(tmp_path, landmarks=("21",)), tmp_path)


def test_boxes_without_landmarks_teach_the_scalemap_alone(tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    write_data(tmp_path, 2, name="bare", landmarks=False)
    recipe = tiny(tmp_path, batch=24, train=("scenes.json", "bare.json"), composition=Composition(min_side=20))
    batch = training.prepare("kpnet", tmp_path, recipe, tmp_path).batch(0)
    faces = (batch["regions"][..., 2] > batch["regions"][..., 0]).sum(axis=1)
    np.testing.assert_array_equal(faces, batch["faces"])
    marked = batch["weights"].any(axis=2)
    assert 0 < marked.sum() < faces.sum()
    assert set(np.unique(batch["cells"][:, 0])) == set(np.flatnonzero(faces))


def test_faces_outside_the_range_are_ignored_and_counted(tmp_path: Path) -> None:
    """Beside a face of 150 pixels one of 5, which on most canvases is too small for any bin."""
    image = np.full((300, 400, 3), 90, np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    squares = {"large": [40, 60, 150, 150], "small": [300, 200, 5, 5]}
    faces = [
        {"id": i, "image_id": 0, "bbox": box, "keypoints": np.c_[POINTS * box[2] + box[:2], [2] * 5].ravel().tolist()}
        for i, box in enumerate(squares.values())
    ]
    picture = {"id": 0, "file_name": "photo.png", "width": 400, "height": 300}
    (tmp_path / "scenes.json").write_text(json.dumps({"images": [picture], "annotations": faces}))
    recipe = tiny(tmp_path, canvas=128, batch=24)
    task = training.prepare("kpnet", tmp_path, recipe, tmp_path)
    batch = task.batch(0)
    outside = batch["outside"].astype(int)
    assert 5 < outside.sum() < 100
    assert (batch["values"] == 1).sum() == batch["faces"].sum()  # they have no cell of their own
    assert batch["ignored"][outside > 0].any(axis=(1, 2)).all()
    tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
    task.on(torch.device("cpu"))(tensors)
    with torch.no_grad():
        assert [task.validate(task.network.eval())["outside"] for _ in range(2)] == [outside.sum(), 0]


def test_boxes_are_refined_to_those_of_the_canvases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of proposals that are off, and landmarks that are not."""
    monkeypatch.setattr(training, "LEAST_FITTED", 50)
    rng = np.random.default_rng(0)
    faces, rows = [], []
    for _ in range(80):
        side = rng.uniform(16, 60)
        place = np.array([*rng.uniform(0, 128 - side, 2), side])
        (truth,) = convention("wider").boxes((POINTS * side + place[:2])[None])
        seen = {"centre": [(truth[:2] + truth[2:]) / 2 + rng.normal(0, 0.05, 2) * side], "side": [side * 1.2]}
        faces.append(truth)
        rows.append(face_row(place, rng.uniform(-3, 3)) | seen)
    unmarked = {
        "landmarks": np.zeros((1, 5, 2)),
        "weights": np.zeros((1, 5)),
        "ignore": np.zeros(1, bool),
        "schema": np.zeros(1, int),
        "outside": 0,
    }
    canvases = [
        Canvas(boxes=box[None], pixels=np.full((128, 128, 3), i, np.uint8), **unmarked) for i, box in enumerate(faces)
    ]
    graph = Fake(lambda pixels: rows[pixels[0, 0, 0]])
    decoder = KPNet(graph, bare(proposal=1.0))
    found = training.refinement(decoder, canvases)
    learned = KPNet(graph, bare(refinement=found))
    overlaps = [
        [box_ops.overlap(by.propose([canvas.pixels]).boxes, canvas.boxes)[0] for canvas in canvases]
        for by in (decoder, learned)
    ]
    assert np.mean(overlaps[0]) < 0.9
    assert np.min(overlaps[1]) > 0.98
    monkeypatch.setattr(training, "LEAST_FITTED", 81)
    assert training.refinement(decoder, canvases) is None


def test_any_number_of_landmarks_trains_and_runs(tmp_path: Path) -> None:
    of = schema("21")
    rng = np.random.default_rng(0)

    def mark(face: dict[str, Any]) -> None:
        x, y, w, h = face["bbox"]
        places = rng.uniform(0.2, 0.8, (len(of), 2)) * [w, h] + [x, y]
        face["keypoints"] = np.c_[places, np.full(len(of), 2)].ravel().tolist()

    index = write_data(tmp_path, 3)
    relabel(index, mark)
    document = json.loads(index.read_text())
    document["categories"][0]["keypoints"] = list(of.points)
    index.write_text(json.dumps(document))
    (tmp_path / "r.toml").write_text(TINY)
    overrides = {"steps": "2", "landmarks": '"21"', "backbone": '"hourglass"'}
    file = run(training, tmp_path, tmp_path / "r.toml", tmp_path / "run", overrides=overrides)
    network = build(21, "hourglass")
    network.load_state_dict(torch.load(tmp_path / "run" / "kpnet" / CHECKPOINT, weights_only=True)["best"]["weights"])
    module = entries(network, Heads.of(backbone="hourglass"), landmarks=of)["kpnet"].module
    outputs = ("logit", "centre", "side", "landmarks", "peaks")
    for runtime in ("onnx", "openvino") if find_spec("openvino") else ("onnx",):
        graph = load_graph(file.read_bytes(), runtime=runtime, threads=1)
        assert graph.metadata["schema"] == "21"
        for shape in ((1, 64, 64), (3, 128, 64)):
            pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
            limits = least(len(pixels))
            found = dict(zip(outputs, graph("kpnet", outputs, pixels=pixels, least=limits.numpy()), strict=True))
            with torch.no_grad():
                wanted = {n: v.numpy() for n, v in module(torch.from_numpy(pixels), limits).items()}
            assert found["landmarks"].shape == (shape[0], found["logit"].shape[1], 21, 2)
            mine, theirs = rows_of_both(wanted, found, "centre")
            assert len(mine["logit"]) > 20
            for name in outputs:
                np.testing.assert_allclose(theirs[name], mine[name], atol=2e-3)


def test_an_accelerator_gets_the_same_canvases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the accelerator is a processor that draws as one."""
    write_data(tmp_path, 3)
    recipe = tiny(tmp_path, canvas=128, batch=6)
    mine = training.prepare("kpnet", tmp_path, recipe, tmp_path)
    theirs = training.prepare("kpnet", tmp_path, recipe, tmp_path)

    def composer(photos: Photos, device: torch.device, size: int) -> DeviceComposer:
        assert device.type == "cuda"
        return DeviceComposer(photos, torch.device("cpu"), size)

    monkeypatch.setattr(canvas_task, "DeviceComposer", composer)
    complete = theirs.on(torch.device("cuda"))
    for step in range(3):
        there = theirs.batch(step)
        assert "pixels" not in there
        drawn = complete({name: torch.as_tensor(value) for name, value in there.items()})
        here = mine.batch(step)
        for name in here.keys() - {"pixels"}:
            np.testing.assert_array_equal(here[name], drawn[name])
        differ = np.abs(here["pixels"].astype(int) - drawn["pixels"].numpy()).mean(axis=(1, 2, 3))
        assert (differ < 14).all()  # noise is other noise
        assert np.median(differ) < 4
