"""A training step follows the recipe, and validation uses the averaged weights in evaluation mode."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from lineament.train.checkpoint import CHECKPOINT  # noqa: E402
from lineament.train.loop import train  # noqa: E402
from lineament.train.recipe import Recipe  # noqa: E402
from lineament.train.task import WHOLE, Batch, Part, Task, generator  # noqa: E402

RECIPE = Recipe(
    train=(), steps=3, batch=4, warmup=0, schedule="constant", workers=0, learning_rate=0.1, optimizer="sgd",
    momentum=0.0, weight_decay=0.0, average=0.999, validate_every=100,
)  # fmt: skip


class Regression(Task):
    """A linear map of pixels with normalisation. It records what the loop does with its network."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.BatchNorm1d(3))
        self.seen: list[dict[str, Any]] = []
        self.validated: list[dict[str, Any]] = []

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        rng = generator(7, step)
        return {
            "pixels": rng.integers(0, 256, (4, 2, 2, 3), dtype=np.uint8),
            "wanted": rng.normal(size=(4, 3)).astype(np.float32),
        }

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"found": network(batch["pixels"].float() / 255)}

    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        error = outputs["found"].float() - batch["wanted"]
        self.seen.append(
            {
                "parameters": [p.detach().clone() for p in self.network.parameters()],
                "training": self.network.training,
                "precision": outputs["found"].dtype,
            }
        )
        return {"near": error.square().mean(), "far": 0.5 * error.abs().mean()}

    def validate(self, network: nn.Module) -> dict[str, float]:
        self.validated.append(
            {
                "training": network.training,
                "gradients": torch.is_grad_enabled(),
                "precision": network(torch.ones(2, 12)).dtype,
                "weights": {name: value.clone() for name, value in network.state_dict().items()},
            }
        )
        return {"score": 1.0 / len(self.validated)}


def trained(folder: Path, **settings: Any) -> tuple[Regression, dict[str, Any], nn.Module]:
    """The task, the last checkpoint and the network after a training."""
    task = Regression()
    network = train(task, replace(RECIPE, **settings), folder)
    return task, torch.load(folder / CHECKPOINT, weights_only=True), network


def parameters(state: dict[str, Tensor]) -> list[Tensor]:
    return [state[name] for name in ("1.weight", "1.bias", "2.weight", "2.bias")]


def test_a_step_is_down_the_gradient_of_all_parts_of_the_loss(tmp_path: Path) -> None:
    task, checkpoint, _ = trained(tmp_path, steps=2)
    reference = Regression()
    for step in range(2):
        for parameter, expected in zip(reference.network.parameters(), task.seen[step]["parameters"], strict=True):
            torch.testing.assert_close(parameter.detach(), expected)
        batch = {name: torch.as_tensor(value) for name, value in reference.batch(step).items()}
        reference.network.zero_grad()
        sum(reference.losses(reference.forward(reference.network, batch), batch).values()).backward()  # type: ignore[union-attr]
        with torch.no_grad():
            for parameter in reference.network.parameters():
                parameter -= 0.1 * parameter.grad  # type: ignore[operator]
    for found, expected in zip(parameters(checkpoint["network"]), reference.network.parameters(), strict=True):
        torch.testing.assert_close(found, expected.detach())


def test_a_large_gradient_is_shortened_to_the_norm_of_the_recipe(tmp_path: Path) -> None:
    def moved(clip: float) -> float:
        task, checkpoint, _ = trained(tmp_path / str(clip), steps=1, clip=clip)
        ends = parameters(checkpoint["network"])
        return float(sum((a - b).square().sum() for a, b in zip(task.seen[0]["parameters"], ends, strict=True)) ** 0.5)

    free = moved(0.0)
    assert free > 0.02
    assert moved(0.05) == pytest.approx(0.1 * 0.05, rel=1e-3)
    assert moved(100.0) == pytest.approx(free)


@pytest.mark.parametrize("decay", [0.999, 0.15, 0.0])
def test_the_average_follows_faster_at_first(tmp_path: Path, decay: float) -> None:
    """Its decay is step / (step + 10) until that reaches the recipe's."""
    task, checkpoint, _ = trained(tmp_path, steps=3, average=decay)
    course = [seen["parameters"] for seen in task.seen] + [parameters(checkpoint["network"])]
    expected = course[0]
    for step in (1, 2, 3):
        share = min(decay, step / (step + 10))
        expected = [share * slow + (1 - share) * fast for slow, fast in zip(expected, course[step], strict=True)]
    for found, wanted in zip(parameters(checkpoint["average"]), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_average_has_the_networks_statistics(tmp_path: Path) -> None:
    _, checkpoint, _ = trained(tmp_path)
    for name in ("2.running_mean", "2.running_var", "2.num_batches_tracked"):
        torch.testing.assert_close(checkpoint["average"][name], checkpoint["network"][name])
    assert checkpoint["network"]["2.num_batches_tracked"] == 3
    assert checkpoint["network"]["2.running_mean"].abs().min() > 0


def test_training_trains_and_validation_rests(tmp_path: Path) -> None:
    task, checkpoint, network = trained(tmp_path, steps=5, validate_every=2)
    assert all(seen["training"] for seen in task.seen)
    assert len(task.validated) == 3  # after the 2nd, the 4th and the last step
    for validated in task.validated:
        assert not validated["training"]
        assert not validated["gradients"]
    for name, value in checkpoint["average"].items():
        assert torch.equal(value, task.validated[-1]["weights"][name])
    for name, value in network.state_dict().items():  # the first validation was the best
        assert torch.equal(value, task.validated[0]["weights"][name])
    assert checkpoint["best"]["step"] == 2
    assert not network.training


@pytest.mark.parametrize(
    ("precision", "processor", "kind"),
    [
        ("no", "AVX512", torch.float32),
        ("bf16", "AVX512", torch.bfloat16),
        ("bf16", "AVX2", torch.float32),  # where bfloat16 takes ten times as long
    ],
)
def test_networks_run_in_the_recipes_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, processor: str, kind: torch.dtype
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    task = Regression()
    task.network[2] = nn.Identity()
    task.validate = lambda network: {"score": float(network(torch.ones(1, 12)).dtype == kind)}  # type: ignore[method-assign]
    train(task, replace(RECIPE, precision=precision, steps=1), tmp_path)
    assert task.seen[0]["precision"] == kind
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["best"]["score"] == 1
