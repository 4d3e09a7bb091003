"""The golden inputs, unpacked."""

from __future__ import annotations

import json
import lzma
import tarfile
from pathlib import Path
from typing import Any


def expected(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    return found


def unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


def unpack_file(archive: Path, folder: Path) -> Path:
    target = folder / archive.stem
    target.write_bytes(lzma.decompress(archive.read_bytes()))
    return target
