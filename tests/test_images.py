"""Any image becomes one array, upright RGB uint8, or an error that names the image and the fix."""

from __future__ import annotations

import io
import os
import re
import struct
import threading
import tracemalloc
import zlib
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lineament import images
from lineament.errors import ImageError, OptionError
from lineament.images import ImageFiles, image_paths, read_image, resize

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def encoded(image: Image.Image, suffix: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, suffix, **options)
    return file.getvalue()


def test_every_kind_of_source_gives_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(RGB).save(path)
    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), Image.open(path), RGB):
        image = read_image(source)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        assert np.array_equal(image, RGB)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, np.stack([GREY] * 3, -1)),
        (GREY[..., None], np.stack([GREY] * 3, -1)),
        (RGB, RGB),
        (RGB[:, ::-1], RGB[:, ::-1]),
        (np.asfortranarray(RGB), RGB),
        (RGB.astype(np.uint16) * 257, RGB),
        ((RGB.astype(np.uint16) * 257).astype(">u2"), RGB),
        (RGB / 255, RGB),
        ((RGB / 255).astype(np.float32), RGB),
        (np.dstack([RGB, np.full_like(GREY, 255)]), RGB),
        (np.dstack([RGB, np.zeros_like(GREY)]), np.full_like(RGB, 255)),
        (RGB[:1, :1], RGB[:1, :1]),
    ],
    ids=[
        "grey",
        "grey1",
        "rgb",
        "mirrored",
        "fortran",
        "uint16",
        "uint16-big-endian",
        "float64",
        "float32",
        "opaque",
        "transparent",
        "1x1",
    ],
)
def test_arrays(array: np.ndarray, expected: np.ndarray) -> None:
    image = read_image(array)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert np.array_equal(image, expected)


def test_bgr_swaps_arrays_only(tmp_path: Path) -> None:
    assert np.array_equal(read_image(np.ascontiguousarray(RGB[..., ::-1]), color="bgr"), RGB)
    bgra = np.dstack([RGB[..., ::-1], np.full_like(GREY, 255)])
    assert np.array_equal(read_image(bgra, color="bgr"), RGB)
    assert np.array_equal(read_image(GREY, color="bgr"), read_image(GREY))
    assert np.array_equal(read_image(Image.fromarray(RGB), color="bgr"), RGB)
    with pytest.raises(OptionError, match="'rgb' or 'bgr'"):
        read_image(RGB, color="rbg")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4, 3), np.nan), "NaN or infinite"),
        (np.full((4, 4, 3), np.inf), "NaN or infinite"),
        (np.full((4, 4, 3), 255.0), r"found \[255, 255\].*astype\(np.uint8\)"),
        (np.full((4, 4, 3), -0.1), r"floats must lie in \[0, 1\]"),
        (np.full((4, 4, 3), 1 + 1e-7), r"found \[1.0000001, 1.0000001\]; np.clip"),
        (np.zeros((4, 4, 3), np.int64), "found int64"),
        (np.zeros((4, 4, 3), bool), "found bool"),
        (np.zeros((4, 4, 3), np.uint32), "found uint32"),
        (np.zeros((0, 4, 3), np.uint8), "without pixels"),
        (np.zeros((3, 40, 40), np.uint8), r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "as a list"),
        (np.zeros(4, np.uint8), r"found \(4,\)"),
        (np.zeros((4, 4, 2), np.uint8), r"found \(4, 4, 2\)"),
    ],
)
def test_arrays_that_are_no_picture(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_image(array)


def test_truth_values_are_refused_by_numpy_1_26_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    older = {name: value for name, value in vars(np).items() if name != "bool"}
    monkeypatch.setattr(images, "np", SimpleNamespace(**older))
    with pytest.raises(ImageError, match=r"np\.uint8\(255\), if True is white"):
        read_image(np.zeros((4, 4, 3), np.bool_))


def test_something_else_is_named() -> None:
    for other, name in (([1, 2, 3], "builtins.list"), (Decimal(1), "decimal.Decimal")):
        with pytest.raises(ImageError, match=f"found {re.escape(name)}$"):
            read_image(other)  # type: ignore[arg-type]


def test_other_ranges_are_rounded_to_the_nearest() -> None:
    wide = np.arange(0, 65536, 7, dtype=np.uint16)[None]
    np.testing.assert_array_equal(read_image(wide)[..., 0], np.rint(wide / 257))
    shares = np.linspace(0, 1, 5001)[None]
    np.testing.assert_array_equal(read_image(shares)[..., 0], np.rint(shares.astype(np.float32) * 255))


def test_every_transparency_is_rounded_to_the_nearest() -> None:
    colour, alpha = np.mgrid[:256, :256]
    rgba = np.dstack([colour, 255 - colour, colour // 2, alpha]).astype(np.uint8)
    share = alpha[..., None] / 255
    np.testing.assert_array_equal(read_image(rgba), np.rint(rgba[..., :3] * share + 255 * (1 - share)))


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, suffix: str) -> None:
    """A red and a blue corner distinguish all eight orientations."""
    upright = np.full((32, 48, 3), 128, np.uint8)
    upright[:16, :16] = 255, 0, 0
    upright[16:, :16] = 0, 0, 255
    turn = {  # the pixels that a camera stores with this orientation: the inverse of a viewer's rotation
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(turn[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, suffix, exif=exif)
    for image in (read_image(data), read_image(Image.open(io.BytesIO(data)))):
        assert image.shape == upright.shape
        assert np.abs(image[2:14, 2:14].astype(int) - [255, 0, 0]).max() < 12
        assert np.abs(image[18:30, 2:14].astype(int) - [0, 0, 255]).max() < 12


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_data_do_not_keep_a_picture_from_being_read(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "odd.picture"
    path.write_bytes(encoded(Image.fromarray(RGB), suffix, exif=b"Exif\0\0no such thing"))
    assert read_image(path).shape == RGB.shape
    assert (
        suffix == "JPEG" or "odd.picture: not turned, its EXIF data are damaged" in caplog.text
    )  # Pillow drops JPEG's


@pytest.mark.parametrize(
    ("image", "suffix"),
    [
        (Image.fromarray(GREY), "PNG"),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "PNG"),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
        (Image.fromarray(GREY.astype(np.int32) * 257), "TIFF"),
        (Image.fromarray((GREY / 255).astype(np.float32)), "TIFF"),
        (Image.fromarray(np.stack([GREY] * 3, -1)).convert("CMYK"), "TIFF"),
        (Image.fromarray(GREY).convert("P"), "PNG"),
        (Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (9, 6), 255)]), "PNG"),
    ],
    ids=["grey", "grey16-png", "grey16-tiff", "grey32-tiff", "float-tiff", "cmyk", "palette", "grey-alpha"],
)
def test_modes_of_files(image: Image.Image, suffix: str) -> None:
    found = read_image(encoded(image, suffix))
    assert np.abs(found.astype(int) - GREY[..., None]).max() <= 1


@pytest.mark.parametrize("white", [2**8 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1])
def test_white_of_32_bit_grey(white: int) -> None:
    levels = np.rint(np.linspace(0, white, 54).reshape(6, 9)).astype(np.uint32)
    found = read_image(Image.fromarray(levels.view(np.int32)))
    np.testing.assert_array_equal(found[..., 1], np.rint(levels * (255 / white)))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "RGBA", "I;16", "I", "F", "CMYK"])
def test_bands_are_joined_without_a_seam(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tall = RNG.integers(0, 256, (64, 48), dtype=np.uint8)
    image = Image.fromarray(tall / np.float32(255)) if mode == "F" else Image.fromarray(tall).convert(mode)
    image.getexif()[0x0112] = 7
    whole = read_image(image)
    monkeypatch.setattr(images, "CONVERTED_AT_ONCE", 500)
    assert {bottom - top for top, bottom in images._bands(64, 48)} == {10, 4}
    np.testing.assert_array_equal(read_image(image), whole)
    np.testing.assert_array_equal(read_image(tall / 255), read_image(tall))


def test_an_image_takes_little_memory_beside_itself() -> None:
    """At most twice the array is allocated. The memory of Pillow itself is not traced."""
    for image in (Image.new("RGBA", (3000, 2000), (9, 8, 7, 99)), Image.new("F", (3000, 2000), 0.5)):
        tracemalloc.start()
        size = read_image(image).nbytes
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * size


def test_long_texts_in_a_png_do_not_matter() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * 2_000_000, zip=True)
    for options in ({"pnginfo": text}, {"icc_profile": bytes(2_000_000)}):
        content = encoded(Image.fromarray(RGB), exif=Image.Exif(), **options)
        np.testing.assert_array_equal(read_image(content), RGB)


def test_open_files(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(RGB).save(path)
    stream = io.BytesIO(b"head" + path.read_bytes())
    stream.seek(4)  # an open file is read from its position
    with path.open("rb") as file:
        for source in (file, stream, memoryview(path.read_bytes())):
            np.testing.assert_array_equal(read_image(source), RGB)
        with pytest.raises(ImageError, match=r"photo\.png: nothing left to read; .*seek\(0\)"):
            read_image(file)
    with pytest.raises(ImageError, match=r"photo\.png: cannot be read: read of closed file"):
        read_image(file)
    with pytest.raises(ImageError, match="gives str, not bytes"):
        read_image(io.StringIO("text"))  # type: ignore[arg-type]
    for closed in (Image.open(path), Image.fromarray(RGB)):
        closed.close()
        with pytest.raises(ImageError, match="this Pillow image is closed"):
            read_image(closed)


def test_pipes(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=[encoded(Image.fromarray(RGB))])
    writer.start()
    assert image_paths([pipe]) == [pipe]
    np.testing.assert_array_equal(read_image(pipe), RGB)
    writer.join()


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "9", None, True, float("nan")])
def test_max_pixels_is_a_whole_number(wrong: Any) -> None:
    with pytest.raises(OptionError, match="max_pixels is a whole number above 0"):
        read_image(RGB, max_pixels=wrong)


def test_names_that_no_file_can_have() -> None:
    for name in ("a\0.jpg", "a" * 300 + ".jpg"):
        with pytest.raises(ImageError, match="cannot be opened"):
            read_image(name)


def test_transparency_lies_over_white() -> None:
    rgba = np.dstack([RGB, np.zeros_like(GREY)])
    rgba[0, 0] = 200, 100, 0, 51  # a fifth opaque, over white
    image = read_image(encoded(Image.fromarray(rgba)))
    assert image[0, 0].tolist() == [244, 224, 204]
    assert (image.reshape(-1, 3)[1:] == 255).all()
    palette = Image.fromarray(RGB).convert("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert read_image(encoded(palette, transparency=palette.getpixel((0, 0))))[0, 0].tolist() == [255, 255, 255]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    whole = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), "JPEG")
    cases = {
        "cut.jpg": (whole[: len(whole) // 2], "damaged"),
        "zero.jpg": (b"", "0 bytes"),
        "text.jpg": (b"Dear photographer,\n", r"begins with b'Dear photogr'.*convert"),
        "head.png": (b"\x89PNG\r\n\x1a\n", "Pillow"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ImageError, match=f"{name}: .*{message}"):
            read_image(path)
        with pytest.raises(ImageError, match=message):
            read_image(content)
    with pytest.raises(ImageError, match=r"gone\.jpg: no such file"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match=r"a folder, not an image.*image_paths"):
        read_image(tmp_path)


def test_damaged_pillow_images_are_named(tmp_path: Path) -> None:
    cut = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)))[:5000]
    (tmp_path / "cut.png").write_bytes(cut)
    with pytest.raises(ImageError, match=r"/cut\.png: cannot be decoded"):
        read_image(Image.open(tmp_path / "cut.png"))
    with pytest.raises(ImageError, match=r"^Pillow image: cannot be decoded"):
        read_image(Image.open(io.BytesIO(cut)))
    with pytest.raises(ImageError, match=r"^image of 5000 bytes: cannot be decoded"):
        read_image(cut)


def bomb(width: int, height: int) -> bytes:
    """A PNG that announces many pixels and has none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_bombs_are_refused_before_decoding() -> None:
    with pytest.raises(ImageError, match=r"900000000 pixels.*limit of"):
        read_image(bomb(30000, 30000))
    with pytest.raises(ImageError, match=r"3000x2000 is 6000000 pixels.*max_pixels=5999999; raise it"):
        read_image(bomb(3000, 2000), max_pixels=5_999_999)
    with pytest.raises(ImageError, match="damaged"):  # with a larger limit, the file is found to be empty
        read_image(bomb(300, 200))
    assert read_image(encoded(Image.fromarray(RGB)), max_pixels=54).shape == (6, 9, 3)
    with pytest.raises(ImageError, match="9x6 is 54 pixels"):
        read_image(Image.fromarray(RGB), max_pixels=53)


def test_a_large_photo_passes() -> None:
    assert read_image(encoded(Image.new("RGB", (6000, 4000)), "JPEG")).shape == (4000, 6000, 3)


def test_image_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.JPG", "a.png", "deep/er/c.webp", "notes.txt", "raw.dat"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "album.png").mkdir()  # a folder, whatever its name
    monkeypatch.chdir(tmp_path)

    def names(*paths: str) -> list[str]:
        return [p.as_posix() for p in image_paths(paths)]

    assert names(".") == ["a.png", "b.JPG", "deep/er/c.webp"]
    assert names("raw.dat", "a.png", "a.png", ".") == ["raw.dat", "a.png", "b.JPG", "deep/er/c.webp"]
    assert names("**/*.webp", "*") == ["deep/er/c.webp", "a.png", "b.JPG"]
    with pytest.raises(ImageError, match="empty: no image in this folder; looked for"):
        names("empty")
    with pytest.raises(ImageError, match=r"gone: no such file or folder"):
        names("gone")
    with pytest.raises(ImageError, match=r"\*\.gif: no image in this pattern"):
        names("*.gif")
    with pytest.raises(ImageError, match="an empty path"):
        names("a.png", "")


def test_folders_and_patterns_agree(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("in/a.jpg", "in/sub/b.jfif", "in/._a.jpg", "in/.hidden/c.jpg", "linked/d.heic"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in" / "other").symlink_to(tmp_path / "linked")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "sub" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "z.jpg").symlink_to(tmp_path / "in" / "a.jpg")
    for path in ("in", "in/**", "in/**/*.*", "i*/**"):
        found = [file.relative_to(tmp_path).as_posix() for file in image_paths([tmp_path / path])]
        assert found == ["in/a.jpg", "in/other/d.heic", "in/sub/b.jfif"]
        assert "1 hidden images passed over" in caplog.text
        caplog.clear()
    assert [file.name for file in image_paths([tmp_path / "in" / ".*.jpg", tmp_path / "in" / ".hidden"])] == [
        "._a.jpg",
        "c.jpg",
    ]
    assert image_paths([tmp_path / "in" / "z.jpg", tmp_path / "in"])[0].name == "z.jpg"
    with pytest.raises(OptionError, match="takes several paths"):
        image_paths(str(tmp_path))


def test_a_folder_may_be_left_out_of_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", "drawn/a.png", "drawn/deep/b.png", "drawn2/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for path in (".", "**/*.png"):
        found = image_paths([path], leave_out="drawn")
        assert [p.as_posix() for p in found] == ["a.png", "drawn2/c.png"]
    assert len(image_paths(["drawn", "drawn/a.png"], leave_out=tmp_path / "drawn")) == 2  # given by name


def test_files_are_found_one_by_one_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{'sub/' if i % 3 else ''}{i * 7919 % 3001:05}.jpg" for i in range(3000)]
    (tmp_path / "sub").mkdir()
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "odd\nname.jpg").touch()
    expected = sorted(path for path in tmp_path.rglob("*.jpg"))
    monkeypatch.setattr(images, "SORTED_AT_ONCE", 100)
    for paths in ([tmp_path], [tmp_path / "**/*.jpg"], [tmp_path / "*.jpg", tmp_path / "sub"]):
        found = ImageFiles(paths)
        assert sorted(found) == expected
        assert list(found) == list(found)  # it can be read again
    files = ImageFiles([tmp_path])
    assert list(files) == expected
    tracemalloc.start()
    try:
        assert sum(1 for _ in files) == len(expected)
        streamed = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        listed = list(files)
        assert tracemalloc.get_traced_memory()[1] > 3 * streamed, "a list would need no more: nothing is measured"
    finally:
        tracemalloc.stop()
    assert len(listed) == len(expected)


def test_means_are_those_of_the_pixels_that_each_covers() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (96, 120, 3), dtype=np.uint8)
    for factor in (2, 3, 4):
        found = resize(picture, (120 // factor, 96 // factor), means=True)
        wanted = picture.reshape(96 // factor, factor, 120 // factor, factor, 3).mean(axis=(1, 3))
        assert np.abs(found - wanted).max() < 0.6
    for size in (70, 56), (100, 48), (240, 192):  # slightly smaller, smaller along one axis only, or larger
        np.testing.assert_array_equal(resize(picture, size, means=True), resize(picture, size))
    for size, box in (((60, 40), (0, 48, 120, 96)), ((40, 48), (60, 0, 120, 96))):  # nor for a part
        np.testing.assert_array_equal(resize(picture, size, box=box, means=True), resize(picture, size, box=box))
    part = resize(picture, (30, 12), box=(60, 48, 120, 72), means=True)
    wanted = picture[48:72, 60:].reshape(12, 2, 30, 2, 3).mean(axis=(1, 3))
    assert np.abs(part - wanted).max() < 0.6


@pytest.mark.parametrize("scale", [0.21, 0.13, 0.057])
@pytest.mark.parametrize("channels", [(3,), ()])
def test_large_images_are_averaged_in_bands(scale: float, channels: tuple[int, ...]) -> None:
    """As Pillow does in one piece."""
    picture = np.random.default_rng(0).integers(0, 256, (1203, 901, *channels), dtype=np.uint8)
    size = int(901 * scale), int(1203 * scale)
    box = (0.0, 0.0, size[0] / scale, size[1] / scale)
    wanted = Image.fromarray(picture).resize(size, Image.Resampling.BOX, box, reducing_gap=2.0)
    np.testing.assert_array_equal(resize(picture, size, box=box, means=True), wanted)


def test_a_picture_of_the_right_size_stays() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    assert resize(picture, (12, 8), box=(0.0, 0.0, 12.0, 8.0)) is picture
    assert not np.array_equal(resize(picture, (12, 8), box=(0.0, 0.0, 12.0, 7.5)), picture)


def test_resize_averages_where_it_shrinks() -> None:
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    small = resize(np.repeat(checks[..., None], 3, -1).astype(np.uint8), (8, 4))
    assert small.shape == (4, 8, 3)
    assert np.abs(small.astype(int) - 127).max() < 8
