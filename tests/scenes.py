"""Drawn faces with known boxes and landmarks, for tests that must run everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

# Right eye, left eye, nose, mouth corners of a face in a unit square (the subject's right is on our left).
POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.78], [0.65, 0.78]])


def background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Coloured spots, so that not only faces have edges."""
    coarse = rng.integers(30, 225, (max(height // 24, 1), max(width // 24, 1), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def draw_face(picture: Image.Image, rng: np.random.Generator, x: float, y: float, side: float) -> np.ndarray:
    """Draw one face in a square, and return its landmarks (5, 2)."""
    points = POINTS * side + [x, y]
    skin = (int(rng.integers(190, 250)), int(rng.integers(150, 190)), int(rng.integers(110, 150)))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((x + 0.08 * side, y, x + 0.92 * side, y + side), fill=skin, outline=(40, 20, 10))
    for cx, cy in points[:2]:
        r = 0.08 * side
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=(250, 250, 250))
        pen.ellipse((cx - r / 2, cy - r / 2, cx + r / 2, cy + r / 2), fill=(20, 10, 10))
    pen.polygon(
        [tuple(points[2] - [0, 0.15 * side]), *(tuple(points[2] + [d * side, 0]) for d in (-0.06, 0.06))], (150, 90, 60)
    )
    pen.line([tuple(points[3]), tuple(points[4])], fill=(150, 20, 30), width=max(int(0.07 * side), 1))
    return points


def scene(
    seed: int, *, width: int = 160, height: int = 120, faces: int = 2
) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """An image with faces side by side: the image, boxes (n, 4) and landmarks (n, 5, 2)."""
    rng = np.random.default_rng(seed)
    picture = background(rng, width, height)
    boxes, points = [], []
    cell = width / max(faces, 1)
    for i in range(faces):
        side = rng.uniform(0.5, 0.85) * min(cell, height)
        x, y = cell * i + rng.uniform(0, cell - side), rng.uniform(0, height - side)
        points.append(draw_face(picture, rng, x, y, side))
        boxes.append([x + 0.08 * side, y, x + 0.92 * side, y + side])
    soft = picture.filter(ImageFilter.GaussianBlur(0.5))
    return soft, np.array(boxes).reshape(-1, 4), np.array(points).reshape(-1, 5, 2)


def write_data(folder: Path, count: int, *, name: str = "scenes", first_seed: int = 0, landmarks: bool = True) -> Path:
    """Write a data set of scenes in COCO keypoints form, and return its index file."""
    images, annotations = [], []
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture, boxes, points = scene(first_seed + i)
        picture.save(folder / name / f"{i}.png")
        images.append({"id": i, "file_name": f"{name}/{i}.png", "width": picture.width, "height": picture.height})
        for box, face in zip(boxes, points, strict=True):
            seen = np.concatenate([face, np.full((5, 1), 2 if landmarks else 0)], axis=1)
            size = [box[2] - box[0], box[3] - box[1]]
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": i,
                    "category_id": 1,
                    "bbox": [*box[:2], *size],
                    "iscrowd": 0,
                    "keypoints": seen.ravel().tolist(),
                    "num_keypoints": 5 if landmarks else 0,
                }
            )
    names = ["right_eye", "left_eye", "nose", "mouth_right", "mouth_left"]
    index = folder / f"{name}.json"
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "face", "keypoints": names}],
    }
    index.write_text(json.dumps(document))
    return index
