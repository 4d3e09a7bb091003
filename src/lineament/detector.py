"""Detectors: any picture or list of pictures in, ``Faces`` or a list of them out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, TypeVar, overload

from numpy.typing import NDArray

from lineament.errors import OptionError, WeightsError
from lineament.faces import Faces
from lineament.images import Color, Source, read_image
from lineament.methods import Decoder, Settings, method
from lineament.runtime import load_graph
from lineament.weights import DEFAULT, belongs_to_weights, parse_metadata, read_weights

Array = NDArray[Any]
T = TypeVar("T")
S = TypeVar("S", bound=Source)

PIXELS_AT_ONCE = 16_000_000  # of pictures that go through a method together


class Detector:
    """Finds faces. Made by ``lineament.load``; may be shared by any number of threads.

    Attributes:
        method: name of the method. schema: its landmarks.
        settings: the method's settings, those of the weights with what ``load`` replaced.
    """

    def __init__(self, method: str, decoder: Decoder, settings: Settings) -> None:
        self.method, self.schema, self.settings = method, decoder.schema, settings
        self._decoder = decoder

    @overload
    def detect(
        self,
        images: list[S] | tuple[S, ...],
        *,
        threshold: float | None = None,
        min_face: float | None = None,
        max_face: float | None = None,
        color: Color = "rgb",
    ) -> list[Faces]: ...

    @overload
    def detect(
        self,
        images: Source,
        *,
        threshold: float | None = None,
        min_face: float | None = None,
        max_face: float | None = None,
        color: Color = "rgb",
    ) -> Faces: ...

    def detect(
        self,
        images: Source | list[S] | tuple[S, ...],
        *,
        threshold: float | None = None,
        min_face: float | None = None,
        max_face: float | None = None,
        color: Color = "rgb",
    ) -> Faces | list[Faces]:
        """The faces of one picture, or of each of a list of pictures of any sizes, in order.

        A list gives the same numbers as its pictures one by one. A picture without a face gives an empty ``Faces``.

        Args:
            images: a path, the bytes of a file, a PIL image or an array (see ``read_image``), or a list of those.
            threshold: lowest score, in [0, 1]; ``None`` for the method's own.
            min_face, max_face: sides in pixels of the smallest and largest faces that are looked for; ``None`` for the
                method's own, and for no upper limit. A face a little outside the range may still be found.
            color: order of an array's channels, "rgb" or "bgr" (OpenCV's). Files say their own.

        Raises:
            ImageError: a picture cannot be read.
            OptionError: an option is outside its range.
        """
        threshold = self.settings.threshold if threshold is None else threshold
        min_face = self.settings.min_face if min_face is None else min_face
        if not 0 <= threshold <= 1:
            raise OptionError(f"threshold must lie in [0, 1], found {threshold}")
        if not (math.isfinite(min_face) and min_face >= 1):
            raise OptionError(f"min_face is a size in pixels, at least 1, found {min_face}")
        if max_face is not None and not max_face >= min_face:
            raise OptionError(f"max_face ({max_face}) must not be below min_face ({min_face}); both in pixels")
        several = isinstance(images, (list, tuple))
        sources: Sequence[Source] = images if isinstance(images, (list, tuple)) else [images]
        found: list[Faces] = []
        pictures = (read_image(source, color=color) for source in sources)
        for group in in_groups(pictures, lambda picture: picture.shape[0] * picture.shape[1]):
            found += self._decoder(group, threshold=threshold, min_face=min_face, max_face=max_face)
        return found if several else found[0]


def load(
    name: str | Path = DEFAULT,
    *,
    runtime: str = "onnx",
    device: str = "cpu",
    threads: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Detector:
    """A detector from shipped weights or from a file.

    Args:
        name: a name that ``lineament.models()`` lists, or the path of an ONNX file that lineament exported.
        runtime: "onnx" (onnxruntime) or "openvino".
        device: "cpu", or a device that the runtime has; never silently another.
        threads: processor threads for one call; ``None`` for all cores.
        settings: settings of the method to replace, e.g. ``{"pnet_threshold": 0.5}`` of MTCNN.

    Raises:
        OptionError: no such name, runtime, device or setting; the message lists those that exist.
        WeightsError: the file is damaged or not one of ours.
    """
    graph = load_graph(read_weights(name), runtime=runtime, device=device, threads=threads)
    only = graph.metadata.get("runtime", runtime)
    if only != runtime:
        raise OptionError(f"{name} computes right with runtime {only!r} alone, found {runtime!r}")
    of, config = parse_metadata(graph.metadata)
    kind = method(of)
    try:
        own = kind.settings(**config)
    except TypeError as error:
        raise WeightsError(f"this file's settings are not those of this version's {of}: {error}") from error
    known = [field.name for field in fields(own) if not belongs_to_weights(field)]
    fixed = {field.name for field in fields(own)} - set(known)
    for setting, value in (settings or {}).items():
        if setting in fixed:
            raise OptionError(f"{of}'s setting {setting!r} is part of the weights; only a training changes it")
        if setting not in known:
            raise OptionError(f"{of} has no setting {setting!r}; it has: {', '.join(known)}")
        if not _is_like(value, getattr(own, setting)):
            raise OptionError(f"{of}'s setting {setting!r} is e.g. {shortened(getattr(own, setting))}, found {value!r}")
    own = replace(own, **(settings or {}))
    return Detector(of, kind.decoder(graph, own), own)


def _is_like(value: Any, usual: Any) -> bool:
    """Whether a setting is a number, or a list of its kind or none, as its usual value is; of what is neither, any."""
    if isinstance(usual, (list, tuple)):
        return value is None or (
            isinstance(value, (list, tuple)) and all(_is_like(v, usual[0] if usual else 0) for v in value)
        )
    return not isinstance(usual, (int, float)) or isinstance(value, (int, float))


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
