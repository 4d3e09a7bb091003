"""The shipped recipes: their settings, and a few steps of the papers' trainings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lineament.data.canvases import Cropping  # noqa: E402
from lineament.errors import OptionError  # noqa: E402
from lineament.methods.backbones.resnet import ResNet50, ResNeXt101, ResNeXt152  # noqa: E402
from lineament.methods.isnet import training as isnet  # noqa: E402
from lineament.methods.kpnet import training as kpnet  # noqa: E402
from lineament.methods.maskface import training as maskface  # noqa: E402
from lineament.methods.mtcnn import training as mtcnn  # noqa: E402
from lineament.train.loop import train  # noqa: E402
from lineament.train.optim import Schedule, optimizer  # noqa: E402
from lineament.train.recipe import copy_recipe, read_about  # noqa: E402
from lineament.train.run import RECIPE, run  # noqa: E402
from lineament.train.task import tensors  # noqa: E402
from lineament.weights import models  # noqa: E402
from scenes import write_data  # noqa: E402

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
FEW = {
    **{"train": '["scenes.json"]', "val": '["scenes.json"]', "backgrounds": "[]"},
    **{"steps": "2", "batch": "8", "workers": "0", "validate_every": "2"},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path, 4)
    return tmp_path


def loss_after_first_steps(method: Any, name: str, stage: str, data: Path, **overrides: str) -> float:
    """The loss on held-out data after a stage of a recipe was trained for two steps."""
    out = data / "run"
    copy_recipe(RECIPES / f"{name}.toml", out / RECIPE, FEW | overrides)
    recipe = method.read(out / RECIPE, stage)
    train(method.prepare(stage, data, recipe, out), recipe, out / stage)
    lines = [json.loads(line) for line in (out / stage / "log.jsonl").read_text().splitlines()]
    return -float(lines[-1]["validation"]["negated_loss"])


def test_kpnets_paper_is_trained_as_printed(data: Path) -> None:
    few = {"canvas": "64", "held_out": "4", "batch": "4"}
    assert np.isfinite(loss_after_first_steps(kpnet, "kpnet-paper", "kpnet", data, **few))
    recipe = kpnet.read(RECIPES / "kpnet-paper.toml")
    rates = [Schedule(recipe).rate(step, 0.0) for step in (1, 50_000, 100_000, 100_001, 150_000)]
    assert rates == pytest.approx([1e-5, 1e-2, 1e-2, 1e-3, 1e-3], rel=0.03)
    assert (recipe.optimizer, recipe.batch, recipe.steps) == ("sgd", 128, 150_000)
    assert recipe.scale_weight == pytest.approx(10_000 / (128 * 128 * 60), rel=1e-4)
    task = kpnet.prepare("kpnet", data, kpnet.read(data / "run" / RECIPE), data / "run")
    batch = task.batch(0)
    assert set(np.unique(batch["weights"])) == {1}
    photos = [task.composer.photos[i] for i in range(4)]  # 160x120, smaller than a canvas
    for canvas in batch["pixels"]:
        assert not canvas[49:].any()
        assert any(abs(canvas[:48].mean() - photo.mean()) < 1 for photo in photos)


def test_kpnets_paper_is_decoded_as_printed() -> None:
    config = kpnet._config(kpnet.read(RECIPES / "kpnet-paper.toml"), refinement=[], evidence=[])  # fitted later
    assert (config.evidence, config.refinement, config.proposal) == (None, None, 0)
    assert (config.input_size, config.overview, config.nms) == (256, False, 0.6)


def test_mtcnns_paper_is_trained_as_printed(data: Path) -> None:
    assert np.isfinite(loss_after_first_steps(mtcnn, "mtcnn-paper", "pnet", data))
    recipe = mtcnn.read(RECIPES / "mtcnn-paper.toml", "onet")
    assert (recipe.optimizer, recipe.hardest, recipe.box_weight, recipe.landmark_weight) == ("sgd", 0.7, 0.5, 1.0)
    assert (recipe.mirror, recipe.light, recipe.coarse, recipe.turns) == (0, None, None, 0)


def test_mtcnns_paper_is_decoded_as_printed() -> None:
    config = mtcnn._config(mtcnn.read(RECIPES / "mtcnn-paper.toml", "onet"))
    assert (config.pnet_threshold, config.rnet_threshold, config.threshold) == (0.6, 0.7, 0.7)
    assert (config.consensus, config.looks, config.nms_onet, config.over) == (0, None, 0.7, "min")


def test_maskfaces_paper_is_trained_as_printed() -> None:
    faces, landmarks = maskface.phases(RECIPES / "maskface-paper.toml")
    rates = [Schedule(faces).rate(step, 0.0) for step in (1, 2500, 5000, 50_000)]
    assert rates == pytest.approx([1e-4, 5e-3, 1e-2, 1e-2], rel=0.03)
    for recipe in (faces, landmarks):
        assert (recipe.optimizer, recipe.momentum, recipe.weight_decay, recipe.batch) == ("sgd", 0.9, 1e-4, 8)
        assert (recipe.schedule, recipe.factor, recipe.lowest_rate) == ("plateau", 0.1, 1e-4)
        assert (recipe.frozen, recipe.norm, recipe.width, recipe.head_layers, recipe.k0) == (2, "group", 256, 8, 3)
        assert (recipe.alpha, recipe.gamma, recipe.landmark_weight) == (0.25, 2, 0.25)
        assert recipe.regions_from == "proposals"
        assert np.square([recipe.labels.smallest, recipe.labels.largest]) == pytest.approx(
            [0.4 * 16**2, 2.5 * (256 * 2 ** (2 / 3)) ** 2], rel=0.01
        )
    assert (faces.canvas, faces.geometry) == (640, Cropping(scale=(0.5, 2.5), around=0.5))
    assert (landmarks.canvas, landmarks.geometry) == (480, Cropping(faces=(150, 450), around=1, tilt=30))


def test_maskfaces_paper_takes_a_step_with_each_of_its_backbones(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (ResNet50, ResNeXt101, ResNeXt152):
        monkeypatch.setattr(kind, "blocks", (1, 1, 1, 1))
    tiny = {
        "canvas": "96",
        "width": "32",
        "head_width": "32",
        "held_out": "2",
        "batch": "2",
        "cropping.faces": "[40, 60]",
        "landmarks": '["5"]',
        "regions": "[8]",
    }
    few = {"steps": "1", "validate_every": "1", "backbone": '"mobilenet-v2"'}
    assert np.isfinite(loss_after_first_steps(maskface, "maskface-paper", "maskface", data, **tiny, **few))
    recipe = maskface.read(data / "run" / RECIPE)
    task = maskface.prepare("maskface", data, recipe, data / "run")
    batch = tensors(task.batch(0), torch.device("cpu"))
    assert len(batch["offset"])
    for name in ("resnet-50", "resnext-101", "resnext-152"):
        network = maskface.build(replace(recipe, backbone=name))
        step = optimizer(network, recipe)
        losses = torch.stack(list(task.losses(task.forward(network, batch), batch).values()))
        losses.sum().backward()
        step.step()
        assert losses.isfinite().all()
        assert all(p.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", ["kpnet", "kpnet-lite", "kpnet-hourglass", "mtcnn", "isnet-5"])
def test_recipes_of_weights_from_several_phases_tell_them(name: str) -> None:
    module: Any = {"mtcnn": mtcnn, "isnet": isnet}.get(name.split("-")[0], kpnet)
    for stage in module.STAGES:
        phases = module.phases(RECIPES / f"{name}.toml", stage)
        assert len(phases) > 1
        assert not phases[0].resume
    assert read_about(RECIPES / f"{name}.toml")["name"] == name
    assert name in {model.name for model in models()}


def test_changed_recipes_and_own_ones_do_not_take_a_name_that_ships(data: Path) -> None:
    copy_recipe(RECIPES / "kpnet.toml", data / "same.toml", {"workers": "0"})
    assert read_about(data / "same.toml")["name"] == "kpnet"
    copy_recipe(RECIPES / "kpnet.toml", data / "changed.toml", {"seed": "3"})
    assert read_about(data / "changed.toml") == {}
    own = data / "own.toml"
    own.write_text((RECIPES / "kpnet.toml").read_text().replace("seed = 0", "seed = 1"))
    with pytest.raises(OptionError, match=r"own\.toml.*'kpnet' is the name of weights that ship"):
        run(kpnet, data, own, data / "other")
