"""MaskFace's decoding, with a network that detects white: cases by hand for views and test-time options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament.anchors import all_anchors
from lineament.faces import Faces
from lineament.methods.maskface.decode import FACES_AT_ONCE, Config, MaskFaceDecoder
from lineament.methods.maskface.levels import levels

Array = NDArray[Any]
POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.55, 0.6], [0.35, 0.8], [0.65, 0.8]])
MIRRORED = np.array([[0.3, 0.4], [0.7, 0.4], [0.45, 0.6], [0.35, 0.8], [0.65, 0.8]])


class White:
    """Detects the white rectangle of each view. Other anchors near it also detect it, with lower scores.

    Args:
        near: Smallest overlap of these other anchors.
        shake: Error of their boxes, relative to the sides.
    """

    def __init__(self, near: float = 1.0, shake: float = 0.0) -> None:
        self.near, self.shake = near, shake
        self.passes: list[int] = []
        self.metadata = {}

    def __call__(self, entry: str, outputs: tuple[str, ...], **inputs: Array) -> tuple[Array, ...]:
        if entry == "maskface":
            return self._whole(inputs["pixels"])
        if entry == "regions":
            boxes = inputs["boxes"]
            pooled = np.zeros((len(boxes), 3, 14, 14), np.float32)
            pooled[:, 0] = inputs["features"][inputs["image"], 0, 0, 0][:, None, None]  # whether the view is mirrored
            return (pooled,)
        self.passes.append(len(inputs["pooled"]))
        mirrored = inputs["pooled"][:, 0, 0, 0] > 0
        points = np.where(mirrored[:, None, None], MIRRORED, POINTS)
        return points.astype(np.float32), np.full(points.shape[:2], 0.9, np.float32)

    def _whole(self, pixels: Array) -> tuple[Array, ...]:
        n, h, w, _ = pixels.shape
        kinds = levels()
        anchors = all_anchors(w, h, kinds)
        logit = np.full((n, len(anchors)), -20, np.float32)
        offset = np.zeros((n, len(anchors), 4), np.float32)
        maps = [np.zeros((n, 3, h // kind.stride, w // kind.stride), np.float32) for kind in kinds]
        for i, view in enumerate(pixels):
            rows, columns = (np.flatnonzero((view[..., 0] > 127).any(axis=axis)) for axis in (1, 0))
            if not len(rows):
                continue
            box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], float)
            overlap = box_ops.iou(anchors, box)[:, 0]
            best = overlap.argmax()
            for anchor in {int(best), *np.flatnonzero(overlap >= self.near).tolist()}:
                size = np.tile(box[:, 2:] - box[:, :2], 2)
                wrong = self.shake * size * [(-1, -1, -1, -1), (1, 1, 1, 1)][anchor % 2]
                logit[i, anchor] = 4 if anchor == best else 2
                offset[i, anchor] = box_ops.encode_rcnn(box + wrong * (anchor != best), anchors[anchor : anchor + 1])[0]
            for level in maps:  # red or green tells whether the view is mirrored: the left half of the image is green
                level[i, 0] = float(view[:, : w // 2, 1].sum() < view[:, w // 2 :, 1].sum())
        return logit, offset, *maps


def picture(box: tuple[int, int, int, int], size: tuple[int, int] = (320, 256)) -> Array:
    """A black image with a white rectangle. The left half of the image is also green."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:, : size[0] // 2, 1] = 60
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return image


def detect(image: Array, graph: White | None = None, threshold: float = 0.5, **settings: Any) -> Faces:
    config = Config(**{"input_size": 320, "overview": False, **settings})
    decoder = MaskFaceDecoder(graph or White(), config)  # type: ignore[arg-type]
    return decoder([image], threshold=threshold, min_face=1, max_face=None)[0]


def expected(box: tuple[int, int, int, int]) -> Array:
    x1, y1, x2, y2 = box
    return POINTS * [x2 - x1, y2 - y1] + [x1, y1]


BOX = (40, 60, 100, 120)


def test_boxes_and_landmarks_lie_where_the_view_shows_them() -> None:
    faces = detect(picture(BOX))
    assert faces.boxes == pytest.approx(np.array([BOX]), abs=1e-3)
    assert faces.landmarks[0] == pytest.approx(expected(BOX), abs=1e-3)
    assert faces.landmark_scores == pytest.approx(0.9)


def test_landmarks_are_looked_for_as_far_around_a_face_as_the_weights_say() -> None:
    faces = detect(picture(BOX), region_margin=0.25)
    assert faces.boxes == pytest.approx(np.array([BOX]), abs=1e-3)
    assert faces.landmarks[0] == pytest.approx(expected((25, 45, 115, 135)), abs=1e-3)


def test_a_large_image_is_brought_to_the_input_and_back() -> None:
    box = (160, 240, 400, 480)
    faces = detect(picture(box, size=(1280, 1024)))
    assert faces.boxes == pytest.approx(np.array([box]), abs=4.1)  # a pixel of the view
    assert faces.landmarks[0] == pytest.approx(expected(box), abs=4.1)


def test_the_mirrored_view_gives_the_same_face_once() -> None:
    faces = detect(picture(BOX), flip=True)
    assert faces.boxes == pytest.approx(np.array([BOX]), abs=1e-3)
    assert faces.landmarks[0] == pytest.approx(expected(BOX), abs=1e-3)


def test_a_mirrored_view_alone_has_the_eyes_in_the_right_places() -> None:
    graph = White()
    decoder = MaskFaceDecoder(graph, Config(input_size=320, overview=False, flip=True))
    seen = decoder.views(0, picture(BOX))
    only = MaskFaceDecoder(graph, Config(input_size=320, overview=False))
    only.views = lambda number, image: seen[1:]  # type: ignore[method-assign]
    (faces,) = only([picture(BOX)], threshold=0.5, min_face=1, max_face=None)
    assert faces.landmarks[0] == pytest.approx(expected(BOX), abs=1e-3)


def test_a_pyramid_gives_one_face_whose_box_all_sizes_vote_for() -> None:
    box = (41, 61, 103, 121)  # half the box does not lie on whole pixels
    alone, voted = (detect(picture(box), pyramid=(0.5, 2), voting=voting) for voting in (None, 0.5))
    assert len(alone) == len(voted) == 1
    assert alone.boxes == pytest.approx(np.array([box]), abs=1.1)
    assert not np.array_equal(alone.boxes, voted.boxes)


def test_voting_brings_a_box_to_the_mean_of_those_that_overlap_it_by_their_scores() -> None:
    graph = White(near=0.4, shake=0.05)
    seen = detect(picture(BOX), graph, nms=1.0)
    best = np.argmax(seen.scores)
    seen = seen[box_ops.iou(seen.boxes, seen.boxes[[best]])[:, 0] > 0.5]
    weights = seen.scores / seen.scores.sum()
    voted = detect(picture(BOX), graph, voting=0.5)
    assert len(seen) > 3
    assert len(voted) == 1
    assert voted.boxes[0] == pytest.approx(weights @ seen.boxes, abs=1e-4)


def test_soft_suppression_lowers_scores_in_place_of_dropping_boxes() -> None:
    graph = White(near=0.4, shake=0.05)
    hard, soft = detect(picture(BOX), graph), detect(picture(BOX), graph, 0.05, suppression="soft-gaussian", sigma=0.9)
    assert len(hard) == 1
    assert len(soft) > 1
    assert soft.scores[0] == pytest.approx(hard.scores[0])
    plain = detect(picture(BOX), graph, nms=1.0)
    assert soft.scores == pytest.approx(
        np.sort(box_ops.soft_nms(plain.boxes, plain.scores, 0.4, sigma=0.9))[::-1][: len(soft)]
    )


def test_soft_suppression_is_for_each_pass_and_does_not_depend_on_the_other_images() -> None:
    decoder = MaskFaceDecoder(
        White(near=0.4, shake=0.05),  # type: ignore[arg-type]
        Config(input_size=320, suppression="soft-gaussian", sigma=0.9),
    )
    given = {"threshold": 0.05, "min_face": 1, "max_face": None}
    in_one_view, in_two = picture(BOX), picture((40, 60, 190, 200))
    together = decoder([in_one_view, in_two], **given)
    for image, faces in zip((in_one_view, in_two), together, strict=True):
        (alone,) = decoder([image], **given)
        assert len(alone) > 1
        np.testing.assert_allclose(alone.boxes, faces.boxes)
        np.testing.assert_allclose(alone.scores, faces.scores)


def test_voting_leaves_one_box_for_a_face_after_soft_suppression() -> None:
    graph = White(near=0.4, shake=0.05)
    soft = {"suppression": "soft-gaussian", "sigma": 0.9}
    left, voted = (detect(picture(BOX), graph, 0.05, **soft, voting=voting) for voting in (None, 0.5))
    near = left[box_ops.iou(left.boxes, left.boxes[[0]])[:, 0] > 0.5]
    assert len(near) == len(left) > 1
    assert len(voted) == 1
    assert voted.boxes[0] == pytest.approx(left.scores / left.scores.sum() @ left.boxes, abs=1e-4)


def test_tiles_find_what_the_whole_is_too_small_to_show() -> None:
    box = (900, 700, 930, 730)
    faces = detect(picture(box, size=(1280, 1024)), tiles=True)
    assert faces.boxes == pytest.approx(np.array([box]), abs=1e-3)


def test_faces_outside_the_sizes_asked_for_are_left_out() -> None:
    decoder = MaskFaceDecoder(White(), Config(input_size=320, overview=False))
    for smallest, largest, count in ((61, None, 0), (1, 59, 0), (59, 61, 1)):
        assert len(decoder([picture(BOX)], threshold=0.5, min_face=smallest, max_face=largest)[0]) == count


def test_images_of_all_sizes_in_one_call_give_what_they_give_alone_and_landmarks_come_in_one_pass() -> None:
    graph = White()
    decoder = MaskFaceDecoder(graph, Config(input_size=320, overview=False))
    images = [picture(BOX), np.zeros((50, 90, 3), np.uint8), picture((100, 20, 180, 110), (640, 200)), picture(BOX)]
    together = decoder(images, threshold=0.5, min_face=1, max_face=None)
    assert graph.passes == [3]
    for image, faces in zip(images, together, strict=True):
        (alone,) = decoder([image], threshold=0.5, min_face=1, max_face=None)
        assert alone.boxes == pytest.approx(faces.boxes)
        assert alone.landmarks == pytest.approx(faces.landmarks)


def test_many_faces_go_through_the_landmark_head_some_at_a_time() -> None:
    graph = White()
    decoder = MaskFaceDecoder(graph, Config(input_size=128, overview=False))
    decoder([picture((30, 30, 60, 60), (128, 128))] * (FACES_AT_ONCE + 6), threshold=0.5, min_face=1, max_face=None)
    assert graph.passes == [FACES_AT_ONCE, 6]


def test_no_face_asks_for_no_landmarks() -> None:
    graph = White()
    assert len(detect(np.zeros((200, 300, 3), np.uint8), graph)) == 0
    assert graph.passes == []


def test_without_a_keypoint_head_landmarks_are_unknown() -> None:
    faces = detect(picture(BOX), keypoint_head=False)
    assert np.isnan(faces.landmarks).all()
    assert not faces.landmark_scores.any()
