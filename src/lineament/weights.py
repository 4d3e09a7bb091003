"""Weight files: those that ship with the package and your own. Nothing is ever downloaded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import Field, asdict, dataclass, field
from pathlib import Path
from typing import Any

from lineament.errors import OptionError, WeightsError
from lineament.files import write_whole
from lineament.runtime import read_metadata

FOLDER = Path(__file__).parent / "_weights"
MANIFEST = "manifest.json"
DEFAULT = "kpnet"  # the weights that `load` and `detect` use by default


@dataclass(frozen=True)
class Model:
    """One shipped weight file, as ``lineament.models()`` lists it.

    Attributes:
        name: The name for ``lineament.load``.
        method: The method it belongs to.
        schema: The name of its landmark schema; the default one if it has several.
        file: The name of the ONNX file.
        bytes: The size of the file.
        sha256: The SHA-256 of the file.
        licence: What its training data allow, in a sentence.
        training_data: What it was trained on.
        recipe: The recipe file and the command that made it.
        version: The version of the package that exported it.
        scores: Measured scores by test data, score and setting. For shipped weights they are those of
            ``docs/results``, for other files those given to ``lineament export``.
        schemas: The names of all its landmark schemas, for ``lineament.load(..., landmarks=...)``.
    """

    name: str
    method: str
    schema: str
    file: str
    bytes: int
    sha256: str
    licence: str
    training_data: str
    recipe: str
    version: str
    scores: dict[str, float] = field(default_factory=dict)
    schemas: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "schemas", tuple(self.schemas) or (self.schema,))


def models() -> list[Model]:
    """List the weights that ship with this version, by file name."""
    return _listed(FOLDER)


def describe_file(path: Path) -> Model:
    """Describe a weight file from its metadata, its size and its digest.

    Raises:
        WeightsError: lineament did not export the file.
    """
    content = path.read_bytes()
    metadata = read_metadata(content)
    wanted = ("name", "method", "schema", "licence", "training_data", "recipe", "version", "scores")
    missing = [name for name in wanted if name not in metadata]
    if missing:
        raise WeightsError(f"{path} does not say its {', '.join(missing)}; export it with `lineament export`")
    said = {name: metadata[name] for name in wanted}
    scores = json.loads(said.pop("scores"))
    schemas = parse_metadata(metadata)[1].get("schemas", ())
    digest = hashlib.sha256(content).hexdigest()
    return Model(**said, file=path.name, bytes=len(content), sha256=digest, scores=scores, schemas=schemas)


def register(path: Path) -> None:
    """Add a weight file to the manifest of its folder, which describes it and holds its digest."""
    others = [model for model in _listed(path.parent) if model.file != path.name]
    entries = sorted((*others, describe_file(path)), key=lambda model: model.file)
    write_whole(path.parent / MANIFEST, json.dumps([asdict(entry) for entry in entries], indent=1) + "\n")


def is_weights(name: str) -> bool:
    """Whether a name is that of shipped weights or ends in ``.onnx``."""
    return name.endswith(".onnx") or name in {model.name for model in models()}


def read_weights(name: str | Path) -> bytes:
    """Read a weight file. If the manifest of its folder lists it, its SHA-256 is checked.

    Args:
        name: A name that ``models`` lists, or the path of an ONNX file that lineament exported.

    Raises:
        OptionError: Neither the name of shipped weights nor a file.
        WeightsError: The file cannot be read, or its digest is wrong.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise OptionError(f"weights are a name or the path of an ONNX file, found {name!r:.80}")
    shipped = {model.name: model for model in models()}
    path = FOLDER / shipped[str(name)].file if str(name) in shipped else Path(name)
    if str(name) not in shipped and not path.is_file():
        raise OptionError(
            f"unknown method or weight file {str(name)!r}; shipped are: {', '.join(shipped)}; "
            "anything else must be the path of an ONNX file"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror}; install the package again") from error
    found = hashlib.sha256(content).hexdigest()
    for model in _listed(path.parent):
        if model.file == path.name and model.sha256 != found:
            raise WeightsError(
                f"{path} is damaged: its SHA-256 is {found[:12]}..., {model.sha256[:12]}... was expected; "
                "get the file again"
            )
    return content


def _listed(folder: Path) -> list[Model]:
    """The entries of a folder's manifest; an empty list without a manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        return []
    try:
        return [Model(**entry) for entry in json.loads(path.read_bytes())]
    except (ValueError, TypeError) as error:  # no JSON, or JSON of something else
        raise WeightsError(
            f"{path} is not a list of lineament's weights, which checks the files beside it ({error}); "
            "keep weights in a folder of their own"
        ) from error


_OF_WEIGHTS = "of_weights"


def of_weights(default: Any) -> Any:
    """A field of a method's settings that describes its weights. Only training changes it."""
    return field(default=default, metadata={_OF_WEIGHTS: True})


def belongs_to_weights(setting: Field[Any]) -> bool:
    """Whether a setting is one of `of_weights`."""
    return _OF_WEIGHTS in setting.metadata


def parse_metadata(metadata: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Read the method and its settings from the metadata of a weight file.

    Raises:
        WeightsError: lineament did not export the file.
    """
    try:
        return metadata["method"], json.loads(metadata["config"])
    except (KeyError, json.JSONDecodeError) as error:
        raise WeightsError("this ONNX file was not exported by lineament: it does not name its method") from error
