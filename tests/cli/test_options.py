"""Settings of a method from the command line, for every command that runs one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import Result

import lineament
from lineament.conventions import convention
from lineament.data.readers.coco import write_coco
from lineament.data.sample import Sample
from lineament.errors import OptionError

Run = Callable[..., Result]


class AskedError(Exception):
    """Ends a command where it loads its method. It holds the requested settings."""


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def load(name: str, **options: Any) -> None:
        raise AskedError(options["settings"])

    monkeypatch.setattr(lineament, "load", load)
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    write_coco(tmp_path / "labels.json", [Sample.of(tmp_path / "a.png", [[1, 1, 9, 9]], source="own")])
    return tmp_path / "a.png"


@pytest.mark.parametrize("command", [["detect"], *(["evaluate", name] for name in ("landmarks", "recall", "speed"))])
def test_options_become_settings(command: list[str], photo: Path, run: Run) -> None:
    what: list[object] = [photo] if command == ["detect"] else ["-m", "x"]
    if command[-1] in ("landmarks", "recall"):
        what += ["--data", photo.with_name("labels.json")]
    own = photo.with_name("own.json")
    convention("square").write(own)
    for options, expected in (
        ([], {}),
        (["--input-size", 512, "--no-tiles"], {"input_size": 512, "tiles": False}),
        (["--convention", "fddb-ellipse", "--tiles"], {"convention": "fddb-ellipse", "tiles": True}),
        (["--flip", "--no-tiles"], {"flip": True, "tiles": False}),
        (["--convention", own], {"convention": convention("square").to_dict()}),
        (["--setting", "nms=0.5", "--setting", "peaks=false"], {"nms": 0.5, "peaks": False}),
        (
            ["--setting", "convention=square", "--setting", "calibration=null"],
            {"convention": "square", "calibration": None},
        ),
    ):
        result = run(*command, *what, *options)
        assert isinstance(result.exception, AskedError), result.output
        assert result.exception.args[0] == expected
    twice = run(*command, *what, "--verify", "--setting", "verify=own.onnx")
    assert "--verify and --setting verify= say it twice" in twice.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--convention", "gone.json"], "no such file, nor one of wider, square, fddb-ellipse"),
        (["--setting", "nms"], "--setting takes NAME=VALUE"),
        (["--setting", "nms=1", "--setting", "nms=2"], "each name once"),
    ],
)
def test_what_is_no_setting_is_named(options: list[str], message: str, photo: Path, run: Run) -> None:
    result = run("detect", photo, *options)
    assert result.exit_code == 2
    assert message in result.output


def test_a_method_names_the_settings_it_has() -> None:
    with pytest.raises(OptionError, match=r"mtcnn has no setting 'input_size'; it has: .*rnet_threshold"):
        lineament.load("mtcnn", settings={"input_size": 512})
    with pytest.raises(OptionError, match=r"setting 'rnet_threshold' is e.g. .*, found 'high'"):
        lineament.load("mtcnn", settings={"rnet_threshold": "high"})
    with pytest.raises(OptionError, match="setting 'landmarks' is part of the weights"):
        lineament.load("mtcnn", settings={"landmarks": "68"})
