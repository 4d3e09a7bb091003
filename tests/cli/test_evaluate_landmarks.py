"""``lineament evaluate landmarks``, ``recall`` and ``speed`` from the command line, with a stand-in detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from lineament.cli import evaluate_landmarks
from lineament.data.readers.coco import write_coco
from lineament.data.sample import Sample
from lineament.evaluate.speed import Start

Run = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("middle")

POINTS = np.array([[40, 40], [60, 40], [50, 50], [45, 60], [55, 60]], float)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Two photos. The stand-in detects the face of the first exactly, and none in the second, which is dark."""
    for name, red in (("bright.png", 200), ("dark.png", 10)):
        Image.new("RGB", (100, 100), (red, 0, 0)).save(tmp_path / name)
    samples = [
        Sample.of(tmp_path / name, [[25, 25, 75, 75]], [POINTS + np.array([2, 0])])
        for name in ("bright.png", "dark.png")
    ]
    write_coco(tmp_path / "labels.json", samples)
    return tmp_path / "labels.json"


def test_landmarks(labels: Path, run: Run) -> None:
    out = labels.with_name("result.json")
    result = run("evaluate", "landmarks", "-m", "middle", "--data", labels, "--threshold", 0.5, "--json", out)
    assert result.exit_code == 0, result.output
    assert "0.1000" in result.stdout
    found = json.loads(out.read_text())
    assert (found["name"], found["settings"]["data"]) == ("middle", "labels.json")
    assert (found["settings"]["lowest score"], found["settings"]["smallest face"]) == (0.5, 10)  # one given, one not
    assert (found["scores"]["recall"], found["scores"]["nme"]) == (0.5, pytest.approx(0.1))
    assert "2 images detected now, 0 before" in result.output
    again = run("evaluate", "recall", "-m", "middle", "--data", labels, "--threshold", 0.5)
    assert "0 images detected now, 2 before" in again.output


def test_landmarks_of_a_stage(labels: Path, run: Run) -> None:
    out = labels.with_name("result.json")
    for options, name, nme in (((), "middle", 0.1), (("--landmarks", "placed"), "middle + placed", 0.5307)):
        result = run(
            *("evaluate", "landmarks", "-m", "middle", "--data", labels, "--threshold", 0.5, "--json", out), *options
        )
        assert result.exit_code == 0, result.output
        assert "2 images detected now" in result.output  # results of other landmarks are not reused
        found = json.loads(out.read_text())
        assert (found["name"], found["scores"]["nme"]) == (name, pytest.approx(nme, abs=1e-4))
    result = run("evaluate", "landmarks", "--detections", "x.jsonl", "--landmarks", "placed", "--data", labels)
    assert "--landmarks takes --method" in result.output


def test_recall_now_and_from_a_file(labels: Path, run: Run) -> None:
    lines = labels.with_name("found.jsonl")
    run("detect", labels.parent, "-m", "middle", "--json", lines)
    for source in (("-m", "middle"), ("--detections", lines, "--name", "middle")):
        out = labels.with_name("result.json")
        result = run("evaluate", "recall", *source, "--data", labels, "--json", out)
        assert result.exit_code == 0, result.output
        scores = json.loads(out.read_text())["scores"]
        assert (scores["recall"], scores["precision"], scores["recall top 1"]) == (0.5, 1, 1)


def test_one_source_of_detections(labels: Path, run: Run) -> None:
    for source in ((), ("-m", "middle", "--detections", "found.jsonl")):
        result = run("evaluate", "recall", *source, "--data", labels)
        assert result.exit_code == 2
        assert "give either --detections" in result.output


def test_speed(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_landmarks, "cold_start", lambda *_: Start(1.0, 100.0))
    out = tmp_path / "speed.json"
    result = run("evaluate", "speed", "-m", "middle", "--faces", "1,4", "--repeats", 1, "--json", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert list(found["tables"]["by number of faces"]) == ["1", "4"]
    for faces, message in (("1,x", "numbers separated"), ("3", "two or more"), ("0,3", "above 0")):
        result = run("evaluate", "speed", "-m", "middle", "--faces", faces)
        assert result.exit_code == 2
        assert message in result.output
