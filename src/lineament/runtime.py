"""Run ONNX files with onnxruntime or OpenVINO. A device that is missing or does not start is an error.

A file may hold several independent networks, its *entries*. Inputs and outputs are named ``entry.name``, and a call
runs one entry. So a cascade is one file, one session and one pool of threads. The first axis of every input is a batch.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lineament.checks import whole
from lineament.errors import LineamentError, MissingExtraError, OptionError, WeightsError

Array = NDArray[Any]

_log = logging.getLogger(__name__)


class Graph(ABC):
    """A loaded ONNX file.

    Attributes:
        metadata: The key-value pairs that the file carries.
        outputs: Names of the outputs of all entries, ``entry.name``.
        device: The device that it runs on.
    """

    metadata: dict[str, str]
    outputs: frozenset[str]
    device: str

    @abstractmethod
    def __init__(self, model: bytes, *, device: str = "cpu", threads: int | None = None) -> None:
        """Load the bytes of an ONNX file for one device."""

    @staticmethod
    @abstractmethod
    def devices() -> list[str]:
        """The devices of this runtime on this machine, fastest first, "cpu" last."""

    @abstractmethod
    def __call__(self, entry: str, outputs: tuple[str, ...], **inputs: Array) -> tuple[Array, ...]:
        """Run one entry. Returns the outputs in the given order. Several threads may call it at the same time."""


PROVIDERS = {"cuda": "CUDAExecutionProvider", "coreml": "CoreMLExecutionProvider", "cpu": "CPUExecutionProvider"}
"""Of onnxruntime, by device, fastest first."""


class OnnxRuntime(Graph):
    """onnxruntime on one device."""

    def __init__(self, model: bytes, *, device: str = "cpu", threads: int | None = None) -> None:
        import onnxruntime as ort

        if device not in self.devices():
            raise OptionError(f"device {device!r} is not there; this onnxruntime has: {', '.join(self.devices())}")
        options = ort.SessionOptions()
        options.log_severity_level = 4  # errors are raised, too
        options.intra_op_num_threads = threads or 0
        # By default, threads go on spinning after a run, and slow what comes next: NumPy, or a second network.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = _session(model, options, PROVIDERS[device])
        if PROVIDERS[device] not in self._session.get_providers():  # onnxruntime itself would go on without a word
            raise OptionError(
                f"device {device!r} does not start: this onnxruntime is built for it and fell back to the processor, "
                "often for want of a driver or library; device 'cpu' is there"
            )
        self.device, self.metadata = device, dict(self._session.get_modelmeta().custom_metadata_map)
        self.outputs = frozenset(output.name for output in self._session.get_outputs())
        # The session wants every input named: the other entries work on an empty batch, which costs microseconds.
        self._idle = {i.name: _empty_batch(i.shape, i.type) for i in self._session.get_inputs()}

    @staticmethod
    def devices() -> list[str]:  # noqa: D102
        import onnxruntime as ort

        return [device for device, provider in PROVIDERS.items() if provider in ort.get_available_providers()]

    def __call__(self, entry: str, outputs: tuple[str, ...], **inputs: Array) -> tuple[Array, ...]:  # noqa: D102
        feed = self._idle | {f"{entry}.{name}": value for name, value in inputs.items()}
        return tuple(self._session.run([f"{entry}.{name}" for name in outputs], feed))


class OpenVino(Graph):
    """OpenVINO on one device. Each entry is compiled when it is first used."""

    def __init__(self, model: bytes, *, device: str = "cpu", threads: int | None = None) -> None:
        there = self.devices()
        import openvino

        core = openvino.Core()
        if device not in there:
            raise OptionError(f"device {device!r} is not there; this OpenVINO has: {', '.join(there)}")
        try:
            self._model = core.read_model(model)
        except RuntimeError as error:
            raise WeightsError(f"OpenVINO cannot load this file as an ONNX model: {error}") from error
        self.metadata = read_metadata(model)
        self.outputs = frozenset(name for output in self._model.outputs for name in output.get_names())
        self._settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        self._core, self.device = core, device
        self._entries: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._lock = threading.Lock()
        if device != "cpu":
            self._try_to_compile()

    @staticmethod
    def devices() -> list[str]:  # noqa: D102
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError.of("openvino", "runtime 'openvino' needs the package of that name") from error
        found = [device.lower() for device in openvino.Core().available_devices]
        return sorted(found, key=lambda device: (not device.startswith("gpu"), device == "cpu"))

    def _try_to_compile(self) -> None:
        """Raise an `OptionError` if the device cannot run the file, before the first image comes."""
        try:
            self._core.compile_model(self._model, self.device.upper(), self._settings)
        except RuntimeError as error:
            raise OptionError(f"device {self.device!r} cannot run this file: {error}") from error

    def __call__(self, entry: str, outputs: tuple[str, ...], **inputs: Array) -> tuple[Array, ...]:  # noqa: D102
        compiled = self._entry(entry, outputs)
        request = compiled.create_infer_request()  # one a call: a request belongs to one thread
        result = request.infer({f"{entry}.{name}": value for name, value in inputs.items()})
        return tuple(np.array(result[f"{entry}.{name}"]) for name in outputs)

    def _entry(self, entry: str, outputs: tuple[str, ...]) -> Any:
        import openvino

        with self._lock:
            if (entry, outputs) not in self._entries:
                wanted = {f"{entry}.{name}" for name in outputs}
                results = [r for r in self._model.get_results() if r.input_value(0).get_names() & wanted]
                inputs = [p for p in self._model.get_parameters() if p.output(0).get_any_name().startswith(f"{entry}.")]
                part = openvino.Model(results, inputs, entry).clone()
                self._entries[entry, outputs] = self._core.compile_model(part, self.device.upper(), self._settings)
            return self._entries[entry, outputs]


RUNTIMES: dict[str, type[Graph]] = {"onnx": OnnxRuntime, "openvino": OpenVino}


def load_graph(model: bytes, *, runtime: str = "onnx", device: str = "cpu", threads: int | None = None) -> Graph:
    """Load the bytes of an ONNX file.

    Args:
        model: The content of the file.
        runtime: "onnx" (onnxruntime) or "openvino".
        device: "cpu", or another device that the runtime has, in upper or lower case. "auto" selects the fastest one
            that starts, and logs it.
        threads: Processor threads for one call. ``None`` leaves it to the runtime (all cores).

    Raises:
        OptionError: The runtime, device or number of threads does not exist. The message names those that do.
        WeightsError: The bytes are not an ONNX model.
        MissingExtraError: The package of the runtime is not installed.
    """
    if not isinstance(runtime, str) or runtime not in RUNTIMES:
        raise OptionError(f"unknown runtime {runtime!r}; there are: {', '.join(RUNTIMES)}")
    if threads is not None:
        threads = whole(threads, "threads must be at least 1, a whole number, or None for all cores", low=1, high=4096)
    if not isinstance(device, str):
        raise OptionError(f"device is a name such as 'cpu', found {device!r:.80}")
    kind, name = RUNTIMES[runtime], device.lower()
    return _fastest(kind, model, threads) if name == "auto" else kind(model, device=name, threads=threads)


def _fastest(kind: type[Graph], model: bytes, threads: int | None) -> Graph:
    """Load the file on the first device that starts."""
    *faster, last = kind.devices()
    for device in faster:
        try:
            graph = kind(model, device=device, threads=threads)
        except LineamentError as error:
            _log.info("device auto: not %s: %s", device, error)
        else:
            _log.info("device auto: %s", device)
            return graph
    _log.info("device auto: %s", last)
    return kind(model, device=last, threads=threads)


def read_metadata(model: bytes) -> dict[str, str]:
    """Read the metadata of an ONNX file.

    Raises:
        WeightsError: The bytes are not an ONNX model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return dict(_session(model, options, PROVIDERS["cpu"]).get_modelmeta().custom_metadata_map)


def _session(model: bytes, options: Any, provider: str) -> Any:
    import onnxruntime as ort

    try:
        return ort.InferenceSession(model, options, providers=[provider])
    except Exception as error:  # onnxruntime raises classes of its own that share no base but this
        raise WeightsError(f"onnxruntime cannot load this file as an ONNX model: {error}") from error


_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}


def _empty_batch(shape: list[Any], dtype: str) -> Array:
    """An array with the shape of an input and an empty batch.

    Other open axes get a length that every network accepts: a convolution needs room for its window even in an empty
    batch.
    """
    if dtype not in _DTYPES:
        raise WeightsError(f"the ONNX model has an input of type {dtype}, so lineament did not export it")
    return np.empty([0, *(d if isinstance(d, int) else 64 for d in shape[1:])], _DTYPES[dtype])
