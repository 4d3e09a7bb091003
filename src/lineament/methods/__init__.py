"""The one registry of methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods.kpnet.decode import Config as KPNetConfig
from lineament.methods.kpnet.decode import KPNet
from lineament.methods.mtcnn.decode import MTCNN
from lineament.methods.mtcnn.decode import Config as MTCNNConfig
from lineament.runtime import Graph
from lineament.schemas import Schema

Array = NDArray[Any]


class Settings(Protocol):
    """What every method's settings have: the defaults of a call."""

    threshold: float
    min_face: float


class Decoder(Protocol):
    """A method at inference: pictures in, faces out."""

    schema: Schema

    def __call__(
        self, images: Sequence[Array], *, threshold: float, min_face: float, max_face: float | None
    ) -> list[Faces]:
        """The faces of pictures (h, w, 3) uint8 RGB of any sizes, in order."""
        ...


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        title, paper: for people.
        settings: dataclass of what a weight file says about itself.
        decoder: makes the method from a loaded file and its settings.
        training: module with ``run``, imported only to train.
    """

    title: str
    paper: str
    settings: Callable[..., Any]
    decoder: Callable[[Graph, Any], Decoder]
    training: str


METHODS: dict[str, Method] = {
    "kpnet": Method(
        title="KPNet",
        paper="Song et al. 2020, KPNet: Towards Minimal Face Detector",
        settings=KPNetConfig,
        decoder=KPNet,
        training="lineament.methods.kpnet.training",
    ),
    "mtcnn": Method(
        title="MTCNN",
        paper="Zhang et al. 2016, Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks",
        settings=MTCNNConfig,
        decoder=MTCNN,
        training="lineament.methods.mtcnn.training",
    ),
}


def method(name: str) -> Method:
    """The method of that name.

    Raises:
        OptionError: no such method; the message lists those that exist.
    """
    if name not in METHODS:
        raise OptionError(f"unknown method {name!r}; there are: {', '.join(METHODS)}")
    return METHODS[name]
