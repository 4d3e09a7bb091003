"""``lineament quantise``: a weight file in integers of 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineament.cli.options import figures
from lineament.cli.train import training_of
from lineament.errors import OptionError
from lineament.images import image_paths, read_image
from lineament.runtime import read_metadata
from lineament.weights import parse_metadata, read_weights


def quantise(
    weights: Annotated[str, typer.Argument(help="Shipped weights or an exported ONNX file, in floats.")],
    pictures: Annotated[
        list[str],
        typer.Argument(help="Pictures, folders or patterns: photos like those to come, with faces of all sizes."),
    ],
    out: Annotated[Path, typer.Option(help="The ONNX file to write; manifest.json beside it lists it.")],
    count: Annotated[int, typer.Option(min=1, help="Pictures that are used, drawn evenly.")] = 48,
    scores: Annotated[
        Path | None, typer.Option(help="JSON file with figures by name, which the weight file will carry.")
    ] = None,
) -> None:
    """Make weights compute in integers of 8 bits, for onnxruntime on processors with instructions for them.

    Ranges are taken from the pictures; labels are not needed.
    """
    content = read_weights(weights)
    method, _ = parse_metadata(read_metadata(content))
    export_bytes = getattr(training_of(method), "export_bytes", None)
    if export_bytes is None:
        raise OptionError(f"weights of {method} have no form in integers of 8 bits")
    paths = image_paths(pictures)
    chosen = paths[:: max(len(paths) // count, 1)][:count]
    file = export_bytes(content, map(read_image, chosen), out, figures(scores))
    typer.echo(f"quantised: {file}")
