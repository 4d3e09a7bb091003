"""Parts of KPNet against slow, direct references in float64 that follow the paper."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import fx, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from lineament.methods.kpnet import scales  # noqa: E402
from lineament.methods.kpnet.export import Extractor  # noqa: E402
from lineament.methods.kpnet.heads import Heads, build  # noqa: E402
from lineament.methods.kpnet.heads.base import near_proposals  # noqa: E402
from lineament.methods.kpnet.heads.bells import FAINT, Spread, bell_loss, touched  # noqa: E402
from lineament.methods.kpnet.heads.scalemap import offset_loss, paint, strongest  # noqa: E402
from lineament.methods.kpnet.heads.soft_argmax import landmark_losses, soft_argmax  # noqa: E402
from lineament.methods.kpnet.layers import Stem, UpConv  # noqa: E402
from lineament.methods.kpnet.maps import region_maximum, sample  # noqa: E402
from lineament.methods.kpnet.network import BACKBONES  # noqa: E402
from lineament.methods.kpnet.scales import BINS, STRIDE  # noqa: E402
from networks import thresholds, unlike  # noqa: E402

Array = np.ndarray
H, W = 10, 14  # of the maps, for an input of 20 x 28 pixels
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
    """Rows and columns of the cells whose centres lie in a region. Its left and upper edges belong to it."""
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
    """The position of a landmark in its region, relative to the sides."""
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
    """A constant added to the response changes nothing, also in float32."""
    response, regions = random_maps(1, 2, H, W).float(), torch.tensor([[REGIONS["inside"]]], dtype=torch.float32)
    low, high = soft_argmax(response, regions), soft_argmax(response + 2**12, regions)
    assert torch.allclose(low.points, high.points, atol=1e-2)
    assert high.log_total.isfinite().all()


def test_soft_argmax_has_the_right_gradient() -> None:
    regions = torch.tensor([[REGIONS["inside"], REGIONS["cut right and below"], EMPTY["outside"]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda r: tuple(soft_argmax(r, regions)), random_maps(1, 2, H, W).requires_grad_())


# Equation 4


def dense_scale_loss(x: torch.Tensor, ignored: torch.Tensor, target: torch.Tensor, focal: bool) -> torch.Tensor:
    """A sum over all values of the map, one by one, in float64."""
    p = x.sigmoid()
    if focal:
        own = target > 0.999
        loss = torch.where(own, -((1 - p) ** 2) * p.log(), -((1 - target) ** 4) * p**2 * (1 - p).log())
    else:
        loss = -(target * p.log() + (1 - target) * (1 - p).log())
    return loss.masked_fill(ignored[:, None], 0).sum()


def scale_case(low: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, ignored cells, targets as a list, and targets as a map. Some targets lie in ignored cells."""
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
    """Values below FAINT without a target: at most p^3 in the loss and 3 p^3 in a gradient, where p is FAINT's."""
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
    """Two images with two faces each. One of the four is padding."""
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
    points[0, 0, 2] = regions[0, 0, :2] + 0.5  # has weight, but lies at the edge of its region
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
    """By image and face, over the cells of four pixels whose centres are less than four pixels from the face's."""
    errors = []
    for image, face in np.argwhere(sides):
        x, y = centres[image, face] / 4
        for row, column in product(range(int(y) - 1, int(y) + 2), range(int(x) - 1, int(x) + 2)):
            near = abs(column + 0.5 - x) < 1 and abs(row + 0.5 - y) < 1
            if near and 0 <= row < offset.shape[2] and 0 <= column < offset.shape[3]:
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


@pytest.mark.parametrize(("backbone", "stride"), [("drnet", 2), ("hourglass", 2), ("lite", 4), ("slim", 4)])
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


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_packed_networks_compute_the_same(backbone: str, boxes: bool) -> None:
    """The input has the channels of four columns as those of one: the same numbers in memory."""
    network = unlike(build(5, backbone, Heads.of(backbone=backbone, boxes=boxes)))
    pixels = torch.randint(0, 256, (2, 64, 128, 3), dtype=torch.float64)
    with torch.no_grad():
        before = network(pixels.permute(0, 3, 1, 2))
        network.fold()
        network.pack()
        columns = 1 if backbone == "hourglass" else 4
        after = network(pixels.reshape(2, 64, 128 // columns, 3 * columns).permute(0, 3, 1, 2))
    assert network.columns == columns
    assert before.keys() == after.keys()
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
    """Logit, column, row and bin of the local maxima of (60, h, w), best first."""
    best = scale.max(axis=0)
    h, w = best.shape
    found = []
    for i, j in product(range(h), range(w)):
        around = [best[a, b] for a in range(max(i - 1, 0), min(i + 2, h)) for b in range(max(j - 1, 0), min(j + 2, w))]
        if best[i, j] >= max(around):
            found.append((float(best[i, j]), j, i, int(scale[:, i, j].argmax())))
    return sorted(found, reverse=True)


def looped_offset(map_: Array, column: int, row: int) -> Array:
    """The mean centre of the 3x3 cells around a cell of (h, w) logits, weighted by odds: x and y from it, in cells."""
    h, w = map_.shape
    rows, columns = range(max(row - 1, 0), min(row + 2, h)), range(max(column - 1, 0), min(column + 2, w))
    odds = {(x - column, y - row): np.exp(map_[y, x]) for x, y in product(columns, rows)}
    return np.asarray(sum(value * np.array(shift) for shift, value in odds.items()) / sum(odds.values()))


def looped_bin(logits: Array, best: int) -> float:
    """The mean of the best bin of a cell and the three bins on each side, weighted by their odds."""
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
        assert torch.isneginf(logit[image, len(wanted) :]).all()  # a neighbour is larger


def test_the_maximum_in_a_region_is_that_of_the_loops() -> None:
    maps = random_maps(2, 3, H, W, seed=4)
    regions = torch.tensor([list(REGIONS.values())] * 2, dtype=torch.float64)
    found = region_maximum(maps, regions, STRIDE)
    for image, (face, region), channel in product(range(2), enumerate(REGIONS.values()), range(3)):
        wanted = max(maps[image, channel][cell].item() for cell in cells_in(region))
        assert found[image, face, channel].item() == wanted


def vivid(network: nn.Module) -> nn.Module:
    """A network whose maps have peaks, like those of a trained one."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.startswith(("scale.", "response.")) and name.endswith("weight"):
                parameter.mul_(5)
        for _ in range(30):  # for the statistics of normalisation
            network.train()(255 * torch.rand(2, 3, 64, 96))
    return network.eval()


@pytest.mark.parametrize("backbone", ["drnet", "lite", "slim"])
def test_proposals_carry_what_the_equations_give(backbone: str) -> None:
    torch.manual_seed(0)
    network = vivid(build(5, backbone))
    stride = network.stride
    pixels = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        found = {
            name: value.numpy()
            for name, value in Extractor(network, Heads.of(backbone=backbone))(pixels, thresholds(2)).items()
        }
        maps = {n: v.double().numpy() for n, v in network(pixels.permute(0, 3, 1, 2).float()).items()}
    compared = 0
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
            shrunk = STRIDE / stride  # to cells of 2 pixels
            region = np.array((*(centre - side / 2), *(centre + side / 2))) * shrunk
            if not (np.abs(centre - [48, 32]) < [48, 32]).all():  # an untrained offset leads out of the image
                continue
            compared += 1
            h = maps["response"][image]
            points = centre - side / 2 + side * np.array([equation_6(channel, region) for channel in h])
            np.testing.assert_allclose(found["landmarks"][image, rank], points, atol=1e-3)
            largest = [max(equation_5(channel, region).values()) for channel in h]
            np.testing.assert_allclose(found["peaks"][image, rank], largest, atol=1e-4)
    assert compared > 60 // stride
