"""Canvases for training: one photo on a square, or several in a quilt of tiles.

A network that processes images at a fixed size needs faces of every size, position, angle and number. Canvases provide
them. A canvas is one tile, or four, each of which may be four again. A tile shows one photo through a similarity
transform that brings one of its faces, the anchor, to a random size and position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.data.cache import Photos
from lineament.data.poses import is_profile
from lineament.data.sample import HIDDEN, VISIBLE, Sample
from lineament.errors import OptionError
from lineament.similarity import transform

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of a canvas, in its continuous pixels.

    Attributes:
        boxes: (n, 4) float32, ``x1, y1, x2, y2``. Boxes of faces may reach beyond their tile.
        landmarks: (n, k, 2) float32, ``x, y``. NaN if unknown. k is that of the largest schema; a face with fewer
            landmarks has them first.
        weights: (n, k) float32 in [0, 1], weights of the landmarks. 0 if unknown, outside the tile or of an ignored
            face.
        ignore: (n,) bool, regions that are neither faces nor background.
        schema: (n,) index of the composer's schema for each face.
        outside: Number of ignored faces that were too small or too large.
    """

    boxes: Array
    landmarks: Array
    weights: Array
    ignore: Array
    schema: Array
    outside: int


@dataclass(frozen=True, eq=False)
class Canvas(Labels):
    """A training image with its labels.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
    """

    pixels: Array


@dataclass(frozen=True, eq=False)
class Patch:
    """One photo on one tile of a canvas.

    Attributes:
        row: Index of the photo.
        matrix: (2, 3) float64, from continuous pixels of the photo to those of the tile: a similarity transform,
            mirrored or not.
        area: ``(left, top, width, height)`` of the tile on the canvas, in pixels.
        border: What lies outside the photo, one of OpenCV's ``BORDER_`` constants.
        colour: Three numbers in [0, 255], for ``cv2.BORDER_CONSTANT``.
    """

    row: int
    matrix: Array
    area: tuple[int, int, int, int]
    border: int
    colour: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """A canvas before it is drawn.

    Attributes:
        size: ``(width, height)`` in pixels.
        patches: They cover the canvas without overlap.
        labels: The labels of the canvas.
    """

    size: tuple[int, int]
    patches: tuple[Patch, ...]
    labels: Labels


@dataclass(frozen=True)
class Composition:
    """The geometry of canvases. Lengths are pixels of the canvas; shares and probabilities lie in [0, 1].

    Attributes:
        split: Probability that a tile becomes four, by the number of earlier splits.
        smallest_tile: Smallest side of a tile.
        backgrounds: Share of the tiles with a photo without faces.
        close_ups: Share of the tiles with a close-up, by the number of splits. The last value holds for all further
            splits.
        close_up: Longer edge, in stored pixels, up to which a photo with faces is a close-up.
        min_side: Smallest longer side of an anchor.
        max_side: Largest longer side of an anchor, relative to the shorter side of its tile.
        enlarge: Largest enlargement of a photo's pixels.
        cover: Smallest longer edge of a photo, relative to that of its tile.
        full: Probability that a photo is moved so that as little as possible of its tile is empty.
        tilt: Standard deviation of the rotation, in degrees.
        turned: Probability of a uniform rotation of up to ``turned_by`` instead.
        turned_by: In degrees.
        mirror: Probability of a mirrored photo.
        cut: Probability that the edge of the tile cuts the anchor.
        cut_by: Smallest and largest share of its width or height that is then outside. A face of which too much is
            outside is ignored (``LabelRules.visible``).
        profiles: A face turned by over 30 degrees is so many times as likely to be the anchor as any other. Its photo
            is drawn more often, too, by the square root.
    """

    split: tuple[float, ...] = (0.35, 0.3)
    smallest_tile: int = 48
    backgrounds: float = 0.07
    close_ups: tuple[float, ...] = (0.05, 0.25, 0.5)
    close_up: int = 160
    min_side: float = 5
    max_side: float = 0.9
    enlarge: float = 3
    cover: float = 0.7
    full: float = 0.75
    tilt: float = 12
    turned: float = 0.08
    turned_by: float = 100
    mirror: float = 0.5
    cut: float = 0.0
    cut_by: tuple[float, float] = (0.1, 0.4)
    profiles: float = 1.0

    def __post_init__(self) -> None:
        if self.profiles <= 0:
            raise OptionError(f"composition.profiles is a positive number, found {self.profiles}")


@dataclass(frozen=True)
class Cropping:
    """The geometry of canvases that each are a crop of one resized photo, as in the paper on MaskFace (section 3.3).

    Photos are drawn uniformly. A crop lies in its photo where that is larger, and shows all of it where it is smaller.

    Attributes:
        scale: Range of the factor that photos are resized by.
        faces: Range of the longer side, in pixels, that one random face is resized to instead. Empty: photos are
            resized by ``scale``, as are those without faces.
        around: Share of the crops that hold one random face. The others lie anywhere.
        tilt: Largest rotation to either side, in degrees.
        mirror: Probability of a mirrored photo.
    """

    scale: tuple[float, float] = (0.5, 2.5)
    faces: tuple[float, ...] = ()
    around: float = 0.5
    tilt: float = 0.0
    mirror: float = 0.5

    def __post_init__(self) -> None:
        if len(self.faces) not in (0, 2):
            raise OptionError(f"cropping.faces is the smallest and the largest side, or empty; found {self.faces}")


@dataclass(frozen=True)
class LabelRules:
    """Which faces count, and the weights of their landmarks.

    Attributes:
        visible: A face counts if its centre and at least this share of its box are in its tile. Otherwise it is
            ignored.
        smallest: Faces with a shorter longer side, in pixels of the canvas, are ignored.
        largest: Faces with a longer longer side are ignored.
        detected: Weight of landmarks from a detector; human landmarks have 1.
        hidden: Weight of landmarks under a mask or a hand, from any source.
    """

    visible: float = 0.6
    smallest: float = 0.0
    largest: float = np.inf
    detected: float = 0.7
    hidden: float = 0.1


class Composer:
    """Makes canvases of cached photos. They depend only on the random numbers that are passed in.

    Attributes:
        schemas: The schemas of the photos' landmarks. ``Labels.schema`` is an index into them.
    """

    def __init__(
        self, photos: Photos, geometry: Composition | Cropping | None, rules: LabelRules | None = None
    ) -> None:
        """Sort the photos.

        Args:
            photos: At least one. Those without faces to learn are backgrounds.
            geometry: The composition, or the cropping. ``None``: no augmentation. Each canvas shows a whole photo whose
                longer edge is that of the canvas, with black to the right or below. Photos are drawn uniformly.
            rules: Which labels count.
        """
        self.photos, self.rules = photos, rules or LabelRules()
        self.schemas = tuple({s.schema.name: s.schema for s in photos.samples}.values())
        self._landmarks = max(map(len, self.schemas))
        self._weights = [_weights(s, self.rules) for s in photos.samples]
        self.geometry = geometry
        self._composition = geometry if isinstance(geometry, Composition) else Composition()
        self._chances = [_chances(s, self._composition.profiles) for s in photos.samples]
        faces = np.array([len(chances) for chances in self._chances])
        close_up = np.array([max(s.width, s.height) <= self._composition.close_up for s in photos.samples])
        # The square root shows crowds more often than portraits, but not as often as they have faces.
        chances = np.sqrt([each.sum() + 1.0 for each in self._chances])
        self._whole, self._close_ups, self._backgrounds = (
            _Lot(rows, np.cumsum(chances[rows]))
            for rows in map(np.flatnonzero, ((faces > 0) & ~close_up, (faces > 0) & close_up, faces == 0))
        )

    def canvas(self, rng: np.random.Generator, size: int) -> Canvas:
        """A new canvas (size, size).

        Args:
            rng: Random numbers.
            size: Side in pixels.
        """
        layout = self.layout(rng, size)
        return Canvas(**vars(layout.labels), pixels=self.draw(layout))

    def layout(self, rng: np.random.Generator, size: int) -> Layout:
        """Like ``canvas``, but nothing is drawn. Drawing is most of the work and may be done elsewhere."""
        if isinstance(self.geometry, Cropping):
            return self._crop(rng, size, self.geometry)
        return self._tile(rng, size, size, 0) if self.geometry else self._letterbox(rng, size)

    def draw(self, layout: Layout) -> Array:
        """The pixels (h, w, 3) uint8 of a layout."""
        width, height = layout.size
        pixels = np.empty((height, width, 3), np.uint8)
        for patch in layout.patches:
            x, y, w, h = patch.area
            pixels[y : y + h, x : x + w] = warp(
                self.photos[patch.row], patch.matrix, (w, h), patch.border, patch.colour
            )
        return pixels

    def _letterbox(self, rng: np.random.Generator, size: int) -> Layout:
        """A whole photo, upright."""
        row = int(rng.integers(len(self.photos)))
        sample = self.photos.samples[row]
        matrix = size / max(sample.width, sample.height) * np.eye(2, 3)
        patch = Patch(row, matrix, (0, 0, size, size), cv2.BORDER_CONSTANT, (0, 0, 0))
        return Layout((size, size), (patch,), self._labels(row, matrix, (size, size), mirrored=False))

    def _crop(self, rng: np.random.Generator, size: int, geometry: Cropping) -> Layout:
        """A part of one photo, or all of it with black around."""
        row = int(rng.integers(len(self.photos)))
        sample = self.photos.samples[row]
        mirrored = bool(rng.random() < geometry.mirror)
        faces = sample.boxes[sample.learnable].astype(float)
        face = faces[rng.integers(len(faces), size=min(len(faces), 1))]  # (1, 4), or (0, 4) without faces
        scale = rng.uniform(*geometry.scale)
        if geometry.faces and len(face):
            smallest, largest = geometry.faces
            scale = rng.uniform(smallest, largest) / float(box_ops.longer_side(face[0]))
        linear = _linear(scale, rng.uniform(-geometry.tilt, geometry.tilt), mirrored)
        corners = _corners(sample.width, sample.height) @ linear.T
        shifts = _shifts(corners.min(axis=0), corners.max(axis=0), size)
        if len(face) and rng.random() < geometry.around:
            centre = linear @ box_ops.centre(face[0])
            half = scale * (face[0, 2:] - face[0, :2]) / 2
            shifts = np.clip(_shifts(centre - half, centre + half, size), *shifts)
        matrix = np.column_stack([linear, rng.uniform(*shifts)])
        patch = Patch(row, matrix, (0, 0, size, size), cv2.BORDER_CONSTANT, (0, 0, 0))
        return Layout((size, size), (patch,), self._labels(row, matrix, (size, size), mirrored))

    def _tile(self, rng: np.random.Generator, width: int, height: int, level: int) -> Layout:
        split = self._composition.split[level] if level < len(self._composition.split) else 0
        w, h = width // 2, height // 2
        if min(w, h) >= self._composition.smallest_tile and rng.random() < split:
            return _quilt([[self._tile(rng, x, y, level + 1) for x in (w, width - w)] for y in (h, height - h)])
        return self._patch(rng, width, height, level)

    def _patch(self, rng: np.random.Generator, width: int, height: int, level: int) -> Layout:
        """One photo on one tile."""
        row = self._lot(rng, level).draw(rng)
        mirrored = bool(rng.random() < self._composition.mirror)
        matrix = self._placement(rng, row, width, height, mirrored)
        patch = Patch(row, matrix, (0, 0, width, height), *_surroundings(rng, self.photos[row]))
        return Layout((width, height), (patch,), self._labels(row, matrix, (width, height), mirrored))

    def _lot(self, rng: np.random.Generator, level: int) -> _Lot:
        backgrounds = self._composition.backgrounds
        close_ups = self._composition.close_ups[min(level, len(self._composition.close_ups) - 1)]
        lots = (self._whole, self._close_ups, self._backgrounds)
        shares = np.array([1 - backgrounds - close_ups, close_ups, backgrounds]) * [len(lot.rows) > 0 for lot in lots]
        if not shares.any():  # all photos are of kinds that the geometry leaves out
            shares = np.array([len(lot.rows) > 0 for lot in lots], float)
        return lots[rng.choice(len(lots), p=shares / shares.sum())]

    def _placement(self, rng: np.random.Generator, row: int, width: int, height: int, mirrored: bool) -> Array:
        """Transform (2, 3) float64 from continuous pixels of the photo to those of the tile."""
        geometry, sample = self._composition, self.photos.samples[row]
        anchors = np.flatnonzero(sample.learnable)
        low = geometry.cover * max(width, height) / max(sample.width, sample.height)
        if len(anchors):
            chances = self._chances[row]
            shares = chances / chances.sum() if np.ptp(chances) else None
            box = sample.boxes[rng.choice(anchors, p=shares)].astype(float)
            side, centre = float(box_ops.longer_side(box)), box_ops.centre(box)
            low = max(low, geometry.min_side / side)
            high = min(geometry.enlarge, geometry.max_side * min(width, height) / side)
        else:
            centre = rng.random(2) * (sample.width, sample.height)
            high = min(geometry.enlarge, 4 * low)
        scale = np.exp(rng.uniform(np.log(min(low, high)), np.log(high)))
        turned = rng.random() < geometry.turned
        degrees = rng.uniform(-geometry.turned_by, geometry.turned_by) if turned else rng.normal(0, geometry.tilt)
        linear = _linear(scale, degrees, mirrored)
        corners, limits = _corners(sample.width, sample.height) @ linear.T, np.array([width, height])
        shift = rng.random(2) * limits - linear @ centre
        if rng.random() < geometry.full:
            shift += _inwards(corners + shift, limits)
        if len(anchors) and geometry.cut and rng.random() < geometry.cut:
            # at the edge nearer to the face, so that less of the photo is lost
            axis, at = int(rng.integers(2)), linear @ centre
            inside = (0.5 - rng.uniform(*geometry.cut_by)) * scale * (box[2:] - box[:2])[axis]
            is_low = at[axis] < corners.mean(axis=0)[axis]
            shift[axis] = (inside if is_low else limits[axis] - inside) - at[axis]
        return np.column_stack([linear, shift])

    def _labels(self, row: int, matrix: Array, size: tuple[int, int], mirrored: bool) -> Labels:
        """The labels of a photo that touch a tile of this width and height."""
        rules, sample, weights = self.rules, self.photos.samples[row], self._weights[row]
        limits = np.array(size)
        boxes, landmarks = moved(sample, matrix)
        if mirrored:
            mirror = list(sample.schema.mirror)
            landmarks, weights = landmarks[:, mirror], weights[:, mirror]
        weights = weights * _within(landmarks, limits)
        visible = box_ops.coverage(boxes, np.array([[0, 0, *limits]]))[:, 0]
        cut = (visible < rules.visible) | ~_within(box_ops.centre(boxes), limits)
        unfit = ~sample.ignore & ~cut & ~box_ops.sized(boxes, rules.smallest, rules.largest)
        ignore = sample.ignore | cut | unfit
        boxes[ignore] = boxes[ignore].clip(0, np.tile(limits, 2))  # or they would reach into the next tile
        weights[ignore] = 0
        kept = visible > 0
        lacking = ((0, 0), (0, self._landmarks - len(sample.schema)))
        return Labels(
            boxes=boxes[kept].astype(np.float32),
            landmarks=np.pad(landmarks[kept], (*lacking, (0, 0)), constant_values=np.nan).astype(np.float32),
            weights=np.pad(weights[kept], lacking).astype(np.float32),
            ignore=ignore[kept],
            schema=np.full(int(kept.sum()), self.schemas.index(sample.schema)),
            outside=int(np.count_nonzero(unfit)),
        )


@dataclass(frozen=True, eq=False)
class _Lot:
    """Photos to draw from: their rows, and the cumulative sum of their probabilities."""

    rows: Array
    chances: Array

    def draw(self, rng: np.random.Generator) -> int:
        return int(self.rows[np.searchsorted(self.chances, rng.random() * self.chances[-1], side="right")])


def moved(sample: Sample, matrix: Array) -> tuple[Array, Array]:
    """Boxes (n, 4) and landmarks (n, k, 2) of a photo after a similarity transform (2, 3), mirrored or not.

    A box keeps its shape around its moved centre, which is right for boxes that are about as high as wide. Landmarks
    keep their order, even if mirrored: the caller swaps them.
    """
    centres = transform(box_ops.centre(sample.boxes), matrix)
    halves = (sample.boxes[:, 2:] - sample.boxes[:, :2]) / 2 * np.hypot(*matrix[:, 0])
    return np.concatenate([centres - halves, centres + halves], axis=1), transform(sample.landmarks, matrix)


def warp(photo: Array, matrix: Array, size: tuple[int, int], border: int, colour: Sequence[float] = ()) -> Array:
    """Apply an affine map to a photo, without aliasing when it shrinks.

    Args:
        photo: (h, w, 3) uint8.
        matrix: (2, 3), from continuous pixels of the photo to those of the result: a similarity transform, mirrored or
            not.
        size: ``(width, height)`` of the result.
        border: What lies outside the photo, one of OpenCV's ``BORDER_`` constants.
        colour: Three numbers in [0, 255], for ``cv2.BORDER_CONSTANT``.

    Returns:
        (height, width, 3) uint8.
    """
    linear, shift = matrix[:, :2], matrix[:, 2]
    scale = np.hypot(*linear[:, 0])
    if scale < 1:  # average the visible part down to its size first, and leave the rest to the warp
        corners = (_corners(*size) - shift) @ np.linalg.inv(linear).T
        margin = 2 / scale
        ends = np.array(photo.shape[1::-1])
        low = np.clip(np.floor(corners.min(axis=0) - margin), 0, ends - 1).astype(int)
        high = np.clip(np.ceil(corners.max(axis=0) + margin), low + 1, ends).astype(int)
        reduced = np.ceil((high - low) * scale).astype(int)
        photo = cv2.resize(photo[low[1] : high[1], low[0] : high[0]], reduced.tolist(), interpolation=cv2.INTER_AREA)
        linear, shift = linear * ((high - low) / reduced), shift + linear @ low
    # OpenCV counts from the centres of pixels
    centred = np.column_stack([linear, shift + linear @ [0.5, 0.5] - 0.5])
    return cv2.warpAffine(photo, centred, size, flags=cv2.INTER_LINEAR, borderMode=border, borderValue=colour)


def _corners(width: int, height: int) -> Array:
    return np.array([[0, 0], [width, 0], [0, height], [width, height]])


def _linear(scale: float, degrees: float, mirrored: bool) -> Array:
    """The linear part (2, 2) of a similarity that mirrors first, if at all, and then rotates."""
    a, b = scale * np.cos(np.deg2rad(degrees)), scale * np.sin(np.deg2rad(degrees))
    return np.array([[a, -b], [b, a]]) * ([-1, 1] if mirrored else [1, 1])


def _shifts(low: Array, high: Array, size: int) -> Array:
    """Least and largest shift (2, 2) by which what reaches from low (2,) to high (2,) lies in a tile or fills it."""
    return np.sort([-low, size - high], axis=0)


def _inwards(corners: Array, limits: Array) -> Array:
    """The smallest shift (2,) so that a photo with these corners fills the tile, or is inside it, along each axis."""
    ends, gaps = -corners.min(axis=0), limits - corners.max(axis=0)
    return np.clip(0, np.minimum(ends, gaps), np.maximum(ends, gaps))


def _surroundings(rng: np.random.Generator, photo: Array) -> tuple[int, tuple[float, ...]]:
    """Border mode and colour outside a photo: black for half of them, as in a letterbox.

    Never reflected: that would show faces without labels.
    """
    kind = rng.choice(4, p=[0.5, 0.15, 0.15, 0.2])
    if kind == 3:
        return cv2.BORDER_REPLICATE, ()
    if kind == 2:
        return cv2.BORDER_CONSTANT, tuple(photo[::16, ::16].mean(axis=(0, 1)).tolist())
    return cv2.BORDER_CONSTANT, tuple(rng.integers(0, 256, 3).tolist()) if kind else (0, 0, 0)


def _chances(sample: Sample, profiles: float) -> Array:
    """How likely each face to learn is as an anchor, relative to those that are no profiles."""
    if profiles == 1:
        return np.ones(np.count_nonzero(sample.learnable))
    return np.where(is_profile(sample)[sample.learnable], profiles, 1.0)


def _weights(sample: Sample, rules: LabelRules) -> Array:
    """Weights (n, k) of landmarks by their source."""
    visible = np.where(sample.landmark_source == "detector", rules.detected, 1.0)[:, None]
    return np.select([sample.visibility == VISIBLE, sample.visibility == HIDDEN], [visible, rules.hidden])


def _within(points: Array, limits: Array) -> Array:
    """Which points (..., 2) are in an image of this width and height."""
    return np.asarray(((points >= 0) & (points < limits)).all(axis=-1))


def _quilt(rows: list[list[Layout]]) -> Layout:
    """Join tiles, beside and below each other, to one canvas."""
    lefts = np.cumsum([0, *(tile.size[0] for tile in rows[0])]).tolist()
    tops = np.cumsum([0, *(row[0].size[1] for row in rows)]).tolist()
    placed = [(tile, x, y) for row, y in zip(rows, tops, strict=False) for tile, x in zip(row, lefts, strict=False)]
    labels = [(tile.labels, np.array([x, y], np.float32)) for tile, x, y in placed]
    return Layout(
        size=(lefts[-1], tops[-1]),
        patches=tuple(
            replace(patch, area=(patch.area[0] + x, patch.area[1] + y, *patch.area[2:]))
            for tile, x, y in placed
            for patch in tile.patches
        ),
        labels=Labels(
            boxes=np.concatenate([tile.boxes + np.tile(place, 2) for tile, place in labels]),
            landmarks=np.concatenate([tile.landmarks + place for tile, place in labels]),
            weights=np.concatenate([tile.weights for tile, _ in labels]),
            ignore=np.concatenate([tile.ignore for tile, _ in labels]),
            schema=np.concatenate([tile.schema for tile, _ in labels]),
            outside=sum(tile.outside for tile, _ in labels),
        ),
    )
