"""Mutation score: how many small faults in the core modules the tests notice.

    python benchmarks/mutation.py                       # every room of mutation.toml, as `make mutation` does
    python benchmarks/mutation.py --sample 40 boxes     # forty mutants of boxes

A mutant is the code with one fault in it: another operator, number or default; an argument, a condition or a call left
out. The operators are mutmut's and two of our own. A room's mutants are drawn at random with a seed. Each is written
into a temporary copy of the tree, where the tests of its file run until the first one fails. The results go to
docs/results/data/mutation.json, and the table of docs/testing.md is written from them.

mutmut's own runner has one test suite for the whole tree and no sample. The runner here forks a child for each mutant
from a process that has imported the heavy libraries once.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import importlib
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kept
import libcst as cst
import libcst.matchers as m
import pytest
import tables
from kept import ROOT
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import mutators

from lineament.evaluate.origin import origin
from lineament.evaluate.results import Result
from lineament.files import write_whole

SETTINGS = Path(__file__).with_suffix(".toml")
PAGE = ROOT / "docs/testing.md"
HEAVY = ("numpy", "PIL.Image", "hypothesis", "scipy.optimize", "onnxruntime", "onnx", "cv2", "torch", "accelerate")
MEMORY = 12 << 30  # bytes of address space for one mutant: a fault in a size must not take the machine along

_log = logging.getLogger("mutation")


# What is mutated


def call_left_out(node: cst.SimpleStatementLine) -> Iterator[cst.SimpleStatementLine]:
    """Replace a statement that only calls or raises by nothing."""
    if m.matches(node, m.SimpleStatementLine(body=[m.Expr(m.Call()) | m.Raise()])):
        yield node.with_changes(body=[cst.Pass()])


def flag_negated(node: cst.If) -> Iterator[cst.If]:
    """Negate ``if flag``. Comparisons have their own mutants."""
    if not m.matches(node.test, m.Comparison() | m.BooleanOperation() | m.UnaryOperation()):
        flag = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), flag))


def text_changed(node: cst.BaseString) -> Iterator[cst.BaseString]:
    """One mutant per text, where mutmut has three."""
    yield from list(mutators.operator_string(node))[:1]


OPERATORS = [
    *(pair for pair in mutators.mutation_operators if pair[1] is not mutators.operator_string),
    (cst.BaseString, text_changed),
    (cst.SimpleStatementLine, call_left_out),
    (cst.If, flag_negated),
]

_LOGS = m.Call(func=m.Attribute(value=m.Name("_log") | m.Name("logger") | m.Name("logging") | m.Name("warnings")))
_TEXT = m.SimpleString() | m.ConcatenatedString()
_NUMBER = m.Integer() | m.Float() | m.UnaryOperation(expression=m.Integer() | m.Float())
_CHOICE = _NUMBER | m.SimpleString() | m.Name() | m.Tuple()

CANNOT_MATTER = (
    m.Expr(_TEXT)  # docstrings
    | m.Annotation()
    | m.Raise()  # the text of an error; that it is raised is mutated with its statement
    | m.Import()
    | m.ImportFrom()
    | m.SimpleStatementLine(body=[m.Expr(_LOGS)])
    | m.Assign(value=_LOGS)
    | m.Assign(value=m.Subscript(value=m.Name("Literal") | m.Name("NDArray") | m.Name("Callable")))  # names of types
    | m.AnnAssign(value=_CHOICE)  # the default of a setting is a choice, and a test of it would be its copy
    | m.Call(func=m.Name("cast") | m.Name("TypeVar"))
    | m.Call(func=m.Name("len") | m.Name("isinstance"))  # as in mutmut: every mutant raises at once
    | m.Arg(keyword=m.Name("strict"))  # zip(strict=True) asserts what holds
    | m.If(test=m.Name("TYPE_CHECKING"))
)


@dataclass(frozen=True)
class Mutant:
    """One fault: the changed lines, and the whole file with them."""

    file: str
    line: int
    before: str
    after: str
    code: str


class _Visitor(cst.CSTVisitor):
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if m.matches(node, CANNOT_MATTER):
            return False
        for kind, operator in OPERATORS:
            if isinstance(node, kind):
                line = self.get_metadata(PositionProvider, node).start.line
                self.found += [(line, node, new) for new in operator(node) if not _only_strict(node, new)]
        return True


def _only_strict(old: cst.CSTNode, new: cst.CSTNode) -> bool:
    """Whether only the ``strict`` of a zip differs."""
    strict = m.Call(func=m.Name("zip"), args=[m.ZeroOrMore(), m.Arg(keyword=m.Name("strict"), value=m.Name("True"))])
    return m.matches(old, strict) and not m.matches(new, strict)


class Source:
    """A source file, and the parts of it that can be changed."""

    def __init__(self, folder: Path, file: str) -> None:
        self.file = file
        self.code = (folder / file).read_text()
        self._tree = MetadataWrapper(cst.parse_module(self.code))
        visitor = _Visitor()
        self._tree.visit(visitor)
        self._changes = visitor.found

    def __len__(self) -> int:
        return len(self._changes)

    def mutant(self, index: int) -> Mutant | None:
        """The mutant with this index. ``None`` if the change is no valid Python, or none at all."""
        line, old, new = self._changes[index]
        code = self._tree.module.deep_replace(old, new).code
        try:
            compile(code, self.file, "exec")
        except SyntaxError:
            return None
        return None if code == self.code else Mutant(self.file, line, *_difference(self.code, code), code)


def draw(sources: Sequence[Source], sample: int, seed: str) -> list[Mutant]:
    """Draw this number of different mutants of the files, in the order of the files."""
    places = [(source, i) for source in sources for i in range(len(source))]
    random.Random(seed).shuffle(places)
    drawn: dict[str, Mutant] = {}
    for source, i in places:
        if len(drawn) == sample:
            break
        if mutant := source.mutant(i):
            drawn.setdefault(mutant.file + mutant.code, mutant)
    return sorted(drawn.values(), key=lambda x: (x.file, x.line))


def _difference(old: str, new: str) -> tuple[str, str]:
    """The changed lines, without their indentation."""
    a, b = ([line.strip() for line in code.splitlines()] for code in (old, new))
    while a and b and a[0] == b[0]:
        del a[0], b[0]
    while a and b and a[-1] == b[-1]:
        del a[-1], b[-1]
    return "\n".join(a), "\n".join(b)


# How a mutant meets the tests


class Copy:
    """A temporary copy of the tree, in which the tests run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources = folder / "src/lineament"
        self.origin = origin(weights=[], data=None, threads=1)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)

    def passes(self, tests: Sequence[str], limit: float | None = None) -> bool | None:
        """Whether these tests pass. ``None`` if they exceed the time limit in seconds."""
        process = multiprocessing.get_context("fork").Process(target=self._run, args=(tests,))
        process.start()
        process.join(limit)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
            return None
        return process.exitcode == 0

    def _run(self, tests: Sequence[str]) -> None:
        os.setsid()
        gc.freeze()  # what the parent process holds is never torn down here, where its threads do not run
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os.chdir(self.folder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "lineament"]:
            del sys.modules[name]  # the copy's is to be imported
        source = str(self.folder / "src")
        sys.path.insert(0, source)
        os.environ["PYTHONPATH"] = source  # for the processes that tests start
        sys.dont_write_bytecode = True  # a mutant may be as long and as old as the one before
        with open(self.folder / "pytest.log", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        options = ["-x", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--tb=short"]
        os._exit(pytest.main([*options, *tests]))

    def survives(self, mutant: Mutant, tests: Sequence[str], limit: float) -> bool:
        """Whether the tests pass although the code has the fault."""
        path = self.sources / mutant.file
        original = path.read_text()
        path.write_text(mutant.code)
        try:
            return bool(self.passes(tests, limit))
        finally:
            path.write_text(original)


def measure(room: str, settings: dict[str, Any], *, sample: int, seed: int, only: str, copy: Copy) -> Result:
    """Run the tests on a sample of a room's mutants."""
    tests_of = {
        path.relative_to(copy.sources).as_posix(): tests
        for pattern, tests in settings["rooms"][room].items()
        for path in sorted(copy.sources.glob(pattern))
    }
    sources = [Source(copy.sources, file) for file in sorted(fnmatch.filter(tests_of, only))]
    drawn = draw(sources, sample, f"{seed} {room}")
    known = {(e["file"], e["before"], e["after"]) for e in settings.get("equivalent", ())}
    limits: dict[str, float] = {}
    found: dict[str, list[Mutant]] = {"killed": [], "equivalent": [], "survived": []}
    for i, mutant in enumerate(drawn, 1):
        tests = tests_of[mutant.file]
        if mutant.file not in limits:
            limits[mutant.file] = time_limit(copy, tests)
        verdict = "killed"
        if copy.survives(mutant, tests, limits[mutant.file]):
            verdict = "equivalent" if (mutant.file, mutant.before, mutant.after) in known else "survived"
        found[verdict].append(mutant)
        _log.info("%s %d/%d %s:%d %s", room, i, len(drawn), mutant.file, mutant.line, verdict)
        if verdict == "survived":
            _log.info("%s", "\n".join(_signed("-", mutant.before) + _signed("+", mutant.after)))
    counts = {verdict: len(of) for verdict, of in found.items()}
    return Result(
        "mutation",
        room,
        {
            "mutants": sum(map(len, sources)),
            "sampled": len(drawn),
            **counts,
            "score": 100 * counts["killed"] / max(1, len(drawn) - counts["equivalent"]),
        },
        tables={
            verdict: {f"{x.file}: {x.before} -> {x.after}": {"line": x.line} for x in found[verdict]}
            for verdict in ("equivalent", "survived")
        },
        settings={"seed": seed, "operators": f"mutmut {version('mutmut')}"},
        origin=copy.origin,
    )


def _signed(sign: str, code: str) -> list[str]:
    return [f"    {sign} {line}" for line in code.splitlines()]


def time_limit(copy: Copy, tests: Sequence[str]) -> float:
    """Time limit of a mutant in seconds: five times that of the unchanged code, since the machine may be busy."""
    start = time.monotonic()
    if not copy.passes(tests):
        sys.exit(f"{' '.join(tests)}: fails without a mutant\n{(copy.folder / 'pytest.log').read_text()}")
    return 20 + 5 * (time.monotonic() - start)


def main(arguments: Iterable[str] | None = None) -> None:
    settings = tomllib.loads(SETTINGS.read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", default=list(settings["rooms"]), help="of mutation.toml; all by default")
    parser.add_argument("--sample", type=int, default=60, help="mutants a room (60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="*", help="pattern of files; such a run is not recorded")
    options = parser.parse_args(list(arguments) if arguments is not None else None)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("LINEAMENT_SHARED", str(ROOT.parent / "shared"))
    for name in HEAVY:
        with suppress(ImportError):
            importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Copy(Path(folder))
        for room in options.rooms:
            result = measure(room, settings, sample=options.sample, seed=options.seed, only=options.only, copy=copy)
            _log.info("%s: %.0f %%", room, result.scores["score"])
            if options.only == "*":
                kept.keep("mutation", room, result, tables=("equivalent", "survived"))
                write_whole(PAGE, tables.render(PAGE.read_text()))


if __name__ == "__main__":
    main()
