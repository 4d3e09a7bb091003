"""What the evaluators need in addition: packages of the extra ``evaluate``, and variables of MATLAB files."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from lineament.data.readers.matlab import read_mat
from lineament.errors import DataError, MissingExtraError


def require(module: str) -> Any:
    """Import a module of the extra ``evaluate``.

    Raises:
        MissingExtraError: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError.of("evaluate", f"this evaluator needs {module}") from error


def read_variables(path: str | Path, *names: str) -> list[Any]:
    """Read variables of a MATLAB file as plain Python.

    Raises:
        DataError: The file is not a MATLAB file, or has no such variables.
        MissingExtraError: SciPy is not installed.
    """
    content = read_mat(path)
    if any(name not in content for name in names):
        raise DataError(f"{path}: expected the variables {', '.join(names)}; found {', '.join(content) or 'none'}")
    return [content[name] for name in names]
