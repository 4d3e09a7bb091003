"""The process that reads one MATLAB file for ``matlab.read_mat``: a script that imports nothing of the library.

It writes a pickled pair to standard output: ``("content", variables)``, ``("missing", package)`` or
``("damaged", why)``.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np

HDF5 = b"\x89HDF\r\n\x1a\n"
MEMORY = 3 << 29  # bytes of address space beside what the size of the file requires
PER_BYTE = 64  # small arrays take more as Python objects than in the file, compressed ones more still
SECONDS = 120  # of processor time; HDF5 may follow damaged links in circles


def main(path: str) -> None:
    """Read a file and report."""
    _limit(os.path.getsize(path))
    report: tuple[str, Any]
    try:
        report = ("content", read(path))
    except ImportError as error:
        report = ("missing", (error.name or "SciPy").partition(".")[0])
    except BaseException as error:  # parsers raise errors of any kind
        report = ("damaged", f"{type(error).__name__}: {error}"[:300])
    pickle.dump(report, sys.stdout.buffer, protocol=5)


def read(path: str) -> dict[str, Any]:
    """The variables of a file of either version."""
    with Path(path).open("rb") as file:
        head = file.read(520)
    return _read_hdf5(path) if head.startswith(HDF5) or head[512:].startswith(HDF5) else _read_v5(path)


def _limit(size: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    for kind, most in ((resource.RLIMIT_AS, MEMORY + PER_BYTE * size), (resource.RLIMIT_CPU, SECONDS + size // 10**6)):
        _, ceiling = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if ceiling == resource.RLIM_INFINITY else min(most, ceiling), ceiling))


def _read_v5(path: str) -> dict[str, Any]:
    from scipy.io import loadmat

    found = loadmat(path, mat_dtype=True)  # doubles are doubles, even if stored in fewer bytes
    return {name: _plain(value) for name, value in found.items() if not name.startswith("__")}


def _plain(value: Any) -> Any:
    if isinstance(value, np.void) and value.dtype.names:
        return {name: _plain(value[name]) for name in value.dtype.names}
    if isinstance(value, np.ndarray) and (value.dtype == object or value.dtype.names):
        return [_plain(item) for item in value.ravel()]
    if isinstance(value, np.ndarray) and value.dtype.kind in "US":
        return "".join(value.ravel().tolist())
    return value


def _read_hdf5(path: str) -> dict[str, Any]:
    import h5py

    def plain(node: Any) -> Any:
        if isinstance(node, h5py.Group):
            return {name: plain(item) for name, item in node.items()}
        if node.attrs.get("MATLAB_empty"):
            return [] if node.attrs.get("MATLAB_class") == b"cell" else np.zeros((0, 0))
        if node.dtype == h5py.ref_dtype:
            return [plain(node.file[reference]) for reference in node[()].T.ravel()]
        if node.attrs.get("MATLAB_class") == b"char":
            return "".join(map(chr, node[()].T.ravel()))
        return node[()].T

    with h5py.File(path) as file:
        return {name: plain(node) for name, node in file.items() if not name.startswith("#")}


if __name__ == "__main__":
    main(sys.argv[1])
