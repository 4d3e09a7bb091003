"""The numbers in the pages equal those of the stored results, which belong to the shipped weights."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import kept
import pytest
import tables

import lineament
from lineament.evaluate.origin import describe_weights, is_current
from lineament.evaluate.results import Result
from lineament.weights import Model

PAGES = {page.relative_to(kept.ROOT).as_posix(): page for page in tables.pages()}
NUMBER = re.compile(r"[-+–~]?\d[\d,]*(\.\d+)?( ?(%|px|ms|MB|s))?")
MADE = re.compile(r"<!-- (table|value): .*?<!-- end -->", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`\n]*`|\]\([^)]*\)", re.DOTALL)
ORIGIN = {
    "date": "2026-11-28",
    "version": "0.1.0",
    "commit": "abc",
    "weights": [{"file": "mtcnn.onnx", "sha256": "0" * 64}],
    "data": None,
    "machine": {"processor": "a processor", "threads": 2},
    "packages": {"onnxruntime": "1.0"},
}
AGAIN = "measure again (make results), or keep it, marked as old: python benchmarks/tables.py --keep"


@pytest.mark.parametrize("page", PAGES)
def test_figures_of_a_page_are_those_of_the_results(page: str) -> None:
    written = PAGES[page].read_text(encoding="utf-8")
    assert written == tables.render(written), f"{page} differs from docs/results/data: make tables"


@pytest.mark.parametrize("name", kept.names())
def test_results_are_of_the_weights_that_ship_or_marked(name: str) -> None:
    for test, result in kept.read(name).items():
        assert result.origin.keys() >= ORIGIN.keys(), f"{name}: {test} does not say where it comes from"
        assert is_current(result.origin) or result.origin.get("kept"), (
            f"{name}: {test} is of weights that no longer ship; {AGAIN}"
        )


@pytest.mark.parametrize("model", lineament.models(), ids=lambda model: model.name)
def test_scores_of_the_manifest_are_those_of_the_results(model: Model) -> None:
    assert model.scores == tables.scores_of(model.name), "make tables"


def numeric_tables(page: str) -> list[str]:
    """The headings of tables in which at least a third of the cells, without the first column, are numbers."""
    found = []
    for in_table, lines in groupby(page.splitlines(), lambda line: line.startswith("|")):
        if in_table:
            heading, _, *rows = lines
            cells = [cell.strip(" *") for row in rows for cell in row.strip("|").split("|")[1:]]
            if cells and sum(bool(NUMBER.fullmatch(cell)) for cell in cells) >= len(cells) / 3:
                found.append(heading)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_no_table_of_numbers_of_its_own(page: str) -> None:
    assert not numeric_tables(MADE.sub("", PAGES[page].read_text(encoding="utf-8")))


def test_a_table_of_numbers_is_told_from_others() -> None:
    assert numeric_tables("| x | easy |\n|---|---|\n| kpnet | 93.7 |\n| mtcnn | – |") == ["| x | easy |"]
    assert not numeric_tables("| setting | default | what |\n|---|---|---|\n| nms | 0.6 | text |\n| a | `b` | text |")


@pytest.mark.parametrize("page", [name for name in PAGES if name.startswith("docs/results/")])
def test_results_pages_have_no_measured_figures_in_their_text(page: str) -> None:
    text = CODE.sub("", MADE.sub("", PAGES[page].read_text(encoding="utf-8")))
    text = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    allowed = {"5.77", "0.02", "0.1", "0.3", "0.5", "0.6"}  # the paper's NME; thresholds
    assert not set(re.findall(r"(?<![\w.-])\d+\.\d+|\d+ ?%", text)) - allowed


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """One stored result of weights that never shipped."""
    monkeypatch.setattr(kept, "FOLDER", tmp_path)
    kept.read.cache_clear()
    result = Result("wider", "mtcnn", {"easy": 90.66, "medium": 88.8, "hard": None}, origin=ORIGIN)
    kept.keep("mtcnn", "wider-val", result)
    yield result  # type: ignore[misc]
    kept.read.cache_clear()


PAGE = "a\n<!-- table: mtcnn -->\nold\n<!-- end -->\nb <!-- value: mtcnn | wider-val | easy -->1<!-- end --> c\n"


def test_old_weights_are_marked_and_have_to_be_allowed(results: Result) -> None:
    made = tables.render(PAGE)
    gone = "easured 2026-11-28 with weights that no longer ship"
    assert "| **mtcnn** | 90.7¹ | 88.8¹ | – |" in made
    assert f"*¹ M{gone} on a processor, 2 threads: `mtcnn.onnx` 00000000.*" in made
    assert f"-->90.7 (m{gone})<!-- end --> c" in made
    assert tables.render(made) == made
    assert "kept" not in kept.read("mtcnn")["wider-val"].origin
    tables.keep_old()
    assert kept.read("mtcnn")["wider-val"].origin["kept"]


def test_current_weights_are_named(results: Result) -> None:
    current = replace(results, origin=ORIGIN | {"weights": [describe_weights("mtcnn")]})
    kept.keep("mtcnn", "wider-val", current)
    made = tables.render(PAGE)
    sha256 = describe_weights("mtcnn")["sha256"]
    assert "| **mtcnn** | 90.7 | 88.8 | – |" in made
    assert f"*Measured 2026-11-28 on a processor, 2 threads: `mtcnn.onnx` {sha256[:8]}.*" in made
    assert "-->90.7<!-- end --> c" in made


def test_another_figure_is_another_page(results: Result) -> None:
    made = tables.render(PAGE)
    kept.keep("mtcnn", "wider-val", replace(results, scores={"easy": 90.5}))
    assert tables.render(made) != made


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="no such"):
        tables.render("<!-- table: no such -->\n<!-- end -->")
