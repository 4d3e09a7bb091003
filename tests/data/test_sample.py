"""The samples of readers: arrays are checked, and missing labels are filled in."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest

from lineament.data.sample import HIDDEN, NOT_LABELLED, VISIBLE, Sample
from lineament.errors import DataError
from lineament.schemas import FIVE, own

EARS = own("ears", ["right_ear", "left_ear"], [(0, 1)])
BOXES = [[0, 0, 4, 4], [5, 5, 9, 9], [1, 2, 3, 4]]
POINTS = np.array([[[1, 2], [3, 2]], [[6, 7], [np.nan, np.nan]], [[np.nan, np.nan], [2, np.nan]]])


def test_what_is_left_out_is_filled_in() -> None:
    sample = Sample.of("folder/a.jpg", BOXES)
    assert (sample.path, sample.width, sample.height, sample.source) == (Path("folder/a.jpg"), 0, 0, "")
    assert sample.schema is FIVE
    assert np.isnan(sample.landmarks).all()
    assert sample.landmarks.shape == (3, 5, 2)
    assert (sample.visibility == NOT_LABELLED).all()
    assert not sample.ignore.any()
    assert sample.box_source.tolist() == ["human"] * 3
    assert sample.landmark_source.tolist() == ["none"] * 3
    assert sample.attributes == {}
    assert len(sample) == 3


def test_landmarks_are_seen_where_they_are_labelled() -> None:
    sample = Sample.of("a.jpg", BOXES, POINTS, schema=EARS)
    assert sample.visibility.tolist() == [[VISIBLE, VISIBLE], [VISIBLE, NOT_LABELLED], [NOT_LABELLED, NOT_LABELLED]]
    assert sample.landmark_source.tolist() == ["human", "human", "none"]
    np.testing.assert_array_equal(sample.landmarks[:2], POINTS[:2])
    assert np.isnan(sample.landmarks[2]).all()  # a landmark with one missing coordinate is missing


def test_a_landmark_that_is_not_labelled_has_no_place() -> None:
    visibility = [[HIDDEN, NOT_LABELLED], [VISIBLE, VISIBLE], [VISIBLE, HIDDEN]]
    sample = Sample.of("a.jpg", BOXES, POINTS, visibility=visibility, schema=EARS, landmark_source="detector")
    assert sample.visibility.tolist() == [[HIDDEN, NOT_LABELLED], [VISIBLE, NOT_LABELLED], [NOT_LABELLED] * 2]
    assert np.isnan(sample.landmarks[0, 1]).all()
    np.testing.assert_array_equal(sample.landmarks[0, 0], POINTS[0, 0])
    assert sample.landmark_source.tolist() == ["detector", "detector", "none"]


def test_what_is_given_is_kept() -> None:
    sample = Sample.of(
        "a.jpg",
        np.ravel(BOXES),
        np.ravel(POINTS),
        ignore=[0, 1, 0],
        size=(20, 10),
        source="wider",
        box_source=["human", "detector", "from-points"],
        schema=EARS,
        attributes={"blur": np.arange(3)},
    )
    assert sample.boxes.tolist() == BOXES
    assert (sample.width, sample.height, sample.source, sample.schema) == (20, 10, "wider", EARS)
    assert sample.ignore.tolist() == [False, True, False]
    assert sample.box_source.tolist() == ["human", "detector", "from-points"]
    assert sample.attributes["blur"].tolist() == [0, 1, 2]
    kinds = [np.float32, np.float32, np.uint8, bool]
    assert [a.dtype for a in (sample.boxes, sample.landmarks, sample.visibility, sample.ignore)] == kinds
    assert repr(sample) == "Sample(a.jpg, 3 faces, 20x10, schema 'ears')"
    with pytest.raises(FrozenInstanceError):
        sample.width = 3  # type: ignore[misc]


def test_no_faces() -> None:
    sample = Sample.of("a.jpg", [], [], schema=EARS)
    assert len(sample) == 0
    assert (sample.boxes.shape, sample.landmarks.shape, sample.visibility.shape) == ((0, 4), (0, 2, 2), (0, 2))


@pytest.mark.parametrize("name", ["landmarks", "visibility", "ignore", "box_source", "landmark_source"])
def test_an_array_of_another_shape_is_named(name: str) -> None:
    sample = Sample.of("a.jpg", BOXES)
    with pytest.raises(DataError, match=rf"a\.jpg: {name} of 3 faces should have shape \(3,.*found \(2,"):
        replace(sample, **{name: getattr(sample, name)[:2]})
    with pytest.raises(DataError, match="attribute 'blur' has 2 entries for 3 faces"):
        replace(sample, attributes={"blur": np.zeros(2)})
    with pytest.raises(DataError, match=r"boxes of 3 faces should have shape \(3, 4\), found \(3, 3\)"):
        replace(sample, boxes=sample.boxes[:, :3])
