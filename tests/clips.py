"""Small videos, made in code."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

av = __import__("pytest").importorskip("av")

BASE = Fraction(1, 1000)


def write_clip(
    path: Path,
    images: Sequence[NDArray[np.uint8]],
    *,
    codec: str = "libx264",
    form: str = "yuv420p",
    times: Sequence[int] | None = None,
    sound: bool = False,
    turned: int = 0,
    tags: dict[str, str] | None = None,
) -> Path:
    """Write images (h, w, 3) as frames at these times in milliseconds, 40 apart unless given."""
    with av.open(str(path), "w") as output:
        height, width = images[0].shape[:2]
        options = {"crf": "10", "preset": "ultrafast"} if codec == "libx264" else {"qmin": "1", "qmax": "2"}
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, form
        stream.codec_context.time_base = BASE
        if turned:
            stream.set_display_rotation(turned)
        output.metadata.update(tags or {})
        if sound:
            voice = output.add_stream("aac", rate=8000)
            noise = np.random.default_rng(0).normal(0, 0.1, (1, 1024 * len(images) // 3)).astype(np.float32)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = times[number] if times else 40 * number, BASE
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound:
            samples = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 8000, 0
            output.mux(voice.encode(samples))
            output.mux(voice.encode(None))
    return path


def sound_of(path: Path) -> bytes:
    """The compressed sound of a video."""
    with av.open(str(path)) as source:
        return b"".join(bytes(packet) for packet in source.demux(audio=0)) if source.streams.audio else b""


def about(path: Path) -> dict[str, Any]:
    """What must not change when frames are edited."""
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        frames = list(source.decode(stream))
        return {
            "container": source.format.name,
            "codec": stream.codec_context.name,
            "size": (frames[0].width, frames[0].height),
            "rotation": frames[0].rotation,
            "times": [frame.time for frame in frames],
            "sound": sound_of(path),
            "streams": sorted(each.type for each in source.streams),
        }
