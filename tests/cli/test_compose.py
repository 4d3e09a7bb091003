"""``lineament compose``, from labels to scenes that other commands read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

import lineament
from lineament.data.readers.coco import read_coco
from scenes import scene, write_data

pytest.importorskip("cv2")

Run = Callable[..., Result]


class SeesRed:
    """A detector that detects a face in red images."""

    def detect(self, path: Path, threshold: float) -> list[str]:
        return ["face"] if np.asarray(Image.open(path))[..., 1].mean() < 10 else []


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Labels, and two backgrounds. One of them shows a face."""
    write_data(tmp_path, 6)
    (tmp_path / "walls").mkdir()
    scene(0, faces=0)[0].save(tmp_path / "walls" / "wall.png")
    Image.new("RGB", (90, 90), (250, 0, 0)).save(tmp_path / "walls" / "red.png")
    monkeypatch.setattr(lineament, "load", lambda: SeesRed())
    return ["--data", tmp_path / "scenes.json", "--backgrounds", tmp_path / "walls", "--size", 96]


def test_scenes_are_written_and_backgrounds_with_faces_named(run: Run, given: list[object], tmp_path: Path) -> None:
    result = run("compose", tmp_path / "out", *given, "--count", 3, "--most", 4, "-j", 2)
    assert result.exit_code == 0, result.output
    assert "1 of 2 backgrounds show a face and are left out" in result.output
    assert "red.png" in result.output
    samples = read_coco(tmp_path / "out" / "scenes.json")
    assert len(samples) == 3
    assert all(1 <= len(sample) <= 4 for sample in samples)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images", "masks", "scenes.json"]


def test_labels_without_landmarks_are_refused(run: Run, given: list[object], tmp_path: Path) -> None:
    bare = write_data(tmp_path, 2, name="bare", landmarks=False)
    result = run("compose", tmp_path / "out", *given, "--data", bare)
    assert result.exit_code == 2
    assert "bare.json: none of 4 faces has all 5 landmarks of schema '5'" in result.output
    result = run("compose", tmp_path / "out", *given, "--landmarks", 68)
    assert result.exit_code == 2
    assert "has landmarks of schema '5', which cannot become those of '68'" in result.output


def test_more_faces_than_fit_are_refused(run: Run, given: list[object], tmp_path: Path) -> None:
    result = run("compose", tmp_path / "out", *given, "--most", 200)
    assert result.exit_code == 2
    assert "faces of 16 pixels, not 200" in result.output
    assert not (tmp_path / "out" / "images").exists()


def test_what_cannot_be_read_is_named(run: Run, given: list[object], tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (tmp_path / "text.json").write_text("labels")
    (tmp_path / "none").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    for options, told in (
        (["--data", tmp_path / "empty.json"], "empty.json: none of 0 faces"),
        (["--data", tmp_path / "text.json"], "text.json: expected JSON"),
        (["--data", tmp_path / "gone.json"], "gone.json: cannot be read"),
        (["--backgrounds", tmp_path / "none"], "none: no image in this folder"),
        (["--backgrounds", tmp_path / "gone"], "gone: no such file or folder"),
        (["--backgrounds", tmp_path / "broken"], "a.png: cannot be decoded"),
    ):
        result = run("compose", tmp_path / "out", *given, *options)
        assert result.exit_code == 2, result.output
        assert told in result.output
        assert not (tmp_path / "out" / "images").exists()


def test_backgrounds_that_all_show_a_face_are_refused(run: Run, given: list[object], tmp_path: Path) -> None:
    (tmp_path / "walls" / "wall.png").unlink()
    result = run("compose", tmp_path / "out", *given)
    assert result.exit_code == 2
    assert "all backgrounds show a face" in result.output
