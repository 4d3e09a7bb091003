"""``lineament evaluate wider``, ``fddb`` and ``pascal`` from the command line, with files and a stand-in detector."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

import lineament

scipy_io = pytest.importorskip("scipy.io")
pytest.importorskip("cv2")

Run = Callable[..., Result]
Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """0--E/a.png, 80 x 60, where the stand-in detects a face at (20, 15, 60, 45), and an image without labels."""
    folder = tmp_path / "photos"
    (folder / "0--E").mkdir(parents=True)
    for name in ("a", "other"):
        Image.new("RGB", (80, 60), (200, 0, 0)).save(folder / "0--E" / f"{name}.png")
    return folder


def cells(items: list[Any]) -> Array:
    out = np.empty((len(items), 1), object)
    for i, item in enumerate(items):
        out[i, 0] = item
    return out


@pytest.fixture
def wider_truth(tmp_path: Path) -> Path:
    """One face of a.png, and one of b, whose image is missing."""
    head = {"event_list": cells(["0--E"]), "file_list": cells([cells(["a", "b"])])}
    boxes = cells([cells([np.array([[20, 15, 40, 30]], np.int32)] * 2)])
    scipy_io.savemat(tmp_path / "wider_face_val.mat", {**head, "face_bbx_list": boxes})
    for setting in ("easy", "medium", "hard"):
        marks = cells([cells([np.array([[1]], np.uint8)] * 2)])
        scipy_io.savemat(tmp_path / f"wider_{setting}_val.mat", {**head, "gt_list": marks})
    return tmp_path


def test_wider_from_files(tmp_path: Path, wider_truth: Path, run: Run) -> None:
    folder = tmp_path / "found/0--E"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("a\n2\n20 15 40 30 .9\n0 0 5 5 .1\n")
    common = ("evaluate", "wider", "--detections", tmp_path / "found", "--ground-truth", wider_truth)
    for arithmetic in ("matlab", "float"):
        result = run(*common, "--arithmetic", arithmetic, "--json", tmp_path / "out.json")
        assert result.exit_code == 0, result.output
        found = json.loads((tmp_path / "out.json").read_text())
        assert [found[setting] for setting in ("easy", "medium", "hard")] == [50, 50, 50]
        assert found["settings"]["arithmetic"] == arithmetic
    assert "2 of 3,226 images" in result.output
    assert "1 images of the ground truth without an entry" in result.output
    (tmp_path / "list.txt").write_text("0--E/a\n")
    run(*common, "--subset", tmp_path / "list.txt", "--json", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["easy"] == 100


@pytest.mark.usefixtures("middle")
@pytest.mark.parametrize(("own", "options", "seen"), [(40, (), True), (40, ("--min-face", 40), False), (1, (), True)])
def test_wider_looks_for_faces_from_ten_pixels_at_least(
    own: float,
    options: tuple[object, ...],
    seen: bool,
    photos: Path,
    wider_truth: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = lineament.load("middle")
    monkeypatch.setattr(detector, "settings", replace(detector.settings, min_face=own))
    monkeypatch.setattr(lineament, "load", lambda *_, **__: detector)
    common = ("evaluate", "wider", "-m", "middle", "--ground-truth", wider_truth, "--images", photos)
    result = run(*common, *options, "--json", wider_truth / "out.json")
    assert result.exit_code == 0, result.output
    found = [face for line in (wider_truth / "runs").rglob("*.jsonl") for face in json.loads(line.read_text())["faces"]]
    assert bool(found) == seen


@pytest.mark.usefixtures("middle")
def test_wider_with_a_method_goes_on_where_it_stopped(
    tmp_path: Path, wider_truth: Path, photos: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("evaluate", "wider", "--method", "middle", "--images", photos, "--ground-truth", wider_truth)
    result = run(*common, "--save-detections", tmp_path / "tree")
    assert result.exit_code == 0, result.output
    assert "1 of 3,226 images" in result.output
    assert "1 images detected now, 0 before" in result.output
    assert (tmp_path / "tree/0--E/a.txt").read_text().startswith("a\n1\n20 15 40 30 0.78")
    assert "0 images detected now, 1 before" in run(*common).output
    (kept,) = (tmp_path / "runs/evaluate").iterdir()
    whole = kept.read_text()
    kept.write_text(whole + whole[:20])  # as if stopped within a line
    assert "0 images detected now, 1 before" in run(*common).output
    assert kept.read_text() == whole
    changed = lineament.load("middle")
    changed.weights = {"middle": "1" * 64}
    monkeypatch.setattr(lineament, "load", lambda *_, **__: changed)
    assert "1 images detected now, 0 before" in run(*common).output
    assert "1 images detected now, 0 before" in run(*common, "--threshold", "0.1").output
    assert "1 images detected now, 0 before" in run(*common, "--setting", "factor=0.5").output
    assert "1 images detected now, 0 before" in run(*common, "--work", tmp_path / "work").output
    assert "1 images detected now, 0 before" in run(*common, "--work", tmp_path / "work", "--min-face", 20).output
    assert len(list((tmp_path / "work").glob("middle-*.jsonl"))) == 2


@pytest.mark.usefixtures("middle")
@pytest.mark.parametrize("rotate", [0, 90, -90])
def test_fddb_with_a_method(tmp_path: Path, photos: Path, run: Run, rotate: int) -> None:
    (tmp_path / "truth.txt").write_text("0--E/a\n1\n20 15 0 39.5 29.5 1\n")
    (tmp_path / "sizes.csv").write_text("name,width,height\n0--E/a,80,60\n")
    options = ("--annotations", tmp_path / "truth.txt", "--sizes", tmp_path / "sizes.csv", "--rotate", rotate)
    result = run(
        *("evaluate", "fddb", "--method", "middle", "--images", photos, *options, "--roc", tmp_path / "roc"),
        *("--save-detections", tmp_path / "found.txt", "--save-as", "ellipse", "--json", tmp_path / "out.json"),
    )
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out.json").read_text())["recall at 1 fp"] == 100
    assert (tmp_path / "roc/DiscROC.txt").read_text().startswith("1 0 0.78")
    again = run("evaluate", "fddb", "--detections", tmp_path / "found.txt", *options, "--iou", "0.8")
    assert again.exit_code == 0, again.output
    assert "100.0000" in again.output


@pytest.mark.usefixtures("middle")
def test_pascal_with_a_method_and_from_its_file(tmp_path: Path, photos: Path, run: Run) -> None:
    table = np.zeros(1, [("imgname", object), ("objects", object)])
    table[0]["imgname"], table[0]["objects"] = "a.jpg", np.array([[20, 15, 60, 45]])
    scipy_io.savemat(tmp_path / "truth.mat", {"Annotations": table.reshape(-1, 1)})
    common = ("evaluate", "pascal", "--ground-truth", tmp_path / "truth.mat", "--json", tmp_path / "out.json")
    lines = tmp_path / "found.txt"
    result = run(*common, "--method", "middle", "--images", photos, "--save-detections", lines)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out.json").read_text())["ap"] == 100
    assert lines.read_text().startswith("a 0.78")
    (tmp_path / "list.txt").write_text("a\n")
    again = run(*common, "--detections", lines, "--subset", tmp_path / "list.txt", "--no-correct")
    assert again.exit_code == 0, again.output
    assert "1 images with 1 faces that count" in again.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give either --detections, a file of earlier results, or --method"),
        (("--detections", "found", "--method", "middle"), "give either --detections"),
        (("--method", "middle"), "--method takes --images"),
        (("--method", "middle", "--images", "empty"), "none of its 1 images is one of the 2 of the ground truth"),
        (("--method", "middle", "--images", "twice"), "a second file of the image 0--E/a, after"),
        (("--detections", "found", "--subset", "none.txt"), "none.txt: expected a list of image names"),
    ],
)
def test_what_does_not_go_together(
    tmp_path: Path, wider_truth: Path, run: Run, options: tuple[str, ...], message: str
) -> None:
    for name in ("empty/x.png", "twice/0--E/a.png", "twice/0--E/a.bmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    result = run("evaluate", "wider", "--ground-truth", wider_truth, *options)
    assert result.exit_code == 2
    assert message in result.output
