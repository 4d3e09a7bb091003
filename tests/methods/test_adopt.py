"""Networks that start from the weights of an exported file."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from lineament.errors import OptionError  # noqa: E402
from lineament.export import export  # noqa: E402
from lineament.methods.adopt import adopt, read_tensors  # noqa: E402
from lineament.methods.backbones.mobilenet import MobileNetV2  # noqa: E402
from lineament.methods.foxnet import training as foxnet  # noqa: E402
from lineament.methods.foxnet.export import entries  # noqa: E402
from lineament.methods.maskface import training as maskface  # noqa: E402
from lineament.methods.maskface.export import Peaks  # noqa: E402
from lineament.methods.maskface.levels import POOLED  # noqa: E402
from lineament.runtime import load_graph  # noqa: E402
from lineament.train.task import to_input  # noqa: E402
from lineament.weights import read_weights  # noqa: E402
from networks import unlike  # noqa: E402

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SMALL = foxnet.FoxNetRecipe(train=(), pretrained="", width=16, levels=4, seed=1)


def test_a_network_continues_as_its_file_left_off(tmp_path: Path) -> None:
    network = unlike(foxnet.build(SMALL)).float().eval()
    about = {"method": "foxnet", "config": "{}", "name": "mine"}
    # the peaks of random maps are flat: rounding may move them
    export(entries(network), tmp_path / "mine.onnx", metadata=about, half=True, tolerance=1)
    again = foxnet.build(SMALL).eval()
    adopt(again, read_tensors((tmp_path / "mine.onnx").read_bytes(), ["foxnet"], {".network.": ""}))
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    wanted, found = network(pixels), again(pixels)
    for name in wanted:  # a file has 16-bit weights
        scale = wanted[name].abs().max()
        torch.testing.assert_close(found[name] / scale, wanted[name] / scale, atol=0.01, rtol=0)


def test_maskface_continues_as_its_file_left_off() -> None:
    """Backbone, pyramid, context modules and both heads of the shipped file, as its recipe builds them."""
    content = read_weights("maskface")
    network = maskface.build(maskface.read(RECIPES / "maskface.toml"), pretrained="").eval()
    adopt(network, read_tensors(content, ["maskface"], maskface.ROOTS))
    assert network.landmarks is not None
    graph = load_graph(content, threads=1)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 64, 128, 3), dtype=torch.uint8, generator=random)
    pooled = torch.randn(2, network.score.in_channels, POOLED, POOLED, generator=random)
    with torch.no_grad():
        outputs = network(to_input(pixels))
        expected = graph("maskface", ("logit", "offset"), pixels=pixels.numpy())
        for name, value in zip(("logit", "offset"), expected, strict=True):
            torch.testing.assert_close(outputs[name], torch.tensor(value), atol=1e-3, rtol=1e-3)
        for schema in ("5", "68"):
            peaks = Peaks(network.landmarks, schema)(pooled)
            (mass,) = graph(f"landmarks_{schema}", ("mass",), pooled=pooled.numpy())
            torch.testing.assert_close(peaks["mass"], torch.tensor(mass), atol=1e-3, rtol=1e-3)


def test_foxnet_begins_with_the_backbone_of_maskface() -> None:
    recipe = foxnet.FoxNetRecipe(train=(), pretrained="")
    content = read_weights("maskface")
    network = foxnet.build(recipe)
    adopt(network, read_tensors(content, foxnet.INITIAL, {".network.": ""}))
    learnt = maskface.build(maskface.MaskFaceRecipe(train=(), landmarks=("5",), pretrained=""))
    adopt(learnt, read_tensors(content, ["maskface"], maskface.ROOTS))
    theirs, fresh = learnt.backbone.state_dict(), foxnet.build(recipe).state_dict()
    for name, tensor in network.state_dict().items():
        expected = theirs[name.removeprefix("backbone.")] if name.startswith("backbone.") else fresh[name]
        torch.testing.assert_close(tensor, expected, msg=name)


def test_what_does_not_fit_is_refused() -> None:
    content = read_weights("maskface")
    with pytest.raises(OptionError, match="expected weights of foxnet, found weights of maskface"):
        read_tensors(content, ["foxnet"], {})
    other = nn.Module()
    other.backbone = MobileNetV2()
    with pytest.raises(OptionError, match="these weights are not of a MobileNetV2, the recipe's backbone"):
        adopt(other, read_tensors(content, ["maskface"], maskface.ROOTS))
