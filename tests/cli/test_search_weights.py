"""``lineament search-weights`` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

pytest.importorskip("torch")

from lineament.methods.isnet import trials
from lineament.methods.isnet.search import Polynomial, Search, search

Run = Callable[..., Result]
PAPER = Polynomial(36.6191, np.array([[-15.9662, -1.6210, -13.9947], [14.6877, -2.9474, 8.2006]]))


def test_a_search_shows_trials_function_and_minimum(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def measured(data: Path, recipe: Path, out: Path, **options: Any) -> Search:
        asked.update(options, recipe=recipe.name)
        return search(lambda betas: PAPER(betas).tolist(), trials=options["trials"], phi=options["phi"])

    monkeypatch.setattr(trials, "search_weights", measured)
    out = tmp_path / "search"
    given = ("--data", str(tmp_path), "--out", str(out), "--trials", "9", "--set", "steps=10", "--processes", "2")
    result = run("search-weights", "isnet", *given)
    assert result.exit_code == 0, result.output
    assert "f = 36.6191 - 15.9662 b2" in result.stdout
    assert "minimum 27.1380 at (0.4014, 0.0000, 0.5986); trained there: 27.1380" in result.stdout
    assert "beta = [0.4014, 0.0000, 0.5986] (predicted and measured loss agree)" in result.stdout
    assert (asked["recipe"], asked["overrides"], asked["processes"]) == ("isnet-paper.toml", {"steps": "10"}, 2)
    kept = json.loads((out / "search.json").read_text())
    assert len(kept["losses"]) == 10
    assert kept["rounds"][0]["polynomial"]["constant"] == pytest.approx(36.6191)


def test_methods_without_blocks_to_weigh_are_refused(run: Run, tmp_path: Path) -> None:
    result = run("search-weights", "mtcnn", "--data", str(tmp_path))
    assert result.exit_code == 2
    assert "mtcnn has no block weights to search; use isnet" in result.stderr
