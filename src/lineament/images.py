"""Pictures in: whatever shows one becomes upright RGB, or an ``ImageError`` that names it and says what to do."""

from __future__ import annotations

import glob
import io
import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from lineament.errors import ImageError, OptionError

Array = NDArray[Any]
Source: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | Array"
Color = Literal["rgb", "bgr"]

_log = logging.getLogger(__name__)

MAX_PIXELS = 2**28 // 3  # 89 megapixels, a quarter of a GiB as RGB: where Pillow's own doubts begin
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".avif"}
)


def read_image(source: Source, *, color: Color = "rgb", max_pixels: int = MAX_PIXELS) -> Array:
    """A picture as upright RGB.

    Files turn upright by their EXIF orientation, where that can be read. Transparency is laid over white. Grey is
    repeated over the three channels. Of an animation or a file of several pages the first picture counts. Colour
    profiles are not applied.

    Args:
        source: one of

            - a path, or a file's content as ``bytes``: any format that Pillow reads;
            - a Pillow image;
            - an array: grey (h, w) or (h, w, 1), colour (h, w, 3), colour and alpha (h, w, 4); uint8 as it is,
              uint16 over its whole range, floats in [0, 1] times 255. Floats beyond [0, 1] are refused: their range is
              anybody's guess.
        color: order of an *array's* channels, "rgb" or "bgr" (OpenCV's); files and Pillow images know theirs.
        max_pixels: larger files are refused before they are decoded. Above 179 megapixels Pillow has a limit of its
            own, ``PIL.Image.MAX_IMAGE_PIXELS``, which is the program's to raise.

    Returns:
        (h, w, 3) uint8, contiguous. An array that is so already is returned itself, not copied.

    Raises:
        ImageError: no picture, a damaged one, a larger one than allowed, or an array that is none of the above.
        OptionError: another ``color``.
    """
    if color not in ("rgb", "bgr"):
        raise OptionError(f"color must be 'rgb' or 'bgr', found {color!r}")
    if isinstance(source, np.ndarray):
        return _from_array(source, color)
    if isinstance(source, Image.Image):
        with _blaming(name := getattr(source, "filename", "") or "Pillow image"):
            return _from_pillow(source, max_pixels, name)
    if isinstance(source, (bytes, bytearray)):
        with _blaming(name := f"picture of {len(source)} bytes"):
            return _from_file(io.BytesIO(source), max_pixels, name)
    try:
        path = os.fspath(source)
    except TypeError:
        kind = f"{type(source).__module__}.{type(source).__qualname__}"
        raise ImageError(f"expected a path, bytes, a Pillow image or a numpy array, found {kind}") from None
    with _blaming(path), open(path, "rb") as file:
        return _from_file(file, max_pixels, path)


class Header(NamedTuple):
    """What a file says of its image before it is decoded.

    Attributes:
        size: ``(width, height)`` of the upright image, in pixels.
        orientation: the EXIF orientation, 1 to 8; 5 and above swap the stored width and height.
    """

    size: tuple[int, int]
    orientation: int = 1

    def __str__(self) -> str:
        told = f"{self.size[0]}x{self.size[1]}"
        return told if self.orientation == 1 else f"{told} when upright (EXIF orientation {self.orientation})"


def read_header(path: str | os.PathLike[str]) -> Header:
    """The size of an image file, without decoding it.

    Raises:
        ImageError: no image, or one whose header is damaged.
    """
    with _blaming(os.fspath(path)), Image.open(path) as image:
        orientation = _orientation(image)
        return Header(image.size if orientation < 5 else image.size[::-1], orientation)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where none is given or it cannot be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as decoders, Pillow's parser raises whatever it stumbles over
        return 1
    return found if found in range(1, 9) else 1


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes an ``ImageError`` that names the picture and says what to do."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: a folder, not a picture; image_paths() lists the pictures in it") from None
    except PermissionError:
        raise ImageError(f"{name}: no permission to read it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: {error} If you trust it, raise PIL.Image.MAX_IMAGE_PIXELS and max_pixels") from None
    except Exception as error:  # decoders raise whatever their parsers stumble over: OSError, SyntaxError, struct.error
        raise ImageError(f"{name}: cannot be decoded, probably damaged ({error}); fetch it again") from error


def _from_file(file: IO[bytes], max_pixels: int, name: str) -> Array:
    start = file.read(12)
    if not start:
        raise ImageError("empty, 0 bytes; fetch it again")
    file.seek(0)
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        raise ImageError(f"no picture that Pillow knows, it begins with {start!r}; convert it to JPEG or PNG") from None
    with image:
        return _from_pillow(image, max_pixels, name)


def _from_pillow(image: Image.Image, max_pixels: int, name: str) -> Array:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{width}x{height} is {width * height} pixels, more than the limit max_pixels={max_pixels}; "
            "raise it if you trust the file"
        )
    upright = _upright(image, name)
    if upright.mode == "I":  # how older Pillows open 16-bit grey
        upright = upright.convert("I;16")
    if upright.mode == "F" or upright.mode.startswith("I;16"):  # convert("RGB") would cut these off at 255
        return _from_array(np.asarray(upright), "rgb")
    if upright.has_transparency_data:
        return _over_white(np.array(upright.convert("RGBA")))
    return np.array(upright.convert("RGB"))


def _upright(image: Image.Image, name: str) -> Image.Image:
    """The picture turned by its EXIF orientation; as it lies where nobody can tell, and the log says so."""
    image.load()  # before, or damaged pixels would be taken for damaged EXIF data
    try:
        image.getexif()
    except Exception as error:  # as decoders, Pillow's parser raises whatever it stumbles over
        _log.warning("%s: not turned, its EXIF data are damaged (%s)", name, error)
        return image
    return ImageOps.exif_transpose(image)


def _from_array(array: Array, color: Color) -> Array:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        hint = ""
        if array.ndim == 4:
            hint = "; pass several pictures as a list"
        elif array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; channels come last here: array.transpose(1, 2, 0)"
        raise ImageError(f"expected an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), found {array.shape}{hint}")
    if array.size == 0:
        raise ImageError(f"a picture without pixels: array of shape {array.shape}")
    pixels = _to_uint8(array)
    if color == "bgr" and pixels.shape[2] > 1:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    if pixels.shape[2] == 4:
        return _over_white(pixels)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _to_uint8(array: Array) -> Array:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # either byte order
        return np.asarray((array.astype(np.uint32) + 128) // 257, np.uint8)
    if array.dtype.kind != "f":
        raise ImageError(f"expected uint8, uint16 or floats in [0, 1], found {array.dtype}; array.astype(np.uint8)?")
    if not np.isfinite(array).all():
        raise ImageError("the array has NaN or infinite values; a picture has none: np.nan_to_num(array)?")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise ImageError(
            f"floats must lie in [0, 1], found [{low:.9g}, {high:.9g}]; np.clip(array, 0, 1) where they overshoot a "
            "little, array.astype(np.uint8) where they are pixels of 0 to 255"
        )
    return np.asarray(np.rint(array.astype(np.float32) * 255), np.uint8)


def _over_white(rgba: Array) -> Array:
    """What a viewer shows on a white page; colours below a transparent pixel are anybody's guess."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return np.asarray((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255, np.uint8)


def image_paths(
    paths: Iterable[str | os.PathLike[str]], *, leave_out: str | os.PathLike[str] | None = None
) -> list[Path]:
    """The picture files that paths stand for: each once, in the order given, a folder's or pattern's own sorted.

    Args:
        paths: files (of whatever suffix), folders (searched recursively for known suffixes) and glob patterns
            (``**`` for any depth; known suffixes).
        leave_out: a folder that is not searched where it lies inside one that is.

    Raises:
        ImageError: a path that is empty or not there, a folder or pattern without pictures.
    """
    paths = list(paths)
    if "" in paths:
        raise ImageError("an empty path: expected a file, a folder ('.' for this one) or a pattern")
    hidden = Path(leave_out).resolve() if leave_out is not None else None
    return list(dict.fromkeys(file for path in paths for file in _expand(Path(path), hidden)))


def _expand(path: Path, hidden: Path | None) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        kind, found = "folder", sorted(path.rglob("*"))
    elif glob.has_magic(str(path)):
        kind, found = "pattern", sorted(map(Path, glob.glob(str(path), recursive=True)))
    else:
        raise ImageError(f"{path}: no such file or folder")
    pictures = [p for p in found if p.suffix.lower() in SUFFIXES and p.is_file()]
    if hidden and hidden != path.resolve():
        pictures = [p for p in pictures if hidden not in p.resolve().parents]
    if not pictures:
        raise ImageError(f"{path}: no picture in this {kind}; looked for {', '.join(sorted(SUFFIXES))}")
    return pictures


MEANS_UP_TO = 0.5
"""Scale up to which ``resize`` may take means: nearer to 1 they would stand for one pixel here and for two there."""


def resize(
    image: Array,
    size: tuple[int, int],
    *,
    box: tuple[float, float, float, float] | None = None,
    means: bool = False,
) -> Array:
    """The picture, or a region of it, at another size; bilinear, antialiased where it shrinks.

    Args:
        image: (h, w, 3) or (h, w) uint8.
        size: ``(width, height)`` in pixels.
        box: region ``x1, y1, x2, y2`` in continuous pixels, inside the picture; all of it by default.
        means: where it shrinks to half or less, each pixel is the mean of those that it covers: a little sharper, in
            two thirds of the time, or less for a large photo.

    Returns:
        (height, width, 3) or (height, width) uint8; the picture itself where nothing changes.
    """
    everything = (0, 0, image.shape[1], image.shape[0])
    left, top, right, bottom = box = box or everything
    if size == everything[2:] and box == everything:
        return image
    shrinks = size[0] <= MEANS_UP_TO * (right - left) and size[1] <= MEANS_UP_TO * (bottom - top)
    filter_, gap = (Image.Resampling.BOX, 2.0) if means and shrinks else (Image.Resampling.BILINEAR, None)
    return np.asarray(Image.fromarray(image).resize(size, filter_, box=box, reducing_gap=gap))


def letterbox(image: Array, size: int) -> tuple[Array, float]:
    """The picture with its longer edge at ``size``, in the top left corner of a black square.

    Args:
        image: (h, w, 3) uint8.
        size: side of the square, in pixels.

    Returns:
        The square (size, size, 3) uint8, and the scale: a point of the picture times the scale is its place in the
        square. One scale holds for both axes: a last row that the picture would fill only in part is left out.
    """
    h, w = image.shape[:2]
    scale = size / max(h, w)
    # 1e-9: 300 * (256 / 300) must not floor to 255
    new_w, new_h = (max(1, math.floor(side * scale + 1e-9)) for side in (w, h))
    canvas = np.zeros((size, size, 3), np.uint8)
    canvas[:new_h, :new_w] = resize(image, (new_w, new_h), box=(0, 0, min(w, new_w / scale), min(h, new_h / scale)))
    return canvas, scale
