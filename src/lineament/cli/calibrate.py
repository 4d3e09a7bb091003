"""``lineament calibrate``: a weight file whose scores and boxes are fitted anew to labelled photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineament.cli.options import figures, pairs
from lineament.cli.train import training_of
from lineament.errors import OptionError
from lineament.runtime import read_metadata
from lineament.train.recipe import shipped_recipe
from lineament.weights import parse_metadata, read_weights


def calibrate(
    weights: Annotated[str, typer.Argument(help="Shipped weights or an exported ONNX file, in floats.")],
    data: Annotated[
        Path,
        typer.Option(
            exists=True, file_okay=False, help="Folder that the recipe's index files (COCO keypoints JSON) lie in."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The ONNX file to write; manifest.json beside it lists it.")],
    recipe: Annotated[
        Path | None,
        typer.Option(help="TOML file that names training and validation photos; that of the weights if they ship."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE: a setting that replaces the recipe's, e.g. train=[]; repeatable."),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="JSON file with figures by name, which the weight file will carry.")
    ] = None,
) -> None:
    """Fit what scores mean, and where boxes lie, to labelled photos. The network stays the same.

    With photos like those to come, a score of 0.8 is right for four faces of five there. Without training photos
    (--set 'train=[]') boxes stay as they are.
    """
    content = read_weights(weights)
    metadata = read_metadata(content)
    method, _ = parse_metadata(metadata)
    calibrate_file = getattr(training_of(method), "calibrate_file", None)
    if calibrate_file is None:
        raise OptionError(f"weights of {method} have no scores that are fitted")
    chosen = recipe or shipped_recipe(metadata["name"])
    file = calibrate_file(content, data, chosen, out, pairs(set_ or [], "--set"), figures(scores))
    typer.echo(f"calibrated: {file}")
