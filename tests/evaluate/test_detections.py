"""Detection files: round trips through each official format, and errors with file and line for bad input."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lineament.errors import DataError, OptionError
from lineament.evaluate.detections import (
    Detections,
    image_key,
    read_fddb,
    read_pascal,
    read_wider,
    write_fddb,
    write_pascal,
    write_wider,
)
from lineament.faces import Faces

Array = np.ndarray[Any, Any]
ROWS = np.array([[1.25, 2.5, 11.75, 22.5, 0.875], [0, 0, 4, 5, 0.5]])


def wider_file(folder: Path, text: str) -> Detections:
    (folder / "0--E").mkdir(exist_ok=True)
    (folder / "0--E" / "a.txt").write_text(text)
    return read_wider(folder)


def text_file(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


numbers = st.integers(-(2**20), 2**20).map(lambda n: n / 64)
row = st.tuples(numbers, numbers, numbers, numbers, st.integers(0, 1000).map(lambda n: n / 1000))
images = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.lists(row, max_size=4), min_size=1)


@given(images)
def test_round_trips(tmp_path_factory: pytest.TempPathFactory, content: dict[str, list[tuple[float, ...]]]) -> None:
    folder = tmp_path_factory.mktemp("found")
    found = {
        f"0--E/{name}": np.array(sorted(rows, key=lambda r: -r[4])).reshape(-1, 5) for name, rows in content.items()
    }
    write_wider(Detections(found), folder / "tree")
    write_fddb(Detections(found), folder / "fddb.txt")
    write_pascal(Detections({image_key(name): rows for name, rows in found.items()}), folder / "pascal.txt")
    for back in (read_wider(folder / "tree").images, read_fddb(folder / "fddb.txt").images):
        assert back.keys() == found.keys()
        for name, rows in found.items():
            np.testing.assert_allclose(back[name], rows, rtol=0, atol=1e-4)
    lines = read_pascal(folder / "pascal.txt").images
    assert lines.keys() == {image_key(name) for name, rows in found.items() if len(rows)}
    for name, rows in lines.items():
        np.testing.assert_allclose(rows, found[f"0--E/{name}"], rtol=0, atol=1e-4)


def test_trees_are_written_best_first(tmp_path: Path) -> None:
    write_wider(Detections({"e/a": ROWS[::-1]}), tmp_path)
    assert (tmp_path / "e/a.txt").read_text() == "a\n2\n1.25 2.5 10.5 20 0.875\n0 0 4 5 0.5\n"


def test_ellipses(tmp_path: Path) -> None:
    ellipses = Detections({"a": ROWS}).ellipses()
    np.testing.assert_allclose(ellipses.images["a"][0], [10, 5.25, np.pi / 2, 6.5, 12.5, 0.875])
    assert Detections({"a": np.array([[0, 0, 10, 4, 1.0]])}).ellipses().images["a"][0, :3].tolist() == [5, 2, 0]
    assert ellipses.ellipses() is ellipses
    write_fddb(ellipses, tmp_path / "e.txt")
    back = read_fddb(tmp_path / "e.txt")
    assert back.shape == "ellipse"
    np.testing.assert_allclose(back.images["a"], ellipses.images["a"], atol=1e-8)
    with pytest.raises(OptionError, match="rectangles"):
        write_wider(ellipses, tmp_path)


def test_from_faces() -> None:
    faces = Faces.of([[1, 2, 3, 4]], [0.5], np.zeros((1, 5, 2)), image_size=(9, 9))
    found = Detections.of({"a": faces, "b": faces[[]]})
    assert found.images["a"].tolist() == [[1, 2, 3, 4, 0.5]]
    assert (len(found), found.images["b"].shape) == (1, (0, 5))


# --- WIDER FACE ---


@pytest.mark.parametrize(
    ("text", "count", "note"),
    [
        ("a\n1\n1 2 3 4 .5\n1 2 3 4 .4\n", 1, "1 rows beyond the announced number, ignored .*a.txt:4"),
        ("a\n2\n1 2 3 4 .5\n", 0, "1 files with fewer rows than they announce: no detections.*a.txt:2"),
        ("a\n1\n1 2 3 x .5\n", 0, "1 files with an unreadable row: no detections.*a.txt:3"),
        ("a\n2\n1 2 3 4 .5\n1 2 3 4\n", 0, "1 files with an unreadable row: no detections.*a.txt:4"),
        ("a\n", 0, "1 files without a count in their second line: no detections.*a.txt"),
        ("a\nmany\n", 0, "1 files without a count in their second line: no detections.*a.txt"),
        ("a\n1\n1 2 3 4 .5 9\n", 1, "1 rows with more than five numbers; the fifth is the score.*a.txt:3"),
        ("a\n2\n1 2 -3 4 .5\n1 2 3 0 .4\n", 2, "2 detections with a size of zero or less, kept.*a.txt:3"),
        ("a\n2\n1 2 3 4 .5\n1 2 3 4 7\n", 2, r"1 scores outside \[0, 1\], kept.*a.txt:4"),
        ("a\n2\n1 2 3 4 .5\n1 2 3 4 .7\n", 2, "1 rows with a higher score than the row before; sorted.*a.txt:4"),
    ],
)
def test_wider_files_that_are_read_with_a_note(tmp_path: Path, text: str, count: int, note: str) -> None:
    found = wider_file(tmp_path, text)
    assert len(found) == count
    assert list(found.images) == ["0--E/a"]
    assert any(re.match(note, found_note) for found_note in found.notes)


def test_wider_files_without_detections_need_no_note(tmp_path: Path) -> None:
    found = wider_file(tmp_path, "a\n0\n")
    assert (len(found), found.notes) == (0, ())


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_wider_numbers_that_are_not_finite(tmp_path: Path, bad: str) -> None:
    with pytest.raises(DataError, match=r"a\.txt:4: expected finite numbers"):
        wider_file(tmp_path, f"a\n2\n1 2 3 4 .5\n1 {bad} 3 4 .5\n")


def test_an_empty_tree(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected detection files <event>/<name>\.txt"):
        read_wider(tmp_path)


def test_files_that_are_no_detections_are_counted(tmp_path: Path) -> None:
    for name in ("readme.txt", "0--E/a.json", "0--E/deep/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = wider_file(tmp_path, "a\n1\n1 2 3 4 .5\n")
    assert list(found.images) == ["0--E/a"]
    assert re.match(r"3 files that are not <event>/<name>\.txt, not read \(first: .*a\.json\)", found.notes[0])


# --- FDDB ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n2\n1 2 3 4 .5\nb\n0\n", r"f\.txt:4: expected a rectangle"),
        ("a\n1\n1 2 3 4 .5\n1 2 3 4 .5\nb\n0\n", r"f\.txt:5: expected the number of faces"),
        ("a\n1\n1 2 3 4 .5\na\n0\n", r"f\.txt:4: the image a is in this file twice, first at .*f\.txt:1"),
        ("a\n2\n1 2 3 4 .5\n1 2 3 4 5 .5\n", r"f\.txt:4: expected a rectangle \(5 numbers\) or an ellipse"),
        ("a\n1\n1 2 nan 4 .5\n", r"f\.txt:3: a number is not finite"),
        ("a\n2\n1 2 0 4 5 .5\n2 -1 0 4 5 .5\n", r"f\.txt:4: expected radii of 0 or more, found a negative one"),
        ("a\n1\n1 2 x 4 .5\n", r"f\.txt:3: expected numbers"),
        ("a\n3\n1 2 3 4 .5\n", r"f\.txt:1: the file ends within the block"),
    ],
)
def test_bad_fddb_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_fddb(text_file(tmp_path, "f.txt", text))


def test_missing_files(tmp_path: Path) -> None:
    for read in (read_fddb, read_pascal):
        with pytest.raises(DataError, match=r"none\.txt"):
            read(tmp_path / "none.txt")


# --- AFW and PASCAL ---


def test_keys_end_at_the_first_dot() -> None:
    assert [image_key(k) for k in ("a", "b.c.jpg", "d\\e\\f.jpg", "g/h.png")] == ["a", "b", "f", "h"]


def test_pascal_lines(tmp_path: Path) -> None:
    found = read_pascal(text_file(tmp_path, "f.txt", "a.jpg .9 1 2 3 4\nb .5 5 6 7 8\na .4 1 1 9 9\n"))
    assert found.images["a"].tolist() == [[1, 2, 3, 4, 0.9], [1, 1, 9, 9, 0.4]]
    assert found.images["b"].tolist() == [[5, 6, 7, 8, 0.5]]


def test_pascal_matlab_forms(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    ids = np.array(["a.jpg", "b.jpg"], object).reshape(-1, 1)
    boxes = ROWS[:, :4].T
    scipy_io.savemat(tmp_path / "f.mat", {"ids": ids, "confidence": [[0.875], [0.5]], "BB": boxes, "del": [[0, 1]]})
    found = read_pascal(tmp_path / "f.mat")
    assert {k: r.tolist() for k, r in found.images.items()} == {"a": [ROWS[0].tolist()]}
    assert "1 rows left out because the file marks them in del" in found.notes[0]
    scipy_io.savemat(tmp_path / "f.ramananmat", {"ids": ids, "BB": boxes}, appendmat=False)
    assert read_pascal(tmp_path / "f.ramananmat").images["b"].tolist() == [[0, 0, 4, 5, 1]]
    (tmp_path / "g.mat").write_bytes((tmp_path / "f.ramananmat").read_bytes())
    with pytest.raises(DataError, match="expected the variables ids, confidence, BB"):
        read_pascal(tmp_path / "g.mat")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("f.txt", "a .9 1 2 3 4\na .9 1 2 3\n", r"f\.txt:2: expected 5 numbers, found 4"),
        ("f.txt", "a nan 1 2 3 4\n", r"f\.txt:1: a number is not finite"),
        ("f.csv", "heading\na;b;c\n", r"f\.csv:2: expected 4 numbers, found 0"),
        ("f.csv", "heading\n;;a.jpg;;;;;1;2;3;x\n", r"f\.csv:2: expected numbers"),
        ("f.json", "{}", r"expected a suffix out of \.txt, \.mat"),
    ],
)
def test_bad_pascal_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pascal(text_file(tmp_path, name, text))
