"""``lineament evaluate wider``, ``fddb`` and ``pascal``: score a detector as the official tools do.

Detections come from a file, or from a method that runs now.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import numpy as np
import typer

from lineament.cli.messages import messages, with_verbosity
from lineament.cli.options import Settings, with_settings
from lineament.cli.results import tell
from lineament.cli.run import WORK, Source, Threads, Work
from lineament.data.sample import Sample
from lineament.errors import DataError
from lineament.evaluate import fddb as fddb_protocol
from lineament.evaluate import pascal as pascal_protocol
from lineament.evaluate import wider as wider_protocol
from lineament.evaluate.detections import (
    Detections,
    image_key,
    pick,
    read_fddb,
    read_pascal,
    read_wider,
    write_fddb,
    write_pascal,
    write_wider,
)
from lineament.images import image_paths

app = typer.Typer(no_args_is_help=True, help="Evaluate a detector: by official protocols or on your own labels.")


@app.callback()
def _evaluate() -> None:
    messages.hide("lineament.evaluate")  # notes are printed with the results


class _Arithmetic(StrEnum):
    MATLAB = "matlab"
    FLOAT = "float"


class _Assignment(StrEnum):
    OFFICIAL = "official"
    OPTIMAL = "optimal"


class _Shape(StrEnum):
    RECTANGLE = "rectangle"
    ELLIPSE = "ellipse"


Method = Annotated[
    str | None,
    typer.Option("--method", "-m", help="Method to run: name from `lineament models`, or path of an ONNX file."),
]
Images = Annotated[Path | None, typer.Option(help="With --method: folder of the images.")]
Threshold = Annotated[
    float, typer.Option(help="With --method: lowest confidence score, 0 to 1. Keep it low for complete curves.")
]
MinFace = Annotated[
    float | None, typer.Option(help="With --method: smallest face to look for, in pixels (default: the method's).")
]
HARD = 10  # pixels of the smallest faces that WIDER FACE's hard setting counts; a method looks for faces this small
Subset = Annotated[Path | None, typer.Option(help="Evaluate only the images that this file lists, one name per line.")]
Name = Annotated[str | None, typer.Option(help="Name in tables and reports (default: method or file name).")]
Json = Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the result for `lineament report`.")]
DetectionsDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of detections, <event>/<name>.txt.")]
DetectionsFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Detections in the format of the protocol.")]


def _detected(
    source: Source,
    names: Collection[str],
    name_of: Callable[[Path], str],
    sizes: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> Detections:
    """Detect faces in those images of the ground truth that are in the folder.

    Raises:
        DataError: None is there, or one has another size than in the ground truth.
    """
    pictures = _pictures(source.images or Path(), names, name_of)
    found = source.over([Sample.of(path, [], size=sizes.get(name, (0, 0))) for name, path in pictures.items()])
    return replace(Detections.of(dict(zip(pictures, found.faces, strict=True))), notes=found.notes)


def _pictures(folder: Path, names: Collection[str], name_of: Callable[[Path], str]) -> dict[str, Path]:
    """The files of those images of the ground truth that are in the folder, in the order of the ground truth.

    Raises:
        DataError: None is there, or two files belong to one image.
    """
    files: dict[str, Path] = {}
    for path in image_paths([folder]):
        name = name_of(path.relative_to(folder))
        if name in names and name in files:
            raise DataError(f"{path}: a second file of the image {name}, after {files[name]}; leave one of them out")
        files[name] = path
    found = {name: files[name] for name in names if name in files}
    if not found:
        raise DataError(
            f"{folder}: none of its {len(files)} images is one of the {len(names)} of the ground truth; expected "
            f"e.g. {next(iter(names), '')}.jpg, found e.g. {next(iter(files))}"
        )
    return found


def _relative_name(path: Path) -> str:
    return path.with_suffix("").as_posix()


def _images(ground_truth: Path, subset: Path | None, *more: str) -> str:
    """Name the images of a result. Results with the same name are comparable."""
    return ", ".join((ground_truth.resolve().name, *((subset.name,) if subset else ()), *more))


def _listed(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a list of image names, one a line ({error})") from error


@app.command()
@with_verbosity
@with_settings
def wider(
    ground_truth: Annotated[Path, typer.Option(metavar="DIR", help="Folder of wider_{face,easy,medium,hard}_val.mat.")],
    settings: Settings,
    detections: DetectionsDir = None,
    arithmetic: Annotated[
        _Arithmetic, typer.Option(help="Arithmetic of the official tool (integers in places) or plain floats.")
    ] = _Arithmetic.MATLAB,
    method: Method = None,
    images: Images = None,
    work: Work = WORK,
    threshold: Threshold = 0.02,
    min_face: MinFace = None,
    threads: Threads = None,
    subset: Subset = None,
    save_detections: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write the detections to.")
    ] = None,
    name: Name = None,
    json_file: Json = None,
) -> None:
    """Average precision on WIDER FACE."""
    source = Source(detections, method, images, work, threshold, min_face, threads, settings, at_most=HARD)
    truth = wider_protocol.read_ground_truth(ground_truth)
    if subset:
        truth = truth.subset(_listed(subset))
    if detections:
        found = read_wider(detections)
    else:
        found = _detected(source, truth.boxes, _relative_name)
        truth = truth.subset(found.images)
    result = wider_protocol.evaluate(found, truth, arithmetic.value)
    if save_detections:
        write_wider(found, save_detections)
    tell(
        result.summary(name or source.name),
        json_file,
        {"data": _images(ground_truth, subset), **source.told},
        lambda: source.origin(ground_truth),
    )


@app.command()
@with_verbosity
@with_settings
def fddb(
    annotations: Annotated[Path, typer.Option(help="Folder of FDDB-fold-NN-ellipseList.txt, or one such file.")],
    sizes: Annotated[Path, typer.Option(metavar="CSV", help="Table of image names, widths and heights.")],
    settings: Settings,
    detections: DetectionsFile = None,
    roc: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write DiscROC.txt and ContROC.txt to.")
    ] = None,
    assignment: Annotated[
        _Assignment, typer.Option(help="How detections are assigned to faces: as in the official tool, or optimally.")
    ] = _Assignment.OFFICIAL,
    iou: Annotated[float, typer.Option(help="A face is found when it is overlapped by more than this.")] = 0.5,
    rotate: Annotated[
        int,
        typer.Option(
            help="Rotation of the images in degrees, 90 or -90, counter-clockwise. --method rotates them itself."
        ),
    ] = 0,
    drop_images_without_detections: Annotated[
        bool, typer.Option(help="Leave out images without detections, and their faces, as a common port does.")
    ] = False,
    windows_pi: Annotated[bool, typer.Option(help="Use 3.14156 for pi, as some builds of the tool do.")] = False,
    method: Method = None,
    images: Images = None,
    work: Work = WORK,
    threshold: Threshold = 0.02,
    min_face: MinFace = None,
    threads: Threads = None,
    subset: Subset = None,
    save_detections: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write the detections to.")
    ] = None,
    save_as: Annotated[
        _Shape, typer.Option(help="Shapes in that file. Ellipses are inscribed in the boxes.")
    ] = _Shape.RECTANGLE,
    name: Name = None,
    json_file: Json = None,
) -> None:
    """ROC curves on FDDB."""
    source = Source(detections, method, images, work, threshold, min_face, threads, settings, turn=rotate // 90)
    upright = fddb_protocol.read_ground_truth(annotations, sizes)
    truth = upright.rotated(rotate)
    if subset:
        truth = truth.subset(_listed(subset))
    if detections:
        found = read_fddb(detections)
    else:
        found = _detected(source, truth.ellipses, _relative_name, upright.sizes)
        truth = truth.subset(found.images)
    result = fddb_protocol.evaluate(
        found,
        truth,
        assignment=assignment.value,
        least_iou=iou,
        drop_images_without_detections=drop_images_without_detections,
        pi=fddb_protocol.WINDOWS_PI if windows_pi else np.pi,
    )
    if save_detections:
        write_fddb(found.ellipses() if save_as is _Shape.ELLIPSE else found, save_detections)
    if roc:
        result.write_roc(roc)
    turned = (f"turned by {rotate} degrees",) if rotate else ()
    of = {"data": _images(annotations, subset, *turned), "assignment": assignment.value, "least IoU": iou}
    tell(result.summary(name or source.name), json_file, {**of, **source.told}, lambda: source.origin(annotations))


@app.command()
@with_verbosity
@with_settings
def pascal(
    ground_truth: Annotated[
        Path, typer.Option(metavar="FILE", help="Annotations of AFW or PASCAL faces, a .mat file.")
    ],
    settings: Settings,
    detections: DetectionsFile = None,
    iou: Annotated[float, typer.Option(help="A face is found when it is overlapped by more than this.")] = 0.5,
    correct_style: Annotated[
        bool,
        typer.Option(
            "--correct/--no-correct", help="Correct the mean deviation of the detector's boxes from the labels."
        ),
    ] = True,
    method: Method = None,
    images: Images = None,
    work: Work = WORK,
    threshold: Threshold = 0.02,
    min_face: MinFace = None,
    threads: Threads = None,
    subset: Subset = None,
    save_detections: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write the detections to.")
    ] = None,
    name: Name = None,
    json_file: Json = None,
) -> None:
    """Average precision on AFW and PASCAL faces."""
    source = Source(detections, method, images, work, threshold, min_face, threads, settings)
    truth = pascal_protocol.read_ground_truth(ground_truth)
    if subset:
        truth = truth.subset(_listed(subset))
    if detections:
        found = read_pascal(detections)
        found = pick(found, truth.boxes.keys()) if subset else found
    else:
        found = _detected(source, truth.boxes, lambda path: image_key(path.name))
        truth = truth.subset(found.images)
    result = pascal_protocol.evaluate(found, truth, correct=correct_style, least_iou=iou)
    if save_detections:
        write_pascal(found, save_detections)
    of = {"data": _images(ground_truth, subset), "least IoU": iou}
    tell(result.summary(name or source.name), json_file, {**of, **source.told}, lambda: source.origin(ground_truth))
