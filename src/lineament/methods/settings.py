"""Settings that methods share. The settings of a method are a dataclass that inherits the blocks it uses."""

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
"""Side of a face in pixels of the input. Smaller ones are rarely detected: of 24 photos, 3 at 7 pixels, 10 at 8."""

LARGEST_RATIO = 16
"""Largest multiple of the input size in a pyramid. A greater number is most likely a size in pixels."""


@dataclass(frozen=True)
class Option:
    """How a setting appears on the command line, where ``--setting`` takes all others.

    Attributes:
        help: What it does, in a sentence.
        metavar: The name of its value in the help. ``None``: the name of its type.
        read: Converts the text to the value. ``None``: by its type.
    """

    help: str
    metavar: str | None = None
    read: Callable[[str], Any] | None = None


def option(default: Any, help: str, *, metavar: str | None = None, read: Callable[[str], Any] | None = None) -> Any:
    """A field of settings that has its own option on the command line. The arguments are those of `Option`."""
    return field(default=default, metadata={_OPTION: Option(help, metavar, read)})


def option_of(setting: Field[Any]) -> Option | None:
    """The command-line option of a setting, if it has one."""
    return setting.metadata.get(_OPTION)


@dataclass(frozen=True)
class MethodSettings:
    """Settings of every method.

    Attributes:
        landmarks: Name of the predicted landmark schema.
        schemas: Names of all schemas that the network predicts, in the order of its outputs. Empty if ``landmarks`` is
            the only one.
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
        """The part of the network's landmark outputs that belongs to ``landmarks``."""
        before = self.offered[: self.offered.index(self.landmarks)]
        start = sum(len(schema(name)) for name in before)
        return slice(start, start + len(schema(self.landmarks)))


@dataclass(frozen=True)
class DetectorSettings(MethodSettings):
    """Settings of every detector: the thresholds for faces, and the suppression of duplicates.

    Attributes:
        threshold: Default of the lowest confidence score, in [0, 1].
        min_face: Default of the side of the smallest face, in pixels.
        flip: Also detect in the mirrored image, with equal weight. Takes twice the time.
        turns: Also detect in the image turned by 90, 180 and 270 degrees. The orientation with the most upright faces
            stands, and ``Faces.turn`` names it. Takes four times the time.
        suppression: What happens at the end to the lower-scoring of two overlapping boxes. "nms" removes it.
            "soft-linear" and "soft-gaussian" lower its score (Soft-NMS, see ``lineament.boxes.soft_nms``).
        sigma: For "soft-gaussian": how slowly scores fall, above 0.
        over: How that overlap is measured: over the "union", or over the smaller area ("min").
        voting: Each box becomes the score-weighted mean of the boxes that overlap it by more than this (box voting, see
            ``lineament.boxes.vote``). ``None``: boxes are not changed.
    """

    threshold: float = 0.5
    min_face: float = 1
    flip: bool = option(False, "Detect in the mirrored image as well: more accurate, takes twice the time.")
    turns: bool = option(
        False,
        "Detect in all four orientations, and keep the one with most upright faces: for photos without EXIF.",
    )
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
    """Settings of detectors that resize each image to one size.

    Attributes:
        input_size: Longer edge of the resized image, in pixels.
        pyramid: More input sizes as multiples of ``input_size``: ``(0.5, 2)`` for half and twice.
        tiles: Also detect in overlapping tiles of ``input_size`` at full resolution.
        overlap: Share of a tile's side that it has in common with the next, in [0, 1).
        margin: Black margin around the image, as a share of the input in [0, 0.5), for faces that the edge cuts off.
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
        if not all(64 / self.input_size <= ratio <= LARGEST_RATIO for ratio in self.pyramid or ()):
            raise OptionError(
                f"pyramid has multiples of input_size, such as [0.5, 2], up to {LARGEST_RATIO} and of at least 64 "
                f"pixels, found {list(self.pyramid)}"
            )
        if not 0 <= self.overlap < 1 or not 0 <= self.margin < 0.5:
            raise OptionError(f"overlap lies in [0, 1) and margin in [0, 0.5), found {self.overlap}, {self.margin}")

    def overlooked(self, min_face: float, image_size: tuple[int, int]) -> str:
        """Why faces of ``min_face`` pixels cannot be detected in an image of that size; empty if they can.

        Args:
            min_face: Side of a face in pixels of the image.
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
    """Settings of detectors that derive boxes from landmarks.

    Attributes:
        convention: The box convention: the name of a built-in one, or a fitted one as a dictionary.
    """

    convention: str | Mapping[str, Any] = option(
        "wider",
        f"How boxes follow from landmarks: {', '.join(conventions.BUILT_IN)}, or a file from `lineament "
        "fit-box-convention`.",
        metavar="NAME|FILE",
        read=conventions.named_or_read,
    )
