"""Measure redaction of videos: bare faces, what is covered needlessly, and processor time.

python benchmarks/redaction.py --data DATA/clips
python benchmarks/redaction.py --data DATA/clips --deface PEERS/env/onnx/bin/python

The clips have a JSON line for each frame: the visible box of each face, its whole box, and the share of it that is
visible. The results are kept in docs/results/data/redact.json; ``tables.py`` prints them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import kept
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import lineament
from lineament.cli.redact import FAST, FAST_SETTINGS
from lineament.covers import Cover, paint
from lineament.evaluate.origin import origin
from lineament.evaluate.results import Result
from lineament.redaction import SEARCH, find_tracks, redact_video
from lineament.video import VideoReader

Array = NDArray[Any]

SMALL = 20  # faces whose visible box has a shorter longer side, in pixels, are counted apart
SHOWN = 0.3  # share of a face that is visible
COVERED = 0.7  # share of the ellipse in a face's box that has to be covered
SPARED = 0.1  # margin around a face that is not counted as covered needlessly
DEFACE = Cover("solid", margin=0.15, rim=0)  # boxes enlarged by 1.3, ellipses
PEER = Path(__file__).parent / "peers" / "peer.py"


def masks(boxes: Iterable[Array], cover: Cover, size: tuple[int, int]) -> Iterable[Array]:
    """What is covered in each frame (h, w)."""
    one = [np.ones((1, 1, 1))]
    for each in boxes:
        plane = np.zeros((size[1], size[0], 1))
        paint([plane], each, replace(cover, style="solid"), one)
        yield plane[..., 0] > 0.5


def inside(box: Array, size: tuple[int, int]) -> tuple[slice, slice]:
    """The pixels of a box."""
    first = np.clip(np.round(box[:2]), 0, size).astype(int)
    last = np.clip(np.round(box[2:]), 0, size).astype(int)
    return slice(first[1], last[1]), slice(first[0], last[0])


def compare(frames: Sequence[dict[str, Any]], covered: Iterable[Array], size: tuple[int, int]) -> dict[str, int]:
    """Count over the frames of a clip: frames, faces, what is bare of them, pixels, and those covered needlessly."""
    kinds = ("faces", "bare", "small faces", "small bare")
    counts = dict.fromkeys(("frames", "frames with bare", *kinds, "pixels", "needless"), 0)
    for frame, mask in zip(frames, covered, strict=True):
        before, face = counts["bare"], np.zeros_like(mask)
        for each in frame["faces"]:
            whole, seen = np.array(each["full"]), inside(np.array(each["box"]), size)
            grown = SPARED * (whole[2:] - whole[:2])
            face[inside(whole + np.concatenate([-grown, grown]), size)] = True
            if each["ignore"] or each["visible"] < SHOWN:
                continue
            (ellipse,) = masks([whole[None]], Cover("solid", margin=0, rim=0), size)
            visible = mask[seen][ellipse[seen]]
            kind = "small " if max(np.subtract(each["box"][2:], each["box"][:2])) < SMALL else ""
            counts[f"{kind}faces"] += 1
            counts[f"{kind}bare"] += int(visible.size > 0 and visible.mean() < COVERED)
        counts["frames"] += 1
        counts["frames with bare"] += int(counts["bare"] > before)
        counts["pixels"] += mask.size
        counts["needless"] += int((mask & ~face).sum())
    return counts


def busy() -> float:
    """Seconds that the processor has worked for this process and those that it started and that have ended."""
    return sum(os.times()[:4])


def ours(clip: Path, folder: Path, jobs: int) -> tuple[list[Array], Cover, float]:
    """Boxes of each frame, how they are covered, and seconds of processor time."""
    detector = lineament.load(FAST, threads=1, settings=FAST_SETTINGS)
    began = busy()
    seen = find_tracks(clip, detector, jobs=jobs)
    redact_video(clip, folder / clip.name, seen)
    seconds = busy() - began
    return [tracks.boxes for tracks in seen.tracks.by_frame(len(seen.times))], Cover(), seconds


def deface(python: Path, clip: Path, folder: Path, jobs: int) -> tuple[list[Array], Cover, float]:
    """The same for deface: its command is timed, and its detector gives the boxes."""
    began = busy()
    command = [python.parent / "deface", clip, "-o", folder / clip.name, "--backend", "onnxrt"]
    subprocess.run(command, check=True, capture_output=True)
    seconds = busy() - began
    paths = []
    with VideoReader(clip) as reader:
        for frame in reader.frames():
            paths.append(folder / f"{frame.index:06}.bmp")
            Image.fromarray(frame.image).save(paths[-1])
    given = "".join(f"{path}\n" for path in paths)
    command = [python, PEER, "deface", "--threads", str(jobs)]
    told = subprocess.run(command, input=given, check=True, capture_output=True, text=True).stdout
    found = [json.loads(line)["faces"] for line in told.splitlines()]
    return [np.array([face["box"] for face in faces]).reshape(-1, 4) for faces in found], DEFACE, seconds


def measure(name: str, run: Any, data: Path, weights: Sequence[str], settings: dict[str, Any], jobs: int) -> None:
    """Measure one program on all clips, print and keep the result."""
    total: dict[str, float] = {"seconds": 0.0}
    for clip in sorted(data.glob("*.mp4")):
        frames = [json.loads(line) for line in clip.with_suffix(".jsonl").read_text().splitlines()]
        with tempfile.TemporaryDirectory() as folder, VideoReader(clip) as reader:
            boxes, cover, seconds = run(clip, Path(folder), jobs)
            counts = compare(frames, masks(boxes, cover, reader.size), reader.size)
        print(name, clip.name, counts, f"{seconds:.1f} s", flush=True)
        for key, value in {**counts, "seconds": seconds}.items():
            total[key] = total.get(key, 0) + value
    scores = {
        "frames": int(total["frames"]),
        "frames with a bare face": int(total["frames with bare"]),
        "faces": int(total["faces"]),
        "bare faces": int(total["bare"]),
        f"faces below {SMALL} px": int(total["small faces"]),
        "bare ones": int(total["small bare"]),
        "covered needlessly, %": 100 * total["needless"] / total["pixels"],
        "processor ms a frame": 1000 * total["seconds"] / total["frames"],
    }
    found = origin(weights=weights, data=data, threads=jobs)
    kept.keep("redact", name, Result("redaction", name, scores, settings=settings, origin=found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of clips and their JSON lines")
    parser.add_argument("--deface", type=Path, help="the Python of an environment with deface")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    measure("lineament redact", ours, args.data, [FAST], asdict(SEARCH) | FAST_SETTINGS, args.jobs)
    if args.deface:

        def peer(clip: Path, folder: Path, jobs: int) -> tuple[list[Array], Cover, float]:
            return deface(args.deface, clip, folder, jobs)

        measure("deface 1.5.0", peer, args.data, [], {"search": "as shipped"}, args.jobs)


if __name__ == "__main__":
    main()
