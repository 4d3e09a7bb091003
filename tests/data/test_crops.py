"""Windows around and beside faces, and sets of crops on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lineament.boxes import iou
from lineament.data.crops import CropSet, CropSetWriter, astray, jittered

BOXES = np.array([[10.0, 20, 50, 100], [200, 200, 260, 230]])


def middles(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def test_jittered_windows_are_squares_about_their_faces() -> None:
    windows = jittered(np.random.default_rng(0), BOXES, 500)
    assert windows.shape == (1000, 4)
    size = windows[:, 2:] - windows[:, :2]
    np.testing.assert_allclose(size[:, 0], size[:, 1])
    for box, around in zip(BOXES, (windows[:500], windows[500:]), strict=True):
        extent = box[2:] - box[:2]
        sides = around[:, 2] - around[:, 0]
        limits = 0.8 * extent.min(), 1.25 * extent.max()
        assert limits[0] <= sides.min() < limits[0] * 1.05
        assert limits[1] * 0.97 < sides.max() <= limits[1]
        moved = np.abs(middles(around) - middles(box[None])) / extent
        assert (moved <= 0.2).all()
        assert (moved.max(axis=0) > 0.19).all()  # along both axes, as far as a fifth of each
        assert np.abs((middles(around) - middles(box[None])).mean(axis=0) / extent).max() < 0.03


def test_windows_astray_mostly_miss() -> None:
    rng = np.random.default_rng(0)
    windows = astray(rng, BOXES, (320, 240), 300, 400)
    assert windows.shape == (1000, 4)
    near, anywhere = windows[:600], windows[600:]
    sides = windows[:, 2] - windows[:, 0]
    np.testing.assert_allclose(sides, windows[:, 3] - windows[:, 1])
    for box, those in zip(BOXES, (near[:300], near[300:]), strict=True):
        longer = (box[2:] - box[:2]).max()
        share = (those[:, 2] - those[:, 0]) / longer
        assert 0.4 <= share.min() < 0.42
        assert 1.58 < share.max() <= 1.6
        away = np.abs(middles(those) - middles(box[None])) / longer
        assert (away <= 1).all()
        assert (away.max(axis=0) > 0.97).all()
    assert (iou(near, BOXES).max(axis=1) < 0.4).mean() > 0.8
    extent = anywhere[:, 2] - anywhere[:, 0]
    assert 12 <= extent.min() < 13
    assert 225 < extent.max() <= 240
    assert (extent < np.sqrt(12 * 240)).mean() == pytest.approx(0.5, abs=0.08)  # the logarithm is uniform
    places = middles(anywhere) / (320, 240)
    assert ((places >= 0) & (places <= 1)).all()
    assert (np.ptp(places, axis=0) > 0.97).all()


def test_without_faces_there_are_only_windows_anywhere() -> None:
    rng = np.random.default_rng(0)
    assert jittered(rng, np.zeros((0, 4)), 7).shape == (0, 4)
    assert astray(rng, np.zeros((0, 4)), (20, 9), 7, 5).shape == (5, 4)


def crops(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)


def test_a_set_holds_what_was_added_in_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [(crops(rng, n), np.arange(n) + 10 * n) for n in (3, 0, 4)]
    with CropSetWriter(tmp_path / "set", 6, "of these photos") as writer:
        for pixels, labels in parts:
            writer.add(pixels.transpose(0, 2, 1, 3), kind=labels, half=labels / 2)  # not contiguous
        assert not CropSet.is_there(tmp_path / "set", "of these photos")
    found = CropSet(tmp_path / "set")
    assert len(found) == 7
    np.testing.assert_array_equal(found.pixels, np.concatenate([p.transpose(0, 2, 1, 3) for p, _ in parts]))
    assert set(found.labels) == {"kind", "half"}
    np.testing.assert_array_equal(found.labels["kind"], [30, 31, 32, 40, 41, 42, 43])
    np.testing.assert_array_equal(found.labels["half"], found.labels["kind"] / 2)
    with pytest.raises(ValueError, match="read-only"):
        found.pixels[0] = 0
    assert not list((tmp_path / "set").glob("*.part"))


def test_a_set_is_there_for_its_digest_alone(tmp_path: Path) -> None:
    assert not CropSet.is_there(tmp_path / "set", "a")
    for digest in ("a", "b"):
        with CropSetWriter(tmp_path / "set", 6, digest) as writer:
            writer.add(crops(np.random.default_rng(0), 2), kind=np.zeros(2))
        assert [CropSet.is_there(tmp_path / "set", d) for d in "ab"] == [digest == "a", digest == "b"]


def test_an_error_leaves_no_set(tmp_path: Path) -> None:
    def write() -> None:
        with CropSetWriter(tmp_path / "set", 6, "a") as writer:
            writer.add(crops(np.random.default_rng(0), 2), kind=np.zeros(2))
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert not CropSet.is_there(tmp_path / "set", "a")
    assert list((tmp_path / "set").iterdir()) == []


def test_a_set_without_crops(tmp_path: Path) -> None:
    with CropSetWriter(tmp_path / "set", 6, "a") as writer:
        writer.add(crops(np.random.default_rng(0), 0), kind=np.zeros(0))
    assert len(CropSet(tmp_path / "set")) == 0
