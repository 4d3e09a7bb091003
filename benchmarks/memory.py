"""Peak memory for one 24-megapixel photo, and whether many pictures of random sizes in a row make a process grow.

python benchmarks/memory.py [--method NAME] [--pictures 1000]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import lineament
from lineament.weights import DEFAULT

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "biden-2013.jpg"
ONE = """
import sys, lineament
from lineament.evaluate.speed import peak_memory
faces = lineament.load(sys.argv[1]).detect(sys.argv[2])
print(f"6000x4000: {len(faces)} face, peak memory {peak_memory():.0f} MB")
"""


def resident() -> float:
    """Resident memory of this process in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default=DEFAULT)
    parser.add_argument("--pictures", type=int, default=1000)
    args = parser.parse_args()
    photo = Image.open(PHOTO).convert("RGB")
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large.jpg"
        ImageOps.pad(photo, (6000, 4000)).save(large)
        subprocess.run([sys.executable, "-c", ONE, args.method, str(large)], check=True)
    detector = lineament.load(args.method)
    rng = np.random.default_rng(0)
    for i in range(args.pictures):
        detector.detect(photo.resize(tuple(int(side) for side in rng.integers(20, 1200, 2))))
        if (i + 1) % max(args.pictures // 10, 1) == 0:
            print(f"after {i + 1} pictures: {resident():.0f} MB")


if __name__ == "__main__":
    main()
