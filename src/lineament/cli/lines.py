"""The JSON lines of ``--json``: written as results come, complete at the end, continued after a stop."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lineament.cli.messages import messages
from lineament.cli.outputs import check_writable
from lineament.errors import OptionError


@contextmanager
def json_lines(
    name: str | None, run: str, finished: Callable[[Path], None], total: int, unit: str = "images"
) -> Iterator[IO[str] | None]:
    """Yield the stream for new lines, if any, after those that an earlier run of the same command finished.

    The stream is standard output, a pipe, or a temporary file beside the target. The temporary file replaces the target
    when all lines are written. If the run is stopped, it is kept.

    Args:
        name: The file, ``-`` for standard output, or none.
        run: What the lines depend on.
        finished: Called with the file of a stopped run, if there is one. Reads its records, and cuts off those that no
            longer hold.
        total: Number of records in all, 0 if unknown.
        unit: What a record is of.
    """
    if name is None or name == "-":
        yield sys.stdout if name else None
        return
    path = Path(name)
    if path.is_dir():
        raise OptionError(f"--json: {path} is a folder; name a file")
    if path.exists() and not path.is_file():  # a pipe or a device
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    check_writable(path.parent, "--json")
    part = path.with_name(f".{hashlib.sha256(f'{run} {path.name}'.encode()).hexdigest()[:16]}.part.jsonl")
    if part.exists():
        finished(part)
    try:
        with part.open("a", encoding="utf-8") as file:
            yield file
    except BaseException:
        with part.open("rb") as file_so_far:
            count = sum(1 for _ in file_so_far)
        if count:
            of = f" of {total}" if total else ""
            messages.say(f"stopped; {count}{of} {unit} are kept; the same command continues there")
        else:
            part.unlink()
        raise
    os.replace(part, path.resolve())
