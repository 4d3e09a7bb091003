"""Changes to a photo together with its labels, and to its light, sharpness and faces without them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lineament.data.compose import Labels, moved
from lineament.data.sample import Sample

Array = NDArray[Any]

TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""Lightness and two colour axes of NTSC: there saturation is a length and hue an angle."""


@dataclass(frozen=True)
class Distortion:
    """How far `look` goes: ranges as plus and minus, probabilities in [0, 1].

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
    """What `covers` lays over faces.

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


@dataclass(frozen=True, eq=False)
class Look:
    """Another light and quality for a picture, as drawn by `look`.

    Attributes:
        colours: (3, 3), what RGB is multiplied by, apart from what keeps the picture's mean brightness.
        gains: (3,), the contrast of each channel. brightness: shift of all values, in grey levels of 255.
        gamma: exponent.
        blur: sigma of a Gaussian in pixels, 0 for none.
        motion: (k, k) kernel of a blur along a line, ``None`` for none.
        noise: standard deviation in grey levels, 0 for none. seed: of the noise.
        quality: of a round trip through JPEG, 0 for none.
    """

    colours: Array
    gains: Array
    brightness: float
    gamma: float
    blur: float
    motion: Array | None
    noise: float
    seed: int
    quality: int


def look(rng: np.random.Generator, settings: Distortion | None = None) -> Look:
    """Draw a light and a quality.

    Args:
        rng: decides everything.
        settings: how far to go.
    """
    s = settings or Distortion()
    spread = np.array([s.brightness, s.contrast, s.saturation, np.deg2rad(s.hue), s.gamma])
    brightness, contrast, saturation, hue, gamma = rng.uniform(-spread, spread)
    strength = 0 if rng.random() < s.grey else 1 + saturation
    a, b = strength * np.cos(hue), strength * np.sin(hue)
    gains = (1 + contrast) * (1 + rng.uniform(-s.tint, s.tint, 3) * (strength > 0))
    low, high = s.jpeg_quality
    soft, moving, noisy, stored = rng.random(4) < (s.blur, s.motion, s.noise, s.jpeg)
    return Look(
        colours=gains[:, None] * (np.linalg.inv(TO_YIQ) @ np.array([[1, 0, 0], [0, a, -b], [0, b, a]]) @ TO_YIQ),
        gains=gains,
        brightness=brightness,
        gamma=np.exp(gamma),
        blur=rng.uniform(0.3, s.blur_sigma) if soft else 0.0,
        motion=_line(rng.uniform(2, s.motion_length), rng.uniform(0, np.pi)) if moving else None,
        noise=rng.uniform(1, s.noise_sigma) if noisy else 0.0,
        seed=int(rng.integers(2**31)),
        quality=int(rng.integers(low, high, endpoint=True)) if stored else 0,
    )


def distort(pixels: Array, drawn: Look) -> Array:
    """The picture in another light and quality; nothing on it moves.

    Args:
        pixels: (h, w, 3) uint8 RGB; not changed.
        drawn: what to do.

    Returns:
        (h, w, 3) uint8.
    """
    pixels = _relit(pixels, drawn)
    if drawn.blur or drawn.motion is not None:
        pixels = blurred(pixels, drawn)
    if drawn.noise:
        noise = np.random.default_rng(drawn.seed).standard_normal(pixels.shape, np.float32)
        pixels = np.rint(noise * np.float32(drawn.noise) + pixels).clip(0, 255).astype(np.uint8)
    return _compressed(pixels, drawn.quality) if drawn.quality else pixels


def _relit(pixels: Array, drawn: Look) -> Array:
    """Brightness, contrast, colours as one affine map of RGB; then gamma, by a table."""
    grey = np.dot(TO_YIQ[0], cv2.mean(pixels)[:3])
    # around the picture's grey, so that contrast does not move its brightness
    shift = grey + drawn.brightness - drawn.gains * grey
    relit = cv2.transform(pixels, np.column_stack([drawn.colours, shift]))
    table = 255 * (np.arange(256) / 255) ** drawn.gamma
    return cv2.LUT(relit, np.rint(table).astype(np.uint8))


def blurred(picture: Array, drawn: Look) -> Array:
    """A picture (h, w) or (h, w, 3), of bytes or floats, under both blurs."""
    if drawn.blur:
        picture = cv2.GaussianBlur(picture, (0, 0), drawn.blur)
    return picture if drawn.motion is None else cv2.filter2D(picture, -1, drawn.motion)


def _line(length: float, radians: float) -> Array:
    """What a shaking camera makes of a point: a line."""
    side = int(np.ceil(length)) | 1
    reach = length / 2 * np.array([np.cos(radians), np.sin(radians)])
    start, end = (np.rint((side // 2 + sign * reach) * 16).astype(int).tolist() for sign in (-1, 1))
    kernel = np.zeros((side, side), np.uint8)
    cv2.line(kernel, start, end, 255, 1, cv2.LINE_AA, 4)  # 4: ends in sixteenths of a pixel
    return kernel / kernel.sum()


def _compressed(pixels: Array, quality: int) -> Array:
    # OpenCV takes colours as BGR; in the wrong order blue would keep the detail that red has in real files
    _, file = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@dataclass(frozen=True, eq=False)
class Cover:
    """Something in front of a face.

    Attributes:
        left, top: where its mask begins, in pixels. mask: (h, w) bool. fill: (h, w, 3) uint8, what it looks like.
    """

    left: int
    top: int
    mask: Array
    fill: Array

    def onto(self, pixels: Array) -> None:
        """Draw it, in place, onto a picture (h, w, 3) uint8."""
        h, w = self.mask.shape
        np.copyto(pixels[self.top : self.top + h, self.left : self.left + w], self.fill, where=self.mask[..., None])


def covers(
    rng: np.random.Generator, labels: Labels, size: tuple[int, int], settings: Occlusion | None = None
) -> list[Cover]:
    """Things that cover some faces in part: an ellipse or a rectangle of blotches or noise. Labels stay as they are.

    Args:
        rng: decides everything.
        labels: of the picture. size: its ``(width, height)``.
        settings: how often, and how much of a face.
    """
    settings = settings or Occlusion()
    sides = (labels.boxes[:, 2:] - labels.boxes[:, :2]).max(axis=1, initial=0)
    drawn = rng.random(len(sides)) < settings.probability
    chosen = labels.boxes[drawn & ~labels.ignore & (sides >= settings.smallest)]
    made = (_cover(rng, box, size, settings.most) for box in chosen)
    return [cover for cover in made if cover.mask.size]


def _cover(rng: np.random.Generator, box: Array, size: tuple[int, int], most: float) -> Cover:
    """One thing on the box, of at most the share ``most`` of its area; nothing of it lies outside the picture."""
    extent = box[2:] - box[:2]
    centre = box[:2] + rng.random(2) * extent
    stretch = np.exp(rng.uniform(-0.7, 0.7))
    shape = np.sqrt(rng.uniform(0.1, most) * extent.prod()) * np.array([stretch, 1 / stretch])
    left, top = np.clip(np.floor(centre - shape.max()), 0, size).astype(int).tolist()
    right, bottom = np.clip(np.ceil(centre + shape.max()), 0, size).astype(int).tolist()
    width, height = max(right - left, 0), max(bottom - top, 0)
    mask = np.zeros((height, width), np.uint8)
    if not mask.size:
        return Cover(left, top, mask.astype(bool), np.zeros((height, width, 3), np.uint8))
    figure = ((centre - (left, top)).tolist(), shape.tolist(), rng.uniform(0, 180))
    if rng.random() < 0.5:
        cv2.ellipse(mask, figure, 1, -1)
    else:
        cv2.fillConvexPoly(mask, np.rint(cv2.boxPoints(figure)).astype(np.int32), 1)
    blotches = int(rng.choice([1, 2, 4, 8, max(width, height)]))  # one colour, cloth, noise
    colours = np.clip(rng.integers(0, 256, 3) + rng.normal(0, 40, (blotches, blotches, 3)), 0, 255).astype(np.uint8)
    fill = cv2.resize(colours, (width, height), interpolation=cv2.INTER_CUBIC)
    return Cover(left, top, mask.astype(bool), fill)
