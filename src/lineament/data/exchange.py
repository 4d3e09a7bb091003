"""Formats of faces that people have, as samples and back. ``lineament convert`` goes from any to any."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lineament.data.readers.coco import read_coco, read_coco_results, write_coco, write_coco_results
from lineament.data.readers.label_studio import LOCAL, read_label_studio, write_label_studio
from lineament.data.readers.yolo import read_yolo, write_yolo
from lineament.data.sample import Sample
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.files import write_whole
from lineament.images import read_header
from lineament.records import Record, read_records
from lineament.schemas import FIVE, Schema


@dataclass(frozen=True)
class Around:
    """What belongs to a file of faces.

    Attributes:
        images: Folder of the images. ``None``: the folder of the file.
        index: The COCO file with the images that COCO results name by their ids.
        schema: The landmarks of a file that does not name them.
        prefix: What Label Studio has before the names of images.
    """

    images: Path | None = None
    index: Path | None = None
    schema: Schema | None = None
    prefix: str = LOCAL

    def known(self, file: Path) -> Path:
        """The folder of the images."""
        return self.images or file.parent

    @property
    def needed(self) -> Path:
        """The index.

        Raises:
            OptionError: There is none.
        """
        if self.index is None:
            raise OptionError("COCO results name images by ids: give --index, the COCO file that has them")
        return self.index


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        title: What it is.
        read: Reads the samples of a file or folder.
        write: Writes samples into a file or folder.
    """

    title: str
    read: Callable[[Path, Around], Iterable[Sample]]
    write: Callable[[Path, Sequence[Sample], Around], None]


def to_sample(record: Record) -> Sample:
    """A record of ``lineament detect --json``, with the attributes ``score`` and ``landmark_scores``."""
    faces = record.faces
    return Sample.of(
        record.path,
        faces.boxes,
        faces.landmarks,
        size=faces.image_size,
        box_source="detector",
        landmark_source="detector",
        schema=faces.schema,
        attributes={"score": faces.scores, "landmark_scores": faces.landmark_scores},
    )


def to_faces(sample: Sample) -> Faces:
    """The faces of a sample that are not ignored. Those without the attribute ``score`` have score 1."""
    counts = ~sample.ignore
    scores = np.broadcast_to(np.asarray(sample.attributes.get("score", 1.0), float), len(sample))[counts]
    sure = sample.attributes.get("landmark_scores")
    return Faces.of(
        sample.boxes[counts],
        scores,
        sample.landmarks[counts],
        landmark_scores=None if sure is None else sure[counts],
        image_size=(sample.width, sample.height),
        schema=sample.schema,
    )


def sized(sample: Sample) -> Sample:
    """The sample with the size of its image, from the image if the labels do not give it.

    Raises:
        ImageError: The image cannot be read.
    """
    if sample.width and sample.height:
        return sample
    width, height = read_header(sample.path).size
    return replace(sample, width=width, height=height)


def at_least(sample: Sample, threshold: float) -> Sample:
    """The sample without faces whose attribute ``score`` is lower."""
    if "score" not in sample.attributes:
        return sample
    kept = sample.attributes["score"] >= threshold
    own = ("boxes", "landmarks", "visibility", "ignore", "box_source", "landmark_source")
    attributes = {name: values[kept] for name, values in sample.attributes.items()}
    return replace(sample, attributes=attributes, **{name: getattr(sample, name)[kept] for name in own})


def _read_lines(path: Path, around: Around) -> Iterable[Sample]:
    records = [record for record in read_records(path, around.schema) if not record.error]
    return [to_sample(record) for record in records]


def _write_lines(path: Path, samples: Sequence[Sample], around: Around) -> None:
    records = ({"path": str(s.path), "method": s.source or "labels"} | to_faces(sized(s)).to_dict() for s in samples)
    write_whole(path, "".join(json.dumps(record) + "\n" for record in records))


def _flat(sample: Sample) -> Sample:
    """Without attributes of landmarks, which COCO's labels do not have."""
    return replace(sample, attributes={name: a for name, a in sample.attributes.items() if a.ndim == 1})


FORMATS = {
    "jsonl": Format("JSON lines of `lineament detect --json`", _read_lines, _write_lines),
    "coco": Format(
        "COCO keypoints JSON, also for CVAT",
        lambda path, around: read_coco(path, around.images, schema=around.schema),
        lambda path, samples, around: write_coco(path, [_flat(sample) for sample in samples], images=around.images),
    ),
    "coco-results": Format(
        "COCO results JSON, with scores",
        lambda path, around: read_coco_results(path, around.needed, around.images, schema=around.schema),
        lambda path, samples, around: write_coco_results(path, samples, around.needed, around.images),
    ),
    "label-studio": Format(
        "Label Studio's JSON: its export, and predictions to import",
        lambda path, around: read_label_studio(path, around.known(path), schema=around.schema or FIVE),
        lambda path, samples, around: write_label_studio(
            path, map(sized, samples), images=around.known(path), prefix=around.prefix
        ),
    ),
    "yolo": Format(
        "folder of YOLO's text files, with key points",
        lambda path, around: read_yolo(path, around.known(path), schema=around.schema or FIVE),
        lambda path, samples, around: write_yolo(path, [sized(s) for s in samples], images=around.known(path)),
    ),
}
"""By name."""


def guess(path: Path) -> str:
    """The format that the name of a file or folder stands for; an empty string if it may be several."""
    return "jsonl" if path.suffix == ".jsonl" else "" if path.suffix else "yolo"
