"""``lineament fit-box-convention``: fit the rule that derives bounding boxes from landmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from lineament import boxes as box_ops
from lineament import conventions
from lineament.cli.results import tell
from lineament.conventions import NOISE, Convention
from lineament.data.readers.coco import read_coco
from lineament.data.sample import Sample
from lineament.data.sizes import check_sizes
from lineament.errors import DataError, OptionError
from lineament.evaluate.origin import origin
from lineament.evaluate.results import Result, Scores
from lineament.schemas import FIVE, Schema, is_convertible

Array = NDArray[Any]

MEAN_BOX = "the mean box alone"


def fit_box_convention(
    data: Annotated[list[Path], typer.Option(help="Labels with boxes and landmarks: COCO keypoints JSON. Repeatable.")],
    name: Annotated[str | None, typer.Option(help="Name of the convention (default: name of the first file).")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON file to write the convention to.")] = None,
    holdout: Annotated[float, typer.Option(help="Share of the images held out for the measurement.")] = 0.2,
    box_source: Annotated[
        list[str], typer.Option(help="Use the boxes with this box_source in the labels. Repeatable.")
    ] = ["human", "detector"],  # noqa: B006 # typer copies it
    noise: Annotated[
        float, typer.Option(help="Standard deviation of a detector's landmarks, as a fraction of the box size.")
    ] = NOISE,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="JSON file to write the overlaps to.")
    ] = None,
) -> None:
    """Fit how boxes follow from landmarks.

    The result is compared with the built-in conventions. Ignored faces, masked faces and boxes of other sources are not
    used; the command prints their number.
    """
    if not 0 <= holdout < 1:
        raise OptionError(f"--holdout is a share of the images in [0, 1), found {holdout}")
    samples = [sample for path in data for sample in read_coco(path)]
    check_sizes(samples)
    schema = _schema(samples, data)
    held = np.random.default_rng(0).permutation(len(samples)) < int(holdout * len(samples))
    fitted_to, measured_on = ([s for s, h in zip(samples, held, strict=True) if h == part] for part in (False, True))
    landmarks, boxes, left_out = _faces(fitted_to, schema, box_source)
    if not len(boxes):
        raise DataError(
            f"{', '.join(map(str, data))}: expected faces with a box and all {len(schema)} landmarks to fit to, found "
            f"none: {_counted(left_out)}"
        )
    fitted = conventions.fit(landmarks, boxes, schema=schema, name=name or data[0].stem, noise=noise)
    seen = f"{len(boxes):,} faces"
    others = _faces(measured_on, schema, box_source)
    if len(others[1]):
        landmarks, boxes, _ = others
    typer.echo(f"fitted to {seen}, measured on {len(boxes):,} of {'other' if len(others[1]) else 'the same'} images")
    typer.echo(f"left out: {_counted(left_out + others[2])}")
    told = {"data": [path.name for path in data], "holdout": holdout, "box source": box_source, "noise": noise}
    tell(
        _overlaps(fitted, schema, landmarks, boxes),
        json_file,
        told,
        lambda: origin(weights=[], data=data[0], threads=None),
    )
    if out:
        fitted.write(out)


def _schema(samples: Sequence[Sample], data: Sequence[Path]) -> Schema:
    schemas = {sample.schema.name: sample.schema for sample in samples}
    if len(schemas) != 1:
        found = f"schemas {', '.join(schemas)}" if schemas else "no image"
        raise DataError(f"{', '.join(map(str, data))}: a convention is for one landmark schema; found {found}")
    return next(iter(schemas.values()))


def _faces(samples: Sequence[Sample], schema: Schema, box_source: Sequence[str]) -> tuple[Array, Array, Counter[str]]:
    """Landmarks (n, k, 2) and boxes (n, 4) that a convention can be learned from; why others were left out."""
    points, boxes = [np.empty((0, len(schema), 2))], [np.empty((0, 4))]
    left_out: Counter[str] = Counter()
    for sample in samples:
        left = np.ones(len(sample), bool)
        for reason, applies in _reasons(sample, box_source).items():
            left_out[reason] += int((left & applies).sum())
            left &= ~applies
        points.append(sample.landmarks[left])
        boxes.append(sample.boxes[left])
    return np.concatenate(points), np.concatenate(boxes), left_out


def _reasons(sample: Sample, box_source: Sequence[str]) -> dict[str, Array]:
    """(n,) whether each reason not to learn from a face applies."""
    return {
        "ignored": sample.ignore,
        "masked": np.broadcast_to(sample.attributes.get("mask", False), len(sample)).astype(bool),
        "box of another source": ~np.isin(sample.box_source, list(box_source)),
        "box of no size": box_ops.area(sample.boxes) == 0,
        "not all landmarks": np.isnan(sample.landmarks).any((1, 2)),
    }


def _counted(left_out: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count) or "none"


def _overlaps(fitted: Convention, schema: Schema, landmarks: Array, boxes: Array) -> Result:
    """Overlaps of what conventions infer with what was drawn."""
    shown = {fitted.name: fitted, MEAN_BOX: replace(fitted, pose=np.zeros_like(fitted.pose))}
    if is_convertible(schema, FIVE):
        shown |= {f"{name} (built in)": conventions.convention(name) for name in conventions.BUILT_IN}
    rows = {}
    for name, convention in shown.items():
        iou = box_ops.overlap(convention.boxes(landmarks, schema), boxes)
        above = {f"above {least}": float((iou > least).mean()) for least in (0.5, 0.7)}
        rows[name] = Scores({"faces": len(iou), "mean IoU": float(iou.mean())} | above)
    return Result("box convention", fitted.name, {"faces": len(boxes)}, tables={"overlap": rows})
