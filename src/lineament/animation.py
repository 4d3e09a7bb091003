"""Read and rewrite animated images (GIF, WebP and PNG) with Pillow, frame by frame, as ``lineament.video`` does videos.

An animation is small beside a video, so ``rewrite`` keeps its new frames in memory: Pillow writes them all at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence

from lineament.errors import ImageError
from lineament.files import whole
from lineament.images import read_image
from lineament.saving import saving

Array = NDArray[Any]

SUFFIXES = frozenset({".gif", ".webp", ".png", ".apng"})
"""Suffixes of the files that may be animated."""
LARGEST = 2**29
"""Pixels in all frames of the largest animation: 2 GB in memory."""


def is_animation(path: str | os.PathLike[str]) -> bool:
    """Whether a file is an image with several frames. A file that cannot be read is none."""
    if Path(path).suffix.lower() not in SUFFIXES:
        return False
    try:
        with Image.open(path) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # decoders raise errors of any kind
        return False


def colors(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an upright image: (h, w, 3) RGB or, if some may be transparent, (h, w, 4) RGBA, uint8."""
    if image.has_transparency_data and not image.mode.startswith(("I", "F")):  # Pillow cuts these off at 255
        return np.array(image.convert("RGBA"))
    return read_image(image)


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame of an animation. Its interface is that of ``lineament.video.Frame``.

    Attributes:
        index: Number of the frame, from 0 on.
        time: Time at which it is shown, in seconds.
        native: The upright pixels (h, w, 3) RGB or, if some are transparent, (h, w, 4) RGBA, uint8.
        duration: How long it is shown, in milliseconds.
    """

    index: int
    time: float
    native: NDArray[np.uint8]
    duration: float

    @property
    def image(self) -> NDArray[np.uint8]:
        """The image (h, w, 3), uint8 RGB. Transparent pixels are blended with white."""
        return read_image(self.native)

    def thumbnail(self, width: int, height: int) -> Array:
        """A small grey image (height, width), uint8."""
        return np.asarray(Image.fromarray(self.image).convert("L").resize((width, height), Image.Resampling.BOX))

    def redrawn(self, image: Array) -> Array:
        """The native form of other pixels (h, w, 3) uint8 RGB."""
        return image


class AnimationReader:
    """An animation, open for reading. Use it in a ``with`` block. Its interface is that of a ``VideoReader``.

    Attributes:
        name: The name for messages.
        size: ``(width, height)`` of the upright frames in pixels.
        count: The number of frames.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        """Open an animation.

        Raises:
            ImageError: The file cannot be read, or is too large.
        """
        self.name = os.fspath(source)
        height, width = read_image(source).shape[:2]  # refuses what is damaged or too large, and says so
        self.size = width, height
        self.opened = cast(Any, Image.open(source))  # whose attributes depend on its format
        with self._blaming(0):
            self.count = int(self.opened.n_frames)
        if self.count * width * height > LARGEST:
            self.opened.close()
            told = f"{self.count} frames of {width}x{height} are more than {LARGEST} pixels"
            raise ImageError(f"{self.name}: {told}; convert it to a video")

    def __enter__(self) -> AnimationReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.opened.close()

    def frames(self) -> Iterator[Picture]:
        """Yield the frames. They can be read again.

        Raises:
            ImageError: A frame cannot be decoded.
        """
        time, frames = 0.0, ImageSequence.Iterator(self.opened)
        for index in range(self.count):
            with self._blaming(index):
                frame = ImageOps.exif_transpose(frames[index])
                duration = float(frame.info.get("duration", 0))
                pixels = colors(frame)
            opaque = pixels.shape[2] == 4 and (pixels[..., 3] == 255).all()
            yield Picture(index, time / 1000, np.ascontiguousarray(pixels[..., :3]) if opaque else pixels, duration)
            time += duration

    @contextmanager
    def _blaming(self, index: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # decoders raise errors of any kind
            raise ImageError(f"{self.name}: frame {index} cannot be decoded ({error}); fetch it again") from error


def rewrite(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    edit: Callable[[Picture], Array],
    *,
    metadata: bool = True,
) -> int:
    """Write a copy of an animation with edited frames.

    Format, size, times and number of repetitions stay. Equal frames that follow each other may become one. The target
    appears when it is complete.

    Args:
        source: The file to read.
        target: The file to write.
        edit: Takes each frame, and returns its new pixels (h, w, 3) or (h, w, 4), uint8.
        metadata: Copy the EXIF data.

    Returns:
        The number of frames.

    Raises:
        ImageError: The source cannot be read, or its format cannot be written.
    """
    with AnimationReader(source) as reader, whole(Path(target)) as part:
        image = reader.opened
        form = str(image.format)
        options = saving(image, form, metadata=metadata)
        if "loop" in image.info:
            options["loop"] = image.info["loop"]
        if form == "PNG":
            options["default_image"] = image.default_image
        edited, durations = [], []
        for frame in reader.frames():
            edited.append(Image.fromarray(edit(frame)))
            durations.append(frame.duration)
        if form == "GIF" and any(each.mode == "RGBA" for each in edited):
            options["disposal"] = 2  # or the frame before would show through
        try:
            edited[0].save(part, form, save_all=True, append_images=edited[1:], duration=durations, **options)
        except ValueError as error:  # encoders raise it for what their format cannot hold
            raise ImageError(f"{reader.name}: cannot be written as {form}: {error}") from error
    return reader.count
