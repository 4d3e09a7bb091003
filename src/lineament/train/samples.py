"""The labelled photos of a recipe."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lineament.data.readers.coco import read_coco
from lineament.data.readers.folder import read_faceless
from lineament.data.sample import Sample
from lineament.errors import DataError
from lineament.schemas import Schema, convert, is_convertible, least_of_parts, schema
from lineament.train.recipe import Recipe

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """The photos of training or validation.

    Attributes:
        samples: One per photo, with landmarks of the requested schemas.
        lists: For each index file or folder, the numbers of photos and faces, and of boxes without an area, which are
            not used.
        sources: Number of photos of each data set.
    """

    samples: list[Sample]
    lists: dict[str, dict[str, int]]
    sources: dict[str, int]

    def digest(self, settings: object, labels: Sequence[str]) -> str:
        """A digest of settings, and of the photos' paths and labels: of everything that decides a set cut from them.

        Args:
            settings: Plain values or dataclasses of these.
            labels: Names of the arrays of a `Sample` that matter.
        """
        digest = hashlib.sha256(repr(settings).encode())
        for sample in self.samples:
            digest.update(str(sample.path).encode())
            for name in labels:
                digest.update(np.ascontiguousarray(getattr(sample, name)).data)
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The counts as plain values, for the metadata of a weight file."""
        return {"lists": self.lists, "sources": self.sources}


def read_split(data: Path, recipe: Recipe, split: str, schemas: Sequence[str]) -> Split:
    """The photos of a recipe for training or for validation.

    Landmarks of other schemas are converted to the first requested schema that they have a map to.

    Args:
        data: Folder of the recipe's index files.
        recipe: The recipe.
        split: "train", with the backgrounds, or "val", with the photos that training lists set apart.
        schemas: Names of the landmark schemas to learn.

    Raises:
        DataError: An index file or folder does not exist or cannot be read, landmarks cannot be converted to any of
            these schemas, or no photo is one of those to set apart.
    """
    wanted = [schema(name) for name in schemas]
    _check_there(data, recipe, split)
    names = getattr(recipe, split)
    parts = {name: [in_one_of(wanted, s, name) for s in read_coco(data / name)] for name in names}
    if split == "train":
        parts = {name: [s for s in samples if not _is_apart(s, recipe)] for name, samples in parts.items()}
    elif recipe.apart:
        lent = {name: [s for s in read_coco(data / name) if _is_apart(s, recipe)] for name in recipe.train}
        if lent and not any(lent.values()):
            raise DataError(
                f"no photo of {', '.join(lent)} has a name that begins with {' or '.join(recipe.apart)}: apart names "
                "photos to set apart for validation; without any: --set 'apart=[]'"
            )
        lent = {name: samples for name, samples in lent.items() if samples and name not in names}
        parts |= {name: [in_one_of(wanted, s, name) for s in samples] for name, samples in lent.items()}
        names += tuple(lent)
    named = [sample for name in names for sample in parts[name]]
    if split == "train":
        faceless = {name: read_faceless(data / name, wanted[0]) for name in recipe.backgrounds}
        parts |= faceless
        named += [sample for samples in faceless.values() for sample in samples]
    lists = {
        name: {"photos": len(samples), "faces": _faces(samples), "empty": _empty(samples)}
        for name, samples in parts.items()
    }
    for name, counts in lists.items():
        if counts["empty"]:
            _log.warning("%s: %d boxes have no area and are left out", name, counts["empty"])
    return Split(
        samples=named,
        lists=lists,
        sources=dict(Counter(sample.source for samples in parts.values() for sample in samples)),
    )


def _is_apart(sample: Sample, recipe: Recipe) -> bool:
    return sample.path.name.startswith(recipe.apart)


def _check_there(data: Path, recipe: Recipe, split: str) -> None:
    """Raise `DataError` if a list or a folder of backgrounds is not in the data folder."""
    for name in getattr(recipe, split):
        if not (data / name).is_file():
            raise DataError(
                f"{data / name}: no such file; the recipe's {split!r} names it. Name your own labels: "
                f"--{split} FILE, a COCO keypoints JSON below {data}"
            )
    for name in recipe.backgrounds if split == "train" else ():
        if not (data / name).is_dir():
            raise DataError(
                f"{data / name}: no such folder; the recipe's 'backgrounds' names it, for photos without faces. Put "
                "some there, or train without: --set 'backgrounds=[]'"
            )


def check_learnable(samples: Sequence[Sample], recipe: Recipe, split: str, stage: str, *, landmarks: bool) -> None:
    """Raise `DataError` if there are no faces to learn from, or none with landmarks if those are learned."""
    marked = sum(int(((s.visibility > 0).all(axis=1) & s.learnable).sum()) for s in samples)
    if not _faces(samples) or (landmarks and not marked):
        lacks = "no face" if not _faces(samples) else f"no face with all its landmarks, from which {stage} learns"
        raise DataError(f"the {split} data of {stage} ({', '.join(getattr(recipe, split))}) have {lacks}")


def _faces(samples: Sequence[Sample]) -> int:
    return sum(int(s.learnable.sum()) for s in samples)


def _empty(samples: Sequence[Sample]) -> int:
    return sum(int((~s.learnable & ~s.ignore).sum()) for s in samples)


def in_one_of(schemas: Sequence[Schema], sample: Sample, name: str) -> Sample:
    """The sample with its landmarks in one of the schemas.

    Args:
        schemas: The schemas.
        sample: The sample.
        name: Its name, for messages.

    Raises:
        DataError: Its landmarks cannot be converted to any of the schemas.
    """
    if sample.schema in schemas:
        return sample
    target = next((s for s in schemas if is_convertible(sample.schema, s)), None)
    if target is None:
        wanted = " or ".join(repr(s.name) for s in schemas)
        raise DataError(f"{name} has landmarks of schema {sample.schema.name!r}, which cannot become those of {wanted}")
    return replace(
        sample,
        schema=target,
        landmarks=convert(sample.landmarks, sample.schema, target),
        visibility=least_of_parts(sample.visibility, sample.schema, target),
    )
