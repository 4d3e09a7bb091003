"""KPNet's decoder without a network: graphs with given outputs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from lineament.methods.kpnet.decode import Config
from scenes import POINTS

Array = np.ndarray


class Fake:
    """A graph with given outputs: a function from the pixels of a view to the rows of an output."""

    def __init__(self, see: Any, outputs: Collection[str] = ()) -> None:
        self.see, self.outputs = see, {f"kpnet.{name}" for name in outputs}

    def __call__(self, entry: str, outputs: tuple[str, ...], **inputs: Array) -> tuple[Array, ...]:
        rows = [self.see(pixels) for pixels in inputs["pixels"]]
        return tuple(np.stack([np.asarray(row[name], np.float32) for row in rows]) for name in outputs)


def face_row(square: Array, logit: float, shares: tuple[float, ...] = (0.5, 0.5, 0.5)) -> dict[str, Any]:
    """One proposal: a square ``x, y, side`` with the landmarks of a drawn face. Peaks are 0.5 by default."""
    x, y, side = square
    return {
        "logit": [logit],
        "centre": [[x + side / 2, y + side / 2]],
        "side": [side],
        "landmarks": [POINTS * side + [x, y]],
        "peaks": [[*shares, *[0.5] * (5 - len(shares))]],
    }


def told(*rows: dict[str, Any]) -> Fake:
    """A graph with the same output for every view."""
    names = list(rows[0]) if rows else []
    return Fake(lambda pixels: {name: np.concatenate([row[name] for row in rows]) for name in names}, names)


def bare(**settings: Any) -> Config:
    """Settings with which boxes are those of the convention, and scores those of equation 8, unless overridden."""
    return Config(**{"input_size": 128, "proposal": 0.0, "evidence": None, **settings})
