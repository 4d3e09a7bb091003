"""Make clips whose faces are known: labelled photos under a moving camera, with cuts and insets that hide faces.

python benchmarks/moving_photos.py DATA/detection-wider.json --out CLIPS --clips 4 --shots 10 --frames 40

A clip has a JSON line for each frame, as ``redaction.py`` reads it. The settings of redaction were chosen on such clips
of training and validation photos.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lineament.boxes import area, centre
from lineament.data.readers.coco import read_coco
from lineament.data.sample import Sample

Array = NDArray[Any]

SIZE = (640, 360)
RATE = 25
VIEW = (0.4, 1.0)  # widths of the camera's view, as shares of the largest that fits into the photo
SMALLEST = 12  # pixels of the longer side of the largest face of a photo
INSET = 0.4  # width of an inset, as a share of the frame's
INSETS = 0.3  # share of the shots that have one
SHAKE = 0.05  # standard deviation of the camera's position in pixels of the frame


@dataclass(frozen=True)
class Shown:
    """A part of a photo as a frame shows it.

    Attributes:
        pixels: (h, w, 3) uint8.
        boxes: (n, 4) whole boxes of the faces in pixels.
        ignore: (n,) bool.
        seen: (n, 4) the visible parts of the boxes in pixels.
        visible: (n,) visible shares of the boxes.
    """

    pixels: Array
    boxes: Array
    ignore: Array
    seen: Array
    visible: Array


def look(photo: Image.Image, sample: Sample, window: Array, size: tuple[int, int], hidden: Array) -> Shown:
    """Show a window (4,) of a photo in a frame of this size, in which pixels (h, w) are hidden."""
    box = np.clip(window, 0, np.tile(photo.size, 2))
    pixels = np.asarray(photo.resize(size, Image.Resampling.BICUBIC, box=tuple(box.tolist())))
    boxes = (sample.boxes - np.tile(box[:2], 2)) * np.tile(np.array(size) / (box[2:] - box[:2]), 2)
    seen, visible = np.zeros_like(boxes), np.zeros(len(boxes))
    for number, (whole, pixel) in enumerate(
        zip(boxes, np.clip(boxes.round(), 0, [*size, *size]).astype(int), strict=True)
    ):
        left, top, right, bottom = pixel.tolist()
        rows, columns = np.nonzero(~hidden[top:bottom, left:right])
        if len(rows):
            seen[number] = left + columns.min(), top + rows.min(), left + columns.max() + 1, top + rows.max() + 1
            visible[number] = min(len(rows) / area(whole), 1)
    return Shown(pixels, boxes, sample.ignore, seen, visible)


def path(rng: np.random.Generator, sample: Sample, frames: int) -> Array:
    """Windows (frames, 4) of a camera that moves and zooms over a photo, past one of its faces."""
    width, height = sample.width, sample.height
    largest = min(width, height * SIZE[0] / SIZE[1])
    face = sample.boxes[rng.choice(np.flatnonzero(sample.learnable))]
    widths = largest * np.exp(rng.uniform(*np.log(VIEW), 2))
    away = rng.normal(0, 0.2, (2, 2)) * widths[:, None]
    share = np.linspace(0, 1, frames)[:, None]
    middle = centre(face) + away[0] + share * (away[1] - away[0])
    across = widths[0] * (widths[1] / widths[0]) ** share
    middle = middle + rng.normal(0, SHAKE, middle.shape) * across / SIZE[0]
    half = np.concatenate([across, across * SIZE[1] / SIZE[0]], axis=1) / 2
    middle = np.clip(middle, half, [width, height] - half)
    return np.concatenate([middle - half, middle + half], axis=1)


def shot(rng: np.random.Generator, sample: Sample, second: Sample, frames: int) -> Iterator[tuple[Array, list[Shown]]]:
    """The frames of a shot with what they show: a photo and, in some, another as an inset."""
    photo, size = _opened(sample), np.array(SIZE)
    start, end = sorted(rng.integers(0, frames, 2)) if rng.random() < INSETS else (frames, frames)
    small = _opened(second)
    inset = np.array(small.size) * INSET * min(size / small.size)
    inset = np.maximum(inset.round(), 1).astype(int)
    left, top = rng.integers(0, size - inset)
    place = np.s_[top : top + inset[1], left : left + inset[0]]
    plain = np.zeros(SIZE[::-1], bool)
    covered = plain.copy()
    covered[place] = True
    for number, window in enumerate(path(rng, sample, frames)):
        with_inset = start <= number < end
        main = look(photo, sample, window, SIZE, covered if with_inset else plain)
        if not with_inset:
            yield main.pixels, [main]
            continue
        full = np.array([0.0, 0.0, *small.size])
        other = look(small, second, full, (int(inset[0]), int(inset[1])), np.zeros(inset[::-1], bool))
        pixels = main.pixels.copy()
        pixels[place] = other.pixels
        corner = np.tile([left, top], 2)
        yield pixels, [main, Shown(pixels, other.boxes + corner, other.ignore, other.seen + corner, other.visible)]


def _opened(sample: Sample) -> Image.Image:
    with Image.open(sample.path) as image:
        return image.convert("RGB")


def make(rng: np.random.Generator, samples: list[Sample], target: Path, shots: int, frames: int) -> None:
    """Write a clip and its JSON lines."""
    lines: list[str] = []
    tracks = 0
    with av.open(str(target), "w") as output:
        stream = output.add_stream("libx264", rate=RATE, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(shots):
            sample, second = (samples[i] for i in rng.choice(len(samples), 2, replace=False))
            for pixels, shown in shot(rng, sample, second, frames):
                output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                faces, first = [], tracks
                for part in shown:
                    faces += [
                        {
                            "track": first + int(i),
                            "box": part.seen[i].round(2).tolist(),
                            "full": part.boxes[i].round(2).tolist(),
                            "visible": round(float(part.visible[i]), 3),
                            "ignore": bool(part.ignore[i]),
                        }
                        for i in np.flatnonzero(part.visible > 0)
                    ]
                    first += len(part.boxes)
                index = len(lines)
                lines.append(json.dumps({"frame": index, "time": index / RATE, "shot": number, "faces": faces}))
            tracks += len(sample) + len(second)
        output.mux(stream.encode(None))
    target.with_suffix(".jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="COCO files of labelled photos")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--shots", type=int, default=10, help="in a clip")
    parser.add_argument("--frames", type=int, default=40, help="in a shot")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    samples = [
        sample
        for file in args.data
        for sample in read_coco(file)
        if sample.learnable.any()
        and (sample.boxes[sample.learnable, 2:] - sample.boxes[sample.learnable, :2]).max() >= SMALLEST
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    for number in range(1, args.clips + 1):
        make(rng, samples, args.out / f"clip-{number}.mp4", args.shots, args.frames)


if __name__ == "__main__":
    main()
