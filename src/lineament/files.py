"""Write files completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name to write to. It replaces the file at the end, and is removed if anything fails.

    Args:
        path: The file to write. Its folder is created if it does not exist. If it is a link, the target is replaced. A
            pipe or a device is written directly.

    Yields:
        The temporary name, in the same folder and with the same suffix.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix if len(path.suffix) < 16 else ""  # by which Pillow tells formats
    part = path.with_name(f".{os.getpid()}-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}{suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file so that nobody ever reads an incomplete one.

    Args:
        path: The file. Its folder is created if it does not exist.
        content: Text (written as UTF-8) or bytes.
    """
    with whole(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def restored(path: str | Path) -> Iterator[None]:
    """Put a file that the block replaces back as it was, or remove it if it is new, if anything fails."""
    path = Path(path)
    before = path.read_bytes() if path.exists() else None
    try:
        yield
    except BaseException:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            write_whole(path, before)
        raise


def parse_lines(path: str | Path) -> Iterator[Any]:
    """Parse a file of JSON lines that is appended to, line by line; none if it does not exist.

    An incomplete last line, of a run that was stopped, is cut off.
    """
    if not Path(path).exists():
        return
    size = 0
    with open(path, "rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(size)
                return
            size += len(line)
            yield json.loads(line)
