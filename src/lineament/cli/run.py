"""Detections for an evaluator: from a file, or from a method that runs now and continues a stopped run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

import lineament
from lineament.cli.messages import messages
from lineament.cli.options import Settings
from lineament.data.sample import Sample
from lineament.data.sizes import check_sizes
from lineament.errors import OptionError
from lineament.evaluate.labelled import Evaluated, detect_all
from lineament.evaluate.origin import Origin, origin
from lineament.faces import Faces
from lineament.images import read_image
from lineament.methods.settings import ViewSettings
from lineament.records import read_records
from lineament.schemas import Schema

Work = Annotated[Path, typer.Option(help="With --method: folder in which results are kept, image by image.")]
Threads = Annotated[int | None, typer.Option(help="With --method: processor threads (default: all cores).")]
WORK = Path("runs") / "evaluate"

_DIGITS = 7  # enough to give every float32 back


@dataclass(frozen=True)
class Source:
    """The source of detections: a file of earlier results, or a method that runs now.

    Attributes:
        detections: The file.
        method: The name of weights, or an ONNX file.
        images: Folder of the images.
        work: Folder in which the results of the method are kept, one file for each choice of weights and options.
        threshold: Lowest confidence score. ``None``: the method's default.
        min_face: Smallest face in pixels. ``None``: the method's default, or ``at_most`` if that is smaller.
        threads: Processor threads.
        settings: Settings of the method.
        turn: Number of quarter turns, counter-clockwise, by which images are rotated before detection.
        landmarks: As in ``lineament.load``.
        at_most: Upper limit of the default of ``min_face``.
        used: What ``over`` ran with, defaults included, for the JSON file of a result.

    Raises:
        OptionError: Both or neither of file and method are given, or a method without images.
    """

    detections: Path | None
    method: str | None
    images: Path | None
    work: Path
    threshold: float | None
    min_face: float | None
    threads: int | None
    settings: Settings
    turn: int = 0
    landmarks: str | None = None
    at_most: float = math.inf
    used: dict[str, Any] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if (self.method is None) == (self.detections is None):
            raise OptionError("give either --detections, a file of earlier results, or --method, to detect now")
        if self.landmarks and not self.method:
            raise OptionError("--landmarks takes --method, whose faces it finds the landmarks of")
        if self.method and not self.images:
            raise OptionError("--method takes --images, the folder of the benchmark's images")

    @property
    def name(self) -> str:
        """The default name of results."""
        if self.detections:
            return self.detections.stem
        return " + ".join(filter(None, (self.method, self.landmarks)))

    @property
    def told(self) -> dict[str, Any]:
        """What a result depends on, for its JSON file."""
        if self.detections:
            return {"detections": self.detections.name}
        return {**self.used, "landmarks": self.landmarks, **self.settings}

    def origin(self, data: Path) -> Origin:
        """The origin of a result on these labels."""
        return origin(weights=list(self._detector.weights) if self.method else [], data=data, threads=self.threads)

    @cached_property
    def _detector(self) -> lineament.Detector:
        """The method to run."""
        return lineament.load(self.method or "", landmarks=self.landmarks, threads=self.threads, settings=self.settings)

    def over(self, samples: Sequence[Sample]) -> Evaluated:
        """Run the method on these images.

        Each result is appended to a file at once, in the form of ``lineament detect --json``, with the digest of the
        image file. Images in the file are not processed again.

        Raises:
            DataError: Labels have another size than their image, or no image can be read.
        """
        check_sizes(samples)
        detector = self._detector
        own = detector.settings
        min_face = min(own.min_face, self.at_most) if self.min_face is None else self.min_face
        lowest = own.threshold if self.threshold is None else self.threshold
        self.used.update({"lowest score": lowest, "smallest face": min_face})
        if isinstance(own, ViewSettings):
            self.used["input_size"] = own.input_size
        file = self._file()
        kept, new = _kept(file, detector.schema), 0
        shown = track(samples, f"{len(samples)} images", console=messages.console, transient=True)
        with file.open("a", encoding="utf-8") as lines:

            def detect(path: Path) -> Faces:
                nonlocal new
                digest = _digest(path)
                if digest not in kept:
                    image = np.ascontiguousarray(np.rot90(read_image(path), self.turn))
                    kept[digest] = detector.detect(image, threshold=self.threshold, min_face=min_face)
                    told = {"path": str(path), "sha256": digest, "method": detector.method}
                    lines.write(json.dumps(told | kept[digest].to_dict(_DIGITS)) + "\n")
                    lines.flush()
                    new += 1
                return kept[digest]

            evaluated = detect_all(shown, detect, empty=detector.schema)
        before = len(samples) - evaluated.failed - new
        messages.say(f"{new} images detected now, {before} before; kept in {file}")
        return evaluated

    def _file(self) -> Path:
        """The file for this choice of method, weights and options."""
        weights = [*self._detector.weights.values()]
        options = (self.threshold, self.min_face, self.at_most, self.turn, self.landmarks)
        parts = repr((weights, lineament.__version__, *options, *sorted(self.settings.items())))
        name = "+".join(Path(part).stem for part in self.name.split(" + "))
        return self.work / f"{name}-{hashlib.sha256(parts.encode()).hexdigest()[:12]}.jsonl"


def _kept(file: Path, schema: Schema) -> dict[str, Faces]:
    """Earlier results by the digest of the image file. An incomplete last line, of a stopped run, is cut off."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as lines:
        lines.seek(0)
        lines.truncate(lines.read().rfind(b"\n") + 1)
    return {record.sha256: record.faces for record in read_records(file, schema) if record.sha256}


def _digest(path: Path) -> str:
    """SHA-256 of an image file; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
