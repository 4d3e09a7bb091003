"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary name in the file's folder to write under; moved in place at the end, removed if anything fails.

    Args:
        path: the file that comes about; its folder is made where it does not exist. A link leads to the file that is
            replaced. A pipe or a device is no file: it is written to as it stands.

    Yields:
        The temporary name, with the same suffix.
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
    """Write a file so that no half of it is ever read.

    Args:
        path: the file; its folder is made where it does not exist.
        content: text (written as UTF-8) or bytes.
    """
    with whole(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
