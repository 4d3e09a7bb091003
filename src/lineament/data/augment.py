"""Changes to a photo together with its labels, and to its light, sharpness and faces without them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lineament.data.compose import Canvas, moved
from lineament.data.sample import Sample

Array = NDArray[Any]

TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""Lightness and two colour axes of NTSC: there saturation is a length and hue an angle."""


@dataclass(frozen=True)
class Distortion:
    """How far `distort` goes: ranges as plus and minus, probabilities in [0, 1].

    Attributes:
        brightness: shift of all values, in grey levels of 255.
        contrast: share by which differences from the mean grow or shrink.
        gamma: natural logarithm of the exponent.
        saturation: share by which colours grow stronger or weaker.
        hue: turn of the colours, in degrees.
        tint: share by which each channel grows or shrinks on its own, as a wrong white balance does.
        grey: probability of no colour at all.
        blur: probability of a Gaussian blur of up to ``blur_sigma`` pixels.
        blur_sigma: in pixels.
        motion: probability of a blur along a line of up to ``motion_length`` pixels.
        motion_length: in pixels, at least 2.
        noise: probability of normal noise of up to ``noise_sigma``.
        noise_sigma: in grey levels of 255.
        jpeg: probability of a round trip through JPEG.
        jpeg_quality: lowest and highest quality.
    """

    brightness: float = 32
    contrast: float = 0.35
    gamma: float = 0.3
    saturation: float = 0.4
    hue: float = 12
    tint: float = 0.08
    grey: float = 0.1
    blur: float = 0.1
    blur_sigma: float = 1.5
    motion: float = 0.04
    motion_length: int = 7
    noise: float = 0.15
    noise_sigma: float = 12
    jpeg: float = 0.3
    jpeg_quality: tuple[int, int] = (30, 95)


@dataclass(frozen=True)
class Occlusion:
    """What `occlude` lays over faces.

    Attributes:
        probability: that a face is covered in part.
        most: largest share of a face's box that may be covered.
        smallest: faces whose longer side is shorter, in pixels, stay as they are.
    """

    probability: float = 0.1
    most: float = 0.4
    smallest: float = 12


def turn(image: Array, sample: Sample, degrees: float) -> tuple[Array, Sample]:
    """The photo turned counter-clockwise around its centre, on a canvas of the same size, black where it ends.

    Labels move as `lineament.data.compose.moved` says.

    Args:
        image: (h, w, 3) uint8. sample: its labels. degrees: any angle.
    """
    h, w = image.shape[:2]
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    linear = np.array([[cosine, sine], [-sine, cosine]])
    centre = np.array([w / 2, h / 2])
    boxes, landmarks = moved(sample, np.column_stack([linear, centre - linear @ centre]))
    picture = Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR)
    return np.asarray(picture), replace(sample, boxes=boxes, landmarks=landmarks)


def distort(rng: np.random.Generator, pixels: Array, settings: Distortion | None = None) -> Array:
    """The picture in another light and quality; nothing on it moves.

    Args:
        rng: decides everything.
        pixels: (h, w, 3) uint8 RGB; not changed.
        settings: how far to go.

    Returns:
        (h, w, 3) uint8.
    """
    settings = settings or Distortion()
    pixels = _relit(rng, pixels, settings)
    for probability, change in (
        (settings.blur, _blurred),
        (settings.motion, _moving),
        (settings.noise, _noisy),
        (settings.jpeg, _compressed),
    ):
        if rng.random() < probability:
            pixels = change(rng, pixels, settings)
    return pixels


def _relit(rng: np.random.Generator, pixels: Array, settings: Distortion) -> Array:
    """Brightness, contrast, colours as one affine map of RGB; then gamma, by a table."""
    spread = np.array(
        [settings.brightness, settings.contrast, settings.saturation, np.deg2rad(settings.hue), settings.gamma]
    )
    brightness, contrast, saturation, hue, gamma = rng.uniform(-spread, spread)
    strength = 0 if rng.random() < settings.grey else 1 + saturation
    a, b = strength * np.cos(hue), strength * np.sin(hue)
    colours = np.linalg.inv(TO_YIQ) @ np.array([[1, 0, 0], [0, a, -b], [0, b, a]]) @ TO_YIQ
    gains = (1 + contrast) * (1 + rng.uniform(-settings.tint, settings.tint, (3, 1)) * (strength > 0))
    mean = cv2.mean(pixels)[:3]
    grey = np.dot(TO_YIQ[0], mean)
    # around the picture's grey, so that contrast does not move its brightness
    shift = grey + brightness - gains[:, 0] * grey
    relit = cv2.transform(pixels, np.column_stack([gains * colours, shift]))
    table = 255 * (np.arange(256) / 255) ** np.exp(gamma)
    return cv2.LUT(relit, np.rint(table).astype(np.uint8))


def _blurred(rng: np.random.Generator, pixels: Array, settings: Distortion) -> Array:
    return cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, settings.blur_sigma))


def _moving(rng: np.random.Generator, pixels: Array, settings: Distortion) -> Array:
    """As a shaking camera sees it: averaged along a line."""
    length = rng.uniform(2, settings.motion_length)
    radians = rng.uniform(0, np.pi)
    side = int(np.ceil(length)) | 1
    reach = length / 2 * np.array([np.cos(radians), np.sin(radians)])
    start, end = (np.rint((side // 2 + sign * reach) * 16).astype(int).tolist() for sign in (-1, 1))
    kernel = np.zeros((side, side), np.uint8)
    cv2.line(kernel, start, end, 255, 1, cv2.LINE_AA, 4)  # 4: ends in sixteenths of a pixel
    return cv2.filter2D(pixels, -1, kernel / kernel.sum())


def _noisy(rng: np.random.Generator, pixels: Array, settings: Distortion) -> Array:
    noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(1, settings.noise_sigma))
    return np.rint(noise + pixels).clip(0, 255).astype(np.uint8)


def _compressed(rng: np.random.Generator, pixels: Array, settings: Distortion) -> Array:
    low, high = settings.jpeg_quality
    quality = int(rng.integers(low, high, endpoint=True))
    # OpenCV takes colours as BGR; in the wrong order blue would keep the detail that red has in real files
    _, file = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def occlude(rng: np.random.Generator, canvas: Canvas, settings: Occlusion | None = None) -> Canvas:
    """Some faces covered in part, by an ellipse or a rectangle of blotches or noise; labels and weights stay.

    Args:
        rng: decides everything.
        canvas: not changed.
        settings: how often, and how much of a face.
    """
    settings = settings or Occlusion()
    sides = (canvas.boxes[:, 2:] - canvas.boxes[:, :2]).max(axis=1, initial=0)
    drawn = rng.random(len(sides)) < settings.probability
    chosen = canvas.boxes[drawn & ~canvas.ignore & (sides >= settings.smallest)]
    if not len(chosen):
        return canvas
    pixels = canvas.pixels.copy()
    for box in chosen:
        _cover(rng, pixels, box, settings.most)
    return replace(canvas, pixels=pixels)


def _cover(rng: np.random.Generator, pixels: Array, box: Array, most: float) -> None:
    """Draw one thing onto the box, of at most the share ``most`` of its area, in place."""
    size = box[2:] - box[:2]
    centre = box[:2] + rng.random(2) * size
    stretch = np.exp(rng.uniform(-0.7, 0.7))
    shape = np.sqrt(rng.uniform(0.1, most) * size.prod()) * np.array([stretch, 1 / stretch])
    limits = np.array(pixels.shape[1::-1])
    low = np.clip(np.floor(centre - shape.max()), 0, limits).astype(int)
    high = np.clip(np.ceil(centre + shape.max()), low, limits).astype(int)
    width, height = (high - low).tolist()
    if not width * height:
        return
    figure = ((centre - low).tolist(), shape.tolist(), rng.uniform(0, 180))
    mask = np.zeros((height, width), np.uint8)
    if rng.random() < 0.5:
        cv2.ellipse(mask, figure, 1, -1)
    else:
        cv2.fillConvexPoly(mask, np.rint(cv2.boxPoints(figure)).astype(np.int32), 1)
    blotches = int(rng.choice([1, 2, 4, 8, max(width, height)]))  # one colour, cloth, noise
    colours = np.clip(rng.integers(0, 256, 3) + rng.normal(0, 40, (blotches, blotches, 3)), 0, 255).astype(np.uint8)
    fill = cv2.resize(colours, (width, height), interpolation=cv2.INTER_CUBIC)
    np.copyto(pixels[low[1] : high[1], low[0] : high[0]], fill, where=mask[..., None].astype(bool))
