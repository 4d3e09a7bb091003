"""Training on crops: drawn, mirrored and augmented by the seed and the step alone. Labels follow their pixels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from torch import Tensor, nn  # noqa: E402

from lineament.data.augment import Coarse, Light, Quality  # noqa: E402
from lineament.data.crops import CropSet, CropSetWriter  # noqa: E402
from lineament.data.subset import evenly_spaced  # noqa: E402
from lineament.schemas import FIVE  # noqa: E402
from lineament.train import crops as crops_module  # noqa: E402
from lineament.train.crops import CropRecipe, CropTask  # noqa: E402
from lineament.train.task import Batch, Part  # noqa: E402

PLAIN = CropRecipe(train=(), batch=30, seed=3, light=None, mirror=0.0)


class Points(CropTask):
    """The position of the first landmark, predicted from the mean of the pixels."""

    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        error = outputs["found"] - batch["points"][:, 0, 0]
        return {"squared": error.square().mean(), "absolute": 2 * error.abs().mean()}


class Mean(nn.Module):
    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"found": pixels.mean(dim=(1, 2, 3)) / 255}


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> CropSet:
    """Crops of noise. The labels and the corner of each encode its row."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("crops") / "set"
    pixels = rng.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = pixels[:, 0, -1, 0] = np.arange(50)
    with CropSetWriter(folder, 8, "digest") as writer:
        writer.add(pixels, row=np.arange(50), points=rng.random((50, 5, 2)).astype(np.float32))
    return CropSet(folder)


def task_of(crops: CropSet, **settings: Any) -> Points:
    return Points(Mean(), replace(PLAIN, **settings), crops, crops, {"of": "noise"})


def test_labels_go_with_their_crops(crops: CropSet) -> None:
    batch = task_of(crops).batch(1)
    rows = batch["row"]
    assert len(rows) == 30
    assert len(set(rows.tolist())) > 15
    np.testing.assert_array_equal(batch["pixels"], crops.pixels[rows])
    np.testing.assert_array_equal(batch["points"], crops.labels["points"][rows])
    rows = np.concatenate([task_of(crops).batch(step)["row"] for step in range(60)])
    assert set(rows.tolist()) == set(range(50))  # all alike
    assert np.bincount(rows).max() < 3 * np.bincount(rows).min()


def test_a_batch_is_a_function_of_seed_and_step(crops: CropSet) -> None:
    varied = {"light": Light(), "quality": Quality(), "coarse": Coarse(), "mirror": 0.5}

    def pixels(seed: int, step: int) -> bytes:
        return task_of(crops, seed=seed, **varied).batch(step)["pixels"].tobytes()

    assert pixels(3, 1) == pixels(3, 1)
    assert len({pixels(3, 1), pixels(3, 2), pixels(4, 1)}) == 3


def test_processes_share_a_batch(crops: CropSet) -> None:
    task = task_of(crops, light=Light(), quality=Quality(), coarse=Coarse(), mirror=0.5)
    whole = task.batch(2)
    for index in range(3):
        part = task.batch(2, Part(index, 3))
        for name, values in whole.items():
            np.testing.assert_array_equal(part[name], values[index::3])


def test_mirrored_crops_have_mirrored_landmarks(crops: CropSet) -> None:
    plain, some = task_of(crops).batch(1), task_of(crops, mirror=0.5).batch(1)
    flipped = (some["pixels"] != plain["pixels"]).any(axis=(1, 2, 3))
    assert 6 < flipped.sum() < 24
    np.testing.assert_array_equal(some["pixels"][flipped], plain["pixels"][flipped][:, :, ::-1])
    np.testing.assert_array_equal(some["row"], plain["row"])
    np.testing.assert_array_equal(some["points"][~flipped], plain["points"][~flipped])
    mirrored = plain["points"][flipped][:, list(FIVE.mirror)] * [-1, 1] + [1, 0]
    np.testing.assert_allclose(some["points"][flipped], mirrored, atol=1e-6)
    assert crops.pixels[3, 0, 0, 0] == 3  # the set has not changed


@pytest.mark.parametrize(
    ("change", "least"),
    [({"light": Light()}, 0.9), ({"quality": Quality(noise=1)}, 0.9), ({"coarse": Coarse(probability=0.5)}, 0.2)],
)
def test_augmentation_changes_pixels_alone(crops: CropSet, change: dict[str, Any], least: float) -> None:
    plain, varied = task_of(crops).batch(1), task_of(crops, **change).batch(1)
    assert (varied["pixels"] != plain["pixels"]).any(axis=(1, 2, 3)).mean() > least
    assert varied["pixels"].dtype == np.uint8
    for name in ("row", "points"):
        np.testing.assert_array_equal(varied[name], plain[name])


def test_validation_sees_held_out_crops_as_they_are(crops: CropSet, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(crops, light=Light(), mirror=1.0)

    def expected(rows: np.ndarray) -> list[float]:
        error = crops.pixels[rows].mean(axis=(1, 2, 3)) / 255 - crops.labels["points"][rows, 0, 0]
        squared, absolute = np.square(error).mean(), 2 * np.abs(error).mean()
        return [-squared - absolute, squared, absolute]

    task.network.weight = nn.Parameter(torch.zeros(1))  # the device is that of a parameter
    with torch.no_grad():
        found = task.validate(task.network)
        assert list(found) == ["negated_loss", "squared", "absolute"]
        assert list(found.values()) == pytest.approx(expected(np.arange(50)), rel=1e-5)
        monkeypatch.setattr(crops_module, "AT_ONCE", 7)  # in several passes
        assert list(task.validate(task.network).values()) == pytest.approx(list(found.values()), rel=1e-5)
        monkeypatch.setattr(crops_module, "VALIDATED", 25)  # every second
        found = task.validate(task.network)
        assert list(found.values()) == pytest.approx(expected(np.array(evenly_spaced(range(50), 25))), rel=1e-5)


def test_a_method_may_draw_otherwise(crops: CropSet) -> None:
    class First(Points):
        def draw(self, rng: np.random.Generator) -> np.ndarray:
            return np.arange(self.recipe.batch)

    batch: Batch = First(Mean(), PLAIN, crops, crops, {}).batch(0)
    assert batch["row"].tolist() == list(range(30))
