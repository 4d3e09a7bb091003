"""Drawings lie where the faces are, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lineament.drawing import BOX, POINT, draw
from lineament.faces import Faces
from lineament.images import read_image
from lineament.schemas import SCHEMAS

GREY = np.full((120, 160, 3), 100, np.uint8)


def one_face(**changes: object) -> Faces:
    points = np.array([[50.5, 50.5], [70.5, 50.5], [60.5, 60.5], [52.5, 70.5], [68.5, 70.5]])
    values = {"boxes": [[40, 40, 80, 90]], "scores": [0.875], "landmarks": points[None]} | changes
    return Faces.of(**values, image_size=(160, 120))


def where(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.asarray(image) == colour).all(-1)


def test_a_box_covers_its_outermost_pixels() -> None:
    y, x = np.nonzero(where(draw(GREY, one_face(), landmarks=False, scores=False), BOX))
    assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == (40, 40, 80, 90)
    assert where(draw(GREY, one_face(), landmarks=False, scores=False), BOX).sum() == 2 * (40 + 50) - 4


def test_landmarks_are_centred_and_missing_ones_left_out() -> None:
    points = np.full((1, 5, 2), np.nan)
    points[0, 2] = 60.5, 70.5
    y, x = np.nonzero(where(draw(GREY, one_face(landmarks=points), boxes=False, scores=False), POINT))
    assert (x.mean() + 0.5, y.mean() + 0.5) == (60.5, 70.5)
    assert len(x) < 30


def test_lines_grow_smoothly_with_the_face() -> None:
    large = np.zeros((2400, 3000, 3), np.uint8)

    def width(side: float) -> float:
        """The width of the left edge in pixels. Antialiased pixels count in part."""
        faces = Faces.of([[500, 500, 500 + side, 500 + side]], [1], np.full((1, 5, 2), np.nan), image_size=(3000, 2400))
        drawn = np.asarray(draw(large, faces, scores=False))
        return float(drawn[500 + int(side) // 2, 490:530, 1].sum() / BOX[1])

    faces = Faces.of([[500, 500, 1500, 1500]], [1], np.full((1, 5, 2), np.nan), image_size=(3000, 2400))
    assert width(60) == 1
    assert [width(side) for side in (100, 125, 150, 1000)] == pytest.approx([1.2, 1.5, 1.8, 12], abs=0.01)
    assert where(draw(large, faces, scores=False, line_width=3), BOX)[1000, 490:520].sum() == 3


def test_scores_stay_inside_the_picture() -> None:
    for box in ([40, 40, 80, 90], [-30, -30, 20, 20]):
        with_score = where(draw(GREY, one_face(boxes=[box]), landmarks=False), BOX)
        without = where(draw(GREY, one_face(boxes=[box]), landmarks=False, scores=False), BOX)
        assert (with_score & ~without).sum() > 20


def test_a_score_hides_no_other_face() -> None:
    boxes = [[40, 16, 80, 56], [40, 58, 80, 98]]  # above the lower box, its score would cover the upper face
    faces = Faces.of(boxes, [0.9, 0.8], np.full((2, 5, 2), np.nan), image_size=(160, 120))
    image = np.asarray(draw(GREY, faces, boxes=False))
    for x1, y1, x2, y2 in boxes:
        assert (image[y1:y2, x1:x2] == 100).all()


def test_many_landmarks_leave_the_face_visible() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(20, 100, (1, 68, 2))
    faces = Faces.of([[20, 20, 100, 100]], [1], points, image_size=(160, 120), schema=SCHEMAS["68"])
    image = draw(GREY, faces, boxes=False, scores=False)
    touched = (np.asarray(image)[20:100, 20:100] != 100).any(-1).mean()
    assert 0.02 < touched < 0.15


def test_odd_boxes_and_no_faces() -> None:
    assert np.array_equal(np.asarray(draw(GREY, Faces.empty((160, 120)))), GREY)
    draw(GREY, one_face(boxes=[[-500, -500, 900, 900]]))
    draw(GREY, one_face(boxes=[[50, 50, 50, 50]]))
    draw(GREY[:1, :1], Faces.of([[0, 0, 1, 1]], [1], np.zeros((1, 5, 2)), image_size=(1, 1)))


def test_the_picture_itself_stays_as_it_is() -> None:
    image = GREY.copy()
    draw(image, one_face())
    assert np.array_equal(image, GREY)
    photo = Image.fromarray(GREY)
    draw(photo, one_face())
    assert np.array_equal(read_image(photo), GREY)


@pytest.mark.parametrize("far", [1e6, 1e9, 1e15])
def test_boxes_far_beyond_the_image_are_drawn_where_they_meet_it(far: float) -> None:
    drawn = draw(GREY, one_face(boxes=[[-far, 20, far, far]]))
    assert where(drawn, BOX).any()
    assert drawn.size == (160, 120)
    draw(GREY, one_face(landmarks=np.full((1, 5, 2), far)))
