"""Similarity transforms by least squares, and crops of faces turned upright with them.

A plane's points are complex numbers here, so rotation and scale together are one complex factor, a reflection cannot
come about, and the optimum of Umeyama (1991) has the closed form of a linear regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from lineament.checks import whole
from lineament.errors import OptionError
from lineament.faces import Faces, expect_faces
from lineament.images import Color, Source, read_image
from lineament.schemas import FIVE, convert

Array = NDArray[Any]

# Where the five points lie in a crop, over its side. These are the places of the 112 px template on which public
# recognition networks are trained, made symmetric and read as continuous pixels: each within 0.6 px of that template
# plus half a pixel, so that crops serve those networks.
TEMPLATE = np.array([[0.343, 0.465], [0.657, 0.465], [0.5, 0.645], [0.37, 0.8285], [0.63, 0.8285]])


LARGEST = 8192  # side of a crop in pixels: 192 MiB


@dataclass(frozen=True, eq=False)
class Crops:
    """Aligned crops of n faces, and the way there and back.

    Attributes:
        crops: (n, size, size, 3) uint8 RGB; black where a crop reaches beyond the picture.
        matrices: (n, 2, 3) float64, from continuous pixels of the picture to those of the crop.
        inverses: (n, 2, 3) float64, from the crop back to the picture.
    """

    crops: Array
    matrices: Array
    inverses: Array

    def __len__(self) -> int:
        return len(self.crops)


def align(
    image: Source, faces: Faces, *, size: int = 112, template: ArrayLike = TEMPLATE, color: Color = "rgb"
) -> Crops:
    """Every face upright, at one size, with its eyes, nose and mouth corners near fixed places.

    Args:
        image: the picture in which the faces were found, as ``read_image`` takes it.
        faces: n faces; landmarks of larger schemas are reduced to five by ``lineament.schemas.convert``.
        size: side of a crop in pixels.
        template: (5, 2) places of right eye, left eye, nose, right and left mouth corner, over the crop's side.
        color: order of an array's channels.

    Raises:
        OptionError: the faces belong to a picture of another size, a face has fewer than two of the five
            points, its schema has no map to five, or ``size`` or ``template`` is out of range.
    """
    size = whole(size, f"size is a crop's side in pixels, 1 to {LARGEST}", low=1, high=LARGEST)
    places = _template(template)
    expect_faces(faces)
    pixels = read_image(image, color=color)
    h, w = pixels.shape[:2]
    if faces.image_size != (w, h):
        fw, fh = faces.image_size
        raise OptionError(f"the faces were found in a picture of {fw}x{fh}, this one has {w}x{h} (upright)")
    matrices = fit(convert(faces.landmarks, faces.schema, FIVE), places * size)
    unplaced = np.flatnonzero(np.isnan(matrices).any((1, 2)))
    if len(unplaced):
        raise OptionError(
            f"faces {unplaced.tolist()} have fewer than two of the five points; leave them out: faces[mask]"
        )
    return Crops(crops=crops(pixels, matrices, size), matrices=matrices, inverses=invert(matrices))


def _template(template: ArrayLike) -> Array:
    try:
        places = np.asarray(template, float)
    except (TypeError, ValueError, OverflowError):
        places = np.zeros(0)
    if places.shape != (5, 2) or not np.isfinite(places).all() or not np.ptp(places, axis=0).any():
        raise OptionError(f"template is (5, 2) finite places, not all one, found {template!r:.80}")
    return places


def crops(image: Array, matrices: Array, size: int) -> Array:
    """Square crops of one picture through similarities.

    Args:
        image: (h, w, 3) uint8. matrices: (n, 2, 3), from continuous pixels of the picture to those of the crop.
        size: side of a crop in pixels.

    Returns:
        (n, size, size, 3) uint8; black where a crop reaches beyond the picture.
    """
    picture = Image.fromarray(image)
    cut = np.zeros((len(matrices), size, size, 3), np.uint8)
    for crop, inverse in zip(cut, invert(matrices), strict=True):
        crop[:] = np.asarray(_warp(picture, inverse, size))
    return cut


def fit(source: ArrayLike, target: ArrayLike, *, symmetric: bool = False) -> Array:
    """Similarities that bring source points nearest to target points in the least-squares sense (Umeyama 1991).

    With centred points z and w as complex numbers, the factor is ``sum(conj(z) w) / sum(|z|^2)``.

    Args:
        source: (n, k, 2) points; a point that is not finite does not count.
        target: (n, k, 2), or (k, 2) for all.
        symmetric: take the scale that gives both the same extent, ``sqrt(sum(|w|^2) / sum(|z|^2))`` (Horn 1987), so
            that source and target may change places; by least squares it shrinks the less alike the two are.

    Returns:
        (n, 2, 3) float64 matrices ``[[a, -b, x], [b, a, y]]``; NaN where fewer than two distinct points are left.
    """
    z, w = np.broadcast_arrays(_complex(source), _complex(target))
    there = np.isfinite(z) & np.isfinite(w)
    z, w = np.where(there, z, np.nan), np.where(there, w, np.nan)
    z_mean, w_mean = _mean(z), _mean(w)
    z, w = np.where(there, z - z_mean, 0), np.where(there, w - w_mean, 0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that is promised
        factor = (z.conj() * w).sum(-1, keepdims=True) / (np.abs(z) ** 2).sum(-1, keepdims=True)
        if symmetric:
            factor = (
                factor
                / np.abs(factor)
                * np.linalg.norm(w, axis=-1, keepdims=True)
                / np.linalg.norm(z, axis=-1, keepdims=True)
            )
    return _matrix(factor[..., 0], (w_mean - factor * z_mean)[..., 0])


def _complex(points: ArrayLike) -> Array:
    """Points (..., 2) as complex numbers; NaN where either coordinate is not finite."""
    xy = np.asarray(points, np.float64)
    xy = np.where(np.isfinite(xy).all(axis=-1, keepdims=True), xy, np.nan)
    return np.asarray(xy[..., 0] + 1j * xy[..., 1])


def _mean(z: Array) -> Array:
    """(n, 1) means over the complex numbers (n, m) that are not NaN; NaN where none is."""
    there = np.isfinite(z)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, z, 0).sum(-1, keepdims=True) / there.sum(-1, keepdims=True))


def _matrix(factor: Array, shift: Array) -> Array:
    """(n, 2, 3) matrices of ``z -> factor z + shift``."""
    a, b, x, y = factor.real, factor.imag, shift.real, shift.imag
    return np.stack([np.stack([a, -b, x], -1), np.stack([b, a, y], -1)], -2)


def invert(matrices: Array) -> Array:
    """The ways back (n, 2, 3) of similarities (n, 2, 3)."""
    factor, shift = _complex(matrices[..., 0]), _complex(matrices[..., 2])
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        return _matrix(1 / factor, -shift / factor)


def transform(points: Array, matrices: Array) -> Array:
    """Points (n, k, 2) through one matrix (2, 3) each (n, 2, 3)."""
    return np.asarray(points @ np.swapaxes(matrices[..., :2], -1, -2) + matrices[..., None, :, 2])


def _warp(picture: Image.Image, inverse: Array, size: int) -> Image.Image:
    """The crop (size, size) whose pixels come from where ``inverse`` leads.

    Where that shrinks by two or more, the region is averaged first, or pixels in between would be lost. Pillow's
    affine transform counts from pixels' outer corners, as this library does.
    """
    shrink = max(1, int(np.hypot(*inverse[:, 0])))
    if shrink > 1:
        corners = transform(np.array([[[0.0, 0.0], [size, 0.0], [0.0, size], [size, size]]]), inverse[None])[0]
        limits = np.array(picture.size)
        low = np.clip(np.floor(corners.min(0)) - 2 * shrink, 0, limits - 1).astype(int)
        high = np.clip(np.ceil(corners.max(0)) + 2 * shrink, low + 1, limits).astype(int)
        picture = picture.reduce(shrink, box=(*low, *high))
        inverse = np.column_stack([inverse[:, :2], inverse[:, 2] - low]) / shrink
    return picture.transform(
        (size, size), Image.Transform.AFFINE, data=tuple(inverse.ravel()), resample=Image.Resampling.BILINEAR
    )
