"""Candidates: limits of size, suppression and voting, for each image on its own."""

from __future__ import annotations

import numpy as np
import pytest

from lineament import boxes as box_ops
from lineament.errors import OptionError
from lineament.methods.candidates import Candidates
from lineament.methods.settings import DetectorSettings
from lineament.schemas import FIVE

# Two that share 0.6 of their union, one apart; the same in a second image
BOXES = np.array([[0.0, 0, 10, 10], [0, 0, 10, 6], [30, 0, 36, 20]] * 2)
SCORES = np.array([0.9, 0.8, 0.5, 0.4, 0.6, 0.7])


def candidates(n: int = 6) -> Candidates:
    rng = np.random.default_rng(0)
    points, sure = rng.uniform(0, 9, (n, 5, 2)), rng.random((n, 5))
    return Candidates(BOXES[:n], SCORES[:n], points, sure, np.array([0, 0, 0, 1, 1, 1])[:n])


def test_sizes_are_those_of_the_longer_side() -> None:
    found = candidates(3)
    assert found.sized(10, None).boxes.tolist() == BOXES[:3].tolist()
    assert found.sized(10.5, None).boxes.tolist() == [BOXES[2].tolist()]
    assert found.sized(1, 10).boxes.tolist() == BOXES[:2].tolist()
    assert len(found.sized(1, 9.9)) == 0
    assert len(candidates(0).sized(1, None)) == 0


def test_suppression_is_within_an_image_and_sorts() -> None:
    found = candidates().suppressed(DetectorSettings(), 0.5, 0.0)
    assert found.scores.tolist() == [0.9, 0.7, 0.6, 0.5]
    assert found.image.tolist() == [0, 1, 1, 0]
    assert len(candidates().suppressed(DetectorSettings(), 0.61, 0.0)) == 6
    over_the_smaller = candidates().suppressed(DetectorSettings(over="min"), 0.61, 0.0)
    assert over_the_smaller.scores.tolist() == [0.9, 0.7, 0.6, 0.5]


@pytest.mark.parametrize(("how", "factor"), [("soft-linear", 0.4), ("soft-gaussian", np.exp(-0.36 / 0.5))])
def test_soft_suppression_lowers_scores_and_drops_what_falls_below(how: str, factor: float) -> None:
    settings = DetectorSettings(suppression=how)
    found = candidates().suppressed(settings, 0.5, 0.0)
    lowered = [0.9, 0.8 * factor, 0.5, 0.4 * factor, 0.6, 0.7]
    np.testing.assert_allclose(found.scores, sorted(lowered, reverse=True))
    np.testing.assert_array_equal(found.boxes, BOXES[np.argsort(-np.array(lowered))])
    kept = candidates().suppressed(settings, 0.5, 0.45)
    assert (kept.scores >= 0.45).all()
    assert len(kept) == sum(score >= 0.45 for score in lowered)


def test_votes_move_boxes_and_leave_the_rest() -> None:
    plain = candidates().suppressed(DetectorSettings(), 0.5, 0.0)
    voted = candidates().suppressed(DetectorSettings(voting=0.5), 0.5, 0.0)
    mean = (0.9 * BOXES[0] + 0.8 * BOXES[1]) / 1.7
    np.testing.assert_allclose(voted.boxes[0], mean)
    np.testing.assert_allclose(voted.boxes[3], BOXES[2])
    for name in ("scores", "landmarks", "landmark_scores", "image"):
        np.testing.assert_array_equal(getattr(voted, name), getattr(plain, name))


def test_votes_weigh_by_the_scores_that_were_not_lowered_yet() -> None:
    found = candidates().suppressed(DetectorSettings(suppression="soft-linear", voting=0.5), 0.5, 0.0)
    mean = (0.9 * BOXES[0] + 0.8 * BOXES[1]) / 1.7
    np.testing.assert_allclose(found.boxes[found.scores == 0.9], [mean])
    np.testing.assert_allclose(found.boxes[np.isclose(found.scores, 0.32)], [mean])


@pytest.mark.parametrize("how", ["nms", "soft-linear", "soft-gaussian"])
def test_no_candidates_are_no_faces(how: str) -> None:
    found = candidates(0).suppressed(DetectorSettings(suppression=how, voting=0.5), 0.5, 0.0)
    (faces,) = found.faces([np.zeros((5, 7, 3), np.uint8)], FIVE)
    assert (len(faces), faces.image_size) == (0, (7, 5))


def test_faces_have_what_their_candidates_had() -> None:
    images = [np.zeros((40, 50, 3), np.uint8)] * 3
    first, second, none = candidates().faces(images, FIVE)
    assert (len(first), len(second), len(none)) == (3, 3, 0)
    np.testing.assert_allclose(second.landmark_scores, candidates().landmark_scores[3:], rtol=1e-6)
    np.testing.assert_allclose(box_ops.area(second.boxes), box_ops.area(BOXES[3:]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"suppression": "hard"},
            r"'suppression' .* found 'hard': expected one of nms, soft-linear, soft-gaussian",
        ),
        ({"over": "max"}, "'over' is e.g. 'union', found 'max': expected one of union, min"),
        ({"sigma": 0}, r"'sigma' .*, found 0: Expected `float` > 0"),
        ({"voting": 1.5}, r"'voting' .*, found 1.5: Expected `float` <= 1"),
        ({"voting": "yes"}, r"'voting' .*, found 'yes': Expected `float \| null`"),
        ({"threshold": np.float32(np.nan)}, r"'threshold' .*: expected a finite number"),
    ],
)
def test_settings_out_of_range_teach(settings: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        DetectorSettings(**settings)  # type: ignore[arg-type]
