"""``lineament report``: results of several detectors on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of what `lineament evaluate ... --json` wrote.")],
    out: Annotated[Path, typer.Option(help="The page; its figures go to a folder beside it.")] = Path("report.html"),
    images: Annotated[Path | None, typer.Option(help="Folder of the evaluated pictures, for thumbnails.")] = None,
) -> None:
    """Put detectors side by side: scores, curves, time, worst errors, as one HTML page."""
    from lineament.evaluate.report import write_report  # takes the extra 'report'

    written = write_report(folder, out, images)
    typer.echo(f"{written[0]} and {len(written) - 1} figures")
