"""The journal of a command that writes files: what is finished, for a run that continues."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lineament.files import parse_lines


@contextmanager
def journal(
    path: Path, run: str, files: Sequence[Path], result: Callable[[Path], Path]
) -> Iterator[tuple[list[Path], Callable[[Path], None]]]:
    """Yield the files that are still to do, and a function that notes one as done.

    A file is done if an earlier run of the same command finished it, and neither it nor its result has changed since.

    Args:
        path: The journal.
        run: What the results depend on beside the files.
        files: All files of the command.
        result: The result of a file. It may not exist, if there was nothing to write.
    """

    def state(file: Path) -> dict[str, Any]:
        changed = [os.stat(each).st_mtime_ns if each.exists() else None for each in (file, result(file))]
        return {"path": str(file), "run": run, "changed": changed}

    known = {json.dumps(line) for line in parse_lines(path)}
    waiting = [file for file in files if json.dumps(state(file)) not in known]
    with path.open("a", encoding="utf-8") as lines:

        def note(file: Path) -> None:
            lines.write(json.dumps(state(file)) + "\n")
            lines.flush()

        yield waiting, note
