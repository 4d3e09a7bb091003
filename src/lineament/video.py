"""Read and rewrite videos with PyAV (the extra ``video``), and detect the faces in their frames.

A video is read frame by frame. `VideoReader.frames` gives the frames of a file or a camera, `detect_video` their faces.
`rewrite` makes a new file with edited frames in which everything else is copied: time stamps, sound, subtitles,
rotation and metadata. Animated images are read and written in the same way, by `lineament.animation`.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lineament import animation
from lineament.animation import AnimationReader, Picture, is_animation
from lineament.detector import Detector
from lineament.errors import ImageError, MissingExtraError
from lineament.faces import Faces
from lineament.files import whole
from lineament.parallel import in_order
from lineament.tracking import Shots

Array = NDArray[Any]

_log = logging.getLogger(__name__)

SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp"}
    | {".ogv"}
)
"""Suffixes of the video files in a folder."""

ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"crf": "18", "preset": "veryfast"}),
    "hevc": ("libx265", {"crf": "20", "preset": "fast", "x265-params": "log-level=error"}),
    "vp8": ("libvpx", {"crf": "8", "b:v": "0", "deadline": "realtime", "cpu-used": "4"}),
    "vp9": ("libvpx-vp9", {"crf": "24", "b:v": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"}),
    "av1": ("libsvtav1", {"crf": "28", "preset": "9"}),
    "mpeg4": ("mpeg4", {"qmin": "2", "qmax": "4"}),
    "prores": ("prores_ks", {}),
    "mjpeg": ("mjpeg", {"qmin": "2", "qmax": "3"}),
    "mpeg2video": ("mpeg2video", {"qmin": "2", "qmax": "4"}),
}
"""By the codec of the source: the encoder that keeps the codec, with options for a copy without visible loss."""
AT_ONCE = 4
"""Frames of one call of the detector."""
THUMBNAIL = (32, 18)
"""Width and height of the pictures in which cuts are found."""
FEW_FRAMES = 2.5
"""Durations that containers announce are wrong by no more frames, or by one in a hundred."""
TS_PACKETS = (188, 192, 204)
"""Sizes of the packets of an MPEG transport stream in bytes."""
TIME = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
"""Hours, minutes and seconds in a tag of Matroska."""
FIXED_RATE = frozenset({"mpeg1video", "mpeg2video"})
"""Encoders that write frames at even distances only."""
LARGEST_TICK = 65535
"""Largest number of ticks of a second for MPEG-4."""
CAMERA_FORMATS = {"posix": "v4l2", "nt": "dshow"}
"""The input format of cameras by ``os.name``."""


class VideoError(ImageError):
    """A video that cannot be read or written."""


def require_av() -> Any:
    """Import PyAV.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError.of("video", f"videos need {error.name}") from error
    av.logging.set_level(None)  # what FFmpeg has to say about damaged frames is counted instead
    return av


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a video.

    Attributes:
        index: Number of the frame, from 0 on.
        time: Time stamp in seconds, as the container has it.
        native: The decoded ``av.VideoFrame``, as stored.
        turns: Number of counter-clockwise quarter turns that make the stored pixels upright.
    """

    index: int
    time: float
    native: Any
    turns: int = 0

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """The upright image (h, w, 3), uint8 RGB."""
        rgb = self.native.to_ndarray(format="rgb24", interpolation="FAST_BILINEAR")
        return np.ascontiguousarray(np.rot90(rgb, self.turns))

    def thumbnail(self, width: int, height: int) -> Array:
        """A small grey image (height, width), uint8."""
        small = self.native.reformat(width=width, height=height, format="gray8", interpolation="AREA")
        return np.asarray(small.to_ndarray())

    def redrawn(self, image: Array) -> Any:
        """A frame like this one with other pixels, an upright image (h, w, 3) uint8 RGB."""
        stored = np.ascontiguousarray(np.rot90(image, -self.turns))
        return require_av().VideoFrame.from_ndarray(stored, format="rgb24")

    def stored(self, boxes: Array) -> Array:
        """Map boxes (n, 4) from the upright image to the stored one."""
        width, height = self.native.width, self.native.height
        x1, y1, x2, y2 = np.moveaxis(np.asarray(boxes, float), -1, 0)
        moved = {
            0: (x1, y1, x2, y2),
            1: (width - y2, x1, width - y1, x2),
            2: (width - x2, height - y2, width - x1, height - y1),
            3: (y1, height - x2, y2, height - x1),
        }
        return np.stack(moved[self.turns % 4], axis=-1)


class VideoReader:
    """A video file or a camera, open for reading. Use it in a ``with`` block.

    Attributes:
        name: The name for messages.
        size: ``(width, height)`` of the upright frames in pixels.
        turns: Number of counter-clockwise quarter turns that make the stored frames upright.
        rate: Average frames per second; 0 if unknown.
        damaged: Number of packets so far that could not be decoded, or only in part.
    """

    def __init__(self, source: str | os.PathLike[str] | int, *, everything: bool = False) -> None:
        """Open a video.

        Args:
            source: The path of a file, or the number of a camera.
            everything: Also read the packets of sound and subtitles.

        Raises:
            VideoError: The source cannot be opened, or has no frames.
            MissingExtraError: PyAV is not installed.
        """
        av = require_av()
        self.name = f"camera {source}" if isinstance(source, int) else os.fspath(source)
        with _blaming(self.name):
            self.container = _open_camera(source) if isinstance(source, int) else _open_file(self.name)
        try:
            cover = av.stream.Disposition.attached_pic
            pictures = [stream for stream in self.container.streams.video if not stream.disposition & cover]
            if not pictures:
                raise VideoError(f"{self.name}: no video stream; is it a sound file?")
            self.stream, *more = pictures
            if more:
                _log.warning("%s: %d more video streams are left out", self.name, len(more))
            self.stream.thread_type = "AUTO"
            self.others = [s for s in self.container.streams if s.type in ("audio", "subtitle")] if everything else []
            self.rate = float(self.stream.average_rate or 0)
            self.damaged = int(_is_cut(self.name, self.container.format.name))
            self._counter = _Counter(self.stream)
            self._packets = self._read()
            self._peeked: list[tuple[Any, list[Frame]]] = []
            for packet, frames in self._packets:
                self._peeked.append((packet, frames))
                if frames:
                    break
            else:
                raise VideoError(f"{self.name}: no frame can be decoded; the file is empty or damaged")
            native, self.turns = frames[0].native, frames[0].turns
            self.size = (native.height, native.width) if self.turns % 2 else (native.width, native.height)
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()

    @property
    def count(self) -> int:
        """The number of frames that the container announces, or that follows from its duration; 0 if unknown."""
        seconds = (self.container.duration or 0) / 1_000_000
        return int(self.stream.frames) or round(seconds * self.rate)

    @property
    def missing(self) -> float:
        """Seconds that the container announces beyond the last frame so far; 0 if it does not say, or a few frames."""
        base, tag = self.stream.time_base, self.stream.metadata.get("DURATION", "")
        if self.stream.duration and base:
            announced = float(self.stream.duration * base)
        elif found := TIME.fullmatch(tag):
            announced = sum(float(part) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True))
        else:
            announced = (self.container.duration or 0) / 1_000_000 if len(self.container.streams) == 1 else 0
        left = announced - self._counter.seconds
        return left if left > max(FEW_FRAMES / (self.rate or 25), 0.01 * announced) else 0.0

    def frames(self) -> Iterator[Frame]:
        """Yield the frames, once. Frames of another size than the first's are resized to it.

        Raises:
            VideoError: The file cannot be read on.
        """
        for _, frames in self.packets():
            yield from frames

    def packets(self) -> Iterator[tuple[Any, list[Frame]]]:
        """Yield each packet of sound or subtitles, or ``None`` for a packet of the video with the frames it completes.

        They have the order of the file. Packets that cannot be decoded are counted in ``damaged``.
        """
        peeked, self._peeked = self._peeked, []
        yield from peeked
        yield from self._packets

    def _read(self) -> Iterator[tuple[Any, list[Frame]]]:
        counter = self._counter
        with _blaming(self.name):
            packets = self.container.demux([self.stream, *self.others])
            for packet in _until_damaged(packets, self._damage):
                if packet.stream.index == self.stream.index:
                    try:
                        decoded = packet.decode()
                    except require_av().error.InvalidDataError:
                        self.damaged += 1
                        continue
                    self.damaged += sum(native.is_corrupt for native in decoded)
                    yield None, [counter.frame(native) for native in decoded]
                elif packet.dts is not None:  # the last packet of a stream is an empty one
                    yield packet, []

    def _damage(self) -> None:
        self.damaged += 1


def _until_damaged(packets: Iterator[Any], damage: Callable[[], None]) -> Iterator[Any]:
    """Packets up to the place where a truncated file breaks off."""
    try:
        yield from packets
    except require_av().error.InvalidDataError:
        damage()


def open_video(source: str | os.PathLike[str] | int) -> VideoReader | AnimationReader:
    """Open a video, an animated image or a camera, by its path or its number, for reading.

    Raises:
        ImageError: The source cannot be opened, or has no frames.
        MissingExtraError: It takes PyAV, which is not installed.
    """
    if not isinstance(source, int) and is_animation(source):
        return AnimationReader(source)
    return VideoReader(source)


def _is_cut(name: str, form: str) -> bool:
    """Whether a file ends within one of the packets of equal size that its format consists of."""
    return form == "mpegts" and os.path.isfile(name) and all(os.path.getsize(name) % size for size in TS_PACKETS)


class _Counter:
    """Numbers frames, and gives a time to those that have none. It knows the seconds they take so far."""

    def __init__(self, stream: Any) -> None:
        self._base = stream.time_base or Fraction(1, 1000)
        self._step = max(round(1 / (self._base * (stream.average_rate or 25))), 1)
        self._index, self._last, self.seconds = 0, -math.inf, 0.0
        self._first: Any = None

    def frame(self, native: Any) -> Frame:
        """The next frame. Time stamps that are missing or do not rise are replaced."""
        pts = native.pts
        if pts is None or pts <= self._last:
            pts = 0 if self._last == -math.inf else int(self._last) + (self._step if pts is None else 1)
        native.pts, native.time_base, self._last = pts, self._base, pts
        if self._first is None:
            self._first, self._start = native, pts
        elif (native.width, native.height) != (self._first.width, self._first.height):
            native = native.reformat(width=self._first.width, height=self._first.height, format=self._first.format.name)
        self._index += 1
        self.seconds = float((pts + self._step - self._start) * self._base)
        turns = round(native.rotation / 90) % 4
        return Frame(self._index - 1, float(pts * self._base), native, turns)


def _open_camera(number: int) -> Any:
    device = f"/dev/video{number}" if os.name == "posix" else f"video={number}"
    return require_av().open(device, format=CAMERA_FORMATS.get(os.name))


def _open_file(name: str) -> Any:
    if os.path.isdir(name):
        raise VideoError("a folder, not a video")
    return require_av().open(name, metadata_errors="replace")


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Turn PyAV's errors into a `VideoError` that names the file and says what to do."""
    av = require_av()
    try:
        yield
    except VideoError as error:
        raise VideoError(f"{name}: {error}") from None
    except av.error.FileNotFoundError:
        raise VideoError(f"{name}: no such file") from None
    except av.error.InvalidDataError:
        raise VideoError(f"{name}: not a video, or its end is missing; fetch it again") from None
    except av.error.FFmpegError as error:
        raise VideoError(f"{name}: {error.strerror}") from None
    except ValueError as error:  # PyAV's own, of a suffix that it does not know or a codec that cannot be stored there
        raise VideoError(f"{name}: {error}") from None


class Sighting(NamedTuple):
    """The faces of a frame.

    Attributes:
        time: Time stamp of the frame in seconds.
        shot: Number of its shot, from 0 on.
        faces: Its faces.
    """

    time: float
    shot: int
    faces: Faces


def detect_video(
    reader: VideoReader | AnimationReader,
    detector: Detector,
    *,
    threshold: float | None = None,
    min_face: float | None = None,
    max_face: float | None = None,
    jobs: int = 1,
    known: Sequence[Faces] = (),
) -> Iterator[Sighting]:
    """Detect the faces in each frame of a video, in order.

    Frames are decoded while others are detected in, and memory stays bounded.

    Args:
        reader: The video, from `open_video`. Its frames are used up.
        detector: Detects the faces. With several jobs, load it with ``threads=1``.
        threshold: As in ``Detector.detect``.
        min_face: As in ``Detector.detect``.
        max_face: As in ``Detector.detect``.
        jobs: Threads that detect.
        known: The faces of the first frames, if they were detected before. Nothing is detected there.

    Raises:
        VideoError: The video cannot be read on.
    """
    shots = Shots()

    def look(frames: list[tuple[Frame | Picture, int]]) -> list[Sighting]:
        new = [frame.image for frame, _ in frames if frame.index >= len(known)]
        found = iter(detector.detect(new, threshold=threshold, min_face=min_face, max_face=max_face))
        return [
            Sighting(frame.time, shot, known[frame.index] if frame.index < len(known) else next(found))
            for frame, shot in frames
        ]

    def groups() -> Iterator[list[tuple[Frame | Picture, int]]]:
        frames: Iterator[Frame | Picture] = reader.frames()
        while group := list(islice(frames, AT_ONCE)):
            yield [(frame, shots.update(frame.thumbnail(*THUMBNAIL))) for frame in group]

    with ThreadPoolExecutor(jobs) as pool:
        for sightings in in_order(pool, look, groups(), ahead=2 * jobs):
            yield from sightings


def rewrite(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    edit: Callable[[Any], Any],
    *,
    metadata: bool = True,
) -> int:
    """Write a copy of a video, or of an animated image (see `lineament.animation.rewrite`), with edited frames.

    Container, codec, size, rotation, time stamps, sound and subtitles stay. Cover pictures and further video streams
    are left out. The target appears when it is complete.

    Args:
        source: The file to read.
        target: The file to write.
        edit: Takes each frame, and returns the ``av.VideoFrame`` to write: a new one, or the frame's own, changed after
            ``make_writable()``.
        metadata: Copy title, date, place and chapters.

    Returns:
        The number of frames.

    Raises:
        VideoError: The source cannot be read, or no encoder writes its format.
    """
    if is_animation(source):
        return animation.rewrite(source, target, edit, metadata=metadata)
    count, writing = 0, partial(_blaming, os.fspath(target))  # reading and editing have errors of their own
    with (
        VideoReader(source, everything=True) as reader,
        whole(Path(target)) as part,
        _created(part, writing) as output,
    ):
        with writing():
            encoder = _encoder(output, reader, metadata=metadata)
            copies = _copies(output, reader, metadata=metadata)
        for packet, frames in reader.packets():
            if packet is not None and packet.stream.index in copies:
                packet.stream = copies[packet.stream.index]
                with writing():
                    output.mux(packet)
            for frame in frames:
                edited = _edited(frame, edit, encoder.pix_fmt)
                with writing():
                    output.mux(encoder.encode(edited))
            count += len(frames)
        with writing():
            output.mux(encoder.encode(None))
    tell_damage(reader)
    return count


@contextmanager
def _created(part: Path, writing: Callable[[], AbstractContextManager[None]]) -> Iterator[Any]:
    """Create a file, and complete it at the end, both with the errors of ``writing``."""
    with writing():
        output = require_av().open(str(part), "w", options=_muxing(part))
    try:
        yield output
    finally:
        with writing():
            output.close()


def tell_damage(reader: VideoReader | AnimationReader) -> None:
    """Log a warning if parts of a video that was read are damaged or missing."""
    if not isinstance(reader, VideoReader):  # animations are read whole or not at all
        return
    if reader.damaged:
        _log.warning("%s: damaged at %d places; what can be decoded was read", reader.name, reader.damaged)
    if reader.missing:
        _log.warning(
            "%s: the last %.1f seconds that it announces are missing; what is there was read",
            reader.name,
            reader.missing,
        )


def _edited(frame: Frame, edit: Callable[[Frame], Any], form: str) -> Any:
    """The edited frame, ready for an encoder of a pixel format."""
    native = frame.native
    if native.format.name != form:
        frame = replace(frame, native=native.reformat(format=form))
    edited = edit(frame)
    if edited.format.name != form:
        edited = edited.reformat(format=form, dst_colorspace=native.colorspace, dst_color_range=native.color_range)
    edited.pts, edited.time_base, edited.pict_type = native.pts, native.time_base, 0  # the encoder chooses the type
    return edited


def _muxing(part: Path) -> dict[str, str]:
    """Options of the container."""
    return {"movflags": "+faststart"} if part.suffix.lower() in (".mp4", ".m4v", ".mov") else {}


def _encoder(output: Any, reader: VideoReader, *, metadata: bool) -> Any:
    """Add a video stream like the reader's to the output."""
    source = reader.stream
    context = source.codec_context
    codec = context.codec.canonical_name
    name, options = ENCODERS.get(codec, (codec, {}))
    if not _encodes(name):
        name, options = output.default_video_codec, {}
        _log.warning("%s: there is no encoder for %s here; the copy is %s", reader.name, codec, name)
    stream = output.add_stream(name, rate=source.average_rate or 25, options=options)
    stream.width, stream.height = context.width, context.height
    stream.pix_fmt = pixel_format(context.pix_fmt, stream.codec.video_formats or [], context.width, context.height)
    even = name in FIXED_RATE or (name == "mpeg4" and source.time_base.denominator > LARGEST_TICK)
    stream.codec_context.time_base = 1 / (source.average_rate or Fraction(25)) if even else source.time_base
    if context.sample_aspect_ratio:
        stream.codec_context.sample_aspect_ratio = context.sample_aspect_ratio
    for tag in ("color_range", "color_primaries", "color_trc", "colorspace"):
        setattr(stream.codec_context, tag, getattr(context, tag))
    if not options and source.bit_rate:
        stream.bit_rate = source.bit_rate
    if reader.turns:
        stream.set_display_rotation(90 * reader.turns)
    if metadata:
        output.metadata.update(reader.container.metadata)
        stream.metadata.update(source.metadata)
        output.set_chapters(reader.container.chapters())
    return stream


def _encodes(name: str) -> bool:
    """Whether there is an encoder of this name."""
    av = require_av()
    try:
        return bool(av.codec.Codec(name, "w").is_encoder)
    except av.codec.codec.UnknownCodecError:
        return False


def _copies(output: Any, reader: VideoReader, *, metadata: bool) -> dict[int, Any]:
    """Add the reader's other streams to the output. Returns them by their index in the source."""
    copies = {}
    for stream in reader.others:
        try:
            copy = output.add_stream_from_template(stream)
        except (ValueError, require_av().error.FFmpegError) as error:
            _log.warning("%s: %s stream %d is left out: %s", reader.name, stream.type, stream.index, error)
            continue
        if metadata:
            copy.metadata.update(stream.metadata)
        copies[stream.index] = copy
    return copies


def pixel_format(stored: str, offered: Sequence[Any], width: int, height: int) -> str:
    """The pixel format to encode: the stored one if it is planar YUV and the encoder takes it, else the nearest.

    Half resolution of colours takes even sides, so frames with odd sides get colours at full resolution.

    Args:
        stored: Name of the format of the decoded frames.
        offered: Formats of the encoder.
        width: In pixels.
        height: In pixels.
    """
    names = {form.name for form in offered}
    if width % 2 == 0 and height % 2 == 0:
        kept = editable(stored) and (not names or stored in names)
        return stored if kept else "yuv420p"
    return "yuv444p" if not names or "yuv444p" in names else "yuv420p"


def editable(name: str) -> bool:
    """Whether each plane of a pixel format holds one component of 8 to 16 bits, in the processor's byte order."""
    form = require_av().VideoFormat(name, 2, 2)
    planes = [component.plane for component in form.components]
    return form.is_planar and not form.is_rgb and not form.is_big_endian and planes == list(range(len(planes)))


def planes(native: Any) -> list[Array]:
    """Writable views (h, w) of the planes of a frame in an editable format, uint8 or uint16."""
    found = []
    for plane, component in zip(native.planes, native.format.components, strict=True):
        kind = np.dtype(np.uint8 if component.bits == 8 else np.uint16)
        rows = np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // kind.itemsize)
        found.append(rows[:, : plane.width])
    return found
