"""The loop learns, and a run that was killed ends as if it had not been."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from lineament.errors import OptionError  # noqa: E402
from lineament.train.checkpoint import CHECKPOINT, check_same  # noqa: E402
from lineament.train.loop import train  # noqa: E402
from lineament.train.recipe import Recipe, copy_recipe, read_recipe  # noqa: E402
from lineament.train.task import WHOLE, Batch, Part, Task, generator  # noqa: E402

RECIPE = Recipe(
    train=(), steps=60, batch=16, warmup=5, validate_every=20, workers=0, learning_rate=0.05, average=0.9, seed=3
)


class Brightness(Task):
    """Predict a picture's mean from its pixels."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        torch.manual_seed(0)
        self.network = Mean()
        self.stop_after = stop_after

    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        if self.stop_after is not None and step >= self.stop_after:
            raise KeyboardInterrupt
        pixels = generator(RECIPE.seed, step).integers(0, 256, (RECIPE.batch, 4, 4, 3), dtype=np.uint8)
        pixels = pixels[list(part.of(RECIPE.batch))]
        return {"pixels": pixels, "mean": (pixels.mean(axis=(1, 2, 3)) / 255).astype(np.float32)}

    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"error": (outputs["mean"] - batch["mean"]).square().mean()}

    def validate(self, network: nn.Module) -> dict[str, float]:
        batch = {n: torch.as_tensor(v) for n, v in self.batch(0).items()}
        pixels = batch["pixels"].permute(0, 3, 1, 2).float()
        with torch.no_grad():
            return {"negated_error": -float((network(pixels)["mean"] - batch["mean"]).square().mean())}


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 4)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"mean": self.conv(pixels / 255).flatten()}


def test_it_learns_and_keeps_the_best(tmp_path: Path) -> None:
    task = Brightness()
    before = task.validate(task.network)["negated_error"]
    trained = train(task, RECIPE, tmp_path)
    validations = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    scores = [v["validation"]["negated_error"] for v in validations if "validation" in v]
    assert len(scores) == 3
    assert task.validate(trained)["negated_error"] == pytest.approx(max(scores), abs=1e-7)
    assert max(scores) > before / 10


def test_a_killed_run_goes_on_exactly(tmp_path: Path) -> None:
    whole = train(Brightness(), RECIPE, tmp_path / "whole").state_dict()
    with pytest.raises(KeyboardInterrupt):
        train(Brightness(stop_after=50), RECIPE, tmp_path / "killed")
    resumed = train(Brightness(), RECIPE, tmp_path / "killed").state_dict()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_a_run_begins_with_the_best_weights_of_another(tmp_path: Path) -> None:
    first = train(Brightness(), RECIPE, tmp_path / "first" / "stage")
    recipe = replace(RECIPE, initial=str(tmp_path / "first"), steps=1, learning_rate=0.0)
    second = train(Brightness(), recipe, tmp_path / "second" / "stage")
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(OptionError, match=r"third.*train that run first"):
        train(Brightness(), replace(RECIPE, initial=str(tmp_path / "third")), tmp_path / "fourth" / "stage")


def test_a_method_that_cannot_begin_with_a_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="folder of a run"):
        train(Brightness(), replace(RECIPE, initial="mtcnn"), tmp_path)
    with pytest.raises(OptionError, match=r"none\.onnx.*shipped are"):
        train(Brightness(), replace(RECIPE, initial="none.onnx"), tmp_path)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(Brightness(), RECIPE, tmp_path)
    with pytest.raises(OptionError, match="learning_rate"):
        train(Brightness(), replace(RECIPE, learning_rate=0.1), tmp_path)


def test_a_checkpoint_from_before_a_setting_was_trained_with_its_default(tmp_path: Path) -> None:
    train(Brightness(), RECIPE, tmp_path)
    state = torch.load(tmp_path / CHECKPOINT)
    del state["recipe"]["weight_decay"]
    check_same(tmp_path / CHECKPOINT, state, RECIPE)
    with pytest.raises(OptionError, match="weight_decay"):
        check_same(tmp_path / CHECKPOINT, state, replace(RECIPE, weight_decay=0.5))


def test_a_checkpoint_of_an_older_version_is_refused(tmp_path: Path) -> None:
    torch.save({"step": 20}, tmp_path / CHECKPOINT)
    with pytest.raises(OptionError, match="older version"):
        train(Brightness(), RECIPE, tmp_path)


def test_one_process_trains_in_both_precisions(tmp_path: Path) -> None:
    for precision in ("no", "bf16"):
        recipe = replace(RECIPE, steps=5, precision=precision)
        trained = train(Brightness(), recipe, tmp_path / precision)
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trained.parameters())


TWO_TABLES = 'train = ["a.json"]\nseed = 1\n[one]\nsteps = 5\n[two]\nsteps = 7\n'


def test_recipes_are_read_with_what_replaces_them(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TWO_TABLES)
    copy_recipe(tmp_path / "r.toml", tmp_path / "run" / "r.toml", {"batch": "3"})
    recipe = read_recipe(tmp_path / "run" / "r.toml", Recipe, "two")
    assert (recipe.train, recipe.seed, recipe.steps, recipe.batch) == (("a.json",), 1, 7, 3)


@pytest.mark.parametrize(
    ("table", "overrides", "message"),
    [("three", {}, "one, two"), ("one", {"stepz": "3"}, "stepz"), ("one", {"steps": "many"}, "not TOML")],
)
def test_bad_recipes_teach(tmp_path: Path, table: str, overrides: dict[str, str], message: str) -> None:
    (tmp_path / "r.toml").write_text(TWO_TABLES)

    def copied() -> Recipe:
        copy_recipe(tmp_path / "r.toml", tmp_path / "copy.toml", overrides)
        return read_recipe(tmp_path / "copy.toml", Recipe, table)

    with pytest.raises(OptionError, match=message):
        copied()


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none\.toml"):
        read_recipe(tmp_path / "none.toml", Recipe, "one")
