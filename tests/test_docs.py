"""What the pages print runs as printed: Python blocks, and the lines of shell blocks that begin with ``lineament``."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lineament
from lineament.cli import app

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


PAGES = [
    "README.md",
    "docs/guide.md",
    *(f"docs/methods/{p.name}" for p in sorted((ROOT / "docs" / "methods").glob("*.md"))),
]


@pytest.mark.parametrize("page", PAGES)
def test_pages_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for kind, code in BLOCK.findall((ROOT / page).read_text()):
        if kind == "python":
            exec(compile(code, page, "exec"), names)
            continue
        for line in code.splitlines():
            if line.startswith("lineament "):
                result = CliRunner().invoke(app, shlex.split(line)[1:])
                assert result.exit_code == 0, f"{line}\n{result.output}"


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    links = [(page, link) for page in pages for link in LINK.findall(page.read_text())]
    assert not [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]


def test_the_changelog_knows_this_version() -> None:
    assert f"## [{lineament.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
