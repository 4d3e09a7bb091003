"""``lineament detect --jobs``: several processes give what one gives, and none outlives the command."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import Result

import lineament
from lineament.cli.work import Work, in_processes
from lineament.errors import LineamentError

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "astronaut.jpg"
LITE = "kpnet-lite-int8"
Run = Callable[..., Result]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine photos of different sizes; one is damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(PHOTO) as photo:
        for i in range(9):
            photo.resize((256 + i, 256)).save(folder / f"{i}.jpg", quality=80)
    (folder / "3.jpg").write_bytes(b"no photo")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_processes_write_what_one_writes(photos: Path, tmp_path: Path, run: Run) -> None:
    told = {}
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        options = ["--json", out / "faces.jsonl", "--out", out / "drawn", "--crops", out / "crops"]
        options += ["--threads", 1, "--input-size", 128, "--min-face", 3]
        result = run("detect", photos, "-m", LITE, "--jobs", jobs, *options)
        assert result.exit_code == 1, result.output
        assert "3.jpg: not an image format" in result.stderr
        told[jobs] = result.stderr.replace(f"/{jobs}/", "/N/")
    assert lines(tmp_path / "1" / "faces.jsonl") == lines(tmp_path / "2" / "faces.jsonl")
    assert [Path(line["path"]).stem for line in lines(tmp_path / "2" / "faces.jsonl")] == list("012345678")
    one, two = (
        {path.relative_to(tmp_path / n): path.read_bytes() for path in (tmp_path / n).rglob("*.*") if path.is_file()}
        for n in ("1", "2")
    )
    assert one.keys() == two.keys()
    assert len(one) >= 1 + 8 + 8
    assert one == two
    assert "faces of 3 pixels" in told[1]
    assert set(told[1].splitlines()) <= set(told[2].splitlines())  # each process logs its own warnings


def test_a_killed_process_is_an_error_that_says_how_to_go_on(photos: Path) -> None:
    work = Work(lineament.load(LITE, threads=1, settings={"input_size": 256}), None, None, None, 10**6)
    results = in_processes(work, sorted(photos.iterdir()) * 30, 60, 2)
    assert next(results).record["faces"]
    victim = multiprocessing.active_children()[0]
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(LineamentError, match=r"one of 2 processes was killed.* fewer --jobs"):
        list(results)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's list of a process's children")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_leaves_no_process_and_continues(end: int, photos: Path, tmp_path: Path, run: Run) -> None:
    for i in range(96):  # more work than can be done before it is stopped
        os.link(photos / "0.jpg", photos / f"{i}-again.jpg")
    command = ["detect", photos, "-m", LITE, "--input-size", "256", "--json", tmp_path / "faces.jsonl"]
    several = [sys.executable, "-m", "lineament", *map(str, command), "--jobs", "2"]
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a suite in the background ignores it
    with subprocess.Popen(several, stderr=subprocess.DEVNULL, preexec_fn=heeding) as process:
        while not (part := list(tmp_path.glob(".*.part.jsonl"))) or not part[0].read_bytes():
            time.sleep(0.02)
            assert process.poll() is None
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        process.send_signal(end)
    assert len(children) >= 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not (tmp_path / "faces.jsonl").exists()
    again = run(*command)  # with another number of processes
    assert again.exit_code == 1
    assert "images were finished before" in again.stderr
    names = [Path(line["path"]).name for line in lines(tmp_path / "faces.jsonl")]
    assert names == sorted(path.name for path in photos.iterdir())
    assert len(names) == 9 + 96
