"""How the seeds of MTCNN's experiments are summed up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import mtcnn_experiments as experiments  # noqa: E402
import tables  # noqa: E402
from torch import nn  # noqa: E402

from lineament.evaluate.results import Result  # noqa: E402


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
    size = experiments.NETWORKS[variant.stage](5).size
    network = variant.network()
    assert isinstance(network, nn.Module)
    assert experiments.milliseconds(network, size, forwards=3) > 0
