"""``lineament redact``: what is written where, what fails, and how a stopped run continues."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

import lineament
from lineament.redaction import redact_photo

command_module = importlib.import_module("lineament.cli.redact")  # the package's attribute is the command

Run = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("middle")


def photo(path: Path, value: int = 255) -> Path:
    """A chessboard: its middle, which the detector takes for a face, changes when it is blurred."""
    path.parent.mkdir(parents=True, exist_ok=True)
    board = np.kron(np.where(np.indices((12, 16)).sum(axis=0) % 2, value, 100), np.ones((5, 5)))
    Image.fromarray(np.repeat(board[..., None], 3, axis=2).astype(np.uint8)).save(path)
    return path


def changed(old: Path, new: Path) -> np.ndarray:
    """Where two images differ clearly, (h, w)."""
    before, after = (lineament.read_image(path).astype(int) for path in (old, new))
    return (np.abs(before - after) > 40).any(axis=2)


def test_photos_and_videos_of_a_folder_are_redacted(tmp_path: Path, run: Run) -> None:
    from clips import about, write_clip

    board = lineament.read_image(photo(tmp_path / "in/2023/a.png"))
    photo(tmp_path / "in/2024/a.jpg")
    source = write_clip(tmp_path / "in/clip.mp4", [board] * 5, sound=True)
    darker = Image.fromarray(np.minimum(board, 240))
    Image.fromarray(board).save(tmp_path / "in/d.gif", save_all=True, append_images=[darker])
    (tmp_path / "in/notes.txt").write_text("no photo")
    result = run("redact", tmp_path / "in", "--out", tmp_path / "out", "-m", "middle")
    assert result.exit_code == 0, result.output
    assert "4 faces covered in 4 files" in result.stderr
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert names == {"2023/a.png", "2024/a.jpg", "clip.mp4", "d.gif", ".redacted.jsonl"}
    for name in ("2023/a.png", "d.gif"):
        where = changed(tmp_path / "in" / name, tmp_path / "out" / name)
        assert where[20:40, 25:55].mean() > 0.8
        assert not where[:10].any()
    assert about(tmp_path / "out/clip.mp4") == about(source)


def test_a_file_that_fails_is_named_and_the_rest_goes_on(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"no photo")
    (tmp_path / "in/c.mp4").write_bytes(b"no video")
    photo(tmp_path / "in/d.png")
    result = run("redact", tmp_path / "in", "--out", tmp_path / "out", "-m", "middle")
    assert result.exit_code == 1
    assert "b.png" in result.stderr
    assert "c.mp4" in result.stderr
    assert "2 faces covered in 2 files; 2 could not be redacted" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("[a-z]*")) == ["a.png", "d.png"]


def test_a_run_continues_and_another_command_starts_anew(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    interrupted = [False] * 3 + [True]

    def counted(source: Path, *args: object, **options: object) -> lineament.Faces:
        if source.name == "c.png" and interrupted.pop():
            raise KeyboardInterrupt
        seen.append(source.name)
        return redact_photo(source, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(command_module, "redact_photo", counted)
    for name in "abcd":
        photo(tmp_path / f"in/{name}.png")
    command = ("redact", tmp_path / "in", "--out", tmp_path / "out", "-m", "middle", "--jobs", 1)
    stopped = run(*command)
    assert stopped.exit_code != 0
    assert not list((tmp_path / "out").glob(".*.png")), "an incomplete file"
    done = len((tmp_path / "out/.redacted.jsonl").read_text().splitlines())
    assert f"stopped; {done} files are finished; the same command continues there" in stopped.stderr
    seen.clear()
    assert run(*command).exit_code == 0
    assert seen == ["a.png", "b.png", "c.png", "d.png"][done:]
    seen.clear()
    photo(tmp_path / "in/b.png", 250)
    (tmp_path / "out/d.png").unlink()
    assert run(*command).exit_code == 0
    assert seen == ["b.png", "d.png"]
    seen.clear()
    assert run(*command, "--style", "pixelate").exit_code == 0
    assert len(seen) == 4


def test_chosen_faces_of_a_video_stay_bare(tmp_path: Path, run: Run) -> None:
    from clips import write_clip
    from lineament.video import VideoReader

    board = lineament.read_image(photo(tmp_path / "a.png"))
    source = write_clip(tmp_path / "a.mp4", [board] * 4)
    for name, options in {"bare": ("--keep", 0), "covered": ()}.items():
        result = run("redact", source, "--out", tmp_path / name, "-m", "middle", "--style", "solid", *options)
        assert result.exit_code == 0, result.output
        with VideoReader(tmp_path / name / "a.mp4") as reader:
            middle = next(reader.frames()).image[25:35, 35:45]
        assert (middle.max() > 150) == (name == "bare")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--style", "smudge"), "style is one of"),
        (("--style", "picture"), "takes a picture"),
        (("--style", "solid", "--color", "dirt"), "--color takes a name"),
        (("--picture", "missing.png"), "--picture"),
        (("--keep", 3), "is a photo"),
        (("--margin", -1), "margin"),
    ],
)
def test_wrong_options(tmp_path: Path, run: Run, options: tuple[object, ...], message: str) -> None:
    photo(tmp_path / "a.png")
    result = run("redact", tmp_path / "a.png", "--out", tmp_path / "out", "-m", "middle", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out/a.png").exists()


def test_originals_are_not_overwritten(tmp_path: Path, run: Run) -> None:
    before = photo(tmp_path / "a.png").read_bytes()
    result = run("redact", tmp_path / "a.png", "--out", tmp_path, "-m", "middle")
    assert result.exit_code == 2
    assert "would overwrite" in result.stderr
    assert (tmp_path / "a.png").read_bytes() == before


def test_the_journal_survives_a_kill_in_the_middle_of_a_line(tmp_path: Path, run: Run) -> None:
    photo(tmp_path / "in/a.png")
    command = ("redact", tmp_path / "in", "--out", tmp_path / "out", "-m", "middle")
    assert run(*command).exit_code == 0
    journal = tmp_path / "out/.redacted.jsonl"
    journal.write_text(journal.read_text() + '{"path": "in/b')
    result = run(*command)
    assert result.exit_code == 0
    assert "1 were finished before" in result.stderr
    assert [json.loads(line)["path"] for line in journal.read_text().splitlines()] == [str(tmp_path / "in/a.png")]
