"""Output of commands on standard error: messages of the library, problems and progress."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

_STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}


class Messages(logging.Handler):
    """Standard error for all commands: one console, so that messages and a progress bar do not mix.

    Attributes:
        console: The console. With ``--quiet`` it shows only problems.
        latest: Shows a message that is not a warning, if the command has a line for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._log = logging.getLogger("lineament")
        self._nowhere = logging.NullHandler()  # without it Python would show warnings of other packages
        self.console, self._hidden = Console(stderr=True), ""
        self.latest: Callable[[str], None] | None = None

    def __enter__(self) -> None:
        """Start a command. Warnings of the library are shown, messages of other packages are not."""
        self.console, self._hidden, self.latest = Console(stderr=True), "", None
        self.setLevel(logging.WARNING)
        self._level = self._log.level
        self._log.addHandler(self)
        logging.getLogger().addHandler(self._nowhere)

    def __exit__(self, *error: object) -> None:
        """End the command."""
        self._log.removeHandler(self)
        self._log.setLevel(self._level)
        logging.getLogger().removeHandler(self._nowhere)

    def verbose(self) -> None:
        """Also show what the library logs about its work, unless ``--quiet`` is set."""
        if not self.console.quiet:
            self.setLevel(logging.INFO)
            self._log.setLevel(logging.INFO)

    def quiet(self) -> None:
        """Show only problems."""
        self.setLevel(logging.ERROR)
        self.console.quiet = True

    def hide(self, package: str) -> None:
        """Hide the messages of a part of the library. The command prints them itself."""
        self._hidden = package

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message of the library."""
        if self._hidden and record.name.startswith(self._hidden):
            return
        if self.latest and record.levelno < logging.WARNING and self.console.is_terminal:
            self.latest(record.getMessage())
        else:
            self.say(record.getMessage(), _STYLES.get(record.levelno, ""))

    def say(self, text: str, style: str = "") -> None:
        """Show a line."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def complain(self, text: str) -> None:
        """Show a problem, also with ``--quiet``."""
        quiet, self.console.quiet = self.console.quiet, False
        self.say(text, "red")
        self.console.quiet = quiet

    def progress(self, *columns: ProgressColumn, expand: bool = False) -> Progress:
        """A progress bar that disappears at the end. Hidden if the output is not a terminal."""
        shown = self.console.is_terminal and not self.console.quiet
        return Progress(*columns, console=self.console, transient=True, disable=not shown, expand=expand)


class Rate(ProgressColumn):
    """A column of progress bars: how many are done per second."""

    def render(self, task: Task) -> Text:  # noqa: D102
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


messages = Messages()


Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what the library logs about its work.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show results and errors only.")]


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options ``--verbose`` and ``--quiet`` to a command."""

    @wraps(command)
    def run(*, verbose: bool, quiet: bool, **given: Any) -> None:
        if quiet:
            messages.quiet()
        if verbose:
            messages.verbose()
        command(**given)

    signature = inspect.signature(command, eval_str=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    shown = [parameter.replace(kind=keyword) for parameter in signature.parameters.values()]
    shown += [
        inspect.Parameter(name, keyword, default=False, annotation=kind)
        for name, kind in (("verbose", Verbose), ("quiet", Quiet))
    ]
    run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined] # what typer reads
    return run
