"""MATLAB files of both kinds, as plain Python: cells become lists, char arrays str, structs dicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lineament.errors import DataError, MissingExtraError

_HDF5 = b"\x89HDF\r\n\x1a\n"


def read_mat(path: str | Path) -> dict[str, Any]:
    """The variables of a .mat file: version 5 by scipy, version 7.3 (HDF5) by h5py.

    Numeric arrays keep MATLAB's orientation. A cell array is a flat list, its rows first where it has two dimensions
    longer than one.

    Raises:
        DataError: the file cannot be read, or is no MATLAB file.
        MissingExtraError: scipy, or for version 7.3 h5py, is not installed.
    """
    path = Path(path)
    try:
        head = path.open("rb").read(520)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return _read_hdf5(path) if head.startswith(_HDF5) or head[512:].startswith(_HDF5) else _read_v5(path)


def _read_v5(path: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise MissingExtraError(f"{path} takes scipy to read: pip install 'lineament[evaluate]'") from error
    try:
        found = loadmat(path, mat_dtype=True)  # doubles are doubles, even where stored in fewer bytes
    except (MatReadError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path}: expected a MATLAB file: {error}") from error
    return {name: _plain(value) for name, value in found.items() if not name.startswith("__")}


def _plain(value: Any) -> Any:
    if isinstance(value, np.void) and value.dtype.names:
        return {name: _plain(value[name]) for name in value.dtype.names}
    if isinstance(value, np.ndarray) and (value.dtype == object or value.dtype.names):
        return [_plain(item) for item in value.ravel()]
    if isinstance(value, np.ndarray) and value.dtype.kind in "US":
        return "".join(value.ravel().tolist())
    return value


def _read_hdf5(path: Path) -> dict[str, Any]:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError(
            f"{path} is a MATLAB 7.3 file, which takes h5py to read: pip install 'lineament[evaluate]'"
        ) from error

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
