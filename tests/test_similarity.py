"""Similarity transforms against an independent solution, and crops of images whose result is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lineament.errors import OptionError
from lineament.faces import Faces
from lineament.schemas import FIVE, TWENTY_ONE, own
from lineament.similarity import TEMPLATE, align, compose, crops, fit, invert, transform

RNG = np.random.default_rng(1)


def umeyama(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama (1991), equations 38 to 42, by singular value decomposition, for one face."""
    x, y = source - source.mean(0), target - target.mean(0)
    u, d, vt = np.linalg.svd(y.T @ x / len(x))
    s = np.array([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(s) @ vt
    scale = (d * s).sum() / (x**2).sum(1).mean()
    return np.column_stack([scale * rotation, target.mean(0) - scale * rotation @ source.mean(0)])


def similarity(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[a, -b, x], [b, a, y]])


def test_fit_is_umeyamas_solution_for_all_faces_at_once() -> None:
    source, target = RNG.normal(0, 50, (40, 5, 2)), RNG.normal(0, 20, (40, 5, 2))
    expected = [umeyama(s, t) for s, t in zip(source, target, strict=True)]
    assert np.allclose(fit(source, target), expected, atol=1e-9)
    assert np.allclose(fit(source, target[0]), [umeyama(s, target[0]) for s in source], atol=1e-9)


def test_fit_does_not_reflect() -> None:
    mirrored = TEMPLATE * [-1, 1]
    assert np.linalg.det(fit(mirrored[None], TEMPLATE)[0, :, :2]) > 0


@settings(max_examples=50)
@given(st.floats(0.01, 100), st.floats(-np.pi, np.pi), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_fit_finds_a_similarity_again_and_invert_undoes_it(scale: float, angle: float, x: float, y: float) -> None:
    matrix = similarity(scale, angle, x, y)[None]
    points = transform(TEMPLATE[None] * 100, matrix)
    assert np.allclose(fit(TEMPLATE[None] * 100, points), matrix, atol=1e-6)
    assert np.allclose(transform(points, invert(matrix)), TEMPLATE * 100, atol=1e-6)


def test_composed_transforms_apply_one_after_the_other() -> None:
    first, second = (fit(RNG.normal(size=(4, 5, 2)), RNG.normal(size=(4, 5, 2))) for _ in range(2))
    points = RNG.normal(size=(4, 7, 2))
    expected = transform(transform(points, first), second)
    assert np.allclose(transform(points, compose(first, second)), expected)
    assert np.allclose(compose(first, invert(first)), np.eye(2, 3))


def test_missing_points_do_not_count() -> None:
    matrix = similarity(2, 0.3, 10, 20)[None]
    points = transform(TEMPLATE[None], matrix)
    holes = points.copy()
    holes[0, 2] = np.nan
    assert np.allclose(fit(holes, TEMPLATE), invert(matrix))
    holes[0, 1:] = np.nan
    assert np.isnan(fit(holes, TEMPLATE)).all()
    assert np.isnan(fit(np.zeros((1, 5, 2)), TEMPLATE)).all()


def test_symmetric_fits_give_the_target_its_extent_both_ways() -> None:
    source, target = RNG.normal(0, 50, (40, 5, 2)), RNG.normal(0, 20, (40, 5, 2))
    source[0, 3] = target[1, 2] = np.nan
    forth, back = fit(source, target, symmetric=True), fit(target, source, symmetric=True)
    assert np.allclose(invert(forth), back)
    placed = transform(source, forth)
    both = np.isfinite(placed + target)
    for points, wanted, shown in zip(placed, target, both, strict=True):
        points, wanted = points[shown.all(1)], wanted[shown.all(1)]
        assert np.linalg.norm(points - points.mean(0)) == pytest.approx(np.linalg.norm(wanted - wanted.mean(0)))


def test_template_is_symmetric_and_is_the_public_one() -> None:
    assert np.allclose(TEMPLATE[list(FIVE.mirror)] * [-1, 1] + [1, 0], TEMPLATE)
    public = np.array([[38.29, 51.70], [73.53, 51.50], [56.03, 71.74], [41.55, 92.37], [70.73, 92.20]]) + 0.5
    assert np.hypot(*(TEMPLATE * 112 - public).T).max() < 0.7


def scene(scale: float, angle: float, size: tuple[int, int] = (600, 500)) -> tuple[np.ndarray, Faces]:
    """An image of a face of five coloured discs, and their positions."""
    w, h = size
    points = transform(TEMPLATE[None] * 112, similarity(scale, angle, w / 2, h / 3)[None])[0]
    y, x = np.mgrid[:h, :w] + 0.5
    image = np.zeros((h, w, 3), np.uint8)
    for i, (px, py) in enumerate(points):
        image[np.hypot(x - px, y - py) < 5 * scale] = 40 * (i + 1), 255, 50 * i
    return image, Faces.of([[0, 0, 9, 9]], [0.9], points[None], image_size=size)


@pytest.mark.parametrize(("scale", "angle"), [(1.0, 0.0), (0.6, 0.5), (1.3, -0.7), (2.5, 0.4), (5.0, 0.2)])
def test_crops_show_the_points_at_their_places(scale: float, angle: float) -> None:
    image, faces = scene(scale, angle, (int(400 * max(scale, 1)), int(400 * max(scale, 1))))
    aligned = align(image, faces)
    assert aligned.crops.shape == (1, 112, 112, 3)
    green, red = aligned.crops[0, ..., 1].astype(float), aligned.crops[0, ..., 0]
    y, x = np.mgrid[:112, :112] + 0.5
    for i, (px, py) in enumerate(TEMPLATE * 112):
        near = np.hypot(x - px, y - py) < 8
        weight = green * near
        # small discs have inexact centroids; an error of half a pixel in the frame would give 0.4 or more
        assert (weight * x).sum() / weight.sum() == pytest.approx(px, abs=0.25)
        assert (weight * y).sum() / weight.sum() == pytest.approx(py, abs=0.25)
        assert red[int(py), int(px)] == pytest.approx(40 * (i + 1), abs=2)
    assert np.allclose(transform(faces.landmarks, aligned.matrices), TEMPLATE * 112, atol=1e-3)
    assert np.allclose(transform(TEMPLATE[None] * 112, aligned.inverses), faces.landmarks, atol=1e-3)


def test_shrinking_averages() -> None:
    """A fine checkerboard becomes grey, without aliasing."""
    size = 1200
    checks = (np.indices((size, size)).sum(0) % 2 * 255).astype(np.uint8)
    faces = Faces.of([[0, 0, size, size]], [1], TEMPLATE[None] * size, image_size=(size, size))
    assert np.abs(align(checks, faces).crops.astype(int) - 127).max() < 12


def test_faces_at_the_edge_are_filled_with_black() -> None:
    white = np.full((50, 50, 3), 255, np.uint8)
    faces = Faces.of([[-40, -40, 60, 60]], [1], TEMPLATE[None] * 100 - 50, image_size=(50, 50))
    crop = align(white, faces, size=100).crops[0]
    assert (crop[:49, :49] == 0).all()
    assert (crop[52:98, 52:98] == 255).all()


@pytest.mark.parametrize("centre", [(30, 20), (2, 38), (-7, 20), (300, -200)])
@pytest.mark.parametrize("angle", [0.0, 0.6])
def test_a_crop_from_its_region_is_that_of_the_whole_image(centre: tuple[float, float], angle: float) -> None:
    image = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    matrix = similarity(1.3, angle, 0, 0)
    matrix[:, 2] = 12 - matrix[:, :2] @ centre
    (inverse,) = invert(matrix[None])
    wanted = Image.fromarray(image).transform(
        (24, 24), Image.Transform.AFFINE, data=tuple(inverse.ravel()), resample=Image.Resampling.BILINEAR
    )
    np.testing.assert_allclose(crops(image, matrix[None], 24)[0].astype(int), np.array(wanted, int), atol=1)


@pytest.mark.parametrize("place", [(1, 0, np.inf), (1, 0, np.nan), (0, 0, 0), (np.nan, 0, 0), (np.inf, 0, 0)])
def test_a_crop_without_a_place_is_black(place: tuple[float, float, float]) -> None:
    a, b, x = place
    white = np.full((9, 9, 3), 255, np.uint8)
    assert not crops(white, np.array([[[a, -b, x], [b, a, 0.0]]]), 8).any()


def test_no_faces_no_crops() -> None:
    aligned = align(np.zeros((9, 9), np.uint8), Faces.empty((9, 9)), size=64)
    assert aligned.crops.shape == (0, 64, 64, 3)
    assert aligned.matrices.shape == aligned.inverses.shape == (0, 2, 3)
    assert len(aligned) == 0


def test_what_cannot_be_aligned_is_named() -> None:
    image, faces = scene(1, 0)
    with pytest.raises(OptionError, match="600x500, this one has 500x600"):
        align(image.transpose(1, 0, 2), faces)
    with pytest.raises(OptionError, match="1 to 8192, found 0"):
        align(image, faces, size=0)
    points = np.repeat(faces.landmarks, 3, 0)
    points[1, 1:] = np.nan
    holes = Faces.of(np.repeat(faces.boxes, 3, 0), [0.9, 0.8, 0.7], points, image_size=faces.image_size)
    with pytest.raises(OptionError, match=r"faces \[1\] have fewer than two"):
        align(image, holes)
    ears = Faces.of(
        [[0, 0, 9, 9]], [1], np.zeros((1, 2, 2)), image_size=faces.image_size, schema=own("ears", ["r", "l"])
    )
    with pytest.raises(OptionError, match="no map from landmark schema 'ears'"):
        align(image, ears)


def test_larger_schemas_are_reduced_to_five() -> None:
    image, faces = scene(1, 0)
    points = np.full((1, 21, 2), np.nan)
    points[:, [16, 17, 18, 19, 20]] = faces.landmarks
    more = Faces.of(faces.boxes, faces.scores, points, image_size=faces.image_size, schema=TWENTY_ONE)
    assert np.array_equal(align(image, more).crops, align(image, faces).crops)


def test_template_is_near_the_mean_of_labelled_faces(shared: Path) -> None:
    """The number in docs/conventions.md."""
    index = json.loads((shared / "data" / "landmarks5-train.json").read_text())
    labels = [a["keypoints"] for a in index["annotations"] if a["keypoints_source"] == "human"]
    points = np.array(labels, float).reshape(-1, 5, 3)[..., :2]
    aligned = transform(points, fit(points, TEMPLATE * 112))
    mean = aligned.mean(0)
    assert len(points) == 10000
    assert np.hypot(*(mean - TEMPLATE * 112).T).max() < 2


def test_faces_far_larger_than_the_image_are_cut_out() -> None:
    points = np.array(TEMPLATE) * [1e12, -1e12]
    faces = Faces.of([[0, 0, 50, 50]], [1.0], points[None], image_size=(50, 50))
    made = align(np.full((50, 50, 3), 9, np.uint8), faces, size=8)
    assert made.crops.shape == (1, 8, 8, 3)
    assert (made.crops.dtype, made.matrices.dtype, made.inverses.dtype) == (np.uint8, np.float64, np.float64)
