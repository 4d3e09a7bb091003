"""Training on canvases: batches depend on the seed and the step alone, augmentation can be off, validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from torch import Tensor, nn  # noqa: E402

from lineament.data.augment import Light, Occlusion, Quality  # noqa: E402
from lineament.data.canvases import Composition, LabelRules, Labels  # noqa: E402
from lineament.errors import DataError  # noqa: E402
from lineament.train.canvases import CanvasRecipe, CanvasTask, composers  # noqa: E402
from lineament.train.task import Batch, Part  # noqa: E402
from scenes import write_data  # noqa: E402

PLAIN = CanvasRecipe(
    train=("scenes.json",), val=("others.json",), canvas=64, batch=6, held_out=8, seed=3, light=None, quality=None,
    occlusion=None, composition=Composition(split=(0.5,), smallest_tile=16),
)  # fmt: skip


class Count(CanvasTask):
    """The number of faces, predicted from the mean of the pixels."""

    def targets(self, rng: np.random.Generator, canvases: Sequence[Labels]) -> Batch:
        counts = np.array([len(canvas.boxes) for canvas in canvases], np.float32)
        return {"counts": counts, "chance": rng.random(len(canvases))}

    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        error = outputs["found"] - batch["counts"]
        return {"squared": error.square().mean(), "absolute": 2 * error.abs().mean()}


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.01))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"found": self.weight * pixels.mean(dim=(1, 2, 3))}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, 4)
    write_data(folder, 3, name="others", first_seed=10)
    return folder


@pytest.fixture
def task_of(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("run")

    def make(**settings: Any) -> Count:
        recipe = replace(PLAIN, **settings)
        return Count(Mean(), recipe, *composers("count", data, recipe, out))

    return make


def validated(task: Count) -> dict[str, float]:
    with torch.no_grad():
        return task.validate(task.network)


def same(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_batch_is_a_function_of_seed_and_step(task_of: Any) -> None:
    task = task_of()
    batch = task.batch(4)
    assert batch["pixels"].shape == (6, 64, 64, 3)
    assert same(batch, task_of().batch(4))
    assert not same(batch, task.batch(5))
    assert not same(batch, task_of(seed=4).batch(4))
    assert len({pixels.tobytes() for pixels in batch["pixels"]}) == 6
    assert (batch["counts"] > 0).any()


def test_processes_share_a_batch(task_of: Any) -> None:
    task = task_of(light=Light(), quality=Quality(noise=1), occlusion=Occlusion(probability=1))
    whole = task.batch(2)
    parts = [task.batch(2, Part(index, 3)) for index in range(3)]
    for index, part in enumerate(parts):
        for name in ("pixels", "counts", "outside"):
            np.testing.assert_array_equal(part[name], whole[name][index::3])
    assert len({part["chance"].tobytes() for part in parts}) == 3  # each has its own generator


@pytest.mark.parametrize(
    "change",
    [{"light": Light()}, {"quality": Quality(blur=1)}, {"occlusion": Occlusion(probability=1, smallest=1)}],
    ids=lambda change: next(iter(change)),
)
def test_augmentation_changes_pixels_and_not_labels(task_of: Any, change: dict[str, Any]) -> None:
    before, after = task_of().batch(1), task_of(**change).batch(1)
    np.testing.assert_array_equal(before["counts"], after["counts"])
    differ = (before["pixels"] != after["pixels"]).mean(axis=(1, 2, 3))
    assert (differ[before["counts"] > 0] > 0.01).all()
    if "occlusion" in change:
        assert differ.max() < 0.6  # only faces are occluded
    else:
        assert (differ > 0.2).all()


def test_without_any_augmentation_canvases_are_whole_photos(task_of: Any) -> None:
    task = task_of(composition=None)
    photos = {task.composer.canvas(np.random.default_rng(seed), 64).pixels.tobytes() for seed in range(40)}
    assert len(photos) == 4
    assert {pixels.tobytes() for pixels in task.batch(0)["pixels"]} <= photos
    assert (task.batch(0)["counts"] == 2).all()


def test_validation_is_on_canvases_of_other_photos(task_of: Any) -> None:
    task = task_of()
    figures = validated(task)
    assert list(figures) == ["negated_loss", "squared", "absolute", "outside"]
    errors: dict[str, list[float]] = {"squared": [], "absolute": []}
    for start in (0, 6):  # eight canvases in batches of six
        canvases = [task.held_out.canvas(np.random.default_rng([3, i]), 64) for i in range(start, min(start + 6, 8))]
        found = np.array([0.01 * canvas.pixels.mean() for canvas in canvases])
        error = found - [len(canvas.boxes) for canvas in canvases]
        errors["squared"].append(np.square(error).mean())
        errors["absolute"].append(2 * np.abs(error).mean())
    for name, values in errors.items():
        assert figures[name] == pytest.approx(np.mean(values), rel=1e-4)
    assert figures["negated_loss"] == pytest.approx(-figures["squared"] - figures["absolute"])
    assert validated(task) == figures
    assert {sample.path.parent.name for sample in task.held_out.photos.samples} == {"others"}


def test_faces_that_were_left_out_are_counted_between_validations(task_of: Any) -> None:
    task = task_of(labels=LabelRules(smallest=1000))
    complete = task.on(torch.device("cpu"))
    left_out = 0
    for step in range(2):
        batch = {name: torch.as_tensor(value) for name, value in task.batch(step).items()}
        left_out += int(batch["outside"].sum())
        assert set(complete(batch)) == set(batch)
    assert left_out > 5
    assert [validated(task)["outside"] for _ in range(2)] == [left_out, 0]


def test_what_there_is_to_learn_from_is_on_record(data: Path, task_of: Any) -> None:
    assert task_of().data == {
        "train": {"lists": {"scenes.json": {"photos": 4, "faces": 8, "empty": 0}}, "sources": {"": 4}},
        "val": {"lists": {"others.json": {"photos": 3, "faces": 6, "empty": 0}}, "sources": {"": 3}},
    }


def test_landmarks_are_asked_for_where_they_are_learnt(tmp_path: Path) -> None:
    write_data(tmp_path, 2, landmarks=False)
    recipe = replace(PLAIN, val=("scenes.json",))
    composers("count", tmp_path, recipe, tmp_path, landmarks=False)
    with pytest.raises(DataError, match="from which count learns"):
        composers("count", tmp_path, recipe, tmp_path)
