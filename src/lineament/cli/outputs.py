"""Folders that commands write to: where the files of each image go, and that nothing is overwritten."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import lineament
from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.files import whole
from lineament.schemas import FIVE, Schema, is_convertible

Array = NDArray[Any]

STDIN = Path("-")
ANNOTATED = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".avif"}
)
"""Suffixes that annotated images keep. Others are written as PNG."""
NAME_BYTES = 255  # of a file's name, in all common file systems
CROP = re.compile(r"(.+)-\d+\.png")


class Targets:
    """A folder with files made of each image or video, below the part of its path that not all of them share.

    Attributes:
        option: The option that names the folder, for messages.
        folder: The folder.
    """

    option = "--out"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._common = Path()

    def plan(self, files: Iterable[Path]) -> None:
        """Decide where the files of each image go, and make the folder.

        Args:
            files: The images. They are iterated over several times and not kept.

        Raises:
            OptionError: The folder cannot be written, an image would be overwritten, two images would be written to one
                file, or a name is too long.
        """
        folders = (folder for folder, _ in groupby(os.path.dirname(_place(file)) for file in files))
        self._common = Path(reduce(lambda common, folder: os.path.commonpath([common, folder]), folders))
        within = os.path.realpath(self.folder) if self.folder.exists() else ""
        twins, originals = dict[Path, Path](), dict[Path | None, str]()
        for file in files:
            target = self[file]
            if len(os.fsencode(self.longest(target.name))) > NAME_BYTES:
                raise OptionError(
                    f"{self.option}: {file} would be written as a name of over {NAME_BYTES} bytes; rename it"
                )
            if target.name != file.name and os.path.lexists(file.with_name(target.name)):
                twins[target] = file
            if within and (real := os.path.realpath(file)).startswith(within):
                originals[self.image_of(Path(real))] = real
        for file in files if twins or originals else ():
            target = self[file]
            if (twin := twins.get(target, file)) != file:
                raise OptionError(f"{self.option}: {twin} and {file} would both be written to {target}; rename one")
            if original := originals.get(target.resolve()):
                raise OptionError(f"{self.option} {self.folder} would overwrite {original}; choose another folder")
        check_writable(self.folder, self.option)

    def target(self, path: Path) -> Path:
        """The file, or the prefix of the files, for an image with this path in the folder."""
        return path

    def __getitem__(self, file: Path) -> Path:
        """The target of a planned image."""
        return self.target(self.folder / _place(file).relative_to(self._common))

    def __contains__(self, file: Path) -> bool:
        """Whether an image has a target: it lies below what the planned ones have in common."""
        return _place(file).is_relative_to(self._common)

    def longest(self, name: str) -> str:
        """The longest file name that a target with this name leads to."""
        return name

    def image_of(self, path: Path) -> Path | None:
        """The target that writes a file to this path, if any can."""
        return path


def _place(file: Path) -> Path:
    """The absolute path of an image."""
    return Path(os.path.abspath("stdin" if file == STDIN else file))


class Output(Targets, ABC):
    """A kind of files that ``lineament detect`` writes for each image into a folder."""

    @abstractmethod
    def write(self, file: Path, image: Array, faces: Faces) -> str:
        """Write the files of an image. Returns what cannot be written and why, or an empty string."""

    @abstractmethod
    def has(self, file: Path, faces: int) -> bool:
        """Whether an earlier run wrote the files of an image with this number of faces."""


class AnnotatedImages(Output):
    """The images with their faces drawn in."""

    def target(self, path: Path) -> Path:  # noqa: D102
        return path if path.suffix.lower() in ANNOTATED else path.with_name(path.name + ".png")

    def write(self, file: Path, image: Array, faces: Faces) -> str:  # noqa: D102
        return _write(lineament.draw(image, faces), self[file])

    def has(self, file: Path, faces: int) -> bool:  # noqa: D102
        return self[file].exists()


class FaceCrops(Output):
    """A PNG file of each face, named after the image and the face's index in the JSON: ``a.jpg-0.png``.

    Args:
        folder: The folder.
        size: Side of an aligned crop in pixels; ``None`` for plain crops, cut along the bounding box.
    """

    option = "--crops"

    def __init__(self, folder: Path, size: int | None) -> None:
        super().__init__(folder)
        self._size = size

    def longest(self, name: str) -> str:  # noqa: D102
        return f"{name}-9999.png"

    def image_of(self, path: Path) -> Path | None:  # noqa: D102
        found = CROP.fullmatch(path.name)
        return path.with_name(found[1]) if found else None

    def write(self, file: Path, image: Array, faces: Faces) -> str:  # noqa: D102
        crops = (
            plain_crops(image, faces) if self._size is None else lineament.align(image, faces, size=self._size).crops
        )
        problems = [_write(Image.fromarray(crop), self.crop(file, i)) for i, crop in enumerate(crops)]
        return next(filter(None, problems), "")

    def has(self, file: Path, faces: int) -> bool:  # noqa: D102
        return all(self.crop(file, i).exists() for i in range(faces))

    def crop(self, file: Path, index: int) -> Path:
        """The file of a crop."""
        target = self[file]
        return target.with_name(f"{target.name}-{index}.png")


def check_alignable(schema: Schema, otherwise: str = "--no-align") -> None:
    """Raise `OptionError` if faces with these landmarks cannot be aligned.

    Args:
        schema: The schema of the landmarks.
        otherwise: For the message: what cuts plain crops, in the words of the command.
    """
    if not is_convertible(schema, FIVE):
        raise OptionError(f"landmarks of schema {schema.name!r} cannot be aligned; {otherwise} cuts plain crops")


def plain_crops(image: Array, faces: Faces) -> list[Array]:
    """Of each face the pixels of its bounding box that lie in the image: at least one, the nearest."""
    height, width = image.shape[:2]
    first = np.clip(np.floor(faces.boxes[:, :2]), 0, [width - 1, height - 1]).astype(int)
    last = np.clip(np.ceil(faces.boxes[:, 2:]), first + 1, [width, height]).astype(int)
    return [image[y1:y2, x1:x2] for (x1, y1), (x2, y2) in zip(first, last, strict=True)]


def check_writable(folder: Path, option: str) -> None:
    """Make a folder. Raises `OptionError` if files cannot be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OptionError(f"{option}: cannot write into {folder}: {error.strerror}; choose another folder") from error


def _write(image: Image.Image, target: Path) -> str:
    """Write an image. Returns the reason if its format cannot hold it."""
    try:
        with whole(target) as part:
            image.save(part, quality=92)
    except (OSError, ValueError) as error:  # encoders raise both
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # the others would fail, too
        return f"{target}: an image of {image.width}x{image.height} cannot be written: {error}"
    return ""
