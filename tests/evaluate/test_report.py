"""The report on several detectors, and the format of results that it reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lineament.errors import DataError
from lineament.evaluate.results import Result, curve, read_result, write_result

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from lineament.evaluate.report import cut_example, draw_curves, write_report

ORIGIN = {
    "date": "2026-11-28",
    "version": "0.1.0",
    "commit": "abc123",
    "weights": [{"file": "x.onnx", "sha256": "0123456789"}],
    "machine": {"processor": "a processor"},
}


def result(name: str, nme: float | None = 0.05, path: str = "a.png") -> Result:
    return Result(
        protocol="landmarks",
        name=name,
        scores={"faces": 1234, "nme": nme},
        tables={"subsets": {"mask": {"nme": 0.07}}},
        curves={"ced": curve([0, 0.1], [0, 1], "error", "share"), "time: <b>": curve([1, 9], [2, 3], "faces", "ms")},
        settings={"data": "val.json", "threshold": None, "notes": ["one picture is missing"]},
        origin=ORIGIN,
        examples=[
            {"kind": "landmark error", "path": path, "value": 0.3, "box": [10, 10, 30, 30], "truth": [[20, 20], None]}
        ],
    )


def test_a_result_goes_round(tmp_path: Path) -> None:
    written = result("x", nme=float("nan"))
    write_result(tmp_path / "x.json", written)
    found = read_result(tmp_path / "x.json")
    assert found.scores == {"faces": 1234, "nme": None}
    assert (found.tables, found.curves, found.examples) == (written.tables, written.curves, written.examples)


def test_arrays_and_paths_become_plain(tmp_path: Path) -> None:
    example = {"path": Path("a.png"), "box": np.array([1.5, np.nan]), "value": np.float32(0.5)}
    write_result(tmp_path / "x.json", Result("p", "n", {"n": np.int64(3)}, examples=[example]))  # type: ignore[dict-item]
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["examples"] == [{"path": "a.png", "box": [1.5, None], "value": 0.5}]
    assert found["scores"] == {"n": 3}


@pytest.mark.parametrize("text", ["", "[]", "3", '{"protocol": "x", "name": "y"}'])
def test_what_is_no_result(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json: expected the result"):
        read_result(tmp_path / "x.json")


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    found = curve(np.arange(10000), np.where(np.arange(10000) == 5, np.nan, 1.0), "x", "y")
    assert len(found["x"]) == 400
    assert (found["x"][0], found["x"][-1]) == (0, 9999)
    assert curve([], [], "x", "y")["x"] == []


def test_one_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (10, 20, 200)).save(tmp_path / "a.png")
    for name in ("ours", "peer & co"):
        write_result(tmp_path / "results" / f"{name}.json", result(name))
    (tmp_path / "results" / "labels.json").write_text('{"images": []}')
    written = write_report(tmp_path / "results", tmp_path / "page.html", tmp_path)
    page = written[0].read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "peer &amp; co" in page
    assert "<th>ours</th><th>peer &amp; co</th>" in page
    assert "<td>faces</td><td>1,234</td><td>1,234</td>" in page
    assert "<td>mask · nme</td><td>0.0700</td><td>0.0700</td>" in page
    assert page.count("data:image/svg+xml") == 2
    assert page.count("data:image/jpeg") == 2
    assert "labels.json" in page
    assert '<div class="small">ours: data val.json</div>' in page
    assert '<div class="small">ours: one picture is missing</div>' in page
    assert "ours: measured 2026-11-28, lineament 0.1.0 abc123, x.onnx 01234567, a processor</div>" in page
    assert [path.name for path in written] == ["page.html", "1-ced.svg", "1-ced.png", "1-time.svg", "1-time.png"]
    assert all("<svg" in path.read_text() for path in written if path.suffix == ".svg")
    assert all(Image.open(path).size > (500, 300) for path in written if path.suffix == ".png")
    again = write_report(tmp_path / "results", tmp_path / "again.html", tmp_path)
    assert again[0].read_text() == page


def test_false_positives_are_drawn_from_one_to_many_thousands() -> None:
    roc = Result("fddb", "x", {}, curves={"roc": curve([0, 9, 20_000], [0.1, 0.5, 0.9], "false positives", "recall")})
    assert b"10^{3}" in draw_curves("roc", [roc]).svg


def test_examples_without_their_pictures_are_left_out(tmp_path: Path) -> None:
    write_result(tmp_path / "x.json", result("x", path="gone.png"))
    (page, *_) = write_report(tmp_path, tmp_path / "out" / "page.html")
    assert "data:image/jpeg" not in page.read_text()


def test_nothing_to_report_and_two_of_a_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no result"):
        write_report(tmp_path, tmp_path / "page.html")
    write_result(tmp_path / "a.json", result("x"))
    write_result(tmp_path / "b.json", result("x"))
    with pytest.raises(DataError, match=r"b\.json: a second result of 'x'"):
        write_report(tmp_path, tmp_path / "page.html")


def test_an_example_is_cut_round_its_box() -> None:
    picture = Image.new("RGB", (200, 200))
    picture.paste((200, 0, 0), (100, 100, 140, 140))
    cut = np.asarray(cut_example(picture, {"box": [100, 100, 140, 140], "landmarks": [[120, 120]]}))
    assert cut.shape == (128, 128, 3)
    assert cut[50, 50].tolist() == [200, 0, 0]
    assert cut[5, 5].tolist() == [0, 0, 0]
    assert cut[64, 64].tolist() == [255, 0, 0]
