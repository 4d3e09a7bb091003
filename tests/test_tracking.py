"""Tracks: who is linked to whom, what stands in a gap, and where a face is held."""

from __future__ import annotations

import numpy as np
import pytest

from lineament.errors import OptionError
from lineament.tracking import Shots, Tracker, Tracks, link


def box(x: float, y: float = 50, side: float = 20) -> list[float]:
    return [x, y, x + side, y + side]


def moving(frames: int, *starts: float, speed: float = 4, missing: tuple[int, ...] = ()) -> list:
    """Of each frame the boxes of faces that move to the right, the last one left out in some frames."""
    return [
        (
            np.array([box(start + speed * t) for start in starts[: len(starts) - (t in missing)]]).reshape(-1, 4),
            np.full(len(starts) - (t in missing), 0.9),
        )
        for t in range(frames)
    ]


def one_shot(frames: int) -> np.ndarray:
    return np.zeros(frames, np.intp)


def test_faces_keep_their_numbers_in_any_order_of_detections() -> None:
    tracker = Tracker()
    first = tracker.update(np.array([box(0), box(100), box(200)]), np.full(3, 0.9))
    second = tracker.update(np.array([box(203), box(3), box(103)]), np.full(3, 0.9))
    assert first.tolist() == [0, 1, 2]
    assert second.tolist() == [2, 0, 1]


def test_a_face_that_moves_by_more_than_its_side_is_predicted() -> None:
    tracker = Tracker()
    ids = [tracker.update(np.array([box(x)]), np.ones(1))[0] for x in (0, 10, 28, 51, 76, 102, 128, 154)]
    assert set(ids) == {0}


def test_crossing_faces_are_told_apart_by_their_velocity() -> None:
    frames = [(np.array([box(6 * t, 50), box(120 - 6 * t, 58)]), np.full(2, 0.9)) for t in range(20)]
    tracks = link(frames, one_shot(20))
    assert np.unique(tracks.track).tolist() == [0, 1]
    assert (np.diff(tracks.boxes[tracks.track == 0, 0]) > 0).all()


def test_a_sure_detection_is_linked_before_a_nearer_faint_one() -> None:
    tracker = Tracker(threshold=0.5)
    tracker.update(np.array([box(0)]), np.array([0.9]))
    assert tracker.update(np.array([box(0.5), box(3)]), np.array([0.2, 0.9])).tolist() == [1, 0]


def test_a_gap_is_bridged_up_to_its_length_and_filled_in_a_line() -> None:
    frames = moving(20, 0, 100, missing=(5, 6, 7))
    tracks = link(frames, one_shot(20), gap=3).filled()
    assert np.unique(tracks.track).tolist() == [0, 1]
    assert len(tracks) == 40
    filled = tracks[(tracks.track == 1) & (tracks.scores == 0)]
    assert filled.frame.tolist() == [5, 6, 7]
    np.testing.assert_allclose(filled.boxes[:, 0], [120, 124, 128])
    assert len(np.unique(link(frames, one_shot(20), gap=2).track)) == 3


def test_a_track_ends_at_a_cut() -> None:
    shots = np.array([0] * 4 + [1] * 4)
    tracks = link(moving(8, 0, speed=0), shots)
    assert np.unique(tracks.track).tolist() == [0, 1]
    assert tracks.filled().held(10, shots).frame.tolist() == list(range(8))


def test_faces_are_held_before_and_after_and_go_on_moving() -> None:
    nobody = (np.zeros((0, 4)), np.zeros(0))
    frames = [nobody] * 10 + moving(6, 100) + [nobody] * 10
    tracks = link(frames, one_shot(26)).held(3, one_shot(26))
    assert tracks.frame.tolist() == list(range(7, 19))
    assert (np.diff(tracks.boxes[:, 0]) > 0).all()
    assert 112 < tracks.boxes[-3, 0] - 8 < tracks.boxes[-1, 0] < 132
    np.testing.assert_allclose(tracks.boxes[:, 2] - tracks.boxes[:, 0], 20)
    assert (tracks.scores > 0).tolist() == [False] * 3 + [True] * 6 + [False] * 3


def test_what_was_detected_in_few_frames_is_held_in_fewer() -> None:
    nobody = (np.zeros((0, 4)), np.zeros(0))
    tracks = link([nobody] * 9 + moving(4, 100) + [nobody] * 9, one_shot(22))
    assert tracks.held(5, one_shot(22)).frame.tolist() == list(range(7, 15))
    assert tracks[:1].held(5, one_shot(22)).frame.tolist() == [9]


def test_what_lights_up_once_does_not_count() -> None:
    boxes = np.tile(box(0), (12, 1))
    track, frame = np.repeat([0, 1], 6), np.tile(np.arange(6), 2)
    scores = np.array([0.9, 0, 0, 0, 0, 0.2, 0.5, 0.4, 0.6, 0.5, 0.3, 0.4])
    tracks = Tracks(track, frame, boxes, scores)
    assert np.unique(tracks.counted(0.3, 0.2, side=1000).track).tolist() == [1]
    assert np.unique(tracks.counted(0.8, 0, side=1000).track).tolist() == [0]
    assert not len(tracks.counted(0.3, 0.2, side=20)), "a large face needs a higher mean"


def test_a_video_without_faces_has_no_tracks() -> None:
    tracks = link([(np.zeros((0, 4)), np.zeros(0))] * 3, one_shot(3))
    assert not len(tracks.filled().counted(0.3, 0.1, 640).held(5, one_shot(3)))
    assert [len(each) for each in tracks.by_frame(3)] == [0, 0, 0]


def test_every_frame_gets_its_own_faces() -> None:
    tracks = link(moving(5, 0, 100, 200), one_shot(5))
    for t, each in enumerate(tracks.by_frame(5)):
        assert each.frame.tolist() == [t] * 3
        assert sorted(each.boxes[:, 0]) == [4 * t, 100 + 4 * t, 200 + 4 * t]


def test_a_cut_is_told_from_a_flash_a_fade_and_a_pan() -> None:
    rng = np.random.default_rng(0)
    one, other = (np.kron(rng.uniform(0, 200, (6, 10)), np.ones((3, 3))) for _ in range(2))
    shots = Shots()
    seen = [one, one + 50, one * 0.3, np.roll(one, 1, axis=1), other, other, np.zeros_like(one), one]
    assert [shots.update(frame) for frame in seen] == [0, 0, 0, 0, 1, 1, 2, 3]


@pytest.mark.parametrize("wrong", [{"threshold": 2}, {"gap": -1}, {"gap": 1.5}])
def test_wrong_arguments(wrong: dict) -> None:
    with pytest.raises(OptionError):
        Tracker(**wrong)
