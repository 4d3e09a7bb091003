"""KPNet's exported file, compared with torch and with slow references, and the quantised file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from lineament.conventions import convention  # noqa: E402
from lineament.errors import LineamentError, OptionError  # noqa: E402
from lineament.export import Entry, export  # noqa: E402
from lineament.methods.kpnet.decode import Config, KPNetDecoder, eyes_and_nose  # noqa: E402
from lineament.methods.kpnet.export import LEAST, SLACK, TwoPasses, entries  # noqa: E402
from lineament.methods.kpnet.heads import Heads, build  # noqa: E402
from lineament.methods.kpnet.heads.scalemap import PROPOSALS, neighbours, strongest  # noqa: E402
from lineament.methods.kpnet.layers import layer_of  # noqa: E402
from lineament.methods.kpnet.network import BACKBONES, DRNet, KPNet  # noqa: E402
from lineament.methods.kpnet.quantise import quantise  # noqa: E402
from lineament.methods.kpnet.training import export_bytes  # noqa: E402
from lineament.runtime import load_graph  # noqa: E402
from lineament.schemas import FIVE, own, schema  # noqa: E402
from lineament.weights import read_weights  # noqa: E402
from networks import ALL, Glance, thresholds  # noqa: E402

Array = NDArray[Any]
OUTPUTS = ("logit", "centre", "side", "landmarks", "peaks", "box")


def network(backbone: str = "drnet") -> KPNet:
    """Random weights whose normalisation has statistics of pixels, and whose scalemap has peaks."""
    torch.manual_seed(0)
    made = build(5, backbone, Heads.of(backbone=backbone, boxes=True))
    with torch.no_grad():
        layer = made.response.conv if backbone == "hourglass" else made.response
        layer.weight[-4:].normal_(std=0.01)
        for _ in range(3):
            made(torch.rand(2, 3, 128, 128) * 255)
        head = made.scale.conv if backbone == "hourglass" else made.scale
        head.bias.fill_(-4.0)
    return made.eval()


def exported(backbone: str = "drnet", *, two_passes: bool = False) -> dict[str, Entry]:
    seen = views(6, 128, 192, 3) if two_passes else None
    return entries(network(backbone), Heads.of(backbone=backbone, boxes=True), views=seen)


def views(*shape: int, seed: int = 0) -> Array:
    """Smooth noise, uint8. As in photos, neighbouring pixels are similar."""
    n, h, w, c = shape
    coarse = np.random.default_rng(seed).integers(0, 256, (n, h // 8, w // 8, c), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


@pytest.mark.parametrize("off", [0.0, SLACK / 2])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_second_pass_finds_what_the_map_says(backbone: str, off: float) -> None:
    """Even if the objectness is a little off."""
    made = network(backbone)
    second = TwoPasses(made.scale, Heads.of(backbone=backbone).grouping.style)
    pixels = torch.from_numpy(views(2, 128, 64, 3)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        features = made.features(pixels)
        scale = made.maps(features)["scale"]
        limits = scale.amax(dim=1).flatten(1).quantile(0.99, dim=1)
        objectness = scale.amax(dim=1)
        objectness += off * (2 * torch.rand(objectness.shape) - 1)
        logit, cell, logits = second.strongest(features, objectness, limits)
        wanted = strongest(scale, limits)
        bins = logits.argmax(dim=-1)
        near = second.neighbours(features, cell, bins)
    stands = wanted[0] > limits[:, None]
    assert stands.any(dim=1).all()
    np.testing.assert_allclose(logit[stands], wanted[0][stands], atol=1e-4)
    np.testing.assert_array_equal(cell[stands], wanted[1][stands])
    np.testing.assert_allclose(logits[stands], wanted[2][stands], atol=1e-4)
    np.testing.assert_allclose(near[stands], neighbours(scale, cell, bins)[stands], atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_sketch_has_the_largest_logits(backbone: str) -> None:
    """Exactly so if the bins of each group have one kernel; after training, these are alike."""
    made = network(backbone)
    layer, count = layer_of(made.scale), 16 + -layer_of(made.response).out_channels % 16
    pixels = torch.from_numpy(views(8, 128, 64, 3)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        for group in torch.tensor_split(torch.arange(60), count):
            layer.weight[group] = layer.weight[group[0]].clone()
        best = made(pixels)["scale"].amax(dim=1)
        made.sketch(pixels[:6])
        maps = made(pixels)
    assert "scale" not in maps
    assert sum(made.channels.values()) % 16 == 0
    np.testing.assert_allclose(maps["objectness"], best, atol=0.02 * best.std())


def test_the_early_map_is_filled_with_zeros() -> None:
    made = network()
    assert isinstance(made.backbone, DRNet)
    pixels = torch.from_numpy(views(1, 64, 64, 3)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        before = made(pixels)
        channels = made.backbone.stem.conv.out_channels
        made.fold()
        early = made.backbone.stem(pixels / 128)
        after = made(pixels)
    assert early.shape[1] % 16 == 0
    assert (early[:, channels:] == 0).all()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module", params=list(BACKBONES))
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file with two passes, and the same file, quantised."""
    folder = tmp_path_factory.mktemp("kpnet")
    metadata = {"name": "mine", "method": "kpnet", "config": json.dumps({"backbone": request.param})}
    whole = export(exported(request.param, two_passes=True), folder / "two.onnx", metadata=metadata)
    return whole, quantise(whole, folder / "bytes.onnx", (view for view in views(6, 128, 192, 3)))


def test_bytes_find_what_floats_find(files: tuple[Path, Path]) -> None:
    pixels = views(2, 128, 192, 3, seed=1)
    exact, small = (load_graph(file.read_bytes()) for file in files)
    wanted = dict(zip(OUTPUTS, exact("kpnet", OUTPUTS, pixels=pixels, threshold=thresholds(2).numpy()), strict=True))
    found = dict(zip(OUTPUTS, small("kpnet", OUTPUTS, pixels=pixels, threshold=thresholds(2).numpy()), strict=True))
    assert {name: value.shape[2:] for name, value in found.items()} == {n: v.shape[2:] for n, v in wanted.items()}
    for image in range(2):
        best = wanted["logit"][image].argsort()[-10:]  # each has a counterpart in the same cell or a neighbouring one
        apart = np.abs(wanted["centre"][image][best, None] - found["centre"][image][None]).max(axis=2)
        like = apart.argmin(axis=1)
        assert (apart.min(axis=1) <= 2).mean() >= 0.8
        near = apart.min(axis=1) <= 2
        gap = np.abs(wanted["logit"][image][best] - found["logit"][image][like])[near]
        assert np.median(gap) < 0.3


def test_openvino_computes_two_passes_as_onnxruntime_does(files: tuple[Path, Path]) -> None:
    pytest.importorskip("openvino")
    pixels = views(2, 128, 192, 3, seed=2)
    one, other = (load_graph(files[0].read_bytes(), runtime=runtime) for runtime in ("onnx", "openvino"))
    wanted, found = (
        graph("kpnet", ("logit",), pixels=pixels, threshold=thresholds(2).numpy())[0] for graph in (one, other)
    )
    stands = np.sort(wanted[wanted > LEAST])
    np.testing.assert_allclose(np.sort(found[found > LEAST]), stands, atol=1e-3)


def test_a_file_in_bytes_is_small_and_says_what_it_is(files: tuple[Path, Path]) -> None:
    whole, small = files
    assert small.stat().st_size < 0.5 * whole.stat().st_size
    assert load_graph(small.read_bytes()).metadata["name"] == "mine"


def test_the_first_layer_stays_in_bytes_until_it_is_pooled(files: tuple[Path, Path]) -> None:
    """One scale, so that runtimes only move bytes between the convolution and its pooling."""
    graph = onnx.load(files[1]).graph
    made = {output: node for node in graph.node for output in node.output}
    at = next(node for node in graph.node if node.op_type == "MaxPool")
    met, scales = [], set()
    while at.op_type != "Conv":
        at = made[at.input[0]]
        met.append(at.op_type)
        if at.op_type.endswith("uantizeLinear"):
            scales.add(at.input[1])
    kinds = [kind for kind in met if not kind.endswith("uantizeLinear")]
    backbone = json.loads(load_graph(files[1].read_bytes()).metadata["config"])["backbone"]
    moved = [] if backbone == "hourglass" else ["Transpose", "Reshape", "Transpose"]
    assert kinds == [*moved, "Conv"]
    assert len(met) - len(kinds) == 2 * (1 + len(moved))
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert len({float(values[scale]) for scale in scales}) == 1


def test_convolutions_are_in_bytes(files: tuple[Path, Path]) -> None:
    """All but those of the hourglass that upsample, and what reads their maps."""
    graph = onnx.load(files[1]).graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    in_bytes = [node for node in convolutions if {made.get(n) for n in node.input[:2]} == {"DequantizeLinear"}]
    backbone = json.loads(load_graph(files[1].read_bytes()).metadata["config"])["backbone"]
    assert len(convolutions) - len(in_bytes) == (backbone == "hourglass")


def test_no_images_set_no_ranges(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="images"):
        export_bytes(read_weights("kpnet-lite"), [], tmp_path / "bytes.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_of_one_pass_cannot_become_bytes(tmp_path: Path) -> None:
    whole = export(exported(), tmp_path / "one.onnx", metadata={})
    with pytest.raises(LineamentError, match="two passes"):
        quantise(whole, tmp_path / "bytes.onnx", [])
    assert not (tmp_path / "bytes.onnx").exists()


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("two_passes", [False, True])
def test_there_are_as_many_rows_as_the_fullest_view_has_proposals(
    tmp_path: Path, runtime: str, two_passes: bool
) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino")
    content = export(exported(two_passes=two_passes), tmp_path / "one.onnx", metadata={}).read_bytes()
    graph = load_graph(content, runtime=runtime, threads=1)

    def logits(pixels: Array, *limits: float) -> Array:
        found, centre = graph("kpnet", ("logit", "centre"), pixels=pixels, threshold=np.array(limits, np.float32))
        assert ((centre >= 0) & (centre <= np.array(pixels.shape[2:0:-1]))).all()
        return found

    pixels = views(2, 128, 192, 3, seed=1)
    every = logits(pixels, ALL, ALL)
    stands = np.isfinite(every).sum(axis=1)
    assert every.shape[1] == stands.max() > 50
    for limits in ((-4.0, -4.0), (-4.0, 100.0), (100.0, 100.0)):
        some = logits(pixels, *limits)
        wanted = [every[i][every[i] > limit] for i, limit in enumerate(limits)]
        for found, rows, limit in zip(some, wanted, limits, strict=True):
            np.testing.assert_allclose(np.sort(found[found > limit]), np.sort(rows), atol=1e-4)
        assert some.shape[1] >= 1
        if not two_passes:  # the first pass may keep more
            assert some.shape[1] == max(*map(len, wanted), 1)
    assert logits(pixels[:, :8, :64], ALL, ALL).shape[1] < PROPOSALS  # fewer cells than that


def test_what_equation_8_counts_follows_the_schema() -> None:
    assert eyes_and_nose(FIVE) == (0, 1, 2)
    for name in ("68", "21", "19"):
        of = schema(name)
        points = [of.points[i] for i in eyes_and_nose(of)]
        assert all("eye" in point or "pupil" in point or "nose" in point for point in points)
        assert any(point.startswith("nose") for point in points)
    mine = own("mine", ("a", "b"))
    assert eyes_and_nose(mine) == (0, 1)


VARIANTS = [("argmax", "scalemap"), ("regression", "scalemap"), ("soft-argmax", "rpn"), ("argmax", "embedding")]


@pytest.mark.parametrize(("extraction", "grouping"), VARIANTS)
def test_what_is_exported_computes_the_same(tmp_path: Path, extraction: str, grouping: str) -> None:
    torch.manual_seed(0)
    heads = Heads.of(grouping, extraction)
    network = build(5, "drnet", heads)
    network.backbone = Glance()
    made = entries(network, heads)
    graph = load_graph(export(made, tmp_path / "v.onnx", metadata={"a": "b"}).read_bytes())
    rng = np.random.default_rng(0)
    for shape in ((1, 64, 64, 3), (3, 128, 96, 3)):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        with torch.no_grad():
            wanted = made["kpnet"].module(torch.as_tensor(pixels), thresholds(len(pixels)))
        found = graph("kpnet", tuple(wanted), pixels=pixels, threshold=thresholds(len(pixels)).numpy())
        for (name, value), there in zip(wanted.items(), found, strict=True):
            assert there.shape == value.shape
            alike = np.isclose(there, value, atol=1e-2).reshape(*value.shape[:2], -1).all(axis=-1)
            alike = alike[
                np.isfinite(wanted["logit"].numpy())
            ]  # entries that are no local maxima fill the list in any order
            assert alike.mean() > 0.99, name  # if they differ in the last digit only, the order may change
    picture = rng.integers(0, 256, (50, 90, 3), dtype=np.uint8)
    decoded = KPNetDecoder(graph, Config(**heads.grouping.settings)).propose([picture])
    assert ((decoded.scores >= 0) & (decoded.scores <= 1)).all()
    by_landmarks = np.allclose(decoded.boxes, convention("wider").boxes(decoded.landmarks), atol=1e-2)
    assert by_landmarks == (grouping == "embedding")  # its squares are around landmarks
