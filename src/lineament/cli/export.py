"""``lineament export``: a run's best weights so far as one ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lineament.cli.train import training_of
from lineament.errors import DataError


def export(
    method: Annotated[str, typer.Argument(help="The method that the run trains, e.g. mtcnn.")],
    run: Annotated[Path, typer.Option(help="The run's folder, finished or not.")],
    out: Annotated[Path, typer.Option(help="The ONNX file to write; manifest.json beside it lists it.")],
    scores: Annotated[
        Path | None, typer.Option(help="JSON file with figures by name, which the weight file will carry.")
    ] = None,
) -> None:
    """Export a run to an ONNX file that describes itself, held against torch."""
    try:
        figures = json.loads(scores.read_text()) if scores else {}
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{scores}: expected a JSON object of figures by name; {error}") from error
    file = training_of(method).export_run(run, out, figures)
    typer.echo(f"exported: {file}")
