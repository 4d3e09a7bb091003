"""KPNet's benchmarks run, with settings so small that their numbers mean nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from lineament.methods.kpnet import training  # noqa: E402
from lineament.methods.kpnet.heads import build  # noqa: E402
from lineament.methods.kpnet.network import BACKBONES  # noqa: E402
from lineament.train.loop import train  # noqa: E402
from lineament.train.run import RECIPE  # noqa: E402
from lineament.train.task import to_input  # noqa: E402
from networks import Glance  # noqa: E402
from scenes import write_data  # noqa: E402

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TINY = """
train = ["detection-val.json"]
val = ["detection-val.json"]
[kpnet]
canvas = 64
steps = 1
batch = 2
workers = 0
held_out = 2
validate_every = 1
[kpnet.settings]
input_size = 128
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of one step with a trivial network, in a folder with the photos that the benchmarks need."""
    monkeypatch.setitem(BACKBONES, "drnet", Glance)
    for name in ("detection-val", "detection-val-crowd"):
        write_data(tmp_path, 2, name=name)
    out = tmp_path / "run"
    out.mkdir()
    (out / RECIPE).write_text(TINY)
    recipe = training.read(out / RECIPE)
    train(training.prepare("kpnet", tmp_path, recipe, out), recipe, out / "kpnet")
    return out


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the benchmarks' results."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import kept

    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "kept")
    return tmp_path / "kept"


def called(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
    benchmark.main()


def test_the_papers_tables_are_made(run: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kpnet_experiments

    tiny = str(training.export_run(run, run.parent / "tiny.onnx"))
    monkeypatch.setattr(kpnet_experiments, "SHIPPED", {"DRNet": tiny})
    given = ["--recipe", run / RECIPE, "--start", tiny, "--steps", 1, "--batch", 2, "--input-size", 64]
    for tables in (["--train", "rpn"], ["table1", "table3"]):
        called(kpnet_experiments, monkeypatch, *tables, *given, "--data", run.parent, "--out", run.parent / "out")
    for name, count in (("table1", 3), ("table3", 4)):
        rows = json.loads((kept / f"kpnet-{name}.json").read_text())
        assert len(rows) == count
        assert {"scalemap, 1 x 2", "RPN, 1 x 2"} <= rows.keys() or name == "table3"
        for row in rows.values():
            assert all(0 <= share <= 100 for share in row["scores"].values() if share is not None)
    groupings = {name: training.read(run.parent / "out" / name / RECIPE).grouping for name in ("rpn", "soft-argmax")}
    assert groupings == {"rpn": "rpn", "soft-argmax": "scalemap"}
    for settings in kpnet_experiments.VARIANTS.values():
        training.KPNetRecipe(train=(), **settings).heads()


def test_images_a_second_are_counted(run: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kpnet_throughput

    given = ["--run", run, "--data", run.parent, "--size", 64, "--batch", 2, "--seconds", 0.01]
    called(kpnet_throughput, monkeypatch, *given)
    figures = json.loads((kept / "kpnet-throughput.json").read_text())
    assert len(figures) == 3
    assert all(row["scores"]["images a second"] > 0 for row in figures.values())


class Overheard:
    """Heads that keep the features that they get."""

    grouping = None

    def find(self, features: torch.Tensor, maps: Mapping[str, torch.Tensor], threshold: torch.Tensor) -> Overheard:
        self.features = features
        return self

    def outputs(self) -> dict[str, torch.Tensor]:
        return {}


def test_the_extraction_has_the_features_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from kpnet_throughput import Halved

    network, heads = build(5, "lite").eval(), Overheard()
    pixels = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    with torch.inference_mode():
        Halved(network, heads)(pixels, torch.zeros(2))  # type: ignore[arg-type]
        wanted = network.features(to_input(pixels))
    assert heads.features.dtype == torch.float32
    torch.testing.assert_close(heads.features, wanted, rtol=0.1, atol=0.1 * float(wanted.std()))
