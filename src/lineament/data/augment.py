"""Data augmentation: of a photo together with its labels, of its light and sharpness, and occlusion of faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lineament.boxes import longer_side
from lineament.data.canvases import Labels, moved
from lineament.data.sample import Sample

Array = NDArray[Any]

TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""Lightness and two colour axes of NTSC, in which saturation is a length and hue an angle."""
HAND = 1.32
"""Area of a hand of `_draw_hand`, divided by the square of its reach. Whole pixels make small hands larger."""


@dataclass(frozen=True)
class Light:
    """Changes of light. Ranges are plus and minus, probabilities in [0, 1].

    Attributes:
        brightness: Shift of all values, in grey levels of 255.
        contrast: Relative change of differences from the mean.
        gamma: Natural logarithm of the exponent.
        saturation: Relative change of colours.
        hue: Rotation of the colours, in degrees.
        tint: Relative change of each channel by itself, as from a wrong white balance.
        grey: Probability of a grey image.
        dark: Probability of a dark image: with a larger exponent than ``gamma`` gives, and always with noise.
        dark_gamma: Smallest and largest factor of its exponent.
        dark_noise: Largest standard deviation of its noise, in grey levels of 255. Replaces that of `Quality`.
    """

    brightness: float = 32
    contrast: float = 0.35
    gamma: float = 0.3
    saturation: float = 0.4
    hue: float = 12
    tint: float = 0.08
    grey: float = 0.1
    dark: float = 0.0
    dark_gamma: tuple[float, float] = (1.5, 3.5)
    dark_noise: float = 16


@dataclass(frozen=True)
class Quality:
    """Loss of quality by a camera or a file.

    Attributes:
        blur: Probability of a Gaussian blur of up to ``blur_sigma`` pixels.
        blur_sigma: In pixels.
        motion: Probability of a motion blur of up to ``motion_length`` pixels.
        motion_length: In pixels, at least 2.
        noise: Probability of normal noise of up to ``noise_sigma``.
        noise_sigma: In grey levels of 255.
        jpeg: Probability of JPEG compression.
        jpeg_quality: Lowest and highest quality.
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
    """Images that look enlarged from fewer pixels, like faces in poor photos.

    Attributes:
        probability: Probability of such an image.
        least: Smallest share of the pixels along each axis.
        most: Largest share of the pixels along each axis.
    """

    probability: float = 0.3
    least: float = 0.3
    most: float = 0.8


@dataclass(frozen=True)
class Occlusion:
    """Occlusion of faces.

    Attributes:
        probability: Probability that a face is partly covered.
        most: Largest covered share of a face's box.
        smallest: Faces with a shorter longer side, in pixels, are not covered.
        hands: Share of the objects that look like hands.
    """

    probability: float = 0.1
    most: float = 0.4
    smallest: float = 12
    hands: float = 0.0


def turn(image: Array, sample: Sample, degrees: float) -> tuple[Array, Sample]:
    """Rotate a photo counter-clockwise around its centre, on a canvas of the same size, black beyond the photo.

    Labels move as in `lineament.data.canvases.moved`.

    Args:
        image: (h, w, 3) uint8.
        sample: Its labels.
        degrees: Any angle.
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
    """Changes of light and quality for n images, as drawn by `looks`.

    Attributes:
        colours: (n, 3, 3), factors of RGB, apart from the term that keeps the mean brightness.
        gains: (n, 3), contrast of each channel.
        brightness: (n,) shift of all values, in grey levels of 255.
        gamma: (n,) exponent.
        blur: (n,) sigma of a Gaussian in pixels, 0 for none.
        motion: (n, 2) length in pixels and direction in radians of a motion blur. Length 0 for none.
        noise: (n,) standard deviation in grey levels, 0 for none.
        seed: (n,) seed of the noise.
        quality: (n,) JPEG quality, 0 for no compression.
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
        """Join several, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def looks(rng: np.random.Generator, n: int, light: Light | None, quality: Quality | None) -> Looks:
    """Draw changes of light and quality for n images.

    Args:
        rng: Random numbers.
        n: Number of images.
        light: Range of the changes of light. ``None``: no change.
        quality: Range of the changes of quality. ``None``: no change.
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
    blur = np.where(soft, rng.uniform(0.3, spoil.blur_sigma, n), 0)
    sigma = np.where(noisy, rng.uniform(1, spoil.noise_sigma, n), 0)
    seed, stored_as = rng.integers(2**31, size=n), rng.integers(*spoil.jpeg_quality, size=n, endpoint=True)
    if of.dark:
        dark = rng.random(n) < of.dark
        gamma = gamma + np.where(dark, np.log(rng.uniform(*of.dark_gamma, n)), 0)
        sigma = np.where(dark, rng.uniform(1, of.dark_noise, n), sigma)
    return Looks(
        colours=gains[:, :, None] * (np.linalg.inv(TO_YIQ) @ turned @ TO_YIQ),
        gains=gains,
        brightness=brightness,
        gamma=np.exp(gamma),
        blur=blur,
        motion=np.where(moving[:, None], line, 0),
        noise=sigma,
        seed=seed,
        quality=np.where(stored, stored_as, 0),
    )


def distort(pixels: Array, drawn: Looks) -> Array:
    """Change light and quality of images. Nothing in them moves.

    Args:
        pixels: (n, h, w, 3) uint8 RGB. They are not modified.
        drawn: The changes of each.

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
    """Brightness, contrast and colours as one affine map of RGB, then gamma by a table."""
    grey = np.dot(TO_YIQ[0], cv2.mean(image)[:3])
    # around the grey of the image, so that contrast does not change its brightness
    shift = grey + drawn.brightness[i] - drawn.gains[i] * grey
    relit = cv2.transform(image, np.column_stack([drawn.colours[i], shift]))
    if drawn.gamma[i] == 1:
        return relit
    table = 255 * (np.arange(256) / 255) ** drawn.gamma[i]
    return cv2.LUT(relit, np.rint(table).astype(np.uint8))


def blurred(image: Array, drawn: Looks, i: int) -> Array:
    """An image (h, w) or (h, w, 3), of bytes or floats, with both blurs of the i-th look."""
    if drawn.blur[i]:
        image = cv2.GaussianBlur(image, (0, 0), drawn.blur[i])
    return cv2.filter2D(image, -1, _line(*drawn.motion[i])) if drawn.motion[i, 0] else image


def coarseness(rng: np.random.Generator, n: int, settings: Coarse | None) -> Array:
    """Draw the shares (n,) of pixels along each axis from which images are enlarged; 1 for no change."""
    if settings is None:
        return np.ones(n)
    return np.where(rng.random(n) < settings.probability, rng.uniform(settings.least, settings.most, n), 1)


def coarsened(pixels: Array, shares: Array) -> Array:
    """Reduce images (n, h, w, 3) uint8 to these shares (n,) of their pixels and enlarge them again. A new array."""
    h, w = pixels.shape[1:3]
    pixels = pixels.copy()
    for i in np.flatnonzero(shares < 1):
        size = (max(round(w * shares[i]), 1), max(round(h * shares[i]), 1))
        small = cv2.resize(pixels[i], size, interpolation=cv2.INTER_AREA)
        pixels[i] = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    return pixels


def _line(length: float, radians: float) -> Array:
    """The kernel of a motion blur: a line."""
    side = int(np.ceil(length)) | 1
    reach = length / 2 * np.array([np.cos(radians), np.sin(radians)])
    start, end = (np.rint((side // 2 + sign * reach) * 16).astype(int).tolist() for sign in (-1, 1))
    kernel = np.zeros((side, side), np.uint8)
    cv2.line(kernel, start, end, 255, 1, cv2.LINE_AA, 4)  # 4: ends in sixteenths of a pixel
    return kernel / kernel.sum()


def _compressed(pixels: Array, quality: int) -> Array:
    # OpenCV reads colours as BGR; in the wrong order, blue would keep the detail that red has in real files
    _, file = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.cvtColor(cv2.imdecode(file, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@dataclass(frozen=True, eq=False)
class Cover:
    """An object in front of a face.

    Attributes:
        left: First column of its mask in pixels.
        top: First row of its mask in pixels.
        mask: (h, w) bool.
        fill: (h, w, 3) uint8, its pixels.
    """

    left: int
    top: int
    mask: Array
    fill: Array

    def onto(self, pixels: Array) -> None:
        """Draw it into an image (h, w, 3) uint8, in place."""
        h, w = self.mask.shape
        np.copyto(pixels[self.top : self.top + h, self.left : self.left + w], self.fill, where=self.mask[..., None])


def covers(rng: np.random.Generator, labels: Labels, size: tuple[int, int], settings: Occlusion) -> list[Cover]:
    """Draw objects that partly cover some faces: hands, or ellipses and rectangles with one colour, a texture or noise.

    Labels do not change.

    Args:
        rng: Random numbers.
        labels: The labels of the image.
        size: ``(width, height)`` of the image.
        settings: How often, and how much of a face.
    """
    sides = longer_side(labels.boxes)
    drawn = rng.random(len(sides)) < settings.probability
    chosen = labels.boxes[drawn & ~labels.ignore & (sides >= settings.smallest)]
    made = (_cover(rng, box, size, settings) for box in chosen)
    return [cover for cover in made if cover.mask.size]


def _cover(rng: np.random.Generator, box: Array, size: tuple[int, int], settings: Occlusion) -> Cover:
    """One object on the box, with at most the share ``most`` of its area, inside the image."""
    extent = box[2:] - box[:2]
    centre = box[:2] + rng.random(2) * extent
    stretch = np.exp(rng.uniform(-0.7, 0.7))
    shape = np.sqrt(rng.uniform(0.1, settings.most) * extent.prod()) * np.array([stretch, 1 / stretch])
    left, top = np.clip(np.floor(centre - shape.max()), 0, size).astype(int).tolist()
    right, bottom = np.clip(np.ceil(centre + shape.max()), 0, size).astype(int).tolist()
    width, height = max(right - left, 0), max(bottom - top, 0)
    mask = np.zeros((height, width), np.uint8)
    if not mask.size:
        return Cover(left, top, mask.astype(bool), np.zeros((height, width, 3), np.uint8))
    if settings.hands and rng.random() < settings.hands:
        _draw_hand(rng, mask, centre - (left, top), np.sqrt(shape.prod() / HAND))
        skin = np.array([240, 200, 175]) * rng.uniform(0.25, 1) ** np.array([0.8, 1.0, 1.1])  # darker skin is redder
        colours = np.clip(skin + rng.normal(0, 12, (4, 4, 1)), 0, 255).astype(np.uint8)
    else:
        figure = ((centre - (left, top)).tolist(), shape.tolist(), rng.uniform(0, 180))
        if rng.random() < 0.5:
            cv2.ellipse(mask, figure, 1, -1)
        else:
            cv2.fillConvexPoly(mask, np.rint(cv2.boxPoints(figure)).astype(np.int32), 1)
        blotches = int(rng.choice([1, 2, 4, 8, max(width, height)]))  # one colour, cloth, noise
        colours = np.clip(rng.integers(0, 256, 3) + rng.normal(0, 40, (blotches, blotches, 3)), 0, 255).astype(np.uint8)
    fill = cv2.resize(colours, (width, height), interpolation=cv2.INTER_CUBIC)
    return Cover(left, top, mask.astype(bool), fill)


def _draw_hand(rng: np.random.Generator, mask: Array, palm: Array, reach: float) -> None:
    """A palm with spread fingers, whose tips are ``reach`` away from its centre."""
    towards, spread = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.4)
    at = np.rint(palm).astype(int).tolist()
    cv2.circle(mask, at, round(0.45 * reach), 1, -1)
    for angle in towards + spread * np.array([-0.6, -0.2, 0.2, 0.6, 1.3]):
        tip = palm + reach * np.array([np.cos(angle), np.sin(angle)])
        cv2.line(mask, at, np.rint(tip).astype(int).tolist(), 1, max(round(0.2 * reach), 1))
