"""The origin of a result: code, weights, data, machine and date, so that every number can be measured again."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lineament
from lineament.evaluate.results import Result
from lineament.weights import models, read_weights

Origin = dict[str, Any]
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")  # what the speed of networks depends on
_PACKAGES = ("numpy", "pillow", "onnxruntime", "openvino", "opencv-python-headless")


def origin(*, weights: Sequence[str | Path], data: Path | None, threads: int | None) -> Origin:
    """What a measurement depends on beside its settings.

    Args:
        weights: Names of shipped weights, or ONNX files: the detector's and a landmark stage's. Empty if the detections
            come from elsewhere.
        data: The labels, a file or a folder.
        threads: Processor threads. ``None``: the choice of the runtime.

    Returns:
        ``date`` (ISO), ``version`` and ``commit`` of lineament, ``weights`` (a list of ``file`` and ``sha256``),
        ``data`` (``name`` and ``sha256``), ``machine`` (``processor``, ``instructions``, ``cores``, ``threads``) and
        ``packages`` (version by name). Unknown values are ``None``.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "version": lineament.__version__,
        "commit": commit(),
        "weights": [describe_weights(name) for name in weights],
        "data": None if data is None else {"name": data.resolve().name, "sha256": digest(data)},
        "machine": machine(threads),
        "packages": packages(*_PACKAGES),
    }


def with_origin(result: Result, found: Origin) -> Result:
    """Add the origin to a result, and to its data the number of images and faces."""
    scores = result.scores
    counts = {"images": ("images", "pictures"), "faces": ("faces", "faces hard")}
    counted = {what: next((scores[name] for name in names if name in scores), None) for what, names in counts.items()}
    return replace(result, origin={**found, "data": {**found["data"], **counted} if found["data"] else None})


def describe_weights(weights: str | Path) -> dict[str, str]:
    """File name and SHA-256 of shipped weights or of a file."""
    shipped = {model.name: model.file for model in models()}
    return {
        "file": shipped.get(str(weights), Path(weights).name),
        "sha256": hashlib.sha256(read_weights(weights)).hexdigest(),
    }


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files of a folder.

    Raises:
        OSError: A file cannot be read.
    """
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            total.update(f"{file.relative_to(path).as_posix()}\0{digest(file)}\n".encode())
    return total.hexdigest()


def commit() -> str | None:
    """The commit of the checkout, with ``-dirty`` if the package differs from it.

    ``None`` if lineament does not run from its own checkout.
    """
    package = Path(lineament.__file__).parent
    if not (package.parents[1] / ".git").exists():  # the package may be installed inside another repository
        return None
    try:
        found = _git(package, "rev-parse", "--short=12", "HEAD")
        return f"{found}-dirty" if _git(package, "status", "--porcelain", "--", ".") else found
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    call = ["git", "-C", str(folder), *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


def machine(threads: int | None) -> dict[str, Any]:
    """The processor's name in the system, its instructions that matter to networks, cores, and threads in use."""
    said = _cpuinfo()
    flags = said.get("flags", "").split()
    return {
        "processor": said.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in _INSTRUCTIONS if name in flags],
        "cores": os.cpu_count(),
        "threads": threads,
    }


def packages(*names: str) -> dict[str, str]:
    """Versions of Python and of the given packages, if they are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def is_current(found: Origin) -> bool:
    """Whether a result is of weights that ship now. For other files, nothing newer is known."""
    shipped = {model.file: model.sha256 for model in models()}
    return all(shipped.get(used["file"], used["sha256"]) == used["sha256"] for used in found["weights"])


def _cpuinfo() -> dict[str, str]:
    """What Linux knows about the first processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
