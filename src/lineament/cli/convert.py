"""``lineament convert``: from one format of faces to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lineament.cli.messages import messages
from lineament.data.exchange import FORMATS, Around, Format, at_least, guess
from lineament.data.readers.label_studio import LOCAL
from lineament.errors import OptionError
from lineament.schemas import schema as known_schema

NAMES = ", ".join(FORMATS)


def convert(
    source: Annotated[Path, typer.Argument(help="File or folder to read.")],
    target: Annotated[Path, typer.Argument(help="File, or new folder, to write.")],
    read_as: Annotated[str, typer.Option("--from", metavar="FORMAT", help=f"Format of SOURCE: {NAMES}.")] = "",
    write_as: Annotated[str, typer.Option("--to", metavar="FORMAT", help=f"Format of TARGET: {NAMES}.")] = "",
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the images (default: that of the file).")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For coco-results: the COCO file with the ids of the images.")
    ] = None,
    schema: Annotated[
        str | None, typer.Option(help="Landmarks of a SOURCE that does not name them (default: 5).")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out faces with a lower confidence score.")
    ] = 0.0,
    prefix: Annotated[
        str, typer.Option(help="For label-studio: what comes before the name of an image in its address.")
    ] = LOCAL,
) -> None:
    """Convert faces between formats: labels, results, and suggestions for labelling tools.

    A name that ends in .jsonl is jsonl, a folder is yolo; other formats are named.
    """
    around = Around(images, index, known_schema(schema) if schema else None, prefix)
    reader, writer = _format(read_as, source, "--from"), _format(write_as, target, "--to")
    samples = [at_least(sample, threshold) for sample in reader.read(source, around)]
    if not samples:
        raise OptionError(f"{source}: no image in it that could be read")
    if not any(sample.path.exists() for sample in samples):
        messages.say(f"none of the images is there, such as {samples[0].path}; is --images right?", "yellow")
    writer.write(target, samples, around)
    messages.say(f"{sum(map(len, samples))} faces in {len(samples)} images: {target}")


def _format(name: str, path: Path, option: str) -> Format:
    name = name or guess(path)
    if name not in FORMATS:
        raise OptionError(f"{option}: expected a format, found {name!r} for {path}; there are: {NAMES}")
    return FORMATS[name]
