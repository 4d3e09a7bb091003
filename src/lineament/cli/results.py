"""Print results as tables for people, and write them as JSON for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lineament.evaluate.origin import Origin, with_origin
from lineament.evaluate.results import Result, Scores, write_result

WIDTH = 200  # of tables in a file or a pipe, where nobody's window limits them


def tell(result: Result, json_file: Path | None, settings: Mapping[str, Any], origin: Callable[[], Origin]) -> None:
    """Print a result with the notes of its evaluator, and write it if asked to.

    Args:
        result: The scores.
        json_file: File for ``lineament report``.
        settings: What the numbers depend on beside the evaluator's own settings.
        origin: Returns their origin. Called only for the file.
    """
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(_table(f"{result.name}: {result.protocol}", {"": result.scores}, down=True))
    for title, rows in result.tables.items():
        console.print(_table(title, rows, down=False))
    for note in result.settings.get("notes", []):
        console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)
    if json_file:
        told = replace(result, settings={**result.settings, **settings})
        write_result(json_file, with_origin(told, origin()))


def _table(title: str, rows: dict[str, Scores], *, down: bool) -> Table:
    """One row per name; with ``down``, the single row as a column."""
    names = list(dict.fromkeys(score for row in rows.values() for score in row))
    table = Table(title=title, title_justify="left", box=None, show_header=not down)
    if down:
        (row,) = rows.values()
        for score in names:
            table.add_row(score, _number(row[score]))
        return table
    for heading in ("", *names):
        table.add_column(heading)
    for label, row in rows.items():
        table.add_row(label, *(_number(row.get(score)) for score in names))
    return table


def _number(value: float | int | None) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
