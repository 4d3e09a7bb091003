"""Arguments of wrong types: each raises our error, with a message that says what was expected."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lineament
from lineament.errors import LineamentError, OptionError
from lineament.faces import Faces
from lineament.images import image_paths

IMAGE = np.zeros((40, 40, 3), np.uint8)
FACES = Faces.of([[5, 5, 35, 35]], [0.9], [[[12, 15], [28, 15], [20, 20], [14, 28], [26, 28]]], image_size=(40, 40))
ODD: list[Any] = [
    *(None, True, "1", "", b"x", [], [1], (1, 2), {}, float("nan"), float("inf"), -1, 0, 1.5, 2.0, 1e30, 10**400, 1j),
    *(np.float32(0.5), np.float64(2), np.int64(3), np.array(1), np.array([1, 2]), np.True_, Decimal("0.5")),
    *(Fraction(1, 2), object(), Path("x"), lambda: 0),
]


@pytest.fixture(scope="module")
def detector() -> lineament.Detector:
    return lineament.load("mtcnn", threads=1)


CALLS: dict[str, Callable[[lineament.Detector, Any], Any]] = {
    "detect threshold": lambda detector, odd: detector.detect(IMAGE, threshold=odd),
    "detect min_face": lambda detector, odd: detector.detect(IMAGE, min_face=odd),
    "detect max_face": lambda detector, odd: detector.detect(IMAGE, max_face=odd),
    "detect images": lambda detector, odd: detector.detect(odd),
    "detect list": lambda detector, odd: detector.detect([odd]),
    "load name": lambda _, odd: lineament.load(odd),
    "load runtime": lambda _, odd: lineament.load("mtcnn", runtime=odd),
    "load device": lambda _, odd: lineament.load("mtcnn", device=odd),
    "load settings": lambda _, odd: lineament.load("mtcnn", settings=odd),
    "load landmarks": lambda _, odd: lineament.load("mtcnn", landmarks=odd),
    "setting looks": lambda _, odd: lineament.load("mtcnn", settings={"looks": odd}),
    "setting min_face": lambda _, odd: lineament.load("mtcnn", settings={"min_face": odd}),
    "read_image": lambda _, odd: lineament.read_image(odd),
    "read_image color": lambda _, odd: lineament.read_image(IMAGE, color=odd),
    "read_image max_pixels": lambda _, odd: lineament.read_image(IMAGE, max_pixels=odd),
    "draw faces": lambda _, odd: lineament.draw(IMAGE, odd),
    "draw line_width": lambda _, odd: lineament.draw(IMAGE, FACES, line_width=odd),
    "align faces": lambda _, odd: lineament.align(IMAGE, odd),
    "align size": lambda _, odd: lineament.align(IMAGE, FACES, size=odd),
    "align template": lambda _, odd: lineament.align(IMAGE, FACES, template=odd),
    "image_paths": lambda _, odd: image_paths(odd),
    "image_paths item": lambda _, odd: image_paths([odd]),
    "to_dict digits": lambda _, odd: FACES.to_dict(odd),
    "from_dict": lambda _, odd: Faces.from_dict(odd),
}


@pytest.mark.parametrize("name", CALLS)
def test_odd_arguments_are_taken_or_are_our_error(
    detector: lineament.Detector, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for odd in ODD:
        try:
            CALLS[name](detector, odd)
        except LineamentError:
            continue
        except Exception as error:
            pytest.fail(f"{name}={odd!r:.40}: {type(error).__name__}: {error}")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lineament.load("mtcnn", threads=2.0), "threads .* a whole number"),  # type: ignore[arg-type]
        (lambda: lineament.load("mtcnn", settings={"min_face": float("nan")}), "'min_face' .* finite"),
        (
            lambda: lineament.load("kpnet-lite", settings={"input_size": 2.5}),
            "'input_size' .* expected `int`, got `float`",
        ),
        (lambda: lineament.align(IMAGE, FACES, size=[112]), "size is a crop's side"),  # type: ignore[arg-type]
        (lambda: lineament.align(IMAGE, FACES, template=np.zeros((5, 2))), r"template is \(5, 2\)"),
        (lambda: lineament.draw(IMAGE, FACES, line_width=10**6), "line_width is in pixels, 1 to 1000"),
        (lambda: lineament.draw(IMAGE, [FACES]), "expected the Faces of one image, found list"),  # type: ignore[arg-type]
        (lambda: lineament.read_image(IMAGE > 0), "found bool; array "),
    ],
)
def test_what_was_expected_is_told(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(LineamentError, match=f"(?i){message}"):
        call()


def test_numbers_of_numpy_are_numbers(detector: lineament.Detector) -> None:
    settings = {"min_face": np.float32(20), "looks": np.array([1.0]), "threshold": np.array(0.25)}
    made = lineament.load("mtcnn", threads=np.int32(1), settings=settings).settings  # type: ignore[arg-type]
    assert (made.min_face, made.looks, made.threshold) == (20, [1.0], 0.25)
    assert detector.detect(IMAGE, threshold=np.float64(0.5), min_face=np.int8(20)).image_size == (40, 40)


def test_any_iterable_of_images_is_a_list(detector: lineament.Detector) -> None:
    images = [IMAGE, np.zeros((30, 20), np.uint8)]
    for several in (images, tuple(images), iter(images), (image for image in images), dict(enumerate(images)).values()):
        assert [faces.image_size for faces in detector.detect(several)] == [(40, 40), (20, 30)]


def test_a_detector_is_pickled_as_the_call_that_made_it(detector: lineament.Detector) -> None:
    made = lineament.load("mtcnn", threads=1, settings={"min_face": 33})
    again = pickle.loads(pickle.dumps(made))
    assert (again.method, again.settings, again.weights) == (made.method, made.settings, made.weights)
    (model,) = (model for model in lineament.models() if model.name == "mtcnn")
    assert made.weights == {"mtcnn": model.sha256}
    assert repr(made) == (
        f"Detector(mtcnn: mtcnn ({model.sha256[:12]}), threshold={made.settings.threshold}, schema '5', on cpu, "
        f"lineament {lineament.__version__})"
    )
    by_hand = lineament.Detector("mtcnn", made._decoder, made.settings)
    with pytest.raises(OptionError, match=r"only detectors that lineament\.load made"):
        pickle.dumps(by_hand)


def test_a_pickled_detector_keeps_the_settings_that_it_was_loaded_with() -> None:
    settings: dict[str, Any] = {"min_face": 33, "looks": [0.9, 1.1]}
    made = lineament.load("mtcnn", threads=1, settings=settings)
    settings["min_face"], settings["unknown"] = 44, 1
    settings["looks"].append("no number")
    assert pickle.loads(pickle.dumps(made)).settings == made.settings
