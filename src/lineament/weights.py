"""The weights that ship, and any file like them. Nothing is ever fetched: what is not on this disk is an error."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lineament.errors import OptionError, WeightsError
from lineament.files import write_whole
from lineament.runtime import read_metadata

FOLDER = Path(__file__).parent / "_weights"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Model:
    """One shipped weight file, as ``lineament.models()`` lists it.

    Attributes:
        name: what ``lineament.load`` calls it.
        method: the method it belongs to.
        schema: name of its landmark schema.
        file: name of the ONNX file. bytes: its size. sha256: its digest.
        licence: what its training data allow, in a sentence.
        training_data: what it was trained on.
        scores: figures by the name of protocol and data.
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


def models() -> list[Model]:
    """The weights that ship with this version, the default one first."""
    return [Model(**entry) for entry in json.loads((FOLDER / MANIFEST).read_text())]


def describe_file(path: Path) -> Model:
    """What a weight file says about itself, with its size and digest.

    Raises:
        WeightsError: the file is not one of ours.
    """
    content = path.read_bytes()
    said = read_metadata(content)
    parse_metadata(said)
    plain = {name: said[name] for name in ("name", "method", "schema", "licence", "training_data", "recipe", "version")}
    digest = hashlib.sha256(content).hexdigest()
    return Model(**plain, file=path.name, bytes=len(content), sha256=digest, scores=json.loads(said["scores"]))


def write_manifest(folder: Path = FOLDER) -> None:
    """List a folder's weight files in its manifest, so that nobody has to open them to know what they are."""
    found = [asdict(describe_file(path)) for path in sorted(folder.glob("*.onnx"))]
    write_whole(folder / MANIFEST, json.dumps(found, indent=1) + "\n")


def read_weights(name: str | Path) -> bytes:
    """A weight file's content, checked against its SHA-256.

    Args:
        name: a name that ``models`` lists, or the path of an ONNX file that this library exported; with a
            ``<file>.sha256`` beside it, that digest is checked.

    Raises:
        OptionError: neither a shipped name nor a file.
        WeightsError: the content is not what its digest says.
    """
    shipped = {model.name: model for model in models()}
    if str(name) in shipped:
        model = shipped[str(name)]
        path, digest = FOLDER / model.file, model.sha256
    else:
        path = Path(name)
        if not path.is_file():
            raise OptionError(
                f"unknown method or weight file {str(name)!r}; shipped are: {', '.join(shipped)}; "
                "anything else must be the path of an ONNX file"
            )
        beside = path.with_name(path.name + ".sha256")
        digest = beside.read_text().split()[0] if beside.is_file() else ""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror}; install the package again") from error
    found = hashlib.sha256(content).hexdigest()
    if digest and found != digest:
        raise WeightsError(
            f"{path} is damaged: its SHA-256 is {found[:12]}..., {digest[:12]}... was expected; get the file again"
        )
    return content


def parse_metadata(metadata: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """The method and the method's settings that a weight file names.

    Raises:
        WeightsError: the file is not one of ours.
    """
    try:
        return metadata["method"], json.loads(metadata["config"])
    except (KeyError, json.JSONDecodeError) as error:
        raise WeightsError("this ONNX file was not exported by lineament: it does not name its method") from error
