"""What the evaluators need beyond the core: packages of the ``evaluate`` extra, and variables of MATLAB files."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from lineament.data.readers.matlab import read_mat
from lineament.errors import DataError, MissingExtraError


def require(module: str) -> Any:
    """A module of a package that the ``evaluate`` extra brings.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError.of("evaluate", f"this evaluator needs {module}") from error


def read_variables(path: str | Path, *names: str) -> list[Any]:
    """Variables of a MATLAB file as plain Python.

    Raises:
        DataError: no MATLAB file, or one without these variables.
        MissingExtraError: SciPy is not installed.
    """
    content = read_mat(path)
    if any(name not in content for name in names):
        raise DataError(f"{path}: expected the variables {', '.join(names)}; found {', '.join(content) or 'none'}")
    return [content[name] for name in names]
