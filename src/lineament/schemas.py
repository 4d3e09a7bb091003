"""Landmark schemas: the names of their points, their mirror pairs, and maps from one schema to another.

Right and left are the subject's: in an upright image, the right eye is to the left of the left eye. The names carry
the structure. A mirror swaps the words ``right`` and ``left``. The first words of a name are the part of the face.
Points in a row are numbered from the outer end to the middle of the face, on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lineament.errors import OptionError

PARTS = ("jaw", "right_brow", "left_brow", "nose", "right_eye", "left_eye", "right_pupil", "left_pupil", "mouth")
"""The parts of the face that point names may begin with."""


@dataclass(frozen=True)
class Schema:
    """An ordered set of landmarks.

    Attributes:
        name: Short name, written into results and weight files.
        points: The names of the landmarks, in order.
        mirror: For each landmark, the index of the one that it becomes in a mirrored image.
        groups: Named index sets ("right_eye", "mouth", ...), for normalisers and reports.
    """

    name: str
    points: tuple[str, ...]
    mirror: tuple[int, ...]
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.points)


def own(
    name: str,
    points: Sequence[str],
    mirror_pairs: Sequence[tuple[int, int]] = (),
    groups: Mapping[str, Sequence[int]] | None = None,
) -> Schema:
    """Define a schema of your own.

    Args:
        name: A short name that no built-in schema has.
        points: The names of the landmarks, in order.
        mirror_pairs: Pairs of indices that a mirror swaps. All other points stay.
        groups: Named index sets. ``None``: the parts of the face that the names begin with (`PARTS`).

    Raises:
        OptionError: A pair has an index that does not exist, or a point is in two pairs.
    """
    mirror = list(range(len(points)))
    for a, b in mirror_pairs:
        if not (0 <= a < len(points) and 0 <= b < len(points)):
            raise OptionError(f"mirror pair ({a}, {b}) of schema {name!r}: it has only {len(points)} points")
        if mirror[a] != a or mirror[b] != b:
            raise OptionError(f"mirror pair ({a}, {b}) of schema {name!r}: a point may stand in one pair only")
        mirror[a], mirror[b] = b, a
    parts = _groups(points) if groups is None else {part: tuple(indices) for part, indices in groups.items()}
    return Schema(name=name, points=tuple(points), mirror=tuple(mirror), groups=parts)


def schema(name: str) -> Schema:
    """The built-in schema of that name.

    Raises:
        OptionError: The schema does not exist. The message lists those that do.
    """
    try:
        return SCHEMAS[name]
    except KeyError:
        raise OptionError(f"unknown landmark schema {name!r}; there are: {', '.join(SCHEMAS)}") from None


def is_convertible(source: Schema, target: Schema) -> bool:
    """Whether `convert` reduces landmarks of one schema to the other."""
    return source == target or (source.name, target.name) in MAPS


def convert(landmarks: ArrayLike, source: Schema, target: Schema) -> NDArray[Any]:
    """Reduce landmarks to a coarser schema. Each new point is one of the old points or the mean of several.

    Args:
        landmarks: (..., len(source), 2).
        source: Their schema.
        target: The coarser schema. ``source`` itself changes nothing.

    Returns:
        (..., len(target), 2). NaN where a required point is NaN.

    Raises:
        OptionError: There is no map between the two schemas. The message lists the possible targets.
    """
    points = np.asarray(landmarks)
    if source == target:
        return points
    try:
        sources = MAPS[source.name, target.name]
    except KeyError:
        there_are = ", ".join(to for start, to in MAPS if start == source.name) or "none"
        raise OptionError(
            f"no map from landmark schema {source.name!r} to {target.name!r}; to these there is one: {there_are}"
        ) from None
    return np.stack([points[..., indices, :].mean(axis=-2) for indices in sources], axis=-2)


def least_of_parts(values: NDArray[Any], source: Schema, target: Schema) -> NDArray[Any]:
    """Reduce values of landmarks, such as weights or visibility, as `convert` reduces the landmarks.

    Args:
        values: (n, len(source)).
        source: Their schema.
        target: A schema that it is convertible to.

    Returns:
        (n, len(target)). Each value is the smallest among the landmarks that the new point is made of.
    """
    if source == target:
        return values
    return np.stack([values[:, list(i)].min(axis=1) for i in MAPS[source.name, target.name]], axis=1)


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}_{i}" for i in range(1, count + 1))


def _groups(points: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The parts of the face that the names begin with, and the outer eye corners if the schema has them."""
    parts = {part: tuple(i for i, point in enumerate(points) if point.startswith(part)) for part in PARTS}
    corners = tuple(i for i, point in enumerate(points) if point.endswith("_eye_outer"))
    return {part: indices for part, indices in (parts | {"outer_eye_corners": corners}).items() if indices}


def _swap(name: str) -> str:
    return name.replace("right", "\0").replace("left", "right").replace("\0", "left")


def _named(name: str, points: Sequence[str]) -> Schema:
    """A schema whose mirror pairs follow from its names."""
    index = {point: i for i, point in enumerate(points)}
    return Schema(name, tuple(points), tuple(index[_swap(point)] for point in points), _groups(points))


def _sides(right: Sequence[str], *middle: str) -> tuple[str, ...]:
    """A row of points from the subject's right to the left: the right half, the middle, the mirrored right half."""
    return (*right, *middle, *(_swap(name) for name in reversed(right)))


FIVE = _named("5", ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left"))

_BROWS_OF_THREE = _sides(_numbered("right_brow", 3))

NINETEEN = _named(
    "19",
    (
        *_BROWS_OF_THREE,
        *_sides(("right_eye_outer", "right_pupil", "right_eye_inner")),
        *_sides(("nose_right",), "nose"),
        *_sides(("mouth_right",), "mouth_centre"),
        "jaw_chin",
    ),
)
"""AFLW without the ears."""

TWENTY_ONE = _named(
    "21",
    (
        *_BROWS_OF_THREE,
        *_sides(("right_eye_outer", "right_eye_inner")),
        *_sides(("nose_right",), "nose_base"),
        *("mouth_upper", "mouth_centre", "mouth_lower"),
        *("right_pupil", "left_pupil", "nose", "mouth_right", "mouth_left"),
    ),
)
"""The 21 points of the CVcamp photos."""

TWENTY_ONE_AFLW = _named(
    "21-aflw",
    (
        *_BROWS_OF_THREE,
        *_sides(("right_eye_outer", "right_pupil", "right_eye_inner")),
        *_sides(("right_ear", "nose_right"), "nose"),
        *_sides(("mouth_right",), "mouth_centre"),
        "jaw_chin",
    ),
)
"""AFLW's own points in the order of their identifiers, 1 to 21."""

TWENTY_NINE = _named(
    "29",
    (
        *("right_brow_outer", "left_brow_outer", "right_brow_inner", "left_brow_inner"),
        *("right_brow_upper", "right_brow_lower", "left_brow_upper", "left_brow_lower"),
        *("right_eye_outer", "left_eye_outer", "right_eye_inner", "left_eye_inner"),
        *("right_eye_upper", "right_eye_lower", "left_eye_upper", "left_eye_lower"),
        *("right_pupil", "left_pupil", "nose_right", "nose_left", "nose", "nose_base"),
        *("mouth_right", "mouth_left", "mouth_upper_outer", "mouth_upper_inner"),
        *("mouth_lower_inner", "mouth_lower_outer", "jaw_chin"),
    ),
)
"""COFW."""

_MOUTH_OF_TWENTY = (
    *_sides(("mouth_right", *_numbered("mouth_upper_right", 2)), "mouth_upper"),
    *reversed(_sides(_numbered("mouth_lower_right", 2), "mouth_lower")),
    *_sides(("mouth_inner_right", "mouth_inner_upper_right"), "mouth_inner_upper"),
    *reversed(_sides(("mouth_inner_lower_right",), "mouth_inner_lower")),
)
_NOSE_OF_NINE = (*_numbered("nose_bridge", 3), "nose", *_sides(_numbered("nose_right", 2), "nose_base"))

SIXTY_EIGHT = _named(
    "68",
    (
        *_sides(_numbered("jaw_right", 8), "jaw_chin"),
        *_sides(_numbered("right_brow", 5)),
        *_NOSE_OF_NINE,
        *("right_eye_outer", "right_eye_upper_outer", "right_eye_upper_inner"),
        *("right_eye_inner", "right_eye_lower_inner", "right_eye_lower_outer"),
        *("left_eye_inner", "left_eye_upper_inner", "left_eye_upper_outer"),
        *("left_eye_outer", "left_eye_lower_outer", "left_eye_lower_inner"),
        *_MOUTH_OF_TWENTY,
    ),
)
"""300W (Multi-PIE's mark-up)."""

NINETY_EIGHT = _named(
    "98",
    (
        *_sides(_numbered("jaw_right", 16), "jaw_chin"),
        *_numbered("right_brow_upper", 5),
        *reversed(_numbered("right_brow_lower", 4)),
        *reversed(_numbered("left_brow_upper", 5)),
        *_numbered("left_brow_lower", 4),
        *_NOSE_OF_NINE,
        *("right_eye_outer", *_numbered("right_eye_upper", 3)),
        *("right_eye_inner", *reversed(_numbered("right_eye_lower", 3))),
        *("left_eye_inner", *reversed(_numbered("left_eye_upper", 3))),
        *("left_eye_outer", *_numbered("left_eye_lower", 3)),
        *_MOUTH_OF_TWENTY,
        *("right_pupil", "left_pupil"),
    ),
)
"""WFLW."""

SCHEMAS: dict[str, Schema] = {
    s.name: s for s in (FIVE, NINETEEN, TWENTY_ONE, TWENTY_ONE_AFLW, TWENTY_NINE, SIXTY_EIGHT, NINETY_EIGHT)
}


def _picked(*indices: int) -> tuple[tuple[int, ...], ...]:
    return tuple((i,) for i in indices)


def _to_five(source: Schema) -> tuple[tuple[int, ...], ...]:
    """Pupils, or the mean of the eye's contour if the schema has no pupils; nose tip; mouth corners."""
    eyes = (source.groups.get(f"{side}_pupil", source.groups[f"{side}_eye"]) for side in ("right", "left"))
    return (*eyes, *_picked(*(source.points.index(name) for name in FIVE.points[2:])))


MAPS: dict[tuple[str, str], tuple[tuple[int, ...], ...]] = {
    (s.name, FIVE.name): _to_five(s) for s in SCHEMAS.values() if s is not FIVE
} | {
    ("21-aflw", "19"): _picked(*(i for i, name in enumerate(TWENTY_ONE_AFLW.points) if not name.endswith("ear"))),
    ("98", "68"): _picked(
        *range(0, 33, 2),  # every second point of the jaw
        *range(33, 38),
        *range(42, 47),  # the upper edges of the brows
        *range(51, 60),
        *(60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75),  # eyes without the middles of the lids
        *range(76, 96),
    ),
}
"""By (source, target): for each landmark of the target, the landmarks of the source that it averages."""
