"""``lineament export``: a run's best weights so far as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineament.cli.options import figures
from lineament.cli.train import training_of


def export(
    method: Annotated[str, typer.Argument(help="The method that the run trains, e.g. mtcnn.")],
    run: Annotated[Path, typer.Option(help="The run's folder, finished or not.")],
    out: Annotated[Path, typer.Option(help="The ONNX file to write; manifest.json beside it lists it.")],
    scores: Annotated[
        Path | None, typer.Option(help="JSON file with figures by name, which the weight file will carry.")
    ] = None,
) -> None:
    """Export a run to an ONNX file that describes itself, held against torch."""
    file = training_of(method).export_run(run, out, figures(scores))
    typer.echo(f"exported: {file}")
