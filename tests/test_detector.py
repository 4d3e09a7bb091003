"""The detector around a method: one image or many, groups, threads, options."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lineament
from lineament import boxes as box_ops
from lineament import detector as detector_module
from lineament import methods
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.images import resize
from lineament.methods.mtcnn.decode import Config
from lineament.methods.settings import ViewSettings
from lineament.runtime import Graph, load_graph
from lineament.schemas import FIVE
from lineament.weights import read_weights

ROOT = Path(__file__).resolve().parents[1]
PHOTOS = sorted((ROOT / "examples" / "photos").glob("*.jpg"))


class Recorder:
    """A method that detects nothing and records its calls."""

    schema = FIVE

    def __init__(self) -> None:
        self.calls: list[tuple[list[tuple[int, ...]], dict[str, Any]]] = []

    def __call__(self, images: Sequence[np.ndarray], **options: Any) -> list[Faces]:
        self.calls.append(([image.shape for image in images], options))
        return [Faces.empty((image.shape[1], image.shape[0])) for image in images]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def recording(recorder: Recorder) -> lineament.Detector:
    return lineament.Detector("recorder", recorder, Config(threshold=0.4, min_face=15))


def test_one_gives_one_and_a_list_gives_a_list(recording: lineament.Detector) -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    assert isinstance(recording.detect(image), Faces)
    assert [faces.image_size for faces in recording.detect([image, image[:, :5]])] == [(6, 4), (5, 4)]
    assert recording.detect([image])[0].image_size == (6, 4)
    assert recording.detect(()) == []


def test_large_lists_go_in_groups(
    recording: lineament.Detector, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector_module, "PIXELS_AT_ONCE", 100)
    sizes = [(5, 8), (5, 8), (5, 8), (50, 50), (1, 1)]
    faces = recording.detect([np.zeros((*size, 3), np.uint8) for size in sizes])
    assert [len(shapes) for shapes, _ in recorder.calls] == [2, 1, 1, 1]
    assert [f.image_size for f in faces] == [(w, h) for h, w in sizes]


def test_small_images_count_as_large_as_the_network_sees_them(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector_module, "PIXELS_AT_ONCE", 2 * 64 * 64)
    detector = lineament.Detector("recorder", recorder, ViewSettings(input_size=64))
    detector.detect([np.zeros((5, 8, 3), np.uint8)] * 5)
    assert [len(shapes) for shapes, _ in recorder.calls] == [2, 2, 1]


def test_options_fall_back_to_the_methods_own(recording: lineament.Detector, recorder: Recorder) -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    recording.detect(image)
    recording.detect(image, threshold=0, min_face=3.5, max_face=9)
    assert recorder.calls[0][1] == {"threshold": 0.4, "min_face": 15, "max_face": None}
    assert recorder.calls[1][1] == {"threshold": 0, "min_face": 3.5, "max_face": 9}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.1}, r"\[0, 1\], found 1.1"),
        ({"threshold": -0.1}, r"\[0, 1\]"),
        ({"threshold": float("nan")}, r"\[0, 1\]"),
        ({"min_face": 0.5}, "at least 1, found 0.5"),
        ({"min_face": float("inf")}, "at least 1"),
        ({"min_face": 30, "max_face": 20}, "not below min_face"),
        ({"max_face": float("nan")}, "not below min_face"),
        ({"color": "hsv"}, "'rgb' or 'bgr'"),
    ],
)
def test_options_out_of_range_teach(recording: lineament.Detector, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        recording.detect(np.zeros((4, 6, 3), np.uint8), **options)


def test_eight_threads_share_one_detector_and_each_gets_its_own_faces() -> None:
    detector = lineament.load("mtcnn", threads=1)
    images = [lineament.read_image(path) for path in PHOTOS]
    pictures = [np.ascontiguousarray(image[::step, ::step]) for image in images for step in (1, 2, 3)]
    alone = [detector.detect(picture) for picture in pictures]
    assert len({faces.image_size for faces in alone}) > 5
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(detector.detect, pictures * 4))
    for faces, expected in zip(together, alone * 4, strict=True):
        np.testing.assert_array_equal(faces.boxes, expected.boxes)
        np.testing.assert_array_equal(faces.scores, expected.scores)
        np.testing.assert_array_equal(faces.landmarks, expected.landmarks)


def test_settings_can_be_replaced_and_unknown_ones_teach() -> None:
    assert lineament.load("mtcnn", settings={"pnet_threshold": 0.5}).settings.pnet_threshold == 0.5
    with pytest.raises(OptionError, match=r"'pnet'.*pnet_threshold"):
        lineament.load("mtcnn", settings={"pnet": 0.5})
    with pytest.raises(OptionError, match="codec must be one of corner, rcnn, found 'round'"):
        Config(codec="round")


@pytest.mark.parametrize(
    ("name", "setting", "values"),
    [
        ("mtcnn", "factor", (0, 1, 2.5)),
        ("mtcnn", "nms_onet", (-0.1, 2)),
        ("mtcnn", "agreement", ([1.0], [1.0] * 100)),
        ("kpnet-lite-int8", "nms", (-0.1, 2)),
        ("kpnet-lite-int8", "input_size", (63, 4097, 10**9)),
        ("kpnet-lite-int8", "overlap", (1.0, 0.9999)),
        ("kpnet-lite-int8", "refinement", ([[0.5] * 500],)),
        ("maskface", "nms", (2,)),
        ("foxnet", "nms", (2,)),
        ("foxnet", "calibration", ({"5": {"scores": [0.0] * 500, "shares": [0.5] * 500}},)),
    ],
)
def test_settings_out_of_range_are_refused_in_a_line(name: str, setting: str, values: Sequence[Any]) -> None:
    for value in values:
        with pytest.raises(OptionError, match=setting) as caught:
            lineament.load(name, settings={setting: value})
        assert len(str(caught.value)) < 300, caught.value


def test_a_pyramid_of_sizes_in_pixels_is_refused_before_it_fills_the_memory() -> None:
    for pyramid in ([320, 640], [0.05], [-1]):
        with pytest.raises(OptionError, match=r"pyramid has multiples of input_size, such as \[0\.5, 2\]"):
            lineament.load("kpnet-lite-int8", settings={"pyramid": pyramid})


@pytest.mark.parametrize(
    ("method", "setting", "value"),
    [
        ("mtcnn", "nms_rnet", "a"),
        ("mtcnn", "nms_rnet", [0.5]),
        ("mtcnn", "threshold", None),
        ("mtcnn", "looks", 0.8),
        ("mtcnn", "looks", ["0.8"]),
        ("kpnet", "evidence", 1),
        ("kpnet", "refinement", [0.5]),
        ("kpnet", "refinement", [[["a"]]]),
    ],
)
def test_a_setting_of_another_kind_teaches(method: str, setting: str, value: object) -> None:
    with pytest.raises(OptionError, match=rf"setting '{setting}' is e\.g\. .*, found {re.escape(repr(value))}"):
        lineament.load(method, settings={setting: value})


def test_nested_settings_can_be_replaced() -> None:
    photo = next(path for path in PHOTOS if path.stem == "astronaut")
    nothing = [[[0.0] * 4] * 5] * 6  # leaves the network's own square
    alone = {"verify": False}
    (box,) = lineament.load("kpnet", settings=alone | {"refinement": nothing}).detect(photo).boxes
    (other,) = lineament.load("kpnet", settings=alone).detect(photo).boxes
    assert box[2] - box[0] == pytest.approx(box[3] - box[1], rel=1e-3)
    assert (other[3] - other[1]) / (other[2] - other[0]) > 1.1


@pytest.mark.parametrize(
    ("name", "own"),
    [("mtcnn", {"nms_rnet": 0.9}), ("kpnet-lite", {"pyramid": [0.8], "overview": False, "verify": False})],
)  # both find the face twice before the suppression
def test_shared_settings_reach_every_detector(name: str, own: dict[str, Any]) -> None:
    photo = next(path for path in PHOTOS if path.stem == "astronaut")

    def found(**settings: Any) -> Faces:
        return lineament.load(name, settings=own | settings).detect(photo, min_face=60)

    usual, unsuppressed = found(), found(suppression="soft-gaussian", sigma=1e9)
    assert len(unsuppressed) > len(usual)
    voted, flipped = found(voting=0.5), found(flip=True, voting=0.5)
    assert len(voted) == len(usual) == len(flipped)
    np.testing.assert_allclose(voted.scores, usual.scores, rtol=1e-6)
    assert (voted.boxes != usual.boxes).any()
    assert (flipped.boxes != voted.boxes).any()
    assert len(found(over="min")) <= len(usual)


@pytest.mark.parametrize("name", ["kpnet", "maskface"])
def test_faces_at_the_edges_of_tiles_are_found_once(name: str) -> None:
    photo = lineament.read_image(next(path for path in PHOTOS if path.stem == "biden-2013"))
    face = resize(photo[100:620, 320:840], (90, 90))
    found = lineament.load(name, settings={"tiles": True, "input_size": 320}).detect(np.tile(face, (12, 12, 1)))
    assert len(found) == 144
    assert len(np.unique(found.boxes.reshape(-1, 2, 2).mean(axis=1) // 90, axis=0)) == 144


@pytest.mark.parametrize("name", ["kpnet", "mtcnn"])
def test_faces_are_found_however_an_image_lies(name: str) -> None:
    photo = lineament.read_image(next(path for path in PHOTOS if path.stem == "astronaut"))
    upright = lineament.load(name).detect(photo, min_face=60)
    detector = lineament.load(name, settings={"turns": True})
    lying = [np.rot90(photo, quarter) for quarter in range(4)]
    for degrees, found in zip((0, 90, 180, 270), detector.detect(lying, min_face=60), strict=True):
        assert (found.turn + degrees) % 360 == 0
        back = found.turned(-degrees)
        np.testing.assert_allclose(back.boxes, upright.boxes, atol=1e-3)
        np.testing.assert_allclose(back.landmarks, upright.landmarks, atol=1e-3)
        np.testing.assert_allclose(back.scores, upright.scores, atol=1e-6)


def test_one_sure_face_outweighs_many_faint_ones() -> None:
    photo = lineament.read_image(next(path for path in PHOTOS if path.stem == "astronaut"))
    (sure,) = lineament.load().detect([photo])
    faint = replace(sure[np.zeros(12, int)], scores=np.full(12, 0.1, np.float32))
    assert sure.scores.sum() < faint.scores.sum()
    orientations = iter([faint, sure, faint, faint])
    (found,) = detector_module.upright([photo], lambda images: [next(orientations)])
    assert found.turn == 90


PRINTED: dict[str, dict[str, Any]] = {
    "kpnet": {
        "input_size": 256, "overview": False, "evidence": None, "calibration": None, "refinement": None, "proposal": 0.0
    },
    "mtcnn": {
        "pnet_threshold": 0.6, "rnet_threshold": 0.7, "threshold": 0.7, "consensus": 0, "looks": None, "over": "min",
        "nms_onet": 0.7,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PRINTED)
def test_decoding_as_printed_can_be_chosen(name: str) -> None:
    photo = next(path for path in PHOTOS if path.stem == "astronaut")
    usual, printed = lineament.load(name).detect(photo), lineament.load(name, settings=PRINTED[name]).detect(photo)
    (overlap,) = box_ops.iou(usual.boxes[:1], printed.boxes[:1])
    assert overlap > 0.6
    assert (usual.landmarks[0] != printed.landmarks[0]).any()


def test_one_look_is_the_same_however_it_is_written() -> None:
    photo = next(path for path in PHOTOS if path.stem == "astronaut")
    none, empty = (lineament.load("mtcnn", settings={"looks": looks}).detect(photo) for looks in (None, []))
    three = lineament.load("mtcnn").detect(photo)
    np.testing.assert_array_equal(none.landmarks, empty.landmarks)
    np.testing.assert_array_equal(none.boxes, three.boxes)
    assert (none.landmarks != three.landmarks).any()


def test_face_sizes_bound_the_search() -> None:
    detector = lineament.load("mtcnn")
    photo = next(path for path in PHOTOS if path.stem == "astronaut")
    face = detector.detect(photo)[0]
    side = float(face.boxes[0, 3] - face.boxes[0, 1])
    assert len(detector.detect(photo, min_face=2.5 * side)) == 0
    assert len(detector.detect(photo, min_face=0.8 * side, max_face=1.3 * side)) == 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")
def test_pictures_of_random_sizes_in_a_row_do_not_grow_memory() -> None:
    detector = lineament.load("mtcnn", threads=2)
    rng = np.random.default_rng(0)
    photo = lineament.read_image(PHOTOS[0])

    def after(pictures: int) -> float:
        for _ in range(pictures):
            detector.detect(resize(photo, tuple(int(side) for side in rng.integers(20, 700, 2))))
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    before = after(60)
    assert after(120) < before + 50  # MB; a buffer for each size would add hundreds


def test_weights_for_one_runtime_refuse_another() -> None:
    pytest.importorskip("openvino")
    with pytest.raises(OptionError, match="kpnet-int8 computes right with runtime 'onnx' alone, found 'openvino'"):
        lineament.load("kpnet-int8", runtime="openvino")


def test_faces_too_small_to_be_found_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """60 pixels of a photo of 24 megapixels are 6 pixels of the network's input."""
    detector = lineament.load("kpnet-lite", threads=1, settings={"input_size": 128})
    photo = np.zeros((800, 1200, 3), np.uint8)
    for options in ({}, {"min_face": 80}):  # no min_face was given, or it is large enough
        detector.detect(photo, **options)
        assert not caplog.records
    for _ in range(2):
        detector.detect([photo], min_face=60)
    (record,) = caplog.records
    assert "faces of 60 pixels in an image of 1200x800 have 6.4 at input_size 128" in record.getMessage()
    assert "tiles=True" in record.getMessage()
    assert "input_size=160 shows such faces" in record.getMessage()
    settings = detector.settings
    assert not replace(settings, tiles=True).overlooked(60, (1200, 800))
    assert not replace(settings, input_size=160).overlooked(60, (1200, 800))
    assert not settings.overlooked(4, (100, 100))  # images are never enlarged


def test_the_recorded_digest_is_that_of_the_weights_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the file is replaced while the detector loads."""
    own, content = tmp_path / "own.onnx", read_weights("mtcnn")
    own.write_bytes(content)

    def then_replaced(*arguments: Any, **options: Any) -> Graph:
        own.write_bytes(b"newer weights")
        return load_graph(*arguments, **options)

    monkeypatch.setattr(methods, "load_graph", then_replaced)
    assert lineament.load(own, threads=1).weights == {str(own): hashlib.sha256(content).hexdigest()}
