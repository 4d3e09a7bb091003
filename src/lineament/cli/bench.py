"""``lineament bench``: which weights at which input size cost what on this machine, and find what."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import lineament
from lineament.cli.messages import messages
from lineament.cli.options import pairs
from lineament.errors import OptionError
from lineament.evaluate.bench import LANDMARKS, WIDER, Choice, choices, frontier, measure, plot, timed
from lineament.evaluate.origin import origin, with_origin
from lineament.evaluate.peers import PEERS, installed
from lineament.evaluate.results import Result, Scores, write_result
from lineament.evaluate.speed import FACE, Baseline
from lineament.images import image_paths, read_image
from lineament.methods import METHODS, DetectionMethod
from lineament.weights import describe_file, models

PHOTOS = 20  # held decoded in memory
WIDTH = 120  # of the table in a file or a pipe


def bench(
    paths: Annotated[
        list[str] | None, typer.Argument(help="Photos, folders or glob patterns (default: a portrait that ships).")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="Weights, by name or ONNX file (default: all that ship). Repeatable."),
    ] = None,
    input_size: Annotated[
        list[int] | None,
        typer.Option(min=32, help="Input size (default: those of which accuracy is known). Repeatable."),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=CMD",
            help='Another program: it reads an image path per line, answers {"ms": 12.3, "faces": 4}. Repeatable.',
        ),
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help=f"Add the other detectors that are installed, of {', '.join(PEERS)}.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Processor threads (default: all cores).")] = None,
    runtime: Annotated[str, typer.Option(help="onnx or openvino.")] = "onnx",
    device: Annotated[str, typer.Option(help="Device to run on, or auto for the fastest that starts.")] = "cpu",
    repeats: Annotated[int, typer.Option(min=1, help="Calls per photo; the median counts.")] = 5,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw accuracy against time, as png, svg or pdf.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")] = None,
) -> None:
    """Compare weights and input sizes on this machine.

    Times are measured now. Accuracy is what the weight files say of themselves: average precision on WIDER FACE and
    the error of five landmarks. A star marks the choices that no other beats in both.
    """
    photos = image_paths(paths) if paths else [FACE]
    if len(photos) > PHOTOS:
        messages.say(f"the first {PHOTOS} of {len(photos)} photos")
        photos = photos[:PHOTOS]
    images = {photo: read_image(photo) for photo in photos}
    offered = _choices(method, input_size or [])
    finders: dict[str, Callable[[Path], tuple[float, int | None]]] = {}
    used: dict[str, str] = {}
    with ExitStack() as stack:
        for choice in offered:
            settings = {} if choice.size is None else {"input_size": choice.size}
            detector = lineament.load(choice.name, runtime=runtime, device=device, threads=threads, settings=settings)
            finders[str(choice)] = timed(detector.detect, images)
            used |= detector.weights
        others = installed() if peers else {}
        if peers and not others:
            messages.say(f"--peers: none of {', '.join(PEERS)} is installed here")
        for name, command in (others | pairs(peer or [], "--peer")).items():
            if name in finders:
                raise OptionError(f"--peer {name}: weights have this name; choose another one")
            finders[name] = stack.enter_context(Baseline(command, threads)).find
        with messages.console.status(f"{len(finders)} choices on {len(photos)} photos"):
            measured = measure(finders, photos, rounds=repeats)
    known = {str(choice): choice for choice in offered}
    rows = {name: _row(known.get(name), cost) for name, cost in measured.items()}
    worth = frontier([row["ms"] or 0 for row in rows.values()], [row["AP mean"] for row in rows.values()])
    _print(rows, dict(zip(rows, worth, strict=True)))
    if plot_file:
        points = {name: (float(r["ms"] or 0), float(r["AP mean"])) for name, r in rows.items() if r["AP mean"]}
        plot(plot_file, points, [name for name, best in zip(rows, worth, strict=True) if best])
    if json_file:
        result = Result("bench", "this machine", {}, {"choices": rows}, settings={"photos": len(photos)})
        write_result(json_file, with_origin(result, origin(weights=list(used), data=None, threads=threads)))


def _choices(names: list[str] | None, sizes: list[int]) -> list[Choice]:
    shipped = {model.name: model for model in models()}
    found = []
    for name in names or shipped:
        model = shipped[name] if name in shipped else describe_file(Path(name))
        kind = METHODS[model.method]
        if isinstance(kind, DetectionMethod):
            sized = any(field.name == "input_size" for field in fields(kind.settings))
            found += [replace(choice, name=name) for choice in choices(model, sizes, sized=sized)]
        elif names:
            raise OptionError(f"{name} is a {kind.kind}, which runs behind a detector; bench compares detectors")
    return found


def _row(choice: Choice | None, cost: Scores) -> Scores:
    scores = choice.scores if choice else {}
    row: Scores = {"ms": cost["ms"], "photos/s": 1000 / (cost["ms"] or 1), "faces": cost["faces"]}
    row |= {f"AP {name.rpartition(' ')[2]}": scores.get(name) for name in WIDER}
    row["AP mean"] = choice.accuracy if choice else None
    return row | {"NME": scores.get(LANDMARKS), "MB": choice.megabytes if choice else None}


def _print(rows: dict[str, Scores], worth: dict[str, bool]) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    table = Table("", "weights, input", box=None)
    for title in next(iter(rows.values())):
        table.add_column(title, justify="right")
    for name, row in sorted(rows.items(), key=lambda item: item[1]["ms"] or 0):
        table.add_row("*" if worth[name] else "", name, *map(_cell, row.values()))
    console.print(table)
    messages.say("ms per photo; faces in all photos; AP on WIDER FACE val and NME of five landmarks in percent")


def _cell(value: float | int | None) -> str:
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)
