"""What each weight file costs on this machine and what it finds: measured times beside the accuracy in its metadata.

All choices take turns, one photo after the other, so that other work on the machine affects all alike.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.errors import MissingExtraError
from lineament.evaluate.results import Scores
from lineament.files import whole
from lineament.weights import Model

Array = NDArray[Any]

SIZED = re.compile(r", input (\d+)$")
WIDER = ("wider-val easy", "wider-val medium", "wider-val hard")
"""Scores in the metadata: average precision on WIDER FACE's validation set, in percent."""
LANDMARKS = "landmarks5-test nme"
"""Score in the metadata: mean error of the landmarks in percent of the face's size."""


@dataclass(frozen=True)
class Choice:
    """Weights at an input size.

    Attributes:
        name: The weights, by name or path.
        size: The input size. ``None``: the weights' own.
        megabytes: Size of the file.
        scores: Measured scores at that size, from the metadata.
    """

    name: str
    size: int | None
    megabytes: float
    scores: Mapping[str, float]

    def __str__(self) -> str:
        return self.name if self.size is None else f"{self.name}, {self.size}"

    @property
    def accuracy(self) -> float | None:
        """Mean average precision over the subsets of WIDER FACE, in percent. ``None`` if it was not measured."""
        found = [self.scores[name] for name in WIDER if name in self.scores]
        return float(np.mean(found)) if len(found) == len(WIDER) else None


def choices(model: Model, sizes: Sequence[int] = (), *, sized: bool = True) -> list[Choice]:
    """The choices that weights offer.

    Args:
        model: The weights.
        sizes: Input sizes. Empty: those at which the metadata have scores.
        sized: Whether the method has an input size.
    """
    scores: dict[int | None, dict[str, float]] = {}
    for name, score in model.scores.items():
        found = SIZED.search(name)
        scores.setdefault(int(found[1]) if found else None, {})[SIZED.sub("", name)] = score
    known = sorted(size for size in scores if size is not None)
    wanted: Sequence[int | None] = (sizes or known or [None]) if sized else [None]
    return [Choice(model.name, size, model.bytes / 1e6, scores.get(size, {})) for size in wanted]


def measure(
    finders: Mapping[str, Callable[[Path], tuple[float, int | None]]], photos: Sequence[Path], *, rounds: int
) -> dict[str, Scores]:
    """Time finders of faces, in turns.

    Args:
        finders: By name, a function of a photo that returns its milliseconds and the number of faces, if known.
        photos: The photos.
        rounds: How often each finder gets each photo, after a first time that does not count. Medians count.

    Returns:
        By name: ``ms`` per photo and the number of ``faces`` in all photos.
    """
    times: dict[str, list[list[float]]] = {name: [[] for _ in photos] for name in finders}
    faces: dict[str, int | None] = {}
    for name, find in finders.items():
        counts = [find(photo)[1] for photo in photos]
        known = [count for count in counts if count is not None]
        faces[name] = sum(known) if len(known) == len(counts) else None
    for _ in range(rounds):
        for i, photo in enumerate(photos):
            for name, find in finders.items():
                times[name][i].append(find(photo)[0])
    return {
        name: {"ms": float(np.mean([np.median(each) for each in spent])), "faces": faces[name]}
        for name, spent in times.items()
    }


def timed(detect: Callable[[Array], Any], images: Mapping[Path, Array]) -> Callable[[Path], tuple[float, int | None]]:
    """A finder for ``measure`` from a function of a decoded image."""

    def find(photo: Path) -> tuple[float, int | None]:
        start = time.perf_counter()
        faces = detect(images[photo])
        return 1000 * (time.perf_counter() - start), len(faces)

    return find


def frontier(costs: Sequence[float], gains: Sequence[float | None]) -> list[bool]:
    """Which choices are worth their cost: no other one gains as much for less, or more for the same."""
    worth = []
    for cost, gain in zip(costs, gains, strict=True):
        better = any(
            other is not None and gain is not None and other >= gain and c <= cost and (other > gain or c < cost)
            for c, other in zip(costs, gains, strict=True)
        )
        worth.append(gain is not None and not better)
    return worth


def plot(path: Path, points: Mapping[str, tuple[float, float]], worth: Sequence[str]) -> None:
    """Draw accuracy against time, and a line through the choices that are worth their cost.

    Args:
        path: A file of a format that matplotlib writes: png, svg, pdf.
        points: By name, milliseconds and accuracy.
        worth: Names on the frontier.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError.of("report", "a plot needs matplotlib") from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    line = sorted(points[name] for name in worth)
    axes.plot([x for x, _ in line], [y for _, y in line], color="#0b6e4f", linewidth=1.5, zorder=1)
    for name, (x, y) in points.items():
        axes.scatter(x, y, s=36, color="#0b6e4f" if name in worth else "#9aa39d", zorder=2)
        axes.annotate(name, (x, y), xytext=(5, -10), textcoords="offset points", fontsize="small")
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds per photo on this machine")
    axes.set_ylabel("WIDER FACE val: mean average precision, %")
    axes.grid(alpha=0.3, which="both")
    axes.margins(x=0.18, y=0.1)
    with whole(path) as part:
        figure.savefig(part, format=path.suffix[1:] or "png", dpi=150)
