"""Peak memory for a photo of 24 megapixels, and whether a process grows over many images of random sizes.

python benchmarks/memory.py [METHOD] [--pictures 1000]

The result is docs/results/data/METHOD-memory.json. ``tables.py`` writes the table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import kept
import numpy as np
from PIL import Image, ImageOps

import lineament
from lineament.evaluate.origin import origin
from lineament.evaluate.results import Result
from lineament.weights import DEFAULT

PHOTO = kept.ROOT / "examples" / "photos" / "biden-2013.jpg"
ONE = """
import sys, lineament
from lineament.evaluate.speed import peak_memory
lineament.load(sys.argv[1]).detect(sys.argv[2])
print(peak_memory())
"""


def resident() -> float:
    """Resident memory of this process in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def peak_of_one(method: str, photo: Image.Image) -> float:
    """Peak memory in MB of a fresh process that detects in one photo of 6000x4000."""
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.jpg"
        ImageOps.pad(photo, (6000, 4000)).save(large)
        call = [sys.executable, "-c", ONE, method, str(large)]
        return float(subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", nargs="?", default=DEFAULT)
    parser.add_argument("--pictures", type=int, default=1000)
    args = parser.parse_args()
    photo = Image.open(PHOTO).convert("RGB")
    figures = {"one of 6000x4000, peak": peak_of_one(args.method, photo)}
    detector = lineament.load(args.method)
    rng = np.random.default_rng(0)
    for i in range(1, args.pictures + 1):
        detector.detect(photo.resize(tuple(int(side) for side in rng.integers(20, 1200, 2))))
        if i in (args.pictures // 10, args.pictures // 2, args.pictures):
            figures[f"{i:,} of up to 1200x1200 in a row, at the end"] = resident()
    found = origin(weights=list(detector.weights), data=None, threads=None)
    for title, megabytes in figures.items():
        kept.keep(f"{args.method}-memory", title, Result("memory", args.method, {"MB": megabytes}, origin=found))


if __name__ == "__main__":
    main()
