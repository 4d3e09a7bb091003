"""Similarity transforms by least squares, and aligned crops of faces.

Points are complex numbers here. Rotation and scale are then one complex factor, reflections cannot occur, and the
optimum of Umeyama (1991) has the closed form of a linear regression.
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

# Positions of the five landmarks in a crop, divided by its side. They are those of the 112 px template on which public
# recognition networks are trained, made symmetric and in continuous pixels: each within 0.6 px of that template plus
# half a pixel. So crops suit those networks.
TEMPLATE = np.array([[0.343, 0.465], [0.657, 0.465], [0.5, 0.645], [0.37, 0.8285], [0.63, 0.8285]])


LARGEST = 8192  # side of a crop in pixels; the crop has 192 MiB


@dataclass(frozen=True, eq=False)
class Crops:
    """Aligned crops of n faces, with the transforms between image and crop.

    Attributes:
        crops: (n, size, size, 3) uint8 RGB. Black where a crop reaches beyond the image.
        matrices: (n, 2, 3) float64, from continuous pixels of the image to those of the crop.
        inverses: (n, 2, 3) float64, from the crop to the image.
    """

    crops: NDArray[np.uint8]
    matrices: NDArray[np.float64]
    inverses: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.crops)


def align(
    image: Source, faces: Faces, *, size: int = 112, template: ArrayLike = TEMPLATE, color: Color = "rgb"
) -> Crops:
    """Cut out each face upright and at the same size.

    A similarity transform brings the eyes, the nose and the mouth corners as close as possible to fixed positions.

    Args:
        image: The image in which the faces were detected, in any form that ``read_image`` takes.
        faces: n faces. Larger landmark schemas are reduced to five points by ``lineament.schemas.convert``.
        size: Side of a crop in pixels.
        template: (5, 2) positions of right eye, left eye, nose, right and left mouth corner, divided by the crop's
            side.
        color: The channel order of an array, "rgb" or "bgr".

    Raises:
        ImageError: The image cannot be read.
        OptionError: The faces belong to an image of another size, a face has fewer than two of the five landmarks,
            its schema cannot be reduced to five, or ``size`` or ``template`` is out of range.
    """
    size = whole(size, f"size is a crop's side in pixels, 1 to {LARGEST}", low=1, high=LARGEST)
    places = _template(template)
    expect_faces(faces)
    pixels = read_image(image, color=color)
    h, w = pixels.shape[:2]
    if faces.image_size != (w, h):
        fw, fh = faces.image_size
        raise OptionError(f"the faces were found in an image of {fw}x{fh}, this one has {w}x{h} (upright)")
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


def crops(image: Array, matrices: Array, size: int) -> NDArray[np.uint8]:
    """Cut square crops out of one image through similarity transforms.

    Args:
        image: (h, w, 3) uint8.
        matrices: (n, 2, 3), from continuous pixels of the image to those of the crop.
        size: Side of a crop in pixels.

    Returns:
        (n, size, size, 3) uint8. Black where a crop reaches beyond the image, and without a finite inverse.
    """
    cut = np.zeros((len(matrices), size, size, 3), np.uint8)
    for crop, inverse in zip(cut, invert(matrices), strict=True):
        if np.isfinite(inverse).all():
            crop[:] = np.asarray(_warp(image, inverse, size))
    return cut


def fit(source: ArrayLike, target: ArrayLike, *, symmetric: bool = False) -> NDArray[np.float64]:
    """Fit the similarity transforms that map source points to target points by least squares (Umeyama 1991).

    With centred points z and w as complex numbers, the factor is ``sum(conj(z) w) / sum(|z|^2)``.

    Args:
        source: (n, k, 2) points. Points that are not finite are ignored.
        target: (n, k, 2), or (k, 2) for all.
        symmetric: Use the scale that gives both the same extent, ``sqrt(sum(|w|^2) / sum(|z|^2))`` (Horn 1987). Then
            swapping source and target gives the inverse. The least-squares scale is smaller the less similar they are.

    Returns:
        (n, 2, 3) float64 matrices ``[[a, -b, x], [b, a, y]]``. NaN with fewer than two distinct points.
    """
    z, w = np.broadcast_arrays(_complex(source), _complex(target))
    there = np.isfinite(z) & np.isfinite(w)
    z, w = np.where(there, z, np.nan), np.where(there, w, np.nan)
    z_mean, w_mean = _mean(z), _mean(w)
    z, w = np.where(there, z - z_mean, 0), np.where(there, w - w_mean, 0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the promised NaN
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
    """(n, 1) means of the complex numbers (n, m) that are not NaN; NaN if all are."""
    there = np.isfinite(z)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, z, 0).sum(-1, keepdims=True) / there.sum(-1, keepdims=True))


def _matrix(factor: Array, shift: Array) -> Array:
    """(n, 2, 3) matrices of ``z -> factor z + shift``."""
    a, b, x, y = factor.real, factor.imag, shift.real, shift.imag
    return np.stack([np.stack([a, -b, x], -1), np.stack([b, a, y], -1)], -2)


def invert(matrices: Array) -> NDArray[np.float64]:
    """Invert similarity transforms (n, 2, 3)."""
    factor, shift = _complex(matrices[..., 0]), _complex(matrices[..., 2])
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN stays NaN
        return _matrix(1 / factor, -shift / factor)


def compose(first: Array, second: Array) -> NDArray[np.float64]:
    """The transforms (n, 2, 3) that apply those of ``first`` (n, 2, 3) and then those of ``second`` (n, 2, 3)."""
    joined = second[..., :2] @ first
    joined[..., 2] += second[..., 2]
    return np.asarray(joined)


def transform(points: Array, matrices: Array) -> NDArray[np.float64]:
    """Apply transforms (n, 2, 3) to points (n, k, 2), or one transform (2, 3) to all."""
    return np.asarray(points @ np.swapaxes(matrices[..., :2], -1, -2) + matrices[..., None, :, 2])


def _warp(image: Array, inverse: Array, size: int) -> Image.Image:
    """Cut a crop (size, size) out of an image; ``inverse`` maps its pixels to the image.

    If the crop shrinks the image by two or more, the region is averaged first, so that no pixels are skipped. Pillow's
    affine transform counts from the outer corners of pixels, as this library does.
    """
    h, w = image.shape[:2]
    shrink = max(1, int(min(np.hypot(*inverse[:, 0]), max(h, w))))
    corners = transform(np.array([[[0.0, 0.0], [size, 0.0], [0.0, size], [size, size]]]), inverse[None])[0]
    low = np.clip(np.floor(corners.min(0)) - 2 * shrink, 0, [w - 1, h - 1]).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + 2 * shrink, low + 1, [w, h]).astype(int)
    region = Image.fromarray(image[low[1] : high[1], low[0] : high[0]]).reduce(shrink)
    inverse = np.column_stack([inverse[:, :2], inverse[:, 2] - low]) / shrink
    return region.transform(
        (size, size), Image.Transform.AFFINE, data=tuple(inverse.ravel()), resample=Image.Resampling.BILINEAR
    )
