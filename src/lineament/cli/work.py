"""Detection in many images, in this process or in several; results come in the order of the images."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from PIL import Image

from lineament.cli.outputs import STDIN, Output
from lineament.detector import Detector, in_groups
from lineament.errors import ImageError, LineamentError
from lineament.faces import Faces
from lineament.images import MAX_PIXELS, Array, read_image
from lineament.parallel import in_order
from lineament.records import failed_record, to_record

READERS = 2  # threads of a process that read images, while one detects
CHUNK = 8  # images that a process takes at a time

_log = logging.getLogger(__name__)


class Done(NamedTuple):
    """What became of an image: its record, and what could not be written of it and why, if so."""

    record: dict[str, Any]
    unwritten: str


@dataclass(frozen=True)
class _Photo:
    """An image file that was read, or why it could not be read."""

    path: Path
    image: Array | None = None
    error: str = ""


@dataclass(frozen=True)
class Work:
    """What is done with each image. It can be sent to another process.

    Attributes:
        detector: Detects the faces.
        threshold: As in `Detector.detect`.
        min_face: As in `Detector.detect`.
        max_face: As in `Detector.detect`.
        max_pixels: Larger images are refused.
        outputs: What is written of each image.
    """

    detector: Detector
    threshold: float | None
    min_face: float | None
    max_face: float | None
    max_pixels: int
    outputs: Sequence[Output] = ()

    def find(self, images: Iterable[Array]) -> list[Faces]:
        """The faces of each image."""
        return self.detector.detect(images, threshold=self.threshold, min_face=self.min_face, max_face=self.max_face)

    def __call__(self, files: Iterable[Path]) -> Generator[Done]:
        """Read images, detect, and write the outputs."""
        with ThreadPoolExecutor(READERS) as pool:
            photos = in_order(pool, self._read, files, ahead=READERS)
            yield from in_order(pool, self._finish, self._seen(photos), ahead=READERS)

    def _read(self, path: Path) -> _Photo:
        try:
            source = sys.stdin.buffer if path == STDIN else path
            return _Photo(path, read_image(source, max_pixels=self.max_pixels))
        except ImageError as error:
            return _Photo(path, error=str(error))

    def _seen(self, photos: Iterator[_Photo]) -> Iterator[tuple[_Photo, Faces | None]]:
        """Each photo with its faces; ``None`` if it could not be read."""
        for group in in_groups(photos, lambda photo: 0 if photo.image is None else photo.image.size // 3):
            faces = iter(self.find([photo.image for photo in group if photo.image is not None]))
            for photo in group:
                yield photo, None if photo.image is None else next(faces)

    def _finish(self, seen: tuple[_Photo, Faces | None]) -> Done:
        photo, faces = seen
        if photo.image is None or faces is None:
            return Done(failed_record(photo.path, photo.error), "")
        told = self.detector.describe(threshold=self.threshold, min_face=self.min_face)
        record = to_record(photo.path, faces, method=self.detector.method, detector=told)
        written = [output.write(photo.path, photo.image, faces) for output in self.outputs]
        return Done(record, next(filter(None, written), ""))


def allow(max_pixels: int) -> None:
    """Raise Pillow's own limit with ours, and silence it: problems of an image are reported in its own line."""
    Image.MAX_IMAGE_PIXELS = max(max_pixels, MAX_PIXELS)
    warnings.filterwarnings("ignore", module="PIL")


def in_processes(work: Work, files: Iterable[Path], total: int, jobs: int) -> Generator[Done]:
    """Share the work among processes, each with a detector of its own.

    Args:
        work: The work.
        files: The images.
        total: Their number, about.
        jobs: Number of processes.

    Raises:
        LineamentError: A process was killed.
    """
    size, rest = max(min(CHUNK, total // (4 * jobs)), 1), iter(files)
    chunks = iter(lambda: list(islice(rest, size)), [])
    context = multiprocessing.get_context("spawn")  # a fork would copy locks of running threads
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(work,))
    try:
        for results, said in in_order(pool, _do, chunks, ahead=2 * jobs):
            for level, message in said:
                _log.log(level, "%s", message)
            yield from results
    except BrokenProcessPool as error:
        raise LineamentError(
            f"one of {jobs} processes was killed, often for want of memory; run it again with fewer --jobs to continue"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_work: Work
_said: list[tuple[int, str]] = []


class _Said(logging.Handler):
    """Keeps what the library logs in a process, for the process that has the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        _said.append((record.levelno, record.getMessage()))


def _begin(work: Work) -> None:
    """Prepare a process."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process stops the others
    Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("lineament").addHandler(_Said(logging.INFO))
    allow(work.max_pixels)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _do(files: Sequence[Path]) -> tuple[list[Done], list[tuple[int, str]]]:
    """The results of a few images, and what was logged."""
    results = list(_work(files))
    said, _said[:] = _said[:], []
    return results, said
