"""Detectors: an image in, its ``Faces`` out; several images in, a list of ``Faces`` out."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

import lineament
from lineament.checks import number
from lineament.conventions import convention
from lineament.errors import OptionError
from lineament.faces import Faces, downward
from lineament.images import Color, Source, is_source, read_image
from lineament.methods import (
    METHODS,
    Decoder,
    DetectionMethod,
    LandmarkMethod,
    LandmarkStage,
    Method,
    VerificationMethod,
    parse_weights,
)
from lineament.methods.settings import ConventionSettings, DetectorSettings, ViewSettings, checked
from lineament.methods.verifier.decode import OVERLAP, Verified, Verifier
from lineament.runtime import Graph
from lineament.weights import DEFAULT, belongs_to_weights, is_weights, models, read_weights

Array = NDArray[Any]
T = TypeVar("T")
S = TypeVar("S", bound=Source)

_log = logging.getLogger(__name__)

PIXELS_AT_ONCE = 16_000_000  # in the images that a method processes together
VERIFIERS = {"floats": "verifier", "bytes": "verifier-int8"}  # weights that verify faces, by what the detector is in
SURE = 0.999  # a score above this is no more evidence


class Detector:
    """A face detector. ``lineament.load`` makes it. Threads may share it, and it can be pickled.

    Attributes:
        method: The name of the method.
        schema: The landmark schema of the faces that ``detect`` returns.
        settings: The settings in use: those of the weight file, except where ``load`` replaced them.
        weights: The SHA-256 of each weight file, by the name or path it was loaded from: the detector's, the
            verifier's with the setting ``verify``, and the landmark stage's if ``load`` received it by name or path.
        device: The device that the detector runs on.
    """

    def __init__(
        self,
        method: str,
        decoder: Decoder,
        settings: DetectorSettings,
        stage: LandmarkStage | None = None,
        again: Callable[[], Detector] | None = None,
        weights: Mapping[str, str] = MappingProxyType({}),
        device: str = "cpu",
    ) -> None:
        self.method, self.settings = method, settings
        self.weights, self.device = dict(weights), device
        self._again, self._told = again, False
        self.schema = stage.schema if stage else decoder.schema
        self._decoder, self._stage = decoder, stage

    def __repr__(self) -> str:
        weights = " + ".join(f"{name} ({digest[:12]})" for name, digest in self.weights.items()) or "own weights"
        shown = {name: getattr(self.settings, name, None) for name in ("threshold", "input_size")}
        told = ", ".join(f"{name}={value}" for name, value in shown.items() if value is not None)
        version = f"lineament {lineament.__version__}"
        return f"Detector({self.method}: {weights}, {told}, schema {self.schema.name!r}, on {self.device}, {version})"

    def __reduce__(self) -> tuple[Callable[[], Detector], tuple[()]]:
        """Pickle the call of ``load`` that made the detector. Unpickling reads the weights again.

        Raises:
            OptionError: The detector was not made by ``load``, or it has a stage from `load_stage`.
        """
        if self._again is None:
            raise OptionError("only detectors that lineament.load made can be pickled; make this one where it is used")
        return self._again, ()

    @overload
    def detect(  # type: ignore[overload-overlap] # a str is an iterable of str, and one path
        self,
        images: Source,
        *,
        threshold: float | None = None,
        min_face: float | None = None,
        max_face: float | None = None,
        color: Color = "rgb",
    ) -> Faces: ...

    @overload
    def detect(
        self,
        images: Iterable[S],
        *,
        threshold: float | None = None,
        min_face: float | None = None,
        max_face: float | None = None,
        color: Color = "rgb",
    ) -> list[Faces]: ...

    def detect(
        self,
        images: Source | Iterable[S],
        *,
        threshold: float | None = None,
        min_face: float | None = None,
        max_face: float | None = None,
        color: Color = "rgb",
    ) -> Faces | list[Faces]:
        """Detect the faces in one image or in several.

        Several images may have different sizes. They give the same numbers as the images one by one.

        Args:
            images: One image: a path, an open file, bytes, a Pillow image or an array (see ``read_image``). Or several:
                a list or any other iterable of these.
            threshold: The lowest confidence score to return, in [0, 1]. ``None``: the method's default.
            min_face: The side of the smallest face to look for, in pixels of the image. ``None``: the method's default.
                A slightly smaller face may still be returned. If the input size in use cannot show faces that small,
                a warning is logged once. It says what finds them.
            max_face: The side of the largest face to look for, in pixels of the image. ``None``: no limit.
            color: The channel order of arrays, "rgb" or "bgr" (OpenCV). Files and Pillow images know their own.

        Returns:
            One ``Faces`` for one image, a list of ``Faces`` for several, in their order. The ``Faces`` of an image
            without a face is empty.

        Raises:
            ImageError: An image cannot be read.
            OptionError: An argument is out of range.
        """
        threshold = self.settings.threshold if threshold is None else threshold
        wanted = min_face
        min_face = self.settings.min_face if min_face is None else min_face
        threshold = number(threshold, "threshold must lie in [0, 1]", low=0, high=1)
        min_face = number(min_face, "min_face is a size in pixels, at least 1", low=1)
        if max_face is not None and not (isinstance(max_face, float) and max_face == math.inf):
            above = f"max_face is a size in pixels, not below min_face ({min_face:g})"
            max_face = number(max_face, above, low=min_face)
        several = isinstance(images, Iterable) and not is_source(images) and not isinstance(images, (Set, Mapping))
        sources = cast("Iterable[Source]", images if several else [images])
        found: list[Faces] = []
        arrays = (read_image(source, color=color) for source in sources)
        # small images are enlarged to the input of the network
        enlarged = self.settings.input_size**2 if isinstance(self.settings, ViewSettings) else 0
        for group in in_groups(arrays, lambda array: max(array.shape[0] * array.shape[1], enlarged)):
            decode = partial(self._decoder, threshold=threshold, min_face=min_face, max_face=max_face)
            faces = upright(group, decode) if self.settings.turns else decode(group)
            found += self._stage(group, faces) if self._stage else faces
            if wanted is not None:
                self._tell_overlooked(min_face, faces)
        return found if several else found[0]

    def describe(self, *, threshold: float | None = None, min_face: float | None = None) -> dict[str, Any]:
        """Describe the detector for records of its results: version, weights, thresholds, input size and device.

        Args:
            threshold: The lowest confidence score in use. ``None``: the method's default.
            min_face: The smallest face in use, in pixels. ``None``: the method's default.
        """
        return {
            "version": lineament.__version__,
            "weights": self.weights,
            "threshold": self.settings.threshold if threshold is None else threshold,
            "min_face": self.settings.min_face if min_face is None else min_face,
            "input_size": getattr(self.settings, "input_size", None),
            "device": self.device,
        }

    def _tell_overlooked(self, min_face: float, faces: list[Faces]) -> None:
        """Log once if the detector cannot find faces as small as the caller asked for."""
        if self._told or not isinstance(self.settings, ViewSettings):
            return
        reasons = (self.settings.overlooked(min_face, found.image_size) for found in faces)
        if reason := next(filter(None, reasons), ""):
            self._told = True
            _log.warning("%s", reason)


def upright(images: Sequence[Array], decode: Callable[[Sequence[Array]], list[Faces]]) -> list[Faces]:
    """Detect in all four orientations of each image.

    A detector finds some faces that lie on their side, with nearly the same scores. So each face counts by how upright
    it is: by the cosine of its roll, from the landmarks. Many faint detections must not outweigh a sure one, so a face
    also counts by its evidence, -log(1 - score). The sum for upright faces is -log of the probability that none is one.

    Args:
        images: (h, w, 3) each.
        decode: Detects.

    Returns:
        The faces of the orientation with the largest sum, in coordinates of the image as it is.
    """
    turned = [decode([np.ascontiguousarray(np.rot90(image, quarter)) for image in images]) for quarter in range(4)]
    best = [int(np.argmax([_uprightness(faces) for faces in four])) for four in zip(*turned, strict=True)]
    return [turned[quarter][i].turned(-90 * quarter) for i, quarter in enumerate(best)]


def _uprightness(faces: Faces) -> float:
    """The sum of the evidence for each face times the cosine of its roll, which is 1 where landmarks do not tell it."""
    evidence = -np.log1p(-np.minimum(faces.scores, SURE))
    return float((evidence * downward(faces)[:, 1]).sum())


def load(
    name: str | Path = DEFAULT,
    *,
    landmarks: str | Path | LandmarkStage | None = None,
    runtime: str = "onnx",
    device: str = "cpu",
    threads: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Detector:
    """Load a detector from shipped weights or from a file.

    Args:
        name: A name that ``lineament.models()`` lists, or the path of an ONNX file that lineament exported.
        landmarks: What predicts the landmarks. ``None``: the detector, in its first schema. A schema name such as
            ``"68"``: the detector, in that schema, if its weights have it. The name or path of the weights of a
            landmark stage, or any `lineament.methods.LandmarkStage`: the stage runs behind the detector and replaces
            landmarks and landmark scores. Boxes and scores stay the detector's.
        runtime: "onnx" (onnxruntime) or "openvino".
        device: "cpu", or another device that the runtime has. A missing device is an error, never replaced. "auto": the
            fastest device that the runtime has and that starts; the detector's ``device`` says which.
        threads: The number of processor threads for one call. ``None``: all cores.
        settings: Settings of the method to replace, such as ``{"pnet_threshold": 0.5}`` for MTCNN.

    Raises:
        OptionError: The name, schema, runtime, device or setting does not exist. The message lists those that do.
        WeightsError: The file is damaged, or lineament did not export it.
    """
    graph, of, kind, own, digest = _open(name, runtime, device, threads)
    weights = {str(name): digest}
    if isinstance(kind, VerificationMethod):
        raise OptionError(
            f"{name} verifies faces that a detector found: load a detector, as in "
            f"lineament.load('maskface', settings={{'verify': {str(name)!r}}}), on the command line with --verify"
        )
    if not isinstance(kind, DetectionMethod):
        raise OptionError(
            f"{name} finds the landmarks of faces that a detector found: load it behind one, as in "
            f"lineament.load({DEFAULT!r}, landmarks={str(name)!r}), on the command line by --landmarks {name}"
        )
    stage = None
    if isinstance(landmarks, (str, Path)):
        if str(landmarks) in own.offered:
            own = replace(own, landmarks=str(landmarks))
        elif is_weights(str(landmarks)):
            stage, weights[str(landmarks)] = _load_stage(landmarks, runtime, device, threads)
        else:
            raise OptionError(
                f"landmarks {str(landmarks)!r}: {name} has no such schema; it has: {', '.join(own.offered)}. "
                f"Nor are there weights of a landmark stage of that name; there are: {_shipped_stages()}, and any ONNX "
                "file of one"
            )
    elif landmarks is None or hasattr(landmarks, "schema"):
        stage = landmarks
    else:
        raise OptionError(
            f"landmarks is the name of a schema, such as '68', of weights of a landmark stage, or such a stage, "
            f"found {landmarks!r:.80}"
        )
    own = _replaced(of, own, {} if settings is None else settings)
    kept = {setting: getattr(own, setting) for setting in settings or ()}  # the caller may change theirs later
    again = partial(load, name, landmarks=landmarks, runtime=runtime, device=device, threads=threads, settings=kept)
    if own.verify:
        second = own.verify if isinstance(own.verify, str) else verifier_of(graph.metadata)
        verifier, weights[second] = _load_verifier(second, own, runtime, device, threads)
        decoder = _verified(kind, graph, own, verifier)
    else:
        decoder = kind.decoder(graph, own)
    return Detector(of, decoder, own, stage, again, weights, graph.device)


def _open(name: str | Path, runtime: str, device: str, threads: int | None) -> tuple[Graph, str, Method, Any, str]:
    """What `open_weights` returns, and the SHA-256 of the same bytes: the file may be replaced at any time."""
    content = read_weights(name)
    return *parse_weights(content, name, runtime, device, threads), hashlib.sha256(content).hexdigest()


def _load_verifier(
    name: str, own: DetectorSettings, runtime: str, device: str, threads: int | None
) -> tuple[Verifier, str]:
    """The verifier behind a detector with these settings, and the SHA-256 of its file."""
    graph, _, kind, config, digest = _open(name, runtime, device, threads)
    if not isinstance(kind, VerificationMethod):
        raise OptionError(f"verify is true, false, or names weights of a verifier or a file; {name} is a {kind.kind}")
    overlap = max(OVERLAP, getattr(own, "nms", 0.0)) if own.suppression == "nms" else None
    return kind.verifier(graph, config, mirror=own.flip, overlap=overlap, over=own.over), digest


def verifier_of(metadata: Mapping[str, str]) -> str:
    """The shipped verifier behind a detector whose file has this metadata: in 8-bit integers if the detector is."""
    return VERIFIERS["bytes" if "runtime" in metadata else "floats"]  # files of bytes name the runtime that they need


def _verified(kind: DetectionMethod, graph: Graph, own: DetectorSettings, verifier: Verifier) -> Decoder:
    """The decoder of a detector whose faces are verified. The convention of its boxes counts after the verifier."""
    if not isinstance(own, ConventionSettings):
        return Verified(kind.decoder(graph, own), verifier, limited=not isinstance(own, ViewSettings))
    return Verified(kind.decoder(graph, replace(own, convention="wider")), verifier, convention(own.convention))


def load_stage(
    name: str | Path,
    *,
    runtime: str = "onnx",
    device: str = "cpu",
    threads: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> LandmarkStage:
    """Load a landmark stage, for ``load(..., landmarks=...)`` or for boxes from another source.

    Args:
        name: The name of the shipped weights of a landmark stage, or the path of an ONNX file that lineament exported.
        runtime: See ``load``.
        device: See ``load``.
        threads: See ``load``.
        settings: Settings of the stage to replace.

    Raises:
        OptionError: The weights do not exist or are a detector's, or an argument is wrong as in ``load``.
        WeightsError: The file is damaged, or lineament did not export it.
    """
    return _load_stage(name, runtime, device, threads, {} if settings is None else settings)[0]


def _load_stage(
    name: str | Path, runtime: str, device: str, threads: int | None, settings: Mapping[str, Any] = MappingProxyType({})
) -> tuple[LandmarkStage, str]:
    """A landmark stage, and the SHA-256 of its file."""
    graph, of, kind, own, digest = _open(name, runtime, device, threads)
    if not isinstance(kind, LandmarkMethod):
        raise OptionError(
            f"{name} are weights of {of}, a {kind.kind}; weights of a landmark stage are: {_shipped_stages()}, or the "
            "path of such an ONNX file"
        )
    return kind.stage(graph, _replaced(of, own, settings)), digest


def _shipped_stages() -> str:
    stages = [model.name for model in models() if isinstance(METHODS[model.method], LandmarkMethod)]
    return ", ".join(stages) or "none that ship"


def _replaced(of: str, own: Any, settings: Mapping[str, Any]) -> Any:
    """A method's settings, some of them replaced.

    Raises:
        OptionError: The method has no such setting, the value has the wrong type or is out of range, or the weights fix
            the setting.
    """
    if not isinstance(settings, Mapping):
        raise OptionError(f"settings are values by name, {{name: value}}, found {settings!r:.80}")
    values = {}
    known = [field.name for field in fields(own) if not belongs_to_weights(field)]
    fixed = {field.name for field in fields(own)} - set(known)
    for setting, value in settings.items():
        if setting in fixed:
            raise OptionError(f"{of}'s setting {setting!r} is part of the weights; only a training changes it")
        if setting not in known:
            raise OptionError(f"{of} has no setting {setting!r}; it has: {', '.join(known)}")
        try:
            values[setting] = checked(type(own), setting, value, getattr(own, setting))
        except OptionError as error:
            raise OptionError(f"{of}'s {error}") from None
    return replace(own, **values)


def in_groups(items: Iterable[T], pixels: Callable[[T], int]) -> Iterator[list[T]]:
    """Group items lazily, up to ``PIXELS_AT_ONCE`` pixels in a group; a larger item is a group of its own."""
    group: list[T] = []
    total = 0
    for item in items:
        size = pixels(item)
        if group and total + size > PIXELS_AT_ONCE:
            yield group
            group, total = [], 0
        group.append(item)
        total += size
    if group:
        yield group
