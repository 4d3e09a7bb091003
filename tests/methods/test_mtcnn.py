"""Parts of MTCNN against the paper and slow references."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from lineament import boxes as box_ops  # noqa: E402
from lineament.calibration import logit, sigmoid  # noqa: E402
from lineament.errors import OptionError  # noqa: E402
from lineament.methods.candidates import Candidates  # noqa: E402
from lineament.methods.mtcnn import pyramid as pyramid_module  # noqa: E402
from lineament.methods.mtcnn.decode import MTCNN, Config, with_extent  # noqa: E402
from lineament.methods.mtcnn.entries import for_inference  # noqa: E402
from lineament.methods.mtcnn.network import ONet, PNet, PReLU, RNet, SingleTaskNet  # noqa: E402
from lineament.methods.mtcnn.pyramid import BORDER, CELL, Level, Pyramid  # noqa: E402
from lineament.runtime import Graph, load_graph  # noqa: E402
from lineament.schemas import FIVE  # noqa: E402
from lineament.weights import read_weights  # noqa: E402


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The shipped cascade."""
    return load_graph(read_weights("mtcnn"))


@pytest.mark.parametrize(("network", "parameters"), [(PNet, 6_929), (RNet, 101_339), (ONet, 388_783)])
def test_networks_have_the_figures_layers(network: type[torch.nn.Module], parameters: int) -> None:
    """The parameter counts differ from the authors' only by one logit in place of two softmax outputs."""
    assert sum(p.numel() for p in network().parameters()) == parameters
    size = network.size
    out = network()(torch.zeros(2, 3, size, size))
    assert [out[name].numel() for name in ("score", "box", "landmarks")] == [2, 8, 20]


@pytest.mark.parametrize("size", [12, 24, 48])
def test_single_task_nets_answer(size: int) -> None:
    assert SingleTaskNet(size)(torch.zeros(2, 3, size, size))["score"].shape == (2,)


def test_pooling_before_the_activation_is_pooling_after_it() -> None:
    x = torch.randn(2, 4, 9, 9)
    activation = PReLU(4)
    activation.weight.data = torch.tensor([-0.5, 0.1, 0.9, 3.0])  # clamped to [0, 1]
    before = activation(F.max_pool2d(x, 3, 2, ceil_mode=True))
    assert torch.equal(before, F.max_pool2d(activation(x), 3, 2, ceil_mode=True))
    slopes = torch.tensor([0, 0.1, 0.9, 1]).view(1, 4, 1, 1)
    assert torch.equal(activation(x), torch.maximum(x, slopes * x))


def test_what_is_exported_computes_the_same() -> None:
    net = RNet().double()
    pixels = torch.randint(0, 256, (3, 3, 24, 24)).double()
    for name, value in net(pixels).items():
        assert torch.allclose(value, for_inference(net)(pixels)[name], atol=1e-9)


def bilinear(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """A sample of RoiAlign: up to one pixel outside it has the value of the edge pixel, and is black beyond."""
    h, w = image.shape[:2]
    x, y = x - 0.5, y - 0.5
    if x < -1 or y < -1 or x > w or y > h:
        return np.zeros(3)
    x, y = min(max(x, 0), w - 1), min(max(y, 0), h - 1)
    x0, y0 = int(x), int(y)
    x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
    dx, dy = x - x0, y - y0
    top = image[y0, x0] * (1 - dx) + image[y0, x1] * dx
    bottom = image[y1, x0] * (1 - dx) + image[y1, x1] * dx
    return np.asarray(top * (1 - dy) + bottom * dy)


@pytest.mark.parametrize("window", [(3, 5, 27, 29), (-8.5, -4, 20, 24.5), (10.25, 3.5, 60, 53.25), (0, 0, 10, 10)])
def test_crops_equal_a_direct_sampling(graph: Graph, window: tuple[float, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 80, 3), dtype=np.uint8)
    pyramid = Pyramid(image)
    (crop,) = pyramid.crops(graph, np.array([window], float), 24)
    longer = max(window[2] - window[0], window[3] - window[1])
    depth = int(np.clip(np.floor(np.log2(longer / 24)), 0, len(pyramid.halvings) - 1))
    x1, y1, x2, y2 = np.array(window) / 2**depth
    source = pyramid.halvings[depth].astype(float)
    for row, column in [(0, 0), (0, 23), (11, 12), (23, 23), (5, 19)]:
        samples = [
            bilinear(source, x1 + (x2 - x1) * (column + i) / 24, y1 + (y2 - y1) * (row + j) / 24)
            for i in (0.25, 0.75)
            for j in (0.25, 0.75)
        ]
        np.testing.assert_allclose(crop[:, row, column], np.mean(samples, axis=0), atol=1e-2)


def test_crops_are_black_outside_and_order_is_kept(graph: Graph) -> None:
    pyramid = Pyramid(np.full((200, 200, 3), 255, np.uint8))
    windows = np.array([[-60, -60, -20, -20], [20, 20, 180, 180], [50, 50, 74, 74]], float)
    crops = pyramid.crops(graph, windows, 24)
    assert crops[0].max() == 0
    assert crops[1:].min() > 254.9


def test_further_looks_are_closer_and_their_landmarks_count_as_much(graph: Graph) -> None:
    rng = np.random.default_rng(0)
    pyramids = [Pyramid(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)) for _ in range(2)]
    boxes = np.array([[10, 20, 50, 50], [60, 5, 100, 45], [30, 30, 70, 70]], float)
    picture, first = np.array([1, 0, 1]), rng.uniform(0, 90, (3, 5, 2))
    given = Candidates(boxes, np.ones(3), first, np.ones((3, 5)), picture)
    found = MTCNN(graph, Config(looks=(0.8, 0.5), agreement=(-0.7, -2.0))).look_again(pyramids, given)
    assert found.image.tolist() == [0, 1, 1]
    centres = np.array([[30, 35], [80, 25], [50, 50]], float)  # the squares' sides are 40
    for row, face in enumerate([1, 0, 2]):
        seen = [first[face]]
        for half in (16, 10):
            window = np.concatenate([centres[face] - half, centres[face] + half])
            crop = pyramids[picture[face]].crops(graph, window[None], 48)
            (offsets,) = graph("onet", ("landmarks",), pixels=crop)
            seen.append(window[:2] + offsets.reshape(5, 2) * 2 * half)
        np.testing.assert_allclose(found.landmarks[row], np.mean(seen, axis=0), atol=1e-3)
        apart = [np.sqrt(np.mean([np.sum((s[k] - np.mean(seen, axis=0)[k]) ** 2) for s in seen])) for k in range(5)]
        size = np.sqrt(box_ops.area(boxes[face]))
        odds = np.exp(-2 - 0.7 * np.log(np.array(apart) / size + 1e-3))
        np.testing.assert_allclose(found.landmark_scores[row], odds / (1 + odds), atol=1e-4)
    with pytest.raises(OptionError, match="looks"):
        Config(looks=[0.8, 0])


class PNetSays:
    """A graph with random outputs of P-Net, the same for all maps of one size."""

    def __call__(self, entry: str, outputs: tuple[str, ...], **inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        assert (entry, outputs) == ("pnet", ("score", "box"))
        h, w = ((side - CELL) // 2 + 1 for side in inputs["image"].shape[1:3])
        rng = np.random.default_rng(1000 * h + w)
        return rng.normal(0, 2, (1, h, w)), rng.normal(0, 0.05, (1, 4, h, w))


def test_proposals_are_suppressed_at_each_level_and_then_over_all_of_an_image() -> None:
    pyramids = [Pyramid(np.zeros((60, 80, 3), np.uint8)), Pyramid(np.zeros((50, 50, 3), np.uint8))]
    config = Config(factor=0.8, nms_level=0.4, nms_pyramid=0.6)
    found = MTCNN(PNetSays(), config).propose(pyramids, 0.6, min_face=20, max_face=None)  # type: ignore[arg-type]
    wanted = []
    for pyramid in pyramids:
        boxes, scores = [], []
        for level in pyramid.levels(20, np.inf, 0.8):
            ((_, pixels),) = level.strips()
            logits, offsets = PNetSays()("pnet", ("score", "box"), image=pixels[None])
            rows, columns = np.nonzero(logits[0] >= np.log(0.6 / 0.4))
            windows, own = level.windows(rows, columns), 1 / (1 + np.exp(-logits[0, rows, columns]))
            stands = box_ops.nms(windows, own, 0.4)
            moved = box_ops.decode_corner(offsets[0, :, rows, columns][stands], windows[stands])
            boxes.append(moved)
            scores.append(own[stands])
        assert len(boxes) > 3
        every, scored = np.concatenate(boxes), np.concatenate(scores)
        best = box_ops.nms(every, scored, 0.6)
        assert 1 < len(best) < len(every)
        wanted.append((every[best], scored[best]))
    for number, (boxes_of, scores_of) in enumerate(wanted):
        mine = found[found.image == number]
        np.testing.assert_allclose(mine.boxes, boxes_of)
        np.testing.assert_allclose(mine.scores, scores_of)


def test_with_flip_a_mirrored_image_has_mirrored_faces() -> None:
    photo = np.asarray(Image.open(Path(__file__).resolve().parents[2] / "examples" / "photos" / "astronaut.jpg"))
    graph = load_graph(read_weights("mtcnn"))
    cascade = MTCNN(graph, Config(flip=True, looks=None, nms_onet=0.99))
    options: dict[str, Any] = {"threshold": 0.9, "min_face": 100, "max_face": None}
    (faces,), (mirrored,) = cascade([photo], **options), cascade([photo[:, ::-1]], **options)
    (plain,) = MTCNN(graph, Config(looks=None, nms_onet=0.99))([photo], **options)
    assert len(faces) > len(plain) > 0  # hardly any suppression: the candidates of both images remain
    width = photo.shape[1]
    np.testing.assert_allclose(box_ops.mirror(mirrored.boxes, width), faces.boxes, atol=1e-2)
    back = mirrored.landmarks[:, FIVE.mirror] * [-1, 1] + [width, 0]
    np.testing.assert_allclose(back, faces.landmarks, atol=1e-2)


def test_a_face_is_surer_where_the_network_before_was_sure(graph: Graph) -> None:
    """Its logit is O-Net's plus ``consensus`` times that of R-Net."""
    rng = np.random.default_rng(0)
    pyramids = [Pyramid(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8))]
    boxes, before = np.array([[10.0, 20, 50, 60]] * 3), np.array([0.2, 0.5, 0.9])
    given = Candidates(boxes, before, np.zeros((3, 5, 2)), np.zeros((3, 5)), np.zeros(3, int))
    cascade = MTCNN(graph, Config())
    alone = cascade.refine("onet", pyramids, given, 1e-9)
    assert np.ptp(alone.scores) == 0
    both = cascade.refine("onet", pyramids, given, 1e-9, consensus=0.5)
    np.testing.assert_allclose(both.scores, sigmoid(logit(alone.scores) + 0.5 * logit(before)), rtol=1e-5)
    assert both.scores[0] < both.scores[1] < both.scores[2]
    least = float(both.scores[1]) * 0.999
    np.testing.assert_array_equal(cascade.refine("onet", pyramids, given, least, consensus=0.5).scores, both.scores[1:])
    np.testing.assert_array_equal(both.boxes, alone.boxes)


class OneCell:
    """A P-Net that detects a face of its window's size in the third cell of the third row of every map."""

    def __call__(self, stage: str, names: Any, *, image: np.ndarray) -> list[np.ndarray]:
        rows, columns = ((side - CELL) // 2 + 1 for side in image.shape[1:3])
        logits = np.full((1, rows, columns), -9.0, np.float32)
        logits[0, 2, 2] = 2 + rows / 100  # higher scores at finer levels
        return [logits, np.zeros((1, 4, rows, columns), np.float32)]


def test_levels_and_images_suppress_each_on_its_own() -> None:
    """Windows of neighbouring levels overlap by just over a half: too much within a level, but not over all levels."""
    cascade = MTCNN(OneCell(), Config(nms_level=0.5, nms_pyramid=0.7))  # type: ignore[arg-type]
    pyramids = [Pyramid(np.zeros((100, 100, 3), np.uint8))] * 2
    found = cascade.propose(pyramids, 0.5, min_face=20, max_face=30)
    assert found.image.tolist() == [0, 1, 0, 1]
    sides = found.boxes[:, 2]
    np.testing.assert_allclose(sides, np.repeat([20, 20 / 0.709], 2), rtol=0.03)
    assert box_ops.iou(found.boxes[:1], found.boxes[2:3])[0, 0] > 0.5
    np.testing.assert_allclose(found.boxes[:, :2], 0)
    assert np.isnan(found.landmarks).all()
    fewer = MTCNN(OneCell(), Config(nms_level=0.5, nms_pyramid=0.45))  # type: ignore[arg-type]
    assert fewer.propose(pyramids, 0.5, min_face=20, max_face=30).image.tolist() == [0, 1]
    assert len(cascade.propose(pyramids, 0.95, min_face=20, max_face=30)) == 0
    assert len(cascade.propose(pyramids, 0.5, min_face=500, max_face=None)) == 0


def test_what_has_no_extent_falls() -> None:
    boxes = np.array([[0, 0, 1, 1], [0, 0, 0.9, 5], [0, 0, 5, 0.9], [0, 0, 5, 5], [4, 4, 1, 1.0]])
    given = Candidates(boxes, np.ones(5), np.zeros((5, 5, 2)), np.zeros((5, 5)), np.zeros(5, int))
    assert with_extent(given).boxes.tolist() == boxes[[0, 3]].tolist()


def test_a_low_threshold_asks_earlier_networks_for_as_much_more(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    propose, refine = MTCNN.propose, MTCNN.refine

    def proposed(self: MTCNN, pyramids: Any, threshold: float, **others: Any) -> Any:
        asked.append(threshold)
        return propose(self, pyramids, threshold, **others)

    def refined(self: MTCNN, stage: Any, pyramids: Any, found: Any, threshold: float, **others: Any) -> Any:
        asked.append(threshold)
        return refine(self, stage, pyramids, found, threshold, **others)

    monkeypatch.setattr(MTCNN, "propose", proposed)
    monkeypatch.setattr(MTCNN, "refine", refined)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    method = MTCNN(graph, Config(pnet_threshold=0.8, rnet_threshold=0.6, threshold=0.6))
    for threshold, expected in (
        (0.9, [0.8, 0.6, 0.9]),
        (0.6, [0.8, 0.6, 0.6]),
        (0.45, [0.6, 0.45, 0.45]),
        (0.0, [0.3, 0.1, 0.0]),
    ):
        asked.clear()
        method([picture], threshold=threshold, min_face=20, max_face=None)
        assert asked == pytest.approx(expected)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 7), (10, 2)])
def test_a_cell_sees_its_window_and_nothing_else(row: int, column: int) -> None:
    torch.manual_seed(1)
    net = PNet()
    pixels = torch.rand(1, 3, 40, 40) * 255
    window = pixels[:, :, 2 * row : 2 * row + CELL, 2 * column : 2 * column + CELL]
    whole, alone = net(pixels), net(window)
    assert torch.allclose(whole["score"][0, row, column], alone["score"][0, 0, 0], atol=1e-5)
    level = Level(np.zeros((64, 64, 3), np.uint8), (32, 32), (2.0, 2.0))
    box = level.windows(np.array([row]), np.array([column]))[0] / 2 + BORDER
    assert box.tolist() == [2 * column, 2 * row, 2 * column + CELL, 2 * row + CELL]


def test_strips_give_every_window_once(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(1).integers(0, 256, (150, 90, 3), dtype=np.uint8)
    cascade = MTCNN(graph, Config())
    whole = cascade.propose([Pyramid(image)], 0.0, min_face=12, max_face=13)
    monkeypatch.setattr(pyramid_module, "STRIP", 3000)
    assert len(list(next(Pyramid(image).levels(12, 13, 0.7)).strips())) > 3
    strips = cascade.propose([Pyramid(image)], 0.0, min_face=12, max_face=13)
    np.testing.assert_allclose(strips.boxes, whole.boxes, atol=1e-4)


@pytest.mark.parametrize("min_face", [7, 12, 31])
def test_strips_show_what_the_whole_level_shows(min_face: float, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(1).integers(0, 256, (150, 90, 3), dtype=np.uint8)
    level = next(Pyramid(image).levels(min_face, np.inf, 0.7))
    ((_, whole),) = level.strips()
    assert not whole[[0, -1]].any()
    monkeypatch.setattr(pyramid_module, "STRIP", 700)
    strips = list(level.strips())
    assert len(strips) > 3
    for row, strip in strips:
        np.testing.assert_allclose(strip, whole[2 * row : 2 * row + len(strip)].astype(int), atol=1)


def test_no_level_is_ever_drawn_as_a_whole() -> None:
    """A level for faces of one pixel has 144 times the pixels of the photo: 216 MB here, far more for large photos."""
    level = next(Pyramid(np.zeros((500, 1000, 3), np.uint8)).levels(1, 1, 0.7))
    tracemalloc.start()
    first = next(level.strips())[1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert first.shape[1] == 12_000 + 2 * BORDER
    assert peak < 20e6


def test_levels_cover_the_range_asked_for() -> None:
    levels = list(Pyramid(np.zeros((480, 640, 3), np.uint8)).levels(20, 200, 0.709))
    sides = [CELL * level.scale[0] for level in levels]
    assert sides[0] == pytest.approx(20, rel=0.01)
    assert 200 * 0.709 < sides[-1] <= 200
    np.testing.assert_allclose(np.divide(sides[:-1], sides[1:]), 0.709, rtol=0.02)
    assert not list(Pyramid(np.zeros((5, 5, 3), np.uint8)).levels(20, np.inf, 0.709))
