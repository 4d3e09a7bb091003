"""Changes to a photo together with its labels, and to its light, sharpness and faces without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lineament.data.canvases import Labels, moved
from lineament.data.sample import Sample

Array = NDArray[Any]

TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""Lightness and two colour axes of NTSC: there saturation is a length and hue an angle."""


@dataclass(frozen=True)
class Light:
    """How far the light of an image changes: ranges as plus and minus, probabilities in [0, 1].

    Attributes:
        brightness: shift of all values, in grey levels of 255.
        contrast: share by which differences from the mean grow or shrink.
        gamma: natural logarithm of the exponent.
        saturation: share by which colours grow stronger or weaker.
        hue: turn of the colours, in degrees.
        tint: share by which each channel grows or shrinks on its own, as a wrong white balance does.
        grey: probability of no colour at all.
    """

    brightness: float = 32
    contrast: float = 0.35
    gamma: float = 0.3
    saturation: float = 0.4
    hue: float = 12
    tint: float = 0.08
    grey: float = 0.1


@dataclass(frozen=True)
class Quality:
    """How often, and how much, a camera or a file spoils an image.

    Attributes:
        blur: probability of a Gaussian blur of up to ``blur_sigma`` pixels.
        blur_sigma: in pixels.
        motion: probability of a blur along a line of up to ``motion_length`` pixels.
        motion_length: in pixels, at least 2.
        noise: probability of normal noise of up to ``noise_sigma``.
        noise_sigma: in grey levels of 255.
        jpeg: probability of a round trip through JPEG.
        jpeg_quality: lowest and highest quality.
    """

    blur: float = 0.1
    blur_sigma: float = 1.5
    motion: float = 0.04
    motion_length: int = 7
    noise: float = 0.15
    noise_sigma: float = 12
    jpeg: float = 0.3
    jpeg_quality: tuple[int, int] = (30, 95)


@dataclass(frozen=True)
class Coarse:
    """How often an image looks enlarged from fewer pixels, as faces in poor photos do.

    Attributes:
        probability: of such an image.
        least, most: share of its pixels along each axis that it is drawn from.
    """

    probability: float = 0.3
    least: float = 0.3
    most: float = 0.8


@dataclass(frozen=True)
class Occlusion:
    """What lies over faces.

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

    Labels move as `lineament.data.canvases.moved` says.

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
class Looks:
    """Another light and quality for each of n images, as drawn by `looks`.

    Attributes:
        colours: (n, 3, 3), what RGB is multiplied by, apart from what keeps the image's mean brightness.
        gains: (n, 3), the contrast of each channel.
        brightness: (n,) shift of all values, in grey levels of 255.
        gamma: (n,) exponent.
        blur: (n,) sigma of a Gaussian in pixels, 0 for none.
        motion: (n, 2) length in pixels and direction in radians of a blur along a line; length 0 for none.
        noise: (n,) standard deviation in grey levels, 0 for none.
        seed: (n,) of the noise.
        quality: (n,) of a round trip through JPEG, 0 for none.
    """

    colours: Array
    gains: Array
    brightness: Array
    gamma: Array
    blur: Array
    motion: Array
    noise: Array
    seed: Array
    quality: Array

    def __len__(self) -> int:
        return len(self.gamma)

    def __getitem__(self, rows: Sequence[int] | Array | slice) -> Looks:
        return Looks(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Looks]) -> Looks:
        """All of several, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def looks(rng: np.random.Generator, n: int, light: Light | None, quality: Quality | None) -> Looks:
    """Draw a light and a quality for each of n images.

    Args:
        rng: decides everything. n: how many.
        light, quality: how far to go; ``None`` for no change.
    """
    of, spoil = light or Light(0, 0, 0, 0, 0, 0, 0), quality or Quality(blur=0, motion=0, noise=0, jpeg=0)
    spread = np.array([of.brightness, of.contrast, of.saturation, np.deg2rad(of.hue), of.gamma])
    brightness, contrast, saturation, hue, gamma = rng.uniform(-spread, spread, (n, len(spread))).T
    strength = np.where(rng.random(n) < of.grey, 0, 1 + saturation)
    turned = np.zeros((n, 3, 3))  # of lightness and two colour axes
    turned[:, 0, 0] = 1
    turned[:, 1, 1] = turned[:, 2, 2] = strength * np.cos(hue)
    turned[:, 2, 1] = strength * np.sin(hue)
    turned[:, 1, 2] = -turned[:, 2, 1]
    gains = (1 + contrast)[:, None] * (1 + rng.uniform(-of.tint, of.tint, (n, 3)) * (strength > 0)[:, None])
    soft, moving, noisy, stored = (rng.random((n, 4)) < (spoil.blur, spoil.motion, spoil.noise, spoil.jpeg)).T
    line = np.stack([rng.uniform(2, spoil.motion_length, n), rng.uniform(0, np.pi, n)], axis=1)
    return Looks(
        colours=gains[:, :, None] * (np.linalg.inv(TO_YIQ) @ turned @ TO_YIQ),
        gains=gains,
        brightness=brightness,
        gamma=np.exp(gamma),
        blur=np.where(soft, rng.uniform(0.3, spoil.blur_sigma, n), 0),
        motion=np.where(moving[:, None], line, 0),
        noise=np.where(noisy, rng.uniform(1, spoil.noise_sigma, n), 0),
        seed=rng.integers(2**31, size=n),
        quality=np.where(stored, rng.integers(*spoil.jpeg_quality, size=n, endpoint=True), 0),
    )


def distort(pixels: Array, drawn: Looks) -> Array:
    """Images in another light and quality; nothing on them moves.

    Args:
        pixels: (n, h, w, 3) uint8 RGB; not changed.
        drawn: what to do to each.

    Returns:
        (n, h, w, 3) uint8.
    """
    changed = np.empty_like(pixels)
    for i, image in enumerate(pixels):
        image = _relit(image, drawn, i)
        if drawn.blur[i] or drawn.motion[i, 0]:
            image = blurred(image, drawn, i)
        if drawn.noise[i]:
            noise = np.random.default_rng(drawn.seed[i]).standard_normal(image.shape, np.float32)
            image = np.rint(noise * np.float32(drawn.noise[i]) + image).clip(0, 255).astype(np.uint8)
        changed[i] = _compressed(image, int(drawn.quality[i])) if drawn.quality[i] else image
    return changed


def _relit(image: Array, drawn: Looks, i: int) -> Array:
    """Brightness, contrast, colours as one affine map of RGB; then gamma, by a table."""
    grey = np.dot(TO_YIQ[0], cv2.mean(image)[:3])
    # around the image's grey, so that contrast does not move its brightness
    shift = grey + drawn.brightness[i] - drawn.gains[i] * grey
    relit = cv2.transform(image, np.column_stack([drawn.colours[i], shift]))
    if drawn.gamma[i] == 1:
        return relit
    table = 255 * (np.arange(256) / 255) ** drawn.gamma[i]
    return cv2.LUT(relit, np.rint(table).astype(np.uint8))


def blurred(image: Array, drawn: Looks, i: int) -> Array:
    """An image (h, w) or (h, w, 3), of bytes or floats, under both blurs of the i-th look."""
    if drawn.blur[i]:
        image = cv2.GaussianBlur(image, (0, 0), drawn.blur[i])
    return cv2.filter2D(image, -1, _line(*drawn.motion[i])) if drawn.motion[i, 0] else image


def coarseness(rng: np.random.Generator, n: int, settings: Coarse | None) -> Array:
    """Draw (n,) shares of their pixels, along each axis, that images are to be drawn from; 1 leaves one as it is."""
    if settings is None:
        return np.ones(n)
    return np.where(rng.random(n) < settings.probability, rng.uniform(settings.least, settings.most, n), 1)


def coarsened(pixels: Array, shares: Array) -> Array:
    """Images (n, h, w, 3) uint8 drawn from these shares (n,) of their pixels and enlarged again; a new array."""
    h, w = pixels.shape[1:3]
    pixels = pixels.copy()
    for i in np.flatnonzero(shares < 1):
        size = (max(round(w * shares[i]), 1), max(round(h * shares[i]), 1))
        small = cv2.resize(pixels[i], size, interpolation=cv2.INTER_AREA)
        pixels[i] = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    return pixels


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


def covers(rng: np.random.Generator, labels: Labels, size: tuple[int, int], settings: Occlusion) -> list[Cover]:
    """Things that cover some faces in part: an ellipse or a rectangle of blotches or noise. Labels stay as they are.

    Args:
        rng: decides everything.
        labels: of the picture. size: its ``(width, height)``.
        settings: how often, and how much of a face.
    """
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
