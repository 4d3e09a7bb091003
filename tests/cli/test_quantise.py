"""``lineament quantise`` from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import lineament
from lineament import boxes as box_ops

pytest.importorskip("torch")
pytest.importorskip("onnx")

PHOTOS = Path(__file__).resolve().parents[2] / "examples" / "photos"
Run = Callable[..., Result]


NO_FOXNET = "foxnet" not in [model.name for model in lineament.models()]


@pytest.mark.parametrize(
    "name", ["kpnet", "maskface", pytest.param("foxnet", marks=pytest.mark.skipif(NO_FOXNET, reason="ships not"))]
)
def test_weights_in_bytes_find_the_same_faces(run: Run, tmp_path: Path, name: str) -> None:
    out, scores = tmp_path / "small.onnx", tmp_path / "scores.json"
    scores.write_text('{"AP": 0.5}')
    result = run("quantise", name, str(PHOTOS), "--out", str(out), "--count", "2", "--scores", str(scores))
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout
    photo = PHOTOS / "crowd.jpg"
    whole, small = (lineament.load(file, settings={"input_size": 256}).detect(photo) for file in (name, out))
    assert len(whole) > 3
    assert (box_ops.iou(whole.boxes, small.boxes).max(axis=1) > 0.7).mean() > 0.8
    listed = run("quantise", str(out), str(PHOTOS), "--out", str(tmp_path / "again.onnx"))
    assert listed.exit_code == 2
    assert "8 bits" in listed.stderr
    assert f"{name}-int8" in (tmp_path / "manifest.json").read_text()
    assert '"AP": 0.5' in (tmp_path / "manifest.json").read_text()


def test_what_cannot_be_quantised_is_refused(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    result = run("quantise", "mtcnn", str(PHOTOS), "--out", str(out))
    assert result.exit_code == 2
    assert "mtcnn" in result.stderr
    (tmp_path / "scores.json").write_text("[1]")
    result = run("quantise", "kpnet", str(PHOTOS), "--out", str(out), "--scores", str(tmp_path / "scores.json"))
    assert result.exit_code == 2
    assert "found list" in result.stderr
    assert not out.exists()
