"""Detectors: any picture or list of pictures in, ``Faces`` or a list of them out."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from reprlib import repr as shortened
from types import MappingProxyType
from typing import Any, TypeVar, cast, get_type_hints, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

import lineament
from lineament.checks import number
from lineament.errors import OptionError, WeightsError
from lineament.faces import Faces
from lineament.images import Color, Source, is_source, read_image
from lineament.methods import METHODS, Decoder, DetectionMethod, LandmarkMethod, LandmarkStage, Method, method
from lineament.methods.settings import DetectorSettings, ViewSettings
from lineament.runtime import Graph, load_graph
from lineament.weights import DEFAULT, belongs_to_weights, is_weights, models, parse_metadata, read_weights

Array = NDArray[Any]
T = TypeVar("T")
S = TypeVar("S", bound=Source)

_log = logging.getLogger(__name__)

PIXELS_AT_ONCE = 16_000_000  # of pictures that go through a method together


class Detector:
    """Finds faces. Made by ``lineament.load``; may be shared by any number of threads, and pickled.

    Attributes:
        method: name of the method.
        schema: the landmarks of the faces that ``detect`` returns.
        settings: the method's settings, those of the weights with what ``load`` replaced.
        weights: SHA-256 of the weight files by the name or path they were loaded from: the method's, and those of a
            landmark stage that ``load`` was given by name or path.
    """

    def __init__(
        self,
        method: str,
        decoder: Decoder,
        settings: DetectorSettings,
        stage: LandmarkStage | None = None,
        again: Callable[[], Detector] | None = None,
        weights: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.method, self.settings = method, settings
        self.weights = dict(weights)
        self._again, self._told = again, False
        self.schema = stage.schema if stage else decoder.schema
        self._decoder, self._stage = decoder, stage

    def __repr__(self) -> str:
        weights = " + ".join(f"{name} ({digest[:12]})" for name, digest in self.weights.items()) or "own weights"
        shown = {name: getattr(self.settings, name, None) for name in ("threshold", "input_size")}
        told = ", ".join(f"{name}={value}" for name, value in shown.items() if value is not None)
        version = f"lineament {lineament.__version__}"
        return f"Detector({self.method}: {weights}, {told}, schema {self.schema.name!r}, {version})"

    def __reduce__(self) -> tuple[Callable[[], Detector], tuple[()]]:
        """Pickled as the call of ``load`` that made it: the weights are read again, from the same name or path.

        Raises:
            OptionError: it was not made by ``load``, or with a stage of `load_stage`, which cannot be pickled.
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
        """The faces of one picture, or of each of a list of pictures of any sizes, in order.

        A list gives the same numbers as its pictures one by one. A picture without a face gives an empty ``Faces``.

        Args:
            images: a path, an open file or its bytes, a Pillow image or an array (see ``read_image``), or a list or any
                other iterable of those.
            threshold: lowest score, in [0, 1]; ``None`` for the method's own.
            min_face, max_face: sides in pixels of the smallest and largest faces that are looked for; ``None`` for the
                method's own, and for no upper limit. A face a little outside the range may still be found. Where a
                method that brings images to one size cannot find faces as small as ``min_face``, the log says so, once,
                with what finds them.
            color: order of an array's channels, "rgb" or "bgr" (OpenCV's). Files say their own.

        Raises:
            ImageError: a picture cannot be read.
            OptionError: an option is outside its range.
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
        pictures = (read_image(source, color=color) for source in sources)
        for group in in_groups(pictures, lambda picture: picture.shape[0] * picture.shape[1]):
            faces = self._decoder(group, threshold=threshold, min_face=min_face, max_face=max_face)
            found += self._stage(group, faces) if self._stage else faces
            if wanted is not None:
                self._tell_overlooked(min_face, faces)
        return found if several else found[0]

    def _tell_overlooked(self, min_face: float, faces: list[Faces]) -> None:
        """Log once that faces as small as asked for cannot be found, where that is so."""
        if self._told or not isinstance(self.settings, ViewSettings):
            return
        reasons = (self.settings.overlooked(min_face, found.image_size) for found in faces)
        if reason := next(filter(None, reasons), ""):
            self._told = True
            _log.warning("%s", reason)


def load(
    name: str | Path = DEFAULT,
    *,
    landmarks: str | Path | LandmarkStage | None = None,
    runtime: str = "onnx",
    device: str = "cpu",
    threads: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Detector:
    """A detector from shipped weights or from a file.

    Args:
        name: a name that ``lineament.models()`` lists, or the path of an ONNX file that lineament exported.
        landmarks: what finds the landmarks; ``None`` for the weights' own first schema. A schema that the weights
            have (``"68"``) is selected. Weights of a landmark stage (a name, or the path of an ONNX file) run behind
            the detector: boxes and scores stay, landmarks and landmark scores are the stage's. So does any other
            `lineament.methods.LandmarkStage`.
        runtime: "onnx" (onnxruntime) or "openvino".
        device: "cpu", or a device that the runtime has; never silently another.
        threads: processor threads for one call; ``None`` for all cores.
        settings: settings of the method to replace, e.g. ``{"pnet_threshold": 0.5}`` of MTCNN.

    Raises:
        OptionError: no such name, landmarks, runtime, device or setting; the message lists those that exist.
        WeightsError: the file is damaged or not one of ours.
    """
    graph = _graph(name, runtime, device, threads)
    of, kind, own = _described(graph)
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
            stage = load_stage(landmarks, runtime=runtime, device=device, threads=threads)
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
            f"landmarks is a schema, weights of a landmark stage, or such a stage, found {landmarks!r:.80}"
        )
    own = _replaced(of, own, {} if settings is None else settings)
    again = partial(load, name, landmarks=landmarks, runtime=runtime, device=device, threads=threads, settings=settings)
    files = [name, landmarks] if isinstance(landmarks, (str, Path)) and stage else [name]
    weights = {str(file): hashlib.sha256(read_weights(file)).hexdigest() for file in files}
    return Detector(of, kind.decoder(graph, own), own, stage, again, weights)


def load_stage(
    name: str | Path,
    *,
    runtime: str = "onnx",
    device: str = "cpu",
    threads: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> LandmarkStage:
    """A landmark stage, for ``load(..., landmarks=...)`` or for faces that come from elsewhere.

    Args:
        name: the name of shipped weights of such a stage, or the path of an ONNX file that lineament exported.
        runtime, device, threads, settings: as of ``load``.

    Raises:
        OptionError: no such weights, or a detector's; or as ``load`` does.
        WeightsError: the file is damaged or not one of ours.
    """
    graph = _graph(name, runtime, device, threads)
    of, kind, own = _described(graph)
    if not isinstance(kind, LandmarkMethod):
        raise OptionError(
            f"{name} are weights of {of}, a detector; weights of a landmark stage are: {_shipped_stages()}, or the "
            "path of such an ONNX file"
        )
    return kind.stage(graph, _replaced(of, own, {} if settings is None else settings))


def _graph(name: str | Path, runtime: str, device: str, threads: int | None) -> Graph:
    """Loaded weights, if they compute right in that runtime."""
    graph = load_graph(read_weights(name), runtime=runtime, device=device, threads=threads)
    only = graph.metadata.get("runtime", runtime)
    if only != runtime:
        raise OptionError(f"{name} computes right with runtime {only!r} alone, found {runtime!r}")
    return graph


def _described(graph: Graph) -> tuple[str, Method, Any]:
    """The name of the weights' method, the method, and the settings that the file holds."""
    of, config = parse_metadata(graph.metadata)
    kind = method(of)
    try:
        return of, kind, kind.settings(**config)
    except TypeError as error:
        raise WeightsError(f"this file's settings are not those of this version's {of}: {error}") from error


def _shipped_stages() -> str:
    stages = [model.name for model in models() if isinstance(METHODS[model.method], LandmarkMethod)]
    return ", ".join(stages) or "none that ship"


def _replaced(of: str, own: Any, settings: Mapping[str, Any]) -> Any:
    """A method's settings with others in place of some.

    Raises:
        OptionError: the method has no such setting, or of another kind, or it is part of the weights.
    """
    if not isinstance(settings, Mapping):
        raise OptionError(f"settings are values by name, {{name: value}}, found {settings!r:.80}")
    hints, values = get_type_hints(type(own)), {}
    known = [field.name for field in fields(own) if not belongs_to_weights(field)]
    fixed = {field.name for field in fields(own)} - set(known)
    for setting, value in settings.items():
        if setting in fixed:
            raise OptionError(f"{of}'s setting {setting!r} is part of the weights; only a training changes it")
        if setting not in known:
            raise OptionError(f"{of} has no setting {setting!r}; it has: {', '.join(known)}")
        try:
            values[setting] = msgspec.convert(_plain(value), hints[setting])
        except (msgspec.ValidationError, OptionError) as error:
            example = shortened(getattr(own, setting))
            raise OptionError(f"{of}'s setting {setting!r} is e.g. {example}, found {value!r:.80}: {error}") from None
    return replace(own, **values)


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays, and sequences of them, as plain Python.

    Raises:
        OptionError: a number is not finite.
    """
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise OptionError("expected a finite number")
    return value


def in_groups(items: Iterable[T], pixels: Callable[[T], int]) -> Iterator[list[T]]:
    """Items in groups of at most ``PIXELS_AT_ONCE``, or of one that has more; each is taken up only when it is due."""
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
