"""Compose ``photos/crowd.jpg``: a wall of many faces, made from the three portraits beside it.

Every face is a scaled, turned and, every second time, mirrored copy, in rows from large to small. Run it anywhere:

    python examples/compose_crowd.py
"""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image

PHOTOS = Path(__file__).parent / "photos"
HEADS = {  # squares around head and shoulders: left, top, side
    "astronaut.jpg": (100, 0, 260),
    "biden-2013.jpg": (200, 70, 640),
    "obama-2012.jpg": (130, 30, 680),
}
ROWS = (300, 220, 150, 100, 70, 50)  # heights of the portraits
GAP = 1.2  # from one portrait to the next, in portraits
WIDTH = 1600
WALL = (196, 188, 176)
TURN = 12  # degrees to either side


def compose(seed: int = 7) -> Image.Image:
    """Compose the wall. It depends on the seed alone."""
    rng = random.Random(seed)
    heads = [
        Image.open(PHOTOS / name).convert("RGB").crop((x, y, x + side, y + side))
        for name, (x, y, side) in HEADS.items()
    ]
    wall = Image.new("RGB", (WIDTH, round(GAP * sum(ROWS))), WALL)
    y, hung = 0.0, 0
    for height in ROWS:
        count = int(WIDTH / (GAP * height))
        for i in range(count):
            head = heads[hung % 3]
            if hung % 2:
                head = head.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            portrait = head.resize((height, height), Image.Resampling.LANCZOS).convert("RGBA")
            portrait = portrait.rotate(rng.uniform(-TURN, TURN), Image.Resampling.BICUBIC, expand=True)
            x = (i + 0.5) * WIDTH / count - portrait.width / 2
            wall.paste(portrait, (round(x), round(y + GAP * height / 2 - portrait.height / 2)), portrait)
            hung += 1
        y += GAP * height
    return wall


if __name__ == "__main__":
    compose().save(PHOTOS / "crowd.jpg", quality=90)
