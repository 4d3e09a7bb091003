"""What a detector returns: the faces of one picture, as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lineament.schemas import FIVE, Schema

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces of one picture, best score first as detectors return them. No face is an empty ``Faces``.

    Coordinates are continuous pixels of the upright picture: (0, 0) is the outer corner of the first pixel,
    whose centre is (0.5, 0.5). Boxes and landmarks may lie outside the picture where the face does.

    Attributes:
        boxes: (n, 4) float32, ``x1, y1, x2, y2``; ``x2 - x1`` is the width.
        scores: (n,) float32 in [0, 1].
        landmarks: (n, k, 2) float32, ``x, y``; NaN where a method found no such point.
        landmark_scores: (n, k) float32 in [0, 1]; the face's own score where a method gives none for a point.
        schema: What the k landmarks are.
        image_size: ``(width, height)`` of the upright picture, in pixels.
    """

    boxes: Array
    scores: Array
    landmarks: Array
    landmark_scores: Array
    schema: Schema
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        n, k = len(self.scores), len(self.schema)
        shapes = {"boxes": (n, 4), "scores": (n,), "landmarks": (n, k, 2), "landmark_scores": (n, k)}
        for name, shape in shapes.items():
            array = np.array(getattr(self, name), dtype=np.float32)  # a copy: frozen means that nobody else holds it
            if array.shape != shape:
                raise ValueError(f"Faces.{name}: expected shape {shape} for {n} faces, found {array.shape}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its fields, so that what comes back is checked and read-only as well."""
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
        """Faces from anything array-like; without ``landmark_scores`` each point takes its face's score."""
        s = np.reshape(scores, -1)
        own = np.broadcast_to(s[:, None], (len(s), len(schema))) if landmark_scores is None else landmark_scores
        return cls(
            boxes=np.reshape(boxes, (-1, 4)),
            scores=s,
            landmarks=np.reshape(landmarks, (len(s), len(schema), 2)),
            landmark_scores=np.asarray(own),
            schema=schema,
            image_size=image_size,
        )

    @classmethod
    def empty(cls, image_size: tuple[int, int], schema: Schema = FIVE) -> Faces:
        """No faces in a picture of that size."""
        return cls.of([], [], [], image_size=image_size, schema=schema)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Any) -> Faces:
        """Those faces that a mask, an index, a list of indices or a slice selects, always as ``Faces``."""
        if isinstance(index, (int, np.integer)):
            i = int(index)
            if not -len(self) <= i < len(self):
                raise IndexError(f"face {i} of {len(self)}")
            index = [i]
        pick = np.asarray(index) if not isinstance(index, slice) else index
        if isinstance(pick, np.ndarray) and pick.size == 0 and pick.dtype != bool:
            pick = pick.astype(np.intp)
        return Faces(
            boxes=self.boxes[pick],
            scores=self.scores[pick],
            landmarks=self.landmarks[pick],
            landmark_scores=self.landmark_scores[pick],
            schema=self.schema,
            image_size=self.image_size,
        )

    def __iter__(self) -> Iterator[Faces]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        w, h = self.image_size
        return f"Faces({len(self)} in {w}x{h}, schema {self.schema.name!r})"

    def clipped(self) -> Faces:
        """The same faces with boxes cut at the picture's edges; landmarks stay where they are."""
        w, h = self.image_size
        return Faces(
            boxes=np.clip(self.boxes, 0, np.array([w, h, w, h], np.float32)),
            scores=self.scores,
            landmarks=self.landmarks,
            landmark_scores=self.landmark_scores,
            schema=self.schema,
            image_size=self.image_size,
        )

    def to_dict(self, digits: int = 2) -> dict[str, Any]:
        """Plain numbers, ready for JSON: width, height, schema and one entry a face.

        Args:
            digits: decimals of coordinates; scores have two more. A missing landmark becomes ``None``.
        """
        w, h = self.image_size
        boxes, scores = self.boxes.astype(float).round(digits), self.scores.astype(float).round(digits + 2)
        points, sure = self.landmarks.astype(float).round(digits), self.landmark_scores.astype(float).round(digits + 2)
        return {
            "width": w,
            "height": h,
            "schema": self.schema.name,
            "faces": [
                {
                    "box": box.tolist(),
                    "score": float(score),
                    "landmarks": [p.tolist() if np.isfinite(p).all() else None for p in face],
                    "landmark_scores": each.tolist(),
                }
                for box, score, face, each in zip(boxes, scores, points, sure, strict=True)
            ],
        }
