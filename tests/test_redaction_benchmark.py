"""The measurement of redaction, and the clips on which its settings were chosen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

import moving_photos
import redaction

from lineament.covers import Cover
from lineament.data.sample import Sample
from lineament.video import VideoReader

SIZE = (100, 80)
PLAIN = Cover("solid", "box", margin=0, rim=0)


def face(box: list[float], *, visible: float = 1.0, ignore: bool = False) -> dict:
    return {"box": box, "full": box, "visible": visible, "ignore": ignore}


def test_bare_faces_and_needless_covers_are_counted() -> None:
    large, hidden, small = [10, 10, 40, 50], [60, 10, 90, 50], [5, 60, 15, 72]
    frame = {"faces": [face(large), face(hidden, visible=0.2), face(small), face([50, 60, 90, 80], ignore=True)]}
    covers = [np.array([[10, 10, 40, 50]]), np.array([[10, 10, 40, 20], [60, 60, 80, 70], [20, 60, 40, 80]])]
    counts = redaction.compare([frame, frame], redaction.masks(covers, PLAIN, SIZE), SIZE)
    assert (counts["faces"], counts["bare"], counts["frames with bare"]) == (2, 1, 1)
    assert (counts["small faces"], counts["small bare"]) == (2, 2)
    assert counts["needless"] == 20 * 20, "nothing of an ignored face is covered needlessly"


def test_a_view_of_a_photo_has_the_visible_parts_of_its_faces() -> None:
    sample = Sample.of("photo", [[20, 20, 40, 60], [90, 30, 110, 50], [150, 0, 160, 10]], size=(200, 100))
    hidden = np.zeros((40, 80), bool)
    hidden[:20] = True
    shown = moving_photos.look(Image.new("RGB", (200, 100)), sample, np.array([0, 20, 100, 70]), (80, 40), hidden)
    assert shown.pixels.shape == (40, 80, 3)
    np.testing.assert_allclose(shown.boxes[:2], [[16, 0, 32, 32], [72, 8, 88, 24]])
    np.testing.assert_array_equal(shown.seen[:2], [[16, 20, 32, 32], [72, 20, 80, 24]])
    np.testing.assert_allclose(shown.visible, [12 / 32, 1 / 8, 0])


def test_a_clip_has_a_line_for_each_frame_and_a_track_for_each_face(tmp_path: Path) -> None:
    samples = []
    for number in range(2):
        Image.new("RGB", (320, 240), (90 * number, 80, 60)).save(tmp_path / f"{number}.png")
        samples.append(Sample.of(tmp_path / f"{number}.png", [[100, 80, 160, 150]], size=(320, 240)))
    moving_photos.make(np.random.default_rng(1), samples, tmp_path / "clip.mp4", shots=2, frames=6)
    lines = [json.loads(line) for line in (tmp_path / "clip.jsonl").read_text().splitlines()]
    assert [line["shot"] for line in lines] == [0] * 6 + [1] * 6
    tracks = [{face["track"] for line in lines if line["shot"] == shot for face in line["faces"]} for shot in (0, 1)]
    assert tracks[0].isdisjoint(tracks[1])
    with VideoReader(tmp_path / "clip.mp4") as reader:
        assert reader.size == moving_photos.SIZE
        assert sum(1 for _ in reader.frames()) == 12
