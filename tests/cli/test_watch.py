"""``lineament detect`` in videos: one line a frame, numbers of faces, annotated copies, and stopped runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from clips import about, write_clip
from lineament import video
from lineament.records import read_records

Run = Callable[..., Result]
SCHEMA = json.loads((files("lineament") / "result.schema.json").read_text())
pytestmark = pytest.mark.usefixtures("middle")
TIMES = [0, 40, 80, 200, 210, 500, 1000, 1040]


def clip(path: Path, values: list[int] | None = None, **options: Any) -> Path:
    """Frames whose brightness is the score of the face in their middle."""
    values = [200] * 8 if values is None else values
    return write_clip(path, [np.full((60, 80, 3), value, np.uint8) for value in values], **options)


def lines(path: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        jsonschema.validate(record, SCHEMA)
    return records


def test_a_line_for_each_frame_with_the_time_of_the_container(tmp_path: Path, run: Run) -> None:
    source = clip(tmp_path / "a.mp4", times=TIMES)
    result = run("detect", source, "-m", "middle", "--json", tmp_path / "a.jsonl", "--jobs", 2)
    assert result.exit_code == 0, result.output
    assert "8 faces in 8 frames of 1 video" in result.stderr
    records = lines(tmp_path / "a.jsonl")
    assert [record["frame"] for record in records] == list(range(8))
    np.testing.assert_allclose([record["time"] for record in records], np.array(TIMES) / 1000, atol=1e-3)
    assert all(record["faces"][0]["box"] == [20, 15, 60, 45] for record in records)
    assert "track" not in records[0]["faces"][0]
    assert [len(record.faces) for record in read_records(tmp_path / "a.jsonl")] == [1] * 8


def test_an_animation_is_watched_frame_by_frame(tmp_path: Path, run: Run) -> None:
    first, *rest = [Image.new("RGB", (80, 60), (120 + 40 * number, 0, 0)) for number in range(4)]
    for name in ("in/a.gif", "in/b.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        first.save(tmp_path / name, save_all=True, append_images=rest, duration=[100, 50, 200, 100])
    named = (tmp_path / "in/a.gif", tmp_path / "in/b.webp")
    result = run("detect", *named, "-m", "middle", "--json", tmp_path / "a.jsonl", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    records = lines(tmp_path / "a.jsonl")
    assert [(record["frame"], record["time"]) for record in records] == [(0, 0), (1, 0.1), (2, 0.15), (3, 0.35)] * 2
    for name in ("a.gif", "b.webp"):
        with video.open_video(tmp_path / "out" / name) as reader:
            assert [frame.time for frame in reader.frames()] == [0, 0.1, 0.15, 0.35]
    first.save(tmp_path / "in/c.png")
    result = run("detect", tmp_path / "in", "-m", "middle", "--json", tmp_path / "b.jsonl")
    assert result.exit_code == 0, result.output
    assert ["frame" in record for record in lines(tmp_path / "b.jsonl")] == [False] * 3, "in a folder: first frames"


def test_faces_are_numbered_over_gaps_and_anew_after_them(tmp_path: Path, run: Run) -> None:
    source = clip(tmp_path / "a.mp4", [60] * 2 + [200] * 2 + [60] * 2 + [20] * 2 + [200] * 2 + [20] * 6 + [200] * 2)
    options = ("-m", "middle", "--track", "--gap", 3, "--threshold", 0.5, "--json", tmp_path / "a.jsonl")
    result = run("detect", source, *options)
    assert result.exit_code == 0, result.output
    tracks = [[face["track"] for face in record["faces"]] for record in lines(tmp_path / "a.jsonl")]
    nobody: list[list[int]] = [[], []]
    assert tracks == nobody + [[0]] * 4 + nobody + [[0]] * 2 + nobody * 3 + [[1]] * 2


@pytest.mark.parametrize("turned", [0, 90])
def test_the_annotated_video_keeps_all_but_the_drawings(tmp_path: Path, run: Run, turned: int) -> None:
    source = clip(tmp_path / "a.mp4", times=TIMES, sound=True, turned=turned)
    result = run("detect", source, "-m", "middle", "--out", tmp_path / "out", "--track")
    assert result.exit_code == 0, result.output
    assert about(tmp_path / "out/a.mp4") == about(source)
    with video.VideoReader(tmp_path / "out/a.mp4") as reader:
        image = next(reader.frames()).image.astype(int)
    height, width = image.shape[:2]
    edge = image[height // 4, width // 2 - 8 : width // 2 + 8].mean(axis=0)
    assert edge[1] - max(edge[0], edge[2]) > 50, "a line in green, half of whose colours are the background's"
    assert np.abs(image[3] - 200).mean() < 6


def test_a_stopped_run_continues(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [clip(tmp_path / f"{name}.mp4", [200 - 5 * t for t in range(20)]) for name in "ab"]
    whole = video.detect_video
    looked: list[int] = []

    def stopped(reader: video.VideoReader, *args: Any, **options: Any) -> Any:
        looked.append(20 - len(options["known"]))
        for number, sighting in enumerate(whole(reader, *args, **options)):
            if len(looked) == 2 and number == 7:
                raise KeyboardInterrupt
            yield sighting

    monkeypatch.setattr(video, "detect_video", stopped)
    command = ("detect", *sources, "-m", "middle", "--json", tmp_path / "x.jsonl")
    assert run(*command).exit_code != 0
    assert not (tmp_path / "x.jsonl").exists()
    assert run(*command).exit_code == 0
    assert looked == [20, 20, 13]
    continued = lines(tmp_path / "x.jsonl")
    assert run("detect", *sources, "-m", "middle", "--json", tmp_path / "y.jsonl").exit_code == 0
    assert continued == lines(tmp_path / "y.jsonl")
    assert len(continued) == 40


def test_a_video_that_cannot_be_read_is_named_and_the_next_goes_on(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    clip(tmp_path / "b.mp4")
    result = run("detect", tmp_path / "a.mp4", tmp_path / "b.mp4", "-m", "middle", "--json", tmp_path / "x.jsonl")
    assert result.exit_code == 1
    assert "a.mp4: not a video" in result.stderr
    records = lines(tmp_path / "x.jsonl")
    assert "error" in records[0]
    assert len(records) == 9


def test_frames_end_the_run(tmp_path: Path, run: Run) -> None:
    source = clip(tmp_path / "a.mp4")
    assert run("detect", source, "-m", "middle", "--frames", 3, "--json", tmp_path / "x.jsonl").exit_code == 0
    assert len(lines(tmp_path / "x.jsonl")) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.mp4", "b.jpg"), "separate commands"),
        (("a.mp4", "--crops", "crops"), "takes images"),
        (("b.jpg", "--track"), "take videos"),
        (("7", "--out", "out"), "camera 7"),
        (("7",), "camera 7"),
    ],
)
def test_wrong_commands(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("detect", *arguments, "-m", "middle")
    assert result.exit_code in (1, 2)
    assert message in result.stderr
