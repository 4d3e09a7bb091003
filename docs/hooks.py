"""Let pages link to files of the repository outside docs/: the site carries copies of them."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<=\]\()(?:\.\./)+((?:benchmarks|examples|recipes|src)/[^)#]+)(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the linked files to the site, under `repository/`."""
    pages = [page.content_string for page in files.documentation_pages()]
    for path in sorted({path for page in pages for path in LINK.findall(page)}):
        content = (ROOT / path).read_bytes()
        files.append(File.generated(config, f"repository/{path}.txt", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to those copies."""
    up = "../" * page.file.src_uri.count("/")
    return LINK.sub(lambda found: f"{up}repository/{found[1]}.txt", markdown)
