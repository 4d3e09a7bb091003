"""Bounding boxes from landmarks: the box style of a label set, as a rule that is fitted once (KPNet, section 3.3).

A similarity transform maps the landmarks of a face to a mean shape. The remaining deviation is mostly the pose. In the
frame of the mean shape, the box is an affine function of that deviation. The constant term is the mean box; the linear
term fits the boxes of heads that turn or nod (docs/boxes.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lineament import boxes as box_ops
from lineament import similarity
from lineament.errors import DataError, OptionError
from lineament.files import write_whole
from lineament.schemas import FIVE, Schema, convert
from lineament.schemas import schema as find_schema

Array = NDArray[Any]

NOISE = 0.02  # standard deviation of a detector's landmarks, divided by the size of the box
FILES = Path(__file__).parent / "_conventions"

FDDB_EDGES = np.array([-0.055, -0.175, 0.055, 0.045])
"""Offsets from the corners of WIDER FACE's box to the upright box of FDDB's ellipse, divided by width and height.

The literature has no such relation. These are medians over the faces of FDDB that three published detectors, trained on
WIDER FACE, detect (FaceBoxes, S3FD, SSH; left and right averaged). A test repeats the measurement.
"""


@dataclass(frozen=True, eq=False)
class Convention:
    """A rule that derives bounding boxes from landmarks.

    In the frame of the mean shape, the shape is upright, the origin is the centre of the mean box, and the unit is the
    size of that box (the square root of its area), except for the shift by the linear term.

    Attributes:
        name: The name of the convention.
        schema: The name of the landmark schema.
        shape: (k, 2) mean shape.
        box: (4,) mean box, ``x1, y1, x2, y2``.
        pose: (2k, 4) linear term: what a deviation from the mean shape, ``dx1, dy1, dx2, ...``, adds to the box.
        square: Whether each box becomes a square around its centre, with the longer side.
    """

    name: str
    schema: str
    shape: Array
    box: Array
    pose: Array
    square: bool = False

    def boxes(self, landmarks: ArrayLike, schema: Schema | None = None) -> Array:
        """Derive the boxes of faces from their landmarks.

        A box is always upright, even if the face is rotated. It encloses the ellipse inscribed in the box of the face's
        own frame. So a face rotated by 90 degrees has its width and height swapped.

        Args:
            landmarks: (n, k, 2) in pixels. NaN landmarks are ignored. With fewer than two others, the box is NaN.
            schema: Their schema. If it is not the schema of the convention, the landmarks are reduced to that one.

        Returns:
            (n, 4) float64, ``x1, y1, x2, y2`` in pixels.

        Raises:
            OptionError: The number of landmarks is wrong, or there is no map between the schemas.
        """
        placed = upright(self.ellipses(landmarks, schema))
        return box_ops.square(placed) if self.square else placed

    def ellipses(self, landmarks: ArrayLike, schema: Schema | None = None) -> Array:
        """Derive the outlines of faces: ellipses inscribed in the boxes of their own frames, which rotate with them.

        Args:
            landmarks: See ``boxes``.
            schema: See ``boxes``.

        Returns:
            (n, 2, 3) float64, affine maps from the unit circle to the image. The top of the circle, (0, -1), is the
            top of the face. NaN with fewer than two landmarks.

        Raises:
            OptionError: See ``boxes``.
        """
        points = np.asarray(landmarks, np.float64)
        if schema is not None and schema.name != self.schema:
            points = convert(points, schema, find_schema(self.schema))
        if points.shape[1:] != self.shape.shape:
            raise OptionError(
                f"convention {self.name!r} is for {len(self.shape)} landmarks (schema {self.schema!r}), (n, "
                f"{len(self.shape)}, 2); found shape {points.shape}; fit one with `lineament fit-box-convention`"
            )
        to_frame = similarity.fit(points, self.shape, symmetric=True)
        boxes = self.box + _deviations(points, self.shape, to_frame) @ self.pose
        to_picture = similarity.invert(to_frame)
        centre = similarity.transform(box_ops.centre(boxes)[:, None], to_picture)[:, 0]
        axes = to_picture[:, :, :2] * ((boxes[:, 2:] - boxes[:, :2]) / 2)[:, None]
        return np.concatenate([axes, centre[:, :, None]], axis=2)

    def points(self, boxes: ArrayLike) -> Array:
        """Place the mean shape in each box (n, 4): the likely landmarks (n, k, 2).

        This inverts ``boxes`` up to the aspect ratio: the boxes of these landmarks have the same centres and areas.
        """
        own = box_ops.square(self.box) if self.square else self.box
        given = np.asarray(boxes, np.float64)
        scale = np.sqrt(box_ops.area(given) / box_ops.area(own))
        return box_ops.centre(given)[:, None] + (self.shape - box_ops.centre(own)) * scale[:, None, None]

    def to_dict(self, digits: int = 6) -> dict[str, Any]:
        """Convert to plain numbers with this many decimals, ready for JSON."""
        return {
            name: (value.round(digits) + 0.0).tolist() if isinstance(value, np.ndarray) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Convention:
        """Make a convention from a dictionary that ``to_dict`` returned.

        Raises:
            OptionError: A key is missing or has another form.
        """
        try:
            shape, box, pose = (np.array(content[name], np.float64) for name in ("shape", "box", "pose"))
            name, schema, square = str(content["name"]), str(content["schema"]), bool(content["square"])
        except (KeyError, TypeError, ValueError) as error:
            raise OptionError(
                "a box convention has name, schema, shape, box, pose and square, as `lineament fit-box-convention` "
                f"writes them; wrong or missing is: {error}"
            ) from error
        k = len(shape)
        if shape.shape != (k, 2) or box.shape != (4,) or pose.shape != (2 * k, 4):
            raise OptionError(
                f"a box convention of {k} landmarks has shape ({k}, 2), box (4,) and pose ({2 * k}, 4); "
                f"found {shape.shape}, {box.shape} and {pose.shape}"
            )
        return cls(name, schema, shape, box, pose, square)

    def write(self, path: str | Path) -> None:
        """Write the convention to a JSON file. ``read`` reads it."""
        write_whole(path, json.dumps(self.to_dict(), indent=1) + "\n")


def read(path: str | Path) -> Convention:
    """Read a convention from a file that ``lineament fit-box-convention`` wrote.

    Raises:
        DataError: The file cannot be read or has another form.
    """
    try:
        return Convention.from_dict(json.loads(Path(path).read_bytes()))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # OptionError is a ValueError, too
        raise DataError(f"{path}: expected a box convention as JSON: {error}") from error


def convention(given: str | Mapping[str, Any]) -> Convention:
    """A convention by its name, if it is built in, or from a dictionary (see ``Convention.from_dict``).

    Those built in are for five landmarks. ``wider``: the boxes of WIDER FACE, hairline to chin. ``square``: squares
    around these boxes, with the longer side. ``fddb-ellipse``: the upright boxes of FDDB's ellipses, which are larger,
    most of all at the top.

    Raises:
        OptionError: The convention does not exist, and the message lists those that do; or the dictionary is wrong.
    """
    if not isinstance(given, str):
        return Convention.from_dict(given)
    if given not in BUILT_IN:
        raise OptionError(f"unknown box convention {given!r}; there are: {', '.join(BUILT_IN)}")
    return _built_in(given)


@cache
def _built_in(name: str) -> Convention:
    return BUILT_IN[name]()


def named_or_read(name: str) -> str | dict[str, Any]:
    """Return the name of a built-in convention unchanged; read any other name as a file, into a dictionary.

    Raises:
        OptionError: Neither a built-in convention nor a file.
        DataError: The file has another form.
    """
    if name in BUILT_IN:
        return name
    if not Path(name).is_file():
        raise OptionError(
            f"box convention {name}: no such file, nor one of {', '.join(BUILT_IN)}; `lineament fit-box-convention` "
            "makes one"
        )
    return read(name).to_dict()


def _fddb_ellipse() -> Convention:
    wider = convention("wider")
    size_of = np.array([[-1, 0, -1, 0], [0, -1, 0, -1], [1, 0, 1, 0], [0, 1, 0, 1]])  # corners to w, h, w, h
    moved = np.eye(4) + size_of * FDDB_EDGES
    return replace(wider, name="fddb-ellipse", box=wider.box @ moved, pose=wider.pose @ moved)


BUILT_IN: dict[str, Callable[[], Convention]] = {
    "wider": lambda: read(FILES / "wider.json"),
    "square": lambda: replace(convention("wider"), name="square", square=True),
    "fddb-ellipse": _fddb_ellipse,
}


def fit(
    landmarks: ArrayLike,
    boxes: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    schema: Schema = FIVE,
    name: str = "fitted",
    noise: float = NOISE,
) -> Convention:
    """Fit a convention to labelled boxes and landmarks by least squares.

    The mean shape comes from generalised Procrustes analysis. Box and pose come from a ridge regression of the box on
    the deviation from the mean shape, in its frame. If the schema has mirror pairs, each face also counts mirrored, so
    mirrored landmarks get the mirrored box.

    Args:
        landmarks: (n, k, 2) in pixels. Faces with a missing landmark are left out.
        boxes: (n, 4) in pixels. Boxes without area are left out.
        weights: (n,) weight of each face. ``None``: all equal.
        schema: The schema of the landmarks.
        name: The name of the convention.
        noise: Standard deviation of the landmarks that boxes will be derived from, divided by the size of the box. The
            noisier the landmarks, the less the box follows them.

    Raises:
        OptionError: The shapes of the arrays do not match, or no face has a box and all landmarks.
    """
    points, drawn = np.asarray(landmarks, np.float64), np.asarray(boxes, np.float64)
    counts = np.ones(len(drawn)) if weights is None else np.asarray(weights, np.float64)
    if points.shape != (len(drawn), len(schema), 2) or drawn.shape != (len(drawn), 4) or counts.shape != (len(drawn),):
        raise OptionError(
            f"expected landmarks (n, {len(schema)}, 2) of schema {schema.name!r}, boxes (n, 4) and weights (n,); "
            f"found {points.shape}, {drawn.shape} and {counts.shape}"
        )
    whole = np.isfinite(points).all((1, 2)) & (box_ops.area(drawn) > 0) & (counts > 0)
    if not whole.any():
        raise OptionError(f"none of {len(drawn)} faces has a box and all {len(schema)} landmarks: nothing to fit to")
    points, drawn, counts = points[whole], drawn[whole], counts[whole]
    if schema.mirror != tuple(range(len(schema))):
        points = np.concatenate([points, points[:, schema.mirror] * [-1, 1]])
        drawn = np.concatenate([drawn, drawn[:, [2, 1, 0, 3]] * [-1, 1, -1, 1]])
        counts = np.concatenate([counts, counts])
    shape = _mean_shape(points, drawn, counts)
    mean = np.average(_in_frame(drawn, similarity.fit(points, shape, symmetric=True)), axis=0, weights=counts)
    size = np.sqrt(box_ops.area(mean))
    shape = (shape - box_ops.centre(mean)) / size
    to_frame = similarity.fit(points, shape, symmetric=True)
    seen, wanted = _deviations(points, shape, to_frame), _in_frame(drawn, to_frame)
    seen_mean, wanted_mean = (np.average(rows, axis=0, weights=counts) for rows in (seen, wanted))
    centred = seen - seen_mean
    weighted = centred.T * (counts / counts.sum())
    # Noise adds its variance to that of the deviations, as a ridge does. Without it, the matrix is singular: deviations
    # neither move, turn nor grow.
    spread = weighted @ centred + noise**2 * np.eye(2 * len(schema))
    pose, *_ = np.linalg.lstsq(spread, weighted @ (wanted - wanted_mean))
    return Convention(name, schema.name, shape, wanted_mean - seen_mean @ pose, pose)


def _mean_shape(points: Array, boxes: Array, weights: Array) -> Array:
    """(k, 2) by generalised Procrustes analysis, from the mean in the boxes; centred, of size 1."""
    shape = np.average(box_ops.encode_points(points, box_ops.square(boxes)), axis=0, weights=weights)
    for _ in range(10):
        centred = shape - shape.mean(axis=0)
        shape = centred / np.linalg.norm(centred)
        aligned = similarity.transform(points, similarity.fit(points, shape, symmetric=True))
        shape = np.average(aligned, axis=0, weights=weights)
    return shape


def _deviations(points: Array, shape: Array, to_frame: Array) -> Array:
    """(n, 2k) of the landmarks from the mean shape, in its frame; 0 where a landmark is missing."""
    return np.nan_to_num(similarity.transform(points, to_frame) - shape).reshape(len(points), shape.size)


def _in_frame(boxes: Array, to_frame: Array) -> Array:
    """Boxes (n, 4) around the centres in the frame, with their upright width and height in its scale."""
    centre = similarity.transform(box_ops.centre(boxes)[:, None], to_frame)[:, 0]
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * _scale(to_frame)[:, None]
    return np.concatenate([centre - half, centre + half], axis=1)


def upright(ellipses: Array) -> Array:
    """Upright boxes (n, 4) around ellipses (n, 2, 3), see ``Convention.ellipses``."""
    centre, half = ellipses[:, :, 2], np.linalg.norm(ellipses[:, :, :2], axis=2)
    return np.concatenate([centre - half, centre + half], axis=1)


def _scale(matrices: Array) -> Array:
    return np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])
