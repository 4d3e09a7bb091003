"""Save a changed copy of an image in the format, and with the options, of the original."""

from __future__ import annotations

from typing import Any

from PIL import ExifTags, Image
from PIL.JpegImagePlugin import get_sampling


def saving(image: Image.Image, form: str, *, metadata: bool) -> dict[str, Any]:
    """Options with which Pillow writes an image as it was.

    Previews that may show faces are never among them: thumbnails, notes of the camera's maker, XMP.

    Args:
        image: The opened file.
        form: The format to write, in Pillow's words.
        metadata: Copy the EXIF data, without the orientation.
    """
    options: dict[str, Any] = {key: image.info[key] for key in ("dpi", "icc_profile") if image.info.get(key)}
    if metadata and (exif := _exif(image)):
        options["exif"] = exif
    if form == "JPEG":
        options |= {"quality": 95, "subsampling": 0}
        tables = getattr(image, "quantization", None)
        if tables and (sampling := get_sampling(image)) >= 0:
            options |= {"qtables": tables, "subsampling": sampling}
            del options["quality"]
        if image.info.get("progressive"):
            options["progressive"] = True
    elif form == "WEBP":
        options |= {"quality": 95, "exact": True}
    elif form == "AVIF":
        options |= {"quality": 90}
    elif form == "TIFF" and (compression := image.info.get("compression")):
        options["compression"] = compression
    return options


def _exif(image: Image.Image) -> bytes:
    """The EXIF data of an upright copy, without its orientation and without anything that may hold a preview."""
    exif = image.getexif()
    if not exif:
        return b""
    exif.pop(ExifTags.Base.Orientation, None)
    exif.get_ifd(ExifTags.IFD.Exif).pop(ExifTags.Base.MakerNote, None)
    exif.get_ifd(ExifTags.IFD.IFD1).clear()
    return exif.tobytes()
