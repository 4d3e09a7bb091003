"""A labelled image as arrays. Every reader of a data set returns samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lineament.errors import DataError
from lineament.schemas import FIVE, Schema

Array = NDArray[Any]

NOT_LABELLED, HIDDEN, VISIBLE = 0, 1, 2
"""The values of ``Sample.visibility``, as in COCO."""


@dataclass(frozen=True, eq=False)
class Sample:
    """An image and its labelled faces.

    Coordinates are continuous pixels of the upright image: (0, 0) is the outer corner of the first pixel. A data set
    with boxes only has the five-point schema without labelled landmarks.

    Attributes:
        path: The image.
        width: In pixels. 0 if the labels do not give it.
        height: In pixels. 0 if the labels do not give it.
        source: The data set, such as ``"wider"``.
        boxes: (n, 4) float32, ``x1, y1, x2, y2``.
        landmarks: (n, k, 2) float32, ``x, y``. NaN if not labelled.
        visibility: (n, k) uint8: 0 not labelled, 1 hidden (such as under a mask), 2 visible or not known to be hidden.
        ignore: (n,) bool, regions that are used neither in training nor in evaluation.
        box_source: (n,) str, the source of the boxes: ``human``, ``detector``, ``from-points``, ``other-convention``.
        landmark_source: (n,) str, the source of the landmarks: ``human``, ``detector``, ``none``.
        schema: The schema of the k landmarks.
        attributes: Additional labels by name, arrays whose first axis is the faces.
    """

    path: Path
    width: int
    height: int
    source: str
    boxes: Array
    landmarks: Array
    visibility: Array
    ignore: Array
    box_source: Array
    landmark_source: Array
    schema: Schema = FIVE
    attributes: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, k = len(self.boxes), len(self.schema)
        wanted: dict[str, tuple[tuple[int, ...], Any]] = {
            "boxes": ((n, 4), np.float32),
            "landmarks": ((n, k, 2), np.float32),
            "visibility": ((n, k), np.uint8),
            "ignore": ((n,), np.bool_),
            "box_source": ((n,), np.str_),
            "landmark_source": ((n,), np.str_),
        }
        for name, (shape, kind) in wanted.items():
            array = np.asarray(getattr(self, name), kind)
            if array.shape != shape:
                raise DataError(f"{self.path}: {name} of {n} faces should have shape {shape}, found {array.shape}")
            object.__setattr__(self, name, array)
        if not np.isfinite(self.boxes).all():
            raise DataError(f"{self.path}: a box is not finite or is too large")
        for name, array in self.attributes.items():
            if len(array) != n:
                raise DataError(f"{self.path}: attribute {name!r} has {len(array)} entries for {n} faces")

    @classmethod
    def of(
        cls,
        path: str | Path,
        boxes: ArrayLike,
        landmarks: ArrayLike | None = None,
        *,
        visibility: ArrayLike | None = None,
        ignore: ArrayLike | None = None,
        size: tuple[int, int] = (0, 0),
        source: str = "",
        box_source: str | ArrayLike = "human",
        landmark_source: str | ArrayLike = "human",
        schema: Schema = FIVE,
        attributes: dict[str, Array] | None = None,
    ) -> Sample:
        """Make a sample from array-like values. Missing arguments get defaults.

        Args:
            path: The image.
            boxes: (n, 4), ``x1, y1, x2, y2``.
            landmarks: (n, k, 2). NaN if not labelled. ``None``: nothing is labelled.
            visibility: (n, k). ``None``: every landmark that is not NaN is visible.
            ignore: (n,). ``None``: every face counts.
            size: ``(width, height)`` of the image.
            source: The data set.
            box_source: One word for all faces, or one per face.
            landmark_source: One word for all faces, or one per face. It becomes ``"none"`` for faces without landmarks.
            schema: The schema of the landmarks.
            attributes: Additional labels, arrays over the faces.
        """
        with np.errstate(over="ignore"):  # a number that is too large becomes infinite, which is refused
            drawn = np.asarray(boxes, np.float32).reshape(-1, 4)
        n, k = len(drawn), len(schema)
        points = np.full((n, k, 2), np.nan) if landmarks is None else np.asarray(landmarks).reshape(n, k, 2)
        labelled = np.isfinite(points).all(axis=2)
        seen = np.where(labelled, VISIBLE if visibility is None else visibility, NOT_LABELLED)
        return cls(
            path=Path(path),
            width=size[0],
            height=size[1],
            source=source,
            boxes=drawn,
            landmarks=np.where((seen > NOT_LABELLED)[..., None], points, np.nan),
            visibility=seen,
            ignore=np.zeros(n, bool) if ignore is None else np.asarray(ignore, bool).reshape(n),
            box_source=np.broadcast_to(np.asarray(box_source, np.str_), n),
            landmark_source=np.where(labelled.any(axis=1), landmark_source, "none"),
            schema=schema,
            attributes=attributes or {},
        )

    @property
    def learnable(self) -> Array:
        """Which faces (n,) are used in training: those that are not ignored and whose boxes have an area."""
        return ~self.ignore & (self.boxes[:, 2:] > self.boxes[:, :2]).all(axis=1)

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        return f"Sample({self.path.name}, {len(self)} faces, {self.width}x{self.height}, schema {self.schema.name!r})"
