"""Distillation: the losses beside loops, and a network that learns from shipped weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lineament.errors import OptionError  # noqa: E402
from lineament.methods.kpnet import training  # noqa: E402
from lineament.methods.kpnet.distillation import Teacher, response_loss, scale_loss  # noqa: E402
from lineament.methods.kpnet.heads import Heads, build  # noqa: E402
from lineament.train.recipe import copy_recipe  # noqa: E402
from lineament.train.task import to_input  # noqa: E402
from lineament.weights import read_weights  # noqa: E402
from scenes import write_data  # noqa: E402

REGIONS = [[[4.0, 2.0, 18.0, 15.0], [0.0, 0.0, 0.0, 0.0]], [[-8.0, 6.0, 40.0, 60.0], [9.0, 9.0, 15.0, 15.0]]]


def random_maps(*shape: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def looped_divergence(response: np.ndarray, target: np.ndarray, stride: int, share: int) -> float:
    """By image, region and landmark, over the cells whose centres are inside."""
    n, k, h, w = response.shape
    found = []
    for image in range(n):
        for x1, y1, x2, y2 in REGIONS[image]:
            cells = [
                (row, column)
                for row in range(h)
                for column in range(w)
                if x1 <= (column + 0.5) * stride < x2 and y1 <= (row + 0.5) * stride < y2
            ]
            for landmark in range(k if cells else 0):
                fine = np.exp(target[image, landmark])
                taught = np.array([fine[r * share :, c * share :][:share, :share].mean() for r, c in cells])
                taught /= taught.sum()
                mine = np.exp(response[image, landmark][tuple(zip(*cells, strict=True))])
                found.append((taught * np.log(taught / (mine / mine.sum()))).sum())
    return float(np.mean(found))


@pytest.mark.parametrize("share", [1, 2])
def test_response_loss_is_the_divergence_of_the_loops(share: int) -> None:
    response, target = random_maps(2, 3, 6, 7, seed=0), random_maps(2, 3, 6 * share, 7 * share, seed=1)
    regions = torch.tensor(REGIONS, dtype=torch.float64)
    found = response_loss(response, target, regions, 4, share)
    assert found.item() == pytest.approx(looped_divergence(response.numpy(), target.numpy(), 4, share))
    assert torch.autograd.gradcheck(lambda r: response_loss(r, target, regions, 4, share), response.requires_grad_())
    assert response_loss(target, target, regions, 4).item() == pytest.approx(0, abs=1e-9)


def test_scale_loss_pulls_towards_the_teacher_and_leaves_sure_background_out() -> None:
    target = torch.tensor([2.0, -1.0, -9.0, -9.0], dtype=torch.float64).view(1, 4, 1, 1)
    logits = torch.tensor([0.0, 0.0, 0.0, -8.0], dtype=torch.float64).view(1, 4, 1, 1).requires_grad_()
    (slope,) = torch.autograd.grad(scale_loss(logits, target), logits)
    assert torch.equal(slope.flatten().sign(), torch.tensor([-1.0, 1, 1, 0], dtype=torch.float64))
    assert scale_loss(target, target) == 0
    assert torch.autograd.gradcheck(lambda x: scale_loss(x, target), logits)


@pytest.mark.parametrize("teacher", ["kpnet", "kpnet-lite"])
def test_a_network_learns_from_shipped_weights(teacher: str, tmp_path: Path) -> None:
    """Every parameter has a gradient from the teacher alone, except those of maps that it does not teach."""
    write_data(tmp_path, 6)
    (tmp_path / "recipe.toml").write_text('train = ["scenes.json"]\nval = ["scenes.json"]\n[kpnet]\n')
    settings = {"backbone": '"slim"', "boxes": "true", "teacher": f'"{teacher}"'}
    settings |= {"canvas": "96", "batch": "4", "held_out": "0"}
    copy_recipe(tmp_path / "recipe.toml", tmp_path / "copy.toml", settings)
    task = training.prepare("kpnet", tmp_path, training.read(tmp_path / "copy.toml"), tmp_path)
    batch = {name: torch.as_tensor(value) for name, value in task.batch(0).items()}
    losses = task.losses(task.network(to_input(batch["pixels"])), batch)
    assert losses["scale_like"] > 0
    assert losses["response_like"] > 0
    (losses["scale_like"] + losses["response_like"]).backward()
    assert all(parameter.grad is not None for parameter in task.network.parameters())
    shown = [parameter.grad[:-6].abs().sum() for parameter in task.network.response.parameters()]
    hidden = [parameter.grad[-6:].abs().sum() for parameter in task.network.response.parameters()]
    assert all(value > 0 for value in shown)
    assert all(value == 0 for value in hidden)


def test_teachers_that_cannot_teach_are_refused() -> None:
    content = read_weights("kpnet-lite")
    with pytest.raises(OptionError, match="landmarks of the network that learns, 21; found 5"):
        Teacher(content, build(21, "slim", Heads.of(backbone="slim")))
    with pytest.raises(OptionError, match="cells of at most 2 pixels, found 4"):
        Teacher(content, build(5, "drnet"))
