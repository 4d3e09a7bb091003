"""``lineament align``: crops, the manifest, and stopped runs."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from lineament.alignment import AlignedFace
from lineament.schemas import own

command_module = importlib.import_module("lineament.cli.align")  # the package's attribute is the command

Run = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("middle")


def photo(path: Path, size: tuple[int, int] = (80, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (100, 50, 0)).save(path)
    return path


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_crops_keep_their_paths_and_have_a_row(tmp_path: Path, run: Run) -> None:
    for name in ("2023/a.png", "2024/a.png", "2024/b, c.jpg"):
        photo(tmp_path / "in" / name)
    photo(tmp_path / "in/2024/tiny.png", (8, 8))
    out = tmp_path / "out"
    result = run("align", tmp_path / "in", "--out", out, "-m", "middle", "--size", 64, "--parquet")
    assert result.exit_code == 0, result.output
    assert "3 faces of 4 photos" in result.stderr
    found = rows(out)
    assert [row["crop"] for row in found] == ["2023/a.png-0.png", "2024/a.png-0.png", "2024/b, c.jpg-0.png"]
    assert [row["path"] for row in found][2] == str(tmp_path / "in/2024/b, c.jpg")
    for row in found:
        with Image.open(out / row["crop"]) as crop:
            assert crop.size == (64, 64)
        eye = np.array([[float(row[f"m{i}{j}"]) for j in (1, 2, 3)] for i in (1, 2)]) @ [32, 24, 1]
        assert np.abs(eye / 64 - [0.343, 0.465]).max() < 0.2
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(out / "manifest.parquet")
    assert table.column_names == list(AlignedFace.COLUMNS)
    assert table["score"].to_pylist() == [float(row["score"]) for row in found]


def test_a_margin_makes_faces_smaller(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "a.png")
    scales = []
    for margin in (0, 0.5):
        out = tmp_path / str(margin)
        assert run("align", tmp_path / "a.png", "--out", out, "-m", "middle", "--margin", margin).exit_code == 0
        scales.append(float(rows(out)[0]["scale"]))
    assert scales[0] == pytest.approx(2 * scales[1], rel=1e-3)


def test_a_template_of_ones_own(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "t.json").write_text(json.dumps([[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.4, 0.7], [0.6, 0.7]]))
    (tmp_path / "bad.json").write_text("[[1, 2]]")
    good = ("align", tmp_path / "a.png", "--out", tmp_path / "out", "-m", "middle", "--template")
    assert run(*good, tmp_path / "t.json").exit_code == 0
    for name in ("bad.json", "missing.json", "a.png"):
        result = run(*good, tmp_path / name)
        assert result.exit_code == 2
        assert "--template" in result.stderr


def test_a_stopped_run_continues_without_double_rows(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, seen = command_module.align_photo, []

    def counted(source: Path, *args: Any, **options: Any) -> Any:
        if len(seen) == 3 and "stop" not in seen:
            seen.append("stop")
            raise KeyboardInterrupt
        seen.append(source.name)
        return whole(source, *args, **options)

    monkeypatch.setattr(command_module, "align_photo", counted)
    for name in "abcdef":
        photo(tmp_path / f"in/{name}.png")
    command = ("align", tmp_path / "in", "--out", tmp_path / "out", "-m", "middle", "--jobs", 1)
    assert run(*command).exit_code != 0
    manifest = tmp_path / "out/manifest.csv"
    manifest.write_text(manifest.read_text() + f"{tmp_path / 'in/f.png'},0,half of a row")
    seen[:] = ["stop"]
    assert run(*command).exit_code == 0
    assert len(seen) < 7, "photos that were finished are not read again"
    assert [row["crop"] for row in rows(tmp_path / "out")] == [f"{name}.png-0.png" for name in "abcdef"]
    before = manifest.read_text()
    assert run(*command).exit_code == 0
    assert manifest.read_text() == before


def test_a_photo_that_cannot_be_read_is_named(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"no photo")
    result = run("align", tmp_path / "in", "--out", tmp_path / "out", "-m", "middle")
    assert result.exit_code == 1
    assert "b.png" in result.stderr
    assert len(rows(tmp_path / "out")) == 1


def test_landmarks_that_cannot_be_aligned_are_refused_in_the_words_of_the_command(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "a.png")
    monkeypatch.setattr("conftest.Middle.schema", own("mine", ["tip"]))
    result = run("align", tmp_path / "a.png", "--out", tmp_path / "out", "-m", "middle")
    assert result.exit_code == 2
    told = "landmarks of schema 'mine' cannot be aligned; `lineament detect --crops DIR --no-align` cuts plain crops"
    assert told in result.stderr.replace("\n", " ")
    assert "--crops: " not in result.stderr
