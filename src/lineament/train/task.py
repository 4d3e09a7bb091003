"""What the training loop needs from a method: a task with a network, batches, losses and a validation."""

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
    """The part of one process in every batch: each ``count``-th sample from ``index``."""

    index: int = 0
    count: int = 1

    def of(self, batch: int) -> range:
        """The samples of a batch that belong to this part."""
        return range(self.index, batch, self.count)


WHOLE = Part()


class Task(ABC):
    """What a network learns.

    Attributes:
        network: Takes the result of ``forward`` and returns named tensors.
        data: A description of the data as plain values, for the metadata of the weight file.
    """

    network: nn.Module
    data: Mapping[str, Any] = {}

    def on(self, device: torch.device) -> Completion:
        """Called with the device before the first batch.

        Returns:
            A function that completes each training batch on the device, for work that is faster there.
        """
        return lambda batch: batch

    def adopt(self, content: bytes) -> None:
        """Load the weights of an exported file.

        Raises:
            OptionError: The method cannot load weights, or not these.
        """
        raise OptionError("trainings of this method can begin with the folder of a run, and not with a weight file")

    def go_on(self, weights: Mapping[str, Tensor], recipe: Mapping[str, Any]) -> None:
        """Load the weights of an earlier phase or of another run.

        Args:
            weights: The tensors of its network by name.
            recipe: Its settings.

        Raises:
            OptionError: They do not fit.
        """
        try:
            self.network.load_state_dict(weights)
        except RuntimeError as error:
            raise OptionError(
                "the initial run has another network; export it, and name the file: its layers are taken where they fit"
            ) from error

    @abstractmethod
    def batch(self, step: int, part: Part = WHOLE) -> Batch:
        """The arrays of a step, or of a process's part of it. They are the same at every call."""

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of the network, called inside autocast. By default for ``pixels`` (n, h, w, 3) uint8."""
        outputs: dict[str, Tensor] = network(to_input(batch["pixels"]))
        return outputs

    @abstractmethod
    def losses(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted parts of the loss by name. The loop adds them.

        Called inside autocast. Use `lineament.train.precision.in_float32` for losses that need precision.
        """

    @abstractmethod
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Validation scores by name. For the first, larger is better, and the best weights are kept.

        Called inside autocast, without gradients, with the network in eval mode.
        """


def tensors(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Copy a batch to a device, from pinned memory, so that the copy does not wait for the device."""
    made = {name: torch.as_tensor(value) for name, value in batch.items()}
    if device.type == "cuda":
        made = {name: tensor.pin_memory() for name, tensor in made.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in made.items()}


def divisor(count: Tensor) -> Tensor:
    """What a sum over ``count`` things is divided by to be their mean, at least 1.

    Processes that train together average their gradients: each divides by its share of what all of them have, so that
    they learn as one would from the whole batch. In validation, without gradients, one process is alone.
    """
    if not (torch.is_grad_enabled() and torch.distributed.is_available() and torch.distributed.is_initialized()):
        return count.clamp(min=1)
    whole = count.detach().clone()
    torch.distributed.all_reduce(whole)
    return whole.clamp(min=1) / torch.distributed.get_world_size()


def to_input(pixels: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) -> float32 (n, 3, h, w) in [0, 255], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).float()


def generator(seed: int, *numbers: int) -> np.random.Generator:
    """The random numbers of one step of a run, or of one sample of a step."""
    return np.random.default_rng([seed, *numbers])
