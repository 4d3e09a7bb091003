"""``lineament quantise`` from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from PIL import Image

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


def test_a_verifier_in_bytes_has_the_same_opinion(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "second.onnx"
    result = run("quantise", "verifier", str(PHOTOS), "--out", str(out), "--count", "2")
    assert result.exit_code == 0, result.output
    crowd = lineament.load("kpnet-lite", settings={"verify": True}).detect(PHOTOS / "crowd.jpg")
    small = lineament.load("kpnet-lite", settings={"verify": str(out)}).detect(PHOTOS / "crowd.jpg")
    pairs = box_ops.iou(crowd.boxes, small.boxes)
    assert (pairs.max(axis=1) > 0.9).mean() > 0.95
    same = pairs.max(axis=1) > 0.9
    assert abs(crowd.scores[same] - small.scores[pairs.argmax(axis=1)[same]]).mean() < 0.02
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    refused = run("quantise", "verifier", str(tmp_path / "black.png"), "--out", str(tmp_path / "none.onnx"))
    assert refused.exit_code == 2
    assert "found no face in these images" in refused.stderr


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
