"""The registry of methods. A method is a detector, or a landmark stage or a verifier that runs behind one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from numpy.typing import NDArray

from lineament.errors import OptionError, WeightsError
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
from lineament.methods.verifier.decode import Config as VerifierConfig
from lineament.methods.verifier.decode import Verifier
from lineament.runtime import Graph, load_graph
from lineament.schemas import Schema
from lineament.weights import parse_metadata, read_weights

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
    """A method; the three kinds are below.

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


@dataclass(frozen=True)
class VerificationMethod(Method):
    """A method that verifies the faces that a detector has found.

    Attributes:
        verifier: The class of the verifier, which is made from a loaded file and its settings.
    """

    kind: ClassVar[str] = "verifier"
    verifier: type[Verifier]


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
    "verifier": VerificationMethod(
        title="Verifier",
        paper="none: ours",
        settings=VerifierConfig,
        training="lineament.methods.verifier.training",
        verifier=Verifier,
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


def open_weights(
    name: str | Path, runtime: str = "onnx", device: str = "cpu", threads: int | None = None
) -> tuple[Graph, str, Method, Any]:
    """Load weights: the graph, the name of their method, the method, and the settings that the file holds.

    Raises:
        OptionError: The weights do not exist, or they compute wrongly in that runtime.
        WeightsError: The file is damaged, or lineament did not export it. The message names the file.
    """
    return parse_weights(read_weights(name), name, runtime, device, threads)


def parse_weights(
    content: bytes, name: str | Path, runtime: str = "onnx", device: str = "cpu", threads: int | None = None
) -> tuple[Graph, str, Method, Any]:
    """Load weights that were read already, as `open_weights`. Messages have the name."""
    try:
        graph = load_graph(content, runtime=runtime, device=device, threads=threads)
        of, config = parse_metadata(graph.metadata)
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error
    only = graph.metadata.get("runtime", runtime)
    if only != runtime:
        raise OptionError(f"{name} computes right with runtime {only!r} alone, found {runtime!r}")
    kind = method(of)
    try:
        return graph, of, kind, kind.settings(**config)
    except TypeError as error:
        raise WeightsError(f"{name}: these settings are not those of this version's {of}: {error}") from error
