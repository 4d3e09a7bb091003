"""MATLAB files of both versions, as plain Python: cells become lists, char arrays str, structs dicts.

SciPy and h5py crash on some damaged files, or ask for unlimited memory. So a separate process reads the file, within
limits, and returns the content.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

from lineament.errors import DataError, MissingExtraError

READER = Path(__file__).with_name("matlab_process.py")


def read_mat(path: str | Path) -> dict[str, Any]:
    """Read the variables of a .mat file: version 5 with SciPy, version 7.3 (HDF5) with h5py.

    Numeric arrays keep MATLAB's orientation. A cell array becomes a flat list, row by row if it has two dimensions
    longer than one.

    Raises:
        DataError: The file cannot be read or is not a MATLAB file.
        MissingExtraError: SciPy, or for version 7.3 h5py, is not installed.
    """
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-P", READER, path],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "HDF5_USE_FILE_LOCKING": "FALSE"},
    )
    kind: str
    found: Any
    kind, found = pickle.loads(done.stdout) if done.returncode == 0 else ("damaged", f"exit code {done.returncode}")
    if kind == "missing":
        raise MissingExtraError.of("evaluate", f"reading {path} needs {found}")
    if kind == "damaged":
        raise DataError(f"{path}: expected a MATLAB file, found a damaged one or something else: {found}")
    return found
