"""Landmark schemas: what each point is called, and which points change places in a mirror.

Right and left are the subject's, so in an upright picture the right eye lies left of the left eye.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lineament.errors import OptionError


@dataclass(frozen=True)
class Schema:
    """An ordered set of landmarks.

    Attributes:
        name: Short name, written into results and weight files.
        points: One name a landmark, in order.
        mirror: For each landmark, the index of the one it becomes in a mirrored picture.
        groups: Named index sets ("right_eye", "mouth", ...), for normalisers and reports.
    """

    name: str
    points: tuple[str, ...]
    mirror: tuple[int, ...]
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.points)


FIVE = Schema(
    name="5",
    points=("right_eye", "left_eye", "nose", "mouth_right", "mouth_left"),
    mirror=(1, 0, 2, 4, 3),
    groups={"right_eye": (0,), "left_eye": (1,), "nose": (2,), "mouth": (3, 4)},
)

SCHEMAS: dict[str, Schema] = {FIVE.name: FIVE}


def schema(name: str) -> Schema:
    """The schema of that name.

    Raises:
        OptionError: no such schema; the message lists those that exist.
    """
    try:
        return SCHEMAS[name]
    except KeyError:
        raise OptionError(f"unknown landmark schema {name!r}; there are: {', '.join(SCHEMAS)}") from None


def own(name: str, points: Sequence[str], mirror_pairs: Sequence[tuple[int, int]] = ()) -> Schema:
    """A schema of the user's own: point names, and the pairs of indices that a mirror swaps.

    Raises:
        OptionError: a pair names a point that does not exist, or a point stands in two pairs.
    """
    mirror = list(range(len(points)))
    for a, b in mirror_pairs:
        if not (0 <= a < len(points) and 0 <= b < len(points)):
            raise OptionError(f"mirror pair ({a}, {b}) of schema {name!r}: it has only {len(points)} points")
        if mirror[a] != a or mirror[b] != b:
            raise OptionError(f"mirror pair ({a}, {b}) of schema {name!r}: a point may stand in one pair only")
        mirror[a], mirror[b] = b, a
    return Schema(name=name, points=tuple(points), mirror=tuple(mirror))
