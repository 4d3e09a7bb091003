"""Time and memory: milliseconds by number of faces, cold start, peak memory, and a comparison with another program.

The images are mosaics: faces of one size on a canvas of one size, so that only their number changes. Times cover
detection in a decoded image. A baseline is another process that runs alternately with the detector, so that other work
on the machine affects both alike. The ratio is the median of the ratios of the pairs.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from lineament.errors import LineamentError, OptionError
from lineament.evaluate.results import Result, Scores, curve
from lineament.faces import Faces
from lineament.images import read_image, resize

Array = NDArray[Any]

COUNTS = (1, 2, 5, 10, 20, 35, 50)
CANVAS, CELL = 1280, 160
GREY = 200
FACE = Path(__file__).with_name("face.jpg")
"""Eileen Collins, cut out of her NASA portrait of 1998, which is in the public domain."""


def mosaic(faces: Sequence[Array], count: int, *, canvas: int = CANVAS, cell: int = CELL, seed: int = 0) -> Array:
    """Make a grey image with ``count`` faces in random cells of a grid.

    Args:
        faces: Images of one face each, (h, w, 3) uint8 RGB, used in turn and scaled to a cell.
        count: Number of faces.
        canvas: Side of the image in pixels.
        cell: Side of a cell in pixels.
        seed: Seed of the random cells. A smaller number of faces uses the first cells of a larger one.

    Raises:
        OptionError: There are more faces than cells.
    """
    columns = canvas // cell
    if count > columns**2:
        raise OptionError(f"{count} faces of {cell} px do not fit on {canvas} px: at most {columns**2}")
    tiles = [resize(face, (cell, cell)) for face in faces[:count]]
    picture = np.full((canvas, canvas, 3), GREY, np.uint8)
    places = np.random.default_rng(seed).permutation(columns**2)[:count]
    for i, (row, column) in enumerate(zip(*np.divmod(places, columns), strict=True)):
        picture[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = tiles[i % len(tiles)]
    return picture


def cut_face(picture: Array, faces: Faces) -> Array:
    """Cut out the largest face of an image, in a square of twice its side, as a tile for `mosaic`.

    Raises:
        OptionError: The image has no face.
    """
    if not len(faces):
        raise OptionError("no face was detected in an image for the mosaics")
    sides = faces.boxes[:, 2:] - faces.boxes[:, :2]
    largest = sides.prod(axis=1).argmax()
    centre = (faces.boxes[largest, :2] + faces.boxes[largest, 2:]) / 2
    low = np.maximum(centre - sides[largest].max(), 0).astype(int)
    high = (centre + sides[largest].max()).astype(int)
    return picture[low[1] : high[1], low[0] : high[0]]


class Line(NamedTuple):
    """A least-squares line through times: ``base + slope * faces``, both in milliseconds."""

    base: float
    slope: float


def fit_line(counts: ArrayLike, milliseconds: ArrayLike) -> Line:
    """Fit the line of time by number of faces (its slope is FoxNet's figure 4)."""
    slope, base = np.polyfit(np.asarray(counts, float), np.asarray(milliseconds, float), 1)
    return Line(float(base), float(slope))


class Baseline:
    """Another program that detects faces and keeps running.

    The program reads image paths from standard input, one per line, and answers each with one line on standard output:
    ``{"ms": 12.3}``, the milliseconds of detection without decoding, and optionally ``"faces"``, a list or their
    number. It ends with its input. It gets ``threads`` as the environment variables OMP_NUM_THREADS and
    LINEAMENT_THREADS.
    """

    def __init__(self, command: str, threads: int | None = None) -> None:
        self.command = command
        limits = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "LINEAMENT_THREADS"), str(threads))
        try:
            self._process = subprocess.Popen(
                shlex.split(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
                env=os.environ | limits,
            )
        except OSError as error:
            raise OptionError(f"baseline {command!r} cannot be started: {error.strerror}") from error

    def __enter__(self) -> Baseline:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(BrokenPipeError):
            self._pipe(self._process.stdin).close()
        self._process.wait(timeout=60)
        self._pipe(self._process.stdout).close()

    def time(self, path: Path) -> float:
        """Milliseconds that the baseline takes for an image. Raises as ``find``."""
        return self.find(path)[0]

    def find(self, path: Path) -> tuple[float, int | None]:
        """Milliseconds that the baseline takes for an image, and the number of faces, if it says so.

        Raises:
            LineamentError: The program ended or gave another answer.
        """
        try:
            self._pipe(self._process.stdin).write(f"{path}\n")
            answer = self._pipe(self._process.stdout).readline()
        except BrokenPipeError:
            answer = ""
        try:
            told = json.loads(answer)
            faces = told.get("faces")
            return float(told["ms"]), len(faces) if isinstance(faces, list) else faces
        except (AttributeError, ValueError, KeyError, TypeError) as error:
            code = self._process.poll()
            raise LineamentError(
                f'baseline {self.command!r} should answer a path with one JSON line {{"ms": milliseconds}}, found '
                f"{answer.strip()!r}" + (f" (it ended with status {code})" if code is not None else "")
            ) from error

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


class Timing(NamedTuple):
    """Times for one image: medians in milliseconds, number of faces, and the median ratio of baseline to detector."""

    milliseconds: float
    found: int
    baseline: float | None = None
    ratio: float | None = None


def time_picture(
    detect: Callable[[Array], Faces], path: Path, *, repeats: int = 5, baseline: Baseline | None = None
) -> Timing:
    """Time a detector on one image, alternately with a baseline, after a warm-up call of each."""
    picture = read_image(path)
    found = len(detect(picture))
    if baseline:
        baseline.time(path)
    own, other = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        detect(picture)
        own.append((time.perf_counter() - start) * 1000)
        if baseline:
            other.append(baseline.time(path))
    if not baseline:
        return Timing(float(np.median(own)), found)
    ratios = np.divide(other, own)
    return Timing(float(np.median(own)), found, float(np.median(other)), float(np.median(ratios)))


class Start(NamedTuple):
    """Cold start: seconds until a new process finishes its first image, and its peak memory in MB if known."""

    seconds: float
    megabytes: float | None


_FIRST_DETECTION = """
import json, sys, lineament
model, picture, options = sys.argv[1:]
lineament.load(model, **json.loads(options)).detect(picture)
from lineament.evaluate.speed import peak_memory
print(peak_memory() or "")
"""


def cold_start(
    model: str, picture: Path, threads: int | None = None, settings: Mapping[str, Any] | None = None
) -> Start:
    """Start a Python process that loads a detector and detects faces in one image.

    Raises:
        LineamentError: The process failed. The message ends with its error.
    """
    options = json.dumps({"threads": threads, "settings": dict(settings or {})})
    command = [sys.executable, "-c", _FIRST_DETECTION, model, str(picture), options]
    start = time.perf_counter()
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if child.returncode:
        raise LineamentError(f"the fresh process for {model!r} failed: {child.stderr.strip().rpartition(chr(10))[2]}")
    return Start(seconds, float(child.stdout) if child.stdout.strip() else None)


def peak_memory() -> float | None:
    """Peak resident memory of this process in MB. ``None`` if the system does not report it.

    On Linux from /proc, since ``getrusage`` includes the parent's memory from before ``exec`` there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return float(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def evaluate_speed(
    name: str,
    detect: Callable[[Array], Faces],
    tiles: Sequence[Array],
    folder: Path,
    *,
    counts: Sequence[int] = COUNTS,
    repeats: int = 5,
    baseline: Baseline | None = None,
    start: Callable[[Path], Start] | None = None,
) -> Result:
    """Time a detector on mosaics with increasing numbers of faces.

    Args:
        name: The name of the detector in the result.
        detect: Returns the faces of an image.
        tiles: Images of one face each.
        folder: Folder for the mosaics, PNG files that a baseline reads.
        counts: Numbers of faces.
        repeats: Calls per image after a warm-up call. Medians are reported.
        baseline: Another program to compare with.
        start: Measures a new process on an image, like `cold_start`.
    """
    paths = [folder / f"{count}.png" for count in counts]
    for count, path in zip(counts, paths, strict=True):
        Image.fromarray(mosaic(tiles, count)).save(path)
    timings = [time_picture(detect, path, repeats=repeats, baseline=baseline) for path in paths]
    times = [timing.milliseconds for timing in timings]
    line = fit_line(counts, times)
    first = start(paths[0]) if start else None
    scores: Scores = {"ms without faces (fitted)": line.base, "ms per further face (fitted)": line.slope}
    if first:
        scores |= {"cold start s": first.seconds, "peak memory MB": first.megabytes}
    curves = {"time": curve(counts, times, "faces", "ms per picture")}
    if baseline:
        others = [timing.baseline or 0.0 for timing in timings]
        theirs = fit_line(counts, others)
        scores |= {
            "baseline ms without faces (fitted)": theirs.base,
            "baseline ms per further face (fitted)": theirs.slope,
            "times as fast as baseline": float(np.median([timing.ratio for timing in timings])),
        }
        curves["time: baseline"] = curve(counts, others, "faces", "ms per picture")
    return Result(
        protocol="speed",
        name=name,
        scores=scores,
        tables={"by number of faces": {str(n): _row(n, timing) for n, timing in zip(counts, timings, strict=True)}},
        curves=curves,
        settings={"canvas": CANVAS, "face tile": CELL, "repeats": repeats, "processors": os.cpu_count()}
        | ({"baseline": baseline.command} if baseline else {}),
    )


def _row(count: int, timing: Timing) -> Scores:
    row: Scores = {"found": timing.found, "ms": timing.milliseconds, "ms per face": timing.milliseconds / count}
    return row if timing.baseline is None else row | {"baseline ms": timing.baseline, "ratio": timing.ratio}
