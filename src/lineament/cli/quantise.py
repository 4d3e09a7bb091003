"""``lineament quantise``: quantise a weight file to 8-bit integers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineament.cli.options import figures
from lineament.cli.train import training_of
from lineament.data.subset import evenly_spaced
from lineament.errors import OptionError
from lineament.images import image_paths, read_image
from lineament.runtime import read_metadata
from lineament.weights import parse_metadata, read_weights


def quantise(
    weights: Annotated[str, typer.Argument(help="Shipped weights or an exported ONNX file, not quantised.")],
    images: Annotated[
        list[str],
        typer.Argument(help="Image files, folders or glob patterns: typical photos, with faces of all sizes."),
    ],
    out: Annotated[Path, typer.Option(help="ONNX file to write. It is added to manifest.json in its folder.")],
    count: Annotated[int, typer.Option(min=1, help="Number of images to use, evenly spaced.")] = 48,
    scores: Annotated[
        Path | None, typer.Option(help="JSON file of scores by name to store in the weight file.")
    ] = None,
) -> None:
    """Quantise weights to 8-bit integers.

    They run with onnxruntime, and are fastest on processors with 8-bit instructions (VNNI). The images set the value
    ranges and the rounding of the weights. They need no labels.
    """
    content = read_weights(weights)
    method, _ = parse_metadata(read_metadata(content))
    export_bytes = getattr(training_of(method), "export_bytes", None)
    if export_bytes is None:
        raise OptionError(f"weights of {method} cannot be quantised to 8-bit integers")
    paths = image_paths(images)
    file = export_bytes(content, map(read_image, evenly_spaced(paths, count)), out, figures(scores))
    typer.echo(f"quantised: {file}")
