"""``lineament compose``: compose scenes of many faces from labelled faces and photos without faces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn

import lineament
from lineament.cli.messages import messages
from lineament.cli.outputs import check_writable
from lineament.data.readers.coco import read_coco, write_coco
from lineament.data.readers.folder import read_faceless
from lineament.data.sample import Sample
from lineament.errors import DataError, MissingExtraError, OptionError
from lineament.schemas import Schema, schema
from lineament.train.samples import in_one_of

INDEX = "scenes.json"
SURE = 0.7
"""Lowest confidence score of a face in a background."""
NAMED = 3
"""Number of backgrounds with faces that a warning names."""


def compose(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for scenes.json, images/ and masks/.")],
    data: Annotated[list[Path], typer.Option(help="Labelled faces: COCO keypoints JSON. Repeatable.")],
    backgrounds: Annotated[list[Path], typer.Option(help="Folder of photos without faces. Repeatable.")],
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 1000,
    size: Annotated[int, typer.Option(min=64, help="Side of a scene in pixels.")] = 640,
    least: Annotated[int, typer.Option(min=1, help="Smallest number of faces in a scene.")] = 1,
    most: Annotated[int, typer.Option(min=1, help="Largest number of faces in a scene.")] = 10,
    landmarks: Annotated[str, typer.Option(metavar="SCHEMA", help="Landmarks of the scenes, such as 5 or 68.")] = "5",
    min_side: Annotated[float, typer.Option(help="Side of the smallest face in pixels.")] = 16,
    max_side: Annotated[
        float, typer.Option(help="Side of the largest face, as a share of the side of the scene.")
    ] = 0.6,
    covered: Annotated[float, typer.Option(help="Largest share of a face that other heads may cover.")] = 0.35,
    occluders: Annotated[float, typer.Option(min=0, max=1, help="Share of the faces with an object in front.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same files.")] = 0,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Threads that compose.")] = 2,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Leave out backgrounds in which a face is detected.")
    ] = True,
) -> None:
    """Compose scenes of many faces, with labels.

    ``lineament train`` and ``evaluate`` read scenes.json. A mask has the index of the face of each pixel.
    """
    try:
        from lineament.data.augment import Occlusion
        from lineament.data.cache import Photos
        from lineament.data.scenes import Arrangement, SceneComposer, write_scenes
    except ImportError as error:
        raise MissingExtraError.of("train", f"this command needs {error.name}") from error
    arrangement = Arrangement(faces=(least, most), min_side=min_side, max_side=max_side, covered=covered)
    arrangement.check_room(size)
    check_writable(out, "DIR")
    wanted = schema(landmarks)
    samples = [sample for path in data for sample in _labelled(path, wanted)]
    behind = [sample for folder in backgrounds for sample in read_faceless(folder, wanted)]
    samples += _without_faces(behind) if check else behind
    with TemporaryDirectory(prefix=".photos-", dir=out) as cache:
        composer = SceneComposer(Photos.build(samples, Path(cache)), None, arrangement=arrangement)
        messages.say(f"{len(composer)} faces can be cut out, {len(samples)} photos were read")
        occlusion = Occlusion(probability=occluders) if occluders else None
        scenes = write_scenes(composer, out, count, size=size, seed=seed, occlusion=occlusion, jobs=jobs)
        with messages.progress(*_columns()) as progress:
            made = list(progress.track(scenes, total=count, description="scenes"))
    samples = [sample for sample, _ in made]
    write_coco(out / INDEX, samples, description=f"scenes composed by lineament {lineament.__version__}, seed {seed}")
    crowded = [missing for _, missing in made if missing]
    if crowded:
        messages.say(
            f"{len(crowded)} of {count} scenes had no room for {sum(crowded)} more faces that were wanted there; fewer "
            "faces, smaller ones or larger scenes have",
            "yellow",
        )
    typer.echo(f"{sum(map(len, samples))} faces in {count} scenes: {out / INDEX}")


def _labelled(path: Path, wanted: Schema) -> list[Sample]:
    """The photos of a file, with landmarks of a schema.

    Raises:
        DataError: There are no photos, or no face has all landmarks.
    """
    samples = [in_one_of([wanted], sample, str(path)) for sample in read_coco(path)]
    if not any(((sample.visibility > 0).all(axis=1) & ~sample.ignore).any() for sample in samples):
        faces = sum(map(len, samples))
        raise DataError(
            f"{path}: none of {faces} faces has all {len(wanted)} landmarks of schema {wanted.name!r}, which are "
            "what scenes are labelled with; name a file that has them, or another schema with --landmarks"
        )
    return samples


def _without_faces(samples: Sequence[Sample]) -> list[Sample]:
    """The photos in which our own detector detects no face. A warning has the number of the others.

    Raises:
        OptionError: It detects a face in all of them.
    """
    detector = lineament.load()
    kept: list[Sample] = []
    seen: list[Sample] = []
    with messages.progress(*_columns()) as progress:
        for sample in progress.track(samples, description="backgrounds"):
            found = detector.detect(sample.path, threshold=SURE)
            (seen if len(found) else kept).append(sample)
    if seen:
        names = ", ".join(str(sample.path) for sample in seen[:NAMED])
        more = f" and {len(seen) - NAMED} more" if len(seen) > NAMED else ""
        messages.say(f"{len(seen)} of {len(samples)} backgrounds show a face and are left out: {names}{more}", "yellow")
    if not kept:
        raise OptionError("all backgrounds show a face: name a folder of photos without, or see --no-check")
    return kept


def _columns() -> tuple[ProgressColumn, ...]:
    return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
