"""``lineament detect``: faces in files and folders, as JSON lines and as drawn pictures."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import typer
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import lineament
from lineament.cli.options import Landmarks, Settings, with_settings
from lineament.detector import in_groups
from lineament.errors import ImageError, OptionError
from lineament.faces import Faces
from lineament.files import whole
from lineament.images import MAX_PIXELS, SUFFIXES, Array, Source, image_paths, read_image
from lineament.weights import DEFAULT

T = TypeVar("T")
R = TypeVar("R")

TABLE_ROWS = 40


@dataclass(frozen=True)
class Photo:
    """A picture file, read; or why it could not be."""

    path: Path
    image: Array | None = None
    error: str = ""


class Summary:
    """What a person wants to know at the end."""

    def __init__(self) -> None:
        self.table = Table("picture", "size", "faces", "best score", box=None)
        self.read = self.unread = self.faces = 0

    def add(self, record: dict[str, Any]) -> None:
        """Count one picture, and list it while the table is short."""
        if "error" in record:
            self.unread += 1
            return
        self.read += 1
        faces = record["faces"]
        self.faces += len(faces)
        if self.read <= TABLE_ROWS:
            best = f"{faces[0]['score']:.2f}" if faces else ""
            self.table.add_row(Text(record["path"]), f"{record['width']}x{record['height']}", str(len(faces)), best)
        elif self.read == TABLE_ROWS + 1:
            self.table.caption = f"the first {TABLE_ROWS}; --json FILE lists all"

    def __str__(self) -> str:
        unread = f"; {self.unread} could not be read" if self.unread else ""
        faces, pictures = ("s" if count != 1 else "" for count in (self.faces, self.read))
        return f"{self.faces} face{faces} in {self.read} picture{pictures}{unread}"


@with_settings
def detect(
    paths: Annotated[list[str], typer.Argument(help="Picture files, folders (searched to any depth), glob patterns.")],
    settings: Settings,
    method: Annotated[
        str, typer.Option("--method", "-m", help="A name of `lineament models`, or an ONNX file.")
    ] = DEFAULT,
    landmarks: Landmarks = None,
    json_file: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write one JSON object a picture and line; - for stdout."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the pictures here, with their faces; this folder is not searched."),
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Lowest score, 0 to 1 (default: the method's).")] = None,
    min_face: Annotated[
        float | None, typer.Option(help="Smallest face to look for, in pixels of the photo (default: the method's).")
    ] = None,
    max_face: Annotated[
        float | None, typer.Option(help="Largest face to look for, in pixels of the photo (default: any).")
    ] = None,
    runtime: Annotated[str, typer.Option(help="onnx or openvino.")] = "onnx",
    device: Annotated[str, typer.Option(help="Device of the runtime: used, or an error.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Threads of the runtime (default: all cores).")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Threads that read and draw pictures.")] = 2,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger pictures are not read.")] = MAX_PIXELS,
) -> None:
    """Find the faces in pictures.

    A picture that cannot be read is named, and the others go on.

    Exit code: 0 all pictures were read; 1 some were not; 2 the request was wrong or its result could not be written.
    """
    detector = lineament.load(
        method, landmarks=landmarks, runtime=runtime, device=device, threads=threads, settings=settings
    )

    def find(images: list[Source]) -> list[Faces]:
        return detector.detect(images, threshold=threshold, min_face=min_face, max_face=max_face)

    def read(path: Path) -> Photo:
        try:
            return Photo(path, read_image(path, max_pixels=max_pixels))
        except ImageError as error:
            return Photo(path, error=str(error))

    def finish(seen: tuple[Photo, Faces | None]) -> dict[str, Any]:
        photo, faces = seen
        if photo.image is None or faces is None:
            return {"path": str(photo.path), "error": photo.error}
        if out:
            with whole(targets[photo.path]) as part:
                lineament.draw(photo.image, faces).save(part, quality=92)
        return {"path": str(photo.path), "method": detector.method} | faces.to_dict()

    find([])  # wrong options, paths and folders end here, before the first picture
    files = image_paths(paths, leave_out=out)
    targets = _targets(files, out) if out else {}
    Image.MAX_IMAGE_PIXELS = max(max_pixels, MAX_PIXELS)  # Pillow's own limit, or there were no going beyond it
    warnings.filterwarnings("ignore", module="PIL")  # what matters of a picture is said in its own line
    console = Console(stderr=True)
    summary = Summary()
    with _json_lines(json_file) as lines, _progress(console) as progress, ThreadPoolExecutor(jobs) as pool:
        bar = progress.add_task("pictures", total=len(files))
        photos = _in_order(pool, read, files, ahead=jobs)
        for record in _in_order(pool, finish, _seen(photos, find), ahead=jobs):
            if "error" in record:
                console.print(Text(record["error"], style="red"), soft_wrap=True)
            if lines:
                lines.write(json.dumps(record) + "\n")
            summary.add(record)
            progress.advance(bar)
    if summary.read and not json_file and not out:
        Console().print(summary.table)
    console.print(Text(str(summary)))
    raise typer.Exit(1 if summary.unread else 0)


def _in_order(pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """``pool.map`` that takes up items only so far ahead of what is asked for: memory stays bounded."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _seen(photos: Iterator[Photo], find: Callable[[list[Source]], list[Faces]]) -> Iterator[tuple[Photo, Faces | None]]:
    """Every photo with its faces; ``None`` for those that could not be read."""
    for group in in_groups(photos, lambda photo: 0 if photo.image is None else photo.image.size // 3):
        faces = iter(find([photo.image for photo in group if photo.image is not None]))
        for photo in group:
            yield photo, None if photo.image is None else next(faces)


def _targets(files: list[Path], out: Path) -> dict[Path, Path]:
    """Where each drawn picture goes: under the part of its path that not all pictures share.

    Raises:
        OptionError: the folder cannot be written, or a picture would be overwritten.
    """
    places = [Path(os.path.abspath(file)) for file in files]
    common = os.path.commonpath([place.parent for place in places])
    targets = {}
    for file, place in zip(files, places, strict=True):
        target = out / place.relative_to(common)
        targets[file] = target if target.suffix.lower() in SUFFIXES else target.with_name(target.name + ".png")
    overwritten = {target.resolve() for target in targets.values()} & {place.resolve() for place in places}
    if overwritten:
        raise OptionError(f"--out {out} would overwrite {min(overwritten)}; choose another folder")
    _check_writable(out, "--out")
    return targets


def _check_writable(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OptionError(f"{option}: cannot write into {folder}: {error.strerror}; choose another folder") from error


@contextmanager
def _json_lines(name: str | None) -> Iterator[IO[str] | None]:
    """Where the lines go, if anywhere: standard output, or a file that appears when it is whole."""
    if name is None or name == "-":
        yield sys.stdout if name else None
        return
    path = Path(name)
    if path.is_dir():
        raise OptionError(f"--json: {path} is a folder; name a file")
    _check_writable(path.parent, "--json")
    with whole(path) as part, part.open("w", encoding="utf-8") as file:
        yield file


class _Rate(ProgressColumn):
    """Pictures a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
