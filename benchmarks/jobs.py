"""What a million photos cost: ``lineament detect --jobs N`` over a folder of photos, the whole command.

python benchmarks/jobs.py [METHOD ...] [--photos 200] [--jobs 1 2]

It takes about ``2 * photos * (1 + 1/2)`` times the time of a photo for each method: a minute for kpnet-lite-int8.

Kept as docs/results/data/jobs.json; ``tables.py`` writes the table.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import kept

import lineament
from lineament.evaluate.origin import origin
from lineament.evaluate.results import Result
from lineament.images import read_header

PHOTOS = sorted((kept.ROOT / "examples" / "photos").glob("*.jpg"))


def seconds(method: str, folder: Path, jobs: int) -> float:
    """Seconds of the command, the start of its processes included."""
    command = [sys.executable, "-m", "lineament", "detect", str(folder), "-m", method, "--quiet", "--threads", "1"]
    start = time.perf_counter()
    subprocess.run([*command, "--jobs", str(jobs), "--json", os.devnull], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=["kpnet-lite-int8", "kpnet"])
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=2, help="the fastest counts")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, pixels = Path(name), 0
        for i, photo in enumerate(islice(cycle(PHOTOS), args.photos)):
            shutil.copyfile(photo, folder / f"{i}.jpg")
            pixels += math.prod(read_header(photo).size)
        for method in args.methods:
            took = {jobs: min(seconds(method, folder, jobs) for _ in range(args.repeats)) for jobs in args.jobs}
            found = origin(weights=list(lineament.load(method).weights), data=None, threads=1)
            for jobs, spent in took.items():
                rate = args.photos / spent
                scores = {
                    "megapixels a photo": pixels / args.photos / 1e6,
                    "photos a second": rate,
                    "speed-up": took[args.jobs[0]] / spent * args.jobs[0],
                    "hours for a million photos": 1e6 / rate / 3600,
                }
                title = f"`{method}`, `--jobs {jobs}`"
                print(title, scores)
                kept.keep("jobs", title, Result("jobs", title, scores, origin=found))


if __name__ == "__main__":
    main()
