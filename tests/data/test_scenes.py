"""Scenes: labels lie where their pixels are, nearer faces hide others, and only the generator is random."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2")

from lineament import boxes as box_ops
from lineament.conventions import convention
from lineament.data.augment import Occlusion
from lineament.data.cache import Photos
from lineament.data.readers.coco import read_coco, write_coco
from lineament.data.sample import HIDDEN, VISIBLE, Sample
from lineament.data.scenes import (
    HEAD,
    NONE,
    Arrangement,
    Scene,
    SceneComposer,
    chained,
    from_far_to_near,
    inside,
    outlines,
    owners,
    radius,
    write_scenes,
)
from lineament.errors import DataError, OptionError
from lineament.schemas import FIVE, SIXTY_EIGHT
from scenes import background, draw_face

MANY = Arrangement(share=1, faces=(6, 9), min_side=20, max_side=0.4)
PLAIN = replace(MANY, match=0, decoys=0, tilt=0, turned=0, mirror=0)


def portrait(path: Path, seed: int, *, alone: bool = True, **options: Any) -> Sample:
    """A photo with one face, or with two faces side by side."""
    rng = np.random.default_rng(seed)
    picture = background(rng, 220, 160)
    faces = [draw_face(picture, rng, x, 50, 70) for x in ((70,) if alone else (40, 100))]
    picture.save(path)
    return Sample.of(path, convention("wider").boxes(faces), faces, size=picture.size, **options)


def wall(path: Path, seed: int) -> Sample:
    """A photo without faces."""
    picture = background(np.random.default_rng(seed), 200, 130)
    picture.save(path)
    return Sample.of(path, [], size=picture.size)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    folder = tmp_path_factory.mktemp("photos")
    samples = [portrait(folder / f"{i}.png", i) for i in range(3)]
    samples.append(portrait(folder / "two.png", 3, alone=False))
    samples.append(portrait(folder / "masked.png", 4, visibility=np.where(np.arange(5) < 2, VISIBLE, HIDDEN)))
    return Photos.build([*samples, wall(folder / "wall.png", 5), wall(folder / "other.png", 6)], folder / "cache")


def scenes_of(photos: Photos, arrangement: Arrangement, count: int = 6, size: int = 160) -> list[Scene]:
    composer = SceneComposer(photos, None, arrangement=arrangement)
    return [composer.scene(np.random.default_rng([1, i]), size) for i in range(count)]


def test_outlines_turn_with_their_faces() -> None:
    points = convention("wider").shape * 40 + 100
    angle = np.deg2rad(40)
    turn = np.array([[np.cos(angle), -np.sin(angle), 7.0], [np.sin(angle), np.cos(angle), 9.0]])
    (still,) = convention("wider").ellipses(points[None])
    (turned,) = convention("wider").ellipses((points @ turn[:, :2].T + turn[:, 2])[None])
    np.testing.assert_allclose(turned, chained(turn, still), atol=1e-9)
    assert radius(still, still @ np.array([0, -1, 1.0])) == pytest.approx(1)  # the top of the circle
    assert (still @ np.array([0, -1, 1.0]))[1] < points[:, 1].min()  # is above the eyes


def test_a_scene_depends_on_the_generator_alone(photos: Photos) -> None:
    composer = SceneComposer(photos, None, arrangement=MANY)
    one, same, other = (composer.canvas(np.random.default_rng(seed), 128) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.pixels, same.pixels)
    np.testing.assert_array_equal(one.landmarks, same.landmarks)
    assert not np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("mirror", [0, 1])
def test_landmarks_lie_where_their_pixels_went(tmp_path: Path, mirror: float) -> None:
    colours = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0], [0, 250, 250]])
    points = convention("wider").shape * 60 + (100, 80)
    pixels = np.full((160, 200, 3), 120, np.uint8)
    for (x, y), colour in zip(points.round().astype(int), colours, strict=True):
        pixels[y - 5 : y + 5, x - 5 : x + 5] = colour
    Image.fromarray(pixels).save(tmp_path / "dots.png")
    boxes = convention("wider").boxes(points[None])
    dotted = Sample.of(tmp_path / "dots.png", boxes, [points], size=(200, 160))
    photos = Photos.build([dotted, wall(tmp_path / "wall.png", 1)], tmp_path / "cache")
    arrangement = replace(PLAIN, faces=(1, 1), min_side=60, tilt=30, mirror=mirror)
    for scene in scenes_of(photos, arrangement):
        drawn = SceneComposer(photos, None, arrangement=arrangement).draw(scene)
        x, y = scene.labels.landmarks[0].astype(int).T
        seen = colours[list(FIVE.mirror)] if mirror else colours
        assert np.abs(drawn[y, x].astype(int) - seen).max() < 60
        assert np.linalg.det(scene.pastes[-1].matrix[:, :2]) * (-1) ** mirror > 0
        centre = (scene.labels.boxes[0, :2] + scene.labels.boxes[0, 2:]) / 2
        assert np.linalg.norm(scene.faces[0][:, 2] - centre) < 0.05 * (scene.labels.boxes[0, 2:] - centre).max()


def test_heads_show_where_masks_say(tmp_path: Path) -> None:
    face = convention("wider").shape * 60 + (100, 80)
    Image.fromarray(np.full((160, 200, 3), 255, np.uint8)).save(tmp_path / "white.png")
    Image.fromarray(np.zeros((160, 200, 3), np.uint8)).save(tmp_path / "black.png")
    white = Sample.of(tmp_path / "white.png", convention("wider").boxes(face[None]), [face], size=(200, 160))
    black = Sample.of(tmp_path / "black.png", [], size=(200, 160))
    photos = Photos.build([white, black], tmp_path / "cache")
    arrangement = replace(PLAIN, faces=(1, 3), tilt=40)
    for scene in scenes_of(photos, arrangement):
        pixels = SceneComposer(photos, None, arrangement=arrangement).draw(scene)[..., 0]
        heads = np.any([inside(chained(f, HEAD), scene.size) for f in scene.faces], axis=0)
        assert ((pixels > 127) == heads).mean() > 0.995
        owner = owners(scene.faces, scene.size)
        assert (pixels[owner > NONE] > 127).all()


def test_nearer_faces_hide_others_and_what_is_hidden_is_said(photos: Photos) -> None:
    crowded, hidden = replace(MANY, faces=(12, 20), covered=0.5), 0
    for scene in scenes_of(photos, crowded):
        labels, heads = scene.labels, [chained(face, HEAD) for face in scene.faces]
        assert (np.diff(box_ops.area(labels.boxes)) >= -1e-3).all()
        owner = owners(scene.faces, scene.size)
        for i in range(len(labels.boxes)):
            behind = np.any([radius(h, labels.landmarks[i]) < 1 for h in heads[i + 1 :]] + [np.zeros(5, bool)], axis=0)
            masked = scene.origin[i, 0] == 4
            assert (scene.visibility[i] == HIDDEN).tolist() == (behind | (masked & (np.arange(5) > 1))).tolist() or (
                masked  # mirrored: pairs are swapped, the first two stay eyes
            )
            assert (labels.weights[i][behind] <= 0.1 + 1e-6).all()
            assert (owner == i).sum() > 0.35 * inside(scene.faces[i], scene.size).sum()
            hidden += behind.sum()
    assert hidden > 5


def test_what_hides_what_follows_from_labels_alone(photos: Photos) -> None:
    for scene in scenes_of(photos, replace(MANY, tilt=25)):
        order = from_far_to_near(scene.labels)
        told = owners(outlines(scene.labels, [FIVE])[order], scene.size)
        told[told > NONE] = order[told[told > NONE]]
        assert (told == owners(scene.faces, scene.size)).mean() > 0.99


def test_faces_without_landmarks_have_the_outline_of_their_box(photos: Photos) -> None:
    (scene,) = scenes_of(photos, MANY, 1)
    bare = replace(scene.labels, landmarks=np.full_like(scene.labels.landmarks, np.nan))
    found = outlines(bare, [FIVE])
    np.testing.assert_allclose(np.abs(found[:, 0, 0]) * 2, bare.boxes[:, 2] - bare.boxes[:, 0], rtol=1e-5)


def test_only_faces_that_are_alone_and_whole_are_cut_out(photos: Photos) -> None:
    composer = SceneComposer(photos, None, arrangement=MANY)
    assert len(composer) == 4  # not the two side by side
    assert 3 not in np.concatenate([scene.origin[:, 0] for scene in scenes_of(photos, MANY)])


def test_scenes_mix_with_other_canvases(photos: Photos) -> None:
    composer = SceneComposer(photos, None, arrangement=replace(MANY, share=0.5))
    kinds = [isinstance(composer.layout(np.random.default_rng(i), 64), Scene) for i in range(24)]
    assert 5 < sum(kinds) < 19


def test_too_many_faces_are_refused_or_counted(photos: Photos) -> None:
    with pytest.raises(OptionError, match=r"128x128 has room for 98 faces of 16 pixels, not 900"):
        Arrangement(faces=(1, 900)).check_room(128)
    with pytest.raises(OptionError, match="less than min_side 90"):
        Arrangement(min_side=90).check_room(128)
    assert sum(scene.missing for scene in scenes_of(photos, replace(PLAIN, faces=(40, 40), covered=0.0), 1, size=80))


@pytest.mark.parametrize(
    ("change", "told"),
    [({"faces": (3, 2)}, "the largest number"), ({"covered": 2}, "covered"), ({"softness": (0, 1)}, "softness")],
)
def test_arrangements_that_mean_nothing_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        Arrangement(**change)


def test_scenes_need_backgrounds_and_faces(tmp_path: Path) -> None:
    face, empty = portrait(tmp_path / "a.png", 0), wall(tmp_path / "b.png", 1)
    with pytest.raises(DataError, match="scenes need backgrounds"):
        SceneComposer(Photos.build([face], tmp_path / "one"), None)
    bare = replace(face, landmarks=np.full((1, 5, 2), np.nan), visibility=np.zeros((1, 5), np.uint8))
    with pytest.raises(DataError, match="can be cut out"):
        SceneComposer(Photos.build([bare, empty], tmp_path / "two"), None)


def test_written_scenes_are_the_same_from_any_number_of_threads_and_read_back(photos: Photos, tmp_path: Path) -> None:
    composer = SceneComposer(photos, None, arrangement=MANY)
    often = Occlusion(probability=1)
    made = {
        jobs: list(write_scenes(composer, tmp_path / str(jobs), 4, size=128, seed=7, occlusion=often, jobs=jobs))
        for jobs in (1, 3)
    }
    for file in (tmp_path / "1").rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "3" / file.relative_to(tmp_path / "1")).read_bytes()
    write_coco(tmp_path / "1" / "scenes.json", [sample for sample, _ in made[1]])
    for sample in read_coco(tmp_path / "1" / "scenes.json"):
        assert sample.schema == FIVE
        mask = np.asarray(Image.open(tmp_path / "1" / "masks" / sample.path.with_suffix(".png").name))
        assert mask.shape == np.asarray(Image.open(sample.path)).shape[:2]
        assert mask.max() <= len(sample)
        visible = sample.attributes["visible"]
        assert ((visible > 0.1) & (visible <= 1)).all()
        assert (visible < 1).any()  # occluded by the objects in front
        assert (sample.visibility == HIDDEN).any()


def test_faces_of_68_points(tmp_path: Path) -> None:
    jaw = np.stack([np.cos(np.linspace(np.pi, 0, 17)), np.sin(np.linspace(0, np.pi, 17))], axis=1) * (30, 40)
    points = np.full((68, 2), (110.0, 80.0))
    points[:17] += jaw
    points[SIXTY_EIGHT.groups["right_eye"], :] += (-14, -5)
    points[SIXTY_EIGHT.groups["left_eye"], :] += (14, -5)
    points[SIXTY_EIGHT.groups["mouth"], :] += np.linspace(-9, 9, 20)[:, None] * (1, 0) + (0, 24)
    face = portrait(tmp_path / "a.png", 0)
    face = Sample.of(face.path, face.boxes, [points], size=(220, 160), schema=SIXTY_EIGHT)
    empty = replace(Sample.of(wall(tmp_path / "b.png", 1).path, [], size=(200, 130), schema=SIXTY_EIGHT))
    photos = Photos.build([face, empty], tmp_path / "cache")
    (scene,) = scenes_of(photos, replace(MANY, faces=(2, 2)), 1)
    assert scene.labels.landmarks.shape == (2, 68, 2)
    assert np.isfinite(scene.labels.landmarks).all()
