"""The common format of all results: a small JSON object that ``lineament report`` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lineament.errors import DataError
from lineament.files import write_whole

Scores = dict[str, float | int | None]


@dataclass(frozen=True)
class Result:
    """The scores of one detector under one protocol.

    Attributes:
        protocol: The evaluator, such as ``"wider"``.
        name: The name of the detector. Results with the same name are one column of the report.
        scores: Numbers by name. ``None`` if a score cannot be computed.
        tables: By title, rows of scores by name, such as a subset, a landmark or a face size.
        curves: By name, ``{"x": [...], "y": [...], "x_label": ..., "y_label": ...}``.
        settings: What the numbers depend on: data, thresholds, normaliser.
        examples: The worst cases first: ``kind``, ``path``, ``box``, ``value`` and optionally ``landmarks``, ``truth``.
        origin: Weights, code, data, machine and date: see `lineament.evaluate.origin.origin`.
    """

    protocol: str
    name: str
    scores: Scores
    tables: dict[str, dict[str, Scores]] = field(default_factory=dict)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)


def curve(x: ArrayLike, y: ArrayLike, x_label: str, y_label: str, *, points: int = 400) -> dict[str, Any]:
    """A curve for JSON, thinned to at most ``points`` points. Points that are not finite are left out."""
    xy = np.stack([np.asarray(x, float), np.asarray(y, float)])
    xy = xy[:, np.isfinite(xy).all(axis=0)]
    keep = np.unique(np.linspace(0, max(xy.shape[1] - 1, 0), min(points, xy.shape[1])).round().astype(int))
    xs, ys = xy[:, keep].round(6).tolist()
    return {"x": xs, "y": ys, "x_label": x_label, "y_label": y_label}


def write_result(path: str | Path, result: Result) -> None:
    """Write a result as JSON. Numbers that are not finite become null."""
    content = plain({**result.scores, **asdict(result)})
    write_whole(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_result(path: str | Path) -> Result:
    """Read a result.

    Raises:
        DataError: The file is not JSON, or has no ``protocol``, ``name`` and ``scores``.
    """
    try:
        found = json.loads(Path(path).read_bytes())
        return Result(**{key: found[key] for key in Result.__dataclass_fields__ if key in found})
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: expected the result of `lineament evaluate ... --json`, with protocol, name and scores: {error}"
        ) from error


def plain(value: Any) -> Any:
    """A value for JSON: arrays become lists, and numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
