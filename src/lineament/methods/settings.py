"""Settings that methods share. The settings of a method are a dataclass that inherits the blocks it uses.

The annotation of a setting holds its range, such as ``Share`` for [0, 1]. The dataclass checks it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from functools import cache
from os import PathLike, fspath
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from msgspec import Meta, ValidationError, convert

from lineament import conventions
from lineament.boxes import Overlap
from lineament.errors import OptionError
from lineament.schemas import schema
from lineament.weights import of_weights

Suppression = Literal["nms", "soft-linear", "soft-gaussian"]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
VERIFY = (
    "Look at each face again with a second network: better scores and boxes. The default for KPNet. "
    "--setting verify=FILE: with your own."
)
_OPTION = "option"

SEEN = 8
"""Side of a face in pixels of the input. Smaller ones are rarely detected: of 24 photos, 3 at 7 pixels, 10 at 8."""

SMALLEST_INPUT = 64
"""Longer edge of the smallest input in pixels."""

LARGEST_INPUT = 4096
"""Longer edge of the largest input in pixels. A square of it takes about 8 GB. Tiles show larger images in little."""


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


def of_length(length: int) -> Meta:
    """The length of a sequence, for the annotation of a setting."""
    return Meta(min_length=length, max_length=length)


def checked(settings: type, name: str, value: Any, example: Any) -> Any:
    """Check a value of a setting, and convert it to the type that the setting is annotated with.

    Args:
        settings: The dataclass of the settings.
        name: The name of the setting.
        value: The value. NumPy numbers and arrays are accepted.
        example: A right value, for the message.

    Raises:
        OptionError: The value has another type, is out of range, or is not finite.
    """
    kind = _annotations(settings)[name]
    try:
        return convert(_plain(value), kind)
    except (ValidationError, OptionError) as error:
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        expected = f"expected one of {', '.join(choices)}" if choices else error
        raise OptionError(f"setting {name!r} is e.g. {example!r:.80}, found {value!r:.80}: {expected}") from None


@cache
def _annotations(settings: type) -> dict[str, Any]:
    return get_type_hints(settings, include_extras=True)


def _plain(value: Any) -> Any:
    """Convert NumPy numbers and arrays, paths, and lists and mappings of them, to plain Python.

    Raises:
        OptionError: A number is not finite.
    """
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, PathLike):
        value = fspath(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError("expected a finite number")
    return value


@dataclass(frozen=True)
class MethodSettings:
    """Settings of every method.

    Attributes:
        landmarks: Name of the predicted landmark schema.
        schemas: Names of all schemas that the network predicts, in the order of its outputs. Empty if ``landmarks`` is
            the only one.

    Raises:
        OptionError: A setting has another type, or is out of range.
    """

    landmarks: str = of_weights("5")
    schemas: Sequence[str] = of_weights(())

    def __post_init__(self) -> None:
        for setting in fields(self):
            checked(type(self), setting.name, getattr(self, setting.name), setting.default)
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
        flip: Also detect, and verify, in the mirrored image, with equal weight. Takes twice the time.
        turns: Also detect in the image turned by 90, 180 and 270 degrees. The orientation with the most upright faces
            stands, and ``Faces.turn`` names it. Takes four times the time.
        verify: Look at each face again, enlarged, with a second network, and count its opinion in the scores and the
            boxes (`lineament.methods.verifier`). ``True`` for the shipped verifier: in 8-bit integers behind detectors
            that are, too. Or the name or file of a verifier's weights. KPNet's default is ``True``.
        suppression: What happens at the end to the lower-scoring of two overlapping boxes. "nms" removes it.
            "soft-linear" and "soft-gaussian" lower its score (Soft-NMS, see ``lineament.boxes.soft_nms``).
        sigma: For "soft-gaussian": how slowly scores fall, above 0.
        over: How that overlap is measured: over the "union", or over the smaller area ("min").
        voting: Each box becomes the score-weighted mean of the boxes that overlap it by more than this (box voting, see
            ``lineament.boxes.vote``). ``None``: boxes are not changed.
    """

    threshold: Share = 0.5
    min_face: Annotated[float, Meta(ge=1)] = 1
    flip: bool = option(False, "Detect in the mirrored image as well: more accurate, takes twice the time.")
    turns: bool = option(
        False,
        "Detect in all four orientations, and keep the one with most upright faces: for photos without EXIF.",
    )
    verify: bool | Annotated[str, Meta(min_length=1)] = option(False, VERIFY)
    suppression: Suppression = "nms"
    sigma: Positive = 0.5
    over: Overlap = "union"
    voting: Share | None = None


@dataclass(frozen=True)
class ViewSettings(DetectorSettings):
    """Settings of detectors that resize each image to one size.

    Attributes:
        input_size: Longer edge of the resized image, in pixels, from 64 to 4096.
        pyramid: More input sizes as multiples of ``input_size``: ``(0.5, 2)`` for half and twice. They have the same
            limits.
        tiles: Also detect in overlapping tiles of ``input_size`` at full resolution.
        overlap: Share of a tile's side that it has in common with the next, in [0, 0.9].
        margin: Black margin around the image, as a share of the input in [0, 0.5), for faces that the edge cuts off.
    """

    input_size: Annotated[int, Meta(ge=SMALLEST_INPUT, le=LARGEST_INPUT)] = option(
        640, "Resize images so that the longer edge has this many pixels, such as 256, 384, 512 or 640."
    )
    pyramid: Sequence[float] = ()
    tiles: bool = option(False, "Detect in tiles at full resolution as well: for small faces in large photos.")
    overlap: Annotated[float, Meta(ge=0, le=0.9)] = 0.25
    margin: Annotated[float, Meta(ge=0, lt=0.5)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(SMALLEST_INPUT <= ratio * self.input_size <= LARGEST_INPUT for ratio in self.pyramid):
            raise OptionError(
                f"pyramid has multiples of input_size, such as [0.5, 2], that give {SMALLEST_INPUT} to {LARGEST_INPUT} "
                f"pixels, found {list(self.pyramid)!r:.80} of {self.input_size}"
            )

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
        enough = math.ceil(SEEN / min_face * longer)
        larger = f"; input_size={enough} shows such faces without tiles" if enough <= LARGEST_INPUT else ""
        return (
            f"faces of {min_face:g} pixels in an image of {image_size[0]}x{image_size[1]} have {side:.1f} at "
            f"input_size {self.input_size}; few below {SEEN} are detected. tiles=True detects at full resolution as "
            f"well, in about {tiles + 1} times the time{larger}"
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
