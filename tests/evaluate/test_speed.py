"""The mosaics, the fitted line and the protocol of the baseline. No test depends on a duration."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from lineament.errors import LineamentError, OptionError
from lineament.evaluate.speed import (
    FACE,
    Baseline,
    Start,
    cold_start,
    cut_face,
    evaluate_speed,
    fit_line,
    mosaic,
    peak_memory,
)
from lineament.faces import Faces
from lineament.images import read_image

ECHO = f'{sys.executable} -u -c "import sys\nfor line in sys.stdin: print(\'{{\\"ms\\": 40}}\')"'


def test_a_mosaic_has_that_many_faces() -> None:
    black = np.zeros((30, 20, 3), np.uint8)
    for count in (0, 1, 7, 16):
        picture = mosaic([black], count, canvas=80, cell=20)
        assert int((picture[::20, ::20, 0] == 0).sum()) == count
        assert int((picture == 0).all(axis=2).sum()) == count * 400
    fewer, more = mosaic([black], 3, canvas=80, cell=20), mosaic([black], 4, canvas=80, cell=20)
    assert ((fewer == 0) <= (more == 0)).all()
    with pytest.raises(OptionError, match="at most 16"):
        mosaic([black], 17, canvas=80, cell=20)


def test_the_face_that_ships_fills_mosaics() -> None:
    assert read_image(FACE).shape == (160, 160, 3)


def test_cut_face_takes_the_largest() -> None:
    picture = np.arange(100 * 100 * 3).reshape(100, 100, 3).astype(np.uint8)
    faces = Faces.of([[0, 0, 4, 4], [40, 50, 60, 70]], [0.9, 0.8], np.zeros((2, 5, 2)), image_size=(100, 100))
    np.testing.assert_array_equal(cut_face(picture, faces), picture[40:80, 30:70])
    with pytest.raises(OptionError, match="no face was detected"):
        cut_face(picture, Faces.empty((100, 100)))


def test_a_line_is_fitted_exactly() -> None:
    assert fit_line([1, 2, 5, 9], [13, 16, 25, 37]) == pytest.approx((10, 3))


def detect(picture: np.ndarray) -> Faces:
    n = int((picture[::160, ::160] == 0).all(axis=2).sum())
    return Faces.of(np.zeros((n, 4)), np.ones(n), np.zeros((n, 5, 2)), image_size=(1280, 1280))


def test_a_detector_and_a_baseline_in_turn(tmp_path: Path) -> None:
    tile = np.zeros((160, 160, 3), np.uint8)
    with Baseline(ECHO) as baseline:
        result = evaluate_speed(
            "made-up",
            detect,
            [tile],
            tmp_path,
            counts=(1, 3, 6),
            repeats=2,
            baseline=baseline,
            start=lambda path: Start(1.5, 90.0),
        )
    rows = result.tables["by number of faces"]
    assert [row["found"] for row in rows.values()] == [1, 3, 6]
    assert [row["baseline ms"] for row in rows.values()] == [40, 40, 40]
    assert result.scores["baseline ms per further face (fitted)"] == pytest.approx(0, abs=1e-9)
    assert (result.scores["cold start s"], result.scores["peak memory MB"]) == (1.5, 90.0)
    assert result.curves["time"]["x"] == [1, 3, 6]


@pytest.mark.parametrize("program", ["print('hello')", "pass", "print('{}')"])
def test_a_baseline_that_does_not_keep_to_the_protocol(tmp_path: Path, program: str) -> None:
    with Baseline(f'{sys.executable} -c "{program}"') as baseline, pytest.raises(LineamentError, match="one JSON line"):
        baseline.time(tmp_path / "a.png")


def test_a_baseline_that_is_not_there() -> None:
    with pytest.raises(OptionError, match="cannot be started"):
        Baseline("no-such-program-at-all")


def test_peak_memory_is_that_of_a_python_process() -> None:
    peak = peak_memory()
    assert peak is None or 5 < peak < 100_000


def test_a_fresh_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(LineamentError, match=r"fresh process for .*gone\.onnx.* failed: .*gone\.onnx"):
        cold_start(str(tmp_path / "gone.onnx"), tmp_path / "a.png")
