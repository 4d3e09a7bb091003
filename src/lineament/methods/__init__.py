"""The one registry of methods, and what a method is: a detector, or a landmark stage that runs behind one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from numpy.typing import NDArray

from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods.isnet.decode import Config as ISNetConfig
from lineament.methods.isnet.decode import ISNet
from lineament.methods.kpnet.decode import Config as KPNetConfig
from lineament.methods.kpnet.decode import KPNetDecoder
from lineament.methods.mtcnn.decode import MTCNN
from lineament.methods.mtcnn.decode import Config as MTCNNConfig
from lineament.methods.settings import DetectorSettings, MethodSettings
from lineament.runtime import Graph
from lineament.schemas import Schema

Array = NDArray[Any]


class Decoder(Protocol):
    """A detector at inference: images in, faces out."""

    schema: Schema

    def __call__(
        self, images: Sequence[Array], *, threshold: float, min_face: float, max_face: float | None
    ) -> list[Faces]:
        """The faces of images (h, w, 3) uint8 RGB of any sizes, in order; best score first in each."""
        ...


@runtime_checkable
class LandmarkStage(Protocol):
    """A second stage at inference: images and the faces in them in, the same faces with better landmarks out.

    Attributes:
        schema: the landmarks that it finds.
    """

    schema: Schema

    def __call__(self, images: Sequence[Array], faces: Sequence[Faces]) -> list[Faces]:
        """The same faces with this stage's schema, landmarks and landmark scores.

        All faces of all images go through the network in one batch, or in a few of bounded memory.

        Args:
            images: (h, w, 3) uint8 RGB of any sizes.
            faces: as many; each may be empty. Their landmarks, of any schema, may be NaN or of no points at all: then
                the boxes say where the faces are.

        Returns:
            One ``Faces`` for each image, with the boxes and scores, and in the order, that were given.
        """
        ...


@dataclass(frozen=True)
class Method:
    """One method; see the two kinds below.

    Attributes:
        title, paper: for people.
        settings: dataclass of what a weight file says about itself; a detector's inherits `DetectorSettings`.
        training: module with ``run``, imported only to train.
    """

    kind: ClassVar[str]
    title: str
    paper: str
    settings: type[MethodSettings]
    training: str


@dataclass(frozen=True)
class DetectionMethod(Method):
    """A method that finds faces.

    Attributes:
        decoder: makes the detector from a loaded file and its settings.
    """

    kind: ClassVar[str] = "detector"
    settings: type[DetectorSettings]
    decoder: Callable[[Graph, Any], Decoder]


@dataclass(frozen=True)
class LandmarkMethod(Method):
    """A method that finds the landmarks of faces that a detector found.

    Attributes:
        stage: makes the landmark stage from a loaded file and its settings.
    """

    kind: ClassVar[str] = "landmark stage"
    stage: Callable[[Graph, Any], LandmarkStage]


METHODS: dict[str, Method] = {
    "kpnet": DetectionMethod(
        title="KPNet",
        paper="Song et al. 2020, KPNet: Towards Minimal Face Detector",
        settings=KPNetConfig,
        decoder=KPNetDecoder,
        training="lineament.methods.kpnet.training",
    ),
    "mtcnn": DetectionMethod(
        title="MTCNN",
        paper="Zhang et al. 2016, Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks",
        settings=MTCNNConfig,
        decoder=MTCNN,
        training="lineament.methods.mtcnn.training",
    ),
    "isnet": LandmarkMethod(
        title="Information-Synthesis Network",
        paper="Pu, Information-Synthesis Network for Facial Landmarks Estimation",
        settings=ISNetConfig,
        training="lineament.methods.isnet.training",
        stage=ISNet,
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
