"""``lineament detect`` in videos and cameras: JSON lines, one a frame, and annotated videos."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from lineament import video
from lineament.animation import AnimationReader, Picture
from lineament.cli.lines import json_lines
from lineament.cli.messages import Rate, messages
from lineament.cli.outputs import Targets
from lineament.detector import Detector
from lineament.drawing import draw
from lineament.errors import ImageError, OptionError
from lineament.faces import Faces
from lineament.records import failed_record, to_record
from lineament.tracking import Tracker

T = TypeVar("T")
Records = list[dict[str, Any]]

FAINT = 0.15
"""Lowest score of a face that a track goes on with."""


def is_video(path: str) -> bool:
    """Whether a path means a video: by its suffix, or a camera by its number."""
    return Path(path).suffix.lower() in video.SUFFIXES or (path.isdecimal() and not os.path.exists(path))


@dataclass
class Watch:
    """Detection in videos.

    Attributes:
        detector: Detects the faces.
        threshold: As in `Detector.detect`.
        min_face: As in `Detector.detect`.
        max_face: As in `Detector.detect`.
        track: Number the faces over the frames.
        gap: Largest number of frames in which a numbered face may not be detected.
        frames: Stop after so many frames.
        jobs: Threads that detect.
    """

    detector: Detector
    threshold: float | None
    min_face: float | None
    max_face: float | None
    track: bool
    gap: int
    frames: int | None
    jobs: int

    def __call__(self, paths: Sequence[str], json_file: str | None, out: Path | None, run: str) -> int:
        """Detect in each video. Returns the number of those that could not be read."""
        cameras = [path for path in paths if path.isdecimal()]
        if out and cameras:
            raise OptionError(f"--out takes video files, and camera {cameras[0]} is none")
        targets = Targets(out) if out else None
        if targets:
            targets.plan([Path(path) for path in paths])
        failed = faces = frames = 0
        kept: Records = []
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
        with (
            messages.progress(*columns) as progress,
            json_lines(json_file, run, lambda part: kept.extend(_finished(part, paths)), 0, "frames") as lines,
        ):
            for path in paths:
                before = [record for record in kept if record["path"] == path]
                if before and before[-1] is not kept[-1] and (not targets or targets[Path(path)].exists()):
                    failed += "error" in before[0]  # a later video was begun, so this one is finished
                    continue
                try:
                    with video.open_video(int(path) if path.isdecimal() else path) as reader:
                        bar = progress.add_task(Path(path).name, total=self.frames or reader.count or None)
                        seen: list[tuple[Faces, NDArray[np.intp] | None]] = []
                        records = self._records(reader, path, before)
                        for index, (record, each, ids) in enumerate(_until_stopped(records, path.isdecimal())):
                            if lines and index >= len(before):
                                lines.write(json.dumps(record) + "\n")
                                lines.flush()
                            if out:
                                seen.append((each, ids))
                            faces += len(each)
                            frames += 1
                            progress.advance(bar)
                        video.tell_damage(reader)
                    if targets:
                        self._draw(path, targets[Path(path)], seen)
                except ImageError as error:
                    messages.complain(str(error))
                    failed += 1
                    if lines:
                        lines.write(json.dumps(failed_record(path, str(error))) + "\n")
        videos = f"{len(paths) - failed} video{'s' if len(paths) - failed != 1 else ''}"
        bad = f"; {failed} could not be read" if failed else ""
        messages.say(f"{faces} faces in {frames} frames of {videos}{bad}")
        return failed

    def _records(
        self, reader: video.VideoReader | AnimationReader, path: str, before: Records
    ) -> Iterator[tuple[dict[str, Any], Faces, NDArray[np.intp] | None]]:
        """The record of each frame, with its faces and the numbers of their tracks."""
        sure = self.detector.settings.threshold if self.threshold is None else self.threshold
        lowest = min(sure, FAINT) if self.track else self.threshold
        told = self.detector.describe(threshold=self.threshold, min_face=self.min_face)
        tracker, known, last = Tracker(threshold=sure, gap=self.gap), np.zeros(0, bool), 0
        sightings = video.detect_video(
            reader,
            self.detector,
            threshold=lowest,
            min_face=self.min_face,
            max_face=self.max_face,
            jobs=self.jobs,
            known=[] if self.track else [Faces.from_dict(record, self.detector.schema) for record in before],
        )
        for index, (time, shot, faces) in enumerate(islice(sightings, self.frames)):
            ids = None
            if self.track:
                if shot != last:
                    tracker.cut()
                last = shot
                ids = tracker.update(faces.boxes, faces.scores)
                known = np.pad(known, (0, max(int(ids.max(initial=-1)) + 1 - len(known), 0)))
                known[ids[faces.scores >= sure]] = True
                faces, ids = faces[known[ids]], ids[known[ids]]
            record = to_record(path, faces, method=self.detector.method, detector=told)
            record |= {"frame": index, "time": round(time, 6)}
            if ids is not None:
                for face, number in zip(record["faces"], ids.tolist(), strict=True):
                    face["track"] = number
            yield record, faces, ids

    def _draw(self, path: str, target: Path, seen: Sequence[tuple[Faces, Any]]) -> None:
        """Write the video with its faces, and the numbers of their tracks, drawn in."""

        def edit(frame: video.Frame | Picture) -> Any:
            if frame.index >= len(seen):
                return frame.native
            faces, ids = seen[frame.index]
            drawn = draw(frame.image, faces, labels=None if ids is None else [str(number) for number in ids])
            return frame.redrawn(np.asarray(drawn))

        video.rewrite(path, target, edit)


def _until_stopped(items: Iterator[T], camera: bool) -> Iterator[T]:
    """The items; for a camera, up to Ctrl-C, which is how a camera ends."""
    try:
        yield from items
    except KeyboardInterrupt:
        if not camera:
            raise


def _finished(part: Path, paths: Sequence[str]) -> Records:
    """The records of a stopped run that still belong to these unchanged videos, in their order; the rest is cut off."""
    written = part.stat().st_mtime
    fresh = {path for path in paths if os.path.exists(path) and os.stat(path).st_mtime <= written}
    kept, size = [], 0
    with part.open("rb+") as lines:
        for line in lines:
            record = json.loads(line) if line.endswith(b"\n") else {}
            if record.get("path") not in fresh:
                break
            kept.append(record)
            size += len(line)
        lines.truncate(size)
    return kept
