"""Redact photos and videos: cover every face in a file, and write a new one.

A video is read twice. The first pass detects faces in every frame and links them; the second covers and encodes. So a
face that is first detected in frame 20 is covered in the frames before as well, without pictures kept in memory, and
the numbers of all tracks are known before the first frame is written. Decoding twice costs little beside detection.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lineament.animation import Picture, colors
from lineament.checks import number, whole
from lineament.covers import BLUR, Cover, paint
from lineament.detector import Detector
from lineament.errors import ImageError, OptionError
from lineament.faces import Faces
from lineament.files import whole as whole_file
from lineament.images import read_image
from lineament.saving import saving
from lineament.tracking import Tracks, link
from lineament.video import Frame, VideoError, detect_video, open_video, planes, require_av, rewrite

Array = NDArray[Any]

_log = logging.getLogger(__name__)

PHOTO = 0.1
"""Lowest score of a face in a photo. It was chosen on validation photos, for detectors whose faces are verified."""
PAINTABLE = frozenset({"L", "LA", "RGB", "RGBA", "CMYK", "YCbCr"})
"""Pillow's modes whose pixels can be averaged. Photos of other modes are converted."""


@dataclass(frozen=True)
class Search:
    """How the faces of a video are searched. Missing a face counts more than covering something else.

    The defaults were chosen on clips that ``benchmarks/moving_photos.py`` makes of training and validation photos, for
    detectors whose faces are verified (setting ``verify``). Others need about twice these scores.

    Attributes:
        threshold: A track counts if one of its detections has this confidence score.
        mean: A track counts if its mean score, frames without a detection included, is this high. Large faces need
            more, see ``lineament.tracking.Tracks.counted``.
        faint: Lowest score of a detection.
        gap: Largest number of frames over which a face is followed without being detected.
        hold: Number of frames before a face is first and after it is last detected in which it is covered.

    Raises:
        OptionError: An attribute is out of range.
    """

    threshold: float = 0.05
    mean: float = 0.03
    faint: float = 0.03
    gap: int = 8
    hold: int = 5

    def __post_init__(self) -> None:
        for name in ("threshold", "mean", "faint"):
            number(getattr(self, name), f"{name} must lie in [0, 1]", low=0, high=1)
        for name in ("gap", "hold"):
            whole(getattr(self, name), f"{name} is a number of frames, at least 0", low=0)


SEARCH = Search()
"""The default."""


@dataclass(frozen=True, eq=False)
class Seen:
    """The faces of a video.

    Attributes:
        size: ``(width, height)`` of the upright frames in pixels.
        times: (n,) time stamps of the frames in seconds.
        shots: (n,) number of the shot of each frame.
        tracks: The faces, without gaps, and held at both ends.
    """

    size: tuple[int, int]
    times: NDArray[np.float64]
    shots: NDArray[np.intp]
    tracks: Tracks


Progress = Callable[[str, int, int], None]
"""Called with the name of a pass, the number of frames done, and their number in all, 0 if unknown."""


def _silent(_name: str, _done: int, _total: int) -> None:
    """No progress."""


def find_tracks(
    source: str | os.PathLike[str],
    detector: Detector,
    search: Search = SEARCH,
    *,
    jobs: int = 2,
    progress: Progress = _silent,
) -> Seen:
    """Find the faces of a video and link them over its frames.

    Args:
        source: The file of a video or an animated image.
        detector: Detects them. With several jobs, load it with ``threads=1``.
        search: Thresholds and lengths.
        jobs: Threads that detect.
        progress: See ``Progress``.

    Raises:
        VideoError: The file cannot be read.
    """
    times, shots, found = [], [], []
    with open_video(source) as reader:
        for time, shot, faces in detect_video(reader, detector, threshold=search.faint, jobs=jobs):
            times.append(time)
            shots.append(shot)
            found.append((faces.boxes, faces.scores))
            progress("detect", len(found), reader.count)
        size = reader.size
    numbers = np.array(shots, np.intp)
    tracks = link(found, numbers, threshold=search.threshold, gap=search.gap)
    tracks = tracks.filled().counted(search.threshold, search.mean, max(size)).held(search.hold, numbers)
    return Seen(size, np.array(times), numbers, tracks)


def redact_video(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    seen: Seen,
    cover: Cover = BLUR,
    *,
    keep: Collection[int] = (),
    numbers: bool = False,
    metadata: bool = True,
    progress: Progress = _silent,
) -> None:
    """Write a copy of a video with its faces covered. Everything else stays, see ``lineament.video.rewrite``.

    Args:
        source: The file.
        target: The new file. It appears when it is complete.
        seen: The faces, from ``find_tracks``.
        cover: How they are covered.
        keep: Numbers of the tracks that are not covered.
        numbers: Write the number of each track on its cover.
        metadata: Copy title, date, place and chapters.
        progress: See ``Progress``.

    Raises:
        VideoError: The file cannot be read, has changed, or cannot be written.
        OptionError: There is no track of a number in ``keep``, or the target is the source.
    """
    _check_target(source, target)
    unknown = sorted(set(keep) - set(seen.tracks.track.tolist()))
    if unknown:
        raise OptionError(f"{os.fspath(source)}: no face has the number {', '.join(map(str, unknown))}")
    covered = seen.tracks[~np.isin(seen.tracks.track, list(keep))].by_frame(len(seen.times))
    stored: tuple[Cover, list[Array | None]] | None = None

    def edit(frame: Frame | Picture) -> Any:
        nonlocal stored
        if frame.index >= len(covered) or frame.time != seen.times[frame.index]:
            raise VideoError("its frames are not those in which faces were detected; has it changed?")
        boxes, track = covered[frame.index].boxes, covered[frame.index].track
        if isinstance(frame, Picture):
            paint([frame.native], boxes, cover, [_patch(cover, frame.native)])
            for channel in np.moveaxis(frame.native[..., :3], -1, 0) if numbers else ():
                _write_numbers(channel, boxes, track, 0)
        else:
            frame.native.make_writable()
            boxes = frame.stored(boxes)
            if stored is None:
                stored = _stored(cover, frame.native, frame.turns)
            paint(planes(frame.native), boxes, *stored)
            if numbers:
                _write_numbers(planes(frame.native)[0], boxes, track, frame.turns)
        progress("redact", frame.index + 1, len(covered))
        return frame.native

    rewrite(source, target, edit, metadata=metadata)


def _patch(cover: Cover, pixels: Array) -> Array | None:
    """What a cover paints, in the mode of an image (h, w, 3) or (h, w, 4)."""
    mode = "RGBA" if pixels.shape[2] == 4 else "RGB"
    return None if cover.patch is None else np.asarray(Image.fromarray(cover.patch).convert(mode))


def _stored(cover: Cover, native: Any, turns: int) -> tuple[Cover, list[Array | None]]:
    """A cover turned as a frame is stored, and what it paints in the colours of each plane of the frame."""
    if cover.picture is not None:
        cover = replace(cover, picture=np.rot90(cover.picture, -turns))
    if cover.patch is None:
        return cover, [None] * len(native.planes)
    doubled = np.repeat(np.repeat(cover.patch, 2, axis=0), 2, axis=1)  # colours may have half the resolution
    patch = require_av().VideoFrame.from_ndarray(doubled, format="rgb24")
    converted = patch.reformat(
        format=native.format.name, dst_colorspace=native.colorspace, dst_color_range=native.color_range
    )
    return cover, [plane.copy() for plane in planes(converted)]


def _write_numbers(luma: Array, boxes: Array, numbers: Array, turns: int) -> None:
    """Write numbers in the middle of boxes (n, 4), white on black, in the brightness of a frame, in place."""
    white = 235 if luma.dtype == np.uint8 else int(luma.max())
    for box, each in zip(boxes, numbers.tolist(), strict=True):
        font = ImageFont.load_default(max(float((box[2:] - box[:2]).max()) / 3, 10))
        left, top, right, bottom = font.getbbox(str(each))
        plate = Image.new("L", (round(right - left) + 4, round(bottom - top) + 4))
        ImageDraw.Draw(plate).text((2 - left, 2 - top), str(each), 255, font)
        text = np.rot90(np.asarray(plate), -turns) / np.float32(255) * white
        corner = np.round((box[:2] + box[2:]) / 2 - np.array(text.shape[::-1]) / 2).astype(int)
        x, y = np.clip(corner, 0, np.maximum(np.array(luma.shape[::-1]) - text.shape[::-1], 0)).tolist()
        part = luma[y : y + text.shape[0], x : x + text.shape[1]]
        part[:] = text[: part.shape[0], : part.shape[1]]


def redact_photo(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    detector: Detector,
    cover: Cover = BLUR,
    *,
    threshold: float | None = PHOTO,
    metadata: bool = True,
) -> Faces:
    """Write a copy of a photo with its faces covered.

    The photo is turned upright. Format, mode, colour profile, resolution and, of a JPEG, quality stay. Previews that
    may show the faces are never copied: thumbnails, notes of the camera's maker, XMP, further images of the file.

    Args:
        source: The file.
        target: The new file. It appears when it is complete.
        detector: Detects the faces.
        cover: How they are covered.
        threshold: Lowest confidence score of a face. ``None``: the detector's default.
        metadata: Copy the EXIF data.

    Returns:
        The covered faces.

    Raises:
        ImageError: The photo cannot be read, is animated, or its format cannot be written.
        OptionError: The target is the source.
    """
    _check_target(source, target)
    name = os.fspath(source)
    read_image(source)  # refuses what is damaged or too large, and says so
    with Image.open(source) as image:
        form = "JPEG" if image.format == "MPO" else image.format
        Image.init()
        if form is None or form not in Image.SAVE:
            raise ImageError(f"{name}: Pillow does not write {form}; convert it to JPEG or PNG")
        if image.format != "MPO" and (count := getattr(image, "n_frames", 1)) > 1:
            raise ImageError(
                f"{name}: {count} frames or pages; redact_video takes animations, or convert it to single images"
            )
        upright = ImageOps.exif_transpose(image)
        options = saving(image, form, metadata=metadata)
    if upright.mode not in PAINTABLE:
        upright = Image.fromarray(colors(upright))
    faces = detector.detect(upright, threshold=threshold)
    pixels = np.array(upright)
    patch = None if cover.patch is None else np.asarray(Image.fromarray(cover.patch).convert(upright.mode))
    paint([pixels], faces.boxes, cover, [patch])
    with whole_file(Path(target)) as part:
        try:
            Image.fromarray(pixels, upright.mode).save(part, format=form, **options)
        except ValueError as error:  # encoders raise it for what their format cannot hold
            raise ImageError(f"{name}: cannot be written as {form}: {error}") from error
    return faces


def _check_target(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
        raise OptionError(f"{os.fspath(target)}: the original is never overwritten; choose another file")
