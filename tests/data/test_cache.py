"""The cache of decoded photos: it returns what it stored, and detects that it is of other photos."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")

from lineament.data.cache import Photos
from lineament.data.sample import Sample
from lineament.errors import DataError
from lineament.images import read_image
from scenes import scene

SIZES = ((160, 120), (90, 131), (301, 200))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    made = []
    for i, (width, height) in enumerate(SIZES):
        picture, boxes, points = scene(i, width=width, height=height, faces=i)
        picture.save(tmp_path / f"{i}.png")
        made.append(Sample.of(tmp_path / f"{i}.png", boxes, points, size=picture.size))
    return made


def test_small_photos_come_back_as_they_are(samples: list[Sample], tmp_path: Path) -> None:
    photos = Photos.build(samples, tmp_path / "cache", longest=301)
    assert len(photos) == len(samples)
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(photos[i], read_image(sample.path))
        assert photos.samples[i] is sample
    with pytest.raises(ValueError, match="read-only"):
        photos[0][0, 0] = 0


def test_a_large_photo_is_scaled_with_its_labels(samples: list[Sample], tmp_path: Path) -> None:
    photos = Photos.build(samples, tmp_path / "cache", longest=150)
    assert [photo.shape for photo in photos] == [(112, 150, 3), (131, 90, 3), (100, 150, 3)]
    for photo, sample, before in zip(photos, photos.samples, samples, strict=True):
        h, w = photo.shape[:2]
        assert (sample.width, sample.height) == (w, h)
        scale = np.array([w / before.width, h / before.height])
        np.testing.assert_allclose(sample.landmarks, before.landmarks * scale, rtol=1e-6)
        np.testing.assert_allclose(sample.boxes, before.boxes * np.tile(scale, 2), rtol=1e-6)
        assert abs(photo.mean() - read_image(before.path).mean()) < 0.5  # areas are averaged


def test_a_picture_of_unknown_size_gets_its_size(samples: list[Sample], tmp_path: Path) -> None:
    photos = Photos.build([replace(samples[2], width=0, height=0)], tmp_path / "cache", longest=150)
    assert (photos.samples[0].width, photos.samples[0].height) == (150, 100)
    np.testing.assert_allclose(photos.samples[0].boxes[:, ::2], samples[2].boxes[:, ::2] * 150 / 301, rtol=1e-6)


def test_a_valid_cache_is_opened_and_not_rebuilt(samples: list[Sample], tmp_path: Path) -> None:
    first = Photos.build(samples, tmp_path / "cache")[1].copy()
    for sample in samples:
        sample.path.unlink()
    np.testing.assert_array_equal(Photos.build(samples, tmp_path / "cache")[1], first)


def test_another_list_or_limit_is_another_cache(samples: list[Sample], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    before = Photos.build(samples, folder)
    with pytest.raises(DataError, match=r"no cache of these 2 photos.*Photos\.build"):
        Photos(samples[1:], folder)
    assert len(Photos.build(samples[1:], folder)) == 2
    assert max(Photos.build(samples[1:], folder, longest=100)[1].shape) == 100
    np.testing.assert_array_equal(before[2], read_image(samples[2].path))  # an open cache keeps its pixels


def test_a_photo_that_cannot_be_read_is_named_and_leaves_the_old_cache(samples: list[Sample], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    Photos.build(samples, folder)
    broken = tmp_path / "broken.png"
    broken.write_bytes(samples[2].path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"broken\.png"):
        Photos.build([*samples, Sample.of(broken, [])], folder)
    assert sorted(file.name for file in folder.iterdir()) == ["index.npz", "pixels.u8"]
    np.testing.assert_array_equal(Photos(samples, folder)[2], read_image(samples[2].path))


def test_a_build_cut_off_between_its_two_files_is_no_cache(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    Photos.build(samples[:1], folder)
    move = os.replace
    monkeypatch.setattr("os.replace", lambda part, path: move(part, path) if path.name == "pixels.u8" else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Photos.build(samples, folder)
    assert [file.name for file in folder.iterdir()] == ["pixels.u8"]
    for those in (samples, samples[:1]):
        with pytest.raises(DataError, match="no cache"):
            Photos(those, folder)


def test_nothing_to_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="empty"):
        Photos.build([], tmp_path)


def test_a_worker_gets_the_path_and_not_the_pixels(samples: list[Sample], tmp_path: Path) -> None:
    photos = Photos.build(samples, tmp_path / "cache", longest=150)
    parcel = pickle.dumps(photos)
    assert len(parcel) < photos[1].size
    copy = pickle.loads(parcel)
    for i in range(len(photos)):
        np.testing.assert_array_equal(copy[i], photos[i])
        np.testing.assert_array_equal(copy.samples[i].landmarks, photos.samples[i].landmarks)
