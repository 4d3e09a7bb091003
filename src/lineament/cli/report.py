"""``lineament report``: compare the results of several detectors on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of results from `lineament evaluate ... --json`.")],
    out: Annotated[Path, typer.Option(help="HTML page to write. Figures go to a folder beside it.")] = Path(
        "report.html"
    ),
    images: Annotated[Path | None, typer.Option(help="Folder of the evaluated images, for thumbnails.")] = None,
) -> None:
    """Compare detectors on one HTML page: scores, curves, times and worst errors."""
    from lineament.evaluate.report import write_report  # takes the extra 'report'

    written = write_report(folder, out, images)
    typer.echo(f"{written[0]} and {len(written) - 1} figures")
