"""Canvases that a device draws equal those that a processor draws. Here the device is also a processor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

import torch

from lineament.data.augment import Cover, Light, Looks, Occlusion, Quality, covers, distort, looks
from lineament.data.cache import Photos
from lineament.data.canvases import Composer, Composition, Layout
from lineament.data.device import DeviceComposer, plan
from lineament.data.sample import Sample
from lineament.errors import OptionError
from scenes import scene

SIZE = 128
PLAIN = looks(np.random.default_rng(0), 1, None, None)


@pytest.fixture(scope="module")
def composer(tmp_path_factory: pytest.TempPathFactory) -> Composer:
    folder = tmp_path_factory.mktemp("photos")
    samples = []
    for i, (width, height) in enumerate([(301, 203), (640, 480), (150, 160)]):
        picture, boxes, points = scene(i, width=width, height=height, faces=3)
        picture.save(folder / f"{i}.png")
        samples.append(Sample.of(folder / f"{i}.png", boxes, points, size=picture.size))
    return Composer(Photos.build(samples, folder / "cache"), Composition())


@pytest.fixture(scope="module")
def device(composer: Composer) -> DeviceComposer:
    return DeviceComposer(composer.photos, torch.device("cpu"), SIZE)


def same(look: Looks, n: int) -> Looks:
    return Looks.joined([look] * n)


def in_front(layouts: list[Layout]) -> list[list[Cover]]:
    return [covers(np.random.default_rng(i), of.labels, of.size, Occlusion()) for i, of in enumerate(layouts)]


def drawn(device: DeviceComposer, *planned: Any) -> NDArray[np.int64]:
    arrays = plan(*planned)
    return device.draw({name: torch.as_tensor(array) for name, array in arrays.items()}).numpy().astype(int)


@pytest.fixture(scope="module")
def layouts(composer: Composer) -> list[Layout]:
    made = [composer.layout(np.random.default_rng(seed), SIZE) for seed in range(24)]
    assert {len(layout.patches) for layout in made} >= {1, 4}  # one photo, and several
    assert any(np.linalg.det(patch.matrix[:, :2]) < 0 for layout in made for patch in layout.patches)  # mirrored
    return made


def test_photos_lie_where_a_processor_draws_them(
    composer: Composer, device: DeviceComposer, layouts: list[Layout]
) -> None:
    """Not to the last digit: a photo is reduced to halves of its size first."""
    mine = drawn(device, layouts, [[]] * len(layouts), same(PLAIN, len(layouts)))
    for pixels, layout in zip(mine, layouts, strict=True):
        reference = composer.draw(layout).astype(int)
        assert np.abs(pixels - reference).mean() < 4
        shifted = np.abs(pixels[:-1] - reference[1:]).mean(), np.abs(pixels[:, :-1] - reference[:, 1:]).mean()
        assert np.abs(pixels - reference).mean() < 0.5 * min(shifted)


def test_a_photo_in_its_own_size_is_itself(composer: Composer, device: DeviceComposer, layouts: list[Layout]) -> None:
    one = next(layout for layout in layouts if len(layout.patches) == 1)
    patch = replace(one.patches[0], row=2, matrix=np.eye(3)[:2], colour=(9, 8, 7), border=0)
    (pixels,) = drawn(device, [replace(one, patches=(patch,))], [[]], PLAIN)
    np.testing.assert_array_equal(pixels, composer.photos[2][:SIZE, :SIZE])
    beside = replace(patch, matrix=np.array([[1.0, 0, 500], [0, 1, 0]]))
    (pixels,) = drawn(device, [replace(one, patches=(beside,))], [[]], PLAIN)
    assert (pixels == [9, 8, 7]).all()


def test_covers_hide_the_same_pixels(composer: Composer, device: DeviceComposer, layouts: list[Layout]) -> None:
    things = [
        covers(np.random.default_rng(i), layout.labels, layout.size, Occlusion()) for i, layout in enumerate(layouts)
    ]
    things[0] = 3 * things[0] + next(thing for thing in things if thing)  # overlapping
    plain = drawn(device, layouts, [[]] * len(layouts), same(PLAIN, len(layouts)))
    mine = drawn(device, layouts, things, same(PLAIN, len(layouts)))
    assert (mine != plain).any()
    for pixels, before, those in zip(mine, plain, things, strict=True):
        expected = before.astype(np.uint8)
        for thing in those:
            thing.onto(expected)
        np.testing.assert_array_equal(pixels, expected)


def changed(**changes: Any) -> Looks:
    return replace(PLAIN, **{name: np.array([value], float) for name, value in changes.items()})


LINE = (5, np.pi / 4)
CHANGES: dict[str, tuple[Looks, float]] = {
    "light": (changed(brightness=20, gains=[1.2] * 3, colours=1.2 * np.eye(3), gamma=1.3), 0.6),
    "colours": (changed(colours=[[0.8, 0.1, 0.1], [0, 1, 0], [0.2, 0, 0.8]]), 0.6),
    "blur": (changed(blur=1.4), 0.6),
    "motion": (changed(motion=LINE), 0.6),
    "both": (changed(blur=0.7, motion=LINE), 0.8),
    "jpeg": (changed(quality=40), 1.5),
    "good jpeg": (changed(quality=95), 1.0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_looks_are_the_same(device: DeviceComposer, layouts: list[Layout], name: str) -> None:
    change, tolerance = CHANGES[name]
    plain = drawn(device, layouts, [[]] * len(layouts), same(PLAIN, len(layouts))).astype(np.uint8)
    mine = drawn(device, layouts, [[]] * len(layouts), same(change, len(layouts)))
    expected = distort(plain, same(change, len(plain))).astype(int)
    assert np.abs(mine - expected).mean() < tolerance
    assert np.abs(plain - expected).mean() > 2 * np.abs(mine - expected).mean()


def test_noise_is_as_strong_as_drawn(device: DeviceComposer, layouts: list[Layout]) -> None:
    grey = same(changed(gains=np.zeros(3), colours=np.zeros((3, 3)), noise=10), 2)
    noisy = replace(grey, seed=np.array([1, 2]))
    mine = drawn(device, [layouts[0], layouts[0]], [[], []], noisy)
    assert mine.std(axis=(1, 2, 3)) == pytest.approx([10, 10], rel=0.1)
    assert (mine[0] != mine[1]).mean() > 0.9
    np.testing.assert_array_equal(mine, drawn(device, [layouts[0], layouts[0]], [[], []], noisy))


def test_a_batch_is_its_canvases(device: DeviceComposer, layouts: list[Layout]) -> None:
    things = [
        covers(np.random.default_rng(i), layout.labels, layout.size, Occlusion()) for i, layout in enumerate(layouts)
    ]
    seen = looks(np.random.default_rng(0), len(layouts), Light(), Quality())
    together = drawn(device, layouts, things, seen)
    for i in range(len(layouts)):
        alone = drawn(device, layouts[i : i + 1], things[i : i + 1], seen[i : i + 1])
        np.testing.assert_allclose(alone[0], together[i], atol=1)


def test_a_side_that_no_jpeg_has_is_refused(composer: Composer) -> None:
    with pytest.raises(OptionError, match="multiple of 16 pixels, found 100"):
        DeviceComposer(composer.photos, torch.device("cpu"), 100)
