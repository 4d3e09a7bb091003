"""The stored results: a JSON file per detector below docs/results/data, with an entry per test.

They have scores and origin only, no curves and no examples. ``tables.py`` writes them into docs/.
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
    """The names that have results."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


@cache
def read(name: str) -> dict[str, Result]:
    """The results of one name, by test. Empty if there is no file."""
    path = FOLDER / f"{name}.json"
    content = json.loads(path.read_bytes()) if path.exists() else {}
    return {test: Result(**entry) for test, entry in content.items()}


def keep(name: str, test: str, result: Result, *, tables: tuple[str, ...] = TABLES) -> None:
    """Write one result. It replaces an earlier one of the same test."""
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
    """Round floats to six digits."""
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
