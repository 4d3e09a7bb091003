"""Files with several entries on both runtimes, the export, and its comparison with PyTorch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from torch import Tensor, nn  # noqa: E402

from lineament.errors import LineamentError, OptionError, WeightsError  # noqa: E402
from lineament.export import Entry, export  # noqa: E402
from lineament.runtime import RUNTIMES, load_graph, read_metadata  # noqa: E402


class Twice(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"double": 2 * x, "sum": x.sum(dim=(1, 2, 3))}


class Blur(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"map": self.conv(image.permute(0, 3, 1, 2).float())}


class Wavering(nn.Module):
    """A module with another output at every call, so no export can equal it."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"noise": x + torch.rand_like(x)}


ENTRIES = {
    "first": Entry(Twice(), {"x": torch.rand(2, 3, 4, 4)}, {"x": {0: "n"}}),
    "second": Entry(
        Blur(), {"image": torch.randint(0, 256, (1, 9, 8, 3), dtype=torch.uint8)}, {"image": {0: "n", 1: "h", 2: "w"}}
    ),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(ENTRIES, tmp_path_factory.mktemp("export") / "two.onnx", metadata={"method": "none", "who": "müller"})


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_entries_run_alone_at_any_size(file: Path, runtime: str) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    graph = load_graph(file.read_bytes(), runtime=runtime, threads=1)
    assert graph.metadata["who"] == "müller"
    rng = np.random.default_rng(0)
    for n in (1, 5):
        x = rng.random((n, 3, 4, 4), np.float32)
        total, double = graph("first", ("sum", "double"), x=x)  # in the order asked for
        np.testing.assert_allclose(total, x.sum(axis=(1, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(double, 2 * x)
    for h, w in ((3, 3), (17, 40)):
        image = rng.integers(0, 256, (1, h, w, 3), dtype=np.uint8)
        (found,) = graph("second", ("map",), image=image)
        with torch.no_grad():
            np.testing.assert_allclose(found, ENTRIES["second"].module(torch.from_numpy(image))["map"], atol=1e-2)


def test_the_file_carries_its_metadata(file: Path) -> None:
    assert read_metadata(file.read_bytes()) == {"method": "none", "who": "müller"}


def test_an_export_that_differs_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(LineamentError, match=r"noise differs from torch by"):
        export({"bad": Entry(Wavering(), {"x": torch.rand(1, 2)}, {"x": {0: "n"}})}, tmp_path / "x.onnx", metadata={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_what_is_not_there_is_named(file: Path, runtime: str) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    with pytest.raises(OptionError, match=r"'tpu'.*cpu"):
        load_graph(file.read_bytes(), runtime=runtime, device="tpu")
    with pytest.raises(WeightsError, match="cannot load"):
        load_graph(b"no model", runtime=runtime)
    with pytest.raises(WeightsError, match="cannot load"):
        read_metadata(b"no model")


def test_inputs_of_another_type_are_not_ours(tmp_path: Path) -> None:
    halves = torch.rand(2, 3, 4, 4).half()
    torch.onnx.export(nn.ReLU().eval(), (halves,), tmp_path / "halves.onnx", dynamo=True, verbose=False)
    with pytest.raises(WeightsError, match=r"input of type tensor\(float16\), so lineament did not export it"):
        load_graph((tmp_path / "halves.onnx").read_bytes())


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_devices_case_does_not_matter(file: Path, runtime: str) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    assert load_graph(file.read_bytes(), runtime=runtime, device="CPU").metadata["who"] == "müller"


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_device_that_does_not_start_is_an_error_not_the_processor(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, onnxruntime is built for CUDA and the machine has no driver. It falls back without an error."""
    monkeypatch.setattr(
        "onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(OptionError, match="'cuda' does not start"):
        load_graph(file.read_bytes(), device="cuda")


def test_unknown_runtime_and_no_threads_teach(file: Path) -> None:
    with pytest.raises(OptionError, match=r"'tensorrt'.*onnx, openvino"):
        load_graph(file.read_bytes(), runtime="tensorrt")
    with pytest.raises(OptionError, match="at least 1"):
        load_graph(file.read_bytes(), threads=0)


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_auto_is_the_fastest_device_that_starts(
    file: Path, runtime: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    caplog.set_level("INFO", "lineament")
    there = RUNTIMES[runtime].devices()
    assert there[-1] == "cpu"
    monkeypatch.setattr(RUNTIMES[runtime], "devices", staticmethod(lambda: ["cuda", "cpu"]))
    assert load_graph(file.read_bytes(), runtime=runtime, device="AUTO").device == "cpu"
    assert [message.split(":")[1] for message in caplog.messages] == [" not cuda", " cpu"]
    with pytest.raises(WeightsError, match="cannot load"):
        load_graph(b"no model", runtime=runtime, device="auto")


def test_devices_of_onnxruntime_are_ordered_by_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ["CPUExecutionProvider", "AnotherExecutionProvider", "CoreMLExecutionProvider", "CUDAExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: there)
    assert RUNTIMES["onnx"].devices() == ["cuda", "coreml", "cpu"]


def test_devices_of_openvino_are_ordered_by_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("openvino")
    monkeypatch.setattr(openvino, "Core", lambda: SimpleNamespace(available_devices=["CPU", "GPU.1", "NPU"]))
    assert RUNTIMES["openvino"].devices() == ["gpu.1", "npu", "cpu"]
