"""MaskFace's network: pooled features against float64 sums, the order of anchors, heads, peaks."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from lineament.anchors import all_anchors  # noqa: E402
from lineament.methods.maskface.export import Peaks  # noqa: E402
from lineament.methods.maskface.levels import level_of, levels  # noqa: E402
from lineament.methods.maskface.network import MaskFace  # noqa: E402
from lineament.methods.maskface.roi import bins  # noqa: E402
from lineament.methods.normalisation import ConvNorm, normalisation  # noqa: E402
from networks import Stairs, unlike  # noqa: E402

BOXES = [
    [3.0, 5, 21, 30],  # inside
    [-9, -14, 17, 12],  # beyond the left and the upper edge
    [30, 20, 61, 49],  # beyond the right and the lower edge
    [-90, -80, -60, -50],  # far outside
    [10.3, 11.7, 10.9, 12.1],  # smaller than a cell
    [-20, -20, 80, 70],  # all of the image and more
]


def small(landmarks: dict[str, int] | None = None, **settings: object) -> MaskFace:
    torch.manual_seed(0)
    given = {"width": 8, "head_width": 8, "head_layers": 1} | settings
    return MaskFace(Stairs(), {"5": 5} if landmarks is None else landmarks, **given)  # type: ignore[arg-type]


def bilinear(cells: np.ndarray, x: float, y: float) -> np.ndarray:
    """The value of a map (c, h, w) at a position in cells. The centre of the first cell is (0.5, 0.5)."""
    _, h, w = cells.shape
    x, y = x - 0.5, y - 0.5
    if x < -1 or y < -1 or x > w or y > h:
        return np.zeros(len(cells))
    x, y = min(max(x, 0), w - 1), min(max(y, 0), h - 1)
    total = np.zeros(len(cells))
    for row in range(h):
        for column in range(w):
            total += cells[:, row, column] * max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
    return total


def mean_of_samples(cells: np.ndarray, box: list[float], stride: int, size: int) -> np.ndarray:
    """RoIAlign of one box (c, size, size). Each bin is the mean of the samples at a quarter and at three quarters."""
    x1, y1, x2, y2 = (value / stride for value in box)
    out = np.zeros((len(cells), size, size))
    for i in range(size):
        for j in range(size):
            for u in (0.25, 0.75):
                for v in (0.25, 0.75):
                    at = x1 + (j + u) / size * (x2 - x1), y1 + (i + v) / size * (y2 - y1)
                    out[:, i, j] += bilinear(cells, *at) / 4
    return out


def test_features_of_regions_are_means_of_bilinear_samples() -> None:
    random = np.random.default_rng(0)
    strides = (4, 8)
    maps = [random.normal(size=(2, 3, 40 // s, 48 // s)) for s in strides]
    image, level = [0, 1, 1, 0, 0, 1] * 2, [0] * 6 + [1] * 6
    given = (torch.tensor(BOXES * 2, dtype=torch.float64), torch.tensor(image), torch.tensor(level))
    pooled = bins([torch.tensor(m) for m in maps], strides, *given, size=3)
    for own, box, i, k in zip(pooled.numpy(), BOXES * 2, image, level, strict=True):
        np.testing.assert_allclose(own, mean_of_samples(maps[k][i], box, strides[k], 3), rtol=1e-12, atol=1e-12)
    assert not pooled[3].any()  # far outside
    assert pooled[0].any()


def test_gradients_reach_the_features_of_regions() -> None:
    """Pooling is linear, so a gradient equals the difference of two outputs."""
    random = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, n, n + 2, dtype=torch.float64, generator=random).requires_grad_() for n in (8, 4)]
    given = (torch.tensor(BOXES, dtype=torch.float64), torch.tensor([0, 1] * 3), torch.tensor([0, 0, 1] * 2))
    pooled = bins(maps, (4, 8), *given, size=2)
    weights, step = (torch.randn(v.shape, dtype=v.dtype, generator=random) for v in (pooled, maps[0]))
    (gradient,) = torch.autograd.grad((pooled * weights).sum(), maps[:1])
    moved = bins([maps[0] + step, maps[1]], (4, 8), *given, size=2)
    change = ((moved - pooled) * weights).sum().detach()
    assert float((gradient * step).sum()) == pytest.approx(float(change))


def test_a_canvas_of_640_has_102300_anchors() -> None:
    boxes = all_anchors(640, 640, levels())
    assert len(boxes) == 102_300
    sides = boxes[:, 2:] - boxes[:, :2]
    np.testing.assert_allclose(sides[:, 0], sides[:, 1])
    assert sides.min() == pytest.approx(16)
    assert sides.max() == pytest.approx(406, abs=0.5)


def test_outputs_are_in_the_order_of_the_anchors() -> None:
    network = small()
    kinds, (height, width) = levels(), (64, 128)
    for layer in (network.score, network.offset):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    network.score.weight.data[:, 0, 0, 0] = torch.tensor([1.0, 2, 3])
    network.offset.weight.data[:, 0, 0, 0] = torch.arange(1.0, 13)
    features = [torch.zeros(1, 8, height // s, width // s) for s in network.strides]
    features[1][0, 0, 2, 5] = 1  # the cell of 8 pixels around (44, 20)
    outputs = network.detect(features)
    boxes = all_anchors(width, height, kinds)
    assert outputs["logit"].shape == (1, len(boxes))
    (hot,) = outputs["logit"][0].nonzero(as_tuple=True)
    assert outputs["logit"][0, hot].tolist() == [1, 2, 3]
    assert outputs["offset"][0, hot].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    np.testing.assert_allclose((boxes[hot, :2] + boxes[hot, 2:]) / 2, [[44, 20]] * 3)
    np.testing.assert_allclose(boxes[hot, 2] - boxes[hot, 0], kinds[1].sides)


@pytest.mark.parametrize(
    "settings", [{}, {"context": "none", "head_layers": 0}, {"finest": 3, "norm": "batch", "context": "shared"}]
)
def test_every_build_gives_anchors_and_masks(settings: dict[str, object]) -> None:
    network = small({"5": 5, "68": 68}, **settings).eval()
    regions = torch.tensor([[4.0, 4, 40, 44], [0, 0, 60, 60]]), torch.tensor([0, 1]), torch.tensor([0, 1])
    none = tuple(part[:0] for part in regions)
    outputs = network(torch.rand(2, 3, 64, 128) * 255, {"5": regions, "68": none})
    count = len(all_anchors(128, 64, levels(int(settings.get("finest", 2)))))  # type: ignore[call-overload]
    shapes = {name: tuple(value.shape) for name, value in outputs.items()}
    assert shapes == {"logit": (2, count), "offset": (2, count, 4), "5": (2, 5, 56, 56), "68": (0, 68, 56, 56)}
    assert (outputs["logit"].sigmoid() < 0.1).all()  # the prior of faces


def test_images_and_regions_do_not_meet() -> None:
    network = small().double().eval()
    pixels = torch.rand(2, 3, 64, 128, dtype=torch.float64) * 255
    boxes = torch.tensor([[4, 4, 40, 44], [10, 0, 60, 60], [-5, 20, 30, 70]], dtype=torch.float64)
    image, level = torch.tensor([1, 0, 1]), torch.tensor([0, 1, 0])
    whole = network(pixels, {"5": (boxes, image, level)})
    for i in range(3):
        alone = network(pixels[image[i], None], {"5": (boxes[i, None], image[:1] * 0, level[i, None])})
        torch.testing.assert_close(alone["5"][0], whole["5"][i])
        torch.testing.assert_close(alone["logit"][0], whole["logit"][image[i]])


def test_schemas_share_the_convolutions_of_the_landmark_head() -> None:
    head = small({"5": 5, "68": 68}).landmarks
    assert head is not None
    head(torch.rand(1, 8, 14, 14), "68").sum().backward()
    learns = {name for name, p in head.named_parameters() if p.grad is not None}
    shared = {"layers.0.conv.weight", "layers.0.norm.weight", "layers.0.norm.bias"}
    assert learns == shared | {"masks.68.weight", "masks.68.bias"}


def test_without_landmarks_there_is_no_landmark_head() -> None:
    network = small({})
    regions = torch.zeros(1, 4), torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    assert set(network(torch.zeros(1, 3, 64, 128), {"5": regions})) == {"logit", "offset"}


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 32), (48, 16), (40, 8), (3, 1)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    layer = normalisation("group", channels)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == groups
    layer(torch.zeros(1, channels, 2, 2))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_layers_compute_the_same_when_they_are_folded(norm: str) -> None:
    layer = unlike(ConvNorm(6, 16, norm))
    nn.init.normal_(layer.norm.weight)
    nn.init.normal_(layer.norm.bias)
    folded = copy.deepcopy(layer)
    folded.fold()
    assert type(folded.norm) is not type(layer.norm)
    for count in (3, 0):
        x = torch.randn(count, 6, 5, 7, dtype=torch.float64)
        torch.testing.assert_close(folded(x), layer(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("k0", "sides", "expected"),
    [
        (3, [10, 223.9, 224, 447.9, 448, 896, 1792, 1e5], [2, 2, 3, 3, 4, 5, 6, 6]),
        (4, [10, 111.9, 112, 223.9, 224, 448, 896, 1e5], [2, 2, 3, 3, 4, 5, 6, 6]),
        (5, [10, 55.9, 56, 111.9, 112, 224, 448, 1e5], [2, 2, 3, 3, 4, 5, 6, 6]),
    ],
)
def test_levels_of_faces_are_those_of_equation_6(k0: int, sides: list[float], expected: list[int]) -> None:
    side = np.array(sides)
    boxes = np.stack([side, side, 3 * side, 1.5 * side], axis=1)  # twice as wide as the side, half as high
    np.testing.assert_array_equal(level_of(boxes, k0), np.array(expected) - 2)
    np.testing.assert_array_equal(level_of(boxes, k0, finest=3), np.maximum(np.array(expected) - 3, 0))
    assert level_of(np.array([[5.0, 5, 5, 9]]), k0).tolist() == [0]  # without an area


class Given(nn.Module):
    """Replaces the landmark head."""

    def __init__(self, masks: Tensor) -> None:
        super().__init__()
        self.masks = masks

    def forward(self, pooled: Tensor, schema: str) -> Tensor:
        return self.masks


def test_peaks_are_found_between_cells() -> None:
    random = np.random.default_rng(0)
    centres = random.uniform(2, 54, (4, 3, 2))
    at = np.arange(56) + 0.5
    distance = (at - centres[..., :1, None]) ** 2 + (at[:, None] - centres[..., 1:, None]) ** 2
    bells = torch.tensor(9 * np.exp(-distance / (2 * 1.5**2)), dtype=torch.float32)
    found = Peaks(Given(bells), "5")(torch.zeros(4, 1, 14, 14))
    np.testing.assert_allclose(56 * found["points"].numpy(), centres, atol=0.1)


def test_peaks_and_their_probabilities_are_those_of_a_loop() -> None:
    masks = torch.randn(3, 2, 12, 12, generator=torch.Generator().manual_seed(0)) * 2
    masks[0, 0, 0, 0] = 50  # a corner: the peak is the largest value with eight neighbours
    found = Peaks(Given(masks), "5")(torch.zeros(3, 1, 14, 14))
    for i in range(3):
        for k in range(2):
            mask = masks[i, k].double()
            cells = [(float(mask[r, c]), r, c) for r in range(1, 11) for c in range(1, 11)]
            peak, row, column = max(cells)
            x, y = column + 0.5, row + 0.5
            for axis, (before, after) in enumerate(
                ((mask[row, column - 1], mask[row, column + 1]), (mask[row - 1, column], mask[row + 1, column]))
            ):
                bend = float(2 * peak - before - after)
                move = min(max(float(after - before) / (2 * bend), -0.5), 0.5) if bend > 0 else 0.0
                x, y = (x + move, y) if axis == 0 else (x, y + move)
            near = sum(math.exp(mask[row + r, column + c]) for r in (-1, 0, 1) for c in (-1, 0, 1))
            assert found["points"][i, k].tolist() == pytest.approx([x / 12, y / 12], abs=1e-5)
            assert float(found["mass"][i, k]) == pytest.approx(near / float(mask.exp().sum()), rel=1e-4)
