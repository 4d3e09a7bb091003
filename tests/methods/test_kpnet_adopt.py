"""Trainings that start from an exported file."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from torch import nn  # noqa: E402

from lineament.errors import OptionError, WeightsError  # noqa: E402
from lineament.methods.kpnet import training  # noqa: E402
from lineament.methods.kpnet.adopt import adopt, narrowed, read_network, refit  # noqa: E402
from lineament.methods.kpnet.heads import Heads, build  # noqa: E402
from lineament.methods.kpnet.layers import ConvNorm  # noqa: E402
from lineament.methods.kpnet.network import BACKBONES, DRNet, KPNet, Lite  # noqa: E402
from lineament.methods.normalisation import settle  # noqa: E402
from lineament.runtime import load_graph, read_metadata  # noqa: E402
from lineament.train.recipe import shipped_recipe  # noqa: E402
from lineament.train.run import RECIPE, run  # noqa: E402
from lineament.weights import parse_metadata, read_weights  # noqa: E402
from networks import thresholds, unlike  # noqa: E402
from scenes import write_data  # noqa: E402


def pixels(n: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 64, 128), generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_unfolding_undoes_folding(backbone: str) -> None:
    network = unlike(build(5, backbone))
    folded = copy.deepcopy(network)
    folded.fold()
    fresh = build(5, backbone).double().eval()
    fresh.unfold(folded.state_dict())
    with torch.no_grad():
        for name, wanted in network(pixels()).items():
            assert (fresh(pixels())[name] - wanted).abs().max() <= 1e-8 * wanted.abs().max(), name
    assert any(isinstance(part, nn.BatchNorm2d) for part in fresh.modules())


def test_settled_normalisation_knows_the_pictures_and_changes_nothing() -> None:
    network = unlike(build())
    with torch.no_grad():
        before = network(pixels())["scale"]
        settle(network, lambda: network(pixels()))
        torch.testing.assert_close(network(pixels())["scale"], before)
        torch.testing.assert_close(network.train()(pixels())["scale"], before)  # also by its input


def test_a_file_comes_back_with_the_landmarks_of_another_schema_new() -> None:
    content = read_weights("kpnet")
    network = build(21).eval()
    new = network.response.weight.clone()
    adopt(network, content, pixels().float())
    picture = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    logit, centre = load_graph(content)("kpnet", ("logit", "centre"), pixels=picture, threshold=thresholds(1).numpy())
    with torch.no_grad():
        scale = network(torch.from_numpy(picture).permute(0, 3, 1, 2).float())["scale"][0]
    cell = (centre[0, :20] / network.stride).astype(int)
    np.testing.assert_allclose(logit[0, :20], scale.amax(0).numpy()[cell[:, 1], cell[:, 0]], atol=1e-3)
    assert torch.equal(network.response.weight, new)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_boxes_begin_beside_the_landmarks_of_a_file_and_are_kept_beside_others(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without boxes starts a network with them as a new one: with the proposals."""
    boxed = Heads.of(backbone=backbone, boxes=True)
    plain, first, others, again = (
        build(5, backbone),
        build(5, backbone, boxed),
        build(21, backbone, boxed),
        build(5, backbone),
    )
    views = pixels().float()

    def begun(network: KPNet, source: KPNet) -> dict[str, torch.Tensor]:
        monkeypatch.setattr("lineament.methods.kpnet.adopt.read_network", lambda content: source)
        adopt(network.eval(), b"", views)
        with torch.no_grad():
            made: dict[str, torch.Tensor] = network(views)
        return made

    with torch.no_grad():
        wanted = plain.eval()(views)["response"]
        made = begun(first, plain)
        torch.testing.assert_close(made["response"], wanted)
        assert (made["box"] == 0).all()
        head = first.response.conv if backbone == "hourglass" else first.response
        head.bias[-4:] += torch.arange(4)
    torch.testing.assert_close(begun(others, first)["box"][0, :, 0, 0], torch.arange(4.0))
    torch.testing.assert_close(begun(again, first)["response"], wanted)


@pytest.mark.parametrize(("of", "to"), [("drnet", "lite"), ("drnet", "slim"), ("lite", "slim")])
def test_a_narrower_network_takes_the_channels_that_carry_most(of: str, to: str) -> None:
    """If all other channels of the wider one carry nothing, the remaining ones compute the same."""
    torch.manual_seed(0)
    wide, network = BACKBONES[of]().eval(), build(5, to).eval()
    mine = network.backbone
    assert isinstance(wide, DRNet | Lite)
    assert isinstance(mine, Lite)

    def some(conv: nn.Conv2d, count: int) -> torch.Tensor:
        return torch.randperm(conv.out_channels)[:count].sort().values

    stream = some(wide.deep.second.conv, mine.deep.second.conv.out_channels)
    for name, outputs in (("shallow", None), ("down", stream), ("deep", stream)):
        block = getattr(wide, name)
        inner = some(block.first.conv, getattr(mine, name).first.conv.out_channels)
        for layer, kept in ((block.first, inner), (block.second, outputs), (block.shortcut, outputs)):
            if kept is not None and not isinstance(layer, nn.Identity):
                carries = torch.zeros(layer.conv.out_channels).index_fill(0, kept, 1.0)
                layer.conv.weight.data *= carries[:, None, None, None]
    x = pixels(4).float()
    network.load_state_dict(network.state_dict() | narrowed(wide, mine))
    refit(mine, wide, x, torch.ones(4, 1, 16, 32))
    with torch.no_grad():
        for made, theirs, kept in zip(mine.trunk(x / 128), wide.trunk(x / 128), (..., ..., stream), strict=True):
            torch.testing.assert_close(made, theirs[:, kept], atol=1e-2 * float(theirs.std()), rtol=0)


def test_narrow_blocks_are_fitted_to_the_wide_ones() -> None:
    """Outputs are the wide one's if enough channels are left, and otherwise near."""
    torch.manual_seed(0)
    wide, network = read_network(read_weights("kpnet-lite")).backbone.eval(), build(5, "slim").eval()
    mine = network.backbone
    assert isinstance(wide, Lite)
    assert isinstance(mine, Lite)
    network.load_state_dict(network.state_dict() | narrowed(wide, mine))
    x = pixels().float()

    def error() -> float:
        with torch.no_grad():
            wanted, made = wide.trunk(x / 128)[2], mine.trunk(x / 128)[2]
        return float((made - wanted).square().mean() / wanted.square().mean())

    counts = torch.ones(2, 1, 16, 32)
    refit(mine, wide, x, counts)
    assert error() < 0.05
    again = build(5, "lite").backbone.eval()
    again.load_state_dict(wide.state_dict())
    again.deep.second.conv.weight.data.zero_()
    refit(again, wide, x, counts)
    mine = again
    assert error() < 1e-5


def test_normalisation_counts_for_the_importance_of_a_channel() -> None:
    """Channels that it silences are not kept, however large their kernels."""
    torch.manual_seed(0)
    wide, network = BACKBONES["lite"]().eval(), build(5, "slim")
    silent = torch.arange(0, 96, 3)
    with torch.no_grad():
        wide.deep.second.norm.weight[silent] = 0
        for layer in (wide.down.second, wide.down.shortcut):
            layer.norm.weight[silent] = 0
            layer.conv.weight[silent] *= 10
    network.backbone.deep.second = ConvNorm(64, 64)
    kept = narrowed(wide, network.backbone)["backbone.down.shortcut.norm.weight"]
    assert len(kept) == 64
    assert (kept != 0).all()


@pytest.mark.parametrize(("extraction", "grouping"), [("regression", "rpn"), ("argmax", "embedding")])
def test_a_variant_begins_with_the_backbone(extraction: str, grouping: str) -> None:
    network = build(5, "drnet", Heads.of(grouping, extraction))
    head = {name: value.clone() for name, value in network.scale.state_dict().items()}
    adopt(network, read_weights("kpnet"), pixels().float())
    assert all(torch.equal(value, head[name]) for name, value in network.scale.state_dict().items())
    kernel = read_network(read_weights("kpnet")).backbone.deep.second.conv.weight
    assert torch.equal(network.backbone.deep.second.conv.weight, kernel)


def test_what_is_no_weight_file_is_refused() -> None:
    with pytest.raises(WeightsError):
        adopt(build(), b"no weights", pixels().float())


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [("drnet", "kpnet-int8", "8 bits"), ("hourglass", "kpnet", "Hourglass.*DRNet"), ("drnet", "mtcnn", "mtcnn")],
)
def test_weights_of_another_kind_are_refused(backbone: str, weights: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        adopt(build(5, backbone), read_weights(weights), pixels().float())


def test_a_fine_tuning_with_few_photos_begins_with_shipped_weights_and_keeps_how_scores_are_made(
    tmp_path: Path,
) -> None:
    """At a learning rate of 0, the recipe for small data sets returns its initial weights."""
    write_data(tmp_path, 4)
    few = {
        "minutes": "0",
        "steps": "1",
        "batch": "2",
        "learning_rate": "0.0",
        "held_out": "2",
        "canvas": "96",
        "workers": "0",
    }
    lists = {"train": '["scenes.json"]', "val": '["scenes.json"]'}
    file = run(training, tmp_path, shipped_recipe("kpnet-lite-finetune"), tmp_path / "run", overrides=few | lists)
    mine, theirs = (parse_metadata(read_metadata(read_weights(name)))[1] for name in (file, "kpnet-lite"))
    for name in ("refinement", "evidence", "calibration", "landmark_evidence", "backbone", "overview_share"):
        assert mine[name] == theirs[name]
    about = read_metadata(file.read_bytes())
    assert (about["name"], about["licence"].split(";")[0]) == ("own-kpnet", "not stated")
    assert "the terms of kpnet-lite hold" in about["licence"]
    recipe = training.read(tmp_path / "run" / RECIPE)
    config = training._config(recipe)
    assert training._kept(recipe, config, faces=training.LEAST_JUDGED).keys() == {"refinement"}
    assert training._kept(recipe, replace(config, landmarks="68"), faces=3) == {}
    assert training._kept(replace(recipe, initial=""), config, faces=3) == {}
    assert training._kept(replace(recipe, settings={"evidence": False}), config, faces=3).keys() == {
        "refinement",
        "calibration",
        "landmark_evidence",
    }
