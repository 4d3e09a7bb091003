"""``lineament detect``: detect faces in files and folders; write JSON lines, annotated images and crops of faces."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stderr
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import lineament
from lineament.animation import is_animation
from lineament.cli.cluster import detect_on_cluster
from lineament.cli.lines import json_lines
from lineament.cli.messages import Rate, messages
from lineament.cli.options import Landmarks, Settings, with_settings
from lineament.cli.outputs import STDIN, AnnotatedImages, FaceCrops, Output, check_alignable
from lineament.cli.watch import Watch, is_video
from lineament.cli.work import Work, allow, in_processes
from lineament.errors import OptionError
from lineament.images import MAX_PIXELS, ImageFiles
from lineament.similarity import LARGEST
from lineament.weights import DEFAULT

TABLE_ROWS = 40
CROP_SIZE = 112  # pixels: what face recognition networks take


class Summary:
    """What a person wants to know at the end."""

    def __init__(self) -> None:
        self.table = Table("image", "size", "faces", "best score", box=None)
        self.read = self.unread = self.unwritten = self.faces = 0

    def add(self, record: dict[str, Any]) -> None:
        """Count one image, and list it while the table is short."""
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
        unread += f"; {self.unwritten} could not be written" if self.unwritten else ""
        faces, images = ("s" if count != 1 else "" for count in (self.faces, self.read))
        return f"{self.faces} face{faces} in {self.read} image{images}{unread}"


@with_settings
def detect(
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Image files, folders (searched recursively) or glob patterns; - reads an image from standard input. "
            "Or video files, animated images, and cameras by number."
        ),
    ],
    settings: Settings,
    method: Annotated[
        str, typer.Option("--method", "-m", help="Name from `lineament models`, or path of an ONNX file.")
    ] = DEFAULT,
    landmarks: Landmarks = None,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write one JSON object per image or frame and line; - for standard output. A stopped run continues.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder for the annotated images or videos. It is not searched for images."),
    ] = None,
    crops: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for a PNG file of each face. It is not searched for images."),
    ] = None,
    align: Annotated[
        bool, typer.Option("--align/--no-align", help="With --crops: turn the faces upright, or cut along their boxes.")
    ] = True,
    crop_size: Annotated[
        int | None, typer.Option(min=1, max=LARGEST, help=f"Side of aligned crops in pixels (default: {CROP_SIZE}).")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Lowest confidence score, 0 to 1 (default: the method's).")
    ] = None,
    min_face: Annotated[
        float | None, typer.Option(help="Smallest face to look for, in pixels of the image (default: the method's).")
    ] = None,
    max_face: Annotated[
        float | None, typer.Option(help="Largest face to look for, in pixels of the image (default: no limit).")
    ] = None,
    track: Annotated[
        bool, typer.Option("--track/--no-track", help="In videos: number the faces, and follow them over the frames.")
    ] = False,
    gap: Annotated[
        int, typer.Option(min=0, help="With --track: number of frames over which a face is followed undetected.")
    ] = 12,
    frames: Annotated[
        int | None, typer.Option(min=1, help="In videos: stop after so many frames (default: at the end).")
    ] = None,
    runtime: Annotated[str, typer.Option(help="onnx or openvino.")] = "onnx",
    device: Annotated[
        str, typer.Option(help="Device to run on, or auto for the fastest that starts. A missing device is an error.")
    ] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Processor threads (default: all cores).")] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Processes (in videos: threads) that detect, each with one thread unless --threads says otherwise.",
        ),
    ] = 1,
    max_pixels: Annotated[int, typer.Option(min=1, help="Refuse images with more pixels.")] = MAX_PIXELS,
    engine: Annotated[
        str,
        typer.Option(help="local, or ray: a cluster reads a folder or s3://... and writes Parquet files to --out."),
    ] = "local",
) -> None:
    """Detect faces in images and videos.

    If an image or video cannot be read or written, the command names it and continues with the next.

    Exit codes: 0 all were read; 1 some could not be read; 2 wrong command, or a result could not be written.
    """
    if engine not in ("local", "ray"):
        raise OptionError(f"--engine is local or ray, found {engine!r}")
    if engine == "ray":
        if len(paths) != 1 or not out or json_file or crops:
            raise OptionError("--engine ray takes one folder or address, and --out; not --json or --crops")
        limits = {"threshold": threshold, "min_face": min_face, "max_face": max_face, "max_pixels": max_pixels}
        more = {"landmarks": landmarks, "runtime": runtime, "device": device, "settings": settings}
        detect_on_cluster(paths[0], out, method, workers=jobs, threads=threads or 1, **limits, **more)
        return
    folder = Path(out) if out else None
    threads = 1 if threads is None and jobs and jobs > 1 else threads
    detector = lineament.load(
        method, landmarks=landmarks, runtime=runtime, device=device, threads=threads, settings=settings
    )
    options = (settings, threshold, min_face, max_face, landmarks, runtime, device, folder, crops, align, crop_size)
    given = repr((*options, max_pixels, track, gap, frames, lineament.__version__, *detector.weights.values()))
    run = hashlib.sha256(given.encode()).hexdigest()
    films = [is_video(path) for path in paths]
    if any(films) or (not crops and all(map(is_animation, paths))):  # among photos, an animation is its first frame
        if not all(film or is_animation(path) for film, path in zip(films, paths, strict=True)) or crops:
            raise OptionError("images and videos take separate commands, and --crops takes images")
        watch = Watch(detector, threshold, min_face, max_face, track, gap, frames, jobs or 1)
        raise typer.Exit(1 if watch(paths, json_file, folder, run) else 0)
    if track or frames:
        raise OptionError("--track and --frames take videos and animations alone: name them, or a camera by its number")
    if crop_size is not None and not (crops and align):
        raise OptionError("--crop-size is the size of aligned crops: it takes --crops DIR and not --no-align")
    if folder and crops and folder.resolve() == crops.resolve():
        raise OptionError(f"--out and --crops are both {out}; choose two folders")
    if crops and align:
        check_alignable(detector.schema)
    outputs: list[Output] = [AnnotatedImages(folder)] if folder else []
    outputs += [FaceCrops(crops, (crop_size or CROP_SIZE) if align else None)] if crops else []
    work = Work(detector, threshold, min_face, max_face, max_pixels, outputs)
    work.find([])  # wrong options, paths and folders are reported here, before the first image
    named = [path for path in paths if path != str(STDIN)]
    files: Iterable[Path] = ImageFiles(named, leave_out=[output.folder for output in outputs])
    if len(named) < len(paths):
        files = [STDIN, *files]
    total = sum(1 for _ in files)
    for output in outputs:
        output.plan(files)
    allow(max_pixels)
    summary = Summary()

    def keep(part: Path) -> None:
        for record in _finished(part, files, outputs):
            summary.add(record)

    with (
        _own_stderr(),
        messages.progress(*_columns()) as progress,
        json_lines(json_file, run, keep, total) as lines,
    ):
        kept = summary.read + summary.unread
        bar = progress.add_task("images", total=total, completed=kept)
        left = islice(files, kept, None)
        alone = jobs in (None, 1) or STDIN.name in paths  # another process has another standard input
        with closing(work(left) if alone else in_processes(work, left, total - kept, jobs or 1)) as results:
            for record, unwritten in results:
                for problem in filter(None, (record.get("error"), unwritten)):
                    messages.complain(problem)
                if lines:
                    lines.write(json.dumps(record) + "\n")
                    lines.flush()
                summary.add(record)
                summary.unwritten += bool(unwritten)
                progress.advance(bar)
    if kept:
        messages.say(f"{kept} images were finished before")
    if summary.read and not json_file and not outputs:
        Console().print(summary.table)
    messages.say(str(summary))
    raise typer.Exit(2 if summary.unwritten else 1 if summary.unread else 0)


def _finished(part: Path, files: Iterable[Path], outputs: Sequence[Output]) -> Iterator[dict[str, Any]]:
    """The leading records of a stopped run that still belong to these unchanged files; the rest is cut off."""
    written = part.stat().st_mtime
    size = 0
    with part.open("rb+") as lines:
        for line, file in zip(lines, files, strict=False):
            record = json.loads(line) if line.endswith(b"\n") else {}
            if record.get("path") != str(file) or file == STDIN or file.stat().st_mtime > written:
                break
            if "error" not in record and not all(output.has(file, len(record["faces"])) for output in outputs):
                break
            size += len(line)
            yield record
        lines.truncate(size)


@contextmanager
def _own_stderr() -> Iterator[None]:
    """Discard what C libraries such as libtiff print to standard error; Python's own output still appears."""
    stream = sys.__stderr__
    if stream is None or sys.stderr is not stream:  # already redirected
        yield
        return
    stream.flush()
    with (
        open(os.devnull, "w") as nothing,
        open(os.dup(2), "w", buffering=1, encoding=stream.encoding, errors="backslashreplace") as own,
        redirect_stderr(own),
    ):
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own.fileno(), 2)


def _columns() -> tuple[ProgressColumn, ...]:
    return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
