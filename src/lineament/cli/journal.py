"""The journal of a command that writes files: what is finished, for a run that continues."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lineament.cli.messages import messages
from lineament.files import parse_lines


class Journal:
    """The finished files of a command. Use it in a ``with`` block; ``file in journal`` tells whether a file is done.

    A file is done if an earlier run of the same command finished it, and neither it nor its result has changed since.
    In memory, each line of the journal is a digest of eight bytes.

    Attributes:
        before: Number of files so far that an earlier run finished.
    """

    def __init__(self, path: Path, run: str, result: Callable[[Path], Path]) -> None:
        """Read a journal, if there is one.

        Args:
            path: The journal.
            run: What the results depend on beside the files.
            result: The result of a file. It may not exist, if there was nothing to write.
        """
        self._run, self._result, self.before, self._new = run, result, 0, 0
        self._known = np.fromiter((_digest(json.dumps(line)) for line in parse_lines(path)), np.uint64)
        self._known.sort()
        self._lines = path.open("a", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        if error and self._new:
            messages.say(f"stopped; {self._new} files are finished; the same command continues there")

    def __contains__(self, file: Path) -> bool:
        place = int(np.searchsorted(self._known, wanted := np.uint64(_digest(self._state(file)))))
        return place < len(self._known) and self._known[place] == wanted

    def left(self, files: Iterable[Path]) -> Iterator[Path]:
        """The files that are not done. The others are counted."""
        for file in files:
            if file in self:
                self.before += 1
            else:
                yield file

    def add(self, file: Path) -> None:
        """Note a file as done."""
        self._lines.write(self._state(file) + "\n")
        self._lines.flush()
        self._new += 1

    def _state(self, file: Path) -> str:
        changed = [os.stat(each).st_mtime_ns if each.exists() else None for each in (file, self._result(file))]
        state: dict[str, Any] = {"path": str(file), "run": self._run, "changed": changed}
        return json.dumps(state)


def _digest(line: str) -> int:
    return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest())
