"""Odd and bad input through the public interfaces: the shipped detector in Python, and the command line.

Every form of the portrait gives the face of the portrait. Images without a face give none. Wrong input gives an error
that names it.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import lineament
from lineament import weights
from lineament.boxes import iou
from lineament.cli import app
from lineament.errors import ImageError, LineamentError, OptionError, WeightsError
from lineament.faces import Faces

PORTRAIT = Path(__file__).resolve().parents[1] / "examples" / "photos" / "astronaut.jpg"
RGB = np.asarray(Image.open(PORTRAIT))
GREY = np.asarray(Image.fromarray(RGB).convert("L"))
OPAQUE = np.full(RGB.shape[:2], 255, np.uint8)


@pytest.fixture(scope="module")
def detector() -> lineament.Detector:
    return lineament.load("kpnet", threads=1)


@pytest.fixture(scope="module")
def face(detector: lineament.Detector) -> Faces:
    faces = detector.detect(RGB)
    assert len(faces) == 1
    return faces


def encoded(image: Image.Image, suffix: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


def same(one: Faces, other: Faces) -> bool:
    names = ("boxes", "scores", "landmarks")
    return one.image_size == other.image_size and all(np.array_equal(getattr(one, n), getattr(other, n)) for n in names)


@pytest.mark.parametrize(
    "source",
    [
        PORTRAIT,
        str(PORTRAIT),
        PORTRAIT.read_bytes(),
        Image.open(PORTRAIT),
        encoded(Image.fromarray(RGB)),
        encoded(Image.fromarray(np.dstack([RGB, OPAQUE]))),
        np.dstack([RGB, OPAQUE]),
        RGB / 255,
        (RGB / 255).astype(np.float32),
        RGB.astype(np.uint16) * 257,
        np.asfortranarray(RGB),
        np.repeat(RGB, 2, axis=1)[:, ::2],
    ],
    ids=[
        *("path", "str", "bytes", "pillow", "png", "rgba-png", "rgba", "float64", "float32", "uint16", "fortran"),
        "not-contiguous",
    ],
)
def test_other_forms_of_the_same_pixels_give_the_same_numbers(
    detector: lineament.Detector, face: Faces, source: Any
) -> None:
    assert same(detector.detect(source), face)


def test_bgr_is_a_word_away(detector: lineament.Detector, face: Faces) -> None:
    assert same(detector.detect(RGB[..., ::-1], color="bgr"), face)


@pytest.mark.parametrize(
    "source",
    [
        GREY,
        GREY[..., None],
        GREY.astype(np.uint16) * 257,
        encoded(Image.fromarray(GREY)),
        encoded(Image.fromarray(GREY.astype(np.uint16) * 257)),
        encoded(Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE)),
        encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95),
        encoded(Image.fromarray(RGB).convert("YCbCr"), "JPEG", quality=95),
    ],
    ids=["grey", "grey1", "grey-uint16", "grey-png", "grey16-png", "palette", "cmyk", "ycbcr"],
)
def test_other_colours_show_the_same_face(detector: lineament.Detector, face: Faces, source: Any) -> None:
    found = detector.detect(source)
    assert found.image_size == face.image_size
    assert len(found) == 1
    assert iou(found.boxes, face.boxes)[0, 0] > 0.8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_turn_upright(detector: lineament.Detector, face: Faces, orientation: int) -> None:
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"} | {
        6: "ROTATE_90",
        7: "TRANSVERSE",
        8: "ROTATE_270",
    }
    stored = Image.fromarray(RGB)
    if orientation in back:
        stored = stored.transpose(Image.Transpose[back[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert same(detector.detect(encoded(stored, exif=exif)), face)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (12, 12), (11, 300)])
def test_pictures_too_small_for_a_face_have_none(detector: lineament.Detector, shape: tuple[int, int]) -> None:
    h, w = shape
    for value in (0, 128, 255):
        faces = detector.detect(np.full((h, w, 3), value, np.uint8))
        assert isinstance(faces, Faces)
        assert len(faces) == 0
        assert faces.image_size == (w, h)


def test_lists(detector: lineament.Detector, face: Faces) -> None:
    assert detector.detect([]) == []
    mixed = detector.detect([RGB, np.zeros((1, 1), np.uint8), PORTRAIT])
    assert [len(faces) for faces in mixed] == [1, 0, 1]
    assert same(mixed[2], face)


def a_file(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


BAD_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "gone.jpg", "gone.jpg: no such file"),
    "truncated": (a_file("cut.jpg", PORTRAIT.read_bytes()[:30000]), "cut.jpg: cannot be decoded, probably damaged"),
    "empty": (a_file("zero.jpg", b""), "zero.jpg: empty, 0 bytes"),
    "text": (a_file("text.jpg", b"Not a photo"), "text.jpg: not an image format that Pillow reads"),
    "bomb": (a_file("bomb.png", encoded(Image.new("1", (20000, 20000)))), "bomb.png: "),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named(detector: lineament.Detector, tmp_path: Path, case: str) -> None:
    make, message = BAD_FILES[case]
    path = make(tmp_path)
    with pytest.raises(ImageError) as caught:
        detector.detect(path)
    assert message in str(caught.value)
    if case == "bomb":
        assert "400000000 pixels" in str(caught.value)
        assert "limit" in str(caught.value)


def test_the_command_line_names_bad_files_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    bad = [make(folder) for make, _ in BAD_FILES.values()][1:]
    shutil.copy(PORTRAIT, folder)
    command = [sys.executable, "-c", "from lineament.cli import main; main()", "detect", folder, "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    records = {Path(r["path"]).name: r for r in map(json.loads, done.stdout.splitlines())}
    assert len(records.pop("astronaut.jpg")["faces"]) == 1
    assert sorted(records) == sorted(path.name for path in bad)
    for make, message in list(BAD_FILES.values())[1:]:
        path = make(folder)
        assert message in records[path.name]["error"]
        assert path.name in done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((30, 30, 3), np.nan), "NaN"),
        (RGB.astype(np.float32), r"floats must lie in \[0, 1\], found \[0, 255\]"),
        (RGB.astype(np.int64), "found int64"),
        (RGB.transpose(2, 0, 1), "channels come last"),
        (RGB[:0], "without pixels"),
    ],
    ids=["nan", "float-255", "int64", "channels-first", "no-pixels"],
)
def test_arrays_that_are_no_picture(detector: lineament.Detector, array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        detector.detect(array)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "mtccn"}, OptionError, "unknown method or weight file 'mtccn'; shipped are: .*mtcnn"),
        ({"runtime": "tensorrt"}, OptionError, "unknown runtime 'tensorrt'; there are: onnx, openvino"),
        ({"device": "tpu"}, OptionError, "device 'tpu' is not there; this onnxruntime has: cpu"),
        ({"threads": 0}, OptionError, "threads must be at least 1"),
        ({"name": str(PORTRAIT)}, WeightsError, rf"{PORTRAIT.name}: .*cannot load .* ONNX"),
    ],
    ids=["method", "runtime", "device", "threads", "no-weights"],
)
def test_what_is_not_there_is_named(options: dict[str, Any], error: type[LineamentError], message: str) -> None:
    with pytest.raises(error, match=message):
        lineament.load(**options)
    flags = [str(x) for name, value in options.items() for x in ("--" + name.replace("name", "method"), value)]
    result = CliRunner().invoke(app, ["detect", str(PORTRAIT), *flags])
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_thresholds_lie_between_0_and_1(detector: lineament.Detector, threshold: float) -> None:
    with pytest.raises(OptionError, match=r"\[0, 1\]"):
        detector.detect(RGB, threshold=threshold)
    result = CliRunner().invoke(app, ["detect", str(PORTRAIT), "--threshold", str(threshold)])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_a_flipped_bit_in_the_weights_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(weights.FOLDER, tmp_path / "weights")
    file = folder / next(model.file for model in lineament.models() if model.name == "mtcnn")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(weights, "FOLDER", folder)
    with pytest.raises(WeightsError, match=r"mtcnn.*damaged.*SHA-256"):
        lineament.load("mtcnn")


def test_out_must_be_writable_before_work_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["detect", str(PORTRAIT), "--out", str(tmp_path / "file" / "out")])
    assert result.exit_code == 2
    assert "--out: cannot write into" in result.stderr
    assert "faces in" not in result.stderr


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    result = CliRunner().invoke(app, ["detect", str(tmp_path)])
    assert result.exit_code == 2
    assert "no image in this folder" in result.stderr
