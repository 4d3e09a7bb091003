"""More photos of WIDER FACE train than detection-wider.json has, and sharper ones of some that it has.

    python benchmarks/wider_photos.py --masks GIT --sizes GIT --photos GIT --scrfd scrfd_2.5g_kps.onnx --data DATA

writes to DATA:

detection-wider-sharp.json: 1,217 photos of detection-wider.json from full size. There they have 352 to 544 pixels.
detection-wider-more.json: 1,026 further photos, of other events. No shipped weights have learned from these, so they
show how a detector ranks faces in photos such as WIDER FACE's, without a look at the photos of a test.

Data sets of masked faces contain photos of WIDER FACE. ``GIT`` are git directories of three of them on GitHub:
lakshaychhabra/face-mask-detection (``--masks``: the further photos, squeezed into 960x544 pixels, with official boxes),
DraymondHIT/yolov5-mask (``--sizes``: labels with the sizes of a third of them) and CHINbunhyou/FaceMask-Dataset
(``--photos``: photos at full size). None of these is of WIDER FACE val, which we test on.

Labels are made as those of the other lists (docs/data.md): SCRFD-2.5g reads each photo and its mirror image. It gives
points to faces and adds faces that nobody labelled.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from peers.peer import Found, Search, scrfd
from PIL import Image

from lineament import boxes as box_ops
from lineament.data.readers.coco import read_coco, write_coco
from lineament.data.sample import Sample
from lineament.schemas import FIVE

Array = NDArray[Any]

WIDER = re.compile(r".*/(\d+_[A-Z]\w*_\d+_\d+)\.\w+")
"""A path with the name of a photo of WIDER FACE."""
WIDTH, SQUEEZED, EDGE = 1024, (960, 544), 640
"""Width of a photo in WIDER FACE, size of the squeezed photos, and longer edge of those written, in pixels."""
ASPECT, SPREAD = 0.78, 0.2
"""Mean ratio of width to height of official boxes, and the standard deviation of its logarithm."""
SURE, SEEN = 0.6, 0.3
"""Scores from which a face that nobody labelled is one, or is ignored."""
SMALLEST = 6
"""Longer side in pixels of a face to learn."""


def contents(git: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of a repository's folder that has the name of a photo of WIDER FACE."""
    call = ["git", "--git-dir", str(git)]
    listed = subprocess.run([*call, "ls-tree", "-r", "-z", "--name-only", "HEAD"], capture_output=True, check=True)
    paths = [path for path in listed.stdout.decode().split("\0") if path.startswith(folder)]
    for path in paths:
        if found := WIDER.fullmatch(path):
            yield found[1], subprocess.run([*call, "show", f"HEAD:{path}"], capture_output=True, check=True).stdout


def true_heights(git: Path) -> dict[str, int]:
    """Heights of photos from their labels."""
    labels = contents(git, "VOCdevkit/VOC2007/Annotations/")
    return {name: int(ElementTree.fromstring(content).findtext("size/height", "0")) for name, content in labels}


def squeezed_boxes(git: Path) -> dict[str, Array]:
    """Boxes (n, 4) of squeezed photos."""
    labels = contents(git, "train/labels/")
    return {name: np.array(rows.decode().split()).reshape(-1, 15)[:, 4:8].astype(float) for name, rows in labels}


def heights(boxes: dict[str, Array], known: dict[str, int]) -> dict[str, int]:
    """The heights that squeezed photos had, where they are known or follow from the boxes.

    Official boxes are whole pixels of the photo. Of the heights that fit, the most probable one is taken: by how often
    it occurs, and by the aspect of the boxes. It is right for 94 % of the photos whose height is known.
    """
    often = Counter(known.values())
    tried = np.arange(250, 3000)
    near = np.exp(-0.5 * ((tried[:, None] - np.array(list(often))) / 15) ** 2) @ np.array(list(often.values())) / 37.5
    prior = np.log(near + [often[height] for height in tried] + 0.02)
    found = {}
    for name, given in boxes.items():
        y = given[:, 1::2, None] * tried / SQUEEZED[1]
        width = (given[:, 2] - given[:, 0]) * WIDTH / SQUEEZED[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            away = np.log(width[:, None] / (y[:, 1] - y[:, 0]) / ASPECT) / SPREAD
        fits = np.abs(y - y.round()).max(axis=(0, 1), initial=0) < 0.01
        likely = np.where(fits & np.isfinite(away).all(axis=0), prior - 0.5 * (away**2).sum(axis=0), -np.inf)
        second, first = np.sort(likely)[-2:]
        if name in known or (np.isfinite(first) and first - second >= 1):
            found[name] = known.get(name) or int(tried[likely.argmax()])
    return found


def both_ways(detect: Any, image: Array) -> Found:
    """What a detector finds in an image and in its mirror image: the means, and half the sum of the scores."""
    seen, other = detect(image), detect(np.ascontiguousarray(image[:, ::-1]))
    width = image.shape[1]
    boxes = np.concatenate([seen.boxes, (other.boxes * [-1, 1, -1, 1] + [width, 0, width, 0])[:, [2, 1, 0, 3]]])
    points = np.concatenate([seen.points, other.points[:, list(FIVE.mirror)] * [-1, 1] + [width, 0]])
    scores = np.concatenate([seen.scores, other.scores])
    faces, left = [], np.ones(len(scores), bool)
    same = (box_ops.iou(boxes, boxes) > 0.5) | np.eye(len(boxes), dtype=bool)
    for best in np.argsort(-scores):
        if left[best]:
            pair = same[best] & left
            left &= ~pair
            means = (np.average(values[pair], axis=0, weights=scores[pair]) for values in (boxes, points))
            faces.append((*means, scores[pair].sum() / 2))
    shapes = (-1, 4), (-1, 5, 2), (-1,)
    boxes, points, scores = (np.array([face[i] for face in faces]).reshape(shapes[i]) for i in range(3))
    return Found(boxes, scores, points)


def labelled(path: Path, image: Array, official: Array, found: Found) -> Sample:
    """A photo with official boxes (n, 4), the points that a detector gives to them, and the faces that it adds."""
    official = official[(official[:, 2:] > official[:, :2]).all(axis=1)]
    overlaps = box_ops.iou(official, found.boxes)
    points, taken = np.full((len(official), 5, 2), np.nan), set()
    for face, row in enumerate(overlaps):
        best = int(row.argmax()) if row.size else -1
        if best >= 0 and row[best] > 0.4 and found.scores[best] > SEEN and best not in taken:
            points[face] = found.points[best]
            taken.add(best)
    new = ~np.isin(np.arange(len(found.boxes)), list(taken))
    new &= (overlaps.max(axis=0, initial=0) <= 0.3) & (found.scores >= SEEN)
    boxes, sure = np.concatenate([official, found.boxes[new]]), found.scores[new] >= SURE
    return Sample.of(
        path,
        boxes,
        np.concatenate([points, np.where(sure[:, None, None], found.points[new], np.nan)]),
        ignore=np.r_[np.zeros(len(official), bool), ~sure] | (box_ops.longer_side(boxes) < SMALLEST),
        size=(image.shape[1], image.shape[0]),
        source="wider",
        box_source=["human"] * len(official) + ["detector"] * int(new.sum()),
        landmark_source="detector",
    )


def stored(image: Image.Image, size: tuple[int, int], path: Path) -> Image.Image:
    """The image with its longer edge of `EDGE` pixels, written to a file. ``size`` has its true aspect."""
    scale = EDGE / max(size)
    image = image.convert("RGB").resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=92)
    return image


def sharpened(samples: Iterable[Sample], git: Path, folder: Path) -> list[Sample]:
    """The samples with small photos that are there at full size."""
    full = dict(contents(git, "VOCdevkit/VOC2007/JPEGImages/"))
    result = []
    for sample in samples:
        if sample.path.stem in full and max(sample.width, sample.height) < EDGE:
            image = Image.open(BytesIO(full[sample.path.stem]))
            if abs(image.width / image.height * sample.height / sample.width - 1) < 0.02:
                path = folder / "wider" / f"{sample.path.stem}.webp"
                w, h = stored(image, image.size, path).size
                scale = np.array([w / sample.width, h / sample.height], np.float32)
                moved = {"boxes": sample.boxes * np.tile(scale, 2), "landmarks": sample.landmarks * scale}
                result.append(replace(sample, path=path, width=w, height=h, **moved))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--masks", "--sizes", "--photos"):
        parser.add_argument(name, type=Path, required=True, metavar="GIT")
    parser.add_argument("--scrfd", required=True, metavar="FILE", help="weights of SCRFD-2.5g with five points")
    parser.add_argument("--data", type=Path, required=True, help="folder of detection-wider.json and wider-val")
    args = parser.parse_args()
    before = read_coco(args.data / "detection-wider.json")
    tested = {path.stem for path in (args.data / "wider-val").rglob("*.jpg")}
    folder = args.data / "photos-wider"
    write_coco(args.data / "detection-wider-sharp.json", sharpened(before, args.photos, folder))

    detect = scrfd(Search(low=True, threads=1, weights=args.scrfd))
    boxes = squeezed_boxes(args.masks)
    true = heights(boxes, true_heights(args.sizes))
    known = {sample.path.stem for sample in before} | tested
    samples = []
    for name, content in contents(args.masks, "train/images/"):
        if name in true and name not in known:
            path = folder / "wider-more" / f"{name}.webp"
            image = np.asarray(stored(Image.open(BytesIO(content)), (WIDTH, true[name]), path))
            scale = np.tile([image.shape[1] / SQUEEZED[0], image.shape[0] / SQUEEZED[1]], 2)
            samples.append(labelled(path, image, boxes[name] * scale, both_ways(detect, image)))
    write_coco(args.data / "detection-wider-more.json", samples)


if __name__ == "__main__":
    main()
