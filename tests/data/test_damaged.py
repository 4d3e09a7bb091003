"""Randomly damaged files: every reader reads them, or names the file and the damage."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lineament.data.readers.celeba import read_celeba
from lineament.data.readers.coco import read_coco, read_coco_wholebody
from lineament.data.readers.fddb import read_fddb
from lineament.data.readers.five import read_mtfl, read_sun
from lineament.data.readers.ibug300w import read_pts
from lineament.data.readers.malf import read_malf
from lineament.data.readers.matlab import read_mat
from lineament.data.readers.wflw import read_wflw
from lineament.data.readers.wider import read_retinaface, read_wider
from lineament.errors import DataError, LineamentError, OptionError
from lineament.evaluate import detections as official
from lineament.records import read_records
from lineament.train.recipe import Recipe, read_recipe

TRIES = 40  # per reader; a few thousand, run by hand, find no more errors

ODD = ["", "²", "-1", "1e400", "9" * 400, "nan", "inf", "0x10", "1_0", "٣", "\x00", "\\", "é", "{", "1.5", "1e30"]
ODD_VALUES: list[Any] = [
    *(None, [], {}, "", "0", "text", True, -1, 0, 1.5, 2, 1e30, 1e308, 10**30, 10**400, float("nan"), float("inf")),
    *([[]], [None], {"a": 1}, {"a": [1]}, [1, 2], ["1", "2", "3", "4"]),
]

FACE = {
    "id": 1,
    "image_id": 1,
    "category_id": 1,
    "iscrowd": 0,
    "bbox": [1, 2, 3, 4],
    "keypoints": [1, 2, 2] * 5,
    "mask": True,
    "box_source": "human",
    "attributes": {"pose": "left", "age": 3},
}
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48, "source": "s"}, {"id": 2, "file_name": "b"}],
    "annotations": [FACE, FACE | {"id": 2, "image_id": 2}],
    "categories": [{"id": 1, "name": "face", "keypoints": list("abcde")}],
}
WHOLEBODY = COCO | {
    "annotations": [FACE | {"face_box": [1, 2, 3, 4], "face_kpts": [1, 2, 0.5] * 68, "face_valid": True}]
}
FOUND = {
    "path": "a.jpg",
    "width": 64,
    "height": 48,
    "schema": "5",
    "faces": [
        {"box": [1, 2, 3, 4], "score": 0.9, "landmarks": [[1, 2], None, [3, 4], [5, 6], [7, 8]]},
        {"box": [1, 2, 3, 4], "score": 0.8, "landmarks": [[1, 2]] * 5, "landmark_scores": [0.5, None, 0, 1, 0.1]},
    ],
}
ROWS = "a.jpg\n2\n10 20 30 40 0.9\n5 6 7 8 0.8\nb.jpg\n1\n1 2 3 4 0.7\n"


@dataclass(frozen=True)
class Format:
    """A reader, and a small file for it: a text, or a JSON object."""

    read: Callable[[Path], Any]
    content: Any

    def damaged(self, rng: random.Random) -> bytes:
        if isinstance(self.content, str):
            return damaged_text(self.content, rng)
        if rng.random() < 0.2:
            return damaged_text(json.dumps(self.content), rng)
        return json.dumps(damaged_value(self.content, rng)).encode()


FORMATS = {
    "coco": Format(read_coco, COCO),
    "wholebody": Format(read_coco_wholebody, WHOLEBODY),
    "records": Format(lambda path: list(read_records(path)), FOUND),
    "wider": Format(lambda path: read_wider(path, "images"), ROWS),
    "malf": Format(lambda path: read_malf(path, "images"), ROWS),
    "retinaface": Format(
        lambda path: read_retinaface(path, ""), f"# a.jpg\n1 2 3 4{' 5 6 0.0' * 5} 0.5\n# b.jpg\n1 2 3 4\n"
    ),
    "fddb": Format(lambda path: read_fddb(path, "images"), "a/b\n1\n30 20 1.5 40 50 1\nc\n0\n"),
    "pts": Format(read_pts, "version: 1\nn_points: 2\n{\n1 2\n3.5 4\n}\n"),
    "wflw": Format(lambda path: read_wflw(path, ""), " ".join(map(str, range(200))) + " 0 1 0 1 0 1 a.jpg\n"),
    "celeba": Format(lambda path: read_celeba(path, ""), f"2\nnames\na.jpg{' 5' * 10}\nb.jpg{' 6' * 10}\n"),
    "sun": Format(lambda path: read_sun(path, ""), f"a\\b.jpg 1 9 2 9{' 5' * 10}\n"),
    "mtfl": Format(lambda path: read_mtfl(path, ""), f"a\\b.jpg{' 5' * 10} 1 2 1 3\n"),
    "detections of wider": Format(lambda path: official.read_wider(path.parent.parent), ROWS),
    "detections of fddb": Format(official.read_fddb, ROWS),
    "detections of pascal": Format(lambda path: official.read_pascal(path.with_suffix(".txt")), "a 0.9 1 2 3 4\n" * 3),
    "recipe": Format(lambda path: read_recipe(path, Recipe, "net"), 'seed = 1\n[net]\ntrain = ["é"]\nsteps = 10\n'),
}


def damaged_text(text: str, rng: random.Random) -> bytes:
    """Replace words, drop lines, change bytes, or cut the file."""
    kind = rng.randrange(4)
    if kind == 0:
        words = text.replace("\n", " \n ").split(" ")
        for _ in range(rng.randint(1, 3)):
            words[rng.randrange(len(words))] = rng.choice(ODD)
        return " ".join(words).encode()
    if kind == 1:
        lines = text.splitlines(keepends=True)
        del lines[rng.randrange(len(lines))]
        return "".join(lines + lines[: rng.randrange(3)]).encode()
    content = bytearray(text.encode())
    if kind == 2:
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        return bytes(content)
    return bytes(content[: rng.randrange(len(content))])


def damaged_value(value: Any, rng: random.Random) -> Any:
    """A copy in which one or two values, at any depth, are replaced by odd ones, removed or repeated."""
    found = copy.deepcopy(value)
    for _ in range(rng.randint(1, 2)):
        holder, key = rng.choice(list(places(found)) or [({}, "")])
        kind = rng.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        else:
            holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return found


def places(value: Any) -> Iterable[tuple[Any, Any]]:
    if not isinstance(value, (dict, list)):
        return
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        yield from places(item)


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_read_or_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "event"
    folder.mkdir()
    path, given, rng = folder / "file.txt", FORMATS[name], random.Random(name)
    content = given.content if isinstance(given.content, str) else json.dumps(given.content)
    path.write_bytes(content.encode())
    given.read(path)  # the undamaged file is read
    for _ in range(TRIES):
        path.write_bytes(content := given.damaged(rng))
        with np.errstate(over="raise", invalid="raise"):
            try:
                given.read(path)
            except LineamentError as error:
                named = str(tmp_path) in str(error)
            else:
                named = True
            assert named, content


def test_numbers_are_written_in_plain_digits(tmp_path: Path) -> None:
    """Python's own parsers also accept 1_0 and the digits of any script."""
    path = tmp_path / "a.txt"
    for number in ("1_0", "²", "٣"):
        path.write_text(f"version: 1\nn_points: {number}\n{{\n1 2\n}}\n")
        with pytest.raises(DataError, match=r"a\.txt: expected 'version"):
            read_pts(path)
        path.write_text(f"a.jpg\n{number}\n1 2 3 4\n")
        with pytest.raises(DataError, match=r"a\.txt:2: expected the number of faces"):
            read_wider(path, "")
        path.write_text(f"a.jpg\n1\n1 2 3 {number}\n")
        with pytest.raises(DataError, match=r"a\.txt:3: expected numbers"):
            read_wider(path, "")


def test_a_recipe_in_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes("[net]  # café\n".encode("latin-1"))
    with pytest.raises(OptionError, match=r"recipe\.toml is not UTF-8"):
        read_recipe(path, Recipe, "net")


def test_a_damaged_matlab_file_is_named(tmp_path: Path) -> None:
    """With sizes beyond the file, SciPy allocates huge arrays or reads beyond its buffers."""
    path = tmp_path / "a.mat"
    pytest.importorskip("scipy.io").savemat(path, {"ids": np.array([["a", "b"]], object)})
    assert read_mat(path)["ids"] == ["a", "b"]
    content = path.read_bytes()
    dimensions = content.index(np.array([1, 2], "<i4").tobytes())
    for damaged in (
        content[: dimensions + 3],
        content[:dimensions] + np.array([2**30, 1], "<i4").tobytes() + content[dimensions + 8 :],
        b"MATLAB" + content[6:100],
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.mat: expected a MATLAB file, found a damaged one"):
            read_mat(path)
