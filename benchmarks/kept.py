"""Results that are kept in the repository: a JSON file a detector below docs/results/data, one entry a test.

Scores and their origin alone, no curves and no examples. What is printed of them in docs/ is written by ``tables.py``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from lineament.evaluate.results import Result, plain
from lineament.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "results" / "data"
TABLES = ("recall by face size", "subsets")  # beside scores, the tables of evaluators that are worth keeping


def names() -> list[str]:
    """Of what there are results."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


@cache
def read(name: str) -> dict[str, Result]:
    """The results of one name, by test; none where there is no file."""
    path = FOLDER / f"{name}.json"
    content = json.loads(path.read_bytes()) if path.exists() else {}
    return {test: Result(**entry) for test, entry in content.items()}


def keep(name: str, test: str, result: Result, *, tables: tuple[str, ...] = TABLES) -> None:
    """Write one result, in place of an earlier one of the same test."""
    kept = {key: value for key, value in asdict(result).items() if key not in ("curves", "examples")}
    kept["tables"] = {title: rows for title, rows in result.tables.items() if title in tables}
    write(name, read(name) | {test: Result(**_rounded(plain(kept)))})


def write(name: str, results: dict[str, Result]) -> None:
    """Write all results of one name."""
    content = {test: _entry(result) for test, result in results.items()}
    write_whole(FOLDER / f"{name}.json", json.dumps(content, indent=1) + "\n")
    read.cache_clear()


def _entry(result: Result) -> dict[str, Any]:
    return {key: value for key, value in asdict(result).items() if value or key in ("protocol", "name", "scores")}


def _rounded(value: Any) -> Any:
    """Floats to six digits."""
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
