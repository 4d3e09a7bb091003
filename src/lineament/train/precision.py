"""Which device computes in half precision, and losses that need full precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


_WITHOUT_BF16 = ("DEFAULT", "NO AVX", "AVX2")
"""Capabilities of processors, as PyTorch names them."""


def computes_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is worth while on a device. Processors without AVX-512 take ten times as long as in float32."""
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability() not in _WITHOUT_BF16


def in_float32(function: Callable[P, T]) -> Callable[P, T]:
    """Apply a function to float32 copies of its half-precision tensors, without autocast.

    The loop computes losses inside autocast, where matrix products have eight bits of precision: too few for positions.
    """

    def raised(value: Any) -> Any:
        half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
        return value.float() if half else value

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        device = next((v.device.type for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return function(*map(raised, args), **{name: raised(value) for name, value in kwargs.items()})

    return wrapper
