"""Parts of the Information-Synthesis Network against the paper and slow references."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from lineament.methods.isnet.losses import distance, euclidean, spread_loss  # noqa: E402
from lineament.methods.isnet.network import LightNet, PaperNet, Weights, expectation  # noqa: E402
from networks import unlike  # noqa: E402


def crops(n: int, size: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0)).double()


def maps_of(network: PaperNet, pixels: torch.Tensor) -> list[torch.Tensor]:
    x, maps = (pixels - 127.5) / 128, []
    for block in network.blocks:
        x = block(x)
        maps.append(x)
    return maps


@pytest.mark.parametrize("grid", [0, 2])
def test_synthesis_is_a_sum_of_dense_layers(grid: int) -> None:
    """Both readings of equation 1: a dense layer on the concatenation equals one dense layer per block, times beta."""
    torch.manual_seed(0)
    beta = (0.4014, 0.25, 0.5986)
    network = PaperNet(5, 40, beta, grid=grid).double()
    pixels = crops(3, 40)
    flat = [(F.adaptive_avg_pool2d(m, grid) if grid else m).flatten(1) for m in maps_of(network, pixels)[1:]]
    parts = network.dense.weight.split([m.shape[1] for m in flat], dim=1)
    hidden = sum(b * m @ part.T for b, m, part in zip(beta, flat, parts, strict=True)) + network.dense.bias
    expected = network.points(F.relu(hidden)).view(3, 5, 2)
    torch.testing.assert_close(network(pixels)["points"], expected)


def test_a_block_is_convolution_relu_and_pooling_and_there_are_four() -> None:
    network = PaperNet(size=40).double()
    pixels = crops(1, 40)
    maps = maps_of(network, pixels)
    assert [m.shape[1:] for m in maps] == [(20, 20, 20), (40, 10, 10), (60, 5, 5), (80, 3, 3)]
    conv = network.blocks[0][0]
    convolved = F.conv2d((pixels - 127.5) / 128, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(maps[0], F.max_pool2d(convolved.relu(), 2))


def test_a_weight_of_zero_takes_a_block_out_and_the_twin_has_the_last_alone() -> None:
    torch.manual_seed(0)
    network, twin = PaperNet(5, 40, (0, 0, 1)).double(), PaperNet(5, 40, twin=True).double()
    last = twin.dense.in_features
    assert last == 80 * 9
    twin.load_state_dict(
        {n: v for n, v in network.state_dict().items() if n not in ("dense.weight", "beta.fixed")}, strict=False
    )
    twin.dense.weight.data = network.dense.weight.data[:, -last:]
    torch.testing.assert_close(network(crops(2, 40))["points"], twin(crops(2, 40))["points"])


def test_learned_weights_keep_the_constraint_and_learn() -> None:
    torch.manual_seed(0)
    network = PaperNet(5, 40).double()
    beta = network.beta()
    assert (beta >= 0).all()
    assert beta.sum().item() == pytest.approx(1)
    network(crops(2, 40))["points"].square().sum().backward()
    assert network.beta.logits is not None
    assert float(network.beta.logits.grad.abs().max()) > 0


@pytest.mark.parametrize("beta", [(0.5, 0.5), (0.5, 0.5, 1.1), (-0.1, 0.5, 0.5), (float("nan"), 0, 0)])
def test_weights_that_are_not_such_are_refused(beta: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="one weight in \\[0, 1\\] for each of 3 blocks"):
        Weights(3, beta)


def test_light_synthesis_is_equation_1_on_the_grid_of_the_second_block() -> None:
    torch.manual_seed(0)
    network = unlike(LightNet(7, 64, (0.2, 0.3, 0.5)))
    maps = [torch.randn(2, c, s, s, dtype=torch.float64) for c, s in ((32, 16), (64, 8), (128, 4))]
    brought = [
        to(m).repeat_interleave(16 // m.shape[-1], 2).repeat_interleave(16 // m.shape[-1], 3)
        for to, m in zip(network.to_shared, maps, strict=True)
    ]
    c = (0.2 * brought[0] + 0.3 * brought[1] + 0.5 * brought[2]).relu()
    torch.testing.assert_close(network.synthesis(maps), c)


@pytest.mark.parametrize("size", [48, 64, 80])
def test_light_networks_take_crops_of_any_multiple_of_16(size: int) -> None:
    out = LightNet(68, size).eval()(torch.zeros(2, 3, size, size))
    assert (out["points"].shape, out["spread"].shape) == ((2, 68, 2), (2, 68))


def test_a_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16, found 60"):
        LightNet(size=60)


def test_expectations_equal_a_loop_over_cells() -> None:
    response = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    for i, k in np.ndindex(2, 3):
        share = response[i, k].exp() / response[i, k].exp().sum()
        x = sum(float(share[r, c]) * (c + 0.5) / 6 for r, c in np.ndindex(4, 6))
        y = sum(float(share[r, c]) * (r + 0.5) / 4 for r, c in np.ndindex(4, 6))
        np.testing.assert_allclose(expectation(response)[i, k], [x, y])


def test_equation_3() -> None:
    """Half the squared distance of each face's landmarks, averaged over the faces, as in Caffe's EuclideanLoss."""
    points, truth = torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)
    points[0, 1], truth[1, 2] = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    weights = torch.ones(2, 3)
    assert float(euclidean(points, truth, weights)) == (25 + 4) / (2 * 2)
    weights[0, 1] = 0
    assert float(euclidean(points, truth, weights)) == 4 / (2 * 2)


def test_distance_is_the_mean_error_and_has_a_gradient_at_no_error() -> None:
    points = torch.zeros(1, 2, 2, requires_grad=True)
    truth = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    loss = distance(points, truth, torch.ones(1, 2))
    assert float(loss) == pytest.approx(2.5, abs=1e-3)
    loss.backward()
    assert torch.isfinite(points.grad).all()


def test_spread_is_likeliest_where_it_is_half_the_mean_error_and_moves_no_landmark() -> None:
    """A two-dimensional Laplace distribution of scale b has a mean distance of 2b."""
    errors = torch.tensor([0.01, 0.02, 0.05, 0.08])
    points = torch.stack([errors, torch.zeros(4)], dim=1)[None].requires_grad_()
    spread = torch.full((1, 4), (errors.mean() / 2).log().item(), requires_grad=True)
    spread_loss(spread, points, torch.zeros(1, 4, 2), torch.ones(1, 4)).backward()
    assert float(spread.grad.sum()) == pytest.approx(0, abs=2e-3)
    assert points.grad is None


@pytest.mark.parametrize("network", [PaperNet(3, 24, (0.3, 0.3, 0.4), channels=(2, 3, 4, 5), dense=6), LightNet(3, 16)])
def test_gradients_equal_finite_differences(network: torch.nn.Module) -> None:
    """For every parameter, along one random direction."""
    torch.manual_seed(0)
    network = unlike(network)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    pixels, truth = crops(2, network.size), torch.rand(2, 3, 2, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return distance(network(pixels)["points"], truth, torch.ones(2, 3, dtype=torch.float64))

    loss().backward()
    for name, parameter in network.named_parameters():
        if parameter.grad is None:
            assert "beta" not in name
            continue
        step = 1e-6 * torch.randn_like(parameter)
        with torch.no_grad():
            parameter += step
            above = float(loss())
            parameter -= 2 * step
            below = float(loss())
            parameter += step
        expected = float((parameter.grad * step).sum())
        assert (above - below) / 2 == pytest.approx(expected, abs=1e-10 + 1e-2 * abs(expected)), name
