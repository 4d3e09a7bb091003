"""Results record the weights, code, data and machine that they come from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import lineament
from lineament.evaluate.origin import commit, describe_weights, digest, is_current, origin, with_origin
from lineament.evaluate.results import Result, read_result, write_result
from lineament.weights import FOLDER


def test_an_origin_names_everything_and_goes_round(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("{}")
    found = origin(weights=["mtcnn"], data=tmp_path / "labels.json", threads=2)
    sha = hashlib.sha256((FOLDER / "mtcnn.onnx").read_bytes()).hexdigest()
    assert found["weights"] == [{"file": "mtcnn.onnx", "sha256": sha}]
    assert found["data"] == {"name": "labels.json", "sha256": hashlib.sha256(b"{}").hexdigest()}
    assert (found["version"], found["machine"]["threads"]) == (lineament.__version__, 2)
    assert found["packages"].keys() >= {"python", "numpy", "onnxruntime"}
    result = with_origin(Result("recall", "x", {"pictures": 3, "faces": 7}), found)
    write_result(tmp_path / "x.json", result)
    again = read_result(tmp_path / "x.json").origin
    assert again["data"] == found["data"] | {"images": 3, "faces": 7}
    assert again | {"data": None} == found | {"data": None}


def test_a_folder_has_the_digest_of_its_names_and_contents(tmp_path: Path) -> None:
    digests = set()
    for name, content in (("a", "1"), ("b", "1"), ("b", "2")):
        folder = tmp_path / name / content / "folder"
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / name).write_text(content)
        digests.add(digest(folder))
    assert len(digests) == 3


def test_a_copy_has_its_own_name_and_the_same_digest(tmp_path: Path) -> None:
    (tmp_path / "own.onnx").write_bytes((FOLDER / "mtcnn.onnx").read_bytes())
    assert describe_weights(tmp_path / "own.onnx") == describe_weights("mtcnn") | {"file": "own.onnx"}


@pytest.mark.parametrize(
    ("file", "sha256", "current"),
    [("mtcnn.onnx", None, True), ("mtcnn.onnx", "0" * 64, False), ("own.onnx", "0" * 64, True)],
)
def test_results_of_other_weights_than_those_that_ship_are_old(file: str, sha256: str | None, current: bool) -> None:
    used = {"file": file, "sha256": sha256 or describe_weights("mtcnn")["sha256"]}
    assert is_current({"weights": [used]}) is current
    assert is_current({"weights": [describe_weights("kpnet"), used]}) is current


def test_no_commit_of_a_repository_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineament, "__file__", str(tmp_path / "lib" / "lineament" / "__init__.py"))
    assert commit() is None
