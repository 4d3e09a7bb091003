"""Pictures out: boxes, landmarks and scores drawn over a photo."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lineament.checks import whole
from lineament.faces import Faces, expect_faces
from lineament.images import Color, Source, read_image

BOX = (57, 255, 20)
POINT = (255, 64, 129)
INK = (0, 0, 0)
WIDEST = 1000  # lines in pixels

_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw(
    image: Source,
    faces: Faces,
    *,
    boxes: bool = True,
    landmarks: bool = True,
    scores: bool = True,
    line_width: int | None = None,
    color: Color = "rgb",
) -> Image.Image:
    """The picture with its faces drawn in; the picture itself stays as it is.

    Args:
        image: the picture in which the faces were found, as ``read_image`` takes it.
        faces: what to draw; missing landmarks (NaN) are left out.
        boxes: whether to outline the boxes.
        landmarks: whether to dot the landmarks.
        scores: whether to write the scores, in per cent, above the boxes.
        line_width: in pixels; by default a 300th of the picture's shorter side, thinner for small faces, at least 1.
        color: order of an array's channels.

    Returns:
        A new RGB image of the upright picture's size.

    Raises:
        ImageError: the picture cannot be read.
        OptionError: ``faces`` are no ``Faces``, or ``line_width`` is out of range.
    """
    expect_faces(faces)
    if line_width is not None:
        line_width = whole(line_width, f"line_width is in pixels, 1 to {WIDEST}, or None", low=1, high=WIDEST)
    canvas = Image.fromarray(read_image(image, color=color))
    pen = ImageDraw.Draw(canvas)
    for box, score, points in zip(faces.boxes, faces.scores, faces.landmarks, strict=True):
        x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
        width = line_width or max(1, round(min(min(canvas.size) / 300, (x2 - x1) / 30)))
        if boxes:  # Pillow names a rectangle's last pixel, a box the edge behind it
            pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=BOX, width=width)
        if landmarks:
            there = points[np.isfinite(points).all(1)] - 0.5  # from pixels' corners to Pillow's centres
            radius = max(width, 0.02 * (x2 - x1))
            for x, y in there.tolist():
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=POINT)
        if scores:
            _label(pen, f"{100 * score:.0f}", (x1, y1), ImageFont.load_default(max(8, 5 * width)))
    return canvas


def _label(pen: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], font: _Font) -> None:
    """The text on a plate that stands on the box's upper left corner, or hangs from the picture's edge."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = round(right - left) + 4, round(bottom - top) + 4
    x, y = max(corner[0], 0), max(corner[1] - height, 0)
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=BOX)
    pen.text((x + 2 - left, y + 2 - top), text, fill=INK, font=font)
