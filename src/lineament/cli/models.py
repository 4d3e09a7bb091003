"""``lineament models``: list the shipped weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import lineament
from lineament.methods import METHODS
from lineament.weights import DEFAULT


def models(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON: also licence, training data, scores and SHA-256.")
    ] = False,
) -> None:
    """List the shipped weights."""
    known = [
        asdict(model) | {"kind": METHODS[model.method].kind, "default": model.name == DEFAULT}
        for model in lineament.models()
    ]
    if as_json:
        typer.echo(json.dumps(known, indent=2))
        return
    table = Table("name", "method", "kind", "landmarks", "size", "SHA-256", box=None)
    for model in known:
        name = f"{model['name']} (default)" if model["default"] else model["name"]
        size = f"{model['bytes'] / 1e6:.2f} MB"
        table.add_row(name, model["method"], model["kind"], ", ".join(model["schemas"]), size, model["sha256"][:8])
    Console().print(table)
    typer.echo("Licence, training data and scores of each: lineament models --json")
