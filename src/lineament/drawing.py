"""Draw bounding boxes, landmarks and scores over an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lineament.boxes import coverage, longer_side
from lineament.checks import whole
from lineament.errors import OptionError
from lineament.faces import Faces, expect_faces
from lineament.images import Color, Source, read_image

BOX = (57, 255, 20)
POINT = (255, 64, 129)
INK = (0, 0, 0)
WIDEST = 1000  # line width in pixels
# Fractions of a face's longer side, and the smallest visible sizes in pixels.
LINE, THINNEST = 0.012, 1.0
DOT, FINEST = 0.04, 0.9  # radius of a dot, divided by the cube root of their number, so that 68 leave the face visible
TEXT, LOWEST = 0.09, 9.0

Array = NDArray[Any]
_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw(
    image: Source,
    faces: Faces,
    *,
    boxes: bool = True,
    landmarks: bool = True,
    scores: bool = True,
    labels: Sequence[str] | None = None,
    line_width: int | None = None,
    color: Color = "rgb",
) -> Image.Image:
    """Draw faces into a copy of their image.

    Lines, dots and text scale with each face.

    Args:
        image: The image in which the faces were detected, in any form that ``read_image`` takes.
        faces: The faces to draw. Missing landmarks (NaN) are skipped.
        boxes: Whether to draw the bounding boxes.
        landmarks: Whether to draw the landmarks.
        scores: Whether to write the confidence scores. They are placed where they cover least of other faces.
        labels: A text for each face, written in place of its score.
        line_width: Line width of the boxes in pixels. ``None``: in proportion to each face.
        color: The channel order of an array, "rgb" or "bgr".

    Returns:
        A new RGB image with the size of the upright image.

    Raises:
        ImageError: The image cannot be read.
        OptionError: ``faces`` is not ``Faces``, there is not one label per face, or ``line_width`` is out of range.
    """
    expect_faces(faces)
    texts = [f"{score:.2f}" for score in faces.scores.tolist()] if labels is None else list(labels)
    if len(texts) != len(faces):
        raise OptionError(f"labels are one text per face, found {len(texts)} for {len(faces)} faces")
    if line_width is not None:
        line_width = whole(line_width, f"line_width is in pixels, 1 to {WIDEST}, or None", low=1, high=WIDEST)
    pixels = np.array(read_image(image, color=color))
    largest = 2 * max(pixels.shape[:2])  # no font is large enough for a box of a million pixels
    sides = np.minimum(longer_side(faces.boxes), largest)
    for box, points, side in zip(faces.boxes, faces.landmarks, sides.tolist(), strict=True):
        if boxes:
            _outline(pixels, box, line_width or max(LINE * side, THINNEST))
        if landmarks:
            there = points[np.isfinite(points).all(1)]
            _dots(pixels, there, max(DOT * side / np.cbrt(len(points)), FINEST) if len(points) else 0)
    canvas = Image.fromarray(pixels)
    if scores or labels is not None:
        pen = ImageDraw.Draw(canvas)
        for i, (text, side) in enumerate(zip(texts, sides.tolist(), strict=True)):
            font = ImageFont.load_default(max(TEXT * side, LOWEST))
            _label(pen, text, i, faces.boxes, canvas.size, font)
    return canvas


def _outline(pixels: Array, box: Array, width: float) -> None:
    """The four edges of a box, inside it."""
    x1, y1, x2, y2 = box.tolist()
    width = min(width, (x2 - x1) / 2, (y2 - y1) / 2)
    for edge in (
        (x1, y1, x2, y1 + width),
        (x1, y2 - width, x2, y2),
        (x1, y1 + width, x1 + width, y2 - width),
        (x2 - width, y1 + width, x2, y2 - width),
    ):
        left, top, right, bottom = edge
        rows, first_row = _covered(top, bottom, pixels.shape[0])
        columns, first_column = _covered(left, right, pixels.shape[1])
        _paint(pixels, first_column, first_row, rows[:, None] * columns, BOX)


def _covered(low: float, high: float, length: int) -> tuple[Array, int]:
    """The share of each pixel of an axis that an interval covers, (n,) in [0, 1], and the index of the first pixel."""
    first = int(np.clip(np.floor(low), 0, length))
    at = np.arange(first, int(np.clip(np.ceil(high), first, length)))
    return np.clip(np.minimum(at + 1, high) - np.maximum(at, low), 0, 1), first


def _dots(pixels: Array, points: Array, radius: float) -> None:
    """Discs with soft edges around points (n, 2)."""
    h, w = pixels.shape[:2]
    for x, y in points.astype(float).tolist():
        left, top = (int(np.clip(np.floor(c - radius - 1), 0, n)) for c, n in ((x, w), (y, h)))
        right, bottom = (int(np.clip(np.ceil(c + radius + 1), 0, n)) for c, n in ((x, w), (y, h)))
        away = np.hypot(np.arange(left, right) + 0.5 - x, np.arange(top, bottom)[:, None] + 0.5 - y)
        _paint(pixels, left, top, np.clip(radius + 0.5 - away, 0, 1), POINT)


def _paint(pixels: Array, left: int, top: int, cover: Array, colour: tuple[int, int, int]) -> None:
    """Blend a colour into a part of the image with the opacity ``cover`` (h, w)."""
    part = pixels[top : top + cover.shape[0], left : left + cover.shape[1]]
    part[:] = np.rint(part + (np.array(colour) - part) * cover[..., None])


def _label(pen: ImageDraw.ImageDraw, text: str, face: int, boxes: Array, size: tuple[int, int], font: _Font) -> None:
    """Write a text on a plate at the corner of the box where it covers least of other faces."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    extent = np.array([round(right - left) + 4, round(bottom - top) + 4])
    x1, y1, x2, y2 = np.rint(boxes[face]).tolist()
    corners = [(x, y) for y in (y1 - extent[1], y2) for x in (x1, x2 - extent[0])]  # above, then below
    places = np.clip(corners, 0, np.maximum(np.array(size) - extent, 0))
    plates = np.concatenate([places, places + extent], axis=1)
    hidden = coverage(plates, np.delete(boxes, face, axis=0)).sum(axis=1)
    own = coverage(plates, boxes[face : face + 1])[:, 0]
    x, y = places[np.argmin(hidden + own)].tolist()
    pen.rectangle((x, y, x + extent[0] - 1, y + extent[1] - 1), fill=BOX)
    pen.text((x + 2 - left, y + 2 - top), text, fill=INK, font=font)
