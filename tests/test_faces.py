"""The result of a detector: checked, read-only, indexed like an array, and written as plain numbers."""

from __future__ import annotations

import dataclasses
import json
import pickle
from importlib.resources import files

import jsonschema
import numpy as np
import pytest

from lineament.errors import DataError, OptionError
from lineament.faces import Faces
from lineament.schemas import FIVE, own

POINTS = np.arange(30, dtype=float).reshape(3, 5, 2)
FACES = Faces.of([[-5, 1, 8, 9], [1, 2, 3, 4], [2, 3, 40, 50]], [0.75, 0.5, 0.25], POINTS, image_size=(20, 30))
SCHEMA = json.loads((files("lineament") / "result.schema.json").read_text())
ARRAYS = ("boxes", "scores", "landmarks", "landmark_scores")


def test_arrays_are_float32_of_their_own_and_read_only() -> None:
    boxes = np.array([[1.0, 2, 3, 4]], np.float32)
    faces = Faces.of(boxes, [1], np.zeros((1, 5, 2)), image_size=(9, 9))
    boxes[:] = 0
    assert faces.boxes.tolist() == [[1, 2, 3, 4]]
    for name in ARRAYS:
        array = getattr(faces, name)
        assert array.dtype == np.float32
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        faces.scores = np.zeros(1)  # type: ignore[misc]


def test_faces_are_compared_by_identity() -> None:
    assert Faces.of(FACES.boxes, FACES.scores, FACES.landmarks, image_size=(20, 30)) != FACES
    assert len({FACES, FACES[:]}) == 2


def test_a_landmark_has_its_faces_score_unless_it_has_one() -> None:
    np.testing.assert_array_equal(FACES.landmark_scores, np.repeat([[0.75], [0.5], [0.25]], 5, axis=1))
    own_scores = np.linspace(0, 1, 15, dtype=np.float32).reshape(3, 5)
    faces = Faces.of(FACES.boxes, FACES.scores, POINTS, landmark_scores=own_scores, image_size=(20, 30))
    np.testing.assert_array_equal(faces.landmark_scores, own_scores)


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_another_shape_is_named(name: str) -> None:
    arrays = {field: getattr(FACES, field) for field in ARRAYS}
    count = 2 if name == "scores" else 3  # the number of scores is the number of faces
    arrays[name] = arrays[name][:-1] if name == "scores" else arrays[name][..., :-1]
    blamed = "boxes" if name == "scores" else name
    with pytest.raises(ValueError, match=rf"Faces\.{blamed}: expected shape \({count}.* for {count} faces"):
        Faces(**arrays, schema=FIVE, image_size=(20, 30))


def test_flat_numbers_take_their_shape() -> None:
    faces = Faces.of(FACES.boxes.ravel(), FACES.scores[:, None], POINTS.ravel(), image_size=(20, 30))
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(faces, name), getattr(FACES, name))


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (0, [0]),
        (-1, [2]),
        (-3, [0]),
        (np.int64(1), [1]),
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (np.array([True, False, True]), [0, 2]),
        ([False, True, False], [1]),
        ([], []),
        (np.zeros(3, bool), []),
        (np.array([], float), []),
    ],
)
def test_an_index_selects_whole_faces(index: object, rows: list[int]) -> None:
    faces = FACES[index]
    assert isinstance(faces, Faces)
    assert len(faces) == len(rows)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(faces, name), getattr(FACES, name)[rows])
    assert (faces.schema, faces.image_size) == (FIVE, (20, 30))


@pytest.mark.parametrize("index", [3, -4])
def test_no_such_face(index: int) -> None:
    with pytest.raises(IndexError, match=f"face {index} of 3"):
        FACES[index]


def test_faces_come_back_from_a_pickle_as_they_were() -> None:
    back = pickle.loads(pickle.dumps(FACES))
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(back, name), getattr(FACES, name))
        assert not getattr(back, name).flags.writeable
    assert (back.schema, back.image_size) == (FACES.schema, FACES.image_size)


def test_iteration_gives_one_face_at_a_time() -> None:
    assert [face.boxes.tolist() for face in FACES] == [[box] for box in FACES.boxes.tolist()]


def test_no_faces() -> None:
    schema = own("ears", ["right_ear", "left_ear"])
    faces = Faces.empty((4, 3), schema)
    assert len(faces) == 0
    assert [getattr(faces, name).shape for name in ARRAYS] == [(0, 4), (0,), (0, 2, 2), (0, 2)]
    assert (faces.schema, faces.image_size) == (schema, (4, 3))
    assert list(faces) == []
    assert repr(faces) == "Faces(0 in 4x3, schema 'ears')"
    assert Faces.empty((4, 3)).schema is FIVE


def test_faces_turn_with_their_image() -> None:
    image = np.zeros((4, 6), int)
    image[1, 4] = 1
    box, point = [4, 1, 5, 2], [4.5, 1.5]
    faces = Faces.of([box], [0.9], [[point] * 5], image_size=(6, 4))
    for degrees in (0, 90, 180, 270, 360, -90):
        turned = faces.turned(degrees)
        ((y, x),) = np.argwhere(np.rot90(image, degrees // 90))
        assert turned.boxes.tolist() == [[x, y, x + 1, y + 1]]
        assert turned.landmarks[0, 0].tolist() == [x + 0.5, y + 0.5]
        assert turned.image_size == ((6, 4) if degrees % 180 == 0 else (4, 6))
        assert (turned.turn + degrees) % 360 == 0
        back = Faces.from_dict(turned.to_dict())
        assert back.turn == turned.turn
        assert turned[0].turn == turned.clipped().turn == turned.turn
    with pytest.raises(OptionError, match="degrees is a multiple of 90, found 45"):
        faces.turned(45)


def test_clipping_cuts_boxes_alone() -> None:
    clipped = FACES.clipped()
    assert clipped.boxes.tolist() == [[0, 1, 8, 9], [1, 2, 3, 4], [2, 3, 20, 30]]
    for name in ARRAYS[1:]:
        np.testing.assert_array_equal(getattr(clipped, name), getattr(FACES, name))
    assert (clipped.schema, clipped.image_size) == (FACES.schema, FACES.image_size)
    assert FACES.boxes[0, 0] == -5


def test_plain_numbers() -> None:
    points = np.full((1, 2, 2), 1.23456)
    points[0, 1, 0] = np.nan  # a landmark with one missing coordinate is missing
    schema = own("ears", ["right_ear", "left_ear"])
    faces = Faces.of(
        [[0.123456, 1, 2, 3]],
        [0.987654],
        points,
        landmark_scores=[[0.123456, 0.5]],
        image_size=(20, 30),
        schema=schema,
    )
    assert faces.to_dict() == {
        "width": 20,
        "height": 30,
        "schema": "ears",
        "faces": [
            {
                "box": [0.12, 1, 2, 3],
                "score": 0.9877,
                "landmarks": [[1.23, 1.23], None],
                "landmark_scores": [0.1235, 0.5],
            }
        ],
    }
    rounded = faces.to_dict(digits=0)["faces"][0]
    assert (rounded["box"], rounded["score"], rounded["landmark_scores"]) == ([0, 1, 2, 3], 0.99, [0.12, 0.5])
    assert FACES[[]].to_dict()["faces"] == []


def test_the_only_face() -> None:
    faces = Faces.of([[1, 2, 3, 4], [5, 6, 7, 8]], [0.75, 0.5], np.zeros((2, 5, 2)), image_size=(9, 9))
    assert [(face.box.tolist(), face.score) for face in faces] == [([1, 2, 3, 4], 0.75), ([5, 6, 7, 8], 0.5)]
    for others in (faces, faces[:0]):
        with pytest.raises(OptionError, match=r"of one face, found [02]"):
            _ = others.box


def test_dictionaries_are_read_back() -> None:
    points = np.arange(20, dtype=np.float32).reshape(2, 5, 2)
    points[1, 3] = np.nan
    sure = np.linspace(0, 1, 10).reshape(2, 5)
    faces = Faces.of([[1, 2, 3, 4]] * 2, [0.75, 0.5], points, landmark_scores=sure, image_size=(9, 8))
    again = Faces.from_dict(json.loads(json.dumps(faces.to_dict(6))))
    assert (again.schema, again.image_size) == (faces.schema, faces.image_size)
    for name in ("boxes", "scores", "landmarks", "landmark_scores"):
        np.testing.assert_allclose(getattr(again, name), getattr(faces, name), atol=1e-6)
    assert len(Faces.from_dict(Faces.empty((3, 4)).to_dict())) == 0


def test_missing_landmark_scores_stay_missing() -> None:
    face = {"box": [1, 2, 3, 4], "score": 0.5, "landmarks": [None] * 5, "landmark_scores": [None, 0.5, 1, 0, None]}
    faces = Faces.from_dict(Faces.empty((9, 9)).to_dict() | {"faces": [face]})
    np.testing.assert_array_equal(faces.landmark_scores, [[np.nan, 0.5, 1, 0, np.nan]])
    told = json.loads(json.dumps(faces.to_dict(), allow_nan=False))
    assert told["faces"] == [face]
    jsonschema.validate(told | {"path": "a.jpg", "method": "own"}, SCHEMA)


NAN, INFINITE = float("nan"), float("inf")


def one_face(**changes: object) -> dict[str, object]:
    return {"faces": [{"box": [1, 2, 3, 4], "score": 1, "landmarks": [None] * 5} | changes]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": "9"}, "width: expected `int`"),
        ({"faces": None}, "missing required field `faces`"),
        ({"faces": [{"box": [1, 2, 3], "score": 1, "landmarks": []}]}, r"faces\[0\].box: expected `array` of length 4"),
        ({"faces": [{"box": [1, 2, 3, 4], "score": 1, "landmarks": [[1, 2]]}]}, "expected 5 landmarks"),
        (one_face(box=[1, 2, 3, NAN]), "a box or a score is not finite"),
        (one_face(landmarks=[None, [NAN, 1], None, None, None]), "a landmark or its score is not finite"),
        (one_face(landmarks=[None, [1, INFINITE], None, None, None]), "a landmark or its score is not finite"),
        (one_face(landmarks=[None, [1, -2e9], None, None, None]), "a landmark or its score is .* too large"),
        (one_face(landmark_scores=[None, 1, NAN, 1, 1]), "a landmark or its score is not finite"),
    ],
)
def test_other_dictionaries_are_refused(changes: dict[str, object], message: str) -> None:
    record = Faces.empty((9, 9)).to_dict() | changes
    with pytest.raises(DataError, match=message):
        Faces.from_dict({key: value for key, value in record.items() if value is not None})
