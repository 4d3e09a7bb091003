"""The benchmarks of detectors: existing results are not measured again, and results record their origin."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import kept
import measure
import numpy as np
import photosets
import pytest
from PIL import Image

from lineament.data.readers.coco import read_coco, write_coco
from lineament.data.sample import Sample
from lineament.evaluate.origin import describe_weights, digest

BOX = [20, 20, 60, 60]
STAND_IN = f"""
import json, sys
if "--about" in sys.argv:
    print(json.dumps({{"stand-in": "1.0"}}))
    sys.exit()
for line in sys.stdin:
    face = {{"box": {BOX}, "score": 0.9, "landmarks": [[30, 30]] * 5}}
    print(json.dumps({{"path": line.strip(), "width": 80, "height": 80, "schema": "5", "faces": [face]}}), flush=True)
"""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[measure.Bench]:
    """Three photos with one face each, which the stand-in detects."""
    samples = []
    for i in range(3):
        Image.new("RGB", (80, 80)).save(tmp_path / f"{i}.png")
        samples.append(Sample.of(tmp_path / f"{i}.png", [BOX], np.full((1, 5, 2), 30.0)))
    write_coco(tmp_path / photosets.VAL, samples)
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(measure.Bench, "command", lambda *_: [sys.executable, "-c", STAND_IN])
    kept.read.cache_clear()
    yield measure.Bench(tmp_path, None, tmp_path / "work")
    kept.read.cache_clear()


def test_a_result_has_scores_and_origin_and_is_there(bench: measure.Bench, tmp_path: Path) -> None:
    test = "detection-val, as shipped"
    assert not bench.is_there("kpnet-640", test)
    bench.measure("kpnet-640", test)
    result = kept.read("kpnet-640")[test]
    assert (result.scores["recall"], result.scores["precision"]) == (1.0, 1.0)
    assert result.settings["input_size"] == 640
    assert result.origin["weights"] == [describe_weights("kpnet"), describe_weights("verifier")]
    assert result.origin["data"] == {
        "name": photosets.VAL,
        "sha256": digest(tmp_path / photosets.VAL),
        "images": 3,
        "faces": 3,
    }
    assert result.origin["packages"]["stand-in"] == "1.0"
    assert not result.curves
    assert not result.examples
    assert bench.is_there("kpnet-640", test)


def test_other_labels_or_weights_are_measured_again(bench: measure.Bench, tmp_path: Path) -> None:
    test = "detection-val, as shipped"
    bench.measure("kpnet-640", test)
    old = kept.read("kpnet-640")[test]
    old.origin["weights"][0]["sha256"] = "0" * 64
    kept.write("kpnet-640", {test: old})
    assert not bench.is_there("kpnet-640", test)
    bench.measure("kpnet-640", test)
    (tmp_path / photosets.VAL).write_text((tmp_path / photosets.VAL).read_text() + " ")
    assert not measure.Bench(tmp_path, None, tmp_path / "work").is_there("kpnet-640", test)


def test_a_run_that_was_stopped_goes_on(bench: measure.Bench, tmp_path: Path) -> None:
    file = bench.found("mtcnn", "detection-val")
    lines = file.read_text().splitlines()
    assert len(lines) == 3
    mine = json.dumps({**json.loads(lines[0]), "seen": "before"})
    file.write_text(f"{mine}\n{lines[1][:20]}")
    again = bench.found("mtcnn", "detection-val").read_text().splitlines()
    assert [json.loads(line)["path"] for line in again] == [str(tmp_path / f"{i}.png") for i in range(3)]
    assert again[0] == mine


def test_a_detector_that_fails_stops_the_measuring(bench: measure.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.Bench, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(SystemExit, match="ended with 3"):
        bench.found("mtcnn", "detection-val")


def test_peers_without_their_environment_are_left_out(bench: measure.Bench, tmp_path: Path) -> None:
    assert bench.can_run("kpnet-640")
    assert not bench.can_run("deface")
    assert not measure.Bench(tmp_path, tmp_path, tmp_path).can_run("scrfd-500m")
    (tmp_path / "scrfd_500m_kps.onnx").write_bytes(b"")
    assert measure.Bench(tmp_path, tmp_path, tmp_path).can_run("scrfd-500m")


def test_scenes_are_composed_once_and_measured(bench: measure.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def compose(data: Path, work: Path) -> None:
        calls.append(data)
        (work / "scenes").mkdir(parents=True)
        write_coco(work / "scenes" / "scenes.json", read_coco(data / photosets.VAL))

    index = "scenes/scenes.json"
    monkeypatch.setitem(
        photosets.TESTS, "scenes", photosets.Test(index, False, photosets.coco(index), photosets.crowd_scores, compose)
    )
    bench.measure("kpnet-640", "scenes")
    scores = kept.read("kpnet-640")["scenes"].scores
    assert (scores["f1"], scores["landmarks: recall"]) == (1.0, 1.0)
    assert bench.is_there("kpnet-640", "scenes")
    assert calls == [bench.data]
