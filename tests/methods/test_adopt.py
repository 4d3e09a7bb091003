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
from lineament.weights import read_weights  # noqa: E402
from networks import unlike  # noqa: E402

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
