"""What a detector returns: the faces of one image, as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import ArrayLike, NDArray

from lineament.checks import whole
from lineament.errors import DataError, MissingExtraError, OptionError
from lineament.formats import LARGEST, as_model
from lineament.schemas import FIVE, SCHEMAS, Schema, convert, is_convertible, own

if TYPE_CHECKING:
    from supervision import Detections, KeyPoints

Floats = NDArray[np.float32]


Side = Annotated[int, Meta(ge=0, le=2**31)]


class _Face(Struct):
    """One face in the form of ``to_dict``."""

    box: tuple[float, float, float, float]
    score: float
    landmarks: list[tuple[float, float] | None] = []
    landmark_scores: list[float | None] | None = None


class _Image(Struct):
    """The form of ``to_dict``."""

    width: Side
    height: Side
    schema: str
    faces: list[_Face] = []
    turn: Literal[0, 90, 180, 270] = 0


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of one image. Detectors return them with the best score first.

    Coordinates are continuous pixels of the upright image: (0, 0) is the outer corner of the first pixel, whose centre
    is (0.5, 0.5). Boxes and landmarks may reach beyond the image.

    ``len(faces)`` is the number of faces, ``for face in faces`` gives each as ``Faces`` of length one, and
    ``faces[index]`` takes an integer, a slice, a list of indices or a boolean mask.

    Attributes:
        boxes: (n, 4) float32, ``x1, y1, x2, y2``. ``x2 - x1`` is the width.
        scores: (n,) float32, confidence scores in [0, 1].
        landmarks: (n, k, 2) float32, ``x, y``. NaN where a landmark is missing.
        landmark_scores: (n, k) float32 in [0, 1]. The face's score where the method does not score landmarks. NaN where
            a score is missing.
        schema: The schema of the k landmarks.
        image_size: ``(width, height)`` of the upright image in pixels.
        turn: Degrees by which a counter-clockwise turn brings the faces upright: 0, 90, 180 or 270. A detector looks
            for it if its setting ``turns`` is on: ``numpy.rot90(image, faces.turn // 90)`` is the upright image.
    """

    boxes: Floats
    scores: Floats
    landmarks: Floats
    landmark_scores: Floats
    schema: Schema
    image_size: tuple[int, int]
    turn: int = 0

    def __post_init__(self) -> None:
        n, k = len(self.scores), len(self.schema)
        shapes = {"boxes": (n, 4), "scores": (n,), "landmarks": (n, k, 2), "landmark_scores": (n, k)}
        for name, shape in shapes.items():
            array = np.array(getattr(self, name), dtype=np.float32)  # a copy, so that nobody else can change it
            if array.shape != shape:
                raise ValueError(f"Faces.{name}: expected shape {shape} for {n} faces, found {array.shape}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the fields, so that unpickled faces are checked and read-only as well."""
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @classmethod
    def of(
        cls,
        boxes: ArrayLike,
        scores: ArrayLike,
        landmarks: ArrayLike,
        *,
        image_size: tuple[int, int],
        schema: Schema = FIVE,
        landmark_scores: ArrayLike | None = None,
    ) -> Faces:
        """Make faces from array-like values.

        Args:
            boxes: (n, 4) ``x1, y1, x2, y2`` in pixels.
            scores: (n,) in [0, 1].
            landmarks: (n, k, 2) in pixels. NaN where a landmark is missing.
            image_size: ``(width, height)`` of the image in pixels.
            schema: The schema of the landmarks.
            landmark_scores: (n, k) in [0, 1]. ``None``: the score of the face for each of its landmarks.
        """
        s = np.reshape(scores, -1)
        own = np.broadcast_to(s[:, None], (len(s), len(schema))) if landmark_scores is None else landmark_scores
        return cls(
            boxes=np.reshape(boxes, (-1, 4)),
            scores=s,
            landmarks=np.reshape(landmarks, (len(s), len(schema), 2)),
            landmark_scores=np.reshape(own, (len(s), len(schema))),
            schema=schema,
            image_size=image_size,
        )

    @classmethod
    def empty(cls, image_size: tuple[int, int], schema: Schema = FIVE) -> Faces:
        """Make the ``Faces`` of an image without a face. ``image_size`` is ``(width, height)``."""
        return cls.of([], [], [], image_size=image_size, schema=schema)

    @classmethod
    def from_dict(cls, record: dict[str, Any], schema: Schema | None = None) -> Faces:
        """Make faces from a dictionary that ``to_dict`` returned. Unknown keys are ignored.

        Args:
            record: Width, height, schema and one entry per face. ``landmark_scores`` may be missing.
            schema: The schema of the landmarks. ``None``: the schema that the record names. An unknown name makes a
                new schema.

        Raises:
            DataError: The record has another form, or one of its numbers is not finite.
        """
        told = as_model(record, _Image, "faces")
        if "faces" not in record:
            raise DataError("faces: object missing required field `faces`")
        kind = schema or _schema(told)
        for number, face in enumerate(told.faces):
            counts = {len(face.landmarks), len(kind if face.landmark_scores is None else face.landmark_scores)}
            if counts != {len(kind)}:
                raise DataError(f"faces: expected {len(kind)} landmarks and scores in face {number}, found {counts}")
        boxes, scores = [face.box for face in told.faces], [face.score for face in told.faces]
        points = [point for face in told.faces for point in face.landmarks]
        sure = [score for face in told.faces for score in face.landmark_scores or [face.score] * len(kind)]
        if not (np.abs(np.concatenate([np.ravel(boxes), scores])) <= LARGEST).all():
            raise DataError("faces: a box or a score is not finite or is too large")
        given = np.concatenate([np.ravel([p for p in points if p is not None]), [s for s in sure if s is not None]])
        if not (np.abs(given) <= LARGEST).all():
            raise DataError("faces: a landmark or its score is not finite or is too large")
        faces = cls.of(
            boxes,
            scores,
            [(np.nan, np.nan) if point is None else point for point in points],
            landmark_scores=np.array(sure, float),  # NaN for None
            image_size=(told.width, told.height),
            schema=kind,
        )
        return replace(faces, turn=told.turn)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> Faces:
        """Select faces by an integer, a slice, a list of indices or a boolean mask. The result is ``Faces`` again."""
        if isinstance(index, (int, np.integer)):
            i = int(index)
            if not -len(self) <= i < len(self):
                raise IndexError(f"face {i} of {len(self)}")
            index = [i]
        pick = np.asarray(index) if not isinstance(index, slice) else index
        if isinstance(pick, np.ndarray) and pick.size == 0 and pick.dtype != bool:
            pick = pick.astype(np.intp)
        arrays = ("boxes", "scores", "landmarks", "landmark_scores")
        return replace(self, **{name: getattr(self, name)[pick] for name in arrays})

    @property
    def box(self) -> Floats:
        """The box (4,) of a single face, as in ``for face in faces: face.box``.

        Raises:
            OptionError: There is not exactly one face.
        """
        return np.asarray(self.boxes[self._only])

    @property
    def score(self) -> float:
        """The confidence score of a single face.

        Raises:
            OptionError: There is not exactly one face.
        """
        return float(self.scores[self._only])

    @property
    def _only(self) -> int:
        if len(self) != 1:
            raise OptionError(f"box and score are of one face, found {len(self)}: faces[i], or `for face in faces`")
        return 0

    def __iter__(self) -> Iterator[Faces]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        w, h = self.image_size
        return f"Faces({len(self)} in {w}x{h}, schema {self.schema.name!r})"

    def clipped(self) -> Faces:
        """The same faces with boxes clipped to the image. Landmarks do not change."""
        w, h = self.image_size
        return replace(self, boxes=np.clip(self.boxes, 0, np.array([w, h, w, h], np.float32)))

    def turned(self, degrees: int) -> Faces:
        """The same faces in the image turned counter-clockwise, as by ``numpy.rot90(image, degrees // 90)``.

        Args:
            degrees: A multiple of 90.
        """
        if degrees % 90:
            raise OptionError(f"degrees is a multiple of 90, found {degrees}")
        boxes, points, (w, h) = self.boxes, self.landmarks, self.image_size
        for _ in range(degrees // 90 % 4):
            boxes = np.stack([boxes[:, 1], w - boxes[:, 2], boxes[:, 3], w - boxes[:, 0]], axis=1)
            points = np.stack([points[..., 1], w - points[..., 0]], axis=-1)
            w, h = h, w
        return replace(self, boxes=boxes, landmarks=points, image_size=(w, h), turn=(self.turn - degrees) % 360)

    def to_dict(self, digits: int = 2) -> dict[str, Any]:
        """Convert to plain numbers, ready for JSON: width, height, schema and one entry per face.

        A missing landmark or landmark score becomes ``None``.

        Args:
            digits: Decimals of coordinates. Scores have two more.
        """
        digits = whole(digits, "digits is a number of decimals, 0 to 9", low=0, high=9)
        w, h = self.image_size
        boxes, scores = self.boxes.astype(float).round(digits), self.scores.astype(float).round(digits + 2)
        points, sure = self.landmarks.astype(float).round(digits), self.landmark_scores.astype(float).round(digits + 2)
        return {
            "width": w,
            "height": h,
            **({"turn": self.turn} if self.turn else {}),
            "schema": self.schema.name,
            "faces": [
                {
                    "box": box.tolist(),
                    "score": float(score),
                    "landmarks": [p.tolist() if np.isfinite(p).all() else None for p in face],
                    "landmark_scores": [s if np.isfinite(s) else None for s in each.tolist()],
                }
                for box, score, face, each in zip(boxes, scores, points, sure, strict=True)
            ],
        }

    def to_supervision(self) -> tuple[Detections, KeyPoints]:
        """Convert to supervision's ``Detections`` and ``KeyPoints``, for its annotators, trackers and metrics.

        The key points are in the order of the schema. A missing landmark is not visible, and lies at (0, 0), as
        supervision expects it.

        Raises:
            MissingExtraError: supervision is not installed (extra ``supervision``).
        """
        try:
            from supervision import Detections, KeyPoints
        except ImportError as error:
            raise MissingExtraError.of("supervision", "to_supervision needs the package of that name") from error
        there = np.asarray(np.isfinite(self.landmarks).all(axis=2))
        kind = np.zeros(len(self), int)
        faces = Detections(self.boxes.copy(), confidence=self.scores.copy(), class_id=kind)
        faces.data["class_name"] = np.full(len(self), "face")
        points = KeyPoints(
            np.where(there[..., None], self.landmarks, 0),
            class_id=kind.copy(),
            keypoint_confidence=self.landmark_scores.copy(),
            detection_confidence=self.scores.copy(),
            visible=there,
        )
        return faces, points


def downward(faces: Faces) -> Floats:
    """The directions (n, 2) from the eyes of faces to their mouths, of length 1. (0, 1) where landmarks do not tell."""
    told = np.tile(np.array([0, 1], np.float32), (len(faces), 1))
    if not is_convertible(faces.schema, FIVE):
        return told
    points = convert(faces.landmarks, faces.schema, FIVE)
    there = np.isfinite(points)
    with np.errstate(invalid="ignore"):  # NaN without any eye, or any corner of the mouth
        eyes, mouth = (
            np.where(there, points, 0)[:, part].sum(axis=1) / there[:, part].sum(axis=1)
            for part in (slice(2), slice(3, 5))
        )
    down = mouth - eyes
    length = np.hypot(*down.T)[:, None]
    return np.divide(down, length, out=told, where=length > 0)


def expect_faces(faces: Any) -> None:
    """Raise an ``OptionError`` unless the argument is the ``Faces`` of one image."""
    if not isinstance(faces, Faces):
        raise OptionError(
            f"expected the Faces of one image, found {type(faces).__name__}; detect() returns one per image"
        )


def _schema(told: _Image) -> Schema:
    """The known schema of that name, or a new one with as many points as the faces have."""
    if told.schema in SCHEMAS or not told.faces:
        return SCHEMAS.get(told.schema, FIVE)
    return own(told.schema, [f"point_{i}" for i in range(len(told.faces[0].landmarks))])
