"""Canvases: labels lie where their pixels are, unlearnable faces are ignored, and only the generator is random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

cv2 = pytest.importorskip("cv2")

from lineament.boxes import coverage  # noqa: E402
from lineament.data.cache import Photos  # noqa: E402
from lineament.data.canvases import Canvas, Composer, Composition, Cropping, LabelRules, Layout, warp  # noqa: E402
from lineament.data.poses import is_profile  # noqa: E402
from lineament.data.sample import HIDDEN, VISIBLE, Sample  # noqa: E402
from lineament.errors import OptionError  # noqa: E402
from lineament.schemas import FIVE, SIXTY_EIGHT  # noqa: E402
from lineament.similarity import transform  # noqa: E402
from scenes import POINTS, scene  # noqa: E402

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]])
FACE = np.array([130, 90, 210, 170])
ONE_TILE = Composition(split=(), backgrounds=0, close_ups=(0,), full=0)

Cache = Callable[[Sequence[Sample]], Photos]


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return lambda samples: Photos.build(samples, tmp_path / "cache")


@pytest.fixture
def dotted(tmp_path: Path) -> Sample:
    """A grey photo with one face: a dot at each landmark, each of another colour."""
    points = POINTS * 80 + FACE[:2]
    pixels = np.full((240, 320, 3), 128.0)
    ys, xs = np.indices(pixels.shape[:2]) + 0.5
    for point, colour in zip(points, COLOURS, strict=True):
        amount = np.clip(6.5 - np.hypot(xs - point[0], ys - point[1]), 0, 1)[..., None]
        pixels += amount * (colour - pixels)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "dotted.png")
    return Sample.of(tmp_path / "dotted.png", [FACE], [points], size=(320, 240))


@pytest.fixture
def scenes(tmp_path: Path) -> list[Sample]:
    """Photos with faces that people or a detector labelled, an ignored region, a close-up and a background."""
    made = []
    for i, (width, faces) in enumerate(((320, 4), (240, 2), (200, 3), (100, 1), (200, 0))):
        picture, boxes, points = scene(i, width=width, height=width * 3 // 4, faces=faces)
        picture.save(tmp_path / f"{i}.png")
        sample = Sample.of(
            tmp_path / f"{i}.png",
            boxes,
            points,
            size=picture.size,
            ignore=np.arange(faces) == 2,
            landmark_source="detector" if i % 2 else "human",
            visibility=np.where(np.arange(5) < 2, VISIBLE, HIDDEN) if i == 1 else None,
        )
        made.append(sample)
    return made


def dot_near(
    pixels: NDArray[np.uint8], place: NDArray[np.float32], reach: float, colour: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The centroid of a dot of this colour in a square around a position."""
    low, high = np.floor(place - reach).astype(int), np.ceil(place + reach).astype(int)
    grey, way = pixels[low[1] : high[1], low[0] : high[0]] - 128.0, colour - 128.0
    share = (grey @ way / (way @ way)).clip(0, 1)  # relative to the distance of the colour from grey
    share[np.abs(grey - share[..., None] * way).max(axis=2) > 40] = 0  # another dot
    ys, xs = np.indices(share.shape) + 0.5
    return low + np.array([(share * xs).sum(), (share * ys).sum()]) / share.sum()


@pytest.mark.parametrize("mirror", [0, 1])
@pytest.mark.parametrize("sides", [(30, 30), (55, 80), (140, 200)])
@pytest.mark.parametrize("turned", [0, 1])
def test_labels_follow_the_pixels(
    dotted: Sample, cache: Cache, mirror: int, sides: tuple[float, float], turned: int
) -> None:
    settings = replace(ONE_TILE, mirror=mirror, min_side=sides[0], max_side=sides[1] / 256, turned=turned, cover=0)
    composer = Composer(cache([dotted]), settings)
    colours = COLOURS[list(FIVE.mirror)] if mirror else COLOURS
    seen = 0
    for seed in range(12):
        canvas = composer.canvas(np.random.default_rng(seed), 256)
        scale = np.hypot(*(canvas.landmarks[0, 1] - canvas.landmarks[0, 0])) / (0.4 * 80)
        reach = 8 * scale + 1
        inside = ((canvas.landmarks[0] > reach) & (canvas.landmarks[0] < 256 - reach)).all(axis=1)
        for point, colour in zip(canvas.landmarks[0][inside], colours[inside], strict=True):
            found = dot_near(canvas.pixels, point, reach, colour)
            np.testing.assert_allclose(found, point, atol=0.1)
            seen += 1
    assert seen > 20


@pytest.mark.parametrize("settings", [replace(ONE_TILE, split=(1,)), replace(ONE_TILE, split=(1, 1), smallest_tile=50)])
def test_labels_lie_right_in_a_quilt(dotted: Sample, cache: Cache, settings: Composition) -> None:
    """Every landmark that counts lies on its dot, in whichever tile."""
    composer = Composer(cache([dotted]), replace(settings, mirror=0, min_side=25, max_side=0.6, full=1))
    faces = 0
    for seed in range(8):
        canvas = composer.canvas(np.random.default_rng(seed), 203)
        assert canvas.pixels.shape == (203, 203, 3)
        rows, columns = np.nonzero(canvas.weights)
        x, y = canvas.landmarks[rows, columns].astype(int).T
        np.testing.assert_allclose(canvas.pixels[y, x].astype(int), COLOURS[columns], atol=70)
        faces += len(np.unique(rows))
    assert faces > 8


def test_a_box_keeps_to_its_face(tmp_path: Path, cache: Cache) -> None:
    pixels = np.zeros((240, 320, 3), np.uint8)
    pixels[90:170, 130:210] = 255
    Image.fromarray(pixels).save(tmp_path / "white.png")
    sample = Sample.of(tmp_path / "white.png", [FACE], size=(320, 240))
    settings = replace(ONE_TILE, tilt=0, turned=0, min_side=20, cover=0, full=1)
    composer = Composer(cache([sample]), settings)
    measured = 0
    for seed in range(20):
        canvas = composer.canvas(np.random.default_rng(seed), 128)
        box = canvas.boxes[0]
        if (box < 2).any() or (box > 126).any() or canvas.pixels[0, 0].any() or canvas.pixels[-1, -1].any():
            continue  # cut off, or beside a bright surrounding
        amount = canvas.pixels[..., 0] / 255
        columns, rows = amount.max(axis=0), amount.max(axis=1)
        np.testing.assert_allclose([columns.sum(), rows.sum()], box[2:] - box[:2], atol=0.75)
        found = [(line * (np.arange(128) + 0.5)).sum() / line.sum() for line in (columns, rows)]
        np.testing.assert_allclose(found, (box[:2] + box[2:]) / 2, atol=0.1)
        measured += 1
    assert measured > 5


def test_the_generator_decides_everything(scenes: list[Sample], cache: Cache) -> None:
    photos = cache(scenes)
    first = [Composer(photos, Composition()).canvas(np.random.default_rng(seed), 192) for seed in range(6)]
    composer = Composer(photos, Composition())
    again = [composer.canvas(np.random.default_rng(seed), 192) for seed in reversed(range(6))][::-1]
    for a, b in zip(first, again, strict=True):
        for name in ("pixels", "boxes", "landmarks", "weights", "ignore"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert len({canvas.pixels.tobytes() for canvas in first}) == 6


def test_what_counts_can_be_learnt_from(scenes: list[Sample], cache: Cache) -> None:
    composer = Composer(cache(scenes), Composition(), LabelRules(smallest=12, largest=60))
    canvases = [composer.canvas(np.random.default_rng(seed), 192) for seed in range(60)]
    for canvas in canvases:
        n = len(canvas.boxes)
        assert canvas.landmarks.shape == (n, 5, 2)
        assert canvas.weights.shape == (n, 5)
        face = canvas.boxes[~canvas.ignore]
        centre, sides = (face[:, :2] + face[:, 2:]) / 2, (face[:, 2:] - face[:, :2]).max(axis=1, initial=12)
        assert (sides >= 12).all()
        assert (sides <= 60).all()
        assert ((centre >= 0) & (centre < 192)).all()
        assert (coverage(face, np.array([[0, 0, 192, 192]])) >= 0.6 - 1e-5).all()
        assert ((canvas.boxes[canvas.ignore] >= 0) & (canvas.boxes[canvas.ignore] <= 192)).all()
        off = ~((canvas.landmarks >= 0) & (canvas.landmarks < 192)).all(axis=2)
        assert not canvas.weights[off | canvas.ignore[:, None]].any()
        assert set(np.unique(canvas.weights.astype(float).round(3))) <= {0, 0.1, 0.7, 1}
    assert sum(canvas.outside for canvas in canvases) > 0
    assert sum((~canvas.ignore).sum() for canvas in canvases) > 60


def whole(photo: Sample, cache: Cache, *, mirror: float = 0, smallest: float = 0) -> Canvas:
    """A canvas that shows the whole photo, upright and in its own width."""
    width = photo.width
    wanted = replace(ONE_TILE, tilt=0, turned=0, enlarge=1, cover=1, full=1, mirror=mirror)
    return Composer(cache([photo]), wanted, LabelRules(smallest=smallest)).canvas(np.random.default_rng(0), width)


def test_a_region_to_ignore_stays_one(scenes: list[Sample], cache: Cache) -> None:
    sample = scenes[0]
    canvas = whole(sample, cache)
    np.testing.assert_array_equal(canvas.ignore, sample.ignore)
    np.testing.assert_allclose(
        canvas.boxes[:, 2:] - canvas.boxes[:, :2], sample.boxes[:, 2:] - sample.boxes[:, :2], rtol=1e-5
    )
    assert canvas.outside == 0


def test_faces_out_of_range_are_ignored_and_counted(scenes: list[Sample], cache: Cache) -> None:
    canvas = whole(scenes[0], cache, smallest=300)
    assert canvas.ignore.all()
    assert canvas.outside == 3  # one of the four was ignored before


def test_a_face_that_is_mostly_cut_off_is_ignored(dotted: Sample, cache: Cache) -> None:
    neighbour = dotted.boxes[0] + [60, 0, 60, 0]
    sample = Sample.of(dotted.path, [dotted.boxes[0], neighbour], size=(320, 240))
    settings = replace(ONE_TILE, tilt=0, turned=0, min_side=100, max_side=1)
    composer = Composer(cache([sample]), settings)
    canvases = [composer.canvas(np.random.default_rng(seed), 128) for seed in range(40)]
    ignored = np.concatenate([canvas.ignore for canvas in canvases])
    assert ignored.any()
    assert not ignored.all()
    assert all(canvas.outside == 0 for canvas in canvases)
    clipped = np.concatenate([canvas.boxes[canvas.ignore] for canvas in canvases])
    assert ((clipped[:, 2:] - clipped[:, :2]).min(axis=1) < 100).all()


def test_the_edge_cuts_off_part_of_an_anchor(dotted: Sample, cache: Cache) -> None:
    composer = Composer(cache([dotted]), replace(ONE_TILE, full=1, cut=1, cut_by=(0.2, 0.3)))
    seen: set[str] = set()
    counted = 0
    for seed in range(60):
        labels = composer.layout(np.random.default_rng(seed), 128).labels
        if labels.ignore.any():  # too little is left, since the other axis cuts it, too
            continue
        ((x1, y1, x2, y2),) = labels.boxes
        outside = {"x": max(-x1, x2 - 128) / (x2 - x1), "y": max(-y1, y2 - 128) / (y2 - y1)}
        cut = {axis for axis, share in outside.items() if 0.19 < share < 0.31}
        assert cut
        seen |= cut
        counted += 1
    assert seen == {"x", "y"}
    assert counted > 40


def test_profiles_are_anchors_more_often(tmp_path: Path, cache: Cache) -> None:
    """Of two faces that are anchors, the profile is in the middle of more canvases; so are photos with profiles."""
    Image.new("RGB", (700, 300)).save(tmp_path / "two.png")
    Image.new("RGB", (300, 300)).save(tmp_path / "one.png")
    boxes = np.array([[20, 100, 100, 180], [600, 100, 680, 180]])
    frontal = POINTS * 80
    profile = frontal + np.array([[0, 0], [0, 0], [24, 0], [0, 0], [0, 0]])
    points = [frontal + boxes[0, :2], profile + boxes[1, :2]]
    both = Sample.of(tmp_path / "two.png", boxes, points, size=(700, 300))
    one = Sample.of(tmp_path / "one.png", boxes[:1], points[:1], size=(300, 300))
    np.testing.assert_array_equal(is_profile(both), [False, True])
    photos = cache([both, one])

    def shares(profiles: float) -> tuple[float, float]:
        """Of the photo with both faces among canvases, and of the profile among its anchors."""
        composer = Composer(photos, replace(ONE_TILE, min_side=80, profiles=profiles))
        layouts = [composer.layout(np.random.default_rng(seed), 128) for seed in range(400)]
        matrices = [patch.matrix for layout in layouts for patch in layout.patches if patch.row == 0]
        places = np.array([matrix @ [640, 140, 1] for matrix in matrices])
        return len(places) / len(layouts), float(((places >= 0) & (places <= 128)).all(axis=1).mean())

    assert shares(1) == pytest.approx((np.sqrt(3) / (np.sqrt(3) + np.sqrt(2)), 0.5), abs=0.06)
    assert shares(9) == pytest.approx((np.sqrt(11) / (np.sqrt(11) + np.sqrt(2)), 0.9), abs=0.06)


@pytest.mark.parametrize(("mirror", "order"), [(0, [0, 1, 2, 3, 4]), (1, [1, 0, 2, 4, 3])])
def test_weights_tell_who_set_a_landmark_and_what_hides_it(
    dotted: Sample, cache: Cache, mirror: int, order: list[int]
) -> None:
    seen = np.array([[VISIBLE, VISIBLE, VISIBLE, HIDDEN, 0]])
    weights = np.array([0.7, 0.7, 0.7, 0.1, 0], np.float32)
    guessed = Sample.of(
        dotted.path, dotted.boxes, dotted.landmarks, visibility=seen, landmark_source="detector", size=(320, 240)
    )
    np.testing.assert_array_equal(whole(guessed, cache, mirror=mirror).weights, [weights[order]])
    np.testing.assert_array_equal(
        whole(replace(guessed, landmark_source=np.array(["human"])), cache, mirror=mirror).weights,
        [np.where(weights == np.float32(0.7), np.float32(1), weights)[order]],
    )


def layouts(composer: Composer, count: int, size: int = 64) -> list[Layout]:
    rng = np.random.default_rng(0)
    return [composer.layout(rng, size) for _ in range(count)]


def test_crowds_are_seen_more_often_by_the_root_of_their_faces(tmp_path: Path, cache: Cache) -> None:
    samples = []
    for faces in (0, 1, 3, 15):
        Image.new("RGB", (320, 240)).save(tmp_path / f"{faces}.png")
        boxes = np.arange(faces)[:, None] * [20, 0, 20, 0] + [0, 10, 20, 30]
        samples.append(Sample.of(tmp_path / f"{faces}.png", boxes, size=(320, 240)))
    composer = Composer(cache(samples), replace(ONE_TILE, backgrounds=0.1))
    counts = np.bincount([layout.patches[0].row for layout in layouts(composer, 1500)], minlength=4) / 1500
    odds = np.sqrt([2, 4, 16])
    np.testing.assert_allclose(counts, [0.1, *(0.9 * odds / odds.sum())], atol=0.04)


def test_close_ups_are_more_frequent_on_smaller_tiles(tmp_path: Path, cache: Cache) -> None:
    samples = []
    for side, faces in ((161, 1), (160, 1), (160, 0)):
        Image.new("RGB", (side, 100)).save(tmp_path / f"{side}-{faces}.png")
        samples.append(Sample.of(tmp_path / f"{side}-{faces}.png", [[20, 20, 60, 60]] * faces, size=(side, 100)))
    settings = replace(ONE_TILE, backgrounds=0.2, close_ups=(0.1, 0.3, 0.6), smallest_tile=1)
    for level, share in enumerate((0.1, 0.3, 0.6, 0.6)):
        composer = Composer(cache(samples), replace(settings, split=(1,) * level))
        drawn = layouts(composer, 600 // 4**level + 5)
        rows = np.array([patch.row for layout in drawn for patch in layout.patches])
        np.testing.assert_allclose(np.bincount(rows, minlength=3) / len(rows), [0.8 - share, share, 0.2], atol=0.06)


def test_photos_are_placed_as_the_geometry_says(dotted: Sample, cache: Cache) -> None:
    """Position and size of the anchor, tilt and mirror: each fills its range, and no more."""
    settings = replace(
        ONE_TILE, min_side=10, max_side=0.5, enlarge=3, cover=0.0, tilt=4, turned=0.3, turned_by=120, mirror=0.2
    )
    drawn = layouts(Composer(cache([dotted]), settings), 1500, size=100)
    matrices = np.array([layout.patches[0].matrix for layout in drawn])
    scales = np.hypot(*matrices[:, :, 0].T)
    assert (np.linalg.det(matrices[:, :, :2]) < 0).mean() == pytest.approx(0.2, abs=0.04)
    sides = 80 * scales
    assert 10 <= sides.min() < 10.2
    assert 49.5 < sides.max() <= 50 + 1e-9
    assert np.log(sides).mean() == pytest.approx(np.log([10, 50]).mean(), abs=0.05)  # the logarithm is uniform
    degrees = np.rad2deg(np.arctan2(-matrices[:, 0, 1], matrices[:, 1, 1]))
    far = np.abs(degrees) > 20
    assert far.mean() == pytest.approx(0.3 * 100 / 120, abs=0.04)
    assert degrees.min() < -116
    assert degrees.max() > 116
    assert np.abs(degrees).max() <= 120
    near = degrees[np.abs(degrees) <= 12]
    assert np.abs(near).mean() == pytest.approx(3.5, abs=0.5)  # mostly normal, with a standard deviation of 4
    centres = transform(np.array([[170.0, 130]])[None], matrices)[:, 0]
    assert ((centres >= 0) & (centres <= 100)).all()
    np.testing.assert_allclose(centres.mean(axis=0), 50, atol=2)
    np.testing.assert_allclose(centres.std(axis=0), 100 / 12**0.5, atol=1.5)


def test_photos_are_neither_too_small_nor_too_much_enlarged(tmp_path: Path, dotted: Sample, cache: Cache) -> None:
    def scales(sample: Sample, **settings: float) -> NDArray[np.float64]:
        drawn = layouts(Composer(cache([sample]), replace(ONE_TILE, **settings)), 300, size=160)
        return np.array([np.hypot(*layout.patches[0].matrix[:, 0]) for layout in drawn])

    covering = scales(dotted, cover=0.8, min_side=1, max_side=1)
    assert 0.4 <= covering.min() < 0.41  # 0.8 of the tile for 320 pixels
    assert 1.9 < covering.max() <= 2
    assert scales(dotted, cover=0.1, min_side=1, max_side=5, enlarge=1.5).max() == pytest.approx(1.5, abs=0.02)
    plain = Sample.of(dotted.path, [], size=(320, 240))
    background = scales(plain, cover=0.2, enlarge=3)
    assert (background.min(), background.max()) == pytest.approx((0.1, 0.4), abs=0.01)  # four times as large, at most
    assert scales(plain, cover=0.2, enlarge=0.2).max() <= 0.2


def test_a_full_photo_leaves_as_little_empty_as_it_can(dotted: Sample, cache: Cache) -> None:
    corners = np.array([[[0.0, 0], [320, 0], [0, 240], [320, 240]]])
    settings = replace(ONE_TILE, tilt=0, turned=0, mirror=0, min_side=5, max_side=2, cover=0.1, enlarge=2)
    for full in (1.0, 0.0):
        drawn = layouts(Composer(cache([dotted]), replace(settings, full=full)), 400, size=160)
        ends = transform(corners, np.array([layout.patches[0].matrix for layout in drawn]))
        low, high = ends.min(axis=1), ends.max(axis=1)
        fills = (low <= 1e-6) & (high >= 160 - 1e-6)
        lies_in = (low >= -1e-6) & (high <= 160 + 1e-6)
        assert (fills | lies_in).all() == (full == 1)
        assert fills.any()
        assert lies_in.any()


def test_what_lies_outside_a_photo_is_drawn(tmp_path: Path, cache: Cache) -> None:
    """Half of them are black. Others have a random colour, the mean colour of the photo, or its extended edge."""
    Image.new("RGB", (100, 80), (200, 100, 50)).save(tmp_path / "plain.png")
    sample = Sample.of(tmp_path / "plain.png", [[20, 20, 60, 60]], size=(100, 80))
    patches = [layout.patches[0] for layout in layouts(Composer(cache([sample]), ONE_TILE), 1000)]
    replicated = np.array([patch.border == cv2.BORDER_REPLICATE for patch in patches])
    colours = np.array([patch.colour or (-1, -1, -1) for patch in patches])
    black, mean = (colours == 0).all(axis=1), (colours == [200, 100, 50]).all(axis=1)
    anything = colours[~(black | mean | replicated)]
    shares = [found.mean() for found in (black, mean, replicated)] + [len(anything) / 1000]
    np.testing.assert_allclose(shares, [0.5, 0.15, 0.2, 0.15], atol=0.05)
    assert anything.min() < 5
    assert anything.max() > 250
    assert len(np.unique(anything, axis=0)) > 0.9 * len(anything)


def test_tiles_are_no_smaller_than_asked(dotted: Sample, cache: Cache) -> None:
    """Each tile shows the only face, so its colours count the tiles."""
    settings, rules = replace(ONE_TILE, split=(1, 1, 1), min_side=12), LabelRules(visible=0)
    photos = cache([dotted])
    for smallest, tiles in ((32, 16), (33, 4), (65, 1)):
        canvas = Composer(photos, replace(settings, smallest_tile=smallest), rules).canvas(
            np.random.default_rng(0), 128
        )
        assert len(canvas.boxes) == tiles


def test_a_composer_of_backgrounds_only_makes_empty_canvases(scenes: list[Sample], cache: Cache) -> None:
    canvas = Composer(cache(scenes[4:]), Composition(backgrounds=0, close_ups=(1,))).canvas(
        np.random.default_rng(0), 96
    )
    assert canvas.boxes.shape == (0, 4)
    assert canvas.landmarks.shape == (0, 5, 2)
    assert canvas.pixels.std() > 5


def test_without_augmentation_a_canvas_is_the_photo(scenes: list[Sample], cache: Cache) -> None:
    photos = cache(scenes)
    composer, seen = Composer(photos, None), set()
    for seed in range(30):
        layout = composer.layout(np.random.default_rng(seed), 160)
        (patch,) = layout.patches
        sample, scale = scenes[patch.row], 160 / scenes[patch.row].width
        np.testing.assert_allclose(layout.labels.boxes, sample.boxes * scale, rtol=1e-5)
        np.testing.assert_allclose(layout.labels.landmarks, sample.landmarks * scale, rtol=1e-5)
        pixels = composer.draw(layout)
        assert not pixels[round(sample.height * scale) + 1 :].any()  # a letterbox
        np.testing.assert_allclose(pixels[: int(sample.height * scale)].mean(), photos[patch.row].mean(), atol=2)
        seen.add(patch.row)
    assert seen == set(range(len(scenes)))


@pytest.mark.parametrize("mirror", [0, 1])
def test_faces_of_two_schemas_share_a_canvas(dotted: Sample, cache: Cache, mirror: int) -> None:
    """Each face has the landmarks of its own schema, in the order after mirroring in that schema."""
    rng = np.random.default_rng(0)
    points = rng.uniform(140, 200, (1, 68, 2))
    other = Sample.of(dotted.path, dotted.boxes, points, size=(320, 240), schema=SIXTY_EIGHT)
    settings = replace(ONE_TILE, split=(1,), tilt=0, turned=0, mirror=mirror, min_side=30, max_side=0.5, full=1)
    composer = Composer(cache([dotted, other]), settings, LabelRules(visible=0.99))
    assert composer.schemas == (FIVE, SIXTY_EIGHT)
    both = 0
    for seed in range(12):
        labels = composer.layout(np.random.default_rng(seed), 200).labels
        assert labels.landmarks.shape == (len(labels.boxes), 68, 2)
        counted = ~labels.ignore
        both += len(set(labels.schema[counted])) == 2
        for box, seen, weights, of in zip(
            labels.boxes[counted],
            labels.landmarks[counted],
            labels.weights[counted],
            labels.schema[counted],
            strict=True,
        ):
            sample = (dotted, other)[of]
            k = len(sample.schema)
            inside = (sample.landmarks[0] - sample.boxes[0, :2]) / (sample.boxes[0, 2:] - sample.boxes[0, :2])
            if mirror:
                inside = inside[list(sample.schema.mirror)] * [-1, 1] + [1, 0]
            np.testing.assert_allclose((seen[:k] - box[:2]) / (box[2:] - box[:2]), inside, atol=1e-4)
            assert np.isnan(seen[k:]).all()
            assert not weights[k:].any()
            assert weights[:k].any()
    assert both > 3


def test_a_warp_that_changes_nothing_changes_nothing() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp(photo, np.eye(2, 3), (60, 40), cv2.BORDER_REPLICATE), photo)


def test_a_warp_that_shrinks_averages() -> None:
    checks = np.where(np.indices((240, 240)).sum(axis=0) % 2, 255, 0).astype(np.uint8)
    photo = np.repeat(checks[..., None], 3, axis=2)
    turned = 0.23 * np.array([[np.cos(0.4), -np.sin(0.4), 0], [np.sin(0.4), np.cos(0.4), 0]])
    small = warp(photo, turned, (20, 20), cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(small[5:, 5:].astype(int), 127.5, atol=12)


def test_a_warp_colours_what_lies_outside() -> None:
    photo = np.full((10, 10, 3), 200, np.uint8)
    small = warp(photo, np.array([[1, 0, 30], [0, 1, 0]]), (20, 20), cv2.BORDER_CONSTANT, (1, 2, 3))
    assert (small == [1, 2, 3]).all()


def test_crops_show_photos_at_every_scale_and_half_of_them_hold_a_face(dotted: Sample, cache: Cache) -> None:
    corners = np.array([[[0.0, 0], [320, 0], [0, 240], [320, 240]]])

    def drawn(**settings: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The scales of crops of 150 pixels, and the positions (n, 4, 2) of the photo's corners in them."""
        made = layouts(Composer(cache([dotted]), Cropping(**settings)), 800, size=150)  # type: ignore[arg-type]
        matrices = np.array([layout.patches[0].matrix for layout in made])
        return np.hypot(*matrices[:, :, 0].T), transform(corners, matrices)

    scales, at = drawn(mirror=0)
    assert 0.5 <= scales.min() < 0.51
    assert 2.49 < scales.max() <= 2.5
    low, high = at.min(axis=1), at.max(axis=1)
    larger = high - low >= 150
    assert ((low <= 1e-9) & (high >= 150 - 1e-9))[larger].all()  # the crop lies in the photo,
    assert ((low >= -1e-9) & (high <= 150 + 1e-9))[~larger].all()  # or the photo in the crop

    def held(**settings: float) -> NDArray[np.bool_]:
        scales, at = drawn(mirror=0.5, **settings)
        centres = at[:, 0] + scales[:, None] * [170, 130]  # for the face of 80 pixels
        flipped = at[:, 0, 0] > at[:, 1, 0]
        centres[flipped, 0] = (at[:, 0, 0] - scales * 170)[flipped]
        half = scales[:, None] * 40
        inside = (centres - half >= -1e-6) & (centres + half <= 150 + 1e-6)
        filled = (centres - half <= 1e-6) & (centres + half >= 150 - 1e-6)
        return (inside | filled).all(axis=1)

    assert held(around=1.0).all()
    anywhere, half = held(around=0.0).mean(), held(around=0.5).mean()
    assert anywhere < 0.7
    assert half == pytest.approx((1 + anywhere) / 2, abs=0.05)


def test_crops_can_have_faces_of_given_sizes_turned_by_up_to_an_angle(dotted: Sample, cache: Cache) -> None:
    composer = Composer(cache([dotted]), Cropping(faces=(60, 120), around=1.0, tilt=30, mirror=0))
    drawn = layouts(composer, 300, size=160)
    matrices = np.array([layout.patches[0].matrix for layout in drawn])
    sides = 80 * np.hypot(*matrices[:, :, 0].T)
    assert 60 <= sides.min() < 61
    assert 119 < sides.max() <= 120
    degrees = np.rad2deg(np.arctan2(-matrices[:, 0, 1], matrices[:, 1, 1]))
    assert -30 <= degrees.min() < -29
    assert 29 < degrees.max() <= 30
    for layout in drawn:
        (box,) = layout.labels.boxes
        assert (box >= -1e-3).all()
        assert (box <= 160 + 1e-3).all()
        assert not layout.labels.ignore.any()
    canvas = composer.canvas(np.random.default_rng(0), 160)
    for point, colour in zip(canvas.landmarks[0], COLOURS, strict=True):
        x, y = np.floor(point).astype(int)
        np.testing.assert_allclose(canvas.pixels[y, x], colour, atol=40)


def test_crops_of_photos_without_faces_and_of_faces_larger_than_a_crop(dotted: Sample, cache: Cache) -> None:
    plain = Sample.of(dotted.path, [], size=(320, 240))
    canvas = Composer(cache([plain]), Cropping(faces=(60, 120))).canvas(np.random.default_rng(0), 64)
    assert not len(canvas.boxes)
    large = layouts(
        Composer(cache([dotted]), Cropping(faces=(300, 400), around=1.0), LabelRules(visible=0)), 20, size=100
    )
    for layout in large:
        assert (layout.labels.boxes[0, :2] <= 1e-3).all()
        assert (layout.labels.boxes[0, 2:] >= 100 - 1e-3).all()
    with pytest.raises(OptionError, match=r"cropping\.faces is the smallest and the largest side, or empty"):
        Cropping(faces=(150,))
