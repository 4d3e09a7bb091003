"""What the training loop asks of a method: a task with a network, batches, losses and a validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lineament.errors import OptionError

Batch = dict[str, NDArray[Any]]
Completion = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Part:
    """One process's part of every batch: each ``count``-th sample from ``index`` on."""

    index: int = 0
    count: int = 1

    def of(self, batch: int) -> range:
        """Which samples of a batch are this part's."""
        return range(self.index, batch, self.count)


WHOLE = Part()


class Task(ABC):
    """What there is to learn.

    Attributes:
        network: takes what ``forward`` gives it and returns named tensors.
        data: what it learns from, as plain values for the weight file's metadata.
    """

    network: nn.Module
    data: Mapping[str, Any] = {}

    def on(self, device: torch.device) -> Completion:
        """Told, before any batch is asked for, where the training runs.

        Returns:
            What completes each batch of the training on the device: work that is better done there.
        """
        return lambda batch: batch

    def adopt(self, content: bytes) -> None:
        """Give the network the weights of an exported file.

        Raises:
            OptionError: the method cannot, or not those.
        """
        raise OptionError("trainings of this method can begin with the folder of a run, and not with a weight file")

    @abstractmethod
    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        """The arrays of that step, or of a process's part of it; the same whenever they are asked for."""

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's outputs, called inside autocast: by default those for ``pixels`` (n, h, w, 3) uint8."""
        outputs: dict[str, Tensor] = network(to_input(batch["pixels"]))
        return outputs

    @abstractmethod
    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parts of the loss by name, weighted; the loop adds them up.

        Called inside autocast: decorate what needs precision with `lineament.train.precision.in_float32`.
        """

    @abstractmethod
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Figures by name on validation data; of the first, the larger the better, and the best weights are kept.

        Called inside autocast, without gradients, with the network in eval mode.
        """


def tensors(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """A batch on a device; from pinned memory, so that no copy waits for what the device is still busy with."""
    made = {name: torch.as_tensor(value) for name, value in batch.items()}
    if device.type == "cuda":
        made = {name: tensor.pin_memory() for name, tensor in made.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in made.items()}


def to_input(pixels: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w) in [0, 255], its memory still channels last."""
    return pixels.permute(0, 3, 1, 2).float()


def generator(seed: int, *numbers: int) -> np.random.Generator:
    """The random numbers of one step of a run, or of one sample of a step."""
    return np.random.default_rng([seed, *numbers])
