"""A server in its own process, started as users start it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")


class Server(NamedTuple):
    """The process, and the port that it listens on."""

    process: subprocess.Popen[str]
    port: int


@contextmanager
def running(*options: str) -> Iterator[Server]:
    """Run ``lineament serve`` on a free port."""
    command = [sys.executable, "-m", "lineament", "serve", "--port", "0", "--threads", "1", *options]
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | quiet) as process:
        assert process.stderr is not None
        told = ""
        while not (found := ADDRESS.search(told)):
            line = process.stderr.readline()
            assert line, told
            told += line
        try:
            yield Server(process, int(found[1]))
        finally:
            process.kill()
