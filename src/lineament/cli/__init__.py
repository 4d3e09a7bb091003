"""The command line: one module a command. Only here does anything get printed."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import lineament
from lineament.cli import evaluate
from lineament.cli.align import align
from lineament.cli.bench import bench
from lineament.cli.calibrate import calibrate
from lineament.cli.compose import compose
from lineament.cli.convert import convert
from lineament.cli.detect import detect
from lineament.cli.evaluate_landmarks import landmarks, recall, speed
from lineament.cli.export import export
from lineament.cli.fit_box_convention import fit_box_convention
from lineament.cli.messages import messages, with_verbosity
from lineament.cli.models import models
from lineament.cli.quantise import quantise
from lineament.cli.redact import redact
from lineament.cli.report import report
from lineament.cli.search_weights import search_weights
from lineament.cli.serve import serve
from lineament.cli.train import train
from lineament.errors import LineamentError

BROKEN_PIPE = 141
"""Exit code when the reader closes the pipe, by the convention of shells."""


class _Commands(TyperGroup):
    """Commands that report an error in one line and exit with code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with messages:
                return super().invoke(ctx)
        except BrokenPipeError as error:  # the reader of our output, such as `head`, has closed the pipe
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 # or Python would complain at its end
            raise typer.Exit(BROKEN_PIPE) from error
        except (LineamentError, OSError) as error:
            typer.secho(f"lineament: {error}", fg="red", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Face detection and facial landmarks.",
)
for command in (
    detect,
    redact,
    align,
    serve,
    convert,
    models,
    bench,
    compose,
    train,
    export,
    calibrate,
    quantise,
    report,
    fit_box_convention,
    search_weights,
):
    app.command()(with_verbosity(command))
for evaluation in (landmarks, recall, speed):
    evaluate.app.command()(with_verbosity(evaluation))
app.add_typer(evaluate.app, name="evaluate")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lineament {lineament.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that no incomplete file is left
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal's encoding does not have


main = app
