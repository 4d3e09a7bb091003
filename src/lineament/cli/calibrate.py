"""``lineament calibrate``: fit scores and boxes of a weight file to labelled photos."""

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
    weights: Annotated[str, typer.Argument(help="Shipped weights or an exported ONNX file, not quantised.")],
    data: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Folder of the recipe's index files (COCO keypoints JSON)."),
    ],
    out: Annotated[Path, typer.Option(help="ONNX file to write. It is added to manifest.json in its folder.")],
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="TOML file that names the training and validation photos (default: the recipe of the shipped weights)."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE: replace a setting of the recipe, such as train=[]. Repeatable."),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="JSON file of scores by name to store in the weight file.")
    ] = None,
) -> None:
    """Fit scores and boxes to labelled photos.

    The network does not change. On photos like the labelled ones, four of five detections with a score of 0.8 are then
    faces. Without training photos (--set 'train=[]') the boxes do not change.
    """
    content = read_weights(weights)
    metadata = read_metadata(content)
    method, _ = parse_metadata(metadata)
    calibrate_file = getattr(training_of(method), "calibrate_file", None)
    if calibrate_file is None:
        raise OptionError(f"weights of {method} cannot be calibrated: their scores are not fitted")
    chosen = recipe or shipped_recipe(metadata["name"])
    file = calibrate_file(content, data, chosen, out, pairs(set_ or [], "--set"), figures(scores))
    typer.echo(f"calibrated: {file}")
