"""MaskFace's targets and losses, box and landmark round trips, and a short training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from torch import Tensor, nn  # noqa: E402

from lineament import boxes as box_ops  # noqa: E402
from lineament.anchors import all_anchors  # noqa: E402
from lineament.data.cache import Photos  # noqa: E402
from lineament.data.canvases import Composer, Labels  # noqa: E402
from lineament.data.sample import Sample  # noqa: E402
from lineament.errors import DataError, OptionError  # noqa: E402
from lineament.methods.backbones import BACKBONES  # noqa: E402
from lineament.methods.maskface import training  # noqa: E402
from lineament.methods.maskface.levels import levels  # noqa: E402
from lineament.methods.maskface.network import MaskFace  # noqa: E402
from lineament.methods.maskface.targets import (  # noqa: E402
    BACKGROUND,
    FACE,
    IGNORED,
    jittered,
    match,
    matched,
    proposals,
)
from lineament.methods.maskface.training import MaskFaceRecipe, MaskFaceTask, focal, spatial  # noqa: E402
from lineament.schemas import FIVE, SIXTY_EIGHT, convert  # noqa: E402
from lineament.train.loop import train  # noqa: E402
from lineament.train.task import WHOLE, Batch, Part  # noqa: E402
from networks import Stairs  # noqa: E402
from scenes import scene, write_data  # noqa: E402
from tasks import check_that_two_processes_learn_as_one  # noqa: E402

NONE = np.zeros((0, 4))
RECIPE = MaskFaceRecipe(train=(), canvas=128, jitter=0.0, regions=(6,), pretrained="")


def canvas(
    boxes: Sequence[Sequence[float]], ignore: Sequence[bool] = (), known: Sequence[bool] = (), schema: int = 0
) -> Labels:
    """Labels of faces whose landmarks lie on the diagonal of their boxes."""
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    n, k = len(corners), (5, 68)[schema]
    share = np.linspace(0.15, 0.85, k, dtype=np.float32)[:, None]
    points = corners[:, None, :2] + share * (corners[:, None, 2:] - corners[:, None, :2])
    weights = np.repeat(np.array(known or [True] * n, np.float32).reshape(n, 1), k, axis=1)
    flags = np.array(ignore or [False] * n, bool)
    return Labels(corners, points, weights, flags, schema=np.full(n, schema), outside=0)


def task(recipe: MaskFaceRecipe = RECIPE, schemas: Sequence[Any] = (FIVE,)) -> MaskFaceTask:
    composer = SimpleNamespace(schemas=tuple(schemas))
    return MaskFaceTask(nn.Identity(), recipe, composer, composer, {})  # type: ignore[arg-type]


def by_rule(size: int, faces: np.ndarray) -> tuple[list[int], list[int]]:
    """The matching of section 3.2, anchor by anchor."""
    overlap = box_ops.iou(all_anchors(size, size, levels()).astype(np.float32), faces.astype(np.float32))
    best = overlap.max(axis=0)
    labels, owners = [], []
    for row in overlap:
        most = row.max()
        wanted = any(value == top > 0 for value, top in zip(row, best, strict=True))
        labels.append(FACE if most > 0.5 or wanted else IGNORED if most >= 0.3 else BACKGROUND)
        owners.append(int(row.argmax()) if labels[-1] == FACE else -1)
    return labels, owners


@pytest.mark.parametrize("seed", range(3))
def test_anchors_are_matched_by_the_rule(seed: int) -> None:
    random = np.random.default_rng(seed)
    centres, sides = random.uniform(0, 128, (9, 2)), np.exp(random.uniform(np.log(8), np.log(160), (9, 1)))
    halves = sides / 2 * random.uniform(0.7, 1.3, (9, 2))
    faces = np.concatenate([centres - halves, centres + halves], axis=1)
    found = match(levels(), 128, faces, NONE)
    labels, owners = by_rule(128, faces)
    assert found.label.tolist() == labels
    assert found.face.tolist() == owners
    assert set(found.face) == {-1, *range(9)}


@pytest.mark.parametrize("side", [3.0, 6, 1500])
def test_a_face_of_a_size_that_no_anchor_has_gets_its_best_anchors(side: float) -> None:
    face = np.array([[61.0, 63, 61 + side, 63 + side]])
    found = match(levels(), 128, face, NONE)
    overlap = box_ops.iou(all_anchors(128, 128, levels()), face)[:, 0]
    assert overlap.max() < 0.3
    assert (found.label == FACE).any()
    assert overlap[found.label == FACE] == pytest.approx(overlap.max())
    assert (found.label[overlap < overlap.max() - 1e-6] == BACKGROUND).all()


def test_a_wanted_anchor_belongs_to_the_face_that_it_overlaps_most() -> None:
    (anchor,) = all_anchors(128, 128, levels())[[0]] + 64
    small = np.array([*anchor[:2] + 5, *anchor[:2] + 9])  # this anchor is also one of its best
    found = match(levels(), 128, np.stack([small, anchor]), NONE)
    at = np.flatnonzero((all_anchors(128, 128, levels()) == anchor).all(axis=1))
    assert found.face[at].tolist() == [1]


def test_ignored_regions_are_no_background_and_hide_no_faces() -> None:
    region, face = np.array([[20.0, 20, 100, 100]]), np.array([[40.0, 40, 72, 72]])
    boxes = all_anchors(128, 128, levels())
    found = match(levels(), 128, face, region)
    inside = box_ops.coverage(boxes, region)[:, 0] > 0.5
    assert BACKGROUND not in found.label[inside]
    assert (found.label[~inside & (box_ops.iou(boxes, region)[:, 0] >= 0.31)] == IGNORED).all()
    np.testing.assert_array_equal(found.label == FACE, match(levels(), 128, face, NONE).label == FACE)
    assert (match(levels(), 128, NONE, region).label != FACE).all()


def test_without_faces_all_is_background() -> None:
    found = match(levels(), 128, NONE, NONE)
    assert len(found.label) == len(all_anchors(128, 128, levels()))
    assert (found.label == BACKGROUND).all()
    assert (found.face == -1).all()


def test_boxes_and_landmarks_are_what_their_targets_decode_to() -> None:
    faces = [[[10, 12, 40, 50], [60, 60, 100, 112]], [], [[30, 5, 52, 35]]]
    batch = task().targets(np.random.default_rng(0), [canvas(boxes) for boxes in faces])
    image, anchor = batch["positive"].T
    decoded = box_ops.decode_rcnn(batch["offset"], all_anchors(128, 128, levels())[anchor])
    own = [np.abs(np.array(faces[i]) - box).max(axis=1).min() for i, box in zip(image, decoded, strict=True)]
    assert max(own) < 1e-4
    assert set(image) == {0, 2}
    assert batch["boxes_5"].tolist() == [*faces[0], *faces[2], *[[0, 0, 1, 1]] * 3]
    assert batch["image_5"].tolist() == [0, 0, 2, 0, 0, 0]
    assert batch["weights_5"].sum(axis=1).tolist() == [5, 5, 5, 0, 0, 0]
    # the centre of the target cell is within half a cell of the landmark
    sides = batch["boxes_5"][:, None, 2:] - batch["boxes_5"][:, None, :2]
    cell = np.floor((batch["points_5"] - batch["boxes_5"][:, None, :2]) / sides * 56)
    back = batch["boxes_5"][:, None, :2] + (cell + 0.5) / 56 * sides
    assert np.abs((back - batch["points_5"]) / sides)[:3].max() <= 0.5 / 56 + 1e-6


def test_landmarks_are_learnt_of_some_faces_that_have_them() -> None:
    rows = [
        canvas(
            [[i, i, i + 30, i + 30] for i in range(20)],
            ignore=[True] * 5 + [False] * 15,
            known=[i % 2 > 0 for i in range(20)],
        )
    ]
    batch = task(replace(RECIPE, regions=(4,))).targets(np.random.default_rng(0), rows)
    assert batch["boxes_5"].shape == (4, 4)
    chosen = batch["boxes_5"][:, 0]
    assert set(chosen) <= set(range(5, 20, 2))
    assert len(set(chosen)) == 4
    others = task(replace(RECIPE, regions=(4,))).targets(np.random.default_rng(1), rows)["boxes_5"][:, 0]
    assert set(chosen) != set(others)


def test_few_landmarks_are_learnt_of_faces_with_many() -> None:
    recipe = replace(RECIPE, landmarks=("5", "68"), regions=(3, 2))
    rich = canvas([[60, 60, 100, 112]], schema=1)
    rich.weights[0, 36:42] = 0.1  # contains one eye only
    plain = canvas([[10, 12, 40, 50]])
    plain = replace(
        plain,
        **{
            n: np.concatenate([getattr(plain, n), np.zeros_like(getattr(rich, n)[:, 5:])], axis=1)
            for n in ("landmarks", "weights")
        },
    )
    batch = task(recipe, (FIVE, SIXTY_EIGHT)).targets(np.random.default_rng(0), [plain, rich])
    assert batch["image_5"].tolist() == [0, 1, 0]
    np.testing.assert_allclose(batch["points_5"][1], convert(rich.landmarks, SIXTY_EIGHT, FIVE)[0], rtol=1e-6)
    np.testing.assert_allclose(batch["weights_5"][:2], [[1] * 5, [0.1, 1, 1, 1, 1]])
    assert batch["image_68"].tolist() == [1, 0]
    assert batch["weights_68"].sum(axis=1) == pytest.approx([62.6, 0])


def test_regions_differ_from_their_boxes_as_the_jitter_says() -> None:
    boxes = jittered(np.random.default_rng(0), np.tile([100.0, 200, 160, 350], (4000, 1)), 0.1)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    assert (centres - [130, 275]).std(axis=0) == pytest.approx([6, 15], rel=0.05)
    assert np.log(sides / [60, 150]).std(axis=0) == pytest.approx([0.1, 0.1], rel=0.05)


@pytest.mark.parametrize("source", ["labels", "proposals"])
def test_regions_reach_as_far_around_faces_as_the_recipe_says(source: str) -> None:
    made = task(replace(RECIPE, regions_from=source, regions=(1,), region_margin=0.25))
    arrays = made.targets(np.random.default_rng(0), [canvas([[40, 44, 80, 92]])])
    batch = {name: torch.as_tensor(value) for name, value in arrays.items()}
    batch["pixels"] = torch.zeros(1, 128, 128, 3, dtype=torch.uint8)
    network = Knowing(Stairs(), {"5": 5}, width=8, head_width=8, head_layers=1)
    network.targets = batch
    outputs = batch | made.forward(network, batch)
    assert outputs["boxes_5"][0].tolist() == pytest.approx([30, 32, 90, 104], abs=1e-3)


def test_proposals_are_sure_do_not_overlap_and_belong_to_faces_of_their_image() -> None:
    anchors = np.array([[0.0, 0, 20, 20], [1, 0, 21, 20], [40, 40, 80, 80], [90, 90, 99, 99]])
    logit = np.array([[3.0, 4, -3.8, -4], [-9, -9, 0.5, -9]])
    offset = np.zeros((2, 4, 4))
    offset[1, 2] = [0.05, 0, 0, 0]  # 2 pixels to the right
    boxes, image = proposals(logit, offset, anchors)
    # -3.8 is a probability of 0.022, -4 one of 0.018
    assert boxes.tolist() == [[1, 0, 21, 20], [42, 40, 82, 80], [40, 40, 80, 80]]
    assert image.tolist() == [0, 1, 0]
    faces, of = np.array([[40.0, 40, 80, 80], [0, 0, 20, 20], [0, 0, 9, 9]]), np.array([1, 0, -1])
    rows, face = matched(boxes, image, faces, of)
    assert rows.tolist() == [0, 1]  # the face at 40 is in image 0, not here
    assert face.tolist() == [1, 0]
    for none in (matched(boxes, image, NONE, np.zeros(0, int)), matched(NONE, image[:0], faces, of)):
        assert [len(part) for part in none] == [0, 0]


class Knowing(MaskFace):
    """Replaces the network: outputs the targets. In one image, faces are 3 pixels too far to the right."""

    targets: dict[str, Tensor]

    def detect(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        outputs = super().detect(features)
        image, anchor = self.targets["positive"].unbind(1)
        logit, offset = outputs["logit"] - 20, outputs["offset"] * 0
        logit[image, anchor] += 25
        offset[image, anchor] += self.targets["offset"]
        boxes = torch.tensor(all_anchors(128, 128, levels()))
        offset[..., 0] += torch.tensor([0.0, 3])[: len(offset), None] / (boxes[:, 2] - boxes[:, 0])
        return {"logit": logit, "offset": offset}


def test_landmarks_can_be_learnt_in_the_networks_own_boxes() -> None:
    faces = [[[10.0, 12, 40, 50], [60, 60, 100, 112]], [[30, 5, 62, 45]]]
    made = task(replace(RECIPE, regions_from="proposals", regions=(4,)))
    arrays = made.targets(np.random.default_rng(0), [canvas(boxes) for boxes in faces])
    batch = {name: torch.as_tensor(value) for name, value in arrays.items()}
    batch["pixels"] = torch.zeros(2, 128, 128, 3, dtype=torch.uint8)
    torch.manual_seed(0)
    network = Knowing(Stairs(), {"5": 5}, width=8, head_width=8, head_layers=1)
    network.targets = batch
    outputs = made.forward(network, batch)
    regions = (outputs[f"{part}_5"] for part in ("image", "boxes", "points", "weights"))
    found = {
        (int(i), *np.round(box.tolist(), 3)): points.tolist()
        for i, box, points, weights in zip(*regions, strict=True)
        if weights.any()
    }
    assert set(found) == {(0, *faces[0][0]), (0, *faces[0][1]), (1, 33, 5, 65, 45)}
    for (_, *box), points in found.items():
        own = [boxes for boxes in (*faces[0], *faces[1]) if boxes[1] == box[1]]
        assert points == canvas(own).landmarks[0].tolist()
    losses = made.losses(outputs, batch)
    losses["landmarks_5"].backward()
    assert network.landmarks is not None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.landmarks.parameters())
    network.targets = {"positive": batch["positive"][:0], "offset": batch["offset"][:0]}
    nothing = made.losses(made.forward(network, batch), batch)
    assert float(nothing["landmarks_5"].detach()) == 0  # as in the first steps


TINY = MaskFaceRecipe(
    train=("scenes.json",), val=("scenes.json",), canvas=128, batch=4, steps=4, validate_every=2, held_out=4, workers=0,
    light=None, quality=None, occlusion=None, backbone="stairs", pretrained="", width=8, head_width=8, head_layers=1,
    jitter=0.0, optimizer="sgd", learning_rate=0.05, warmup=0, average=0.5, seed=3,
)  # fmt: skip


def tiny(recipe: MaskFaceRecipe, data: Path) -> MaskFaceTask:
    """A task on drawn scenes with the smallest backbone."""
    write_data(data, 4)
    return training.prepare("maskface", data, recipe, data / "run")


def test_without_a_keypoint_head_boxes_alone_are_enough(tmp_path: Path) -> None:
    write_data(tmp_path, 2, landmarks=False)
    with pytest.raises(DataError, match="no face with all its landmarks, from which maskface learns"):
        training.prepare("maskface", tmp_path, TINY, tmp_path / "run")
    made = training.prepare("maskface", tmp_path, replace(TINY, keypoint_head=False), tmp_path / "run")
    batch = {name: torch.as_tensor(value) for name, value in made.batch(0).items()}
    assert set(made.losses(made.forward(made.network, batch), batch)) == {"score", "box"}


@pytest.fixture(autouse=True)
def _stairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "stairs", Stairs)


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_that_two_processes_learn_as_one(tiny(TINY, tmp_path), monkeypatch)


def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path: Path) -> None:
    recipe = replace(TINY, regions_from="proposals", jitter=0.1)
    whole = train(tiny(recipe, tmp_path), recipe, tmp_path / "whole").state_dict()
    broken = tiny(recipe, tmp_path)
    make = broken.batch

    def stopped(step: int, part: Part = WHOLE) -> Batch:
        if step == 3:
            raise KeyboardInterrupt
        return make(step, part)

    broken.batch = stopped  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train(broken, recipe, tmp_path / "parts")
    resumed = train(tiny(recipe, tmp_path), recipe, tmp_path / "parts").state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_boxes_without_an_area_give_no_target(tmp_path: Path) -> None:
    picture, boxes, points = scene(0)
    picture.save(tmp_path / "a.png")
    flat = np.array([[20.0, 20, 20, 60], [80, 30, 120, 30], [50, 50, 50, 50]])
    labelled = Sample.of(
        tmp_path / "a.png", [*boxes, *flat], [*points, *np.tile([50.0, 50], (3, 5, 1))], size=picture.size
    )
    recipe = replace(RECIPE, regions=(8,), light=None, quality=None, occlusion=None, batch=4)
    composer = Composer(Photos.build([labelled], tmp_path / "cache"), recipe.composition, recipe.labels)
    batches = [MaskFaceTask(nn.Identity(), recipe, composer, composer, {}).batch(step) for step in range(5)]
    assert all(np.isfinite(values).all() for batch in batches for values in batch.values())
    assert any(len(batch["offset"]) for batch in batches)
    assert not any((batch["boxes_5"][:, 2:] <= batch["boxes_5"][:, :2]).any() for batch in batches)


def test_the_focal_loss_is_equation_2() -> None:
    random = torch.Generator().manual_seed(0)
    logit = (4 * torch.randn(2, 7, dtype=torch.float64, generator=random)).requires_grad_()
    label = torch.tensor([[1, 0, -1, 0, 1, 0, 0], [0, 0, 1, -1, -1, 0, 0]])
    expected = 0.0
    for value, kind in zip(logit.flatten().tolist(), label.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-value))
        expected -= 0.25 * (1 - p) ** 2 * math.log(p) if kind == FACE else 0
        expected -= 0.75 * p**2 * math.log(1 - p) if kind == BACKGROUND else 0
    loss = focal(logit, label, 0.25, 2.0)
    assert float(loss.detach()) == pytest.approx(expected / 3, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, logit)
    assert (gradient[label == IGNORED] == 0).all()
    step = 1e-6 * torch.randn(2, 7, dtype=torch.float64, generator=random)
    change = float((focal(logit + step, label, 0.25, 2.0) - focal(logit - step, label, 0.25, 2.0)).detach()) / 2
    assert float((gradient * step).sum()) == pytest.approx(change, rel=1e-6)


@pytest.mark.parametrize("value", [-200.0, 200.0])
def test_the_focal_loss_is_finite_far_out_and_without_faces(value: float) -> None:
    logit = torch.full((1, 2), value, requires_grad=True)
    loss = focal(logit, torch.tensor([[0, 1]]), 0.25, 2.0) + focal(logit, torch.tensor([[0, 0]]), 0.25, 2.0)
    loss.backward()
    assert loss.isfinite()
    assert logit.grad is not None
    assert logit.grad.isfinite().all()


def test_the_landmarks_loss_is_equation_4() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 2, 8, 8)) * 3
    boxes = np.array([[10.0, 20, 50, 60], [0, 0, 16, 24], [5, 5, 6, 6]])
    points = np.array(
        [[[10.0, 20], [49.99, 41]], [[7.9, 23.9], [8.1, 0]], [[4.9, 5.5], [99, 5.5]]]
    )  # the last one lies outside
    weights = np.array([[1.0, 0.5], [0.7, 0], [1, 1]])
    cells = {(0, 0): (0, 0), (0, 1): (4, 7), (1, 0): (7, 3)}  # row, column
    total = 0.0
    for (i, k), cell in cells.items():
        odds = np.exp(logits[i, k])
        total -= weights[i, k] * math.log(odds[cell] / odds.sum())
    given = (torch.tensor(values) for values in (logits, boxes, points, weights))
    assert float(spatial(*given)) == pytest.approx(total / 2.2, rel=1e-12)
    none = spatial(*(torch.tensor(values) for values in (logits, boxes, points, 0 * weights)))
    assert float(none) == 0


def test_a_recipe_says_what_does_not_fit() -> None:
    with pytest.raises(OptionError, match="norm is group or batch, found 'layer'"):
        MaskFaceRecipe(train=(), norm="layer")
    with pytest.raises(OptionError, match=r"regions needs one number for each of .* \('5', '68'\), found \(48,\)"):
        MaskFaceRecipe(train=(), landmarks=("5", "68"))
