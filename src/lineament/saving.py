"""Save a changed copy of an image in the format, and with the options, of the original."""

from __future__ import annotations

import logging
from typing import Any

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import get_sampling

_log = logging.getLogger(__name__)

TEXTS = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)
"""What is copied of the first directory of EXIF data. In a TIFF, this directory also describes how pixels are stored,
and may hold XMP and previews."""
LONGEST = 256
"""Bytes or numbers of a tag that is copied from the other directories. A preview takes more."""
COMPRESSIONS = frozenset({"tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg", "lzma", "zstd", "webp"})
"""Compressions of a TIFF that can hold colours. Those of faxes cannot."""


def saving(image: Image.Image, form: str, *, metadata: bool) -> dict[str, Any]:
    """Options with which Pillow writes an upright copy of an image as it was.

    Previews that may show faces are never among them: thumbnails, notes of the camera's maker, XMP.

    Args:
        image: The opened file.
        form: The format to write, in Pillow's words.
        metadata: Copy the EXIF data: texts, exposure and position. Pillow cannot write the last two into a compressed
            TIFF; the log says so.
    """
    options: dict[str, Any] = {key: image.info[key] for key in ("dpi", "icc_profile") if image.info.get(key)}
    if form == "TIFF" and image.info.get("compression") in COMPRESSIONS:
        options["compression"] = image.info["compression"]
    if metadata and (exif := _exif(image, texts_only="compression" in options)):
        options["exif"] = exif
    if form == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
        tables = getattr(image, "quantization", None)
        if tables:
            options |= {"qtables": tables, "subsampling": max(get_sampling(image), 0)}  # -1 if grey or CMYK
            del options["quality"]
        if image.info.get("progressive"):
            options["progressive"] = True
    elif form == "WEBP":
        options |= {"quality": 95, "exact": True}
    elif form == "AVIF":
        options |= {"quality": 90}
    return options


def _exif(image: Image.Image, *, texts_only: bool) -> bytes:
    """The EXIF data of an upright copy: no orientation, and nothing that may hold a preview. Empty if none are left."""
    old, new = image.getexif(), Image.Exif()
    for tag in TEXTS:
        if isinstance(text := old.get(tag), str):
            new[tag] = text
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        kept = {tag: value for tag, value in old.get_ifd(directory).items() if not _may_be_preview(tag, value)}
        if kept and texts_only:
            name = getattr(image, "filename", "") or "image"
            _log.warning("%s: %s is not copied, Pillow cannot write it into a compressed TIFF", name, directory.name)
        elif kept:
            new[directory] = kept
    return new.tobytes() if new else b""


def _may_be_preview(tag: int, value: Any) -> bool:
    """Whether a tag may hold a preview of the image, or point to other data of its file."""
    if tag in (ExifTags.IFD.MakerNote, ExifTags.IFD.Interop):
        return True
    return isinstance(value, (bytes, tuple)) and len(value) > LONGEST
