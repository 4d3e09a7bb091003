"""The pages are true: Python blocks run, and so do lines of shell blocks that begin with ``lineament``."""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import lineament
from lineament.cli import app
from lineament.data.readers.coco import read_coco
from lineament.errors import LineamentError
from lineament.weights import FOLDER
from scenes import write_data

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGE = re.compile(r"[\w/-]+\.md")
DESCRIBED = re.compile(r"^::: (lineament[\w.]*)\n(?:    options:\n      members: \[(.*)\])?", re.MULTILINE)
REFERENCE = sorted((ROOT / "docs" / "reference").glob("*.md"))
PYTHON = ROOT / "docs" / "reference" / "python.md"
LINK = re.compile(r"\]\((?!https?://)([^)#]*)(?:#([^)]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


PAGES = [
    "README.md",
    "docs/index.md",
    "docs/guide.md",
    *(f"docs/{kind}/{p.name}" for kind in ("guides", "methods") for p in sorted((ROOT / "docs" / kind).glob("*.md"))),
]


@pytest.mark.parametrize("page", PAGES)
def test_pages_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    if "clip.mp4" in (ROOT / page).read_text():
        _write_clip(tmp_path / "clip.mp4")
    names: dict[str, object] = {}
    for kind, code in BLOCK.findall((ROOT / page).read_text()):
        if kind == "python":
            exec(compile(code, page, "exec"), names)
            continue
        for line in code.splitlines():
            if line.startswith("lineament "):
                result = CliRunner().invoke(app, shlex.split(line)[1:])
                assert result.exit_code == 0, f"{line}\n{result.output}"


def _write_clip(path: Path) -> None:
    """A camera that moves over a photo."""
    from clips import write_clip

    photo = lineament.read_image(ROOT / "examples" / "photos" / "obama-2012.jpg")[::2, ::2]
    write_clip(path, [photo[:180, 2 * t : 320 + 2 * t] for t in range(10)], sound=True)


def test_the_page_on_own_photos_reads_both_exports_and_splits_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    index = write_data(tmp_path, 2)
    (tmp_path / "own").mkdir()
    (tmp_path / "scenes").rename(tmp_path / "own" / "photos")
    exported = json.loads(index.read_text())
    for image in exported["images"]:
        image["file_name"] = Path(image["file_name"]).name
    exported["categories"][:0] = [{"id": 9, "name": "face_box", "keypoints": [], "skeleton": []}]
    (tmp_path / "person_keypoints_default.json").write_text(json.dumps(exported))
    (tmp_path / "export.json").write_text('[{"id": 1, "data": {"image": "/data/upload/1/0a1b2c3d-0.png"}}]')
    shutil.copyfile(FOLDER / "kpnet-lite.onnx", tmp_path / "own.onnx")
    cvat, label_studio, split, use = (
        code for kind, code in BLOCK.findall((ROOT / "docs/train-your-own.md").read_text()) if kind == "python"
    )
    names: dict[str, object] = {"lineament": lineament}
    for code in (label_studio, cvat, split, use):
        exec(code, names)
    samples = [sample for name in ("train", "val", "held-out") for sample in read_coco(f"own/{name}.json")]
    assert sorted(sample.path.name for sample in samples) == sorted(p.name for p in (tmp_path / "own/photos").iterdir())
    assert all(len(sample) == 2 and sample.path.exists() for sample in samples)


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    links = [(page, *link) for page in pages for link in LINK.findall(page.read_text())]
    assert not [f"{page.name}: {link}" for page, link, _ in links if not (page.parent / link).exists()]
    anchors = [(page, (page.parent / link) if link else page, anchor) for page, link, anchor in links if anchor]
    assert not [
        f"{page.name}: {target.name}#{anchor}" for page, target, anchor in anchors if anchor not in _anchors(target)
    ]


def _anchors(page: Path) -> list[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    return [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in HEADING.findall(page.read_text())]


def test_the_site_lists_every_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(PAGE.findall(nav)) == sorted(pages)


@pytest.mark.parametrize("page", REFERENCE, ids=lambda page: page.name)
def test_what_the_reference_describes_exists(page: Path) -> None:
    described = DESCRIBED.findall(page.read_text())
    for name, members in described:
        found = pkgutil.resolve_name(name)
        for member in filter(None, members.split(", ")):
            assert hasattr(found, member), f"{name}.{member}"


def _documented(page: Path) -> Iterator[Any]:
    """Functions, and classes with their methods, on a page of the reference."""
    for name, chosen in DESCRIBED.findall(page.read_text()):
        found = pkgutil.resolve_name(name)
        members = filter(None, chosen.split(", ")) if chosen else [m for m in vars(found) if not m.startswith("_")]
        own = [getattr(found, member) for member in members] if inspect.ismodule(found) else [found]
        for item in own:
            if inspect.isclass(item):
                yield from (method for method in vars(item).values() if inspect.isfunction(method))
            elif inspect.isfunction(item):
                yield item


@pytest.mark.parametrize("page", REFERENCE, ids=lambda page: page.name)
def test_arguments_in_docstrings_are_parameters(page: Path) -> None:
    """The site needs one entry per parameter, under its name."""
    for function in _documented(page):
        section = re.search(r"^Args:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(function) or "", re.DOTALL | re.MULTILINE)
        named = re.findall(r"^    (\w[^:\n]*):", section[1], re.MULTILINE) if section else []
        unknown = set(named) - set(inspect.signature(function).parameters)
        assert not unknown, f"{function.__module__}.{function.__qualname__}: {', '.join(unknown)}"


def test_the_reference_describes_all_that_the_package_offers() -> None:
    described = {pkgutil.resolve_name(name) for name, _ in DESCRIBED.findall(PYTHON.read_text())}
    errors = {LineamentError}  # described with its module
    assert {getattr(lineament, name) for name in lineament.__all__} <= described | errors


def test_the_changelog_knows_this_version() -> None:
    heading = "Unreleased" if ".dev" in lineament.__version__ else lineament.__version__
    assert f"## [{heading}]" in (ROOT / "CHANGELOG.md").read_text()
