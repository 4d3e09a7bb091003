"""``lineament align``: aligned crops of faces, with a manifest."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

import lineament
from lineament.alignment import AlignedFace, align_photo, with_margin
from lineament.cli.journal import Journal
from lineament.cli.messages import Rate, messages
from lineament.cli.options import Landmarks, Settings, with_settings
from lineament.cli.outputs import FaceCrops, check_alignable
from lineament.errors import ImageError, MissingExtraError, OptionError
from lineament.files import whole
from lineament.images import ImageFiles
from lineament.parallel import in_order
from lineament.similarity import LARGEST, TEMPLATE
from lineament.weights import DEFAULT

JOURNAL = ".aligned.jsonl"
"""In the output folder: the photos that are finished, for a run that continues."""
MANIFEST = "manifest.csv"


@with_settings
def align(
    paths: Annotated[list[str], typer.Argument(help="Photos, folders (searched recursively) or glob patterns.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for crops and manifest.csv. It is not searched.")],
    settings: Settings,
    method: Annotated[
        str, typer.Option("--method", "-m", help="Name from `lineament models`, or path of an ONNX file.")
    ] = DEFAULT,
    landmarks: Landmarks = None,
    size: Annotated[int, typer.Option(min=8, max=LARGEST, help="Side of a crop in pixels.")] = 112,
    margin: Annotated[float, typer.Option(help="What crops show more on each side, as a share of their side.")] = 0,
    template: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON file with the positions of right eye, left eye, nose, right and left mouth corner in a crop, "
            "[[x, y], ...] divided by its side (default: the template of ArcFace).",
        ),
    ] = None,
    largest: Annotated[
        bool, typer.Option("--largest/--all", help="Only the largest face of each photo, or all faces.")
    ] = False,
    threshold: Annotated[
        float | None, typer.Option(help="Lowest confidence score, 0 to 1 (default: the method's).")
    ] = None,
    min_face: Annotated[
        float | None, typer.Option(help="Smallest face in pixels of the photo (default: the method's).")
    ] = None,
    parquet: Annotated[
        bool, typer.Option("--parquet/--no-parquet", help="Also write manifest.parquet (extra `parquet`).")
    ] = False,
    runtime: Annotated[str, typer.Option(help="onnx or openvino.")] = "onnx",
    device: Annotated[str, typer.Option(help="Device to run on, or auto for the fastest that starts.")] = "cpu",
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Threads that detect and cut (default: all cores).")
    ] = None,
) -> None:
    """Cut out faces upright and at one size, as face recognition takes them.

    Crops are named after their photos. manifest.csv has a row for each: photo, box, score, matrix, scale, sharpness and
    pose. If a photo fails, the command names it and continues with the next. A stopped run continues.

    Exit codes: 0 all photos were read; 1 some could not be; 2 wrong command, or a result could not be written.
    """
    if parquet:
        _require_parquet()
    places = with_margin(_template(template), margin)
    detector = lineament.load(method, landmarks=landmarks, runtime=runtime, device=device, threads=1, settings=settings)
    check_alignable(detector.schema, "`lineament detect --crops DIR --no-align`")
    detector.detect([], threshold=threshold, min_face=min_face)
    files = ImageFiles(paths, leave_out=out)
    total = sum(1 for _ in files)
    crops = FaceCrops(out, size)
    crops.option = "--out"
    crops.plan(files)
    options = (settings, landmarks, size, places.tolist(), largest, threshold, min_face)
    given = repr((*options, sorted(detector.weights.items()), lineament.__version__)).encode()
    run = hashlib.sha256(given).hexdigest()
    jobs = jobs or os.cpu_count() or 1
    faces = failed = 0

    def cut(file: Path) -> tuple[Path, list[AlignedFace], str]:
        options = {"size": size, "template": places, "threshold": threshold, "min_face": min_face, "largest": largest}
        try:
            return file, align_photo(file, lambda i: crops.crop(file, i), detector, **options), ""  # type: ignore[arg-type]
        except ImageError as error:
            return file, [], str(error)

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
    with (
        messages.progress(*columns) as progress,
        Journal(out / JOURNAL, run, lambda file: crops.crop(file, 0)) as done,
        _manifest(out / MANIFEST, lambda photo: photo in crops and photo in done) as manifest,
        ThreadPoolExecutor(jobs) as pool,
    ):
        rows = csv.writer(manifest)
        bar = progress.add_task("photos", total=total)
        for file, found, error in in_order(pool, cut, done.left(files), ahead=2 * jobs):
            if error:
                messages.complain(error)
                failed += 1
            else:
                rows.writerows(_relative(face, out) for face in found)
                manifest.flush()
                done.add(file)
                faces += len(found)
            progress.update(bar, advance=1, total=total - done.before)
    if parquet:
        _write_parquet(out / MANIFEST)
    before = f"; {done.before} were finished before" if done.before else ""
    bad = f"; {failed} could not be read" if failed else ""
    messages.say(f"{faces} faces of {total - done.before - failed} photos in {out}{before}{bad}")
    raise typer.Exit(1 if failed else 0)


def _relative(face: AlignedFace, out: Path) -> list[Any]:
    """The row of a face, its crop relative to the folder of the manifest."""
    row = dict(zip(AlignedFace.COLUMNS, face.row(), strict=True))
    return list((row | {"crop": str(face.crop.relative_to(out))}).values())


def _template(path: Path | None) -> Any:
    if path is None:
        return TEMPLATE
    try:
        points = np.asarray(json.loads(path.read_bytes()), float)
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(f"--template: {path} cannot be read as JSON: {error}") from error
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise OptionError(f"--template: {path} has not five points [x, y], but an array of {points.shape}")
    return points


@contextmanager
def _manifest(path: Path, done: Callable[[Path], bool]) -> Iterator[IO[str]]:
    """Open the manifest to append rows. Rows of photos that are not done are left out first."""
    with whole(path) as part, part.open("w", newline="", encoding="utf-8") as new:
        rows = csv.writer(new)
        rows.writerow(AlignedFace.COLUMNS)
        if path.exists():
            with path.open(newline="", encoding="utf-8") as old:
                rows.writerows(_whole_rows(csv.reader(old), done))
    with path.open("a", newline="", encoding="utf-8") as manifest:
        yield manifest


def _whole_rows(rows: Iterator[list[str]], done: Callable[[Path], bool]) -> Iterator[Sequence[str]]:
    return (row for row in rows if len(row) == len(AlignedFace.COLUMNS) and done(Path(row[0])))


def _require_parquet() -> Any:
    try:
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError.of("parquet", f"--parquet needs {error.name}") from error
    return pyarrow


def _write_parquet(manifest: Path) -> None:
    """Write a manifest as Parquet too, block by block."""
    arrow = _require_parquet()
    with (
        whole(manifest.with_suffix(".parquet")) as part,
        arrow.csv.open_csv(manifest) as reader,
        arrow.parquet.ParquetWriter(part, reader.schema) as writer,
    ):
        for batch in reader:
            writer.write_batch(batch)
