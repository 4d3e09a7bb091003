"""How the seeds of MTCNN's experiments are summed up."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")

import mtcnn_experiments as experiments
import tables
import torch

from lineament.errors import OptionError
from lineament.evaluate.results import Result
from lineament.methods.mtcnn import training
from lineament.methods.mtcnn.training import squeezed
from scenes import write_data


def test_rows_have_the_mean_and_the_spread_of_the_last_validations(tmp_path: Path) -> None:
    folders = []
    for seed, ends in enumerate((0.90, 0.94)):
        folders.append(tmp_path / str(seed))
        folders[-1].mkdir()
        validations = [{"step": 5, "validation": {"score": 0.5, "accuracy": 0.5}}]
        validations += [{"step": 10, "validation": {"score": 0.2, "accuracy": ends}}]
        lines = [{"phase": 1}, {"step": 10, "seconds": 1.0}, *validations]
        (folders[-1] / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    curves = experiments.Curves.of(folders)
    np.testing.assert_array_equal(curves.steps, [5, 10])
    np.testing.assert_allclose(curves.accuracy, [[50, 90], [50, 94]])
    scores = curves.last()
    assert scores[experiments.ACCURACY] == pytest.approx(92)
    assert scores[f"{experiments.ACCURACY}, sd"] == pytest.approx(8**0.5)
    assert scores[f"{experiments.LOSS}, sd"] == 0
    assert set(experiments.Curves.of(folders[:1]).last()) == {experiments.LOSS, experiments.ACCURACY}


def test_tables_show_the_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"a": Result("experiment", "a", {"x": 1.25, "x, sd": 0.5}), "b": Result("experiment", "b", {"x": 2})}
    monkeypatch.setattr("kept.read", lambda name: rows)
    monkeypatch.setattr(tables, "table", lambda heading, columns, rows: [row.cells[0].text for row in rows])
    assert tables.stored("name", "heading", {"x": tables.digits(1)})() == ["1.2 ± 0.5", "2.0"]


@pytest.mark.parametrize("name", experiments.VARIANTS)
def test_each_network_takes_the_crops_of_its_stage(name: str) -> None:
    variant = experiments.VARIANTS[name]
    size = {"pnet": 12, "rnet": 24, "onet": 48}[variant.stage]
    assert name.startswith(f"{size}-Net" if variant.is_single else f"{variant.stage[0].upper()}-Net")
    outputs = squeezed(variant.network()(torch.rand(3, 3, size, size)))
    assert outputs["score"].shape == (3,)
    assert set(outputs) == ({"score"} if variant.is_single else {"score", "box", "landmarks"})


def test_finished_trainings_are_not_repeated(tmp_path: Path) -> None:
    write_data(tmp_path, 4)
    run = tmp_path / "run"
    run.mkdir()
    settings = 'train = ["scenes.json"]\nval = ["scenes.json"]\n[pnet]\nworkers = 0\nsteps = 10\nbatch = {}\n'
    (run / "recipe.toml").write_text(settings.format(20))
    args = SimpleNamespace(run=run)
    task = training.prepare("pnet", tmp_path, training.read(run / "recipe.toml", "pnet"), run)
    first = [experiments.trained("P-Net", seed, task, args) for seed in (0, 1)]
    logs = [(folder / "log.jsonl").read_text() for folder in first]
    curves = experiments.Curves.of(first)
    assert curves.loss.shape == (2, experiments.VALIDATIONS)
    assert (curves.loss[0] != curves.loss[1]).all()
    assert experiments.trained("P-Net", 0, task, args) == first[0]
    again = (first[0] / "log.jsonl").read_text().removeprefix(logs[0]).splitlines()
    assert [json.loads(line)["from"] for line in again] == [10]
    (run / "recipe.toml").write_text(settings.format(30))
    with pytest.raises(OptionError, match="other settings"):
        experiments.trained("P-Net", 0, task, args)


def test_the_settings_name_what_makes_the_crops() -> None:
    for stage in training.STAGES:
        recipe = training.read(experiments.SETTINGS, stage)
        assert recipe.initial == "mtcnn"
        assert recipe.steps % experiments.VALIDATIONS == 0
        assert (recipe.light, recipe.coarse) == (None, None)
