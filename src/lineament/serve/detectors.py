"""The detectors that a server offers, loaded when they are first asked for."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import fields
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import lineament
from lineament.detector import Detector
from lineament.errors import OptionError
from lineament.methods import METHODS, DetectionMethod, LandmarkMethod
from lineament.weights import DEFAULT, describe_file, models, read_weights

LOADED = 4  # detectors in memory at a time: each holds its weights and the runtime's buffers
INPUT_SIZES = (128, 1280)
"""The smallest and the largest input size. It bounds the memory of a request."""


class Choice(NamedTuple):
    """What may be chosen for a detector.

    Attributes:
        title: The name of the method in its paper.
        default: Whether it is the one that is used unless another is named.
        landmarks: Names for the option ``landmarks``, the default first.
        sizes: Whether it has the option ``input_size``.
    """

    title: str
    default: bool
    landmarks: list[str]
    sizes: bool


class Detectors:
    """The weights that ship with the package, and perhaps a file of your own.

    Args:
        default: A name that ``lineament.models()`` lists, or the path of an ONNX file, which is offered as its stem.
            Only these names can be asked for: no path comes from a request.
        options: ``runtime``, ``device`` and ``threads`` for ``lineament.load``.
    """

    def __init__(self, default: str = DEFAULT, **options: Any) -> None:
        files = {model.name: model.name for model in models()}
        described = {model.name: model for model in models()}
        if default not in files:
            name = Path(default).stem
            read_weights(default)
            files[name], described[name], default = default, describe_file(Path(default)), name
        stages = [name for name, model in described.items() if isinstance(METHODS[model.method], LandmarkMethod)]
        self.choices = {
            name: Choice(
                METHODS[model.method].title,
                name == default,
                [*model.schemas, *stages],
                any(field.name == "input_size" for field in fields(METHODS[model.method].settings)),
            )
            for name, model in described.items()
            if isinstance(METHODS[model.method], DetectionMethod)
        }
        self.default = default
        self._files, self._options, self._lock = files, options, Lock()
        self._loaded: OrderedDict[tuple[str, str | None, int | None, bool], Detector] = OrderedDict()
        self.get()  # a wrong device is reported at the start

    def get(
        self,
        name: str | None = None,
        landmarks: str | None = None,
        input_size: int | None = None,
        verify: bool = False,
    ) -> Detector:
        """A detector.

        Args:
            name: A name from ``choices``. ``None``: the default.
            landmarks: A name from the ``landmarks`` of its choice. ``None``: the first.
            input_size: Longer edge of the image that the network sees. ``None``: the method's default.
            verify: Verify the faces also if the method does not by default.

        Raises:
            OptionError: It is not offered.
        """
        name = name or self.default
        if name not in self.choices:
            raise OptionError(f"unknown method {name!r}; there are: {', '.join(self.choices)}")
        offered = self.choices[name].landmarks
        if landmarks is not None and landmarks not in offered:
            raise OptionError(f"unknown landmarks {landmarks!r}; {name} has: {', '.join(offered)}")
        key = (name, landmarks, input_size, verify)
        with self._lock:
            if key not in self._loaded:
                settings: dict[str, Any] = {"verify": True} if verify else {}
                if input_size is not None:
                    settings["input_size"] = input_size
                self._loaded[key] = lineament.load(
                    self._files[name], landmarks=landmarks, settings=settings, **self._options
                )
            self._loaded.move_to_end(key)
            if len(self._loaded) > LOADED:
                self._loaded.popitem(last=False)
            return self._loaded[key]
