"""The variants of KPNet's heads against slow references."""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from lineament import boxes as box_ops  # noqa: E402
from lineament.data.canvases import Labels  # noqa: E402
from lineament.errors import OptionError  # noqa: E402
from lineament.methods.kpnet import scales, training  # noqa: E402
from lineament.methods.kpnet.heads import Heads, boxes, build, embedding, rpn  # noqa: E402
from lineament.methods.kpnet.heads.argmax import argmax, heat  # noqa: E402
from lineament.methods.kpnet.heads.bells import Spread  # noqa: E402
from lineament.methods.kpnet.heads.regression import regress  # noqa: E402
from lineament.methods.kpnet.scales import BINS, STRIDE  # noqa: E402
from lineament.train.recipe import copy_recipe  # noqa: E402
from lineament.train.task import to_input  # noqa: E402
from networks import ALL, thresholds  # noqa: E402
from scenes import write_data  # noqa: E402
from tasks import check_that_two_processes_learn_as_one  # noqa: E402

VARIANTS = [
    ("soft-argmax", "scalemap"),
    ("argmax", "scalemap"),
    ("regression", "scalemap"),
    ("soft-argmax", "rpn"),
    ("argmax", "rpn"),
    ("regression", "rpn"),
    ("argmax", "embedding"),
]


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def some_regions() -> Tensor:
    """Whole regions, regions cut off at every edge, a region of one cell, and an empty one."""
    boxes = [[4, 6, 20, 22], [-9, -9, 7.5, 7.5], [20, 10, 60, 50], [9, 9, 11.5, 11.5], [6.2, 6.2, 6.6, 6.6]]
    return torch.tensor([boxes, boxes[::-1]], dtype=torch.float64)


def cells_in(region: Tensor, h: int, w: int) -> list[tuple[int, int]]:
    x1, y1, x2, y2 = region.tolist()
    centres = [((r + 0.5) * STRIDE, (c + 0.5) * STRIDE, r, c) for r in range(h) for c in range(w)]
    return [(r, c) for y, x, r, c in centres if x1 <= x < x2 and y1 <= y < y2]


def test_regression_is_a_mean_over_the_regions_cells() -> None:
    given, regions = maps(2, 6, 12, 16), some_regions()
    found = regress(given, regions)
    for image in range(2):
        for i, region in enumerate(regions[image]):
            inside = cells_in(region, 12, 16)
            middle, side = (region[:2] + region[2:]) / 2, region[2] - region[0]
            mean = sum((given[image, :, r, c] for r, c in inside), torch.zeros(6)) / max(len(inside), 1)
            torch.testing.assert_close(found[image, i], middle + mean.view(3, 2) * side)


def test_argmax_is_the_regions_largest_cell() -> None:
    response, regions = maps(2, 3, 12, 16), some_regions()
    points, values = argmax(response, regions)
    for image in range(2):
        for i, region in enumerate(regions[image]):
            inside = cells_in(region, 12, 16)
            for k in range(3):
                if inside:
                    r, c = max(inside, key=lambda rc: float(response[image, k, rc[0], rc[1]]))
                    assert points[image, i, k].tolist() == [(c + 0.5) * STRIDE, (r + 0.5) * STRIDE]
                    assert values[image, i, k] == response[image, k, r, c]


@pytest.mark.parametrize("printed", [False, True])
def test_heat_maps_have_a_bell_at_each_landmark(printed: bool) -> None:
    boxes = np.array([[10, 10, 70, 70], [-20.0, 40, 40, 100]])
    points = np.array([[[31.0, 33], [50, 34]], [[30, 36], [-4, 50]]])
    at, values = heat(points, boxes, 96, Spread(paper=printed))
    painted = np.zeros((2, 48, 48))
    painted[tuple(at.T)] = values
    wanted = np.zeros((2, 48, 48))
    sigma = max(0.04 * 60 / STRIDE / 2, 0.5)
    reach = 0 if printed else int(3 * sigma)
    for face in points:
        for k, (x, y) in enumerate(face):
            column, row = math.floor(x / STRIDE), math.floor(y / STRIDE)
            for r in range(48):
                for c in range(48):
                    if max(abs(r - row), abs(c - column)) <= reach:
                        bell = math.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * sigma**2))
                        wanted[k, r, c] = max(wanted[k, r, c], bell)
    np.testing.assert_allclose(painted, np.where(wanted > 1e-3, wanted, 0), atol=1e-6)


FACES = np.array([[10, 8, 50, 58], [60, 20, 78, 44], [70, 70, 76, 77], [30.0, 40, 150, 190]])
IGNORED = np.array([[120.0, 0, 192, 60]])


def test_anchors_are_assigned_as_one_by_one() -> None:
    size = 192
    labels, offsets = rpn.assign(FACES, IGNORED, size)
    assert labels.shape == (6, 24, 24)
    faces = box_ops.square(FACES)
    anchors = {}
    for a, side in enumerate(rpn.SIDES):
        for r in range(24):
            for c in range(24):
                x, y = c * 8 + 4, r * 8 + 4
                anchors[a, r, c] = np.array([[x - side / 2, y - side / 2, x + side / 2, y + side / 2]])
    overlaps = {place: box_ops.iou(anchor, faces)[0] for place, anchor in anchors.items()}
    nearest = {max(overlaps, key=lambda place: overlaps[place][i]): i for i in range(len(faces))}
    for place, anchor in anchors.items():
        best = overlaps[place].max()
        if place in nearest or best >= rpn.POSITIVE:
            face = faces[nearest.get(place, int(overlaps[place].argmax()))]
            side, own = anchor[0, 2] - anchor[0, 0], face[2] - face[0]
            shift = (face[:2] + face[2:] - anchor[0, :2] - anchor[0, 2:]) / 2 / side
            assert labels[place] == 1
            np.testing.assert_allclose(offsets[(slice(None), *place)], [*shift, np.log(own / side)], atol=1e-5)
        else:
            nothing = best >= rpn.NEGATIVE or box_ops.coverage(anchor, IGNORED).max() >= 0.5
            assert labels[place] == (-1 if nothing else 0)
    assert (rpn.assign(FACES[:0], IGNORED[:0], size)[0] == 0).all()


def test_a_group_in_one_cell_has_a_side() -> None:
    heat, tags = torch.full((1, 5, 16, 16), -9.0), torch.zeros(1, 5, 16, 16)
    heat[:, :, 3, 4] = 5.0
    found = Heads.of("embedding", "argmax").find(tags, {"response": heat, "scale": tags}, thresholds(1))
    best = found.logit[0].argmax()
    assert found.side[0, best] == STRIDE
    assert found.centre[0, best].tolist() == [4.5 * STRIDE, 3.5 * STRIDE]


def test_a_view_of_few_anchors_has_as_many_proposals() -> None:
    maps = torch.zeros(1, 4 * len(rpn.SIDES), 1, 2)
    maps[0, 0, 0, 1] = 5.0  # of the smallest anchors
    found = rpn.propose(maps, thresholds(1))
    assert found.logit.isfinite().sum() <= 2 * len(rpn.SIDES) < rpn.PROPOSALS
    assert (found.logit[0, 0], found.side[0, 0]) == (5, rpn.SIDES[0])


def test_what_an_rpn_is_taught_it_proposes() -> None:
    labels, offsets = (torch.as_tensor(a) for a in rpn.assign(FACES, IGNORED, 192))
    taught = torch.cat([labels * 20 - 10, offsets.flatten(0, 1)])[None]
    assert rpn.anchor_loss(taught, labels[None], offsets[None], focal=False) < 0.05
    logit, centre, side = (t[0].numpy() for t in rpn.propose(taught, thresholds(1))[:3])
    assert (np.diff(logit) <= 0).all()
    found = np.concatenate([centre - side[:, None] / 2, centre + side[:, None] / 2], axis=1)[logit > 0]
    overlaps = box_ops.iou(box_ops.square(FACES), found)
    assert overlaps.max(axis=1).min() > 0.999
    assert overlaps.max(axis=0).min() > 0.999


def test_tags_are_pulled_together_and_pushed_apart_as_in_loops() -> None:
    tags = maps(2, 3, 8, 8)
    cells = torch.randint(0, 8, (2, 4, 3, 2), generator=torch.Generator().manual_seed(1))
    weights = torch.ones(2, 4, 3)
    weights[0, 1, 2], weights[1, 2:] = 0, 0
    found = embedding.tag_loss(tags, (cells.double() + 0.5) * STRIDE, weights)
    pulls, pushes = [], []
    for image in range(2):
        means = []
        for face in range(4):
            rows = [k for k in range(3) if weights[image, face, k]]
            values = [float(tags[image, k, cells[image, face, k, 1], cells[image, face, k, 0]]) for k in rows]
            if values:
                means.append(np.mean(values))
                pulls += [(v - means[-1]) ** 2 for v in values]
        pushes += [math.exp(-((a - b) ** 2) / 2) for i, a in enumerate(means) for b in means[:i]]
    assert float(found) == pytest.approx(np.mean(pulls) + np.mean(pushes), rel=1e-5)


def test_tags_tell_whose_landmarks_are_whose() -> None:
    """Two faces whose landmarks interleave."""
    cells = torch.tensor([[[4, 4], [12, 4], [8, 9]], [[6, 6], [14, 6], [10, 11]]])  # (face, landmark, column and row)
    heat, tags = torch.full((1, 3, 20, 20), -8.0), torch.zeros(1, 3, 20, 20)
    for face in range(2):
        for k in range(3):
            column, row = cells[face, k]
            heat[0, k, row, column], tags[0, k, row, column] = 5 + face, 3.0 * face
    points, likelihood = embedding.group(heat, tags, 2)
    assert (likelihood > 0.99).all()
    truth = (cells.float() + 0.5) * STRIDE
    for hub in points[0]:
        assert any(torch.equal(hub, face) for face in truth)
    for face in truth:
        assert sum(torch.equal(hub, face) for hub in points[0]) == 3


def some_boxes(seed: int, *shape: int) -> NDArray[np.float64]:
    """Boxes in float64 that mostly overlap."""
    drawn = np.random.default_rng(seed).uniform([0, 0, 12, 12], [8, 8, 24, 30], (*shape, 4))
    drawn[..., 2:] += drawn[..., :2]
    return drawn


def test_boxes_are_taught_by_the_generalised_iou_with_their_faces() -> None:
    """Against loops in float64: of each face's best proposal among those near enough; padding does not count."""
    squares, faces = box_ops.square(some_boxes(0, 2, 7)), some_boxes(1, 2, 3)
    faces[1, 2] = 0  # padding
    learned = some_boxes(2, 2, 7)
    faces[0, 1] += 100  # has no proposal
    around = box_ops.square(faces)
    logit = np.random.default_rng(3).normal(0, 1, (2, 7))
    logit[0, logit[0].argmax()] = -np.inf
    losses = []
    for i, k in product(range(2), range(3)):
        near = [j for j in range(7) if box_ops.iou(squares[i, j : j + 1], around[i])[0, k] >= boxes.NEAR]
        near = [j for j in near if np.isfinite(logit[i, j])]
        if near:
            a, b = learned[i, max(near, key=lambda j: logit[i, j])], faces[i, k]
            common = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
            hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
            losses.append(1 - common / union + (hull - union) / hull)
    arguments = [torch.tensor(value) for value in (learned, squares, faces, around, logit)]
    assert len(losses) == 4
    assert float(boxes.box_loss(*arguments)) == pytest.approx(np.mean(losses), rel=1e-12)
    arguments[1] = arguments[1] + 200
    assert float(boxes.box_loss(*arguments)) == 0


def test_boxes_decode_as_in_numpy_and_the_loss_has_the_gradient_of_its_values() -> None:
    squares, faces = (torch.tensor(box_ops.square(some_boxes(0, 1, 4)))), torch.tensor(some_boxes(1, 1, 4))
    centre, side = (squares[..., :2] + squares[..., 2:]) / 2, squares[..., 2] - squares[..., 0]
    offsets = 0.3 * torch.randn(1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = box_ops.decode_rcnn(offsets.numpy(), squares.numpy())
    np.testing.assert_allclose(boxes.decode(offsets, centre, side), wanted, rtol=1e-12)
    loss = partial(boxes.box_loss, squares=squares, faces=faces, around=squares, logit=torch.zeros(1, 4))
    assert torch.autograd.gradcheck(lambda o: loss(boxes.decode(o, centre, side)), offsets.requires_grad_())


@pytest.mark.parametrize("backbone", ["drnet", "lite", "slim"])
def test_a_new_box_is_the_proposal_and_a_learned_one_the_face(backbone: str) -> None:
    """The loss of the boxes does not move the proposals."""
    heads, face = Heads.of(backbone=backbone, boxes=True), [20.0, 18, 46, 52]
    labels = Labels(
        np.array([face], np.float32), np.zeros((1, 5, 2)), np.zeros((1, 5)), np.zeros(1, bool), np.zeros(1, int), 0
    )
    batch = {name: torch.as_tensor(v) for name, v in heads.targets(np.random.default_rng(0), [labels], 64).items()}
    network = build(5, backbone, heads)
    made = network(torch.rand(1, 3, 64, 64))
    assert (made["box"] == 0).all()
    scale = torch.full_like(made["scale"], -9)
    stride = network.stride
    scale[0, scales.encode(np.array(34)), 35 // stride, 33 // stride] = 3.0
    scale.requires_grad_()
    maps = made | {"scale": scale}
    found = heads.find(scale, maps, thresholds(1, 0.0))
    half = found.side[..., None] / 2
    torch.testing.assert_close(found.box, torch.cat([found.centre - half, found.centre + half], dim=-1))
    loss = heads.losses(maps, batch)["box"]
    assert torch.autograd.grad(loss, scale, allow_unused=True, retain_graph=True) == (None,)
    (slope,) = torch.autograd.grad(loss, maps["box"])
    assert slope.abs().sum(1).count_nonzero() == 1
    square = found.box[0].detach().double().numpy()
    taught = torch.from_numpy(box_ops.encode_rcnn(np.array([face]), square)).float()
    maps["box"] = taught[:, :, None, None].expand_as(maps["box"])
    np.testing.assert_allclose(heads.find(scale, maps, thresholds(1, 0.0)).box[0].detach(), [face], atol=1e-3)
    assert float(heads.losses(maps, batch)["box"]) == pytest.approx(0, abs=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, 6)
    (folder / "recipe.toml").write_text('train = ["scenes.json"]\nval = ["scenes.json"]\n[kpnet]\n')
    return folder


@pytest.mark.parametrize("focal", ["true", "false"])
@pytest.mark.parametrize(
    ("extraction", "grouping", "backbone", "learned"),
    [(*names, "drnet", "false") for names in VARIANTS]
    + [(*names, "lite", "false") for names in (VARIANTS[0], VARIANTS[4])]
    + [("soft-argmax", "scalemap", "drnet", "true"), ("argmax", "scalemap", "lite", "true")]
    + [("soft-argmax", "scalemap", "slim", "true"), ("regression", "rpn", "slim", "false")],
)
def test_every_parameter_of_a_variant_has_a_gradient(
    data: Path,
    extraction: str,
    grouping: str,
    backbone: str,
    learned: str,
    focal: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lineament.methods.kpnet.heads.scalemap.FAINT", ALL)  # proposals of a new network are faint
    settings = {"extraction": f'"{extraction}"', "grouping": f'"{grouping}"', "focal": focal}
    settings |= {"backbone": f'"{backbone}"', "boxes": learned}
    settings |= {"canvas": "96", "batch": "4", "held_out": "0"}
    recipe = data / "copy.toml"
    copy_recipe(data / "recipe.toml", recipe, settings)
    task = training.prepare("kpnet", data, training.read(recipe), data)
    batch = {name: torch.as_tensor(value) for name, value in task.batch(0).items()}
    losses = task.losses(task.network(to_input(batch["pixels"])), batch)
    assert all(torch.isfinite(value) and value > 0 for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in task.network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("extraction", "grouping"), [("sofa", "scalemap"), ("argmax", "tree"), ("soft-argmax", "embedding")]
)
def test_other_variants_are_refused(extraction: str, grouping: str) -> None:
    with pytest.raises(OptionError, match=r"extraction|grouping"):
        training.KPNetRecipe(train=("a.json",), extraction=extraction, grouping=grouping)
    with pytest.raises(OptionError, match="boxes are learned with the grouping 'scalemap', found 'rpn'"):
        training.KPNetRecipe(train=("a.json",), grouping="rpn", boxes=True)
    with pytest.raises(OptionError, match="there are: drnet, hourglass, lite, slim"):
        training.KPNetRecipe(train=("a.json",), backbone="resnet")


@pytest.mark.parametrize(
    ("extraction", "grouping"), [("soft-argmax", "scalemap"), ("argmax", "rpn"), ("argmax", "embedding")]
)
def test_two_processes_have_the_loss_of_one(
    data: Path, extraction: str, grouping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = training.KPNetRecipe(
        train=("scenes.json",), val=("scenes.json",), canvas=96, batch=4, held_out=0, seed=2, light=None, quality=None,
        occlusion=None, extraction=extraction, grouping=grouping,
    )  # fmt: skip
    # each process has its own random jitter
    monkeypatch.setattr("lineament.methods.kpnet.heads.base.near_proposals", lambda rng, boxes: box_ops.square(boxes))
    check_that_two_processes_learn_as_one(training.prepare("kpnet", data, recipe, data), monkeypatch)


def test_faces_on_canvases_are_never_mirrored_inside_out(data: Path) -> None:
    """Right stays right in mirrored photos, since landmarks are swapped."""
    recipe = training.KPNetRecipe(train=("scenes.json",), val=("scenes.json",), canvas=96, batch=16, held_out=0)
    batch = training.prepare("kpnet", data, recipe, data).batch(0)
    whole = batch["weights"].all(axis=2)
    right, left, _, *mouth = np.moveaxis(batch["points"][whole], 1, 0)
    across, down = left - right, np.mean(mouth, axis=0) - (left + right) / 2
    assert len(across) > 16
    assert (across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0] > 0).all()


def test_printed_proposals_are_cells_and_bins() -> None:
    scale = torch.full((1, BINS, 24, 24), -9.0)
    scale[0, 29:32, 10, 7] = torch.tensor([2.0, 3.0, 2.5])
    scale[0, 30, 10, 8] = 2.8
    ours, printed = (
        Heads.of(printed=printed).grouping.propose(scale, {"scale": scale}, thresholds(1, 0.0))
        for printed in (False, True)
    )
    assert printed.centre[0].tolist() == [[15, 21]]
    assert float(printed.side) == pytest.approx(scales.decode(np.array(30)), rel=1e-5)
    assert ours.centre[0, 0, 0] > 15.5
    assert float(ours.side) > float(printed.side)
