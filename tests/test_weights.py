"""The shipped files equal the manifest, and nothing else loads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import lineament
from lineament import weights
from lineament.errors import OptionError, WeightsError
from lineament.methods import METHODS
from lineament.schemas import SCHEMAS
from lineament.weights import FOLDER, MANIFEST, Model, describe_file, read_weights, register


def test_the_manifest_says_what_the_files_say(tmp_path: Path) -> None:
    listed = {model.file: model for model in lineament.models()}
    assert listed.keys() == {path.name for path in FOLDER.glob("*.onnx")}
    for name, model in listed.items():
        assert unscored(describe_file(FOLDER / name)) == unscored(model)
        assert model.method in METHODS
        assert model.schema in SCHEMAS
        assert model.licence
        assert model.training_data
        register(Path(shutil.copy(FOLDER / name, tmp_path)))
    registered = [Model(**entry) for entry in json.loads((tmp_path / MANIFEST).read_text())]
    assert [unscored(model) for model in registered] == [unscored(model) for model in lineament.models()]


def unscored(model: Model) -> Model:
    """Drop the scores, which benchmarks/tables.py measures with the finished file."""
    return replace(model, scores={})


def test_all_weights_together_stay_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 30e6


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_one_flipped_byte_of_shipped_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FOLDER, tmp_path / "weights")
    model = lineament.models()[0]
    flip_a_byte(tmp_path / "weights" / model.file)
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    with pytest.raises(WeightsError, match=rf"{model.file} is damaged: its SHA-256"):
        lineament.load(model.name)
    (tmp_path / "weights" / model.file).unlink()
    with pytest.raises(WeightsError, match=r"cannot read the weights.*install"):
        lineament.load(model.name)


def test_a_registered_file_is_checked_and_another_is_not(tmp_path: Path) -> None:
    model = lineament.models()[0]
    file = Path(shutil.copy(FOLDER / model.file, tmp_path / "own.onnx"))
    assert len(read_weights(file)) == model.bytes
    register(file)
    register(file)
    assert len(read_weights(file)) == model.bytes
    flip_a_byte(file)
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(file)


@pytest.mark.parametrize("content", ['{"name": "My web app"}', '[{"name": "My web app"}]', "{", "\xff"])
def test_a_foreign_manifest_is_named_and_kept(tmp_path: Path, content: str) -> None:
    file = Path(shutil.copy(FOLDER / lineament.models()[0].file, tmp_path / "own.onnx"))
    (tmp_path / MANIFEST).write_text(content, encoding="latin-1")
    for use in (read_weights, register):
        with pytest.raises(
            WeightsError, match=r"manifest\.json is not a list of lineament's weights.*folder of their own"
        ):
            use(file)
    assert (tmp_path / MANIFEST).read_text(encoding="latin-1") == content


def test_settings_of_another_version_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineament.methods.parse_metadata", lambda _: ("mtcnn", {"landmarks": "5", "wings": 2}))
    with pytest.raises(WeightsError, match=r"not those of this version's mtcnn.*wings"):
        lineament.load("mtcnn")


def test_unknown_names_and_foreign_files_teach(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"'retina'.*mtcnn"):
        lineament.load("retina")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(WeightsError):
        lineament.load(tmp_path / "empty.onnx")


@pytest.mark.parametrize("model", lineament.models(), ids=lambda model: model.name)
def test_shipped_files_keep_nothing_of_the_machine_that_made_them(model: Model) -> None:
    assert b"stack_trace" not in (FOLDER / model.file).read_bytes()
