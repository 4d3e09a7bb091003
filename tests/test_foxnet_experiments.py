"""How embeddings are judged, and the candidates that are made up to time the parsing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

import foxnet_experiments as experiments  # noqa: E402

from lineament.conventions import convention  # noqa: E402
from lineament.data.canvases import Canvas  # noqa: E402
from lineament.methods.foxnet import cluster  # noqa: E402
from lineament.methods.foxnet.training import FoxNetRecipe  # noqa: E402

SIZE, RECIPE = 64, FoxNetRecipe(train=(), canvas=64)


def scene() -> Canvas:
    """Two faces, one right in front of the other and half as wide."""
    points = np.stack([convention("wider").shape * side + SIZE / 2 for side in (50.0, 30.0)])
    return Canvas(
        boxes=convention("wider").boxes(points),
        landmarks=points.astype(np.float32),
        weights=np.ones((2, 5), np.float32),
        ignore=np.zeros(2, bool),
        schema=np.zeros(2, int),
        outside=0,
        pixels=np.zeros((SIZE, SIZE, 3), np.uint8),
    )


def embedding_of(canvas: Canvas) -> torch.Tensor:
    """Of each cell the direction of the face with the nearest landmark."""
    cells = (np.stack(np.meshgrid(*[np.arange(SIZE // 4)] * 2), axis=-1) + 0.5) * 4
    off = np.linalg.norm(cells[:, :, None] - canvas.landmarks.reshape(-1, 2), axis=3)
    return torch.eye(2)[torch.from_numpy(off.argmin(axis=2) // 5)].permute(2, 0, 1)[None]


def test_perfect_embeddings_group_all_pairs_and_equal_ones_do_not() -> None:
    canvas = scene()
    perfect = experiments.grouping(lambda _: {"embedding": embedding_of(canvas)}, RECIPE, [canvas], SIZE)
    assert perfect == {"F1, embeddings and places": 100, "F1, embeddings alone": 100}
    equal = experiments.grouping(lambda _: {"embedding": torch.ones(1, 2, 16, 16)}, RECIPE, [canvas], SIZE)
    pairs, right = 10 * 9, 2 * 5 * 4
    assert equal["F1, embeddings alone"] == pytest.approx(200 * right / (pairs + right))
    unseen = replace(canvas, weights=np.array([[1.0] * 5, [0.1] * 5]))  # hidden landmarks do not count
    assert experiments.grouping(lambda _: {"embedding": torch.ones(1, 2, 16, 16)}, RECIPE, [unseen], SIZE) == perfect


@pytest.mark.parametrize("landmarks", [5, 68])
def test_candidates_that_are_made_up_are_of_so_many_faces(landmarks: int) -> None:
    candidates = experiments.made_up(9, landmarks)
    found = cluster.faces(*candidates[:-1], width=cluster.bandwidth("cosine", 0.1))
    assert (np.bincount(found) >= 0.8 * landmarks).sum() == 9
