"""The weights that ship, and any file like them. Nothing is ever fetched: what is not on this disk is an error."""

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
DEFAULT = "kpnet"  # the weights that are used where none are named


@dataclass(frozen=True)
class Model:
    """One shipped weight file, as ``lineament.models()`` lists it.

    Attributes:
        name: what ``lineament.load`` calls it.
        method: the method it belongs to.
        schema: name of its landmark schema, the default one where it has several.
        schemas: names of all its landmark schemas, for ``lineament.load(..., landmarks=...)``.
        file: name of the ONNX file. bytes: its size. sha256: its digest.
        licence: what its training data allow, in a sentence.
        training_data: what it was trained on.
        scores: figures by test data, score and setting. Of weights that ship they are those of ``docs/results``; of
            other files what they were told at their export.
        recipe: the recipe file and the command that made it.
        version: the package's version that exported it.
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
    """The weights that ship with this version, by file name."""
    return _listed(FOLDER)


def describe_file(path: Path) -> Model:
    """What a weight file says about itself, with its size and digest.

    Raises:
        WeightsError: the file is not one of ours.
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
    """List a weight file in the manifest of its folder, so that it can be known and checked without being loaded."""
    others = [model for model in _listed(path.parent) if model.file != path.name]
    entries = sorted((*others, describe_file(path)), key=lambda model: model.file)
    write_whole(path.parent / MANIFEST, json.dumps([asdict(entry) for entry in entries], indent=1) + "\n")


def is_weights(name: str) -> bool:
    """Whether a name is that of shipped weights, or ends as that of an ONNX file does."""
    return name.endswith(".onnx") or name in {model.name for model in models()}


def read_weights(name: str | Path) -> bytes:
    """A weight file's content, checked against the SHA-256 in the manifest of its folder, if it is listed there.

    Args:
        name: a name that ``models`` lists, or the path of an ONNX file that this library exported.

    Raises:
        OptionError: neither a shipped name nor a file.
        WeightsError: the content is not what its digest says.
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
    """The entries of a folder's manifest; none where there is no manifest."""
    path = folder / MANIFEST
    if not path.is_file():
        return []
    try:
        return [Model(**entry) for entry in json.loads(path.read_bytes())]
    except (ValueError, TypeError) as error:  # no JSON, or JSON of something else
        raise WeightsError(
            f"{path} is no list of lineament's weights, by which the files beside it are checked ({error}); "
            "keep weights in a folder of their own"
        ) from error


_OF_WEIGHTS = "of_weights"


def of_weights(default: Any) -> Any:
    """A field of a method's settings that tells what its weights are: only a training changes it."""
    return field(default=default, metadata={_OF_WEIGHTS: True})


def belongs_to_weights(setting: Field[Any]) -> bool:
    """Whether a setting is one of `of_weights`."""
    return _OF_WEIGHTS in setting.metadata


def parse_metadata(metadata: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """The method and the method's settings that a weight file names.

    Raises:
        WeightsError: the file is not one of ours.
    """
    try:
        return metadata["method"], json.loads(metadata["config"])
    except (KeyError, json.JSONDecodeError) as error:
        raise WeightsError("this ONNX file was not exported by lineament: it does not name its method") from error
