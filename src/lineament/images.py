"""Read images of any kind as upright RGB. An ``ImageError`` names the image and says what to do."""

from __future__ import annotations

import fnmatch
import glob
import heapq
import io
import json
import logging
import math
import os
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from lineament.checks import whole
from lineament.errors import ImageError, OptionError

Array = NDArray[Any]
Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | Array"
Color = Literal["rgb", "bgr"]

_log = logging.getLogger(__name__)

MAX_PIXELS = 2**28 // 3  # 89 megapixels, a quarter of a GiB as RGB; above it Pillow warns, too
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".avifs", ".heic", ".heif", ".hif"}
    | {".jp2", ".j2k", ".jpx", ".jpf", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"}
)
"""Suffixes of the image files in a folder. Pillow reads HEIC with the package pillow-heif only."""

SORTED_AT_ONCE = 50_000
"""Names that are sorted in memory."""

CONVERTED_AT_ONCE = 2**18  # pixels; bounds the memory beside the image and the result


def read_image(source: Source, *, color: Color = "rgb", max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read an image as upright RGB.

    Files and Pillow images are turned upright by their EXIF orientation. ``ImageOps.exif_transpose`` removes the
    orientation, but ``rotate`` and ``transpose`` keep it: delete it after these, ``del image.getexif()[0x0112]``.
    Transparent pixels are blended with white, grey images get three equal channels, and files with several frames or
    pages give the first. Colour profiles are not applied.

    Args:
        source: One of

            - a path, the ``bytes`` of a file, or a file open in binary mode (read from its position), in any format
              that Pillow reads;
            - a Pillow image;
            - an array: grey (h, w) or (h, w, 1), colour (h, w, 3), or colour and alpha (h, w, 4). uint8 is kept,
              uint16 is divided by 257, and floats in [0, 1] are multiplied by 255. Other floats are an error, since
              their range is unknown.

            In a Pillow image of 32-bit integers, white is 255, 65535 or the largest 32-bit number: the smallest of
            these that no pixel exceeds.
        color: The channel order of an *array*, "rgb" or "bgr" (OpenCV). Files and Pillow images know their own.
        max_pixels: Larger images are refused before they are decoded. Above 179 megapixels, Pillow has its own limit,
            ``PIL.Image.MAX_IMAGE_PIXELS``. Your program can raise it.

    Returns:
        (h, w, 3) uint8, contiguous. An array that already has this form is returned without a copy. While a file is
        decoded, Pillow's own copy lies beside the result: four bytes per pixel for RGB, so seven thirds of the result
        in all.

    Raises:
        ImageError: The source is not an image, is damaged or too large, or is an array of another form.
        OptionError: ``color`` or ``max_pixels`` is out of range.
    """
    if not isinstance(color, str) or color not in ("rgb", "bgr"):
        raise OptionError(f"color must be 'rgb' or 'bgr', found {color!r}")
    max_pixels = whole(max_pixels, "max_pixels is a whole number above 0", low=1, high=2**62)
    if isinstance(source, np.ndarray):
        return _from_array(source, color)
    if isinstance(source, Image.Image):
        with _blaming(name := str(getattr(source, "filename", "") or "Pillow image")):
            return _from_pillow(source, max_pixels, name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        with _blaming(name := f"image of {len(source)} bytes"):
            return _from_file(io.BytesIO(source), max_pixels, name)
    if hasattr(source, "read"):
        name = str(getattr(source, "name", "") or "open file")
        with _blaming(name):
            return _from_file(io.BytesIO(_content(source)), max_pixels, name)
    try:
        path = os.fspath(source)
    except TypeError:
        kind = f"{type(source).__module__}.{type(source).__qualname__}"
        raise ImageError(
            f"expected a path, bytes, an open file, a Pillow image or a numpy array, found {kind}"
        ) from None
    with _opened(path) as file, _blaming(os.fsdecode(path)):
        return _from_file(file if file.seekable() else io.BytesIO(file.read()), max_pixels, os.fsdecode(path))


def is_source(value: Any) -> bool:
    """Whether a value is one image, in a form that ``read_image`` takes."""
    one = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
    return isinstance(value, one) or hasattr(value, "read")


def _opened(path: str | bytes) -> IO[bytes]:
    name = os.fsdecode(path)
    try:
        return open(path, "rb")
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: a folder, not an image; image_paths() lists the images in it") from None
    except PermissionError:
        raise ImageError(f"{name}: no permission to read it") from None
    except (OSError, ValueError) as error:  # a name that is too long, or has a null byte
        raise ImageError(f"{name!r}: cannot be opened: {error}") from None


def _content(file: Any) -> bytes:
    """The rest of an open file."""
    try:
        content = file.read()
    except Exception as error:  # a closed file, a broken connection, text that is none
        raise ImageError(f"cannot be read: {error}; open it in binary mode, and pass it before it is closed") from None
    if not isinstance(content, bytes):
        raise ImageError(f"reading it gives {type(content).__name__}, not bytes; open it in binary mode, 'rb'")
    if not content:
        raise ImageError("nothing left to read; if it has been read or written before, file.seek(0)")
    return content


class Header(NamedTuple):
    """What the header of a file says about its image.

    Attributes:
        size: ``(width, height)`` of the upright image in pixels.
        orientation: The EXIF orientation, 1 to 8. From 5 on, the stored width and height are swapped.
    """

    size: tuple[int, int]
    orientation: int = 1

    def __str__(self) -> str:
        told = f"{self.size[0]}x{self.size[1]}"
        return told if self.orientation == 1 else f"{told} when upright (EXIF orientation {self.orientation})"


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the size of an image file without decoding it.

    Raises:
        ImageError: The file is not an image, or its header is damaged.
    """
    with _opened(os.fspath(path)) as file, _blaming(os.fspath(path)), Image.open(file) as image:
        orientation = _orientation(image)
        return Header(image.size if orientation < 5 else image.size[::-1], orientation)


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Turn any error inside into an ``ImageError`` that names the image and says what to do."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except MemoryError:
        raise ImageError(f"{name}: not enough memory to decode it; a lower max_pixels refuses such images") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: {error} If you trust it, raise PIL.Image.MAX_IMAGE_PIXELS and max_pixels") from None
    except Exception as error:  # decoders raise errors of any kind: OSError, SyntaxError, struct.error
        raise ImageError(f"{name}: cannot be decoded, probably damaged ({error}); fetch it again") from error


PNG = b"\x89PNG\r\n\x1a\n"
HEIC = {b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1"}


def _from_file(file: IO[bytes], max_pixels: int, name: str) -> Array:
    start = file.read(12)
    if not start:
        raise ImageError("empty, 0 bytes; fetch it again")
    file.seek(0)
    try:
        return _decoded(file, max_pixels, name)
    except UnidentifiedImageError:
        if start[4:] in HEIC:
            raise ImageError(
                "HEIC, which Pillow reads after `pip install pillow-heif` and pillow_heif.register_heif_opener(); or "
                "convert it to JPEG"
            ) from None
        raise ImageError(
            f"not an image format that Pillow reads; it begins with {start!r}; convert it to JPEG or PNG"
        ) from None
    except ValueError:
        if not start.startswith(PNG):
            raise
    file.seek(0)  # Pillow refuses PNG files with long texts or colour profiles; neither is needed here
    return _decoded(io.BytesIO(_without_texts(file.read())), max_pixels, name)


def _decoded(file: IO[bytes], max_pixels: int, name: str) -> Array:
    with Image.open(file) as image:
        return _from_pillow(image, max_pixels, name)


def _without_texts(png: bytes) -> bytes:
    """Remove texts and colour profiles from a PNG file."""
    kept, start = [png[: len(PNG)]], len(PNG)
    while start + 8 <= len(png):
        (length,) = struct.unpack_from(">I", png, start)
        end = start + 12 + length
        if png[start + 4 : start + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


def _from_pillow(image: Image.Image, max_pixels: int, name: str) -> Array:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{width}x{height} is {width * height} pixels, more than the limit max_pixels={max_pixels}; "
            "raise it if you trust the file"
        )
    if not width * height:
        raise ImageError(f"an image without pixels, {width}x{height}")
    try:
        image.load()  # before reading EXIF data, or damaged pixels would look like damaged EXIF data
    except (AssertionError, ValueError) as error:
        if "closed" in str(error) or getattr(image, "fp", image) is None:
            raise ImageError("this Pillow image is closed; pass it before you close it, or pass its path") from None
        raise
    orientation = _orientation(image, name)
    upright = np.empty((*((height, width) if orientation < 5 else (width, height)), 3), np.uint8)
    stored, to_rgb = _STORED[orientation](upright), _converter(image)
    for top, bottom in _bands(height, width):
        stored[top:bottom] = to_rgb(image.crop((0, top, width, bottom)))
    return upright


def _orientation(image: Image.Image, name: str = "") -> int:
    """The EXIF orientation, 1 to 8; 1 if there is none. Damaged EXIF data of a named image are logged."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # like the decoders, Pillow's EXIF parser raises errors of any kind
        if name:
            _log.warning("%s: not turned, its EXIF data are damaged (%s)", name, error)
        return 1
    return int(found) if found in _STORED else 1


_STORED: dict[int, Callable[[Array], Array]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: np.rot90,
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""By EXIF orientation: a view of an upright image in the order in which the camera stored its pixels."""


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """The first row, and the row after the last, of bands of about ``CONVERTED_AT_ONCE`` pixels."""
    rows = max(1, CONVERTED_AT_ONCE // max(width, 1))
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _converter(image: Image.Image) -> Callable[[Image.Image], Array]:
    """The function that converts a band of a Pillow image to (h, w, 3) or, if grey, (h, w, 1) uint8."""
    if image.mode == "F" or image.mode.startswith("I;16"):  # convert("RGB") would cut these off at 255
        if image.mode == "F":
            _check_floats(
                np.asarray(image.crop((0, top, image.width, bottom))) for top, bottom in _bands(*image.size[::-1])
            )
        return lambda band: _to_uint8(np.asarray(band)[..., None])
    if image.mode == "I":
        low, high = (int(limit) for limit in image.getextrema())  # type: ignore[arg-type]
        white = 2**32 - 1 if low < 0 else next(white for white in (2**8 - 1, 2**16 - 1, 2**31 - 1) if high <= white)
        unsigned = np.uint32  # how files hold them; Pillow takes the upper half for negative
        return lambda band: np.rint(np.asarray(band).view(unsigned)[..., None] * (255 / white)).astype(np.uint8)
    if image.has_transparency_data:
        return lambda band: _over_white(np.asarray(band.convert("RGBA")))
    return lambda band: np.asarray(band.convert("RGB"))


def _from_array(array: Array, color: Color) -> Array:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        hint = ""
        if array.ndim == 4:
            hint = "; pass several images as a list"
        elif array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; channels come last here: array.transpose(1, 2, 0)"
        raise ImageError(f"expected an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), found {array.shape}{hint}")
    if array.size == 0:
        raise ImageError(f"an image without pixels: array of shape {array.shape}")
    height, width, channels = array.shape
    if array.dtype == np.uint8 and channels == 3 and color == "rgb":
        return np.ascontiguousarray(array)
    bands = list(_bands(height, width))
    if array.dtype.kind == "f":
        _check_floats(array[top:bottom] for top, bottom in bands)
    order = [2, 1, 0, 3][:channels] if color == "bgr" and channels > 1 else slice(None)
    rgb = np.empty((height, width, 3), np.uint8)
    for top, bottom in bands:
        pixels = _to_uint8(array[top:bottom])[..., order]
        rgb[top:bottom] = _over_white(pixels) if channels == 4 else pixels
    return rgb


def _check_floats(bands: Iterable[Array]) -> None:
    """Raise unless all values lie in [0, 1]."""
    low, high = math.inf, -math.inf
    for band in bands:
        if not np.isfinite(band).all():
            raise ImageError("the array has NaN or infinite values; replace them, e.g. by np.nan_to_num(array)")
        low, high = min(low, float(band.min())), max(high, float(band.max()))
    if low < 0 or high > 1:
        raise ImageError(
            f"floats must lie in [0, 1], found [{low:.9g}, {high:.9g}]; np.clip(array, 0, 1) where they overshoot a "
            "little, array.astype(np.uint8) where they are pixels of 0 to 255"
        )


def _to_uint8(array: Array) -> Array:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # either byte order
        return np.asarray((array.astype(np.uint32) + 128) // 257, np.uint8)
    if array.dtype.kind == "f":
        return np.asarray(np.rint(array.astype(np.float32) * 255), np.uint8)
    hint = "array * np.uint8(255), if True is white?" if array.dtype == np.bool_ else "array.astype(np.uint8)?"
    raise ImageError(f"expected uint8, uint16 or floats in [0, 1], found {array.dtype}; {hint}")


def _over_white(rgba: Array) -> Array:
    """What a viewer shows on a white page; colours below a transparent pixel are anybody's guess."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return np.asarray((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255, np.uint8)


def image_paths(
    paths: Iterable[str | os.PathLike[str]],
    *,
    leave_out: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
    suffixes: Collection[str] = SUFFIXES,
) -> list[Path]:
    """List the image files of paths. `ImageFiles`, with the same arguments, finds them one by one."""
    return list(ImageFiles(paths, leave_out=leave_out, suffixes=suffixes))


class ImageFiles(Iterable[Path]):
    """The image files of paths. They are searched whenever this is iterated over, so millions take no memory.

    Paths keep their order. The files of a folder or a pattern are sorted.

    Links are followed. A file that is found twice, by a link or under another spelling, is listed once. Folders and
    patterns skip files with other suffixes, and hidden files and folders, whose names begin with a dot. The log has the
    number of hidden images.
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        leave_out: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
        suffixes: Collection[str] = SUFFIXES,
    ) -> None:
        """Check that each path has an image.

        Args:
            paths: Files (with any suffix, also pipes), folders (searched at any depth) and glob patterns (``**`` for
                any depth). A pattern may name hidden files, as in ``.cache/*.jpg``.
            leave_out: A folder, or several, that is not searched if it lies inside a searched folder.
            suffixes: The suffixes of images, in lower case.

        Raises:
            ImageError: A path is empty or does not exist, or a folder or pattern has no images.
            OptionError: ``paths`` is one path instead of several.
        """
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise OptionError(f"image_paths takes several paths: image_paths([{paths!r}])")
        try:
            listed = [os.fsdecode(path) for path in paths]
        except TypeError as error:
            raise OptionError(f"image_paths takes paths, found {paths!r:.80}: {error}") from None
        if "" in listed:
            raise ImageError("an empty path: expected a file, a folder ('.' for this one) or a pattern")
        hidden = [leave_out] if isinstance(leave_out, (str, os.PathLike)) else leave_out
        self._left_out = frozenset(Path(os.path.realpath(folder)) for folder in hidden)
        self._suffixes, self._told = frozenset(suffixes), set[Path]()
        self._paths = [(path, _kind(path)) for path in map(Path, listed)]
        for path, kind in self._paths:
            if next(self._expanded(path, kind, set()), None) is None:
                raise ImageError(f"{path}: no image in this {kind}; looked for {', '.join(sorted(suffixes))}")

    def __iter__(self) -> Iterator[Path]:
        """Search the files."""
        folders: set[str] = set()
        single: set[str] = set()  # files that are found in another way than in their folder
        for path, kind in self._paths:
            for file, real, is_single in self._expanded(path, kind, folders):
                if real in single or (is_single and os.path.dirname(real) in folders and self._is_image(real)):
                    continue
                if is_single:
                    single.add(real)
                yield file

    def _expanded(self, path: Path, kind: str, folders: set[str]) -> Iterator[_Found]:
        """The files of a path. The real path of each folder that is searched is added to ``folders``."""
        left_out = self._left_out - {Path(os.path.realpath(path))}
        fixed = next((i for i, part in enumerate(path.parts) if glob.has_magic(part)), len(path.parts))
        hidden = any(part.startswith(".") for part in path.parts[fixed:])
        if kind == "file":
            found: Iterator[_Found] = iter([_Found(path, os.path.realpath(path), True)])
        elif kind == "folder":
            found = self._walk(path, hidden, left_out, folders)
        else:
            found = (_Found(*match[:2], True) for match in self._matching(path, hidden, left_out))
        passed_over = 0
        for each in found:
            if hidden or not any(part.startswith(".") for part in each.file.parts[fixed:]):
                yield each
            else:
                passed_over += 1
        if passed_over and path not in self._told:
            self._told.add(path)
            _log.warning("%s: %d hidden images passed over", path, passed_over)

    def _matching(self, pattern: Path, hidden: bool, left_out: Set[Path]) -> Iterator[_Found]:
        """The images that match a pattern. ``glob`` itself would follow circular links below ``**``."""
        parts = pattern.parts
        if "**" not in parts:
            matches = ([*Path(match).parts] for match in glob.iglob(str(pattern), include_hidden=True))
            for match in _in_order(match for match in matches if self._is_image(match[-1])):
                file = Path(*match)
                real = os.path.realpath(file)
                if file.is_file() and left_out.isdisjoint(Path(real).parents):
                    yield _Found(file, real, True)
            return
        above, below = Path(*parts[: parts.index("**")]), parts[parts.index("**") :]
        tops = glob.glob(str(above), include_hidden=True) if glob.has_magic(str(above)) else [above]
        for top in sorted(map(Path, tops)):
            walked = self._walk(top, hidden, left_out, set())
            yield from (each for each in walked if _fits(each.file.relative_to(top).parts, below))

    def _walk(self, top: Path, hidden: bool, left_out: Set[Path], entered: set[str]) -> Iterator[_Found]:
        """All images at any depth, in hidden folders if asked for. Links are followed; each folder is entered once."""
        levels: list[tuple[str, str, Iterator[list[Any]]]] = []

        def enter(folder: str) -> None:
            real = os.path.realpath(folder)
            if real not in entered and left_out.isdisjoint([Path(real), *Path(real).parents]):
                entered.add(real)
                levels.append((folder, real, _in_order(self._entries(folder, hidden))))

        enter(str(top))
        while levels:
            folder, real, entries = levels[-1]
            name, is_folder, is_link = next(entries, (None, False, False))
            if name is None:
                levels.pop()
            elif is_folder:
                enter(os.path.join(folder, name))
            elif not is_link:
                yield _Found(Path(folder, name), os.path.join(real, name), False)
            elif left_out.isdisjoint(Path(linked := os.path.realpath(os.path.join(folder, name))).parents):
                yield _Found(Path(folder, name), linked, True)

    def _entries(self, folder: str, hidden: bool) -> Iterator[list[Any]]:
        """Of each image and each folder in a folder: its name, whether it is a folder, and whether it is a link."""
        try:
            entries = os.scandir(folder)
        except OSError as error:
            _log.warning("%s: not searched: %s", folder, error.strerror)
            return
        with entries:
            for entry in entries:
                is_link = entry.is_symlink()
                if os.path.isdir(entry.path) if is_link else entry.is_dir():
                    if hidden or not entry.name.startswith("."):
                        yield [entry.name, True, is_link]
                elif self._is_image(entry.name) and (os.path.isfile(entry.path) if is_link else entry.is_file()):
                    yield [entry.name, False, is_link]

    def _is_image(self, name: str) -> bool:
        return os.path.splitext(name)[1].lower() in self._suffixes


class _Found(NamedTuple):
    """A file, its real path, and whether it is found in another way than in its folder: by name, pattern or link."""

    file: Path
    real: str
    is_single: bool


def _kind(path: Path) -> str:
    """Whether a path is of a folder or a file, or is a pattern."""
    try:
        kind = "folder" if path.is_dir() else "file" if path.exists() else "pattern"
    except OSError as error:  # a name that is too long
        raise ImageError(f"{str(path)!r}: {error.strerror}") from None
    if kind == "pattern" and not glob.has_magic(str(path)):
        raise ImageError(f"{path}: no such file or folder")
    return kind


def _in_order(items: Iterable[list[Any]]) -> Iterator[list[Any]]:
    """Sort lists of texts and numbers. Of more than ``SORTED_AT_ONCE``, sorted parts wait in temporary files."""
    rest = iter(items)
    with ExitStack() as opened:
        parts: list[IO[str]] = []
        while part := sorted(islice(rest, SORTED_AT_ONCE)):
            if not parts and len(part) < SORTED_AT_ONCE:
                yield from part
                return
            parts.append(opened.enter_context(TemporaryFile("w+")))
            parts[-1].writelines(json.dumps(item) + "\n" for item in part)
            parts[-1].seek(0)
        yield from heapq.merge(*(map(json.loads, part) for part in parts))


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern or not parts:
        return not parts and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or _fits(parts[1:], pattern)
    return fnmatch.fnmatch(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


MEANS_UP_TO = 0.5
"""Largest scale at which ``resize`` averages pixels: nearer to 1, some means would cover one pixel and others two."""
GAP = 2.0
"""After its blocks are averaged, an image is at least this many times as large as the result, or exactly as large."""
AVERAGED_AT_ONCE = 2**19
"""Pixels whose blocks are averaged at once: as many as caches hold."""

_Box = tuple[float, float, float, float]


def resize(
    image: Array,
    size: tuple[int, int],
    *,
    box: _Box | None = None,
    means: bool = False,
) -> Array:
    """Resize an image or a region of it: bilinear, antialiased when it shrinks.

    Args:
        image: (h, w, 3) or (h, w) uint8.
        size: ``(width, height)`` of the result in pixels.
        box: The region ``x1, y1, x2, y2`` in continuous pixels inside the image. ``None``: all of it.
        means: If the image shrinks to half or less, average the pixels that each new pixel covers: slightly sharper,
            in two thirds of the time or less.

    Returns:
        (height, width, 3) or (height, width) uint8. The image itself if nothing changes.
    """
    box = box or (0, 0, image.shape[1], image.shape[0])
    shrink = (box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]
    filter_ = Image.Resampling.BILINEAR
    if means and min(shrink) * MEANS_UP_TO >= 1:
        filter_ = Image.Resampling.BOX
        image, box = _in_blocks(image, box, *map(_block, shrink))
    h, w = image.shape[:2]
    if size == (w, h) and box == (0.0, 0.0, float(w), float(h)):
        return image
    return np.asarray(Image.fromarray(image).resize(size, filter_, box=box))


def _block(shrink: float) -> int:
    """How many pixels along an axis are averaged at first: if it is a whole number, all that the result averages."""
    return int(shrink) if shrink.is_integer() else max(int(shrink / GAP), 1)


def _in_blocks(image: Array, box: _Box, x: int, y: int) -> tuple[Array, _Box]:
    """A region with each block of x columns and y rows averaged, and its box in the smaller image."""
    left, top = math.floor(box[0]), math.floor(box[1])
    small = _averaged(image[top : math.ceil(box[3]), left : math.ceil(box[2])], x, y)
    return small, ((box[0] - left) / x, (box[1] - top) / y, (box[2] - left) / x, (box[3] - top) / y)


def _averaged(image: Array, x: int, y: int) -> Array:
    """The means of blocks of x columns and y rows. The last ones may be smaller."""
    if x == y == 1:
        return image
    h, w = image.shape[:2]
    means = np.empty((-(-h // y), -(-w // x), *image.shape[2:]), np.uint8)
    step = max(AVERAGED_AT_ONCE // (w * y), 1)
    for start in range(0, len(means), step):
        rows = image[start * y : (start + step) * y]
        means[start : start + step] = Image.fromarray(rows).reduce((x, y))
    return means
