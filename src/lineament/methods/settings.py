"""Settings that methods share. A method's own are a dataclass that inherits the blocks it uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field
from typing import Any, Literal, get_args

from lineament import conventions
from lineament.boxes import Overlap
from lineament.errors import OptionError
from lineament.schemas import schema
from lineament.weights import of_weights

Suppression = Literal["nms", "soft-linear", "soft-gaussian"]
_OPTION = "option"

SEEN = 8
"""Side of a face in pixels of the input below which few are found: of 24 photos' faces, KPNet found 3 at 7, 10 at 8."""


@dataclass(frozen=True)
class Option:
    """How a setting appears on the command line, where ``--setting`` takes all others.

    Attributes:
        help: what it does, in a sentence.
        metavar: what its value is called, if not by its type.
        read: makes the value of what was typed; without it the setting's type does.
    """

    help: str
    metavar: str | None = None
    read: Callable[[str], Any] | None = None


def option(default: Any, help: str, *, metavar: str | None = None, read: Callable[[str], Any] | None = None) -> Any:
    """A field of settings that is an option of its own on the command line; arguments as of `Option`."""
    return field(default=default, metadata={_OPTION: Option(help, metavar, read)})


def option_of(setting: Field[Any]) -> Option | None:
    """The option that a setting is, if it is one."""
    return setting.metadata.get(_OPTION)


@dataclass(frozen=True)
class MethodSettings:
    """Settings of every method.

    Attributes:
        landmarks: name of the landmark schema that is found.
        schemas: names of the schemas whose landmarks the network gives, one after the other in its outputs; empty where
            ``landmarks`` is the only one.
    """

    landmarks: str = of_weights("5")
    schemas: Sequence[str] = of_weights(())

    def __post_init__(self) -> None:
        if self.landmarks not in self.offered:
            raise OptionError(f"these weights find landmarks of {', '.join(self.offered)}, found {self.landmarks!r}")

    @property
    def offered(self) -> tuple[str, ...]:
        """Names of the schemas that ``landmarks`` may be."""
        return tuple(self.schemas) or (self.landmarks,)

    @property
    def columns(self) -> slice:
        """Which of all the landmarks that the network gives are those of ``landmarks``."""
        before = self.offered[: self.offered.index(self.landmarks)]
        start = sum(len(schema(name)) for name in before)
        return slice(start, start + len(schema(self.landmarks)))


@dataclass(frozen=True)
class DetectorSettings(MethodSettings):
    """Settings of every detector: when a candidate is a face, and what becomes of several for one face.

    Attributes:
        threshold: lowest score in [0, 1] of a face that is returned, unless a call says otherwise.
        min_face: side in pixels of the smallest face that is returned, unless a call says otherwise.
        flip: look at the mirrored image, too; what is found there counts as much. Twice the time.
        suppression: what happens to the worse of two boxes that overlap, at the end. "nms": it falls. "soft-linear" and
            "soft-gaussian": its score falls by how much they overlap (Soft-NMS, see ``lineament.boxes.soft_nms``).
        sigma: of "soft-gaussian": how slowly it falls, above 0.
        over: what overlaps count over at that end: "union", or "min" for the smaller of the two areas.
        voting: each box becomes the mean of those that overlap it by more than this, weighted by score (box voting, see
            ``lineament.boxes.vote``); ``None`` for the box as it is.
    """

    threshold: float = 0.5
    min_face: float = 1
    flip: bool = option(False, "Detect in the mirrored image as well: more accurate, takes twice the time.")
    suppression: Suppression = "nms"
    sigma: float = 0.5
    over: Overlap = "union"
    voting: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kinds in (("suppression", Suppression), ("over", Overlap)):
            if getattr(self, name) not in get_args(kinds):
                raise OptionError(f"{name} is one of {', '.join(get_args(kinds))}, found {getattr(self, name)!r}")
        if not self.sigma > 0:
            raise OptionError(f"sigma lies above 0, found {self.sigma}")
        if self.voting is not None and not (isinstance(self.voting, (int, float)) and 0 <= self.voting <= 1):
            raise OptionError(f"voting is an overlap in [0, 1], or null for none, found {self.voting!r}")


@dataclass(frozen=True)
class ViewSettings(DetectorSettings):
    """Settings of detectors that see an image as a whole, brought to one size.

    Attributes:
        input_size: longer edge in pixels to which an image is brought.
        pyramid: further sizes at which the image is shown, over ``input_size``: ``(0.5, 2)`` for half and twice.
        tiles: also look at overlapping tiles of ``input_size`` in the image's own resolution.
        overlap: share of a tile's side that it has in common with the next, in [0, 1).
        margin: black around the image, as a share of the input in [0, 0.5), so that faces that fill it have room.
    """

    input_size: int = option(
        640, "Resize images so that the longer edge has this many pixels, such as 256, 384, 512 or 640."
    )
    pyramid: Sequence[float] = ()
    tiles: bool = option(False, "Detect in tiles at full resolution as well: for small faces in large photos.")
    overlap: float = 0.25
    margin: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input_size < 64:
            raise OptionError(f"input_size is the longer edge in pixels, at least 64, found {self.input_size}")
        if not all(ratio * self.input_size >= 64 for ratio in self.pyramid or ()):
            raise OptionError(f"pyramid has sizes over input_size, of 64 pixels or more, found {self.pyramid}")
        if not 0 <= self.overlap < 1 or not 0 <= self.margin < 0.5:
            raise OptionError(f"overlap lies in [0, 1) and margin in [0, 0.5), found {self.overlap}, {self.margin}")

    def overlooked(self, min_face: float, image_size: tuple[int, int]) -> str:
        """Why faces of ``min_face`` pixels are not found in an image of that size; empty if they are.

        Args:
            min_face: side of a face in pixels of the image.
            image_size: ``(width, height)`` in pixels.
        """
        longer = max(image_size)
        shown = max(self.pyramid or (1,)) * self.input_size
        side = min_face * min(1.0, max(shown, self.input_size) / longer)
        if self.tiles or longer <= self.input_size or side >= SEEN:
            return ""
        step = self.input_size * (1 - self.overlap)
        tiles = math.prod(max(1, math.ceil((edge - self.overlap * self.input_size) / step)) for edge in image_size)
        return (
            f"faces of {min_face:g} pixels in an image of {image_size[0]}x{image_size[1]} have {side:.1f} at "
            f"input_size {self.input_size}; few below {SEEN} are detected. tiles=True detects at full resolution as "
            f"well, in about {tiles + 1} times the time; input_size={math.ceil(SEEN / min_face * longer)} shows such "
            "faces without tiles"
        )


@dataclass(frozen=True)
class ConventionSettings(DetectorSettings):
    """Settings of detectors that infer boxes from landmarks.

    Attributes:
        convention: which boxes: the name of a convention that is built in, or a fitted one as a dictionary.
    """

    convention: str | Mapping[str, Any] = option(
        "wider",
        f"How boxes follow from landmarks: {', '.join(conventions.BUILT_IN)}, or a file from `lineament "
        "fit-box-convention`.",
        metavar="NAME|FILE",
        read=conventions.named_or_read,
    )
