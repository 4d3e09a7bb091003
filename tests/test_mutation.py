"""The mutation run changes only code that matters, depends on its seed, and distinguishes killed mutants."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mutation
import pytest

CODE = '''"""A docstring."""
from typing import Literal, cast
Kind = Literal["a", "b"]

def scaled(x: float, factor: float = 2.0) -> float:
    """Another."""
    if x < 0:
        raise ValueError("expected x of 0 or more" + str(x * 1))
    _log.info("scaling by %s", factor)
    for a, b in zip([x], [factor], strict=True):
        x = cast("float", a * b)
    return x
'''


def test_what_cannot_matter_stays(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(CODE)
    sources = [mutation.Source(tmp_path, "code.py")]
    everything = mutation.draw(sources, 1000, "0")
    assert len({x.code for x in everything}) == len(everything)
    assert {x.line for x in everything} == {5, 7, 8, 10, 11}
    found = {(x.before, x.after) for x in everything}
    assert {
        ("def scaled(x: float, factor: float = 2.0) -> float:", "def scaled(x: float, factor: float = 3.0) -> float:"),
        ("if x < 0:", "if x <= 0:"),
        ('raise ValueError("expected x of 0 or more" + str(x * 1))', "pass"),
    } <= found
    assert not [after for _, after in found if "strict" in after and "strict=True" not in after]
    few = mutation.draw(sources, 5, "0")
    assert few == mutation.draw(sources, 5, "0") != mutation.draw(sources, 5, "1")
    assert len(few) == 5


def test_a_fault_is_noticed_in_a_copy_of_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    monkeypatch.setattr(mutation, "ROOT", tree)
    for name, content in {
        "src/lineament/__init__.py": "def double(x):\n    return 2 * x\n",
        "test_double.py": "import lineament\n\ndef test_it():\n    assert lineament.double(2) == 4\n",
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(content)
    subprocess.run(["git", "init", "--quiet", tree], check=True)
    (tmp_path / "copy").mkdir()
    copy = mutation.Copy(tmp_path / "copy")
    for code, limit, survives in (
        ("return x + x", 60, True),
        ("return 3 * x", 60, False),
        ("while True: pass", 1, False),
    ):
        mutant = mutation.Mutant("__init__.py", 2, "", "", f"def double(x):\n    {code}\n")
        assert copy.survives(mutant, ["test_double.py"], limit) is survives
    for folder in (tree, copy.folder):
        assert "2 * x" in (folder / "src/lineament/__init__.py").read_text()
