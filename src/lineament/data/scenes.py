"""Scenes: faces cut out of labelled photos and blended into photos without faces, of any number and size.

A network that separates the faces of a crowd needs crowds with all landmarks labelled. Scenes use
`lineament.data.canvases`: a scene is a canvas of one patch, the background, with elliptic patches on top. One rule
decides occlusion, in scenes and, without a better one, in photos: the larger face is nearer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lineament import boxes as box_ops
from lineament.conventions import convention, upright
from lineament.data.augment import Occlusion, covers
from lineament.data.cache import Photos
from lineament.data.canvases import Composer, Composition, LabelRules, Labels, Layout, Patch, moved, warp
from lineament.data.sample import HIDDEN, NOT_LABELLED, Sample
from lineament.errors import DataError, OptionError
from lineament.schemas import FIVE, Schema, is_convertible

Array = NDArray[Any]

NONE = -1
"""Owner of a pixel without a face."""
HEAD = np.array([[1.22, 0, 0], [0, 1.27, -0.22]])
"""From the unit circle to the outline of a head, in the frame whose unit circle is the outline of its face."""
CELL = 4
"""Side in pixels of the cells that decide where a face has room."""
TRIES = 30
"""Positions that are tried for a face before it is left out."""
SMALLEST_SOURCE = 24
"""Side in pixels of the smallest face that is cut out."""
LARGEST_NUMBER = 255
"""Largest number of a face in a mask of grey values."""


@dataclass(frozen=True)
class Arrangement:
    """The arrangement of faces in a scene. Lengths are pixels of the scene; shares and probabilities lie in [0, 1].

    Attributes:
        share: Share of the canvases that are scenes, if a training mixes them with photos.
        faces: Smallest and largest number of faces. The logarithm is uniform, so few faces are more frequent than many.
        min_side: Smallest longer side of a face.
        max_side: Largest longer side of a face, relative to the side of the scene.
        alike: Standard deviation of the logarithm of the sides of the faces in one scene.
        covered: Largest share of a face that other heads cover.
        enlarge: Largest enlargement of a photo's pixels.
        tilt: Standard deviation of the rotation, in degrees.
        turned: Probability of a uniform rotation of up to ``turned_by`` instead.
        turned_by: In degrees.
        mirror: Probability of a mirrored face.
        softness: Smallest and largest width of the blended edge, relative to the radius of the head.
        match: How far the light of a face follows the background: 0 not at all, 1 up to its mean.
        decoys: Pieces of photos without faces, per face, that are cut and blended like faces and lie behind them, so
            that the network cannot detect faces by their seams.
    """

    share: float = 0.5
    faces: tuple[int, int] = (1, 10)
    min_side: float = 16
    max_side: float = 0.6
    alike: float = 0.35
    covered: float = 0.35
    enlarge: float = 2
    tilt: float = 12
    turned: float = 0.05
    turned_by: float = 100
    mirror: float = 0.5
    softness: tuple[float, float] = (0.06, 0.25)
    match: float = 0.3
    decoys: float = 0.4

    def __post_init__(self) -> None:
        if len(self.faces) != 2 or not 1 <= self.faces[0] <= self.faces[1]:
            raise OptionError(f"faces is the smallest and the largest number in a scene, from 1; found {self.faces}")
        for name in ("share", "covered", "max_side", "match"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} lies in [0, 1], found {getattr(self, name)}")
        if len(self.softness) != 2 or not 0 < self.softness[0] <= self.softness[1] < 1:
            raise OptionError(f"softness is the smallest and the largest width, in (0, 1); found {self.softness}")
        for name in ("min_side", "enlarge"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} lies above 0, found {getattr(self, name)}")

    def check_room(self, size: int) -> None:
        """Raise `OptionError` if the largest number of faces does not fit into a square of this side in pixels."""
        room = self.max_side * size
        if room < self.min_side:
            raise OptionError(
                f"max_side {self.max_side:g} of a scene of {size} pixels is {room:.0f} pixels, less than min_side "
                f"{self.min_side:g}: enlarge the scene or lower min_side"
            )
        fit = int(size**2 / (self.min_side**2 * (1 - self.covered)))
        if self.faces[1] > fit:
            raise OptionError(
                f"a scene of {size}x{size} has room for {fit} faces of {self.min_side:g} pixels, not {self.faces[1]}: "
                "lower faces or min_side, or enlarge the scene"
            )


@dataclass(frozen=True, eq=False)
class Paste:
    """A head or a decoy on top of a scene.

    Attributes:
        row: Index of the photo.
        matrix: (2, 3) from continuous pixels of the photo to those of the scene.
        outline: (2, 3) from the unit circle to the outline of the head in the scene.
        softness: Softness of its edge.
    """

    row: int
    matrix: Array
    outline: Array
    softness: float


@dataclass(frozen=True, eq=False)
class Scene(Layout):
    """A scene before it is drawn.

    Attributes:
        pastes: Decoys, then faces in the order of the labels, from far to near.
        faces: (n, 2, 3) from the unit circle to the outlines of the faces.
        visibility: (n, k) as in ``Sample``. Landmarks behind a nearer head are hidden.
        origin: (n, 2) index of each face's photo, and its index among the faces there.
        missing: Number of faces without room.
    """

    pastes: tuple[Paste, ...]
    faces: Array
    visibility: Array
    origin: Array
    missing: int


@dataclass(frozen=True, eq=False)
class _Sources:
    """Faces that can be cut out.

    Attributes:
        row: (n,) indices of their photos.
        place: (n,) indices among the faces of these photos.
        outline: (n, 2, 3).
        side: (n,) longer sides in pixels of the photo.
        area: (n,) areas of their boxes there.
    """

    row: Array
    place: Array
    outline: Array
    side: Array
    area: Array


class SceneComposer(Composer):
    """Makes scenes and, by ``Arrangement.share``, canvases of photos."""

    def __init__(
        self,
        photos: Photos,
        geometry: Composition | None,
        rules: LabelRules | None = None,
        arrangement: Arrangement | None = None,
    ) -> None:
        """Find the faces that can be cut out: all landmarks are known, and no other face is inside the outline.

        Args:
            photos: Those without faces are backgrounds.
            geometry: For the other canvases, as in ``Composer``.
            rules: For the other canvases, as in ``Composer``.
            arrangement: The arrangement of scenes.

        Raises:
            DataError: There is no background, or no such face.
        """
        super().__init__(photos, geometry, rules)
        self.arrangement = arrangement or Arrangement()
        self._faceless = np.flatnonzero([len(sample) == 0 for sample in photos.samples])
        if not len(self._faceless):
            raise DataError("scenes need backgrounds, photos without faces: give a folder of them")
        parts = [_cuttable(sample) for sample in photos.samples]
        boxes = np.concatenate([sample.boxes[place] for sample, (place, _) in zip(photos.samples, parts, strict=True)])
        outline = np.concatenate([outline for _, outline in parts])
        self._sources = _Sources(
            row=np.repeat(np.arange(len(parts)), [len(place) for place, _ in parts]),
            place=np.concatenate([place for place, _ in parts]),
            outline=outline,
            side=box_ops.longer_side(upright(outline)),
            area=box_ops.area(boxes),
        )
        if not len(self._sources.row):
            raise DataError(
                f"no face of {len(photos)} photos can be cut out: it needs all landmarks, at least {SMALLEST_SOURCE} "
                "pixels, and a distance to other faces and to the edges of the photo"
            )

    def __len__(self) -> int:
        """Number of faces that can be cut out."""
        return len(self._sources.row)

    def layout(self, rng: np.random.Generator, size: int) -> Layout:
        """A scene or, by ``share``, another canvas. Nothing is drawn yet."""
        return self.scene(rng, size) if rng.random() < self.arrangement.share else super().layout(rng, size)

    def scene(self, rng: np.random.Generator, size: int) -> Scene:
        """A new scene. It depends on the random numbers alone.

        Args:
            rng: Random numbers.
            size: Side in pixels.
        """
        a, sources = self.arrangement, self._sources
        low, high = np.log(a.faces[0]), np.log(a.faces[1] + 1)
        wanted = int(np.exp(rng.uniform(low, high)))
        chosen = rng.integers(len(sources.row), size=wanted)
        scales = np.minimum(self._sides(rng, wanted, size) / sources.side[chosen], a.enlarge)
        near_first = np.argsort(-sources.area[chosen] * scales**2, kind="stable")  # which then cover nothing
        hidden = np.zeros((-(-size // CELL),) * 2, bool)
        placed: list[tuple[int, Array, bool]] = []
        for source, scale in zip(chosen[near_first].tolist(), scales[near_first], strict=True):
            linear, mirrored = self._turn(rng, scale)
            shift = self._room(rng, linear, sources.outline[source], hidden)
            if shift is None:
                continue
            matrix = np.column_stack([linear, shift])
            head = chained(chained(matrix, sources.outline[source]), HEAD)
            hidden |= inside(head, (hidden.shape[1], hidden.shape[0]), CELL)
            placed.append((source, matrix, mirrored))
        return self._made(rng, size, placed[::-1], missing=wanted - len(placed))

    def draw(self, layout: Layout) -> Array:
        """The pixels (h, w, 3) uint8 of a layout."""
        pixels = super().draw(layout)
        if isinstance(layout, Scene):
            for paste in layout.pastes:
                self._blend(pixels, paste)
        return pixels

    def _sides(self, rng: np.random.Generator, count: int, size: int) -> Array:
        """Sides in pixels of the faces of a scene: similar, and smaller if there are many."""
        a = self.arrangement
        largest = max(min(a.max_side, 0.8 * count**-0.5) * size, a.min_side)
        low, high = np.log(a.min_side), np.log(largest)
        sides = rng.uniform(low, high) + rng.normal(0, a.alike, count)
        reflected = high - np.abs(high - (low + np.abs(sides - low)))  # a limit would make many exactly equal
        return np.exp(np.clip(reflected, low, high))

    def _turn(self, rng: np.random.Generator, scale: float) -> tuple[Array, bool]:
        """The linear part (2, 2) of a face's transform into the scene, and whether it is mirrored."""
        a = self.arrangement
        turned = rng.random() < a.turned
        angle = np.deg2rad(rng.uniform(-a.turned_by, a.turned_by) if turned else rng.normal(0, a.tilt))
        mirrored = bool(rng.random() < a.mirror)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return scale * turn * ([-1, 1] if mirrored else [1, 1]), mirrored

    def _room(self, rng: np.random.Generator, linear: Array, outline: Array, hidden: Array) -> Array | None:
        """A shift (2,) that places a face in the scene, not covered more than allowed. None if all tries fail."""
        (box,) = upright((linear @ outline)[None])
        size = CELL * np.array(hidden.shape[::-1])
        for _ in range(TRIES):
            shift = rng.random(2) * np.maximum(size - (box[2:] - box[:2]), 0) - box[:2]
            face = inside(chained(np.column_stack([linear, shift]), outline), (hidden.shape[1], hidden.shape[0]), CELL)
            if (face & hidden).sum() <= self.arrangement.covered * face.sum():
                return np.asarray(shift)
        return None

    def _made(
        self, rng: np.random.Generator, size: int, placed: Sequence[tuple[int, Array, bool]], missing: int
    ) -> Scene:
        sources, most = self._sources, max(map(len, self.schemas))
        chosen = np.array([source for source, *_ in placed], np.intp)
        origin = np.stack([sources.row[chosen], sources.place[chosen]], axis=1)
        faces = np.array([chained(matrix, sources.outline[source]) for source, matrix, _ in placed]).reshape(-1, 2, 3)
        heads = np.array([chained(face, HEAD) for face in faces]).reshape(-1, 2, 3)
        boxes, points = np.zeros((len(placed), 4), np.float32), np.full((len(placed), most, 2), np.nan, np.float32)
        weights, visibility = np.zeros(points.shape[:2], np.float32), np.zeros(points.shape[:2], np.uint8)
        for i, ((row, place), (_, matrix, mirrored)) in enumerate(zip(origin.tolist(), placed, strict=True)):
            sample = self.photos.samples[row]
            k = len(sample.schema)
            order = list(sample.schema.mirror) if mirrored else list(range(k))
            every_box, every_point = moved(sample, matrix)
            boxes[i], points[i, :k] = every_box[place], every_point[place, order]
            weights[i, :k], visibility[i, :k] = self._weights[row][place, order], sample.visibility[place, order]
            behind = np.zeros(k, bool)
            for head in heads[i + 1 :]:
                behind |= radius(head, points[i, :k]) < 1
            visibility[i, :k][behind] = HIDDEN
            weights[i, :k][behind] = np.minimum(weights[i, :k][behind], self.rules.hidden)
            outside = ((points[i, :k] < 0) | (points[i, :k] >= size)).any(axis=1)
            weights[i, :k][outside] = 0
        return Scene(
            size=(size, size),
            patches=(self._background(rng, size),),
            labels=Labels(
                boxes=boxes,
                landmarks=points,
                weights=weights,
                ignore=np.zeros(len(placed), bool),
                schema=np.array([self.schemas.index(self.photos.samples[row].schema) for row in origin[:, 0]], np.intp),
                outside=0,
            ),
            pastes=(
                *self._decoys(rng, heads),
                *(
                    Paste(row, matrix, head, rng.uniform(*self.arrangement.softness))
                    for row, (_, matrix, _), head in zip(origin[:, 0].tolist(), placed, heads, strict=True)
                ),
            ),
            faces=faces,
            visibility=visibility,
            origin=origin,
            missing=missing,
        )

    def _decoys(self, rng: np.random.Generator, heads: Array) -> list[Paste]:
        """Pieces of photos without faces in the outlines of some heads (n, 2, 3), moved by about a head."""
        made = []
        for head in heads[rng.random(len(heads)) < self.arrangement.decoys]:
            row = int(rng.choice(self._faceless))
            sample = self.photos.samples[row]
            outline = head.copy()
            outline[:, 2] += head[:, :2] @ rng.normal(0, 1.5, 2)
            scale = rng.uniform(0.5, 2) * np.hypot(*head[:, 0]) * 4 / max(sample.width, sample.height)
            at = rng.random(2) * (sample.width, sample.height)
            matrix = np.column_stack([scale * np.eye(2), outline[:, 2] - scale * at])
            made.append(Paste(row, matrix, outline, rng.uniform(*self.arrangement.softness)))
        return made

    def _background(self, rng: np.random.Generator, size: int) -> Patch:
        """A part of a photo without faces that fills the scene."""
        row = int(rng.choice(self._faceless))
        sample = self.photos.samples[row]
        extent = np.array([sample.width, sample.height])
        scale = size / extent.min() * np.exp(rng.uniform(0, np.log(1.5)))
        shift = rng.random(2) * (size - scale * extent)
        matrix = np.column_stack([scale * np.eye(2), shift])
        if rng.random() < self.arrangement.mirror:
            matrix = chained(np.array([[-1.0, 0, size], [0, 1, 0]]), matrix)
        return Patch(row, matrix, (0, 0, size, size), cv2.BORDER_REPLICATE, ())

    def _blend(self, pixels: Array, paste: Paste) -> None:
        """Draw a head, in place: blended along its outline, in the light of its background."""
        soft = paste.softness
        (box,) = upright((paste.outline * [1 + soft, 1 + soft, 1])[None])
        limits = pixels.shape[1::-1]
        left, top = np.clip(np.floor(box[:2]), 0, limits).astype(int).tolist()
        right, bottom = np.clip(np.ceil(box[2:]), 0, limits).astype(int).tolist()
        if right <= left or bottom <= top:
            return
        shift = np.array([[0, 0, left], [0, 0, top]])
        head = warp(
            self.photos[paste.row], paste.matrix - shift, (right - left, bottom - top), cv2.BORDER_REPLICATE
        ).astype(np.float32)
        under = pixels[top:bottom, left:right].astype(np.float32)
        ys, xs = np.mgrid[top:bottom, left:right] + 0.5
        edge = radius(paste.outline, np.stack([xs, ys], axis=-1))
        amount = np.clip((1 + soft - edge) / (2 * soft), 0, 1).astype(np.float32)[..., None]
        amount = amount**2 * (3 - 2 * amount)
        light = (_mean(under, amount) / _mean(head, amount)) ** self.arrangement.match
        head *= light.clip(0.6, 1.6)
        blended = under + amount * (head.clip(0, 255) - under)
        pixels[top:bottom, left:right] = np.rint(blended).astype(np.uint8)


def write_scenes(
    composer: SceneComposer,
    folder: Path,
    count: int,
    *,
    size: int,
    seed: int,
    occlusion: Occlusion | None,
    jobs: int = 1,
) -> Iterator[tuple[Sample, int]]:
    """Write scenes: ``images/N.jpg``, and ``masks/N.png`` of grey values with the numbers of the faces, 0 for none.

    A scene depends on the seed and its number alone, whichever thread draws it.

    Args:
        composer: Makes the scenes, from photos with one landmark schema.
        folder: The folder to write to.
        count: Number of scenes.
        size: Side in pixels.
        seed: Seed of all random numbers.
        occlusion: Objects in front of faces.
        jobs: Number of threads.

    Yields:
        The labels of each scene, in order, and the number of faces without room. The attribute ``visible`` is the share
        of a face's outline that nothing covers. The number of a face in the mask is its index plus 1.

    Raises:
        OptionError: A scene has no room for the largest number of faces, or a mask cannot number them.
    """
    composer.arrangement.check_room(size)
    if composer.arrangement.faces[1] > LARGEST_NUMBER:
        raise OptionError(f"a mask has at most {LARGEST_NUMBER} faces, found {composer.arrangement.faces[1]}")
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)

    def write(number: int) -> tuple[Sample, int]:
        rng = np.random.default_rng([seed, number])
        scene = composer.scene(rng, size)
        pixels, owner = composer.draw(scene), owners(scene.faces, scene.size)
        points, visibility = scene.labels.landmarks, scene.visibility.copy()
        for cover in covers(rng, scene.labels, scene.size, occlusion) if occlusion else []:
            cover.onto(pixels)
            h, w = cover.mask.shape
            owner[cover.top : cover.top + h, cover.left : cover.left + w][cover.mask] = NONE
            cell = np.floor(np.nan_to_num(points)).astype(int) - (cover.left, cover.top)
            over = ((cell >= 0) & (cell < (w, h))).all(axis=2)
            over[over] = cover.mask[cell[over][:, 1], cell[over][:, 0]]
            visibility[over & (visibility > NOT_LABELLED)] = HIDDEN
        path = folder / "images" / f"{number:06}.jpg"
        Image.fromarray(pixels).save(path, quality=95, subsampling=0)
        Image.fromarray((owner + 1).astype(np.uint8)).save(folder / "masks" / f"{number:06}.png")
        origin = [(composer.photos.samples[row], place) for row, place in scene.origin.tolist()]
        shown = np.bincount(owner[owner > NONE], minlength=len(origin))
        whole = [inside(face, scene.size).sum() for face in scene.faces]
        sample = Sample.of(
            path,
            scene.labels.boxes,
            points,
            visibility=visibility,
            size=scene.size,
            source="scenes",
            box_source=np.array([sample.box_source[place] for sample, place in origin], np.str_),
            landmark_source=np.array([sample.landmark_source[place] for sample, place in origin], np.str_),
            schema=composer.schemas[0],
            attributes={"visible": np.round(shown / np.maximum(whole, 1), 3)},
        )
        return sample, scene.missing

    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(write, range(count))


def _mean(pixels: Array, amount: Array) -> Array:
    """The mean colour (3,), with a little grey added."""
    return (pixels * amount).sum(axis=(0, 1)) / amount.sum().clip(1e-6) + 8


def _cuttable(sample: Sample) -> tuple[Array, Array]:
    """The faces of a photo that can be cut out: their indices (m,) and outlines (m, 2, 3)."""
    none = np.zeros(0, np.intp), np.zeros((0, 2, 3))
    if not len(sample) or not is_convertible(sample.schema, FIVE):
        return none
    known = (sample.visibility > 0).all(axis=1) & ~sample.ignore
    outlines = convention("wider").ellipses(sample.landmarks, sample.schema)
    heads = upright(np.array([chained(outline, HEAD) for outline in outlines]))
    size = np.array([sample.width, sample.height])
    reach = 0.1 * (heads[:, 2:] - heads[:, :2])
    with np.errstate(invalid="ignore"):  # NaN of faces without landmarks
        within = ((heads[:, :2] >= -reach) & (heads[:, 2:] <= size + reach)).all(axis=1)
        large = box_ops.longer_side(sample.boxes) >= SMALLEST_SOURCE
    alone = (box_ops.coverage(sample.boxes, np.nan_to_num(heads)) > 0).sum(axis=0) <= 1
    place = np.flatnonzero(known & within & large & alone)
    return place, outlines[place]


def chained(second: Array, first: Array) -> Array:
    """The affine map (2, 3) that applies ``first`` and then ``second``."""
    return np.column_stack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2]])


def radius(outline: Array, points: Array) -> Array:
    """The distance of points (..., 2) from the centre of an ellipse (2, 3), 1 on its outline."""
    inverse = np.linalg.inv(outline[:, :2])
    return np.hypot(*np.moveaxis((points - outline[:, 2]) @ inverse.T, -1, 0))


def inside(outline: Array, size: tuple[int, int], cell: int = 1) -> Array:
    """Which cells (h, w) of an image have their centres in an ellipse.

    Args:
        outline: (2, 3) in pixels.
        size: Width and height in cells.
        cell: Side of a cell in pixels.
    """
    found = np.zeros(size[::-1], bool)
    (box,) = upright(outline[None]) / cell
    left, top = np.clip(np.floor(box[:2]), 0, size).astype(int)
    right, bottom = np.clip(np.ceil(box[2:]), 0, size).astype(int)
    ys, xs = (np.mgrid[top:bottom, left:right] + 0.5) * cell
    found[top:bottom, left:right] = radius(outline, np.stack([xs, ys], axis=-1)) < 1
    return found


def owners(faces: Array, size: tuple[int, int], cell: int = 1) -> Array:
    """The index of the face in each cell of an image: (h, w) int16, `NONE` without a face.

    A nearer head covers what is behind it, and only the face on it counts as a face.

    Args:
        faces: (n, 2, 3) from the unit circle to the outlines of the faces in pixels, from far to near.
        size: Width and height in cells.
        cell: Side of a cell in pixels.
    """
    owner = np.full(size[::-1], NONE, np.int16)
    for i, face in enumerate(faces):
        owner[inside(chained(face, HEAD), size, cell)] = NONE
        owner[inside(face, size, cell)] = i
    return owner


def outlines(labels: Labels, schemas: Sequence[Schema]) -> Array:
    """The outlines (n, 2, 3) of labelled faces, from their landmarks or, if unknown, from their boxes.

    Args:
        labels: The labels of a canvas.
        schemas: The schemas of its landmarks.
    """
    half = (labels.boxes[:, 2:] - labels.boxes[:, :2]).astype(np.float64) / 2
    found = np.concatenate([half[:, :, None] * np.eye(2), box_ops.centre(labels.boxes)[:, :, None]], axis=2)
    for number, schema in enumerate(schemas):
        rows = np.flatnonzero(labels.schema == number)
        if len(rows) and is_convertible(schema, FIVE):
            by_landmarks = convention("wider").ellipses(labels.landmarks[rows, : len(schema)], schema)
            known = np.isfinite(labels.landmarks[rows, : len(schema)]).all(axis=(1, 2))
            found[rows[known]] = by_landmarks[known]
    return found


def from_far_to_near(labels: Labels) -> Array:
    """The order (n,) of faces from far to near: by size."""
    return np.argsort(box_ops.area(labels.boxes), kind="stable")
