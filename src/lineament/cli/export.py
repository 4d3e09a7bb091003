"""``lineament export``: export the best weights of a run as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineament.cli.options import figures
from lineament.cli.train import training_of


def export(
    method: Annotated[str, typer.Argument(help="Method that the run trains, such as mtcnn.")],
    run: Annotated[Path, typer.Option(help="Folder of the run, finished or not.")],
    out: Annotated[Path, typer.Option(help="ONNX file to write. It is added to manifest.json in its folder.")],
    scores: Annotated[
        Path | None, typer.Option(help="JSON file of scores by name to store in the weight file.")
    ] = None,
) -> None:
    """Export the best weights of a run to ONNX.

    The file contains its method, settings and licence. The export fails if its outputs differ from PyTorch's.
    """
    file = training_of(method).export_run(run, out, figures(scores))
    typer.echo(f"exported: {file}")
