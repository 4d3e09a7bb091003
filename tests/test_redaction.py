"""Redaction of files: no face is bare, and nothing else changes."""

from __future__ import annotations

import errno
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

import lineament
from lineament.animation import AnimationReader
from lineament.covers import Cover
from lineament.errors import ImageError, OptionError
from lineament.redaction import Search, find_tracks, redact_photo, redact_video
from lineament.video import open_video

ROOT = Path(__file__).resolve().parents[1]
CROWD = ROOT / "examples" / "photos" / "crowd.jpg"
BLACK = Cover("solid", "box", margin=0.1, rim=0)


class BrightSquares:
    """A detector of the bright square of an image. It misses those of some calls, and is unsure about others."""

    def __init__(self, missed: set[int] = frozenset(), unsure: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.missed, self.unsure, self.calls = missed, unsure, 0

    def detect(self, images: Any, **_: Any) -> Any:
        if not isinstance(images, list):
            return self.detect([images])[0]
        return [self._one(np.asarray(lineament.read_image(image))) for image in images]

    def _one(self, image: np.ndarray) -> lineament.Faces:
        height, width = image.shape[:2]
        rows, columns = np.nonzero(image[..., 1] > 150)
        self.calls += 1
        if not len(rows) or self.calls - 1 in self.missed:
            return lineament.Faces.empty((width, height))
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        score = 0.04 if self.calls - 1 in self.unsure else 0.9
        return lineament.Faces.of([box], [score], np.full((1, 5, 2), np.nan), image_size=(width, height))


def scene(number: int, at: tuple[float, float] = (4, 4)) -> np.ndarray:
    """A picture with texture, and a bright square of 12 pixels."""
    image = np.full((48, 64, 3), 40, np.uint8)
    image[::8] = 90
    left, top = (round(value) for value in at)
    image[top : top + 12, left : left + 12] = 230
    return image


MOVING = [scene(number, (4 + 2 * number, 10)) for number in range(20)]


def bare(path: Path) -> list[int]:
    """The frames in which the square is seen."""
    with open_video(path) as reader:
        return [frame.index for frame in reader.frames() if (frame.image[..., 1] > 180).sum() > 8]


def redacted(source: Path, target: Path, detector: Any, search: Search | None = None, **options: Any) -> Any:
    seen = find_tracks(source, detector, search or Search(), jobs=1)
    redact_video(source, target, seen, BLACK, **options)
    return seen


def test_a_face_that_is_missed_in_some_frames_does_not_show(tmp_path: Path) -> None:
    from clips import about, write_clip

    source = write_clip(tmp_path / "a.mp4", MOVING, sound=True)
    missed = {0, 1, 8, 9, 10, 18, 19}
    redacted(source, tmp_path / "b.mp4", BrightSquares(missed, unsure={3, 4}))
    assert bare(source) == list(range(20))
    assert bare(tmp_path / "b.mp4") == []
    assert about(tmp_path / "b.mp4") == about(source)
    redacted(source, tmp_path / "c.mp4", BrightSquares(missed), Search(gap=0, hold=0))
    assert bare(tmp_path / "c.mp4") == sorted(missed)


def test_a_face_that_is_never_sure_is_left_alone(tmp_path: Path) -> None:
    from clips import write_clip

    source = write_clip(tmp_path / "a.mp4", MOVING)
    redacted(source, tmp_path / "b.mp4", BrightSquares(unsure=set(range(20))))
    assert bare(tmp_path / "b.mp4") == list(range(20))


def test_a_face_is_not_held_over_a_cut(tmp_path: Path) -> None:
    from clips import write_clip

    noise = np.kron(np.random.default_rng(0).integers(0, 140, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    source = write_clip(tmp_path / "a.mp4", [*MOVING[:6], *[noise] * 6])
    seen = redacted(source, tmp_path / "b.mp4", BrightSquares())
    assert seen.shots.tolist() == [0] * 6 + [1] * 6
    assert seen.tracks.frame.tolist() == list(range(6))


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_turned_videos_are_covered_where_the_face_is(tmp_path: Path, turned: int) -> None:
    from clips import about, write_clip

    source = write_clip(tmp_path / "a.mp4", MOVING, turned=turned)
    redacted(source, tmp_path / "b.mp4", BrightSquares())
    assert bare(tmp_path / "b.mp4") == []
    assert about(tmp_path / "b.mp4") == about(source)


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
def test_a_picture_is_clear_where_it_should_be_in_turned_videos(tmp_path: Path, turned: int) -> None:
    from clips import write_clip

    picture = np.zeros((4, 4, 4), np.uint8)
    picture[:2, :, 3] = 255
    source = write_clip(tmp_path / "a.mp4", MOVING[:3], turned=turned)
    seen = find_tracks(source, BrightSquares(), jobs=1)  # type: ignore[arg-type]
    redact_video(source, tmp_path / "b.mp4", seen, Cover("picture", "box", margin=0, rim=0, picture=picture))
    left, top, right, bottom = seen.tracks.boxes[seen.tracks.frame == 0][0].round().astype(int)
    with open_video(tmp_path / "b.mp4") as reader:
        face = next(iter(reader.frames())).image[top:bottom, left:right, 1]
    assert face[1:4, 2:-2].max() < 60, "the upper half is covered"
    assert face[-4:-1, 2:-2].min() > 180, "the lower half is bare"


def test_chosen_tracks_stay_bare_and_numbers_can_be_seen(tmp_path: Path) -> None:
    from clips import write_clip

    source = write_clip(tmp_path / "a.mp4", MOVING)
    redacted(source, tmp_path / "b.mp4", BrightSquares(), keep=[0])
    assert bare(tmp_path / "b.mp4") == list(range(20))
    redacted(source, tmp_path / "c.mp4", BrightSquares(), numbers=True)
    assert bare(tmp_path / "c.mp4"), "a number is written in white"
    with pytest.raises(OptionError, match="no face has the number 7"):
        redacted(source, tmp_path / "d.mp4", BrightSquares(), keep=[7])
    assert not (tmp_path / "d.mp4").exists()


@pytest.mark.parametrize(
    "cover", [Cover("solid", color=(255, 0, 0)), Cover("picture", picture=np.full((9, 9, 4), 255, np.uint8))]
)
@pytest.mark.parametrize("form", ["yuv420p", "yuv444p10le"])
def test_colours_of_covers_are_those_of_the_video(tmp_path: Path, cover: Cover, form: str) -> None:
    from clips import write_clip
    from lineament.video import VideoReader

    source = write_clip(tmp_path / "a.mkv", MOVING, form=form)
    seen = find_tracks(source, BrightSquares(), jobs=1)  # type: ignore[arg-type]
    redact_video(source, tmp_path / "b.mkv", seen, cover)
    with VideoReader(tmp_path / "b.mkv") as reader:
        colour = next(reader.frames()).image[14:18, 8:12].mean(axis=(0, 1))
    wanted = (255, 0, 0) if cover.style == "solid" else (255, 255, 255)
    np.testing.assert_allclose(colour, wanted, atol=12)


def test_a_video_that_changed_between_the_passes_is_refused(tmp_path: Path) -> None:
    from clips import write_clip

    source = write_clip(tmp_path / "a.mp4", MOVING)
    seen = find_tracks(source, BrightSquares(), jobs=1)  # type: ignore[arg-type]
    write_clip(source, MOVING, times=[50 * t for t in range(20)])
    with pytest.raises(ImageError, match="has it changed"):
        redact_video(source, tmp_path / "b.mp4", seen)
    assert not (tmp_path / "b.mp4").exists()


def edges(image: np.ndarray) -> float:
    """The mean difference of neighbouring pixels."""
    return float(np.abs(np.diff(image.astype(int), axis=0)).mean())


def test_a_real_photo_has_no_face_any_more(tmp_path: Path) -> None:
    faces = redact_photo(CROWD, tmp_path / "out.jpg", lineament.load("kpnet-lite-int8"))
    assert len(faces) > 5
    before, after = lineament.read_image(CROWD), lineament.read_image(tmp_path / "out.jpg")
    assert before.shape == after.shape
    for x1, y1, x2, y2 in faces[faces.boxes[:, 3] - faces.boxes[:, 1] > 40].boxes.astype(int).clip(0).tolist():
        inset = (x2 - x1) // 4
        inner = np.s_[y1 + inset : y2 - inset, x1 + inset : x2 - inset]
        assert edges(after[inner]) < 0.4 * edges(before[inner]) + 1
    far = np.ones(before.shape[:2], bool)
    for x1, y1, x2, y2 in Cover(margin=0.5).over(faces.boxes, before.shape[1::-1]).astype(int).clip(0):
        far[y1:y2, x1:x2] = False
    assert np.abs(before.astype(int) - after)[far].mean() < 2


def square(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(scene(0, (10, 20))).convert(mode)


@pytest.mark.parametrize(
    ("name", "mode", "kept"),
    [
        ("a.jpg", "RGB", "RGB"),
        ("a.jpg", "L", "L"),
        ("a.jpg", "CMYK", "CMYK"),
        ("a.png", "RGBA", "RGBA"),
        ("a.png", "LA", "LA"),
        ("a.png", "P", "RGB"),
        ("a.webp", "RGB", "RGB"),
        ("a.tif", "RGB", "RGB"),
        ("a.bmp", "RGB", "RGB"),
    ],
)
def test_photos_keep_format_mode_and_size(tmp_path: Path, name: str, mode: str, kept: str) -> None:
    source, target = tmp_path / name, tmp_path / "out" / name
    square(mode).save(source)
    redact_photo(source, target, BrightSquares(), BLACK)  # type: ignore[arg-type]
    with Image.open(source) as old, Image.open(target) as new:
        assert (new.format, new.size, new.mode) == (old.format, old.size, kept)
    pixels = lineament.read_image(target)
    assert pixels[22:30, 12:20].max() < (60 if mode != "CMYK" else 110)
    assert np.abs(pixels[:16].astype(int) - lineament.read_image(source)[:16]).mean() < 4


def test_a_photo_is_turned_and_its_previews_are_gone(tmp_path: Path) -> None:
    source, target = tmp_path / "a.jpg", tmp_path / "b.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "Camera"
    exif.get_ifd(ExifTags.IFD.Exif).update(
        {ExifTags.Base.MakerNote: b"a preview of the face", 0x9003: "2026:01:01 10:00:00"}
    )
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    square().save(source, exif=exif, dpi=(300, 300), quality=60)
    redact_photo(source, target, BrightSquares(), BLACK)  # type: ignore[arg-type]
    with Image.open(target) as new, Image.open(source) as old:
        assert new.size == (48, 64)
        assert new.info["dpi"] == (300, 300)
        assert new.quantization == old.quantization  # type: ignore[attr-defined]
        kept = new.getexif()
        assert kept[ExifTags.Base.Make] == "Camera"
        assert ExifTags.Base.Orientation not in kept
        assert dict(kept.get_ifd(ExifTags.IFD.Exif)) == {0x9003: "2026:01:01 10:00:00"}
        assert kept.get_ifd(ExifTags.IFD.GPSInfo)
        assert not kept.get_ifd(ExifTags.IFD.IFD1)
    assert b"preview" not in target.read_bytes()
    redact_photo(source, target, BrightSquares(), BLACK, metadata=False)  # type: ignore[arg-type]
    with Image.open(target) as new:
        assert not new.getexif()


def test_a_thumbnail_in_a_photo_is_gone(tmp_path: Path) -> None:
    """A thumbnail in EXIF data, as cameras write it: a second directory that points to a JPEG."""
    thumbnail = b"\xff\xd8 the bare face \xff\xd9"
    head = b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\x0e"
    tags = b"\0\x02\x02\x01\0\x04\0\0\0\x01\0\0\0\x2c\x02\x02\0\x04\0\0\0\x01" + len(thumbnail).to_bytes(4, "big")
    source, target = tmp_path / "a.jpg", tmp_path / "b.jpg"
    square().save(source, exif=head + tags + b"\0\0\0\0" + thumbnail)
    assert b"bare face" in source.read_bytes()
    redact_photo(source, target, BrightSquares(), BLACK)  # type: ignore[arg-type]
    assert b"bare face" not in target.read_bytes()


PREVIEW = b"\xff\xd8 the bare face " + bytes(400) + b"\xff\xd9"
OF_A_CAMERA = {
    ExifTags.Base.Make: "Camera",
    ExifTags.Base.XMLPacket: PREVIEW,
    ExifTags.Base.ImageResources: PREVIEW,
    60_000: PREVIEW,
}
WHEN = {0x9003: "2026:01:01 10:00:00", 0x829A: 0.02}


WHERE = {ExifTags.GPS.GPSLatitudeRef: "N"}
OF_EXIF = {**WHEN, ExifTags.Base.MakerNote: PREVIEW, ExifTags.Base.UserComment: PREVIEW}
OF_GPS = {**WHERE, ExifTags.GPS.GPSAreaInformation: PREVIEW}


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_no_tag_holds_a_preview(tmp_path: Path, name: str) -> None:
    source, target = tmp_path / name, tmp_path / "out" / name
    exif = Image.Exif()
    exif.update(OF_A_CAMERA)
    exif[ExifTags.IFD.Exif], exif[ExifTags.IFD.GPSInfo] = OF_EXIF, OF_GPS
    square().save(source, exif=exif.tobytes())
    assert b"bare face" in source.read_bytes()
    redact_photo(source, target, BrightSquares(), BLACK)  # type: ignore[arg-type]
    assert b"bare face" not in target.read_bytes()
    with Image.open(target) as new:
        exif = new.getexif()
        assert exif[ExifTags.Base.Make] == "Camera"
        assert exif.get_ifd(ExifTags.IFD.Exif) == WHEN
        assert exif.get_ifd(ExifTags.IFD.GPSInfo) == WHERE


def test_a_compressed_tiff_keeps_the_texts_of_its_exif_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    pixels = zlib.compress(square().tobytes())
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.update({256: 64, 257: 48, 258: (8, 8, 8), 259: 8, 262: 2, 273: 0, 277: 3, 278: 48, 279: len(pixels)})
    tags.update({**OF_A_CAMERA, ExifTags.IFD.Exif: OF_EXIF, ExifTags.IFD.GPSInfo: OF_GPS})
    with source.open("wb") as file:  # by hand: Pillow cannot save it
        tags.save(file)
        file.write(pixels)
    redact_photo(source, target, BrightSquares(), BLACK)  # type: ignore[arg-type]
    with Image.open(target) as new:
        assert new.info["compression"] == "tiff_adobe_deflate"
        assert new.getexif()[ExifTags.Base.Make] == "Camera"
    assert b"bare face" in source.read_bytes()
    assert b"bare face" not in target.read_bytes()
    assert "a.tif: Exif is not copied" in caplog.text
    assert "a.tif: GPSInfo is not copied" in caplog.text


@pytest.mark.parametrize(
    ("mode", "compression", "kept"),
    [
        ("RGB", "tiff_lzw", ("RGB", "tiff_lzw")),
        ("RGBA", "tiff_adobe_deflate", ("RGBA", "tiff_adobe_deflate")),
        ("CMYK", "packbits", ("CMYK", "packbits")),
        ("L", "jpeg", ("L", "jpeg")),
        ("P", "tiff_lzw", ("RGB", "tiff_lzw")),
        ("P", "raw", ("RGB", "raw")),
        ("1", "raw", ("RGB", "raw")),
        ("1", "group4", ("RGB", "raw")),
        ("1", "tiff_ccitt", ("RGB", "raw")),
        ("LAB", "raw", ("RGB", "raw")),
    ],
)
def test_tiff_files_of_every_kind(tmp_path: Path, mode: str, compression: str, kept: tuple[str, str]) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    if mode == "LAB":
        profiles = [ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")]
        image = ImageCms.profileToProfile(square(), *profiles, outputMode="LAB")
        assert image is not None
    else:
        image = square().convert(mode, dither=Image.Dither.NONE)
    image.save(source, compression=compression)
    redact_photo(source, target, BrightSquares(), BLACK)  # type: ignore[arg-type]
    with Image.open(target) as new:
        assert (new.format, new.size, new.mode, new.info["compression"]) == ("TIFF", (64, 48), *kept)
    old, pixels = lineament.read_image(source), lineament.read_image(target)
    assert pixels[22:30, 12:20].max() < 60
    assert np.abs(pixels[:16].astype(int) - old[:16]).mean() < 4


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_turned_tiff(tmp_path: Path, compression: str) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    square().save(source, compression=compression, tiffinfo={ExifTags.Base.Orientation: 6})
    redact_photo(source, target, BrightSquares(), BLACK)  # type: ignore[arg-type]
    with Image.open(target) as new:
        assert new.size == (48, 64)
        assert ExifTags.Base.Orientation not in new.getexif()
    expected = np.rot90(scene(0, (10, 20)), -1).copy()
    expected[9:23, 15:29] = 0
    found = lineament.read_image(target)
    np.testing.assert_array_equal(found[:8], expected[:8])
    np.testing.assert_array_equal(found[24:], expected[24:])
    assert found[10:22, 16:28].max() == 0


@pytest.mark.parametrize(
    ("name", "dtype"), [("a.png", np.uint16), ("a.tif", np.uint16), ("a.tif", np.int32)], ids=["png", "tif", "I"]
)
def test_grey_photos_of_sixteen_bits_are_not_white(tmp_path: Path, name: str, dtype: type) -> None:
    source, target = tmp_path / name, tmp_path / "out" / name
    Image.fromarray(np.asarray(square("L")).astype(dtype) * 257).save(source)
    faces = redact_photo(source, target, BrightSquares(), BLACK)  # type: ignore[arg-type]
    assert faces.boxes.tolist() == [[10, 20, 22, 32]]
    pixels = lineament.read_image(target)
    np.testing.assert_array_equal(pixels[:16], np.asarray(square("L").convert("RGB"))[:16])
    assert pixels[22:30, 12:20].max() == 0


def test_a_grey_photo_of_sixteen_bits_in_which_a_grey_is_transparent(tmp_path: Path) -> None:
    source, target = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(np.asarray(square("L")).astype(np.uint16) * 257).save(source, transparency=40 * 257)
    redact_photo(source, target, BrightSquares(), BLACK)  # type: ignore[arg-type]
    np.testing.assert_array_equal(lineament.read_image(target)[:16], lineament.read_image(source)[:16])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_keeps_its_quality(tmp_path: Path, mode: str) -> None:
    source, target = tmp_path / "a.jpg", tmp_path / "b.jpg"
    square(mode).save(source, quality=30)
    redact_photo(source, target, BrightSquares(), BLACK)  # type: ignore[arg-type]
    with Image.open(source) as old, Image.open(target) as new:
        assert new.quantization == old.quantization  # type: ignore[attr-defined]


def animation(path: Path, images: list[Image.Image], durations: list[int]) -> Path:
    disposal = 2 if path.suffix == ".gif" else 0
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=durations, loop=3, lossless=True, disposal=disposal
    )
    return path


def told(path: Path) -> tuple[object, ...]:
    """What an animation has beside its pixels."""
    with AnimationReader(path) as reader:
        times = [(frame.time, frame.duration) for frame in reader.frames()]
        return reader.opened.format, reader.opened.info["loop"], reader.size, times


ANIMATED = pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])


@ANIMATED
def test_an_animation_is_redacted_as_a_video(tmp_path: Path, suffix: str) -> None:
    durations = [50 + 10 * (number % 3) for number in range(20)]
    source = animation(tmp_path / f"a{suffix}", [Image.fromarray(frame) for frame in MOVING], durations)
    target = tmp_path / f"b{suffix}"
    missed = {0, 1, 8, 9, 10, 18, 19}
    redacted(source, target, BrightSquares(missed, unsure={3, 4}))
    assert (bare(source), bare(target)) == (list(range(20)), [])
    assert told(target) == told(source)
    assert [duration for _, duration in told(target)[3]] == durations  # type: ignore[attr-defined]
    with open_video(source) as old, open_video(target) as new:
        for before, after in zip(old.frames(), new.frames(), strict=True):
            rest = before.image[..., 1] < 150
            rest[8:24] = False
            assert np.abs(before.image.astype(int) - after.image)[rest].max() < 12
    redacted(source, tmp_path / f"c{suffix}", BrightSquares(missed), Search(gap=0, hold=0))
    assert bare(tmp_path / f"c{suffix}") == sorted(missed)


def test_an_animation_of_sixteen_bits_is_not_white(tmp_path: Path) -> None:
    frames = [frame[..., 0].astype(np.uint16) * 257 for frame in MOVING]
    for number, frame in enumerate(frames):  # Pillow leaves out equal frames, and compares dark pixels alone
        frame[0, 0] = frame[-1, -1] = number
    source = animation(tmp_path / "a.png", [Image.fromarray(frame) for frame in frames], [40] * 20)
    redacted(source, tmp_path / "b.png", BrightSquares())
    with open_video(tmp_path / "b.png") as reader:
        for frame, old in zip(reader.frames(), MOVING, strict=True):
            np.testing.assert_array_equal(frame.image[24:-1], old[24:-1])
    assert bare(tmp_path / "b.png") == []


@ANIMATED
def test_transparency_of_an_animation_stays(tmp_path: Path, suffix: str) -> None:
    frames = [np.dstack([frame, np.where(frame[..., 1] > 150, 255, 0)]).astype(np.uint8) for frame in MOVING]
    source = animation(tmp_path / f"a{suffix}", [Image.fromarray(frame) for frame in frames], [40] * 20)
    target = tmp_path / f"b{suffix}"
    redact_video(source, target, find_tracks(source, Nobody(), jobs=1), BLACK)
    with open_video(source) as old, open_video(target) as new:
        for frame, before, after in zip(frames, old.frames(), new.frames(), strict=True):
            np.testing.assert_array_equal(before.native[..., 3], frame[..., 3])
            np.testing.assert_array_equal(after.native[..., 3], frame[..., 3])


class Nobody(BrightSquares):
    """A detector that finds no face."""

    def _one(self, image: np.ndarray) -> lineament.Faces:
        return lineament.Faces.empty((image.shape[1], image.shape[0]))


@ANIMATED
def test_a_truncated_animation_is_an_error_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    source = animation(tmp_path / f"a{suffix}", [Image.fromarray(frame) for frame in MOVING], [40] * 20)
    source.write_bytes(source.read_bytes()[:-200])
    with pytest.raises(ImageError, match=rf"a\{suffix}"):
        redacted(source, tmp_path / "out" / f"a{suffix}", BrightSquares())
    assert not (tmp_path / "out").exists()


def test_animations_of_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = animation(tmp_path / "a.gif", [Image.fromarray(frame) for frame in MOVING], [40] * 20)
    monkeypatch.setattr("lineament.animation.LARGEST", 20 * 48 * 64 - 1)
    with pytest.raises(ImageError, match="20 frames of 64x48 are more than 61439 pixels"):
        find_tracks(source, BrightSquares())  # type: ignore[arg-type]


def test_what_cannot_be_redacted_is_named(tmp_path: Path) -> None:
    frames = [square(), square("L").convert("RGB").rotate(90)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    for name in ("moving.gif", "broken.jpg", "missing.png"):
        with pytest.raises(ImageError, match=name):
            redact_photo(tmp_path / name, tmp_path / "out" / name, BrightSquares())  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_original_is_never_overwritten(tmp_path: Path) -> None:
    square().save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    for target in ("a.png", "b.png"):
        with pytest.raises(OptionError, match="never overwritten"):
            redact_photo(tmp_path / "a.png", tmp_path / target, BrightSquares())  # type: ignore[arg-type]


def test_a_missing_photo_is_named_also_if_the_target_exists(tmp_path: Path) -> None:
    square().save(tmp_path / "b.png")
    with pytest.raises(ImageError, match=r"missing\.png: no such file"):
        redact_photo(tmp_path / "missing.png", tmp_path / "b.png", BrightSquares())  # type: ignore[arg-type]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    square().save(tmp_path / "a.png")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="No space"):
        redact_photo(tmp_path / "a.png", tmp_path / "out" / "a.png", BrightSquares())  # type: ignore[arg-type]
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("wrong", [{"threshold": 2}, {"mean": -1}, {"faint": "low"}, {"gap": -1}, {"hold": 1.5}])
def test_wrong_searches(wrong: dict) -> None:
    with pytest.raises(OptionError):
        Search(**wrong)
