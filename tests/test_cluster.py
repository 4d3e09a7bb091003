"""Detection on a Ray of two workers: a row for each photo, once, also when one of them is killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image
from typer.testing import CliRunner

import lineament
from lineament.cli import app
from lineament.errors import ImageError, OptionError

ray = pytest.importorskip("ray")
from pyarrow import parquet as pq  # noqa: E402

from lineament.cluster import detect_folder  # noqa: E402

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "astronaut.jpg"
LITE = "kpnet-lite-int8"
SMALL = {"settings": {"input_size": 256}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    prompt = {"worker_niceness": 0}  # or the test takes minutes on a busy machine
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, _system_config=prompt)
    yield
    ray.shutdown()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve photos in two folders; one is damaged."""
    with Image.open(PHOTO) as photo:
        for i in range(12):
            path = tmp_path / "photos" / f"{i % 2}" / f"{i:02}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            photo.resize((200 + i, 200)).save(path)
    (tmp_path / "photos" / "1" / "07.jpg").write_bytes(b"no photo")
    return tmp_path / "photos"


def workers() -> list[int]:
    """Process ids of the workers."""
    running = (path for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    return [int(path.parent.name) for path in running if path.read_bytes().startswith(b"ray::_Worker")]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the processes of the workers in /proc")
def test_a_killed_worker_loses_nothing_and_writes_nothing_twice(cluster: None, photos: Path, tmp_path: Path) -> None:
    out, killed = tmp_path / "out", []

    def kill() -> None:
        while not list(out.glob("part-*.parquet")):
            time.sleep(0.01)
        killed.append(workers()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = Thread(target=kill, daemon=True)
    killer.start()
    seen: list[tuple[int, int]] = []
    count = detect_folder(
        str(photos), str(out), LITE, workers=2, partition=2, progress=lambda *now: seen.append(now), **SMALL
    )
    killer.join(30)
    assert killed
    assert count == 12
    assert seen[0] == (0, 6)
    assert seen[-1] == (6, 6)
    rows = pq.read_table(out).to_pylist()
    assert [row["path"] for row in rows] == sorted(str(path) for path in photos.rglob("*.jpg"))
    detector = lineament.load(LITE, threads=1, **SMALL)
    for row in rows:
        if row["path"].endswith("07.jpg"):
            assert "07.jpg: not an image format" in row["error"]
            assert row["faces"] is None
            continue
        expected = detector.detect(row["path"]).to_dict()
        assert (row["width"], row["height"], row["error"]) == (expected["width"], 200, None)
        assert [pytest.approx(face["box"]) for face in expected["faces"]] == [face["box"] for face in row["faces"]]

    # A stopped run continues with what is missing, and with nothing else.
    (out / "part-000003.parquet").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    detect_folder(str(photos), str(out), LITE, workers=1, partition=2, **SMALL)
    assert pq.read_table(out).to_pylist() == rows
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    with pytest.raises(OptionError, match="has the results of other photos or options"):
        detect_folder(str(photos), str(out), LITE, workers=2, partition=2, threshold=0.9, **SMALL)


def test_the_command_and_what_it_refuses(cluster: None, photos: Path, tmp_path: Path) -> None:
    command = ["detect", str(photos / "0"), "-m", LITE, "--input-size", "256", "--engine", "ray"]
    result = CliRunner().invoke(app, [*command, "--out", (tmp_path / "out").as_uri(), "--jobs", "1"])
    assert result.exit_code == 0, result.output
    assert "6 images" in result.output
    assert pq.read_table(tmp_path / "out").num_rows == 6
    for more in ([], ["--out", "x", "--json", "y"], ["--out", "x", "--crops", "y"]):
        refused = CliRunner().invoke(app, [*command, *more])
        assert refused.exit_code == 2
        assert "--engine ray takes one folder" in refused.output
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no image in this folder"):
        detect_folder(str(tmp_path / "empty"), str(tmp_path / "none"), LITE)
    with pytest.raises(OptionError, match="threshold must lie in"):
        detect_folder(str(photos), str(tmp_path / "none"), LITE, threshold=3)


def test_without_ray_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lineament.cluster", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(app, ["detect", "photos", "--engine", "ray", "--out", "out"])
    assert result.exit_code == 2
    assert "detection on a cluster needs ray, of the extra 'ray'" in result.output.replace("\n", " ")
