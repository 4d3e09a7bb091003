"""Videos: frames as they are stored and shown, copies in which nothing else changes, and files that are damaged."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clips import about, av, write_clip
from lineament import video
from lineament.errors import ImageError
from lineament.video import Frame, VideoError, VideoReader, editable, pixel_format, planes, rewrite


def scene(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """A grey picture with a bright square in the upper left quarter."""
    image = np.full((size[1], size[0], 3), 40 + 5 * number, np.uint8)
    image[4:16, 4:16] = 230
    return image


SCENES = [scene(number) for number in range(12)]


def same(frame: Frame) -> Any:
    return frame.native


def test_frames_have_their_pixels_and_times(tmp_path: Path) -> None:
    times = [0, 40, 80, 200, 210, 500, 1000, 1040, 1080, 1120, 1160, 1200]
    with VideoReader(write_clip(tmp_path / "a.mp4", SCENES, times=times)) as reader:
        frames = list(reader.frames())
        assert reader.size == (64, 48)
        assert reader.count == 12
    assert [frame.index for frame in frames] == list(range(12))
    np.testing.assert_allclose([frame.time for frame in frames], np.array(times) / 1000, atol=1e-3)
    for frame, image in zip(frames, SCENES, strict=True):
        assert np.abs(frame.image.astype(int) - image).mean() < 4


@pytest.mark.parametrize("turned", [0, 90, 180, 270])
def test_a_turned_video_is_shown_upright_and_stored_as_it_was(tmp_path: Path, turned: int) -> None:
    source = write_clip(tmp_path / "a.mp4", SCENES, turned=turned)
    with VideoReader(source) as reader:
        frame = next(reader.frames())
        assert reader.size == ((48, 64) if turned % 180 else (64, 48))
    assert frame.image.shape[1::-1] == reader.size
    (rows, columns) = np.nonzero(frame.image[..., 1] > 150)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]])
    np.testing.assert_allclose(frame.stored(box), [[4, 4, 16, 16]], atol=1)
    rewrite(source, tmp_path / "b.mp4", same)
    assert about(tmp_path / "b.mp4") == about(source)


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mkv", "libx264", "yuv444p"),
        ("a.mov", "libx264", "yuv420p10le"),
        ("a.mkv", "mpeg4", "yuv420p"),
        ("a.mkv", "ffv1", "yuv420p"),
        ("a.avi", "mjpeg", "yuvj420p"),
    ],
)
def test_a_copy_changes_nothing_but_the_edited_pixels(tmp_path: Path, name: str, codec: str, form: str) -> None:
    times = [0, 40, 80, 200, 240, 280, 320, 360, 400, 440, 480, 520] if name != "a.avi" else None
    source = write_clip(tmp_path / name, SCENES, codec=codec, form=form, times=times, sound=True)
    target = tmp_path / f"b{source.suffix}"

    def edit(frame: Frame) -> Any:
        frame.native.make_writable()
        for plane in planes(frame.native):
            plane[-8:] = 128 if plane.dtype == np.uint8 else 512
        return frame.native

    assert rewrite(source, target, edit) == 12
    assert about(target) == about(source)
    with VideoReader(source) as old, VideoReader(target) as new:
        for before, after in zip(old.frames(), new.frames(), strict=True):
            assert after.native.format.name == before.native.format.name
            assert np.abs(after.image[:28].astype(int) - before.image[:28]).mean() < 6
            assert np.abs(after.image[-6:].astype(int) - 128).mean() < 12


def test_odd_sizes_stay(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", [scene(n, (63, 47)) for n in range(3)], codec="ffv1")
    rewrite(source, tmp_path / "b.mkv", same)
    assert about(tmp_path / "b.mkv")["size"] == (63, 47)


def test_metadata_are_copied_unless_told_otherwise(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", SCENES[:3], tags={"title": "Home", "location": "+52.0-013.0/"})
    rewrite(source, tmp_path / "b.mp4", same)
    rewrite(source, tmp_path / "c.mp4", same, metadata=False)
    with av.open(str(tmp_path / "b.mp4")) as kept, av.open(str(tmp_path / "c.mp4")) as bare:
        assert kept.metadata["title"] == "Home"
        assert not {"title", "location"} & bare.metadata.keys()


def test_frames_of_another_size_are_resized_to_the_first(tmp_path: Path) -> None:
    parts = [
        write_clip(tmp_path / f"{i}.ts", [scene(n, size) for n in range(4)])
        for i, size in enumerate([(64, 48), (96, 64)])
    ]
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    with VideoReader(both) as reader:
        frames = list(reader.frames())
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert len(frames) >= 7
    assert (np.diff([frame.time for frame in frames]) > 0).all()


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mp4"])
def test_a_truncated_video_gives_what_is_there_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, sound: bool
) -> None:
    source, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    images = list(np.random.default_rng(0).integers(0, 255, (20, 48, 64, 3), np.uint8))
    assert rewrite(write_clip(tmp_path / f"w{suffix}", images, sound=sound), source, same) == 20
    assert "damaged" not in caplog.text
    assert "missing" not in caplog.text
    content = source.read_bytes()
    source.write_bytes(content[: len(content) * 2 // 3 + 1])
    count = rewrite(source, target, same)
    assert "damaged" in caplog.text or "missing" in caplog.text
    assert 5 < count < 20
    caplog.clear()
    with VideoReader(target) as reader:
        assert len(list(reader.frames())) == count
        assert (reader.damaged, reader.missing) == (0, 0)


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mp4", SCENES, sound=True).read_bytes()
    cases = {
        "none.mp4": None,
        "empty.mp4": b"",
        "text.mp4": b"no video at all, but long enough to be one" * 20,
        "half.mp4": whole[: len(whole) // 2],
    }
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(VideoError, match=name):
            VideoReader(tmp_path / name)
    with pytest.raises(ImageError, match="folder"):
        VideoReader(tmp_path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as output:
        voice = output.add_stream("aac", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        output.mux(voice.encode(samples))
        output.mux(voice.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        VideoReader(tmp_path / "a.m4a")


def test_nothing_is_written_if_an_edit_fails(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", SCENES)

    def edit(frame: Frame) -> Any:
        if frame.index == 5:
            raise KeyboardInterrupt
        return frame.native

    with pytest.raises(KeyboardInterrupt):
        rewrite(source, tmp_path / "out" / "b.mp4", edit)
    assert not list((tmp_path / "out").iterdir())


def test_pixel_formats() -> None:
    assert editable("yuv420p10le")
    assert not editable("nv12")
    assert not editable("rgb24")
    assert not editable("yuv420p10be")
    assert pixel_format("nv12", [], 64, 48) == "yuv420p"
    assert pixel_format("yuv422p", [], 64, 48) == "yuv422p"
    assert pixel_format("yuv420p", [], 63, 48) == "yuv444p"


def test_only_what_writing_the_copy_fails_at_is_blamed_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = write_clip(tmp_path / "a.mp4", SCENES), tmp_path / "b.mp4"

    def broken(frame: Frame) -> Any:
        raise av.error.ArgumentError(22, "the edit failed")

    def full() -> Any:
        raise av.error.OSError(28, "no space left")

    with pytest.raises(av.error.ArgumentError, match="the edit failed"):
        rewrite(source, target, broken)
    with monkeypatch.context() as patched:
        patched.setattr(video, "_encoder", lambda *_, **__: full())
        with pytest.raises(VideoError, match=r"b\.mp4: no space left"):
            rewrite(source, target, same)
    with pytest.raises(VideoError, match=r"b\.xyz: "):
        rewrite(source, tmp_path / "b.xyz", same)
    reading = VideoReader._read

    def breaks_off(reader: VideoReader) -> Any:
        yield from islice(reading(reader), 3)
        raise VideoError(f"{reader.name}: Input/output error")

    monkeypatch.setattr(VideoReader, "_read", breaks_off)
    with pytest.raises(VideoError) as caught:
        rewrite(source, target, same)
    assert str(caught.value) == f"{source}: Input/output error"
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
