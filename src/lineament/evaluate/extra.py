"""What the evaluators need beyond the core: packages of the ``evaluate`` extra, and MATLAB files through them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from lineament.errors import DataError, MissingExtraError


def require(module: str) -> Any:
    """A module of a package that the ``evaluate`` extra brings.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"this evaluator needs {module}: pip install 'lineament[evaluate]'") from error


def load_mat(path: Path, *variables: str) -> list[Any]:
    """Variables of a MATLAB file (version 5 to 7), as ``scipy.io.loadmat`` gives them.

    Raises:
        DataError: no such file, no MATLAB file, or one without these variables.
        MissingExtraError: SciPy is not installed.
    """
    loadmat = require("scipy.io").loadmat
    try:
        content = loadmat(path, appendmat=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # the parser raises whatever it stumbles over
        raise DataError(f"{path}: expected a MATLAB file of version 5 to 7, it cannot be read ({error})") from error
    missing = [name for name in variables if name not in content]
    if missing:
        found = ", ".join(name for name in content if not name.startswith("__"))
        raise DataError(f"{path}: expected the variables {', '.join(variables)}; found {found or 'none'}")
    return [content[name] for name in variables]
