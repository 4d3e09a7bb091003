"""``lineament redact``: cover the faces of photos and videos."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image, ImageColor, UnidentifiedImageError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import lineament
from lineament import video
from lineament.animation import is_animation
from lineament.cli.journal import Journal
from lineament.cli.messages import Rate, messages
from lineament.cli.options import Settings, with_settings
from lineament.cli.outputs import Targets
from lineament.covers import Cover
from lineament.errors import ImageError, OptionError
from lineament.images import SUFFIXES, ImageFiles
from lineament.parallel import in_order
from lineament.redaction import PHOTO, Search, find_tracks, redact_photo, redact_video
from lineament.weights import DEFAULT

FAST = "kpnet-lite-int8"
"""The default for videos: it detects in a frame in a quarter of the time of the default for photos."""
SETTINGS = {"verify": True}
"""For all detectors, as the default thresholds are for verified faces."""
FAST_SETTINGS = SETTINGS | {"pyramid": (0.5,)}
"""Of ``FAST`` for videos. Blurred and turned faces are often found at half the size alone."""
JOURNAL = ".redacted.jsonl"
"""In the output folder: the files that are finished, for a run that continues."""


@with_settings
def redact(
    paths: Annotated[
        list[str], typer.Argument(help="Photos, videos, folders (searched recursively) or glob patterns.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the redacted files. It is not searched.")],
    settings: Settings,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help=f"Name from `lineament models`, or path of an ONNX file (default: {DEFAULT} for photos, {FAST} for "
            "videos).",
        ),
    ] = None,
    style: Annotated[str, typer.Option(help="blur, pixelate, solid (a colour) or picture.")] = Cover.style,
    shape: Annotated[str, typer.Option(help="ellipse or box.")] = Cover.shape,
    margin: Annotated[
        float, typer.Option(help="Enlargement of each bounding box on each side, as a share of its width and height.")
    ] = Cover.margin,
    rim: Annotated[
        float,
        typer.Option(help="Further enlargement on each side, as a share of the longer side of the photo or frame."),
    ] = Cover.rim,
    cells: Annotated[
        int, typer.Option(help="For blur and pixelate: number of different values over the longer side of a face.")
    ] = Cover.cells,
    color: Annotated[str, typer.Option(help="For solid: a name such as black, or #rrggbb.")] = "black",
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For picture: the image that is stretched over each face.")
    ] = None,
    keep: Annotated[
        list[int] | None,
        typer.Option(metavar="NUMBER", help="Leave a face of a video bare, by its number. See --numbers. Repeatable."),
    ] = None,
    numbers: Annotated[
        bool, typer.Option("--numbers/--no-numbers", help="Write its number on each face of a video.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Lowest confidence score: of a face in a photo "
            f"(default: {PHOTO}), of a face's best frame in a video (default: {Search.threshold})."
        ),
    ] = None,
    gap: Annotated[
        int, typer.Option(min=0, help="Number of frames over which a face is followed without being detected.")
    ] = Search.gap,
    hold: Annotated[
        int,
        typer.Option(
            min=0, help="Number of frames before a face is first and after it is last detected in which it is covered."
        ),
    ] = Search.hold,
    metadata: Annotated[
        bool,
        typer.Option("--metadata/--no-metadata", help="Copy date, place, camera and other metadata, or remove them."),
    ] = True,
    runtime: Annotated[str, typer.Option(help="onnx or openvino.")] = "onnx",
    device: Annotated[str, typer.Option(help="Device to run on, or auto for the fastest that starts.")] = "cpu",
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Threads that detect and cover (default: all cores).")
    ] = None,
) -> None:
    """Cover the faces of photos and videos.

    Formats, sizes, frame rates and sound stay. Originals are never overwritten, and a new file appears when it is
    complete. If a file fails, the command names it and continues with the next. A stopped run continues.

    Exit codes: 0 all files were redacted; 1 some could not be; 2 wrong command, or a result could not be written.
    """
    cover = Cover(style, shape, margin, rim, cells, _color(color), _picture(picture))  # type: ignore[arg-type] # it checks
    search = Search(threshold=Search.threshold if threshold is None else threshold, gap=gap, hold=hold)
    lowest = PHOTO if threshold is None else threshold
    files = ImageFiles(paths, leave_out=out, suffixes=SUFFIXES | video.SUFFIXES)
    kinds = Counter(map(_kind, files))
    total, films = kinds.total(), kinds["video"] + kinds["animation"]
    if kinds["video"]:
        video.require_av()
    if keep and total != 1:
        raise OptionError(f"--keep takes one video, since each counts its faces itself; found {total} files")
    if keep and not films:
        raise OptionError(f"--keep takes a video, {next(iter(files))} is a photo")
    for_photos, for_films = method or DEFAULT, method or FAST
    wanted = Counter({for_photos: kinds["photo"]}) + Counter({for_films: films})  # without those of which none is
    detectors = {
        name: lineament.load(name, runtime=runtime, device=device, threads=1, settings=usual | settings)
        for name in sorted(wanted)
        for usual in [FAST_SETTINGS if method is None and name == FAST else SETTINGS]
    }
    targets = Targets(out)
    targets.plan(files)
    options = (
        [each.settings for each in detectors.values()],
        style,
        shape,
        margin,
        rim,
        cells,
        color,
        keep,
        numbers,
        search,
        lowest,
        metadata,
    )
    given = repr(
        (*options, [sorted(each.weights.items()) for each in detectors.values()], lineament.__version__)
    ).encode()
    run = hashlib.sha256(given + (picture.read_bytes() if picture else b"")).hexdigest()
    jobs = jobs or os.cpu_count() or 1
    covered = failed = 0

    def photo(file: Path) -> tuple[Path, int, str]:
        return _tried(
            file,
            lambda: len(
                redact_photo(file, targets[file], detectors[for_photos], cover, threshold=lowest, metadata=metadata)
            ),
        )

    with (
        messages.progress(*_columns()) as progress,
        Journal(out / JOURNAL, run, targets.__getitem__) as done,
        ThreadPoolExecutor(jobs) as pool,
    ):
        bar = progress.add_task("files", total=total)
        frames = _Frames(progress)

        def film(file: Path) -> tuple[Path, int, str]:
            def work() -> int:
                seen = find_tracks(file, detectors[for_films], search, jobs=jobs, progress=frames.show)
                redact_video(
                    file, targets[file], seen, cover, keep=keep or (), numbers=numbers, metadata=metadata,
                    progress=frames.show,
                )  # fmt: skip
                return len(np.unique(seen.tracks.track)) - len(keep or ())

            return _tried(file, work)

        photos = done.left(file for file in files if _kind(file) == "photo")
        others = done.left(file for file in files if _kind(file) != "photo")
        for file, faces, error in chain(in_order(pool, photo, photos, ahead=jobs), map(film, others)):
            if error:
                messages.complain(error)
                failed += 1
            else:
                done.add(file)
                covered += faces
            progress.update(bar, advance=1, total=total - done.before)
    before = f"; {done.before} were finished before" if done.before else ""
    bad = f"; {failed} could not be redacted" if failed else ""
    messages.say(f"{covered} faces covered in {total - done.before - failed} files{before}{bad}")
    raise typer.Exit(1 if failed else 0)


def _kind(file: Path) -> str:
    if file.suffix.lower() in video.SUFFIXES:
        return "video"
    return "animation" if is_animation(file) else "photo"


def _tried(file: Path, work: Callable[[], int]) -> tuple[Path, int, str]:
    """The file, the number of faces that were covered in it, and why it failed, if so."""
    try:
        return file, work(), ""
    except ImageError as error:
        return file, 0, str(error)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the others would fail, too
        return file, 0, f"{file}: {error}"


def _color(text: str) -> tuple[int, int, int]:
    try:
        return ImageColor.getcolor(text, "RGB")  # type: ignore[return-value] # of this mode
    except ValueError as error:
        raise OptionError(f"--color takes a name such as black, or #rrggbb, found {text!r}") from error


def _picture(path: Path | None) -> np.ndarray[Any, Any] | None:
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGBA"))
    except (OSError, UnidentifiedImageError) as error:
        raise OptionError(f"--picture: {path} cannot be read as an image: {error}") from error


class _Frames:
    """A progress bar for the frames of one video at a time."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._task, self._name = progress, None, ""  # type: tuple[Progress, Any, str]

    def show(self, name: str, done: int, total: int) -> None:
        if name != self._name:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task, self._name = self._progress.add_task(name), name
        self._progress.update(self._task, completed=done, total=max(total, done) if total else None)
        if done == total:
            self._name = ""


def _columns() -> tuple[Any, ...]:
    return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
