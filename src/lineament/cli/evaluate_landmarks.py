"""``lineament evaluate landmarks``, ``recall`` and ``speed``: scores on your own labelled images, and times."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import lineament
from lineament.cli.options import Landmarks, Settings, with_settings
from lineament.cli.results import tell
from lineament.cli.run import WORK, Source, Threads, Work
from lineament.data.readers.coco import read_coco
from lineament.errors import OptionError
from lineament.evaluate.labelled import Evaluated, read_detections
from lineament.evaluate.landmarks import NORMALISERS, evaluate_landmarks
from lineament.evaluate.origin import origin
from lineament.evaluate.recall import evaluate_recall
from lineament.evaluate.speed import COUNTS, FACE, Baseline, cold_start, cut_face, evaluate_speed
from lineament.images import image_paths, read_image

Data = Annotated[Path, typer.Option(help="Labels: COCO keypoints JSON.")]
Images = Annotated[Path | None, typer.Option(help="Folder of the images (default: the folder of --data).")]
Method = Annotated[
    str | None, typer.Option("--method", "-m", help="Name from `lineament models`, or path of an ONNX file.")
]
Detections = Annotated[
    Path | None, typer.Option(help="Instead of --method: output of `lineament detect --json` for these images.")
]
Name = Annotated[str | None, typer.Option(help="Name in tables and reports (default: method or file name).")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result for `lineament report`.")]
LowestScore = Annotated[float | None, typer.Option(help="Lowest confidence score, 0 to 1 (default: the method's).")]
MinFace = Annotated[float | None, typer.Option(help="Smallest face to look for, in pixels (default: the method's).")]


@with_settings
def landmarks(
    data: Data,
    settings: Settings,
    images: Images = None,
    method: Method = None,
    landmarks: Landmarks = None,
    detections: Detections = None,
    normalise: Annotated[str, typer.Option(help=f"Length that normalises the errors: {', '.join(NORMALISERS)}.")] = (
        "inter-ocular"
    ),
    iou: Annotated[float, typer.Option(help="Smallest IoU of a detection and a labelled face.")] = 0.3,
    threshold: LowestScore = None,
    min_face: MinFace = None,
    threads: Threads = None,
    work: Work = WORK,
    name: Name = None,
    json_file: Json = None,
) -> None:
    """Landmark error of a detector (NME).

    The command also prints recall, failure rates and AUC. The last two count missed faces as failures.
    """
    source = Source(
        detections, method, images or data.parent, work, threshold, min_face, threads, settings, landmarks=landmarks
    )
    result = evaluate_landmarks(name or source.name, _evaluated(source, data), normalise=normalise, least_iou=iou)
    tell(result, json_file, {"data": data.name, **source.told}, lambda: source.origin(data))


@with_settings
def recall(
    data: Data,
    settings: Settings,
    images: Images = None,
    method: Method = None,
    detections: Detections = None,
    at: Annotated[float, typer.Option(help="Score threshold for precision, recall and F1.")] = 0.5,
    iou: Annotated[float, typer.Option(help="Smallest IoU of a detection and a labelled face.")] = 0.5,
    threshold: LowestScore = None,
    min_face: MinFace = None,
    threads: Threads = None,
    work: Work = WORK,
    name: Name = None,
    json_file: Json = None,
) -> None:
    """Precision, recall and F1 of a detector.

    The command also prints average precision, recall of the top detections and recall by face size.
    """
    source = Source(detections, method, images or data.parent, work, threshold, min_face, threads, settings)
    result = evaluate_recall(name or source.name, _evaluated(source, data), threshold=at, least_iou=iou)
    tell(result, json_file, {"data": data.name, **source.told}, lambda: source.origin(data))


@with_settings
def speed(
    method: Annotated[
        str, typer.Option("--method", "-m", help="Name from `lineament models`, or path of an ONNX file.")
    ],
    settings: Settings,
    images: Annotated[
        Path | None, typer.Option(help="Photos whose largest faces fill the test images (default: one that ships).")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="CMD", help='Program to compare with: reads an image path per line, answers {"ms": 12.3}.'
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads (default: all cores).")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Calls per image; the median counts.")] = 5,
    faces: Annotated[str, typer.Option(help="Numbers of faces, comma-separated.")] = ",".join(map(str, COUNTS)),
    name: Name = None,
    json_file: Json = None,
) -> None:
    """Detection time by number of faces.

    The command also measures cold start and peak memory. --baseline compares with another program.
    """
    try:
        counts = [int(count) for count in faces.split(",")]
    except ValueError:
        raise OptionError(f"--faces takes numbers separated by commas, such as 1,10,50; found {faces!r}") from None
    if len(set(counts)) < 2 or min(counts) < 1:
        raise OptionError(
            f"--faces takes two or more different numbers above 0, to fit a line through; found {faces!r}"
        )
    detector = lineament.load(method, threads=threads, settings=settings)
    photos = [read_image(path) for path in image_paths([images])] if images else []
    tiles = [cut_face(photo, detector.detect(photo)) for photo in photos] or [read_image(FACE)]
    with tempfile.TemporaryDirectory() as folder, Baseline(baseline, threads) if baseline else nullcontext() as peer:
        result = evaluate_speed(
            name or method,
            detector.detect,
            tiles,
            Path(folder),
            counts=counts,
            repeats=repeats,
            baseline=peer,
            start=lambda picture: cold_start(method, picture, threads, settings),
        )
    where = partial(origin, weights=list(detector.weights), data=images, threads=threads)
    tell(result, json_file, {"threads": threads, **settings}, where)


def _evaluated(source: Source, data: Path) -> Evaluated:
    samples = read_coco(data, source.images)
    if source.detections is None:
        return source.over(samples)
    return read_detections(source.detections, samples, source.images or data.parent)
