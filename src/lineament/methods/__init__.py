"""The registry of methods. A method is a detector, or a landmark stage that runs behind one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from numpy.typing import NDArray

from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.methods.foxnet.decode import Config as FoxNetConfig
from lineament.methods.foxnet.decode import FoxNetDecoder
from lineament.methods.isnet.decode import Config as ISNetConfig
from lineament.methods.isnet.decode import ISNet
from lineament.methods.kpnet.decode import Config as KPNetConfig
from lineament.methods.kpnet.decode import KPNetDecoder
from lineament.methods.maskface.decode import Config as MaskFaceConfig
from lineament.methods.maskface.decode import MaskFaceDecoder
from lineament.methods.mtcnn.decode import MTCNN
from lineament.methods.mtcnn.decode import Config as MTCNNConfig
from lineament.methods.settings import DetectorSettings, MethodSettings
from lineament.runtime import Graph
from lineament.schemas import Schema

Array = NDArray[Any]


class Decoder(Protocol):
    """A detector at inference."""

    schema: Schema

    def __call__(
        self, images: Sequence[Array], *, threshold: float, min_face: float, max_face: float | None
    ) -> list[Faces]:
        """Detect faces in images (h, w, 3) uint8 RGB of any sizes. One ``Faces`` per image, best score first."""
        ...


@runtime_checkable
class LandmarkStage(Protocol):
    """A landmark stage at inference: it predicts the landmarks of faces that a detector has found.

    Attributes:
        schema: The schema of the landmarks that it predicts.
    """

    schema: Schema

    def __call__(self, images: Sequence[Array], faces: Sequence[Faces]) -> list[Faces]:
        """Predict landmarks and landmark scores.

        All faces of all images go through the network in one batch, or in a few batches of bounded memory.

        Args:
            images: (h, w, 3) uint8 RGB of any sizes.
            faces: One ``Faces`` per image, possibly empty. Their landmarks may have any schema, and may be NaN or have
                no points. Then the boxes locate the faces.

        Returns:
            One ``Faces`` per image, with the same boxes and scores in the same order.
        """
        ...


@dataclass(frozen=True)
class Method:
    """A method; the two kinds are below.

    Attributes:
        title: The name of the method.
        paper: The paper that describes it.
        settings: The dataclass of its settings. A detector's inherits `DetectorSettings`.
        training: The module that trains it. It is imported only for training.
    """

    kind: ClassVar[str]
    title: str
    paper: str
    settings: type[MethodSettings]
    training: str


@dataclass(frozen=True)
class DetectionMethod(Method):
    """A method that detects faces.

    Attributes:
        decoder: Makes the detector from a loaded file and its settings.
    """

    kind: ClassVar[str] = "detector"
    settings: type[DetectorSettings]
    decoder: Callable[[Graph, Any], Decoder]


@dataclass(frozen=True)
class LandmarkMethod(Method):
    """A method that predicts the landmarks of faces that a detector has found.

    Attributes:
        stage: Makes the landmark stage from a loaded file and its settings.
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
    "maskface": DetectionMethod(
        title="MaskFace",
        paper="Yashunin et al. 2020, MaskFace: multi-task face and landmark detector",
        settings=MaskFaceConfig,
        decoder=MaskFaceDecoder,
        training="lineament.methods.maskface.training",
    ),
    "foxnet": DetectionMethod(
        title="FoxNet",
        paper="Wu et al. 2019, FoxNet: A Multi-face Alignment Method",
        settings=FoxNetConfig,
        decoder=FoxNetDecoder,
        training="lineament.methods.foxnet.training",
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
        OptionError: The method does not exist. The message lists those that do.
    """
    if name not in METHODS:
        raise OptionError(f"unknown method {name!r}; there are: {', '.join(METHODS)}")
    return METHODS[name]
