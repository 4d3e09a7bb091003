"""Settings that methods share. A method's own are a dataclass that inherits the block it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lineament.errors import OptionError
from lineament.schemas import schema
from lineament.weights import of_weights


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
    """Settings of every detector.

    Attributes:
        threshold: lowest score in [0, 1] of a face that is returned, unless a call says otherwise.
        min_face: side in pixels of the smallest face that is looked for, unless a call says otherwise.
    """

    threshold: float = 0.5
    min_face: float = 1
