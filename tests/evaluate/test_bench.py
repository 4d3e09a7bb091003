"""The comparison of weights: what belongs to which size, whose turn it is, and which choices are worth their cost."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import lineament
from lineament.cli import app
from lineament.evaluate import peers
from lineament.evaluate.bench import WIDER, choices, frontier, measure
from lineament.weights import Model, read_weights

PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "astronaut.jpg"
SCORES = {
    f"{name}, input {size}": ap + size / 64 for size in (256, 640) for ap, name in zip((9, 6, 3), WIDER, strict=True)
}


def model(scores: dict[str, float]) -> Model:
    return Model("own", "kpnet", "5", "own.onnx", 2_500_000, "", "", "", "", "", scores)


def test_accuracy_belongs_to_its_input_size() -> None:
    small, large = choices(model(SCORES))
    assert (str(small), small.accuracy, small.megabytes) == ("own, 256", 10.0, 2.5)
    assert (str(large), large.accuracy) == ("own, 640", 16.0)
    (other,) = choices(model(SCORES), [512])
    assert (str(other), other.accuracy) == ("own, 512", None)
    (unsized,) = choices(model(dict.fromkeys(WIDER, 7.0)), [512], sized=False)
    assert (str(unsized), unsized.accuracy) == ("own", 7.0)
    (unknown,) = choices(model({}))
    assert (str(unknown), unknown.accuracy) == ("own", None)


def test_metadata_of_the_weights_have_the_scores() -> None:
    shipped = {each.name: each for each in lineament.models()}
    assert [choice.size for choice in choices(shipped["kpnet"])] == [256, 384, 512, 640]
    assert all(choice.accuracy for choice in choices(shipped["kpnet"]))


def test_finders_take_turns_and_the_first_round_does_not_count() -> None:
    calls = []

    def finder(name: str, times: list[float], count: int | None) -> object:
        def find(photo: Path) -> tuple[float, int | None]:
            calls.append((name, photo.name))
            return times.pop(0), count

        return find

    photos = [Path("x"), Path("y")]
    slow = finder("slow", [999, 999, 10, 30, 12, 32, 80, 31], 2)
    quick = finder("quick", [999, 999, 1, 1, 1, 1, 1, 1], None)
    found = measure({"slow": slow, "quick": quick}, photos, rounds=3)  # type: ignore[dict-item]
    assert found == {"slow": {"ms": (12 + 31) / 2, "faces": 4}, "quick": {"ms": 1, "faces": None}}
    assert calls[4:8] == [("slow", "x"), ("quick", "x"), ("slow", "y"), ("quick", "y")]


@pytest.mark.parametrize(
    ("costs", "gains", "worth"),
    [
        ([], [], []),
        ([5], [None], [False]),
        ([1, 2, 3], [50, 40, 60], [True, False, True]),
        ([1, 1], [50, 60], [False, True]),
        ([1, 2], [50, 50], [True, False]),
        ([2, 1, 3], [None, 50, 50], [False, True, False]),
    ],
)
def test_the_frontier(costs: list[float], gains: list[float | None], worth: list[bool]) -> None:
    assert frontier(costs, gains) == worth


def test_the_command_compares_draws_and_keeps(tmp_path: Path) -> None:
    (tmp_path / "peer.py").write_text(
        'import sys\nfor line in sys.stdin:\n    print(\'{"ms": 0.5, "faces": [1, 2]}\', flush=True)\n'
    )
    Image.open(PHOTO).resize((200, 200)).save(tmp_path / "photo.png")
    options = ["-m", "kpnet-lite-int8", "-m", "mtcnn", "--repeats", "1", "--threads", "1"]
    options += ["--peer", f"own={sys.executable} {tmp_path / 'peer.py'}", "--plot", str(tmp_path / "plot.svg")]
    result = CliRunner().invoke(
        app, ["bench", str(tmp_path / "photo.png"), *options, "--json", str(tmp_path / "a.json")]
    )
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "a.json").read_text())
    rows = told["tables"]["choices"]
    assert rows.keys() == {*(f"kpnet-lite-int8, {size}" for size in (256, 384, 512, 640)), "mtcnn", "own"}
    assert rows["own"] | {"photos/s": 0} == {
        **dict.fromkeys(rows["own"]), "ms": 0.5, "photos/s": 0, "faces": 2
    }  # fmt: skip
    assert rows["mtcnn"]["faces"] == 1
    assert [entry["file"] for entry in told["origin"]["weights"]] == [
        "kpnet-lite-int8.onnx",
        "verifier-int8.onnx",
        "mtcnn.onnx",
    ]
    assert "own" in result.output
    assert (tmp_path / "plot.svg").read_text().count("kpnet-lite-int8, 640") >= 1


def test_a_file_is_timed_itself_beside_the_weights_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.onnx"
    own.write_bytes(read_weights("kpnet-lite-int8"))  # its metadata have that name
    loaded = []
    monkeypatch.setattr(
        lineament, "load", lambda name, load=lineament.load, **rest: [loaded.append(name), load(name, **rest)][1]
    )
    options = ["-m", str(own), "-m", "kpnet-lite-int8", "--input-size", "64", "--repeats", "1"]
    result = CliRunner().invoke(app, ["bench", str(PHOTO), *options, "--json", str(tmp_path / "a.json")])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "a.json").read_text())["tables"]["choices"]
    assert rows.keys() == {f"{own}, 64", "kpnet-lite-int8, 64"}
    assert loaded == [str(own), "kpnet-lite-int8"]


def test_installed_detectors_are_found_and_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dlib.py").write_text(
        "print('a line that is no answer')\n"
        "def get_frontal_face_detector():\n"
        "    return lambda image: range(image.shape[1] // 100)\n"
    )
    Image.new("RGB", (300, 40)).save(tmp_path / "photo.png")
    monkeypatch.setattr(peers, "PEERS", {name: peers.PEERS[name] for name in ("dlib", "deface")})
    assert "dlib" not in peers.installed()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    options = ["--peers", "-m", "kpnet-lite-int8", "--input-size", "64", "--repeats", "1"]
    result = CliRunner().invoke(
        app, ["bench", str(tmp_path / "photo.png"), *options, "--json", str(tmp_path / "a.json")]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "a.json").read_text())["tables"]["choices"]
    assert rows.keys() == {"kpnet-lite-int8, 64", "dlib"}
    assert rows["dlib"]["faces"] == 3
    assert rows["dlib"]["ms"] > 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["-m", "isnet-5"], "bench compares detectors"),
        (["-m", "none.onnx"], "none.onnx"),
        (["none.jpg"], "no such file"),
        (["-m", "mtcnn", "--peer", "mtcnn=true"], "choose another one"),
        (["-m", "mtcnn", "--peer", "own"], "--peer takes NAME=VALUE"),
        (["-m", "mtcnn", "--peer", "own=cat"], "should answer a path with one JSON line"),
    ],
)
def test_a_wrong_command_says_what_to_do(given: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["bench", *given, "--repeats", "1"])
    assert result.exit_code == 2
    assert words in result.output.replace("\n", " ")
