"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("lineament", deadline=None)  # a slow machine must not fail the tests
hypothesis.settings.load_profile("lineament")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with data sets and golden files. A user's clone does not have it."""
    folder = Path(os.environ.get("LINEAMENT_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("needs the data sets and golden files (LINEAMENT_SHARED), which are not part of the repository")
    return folder
