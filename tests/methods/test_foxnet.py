"""FoxNet's network, losses, targets and candidates: against the equations, and the joints between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")

from torch import Tensor, nn  # noqa: E402

from lineament.data.canvases import Labels  # noqa: E402
from lineament.data.scenes import NONE, Arrangement, Scene  # noqa: E402
from lineament.errors import DataError, OptionError  # noqa: E402
from lineament.methods.backbones.efficientnet_lite import EfficientNetLite0  # noqa: E402
from lineament.methods.foxnet import losses, targets, training  # noqa: E402
from lineament.methods.foxnet.export import Candidates  # noqa: E402
from lineament.methods.foxnet.losses import MARGINS, Margins  # noqa: E402
from lineament.methods.foxnet.network import POOLS, FoxBlock, FoxNet, coordinates  # noqa: E402
from lineament.schemas import FIVE  # noqa: E402
from lineament.train.task import generator, tensors  # noqa: E402
from networks import unlike  # noqa: E402
from scenes import scene, write_data  # noqa: E402

RNG = np.random.default_rng(4)


def network(**options: Any) -> FoxNet:
    torch.manual_seed(0)
    return FoxNet(EfficientNetLite0(), {"5": 5}, **{"width": 16, "levels": 4} | options)


def test_a_fox_block_is_pools_of_what_is_there_and_a_point_wise_convolution() -> None:
    block = unlike(FoxBlock(3, "batch"))
    x = torch.randn(1, 3, 5, 6, dtype=torch.float64)
    pooled = torch.zeros(1, 12, 5, 6, dtype=torch.float64)
    for p, side in enumerate(POOLS):
        for row in range(5):
            for column in range(6):
                r = side // 2
                there = x[0, :, max(row - r, 0) : row + r + 1, max(column - r, 0) : column + r + 1]
                pooled[0, 3 * p : 3 * p + 3, row, column] = there.mean(dim=(1, 2))
    torch.testing.assert_close(block(x), block.point(pooled).relu())


@pytest.mark.parametrize(("stride", "stages"), [(4, 1), (4, 3), (8, 2)])
def test_maps_have_the_stride_and_skips_go_through_fox_blocks(stride: int, stages: int) -> None:
    net = network(stride=stride, stages=stages).eval()
    assert net.multiple == stride * 8
    assert len(net.fox) == 4
    outputs = net(torch.rand(2, 3, net.multiple, 2 * net.multiple) * 255)
    for name, count in {"heat_5": 5, "embedding": 8, "size": 1}.items():
        assert outputs[name].shape == (2, count, net.multiple // stride, 2 * net.multiple // stride)
    assert outputs["heat_5"].sigmoid().max() < 0.1  # the prior: no landmarks


def test_the_light_network_has_at_most_three_million_parameters() -> None:
    recipe = training.FoxNetRecipe(train=(), landmarks=("5", "68"), pretrained="")
    assert sum(p.numel() for p in training.build(recipe).parameters()) < 3e6


def test_coordinates_tell_cells_apart_and_shapes_alike() -> None:
    placed = coordinates(torch.zeros(1, 3, 4, 8))
    assert placed[0, 0, 0].tolist() == pytest.approx(np.linspace(-7 / 8, 7 / 8, 8))
    assert placed[0, 1, :, 0].tolist() == pytest.approx([-3 / 8, -1 / 8, 1 / 8, 3 / 8])
    alike = torch.ones(1, 16, 4, 4)
    assert network().embed(alike)["embedding"].std(dim=(2, 3)).max() > 1e-3
    assert network(coordinates=False).embed(alike)["embedding"].std(dim=(2, 3)).max() < 1e-6


def written_out(x: np.ndarray, owner: np.ndarray, distance: str, margins: Margins, radius: float) -> dict[str, float]:
    """Equations 2 to 4, term by term."""
    sums: dict[str, list[float]] = {"pull": [], "push": [], "norm": []}

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        if distance == "euclidean":
            return float(np.linalg.norm(a - b))
        return float(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    for image, of in zip(x, owner, strict=True):
        members = [image[:, of == face].T for face in range(of.max() + 1) if (of == face).any()]
        centres = [each.mean(axis=0) for each in members]
        if not members:
            continue
        pull = [
            np.mean([max(apart(c, m) - margins.inner, 0) ** 2 for m in each])
            for c, each in zip(centres, members, strict=True)
        ]
        push = [
            max(2 * margins.outer - apart(a, b), 0) ** 2
            for i, a in enumerate(centres)
            for j, b in enumerate(centres)
            if i != j
        ]
        sums["pull"].append(float(np.mean(pull)))
        sums["norm"].append(float(np.mean([(np.linalg.norm(c) - radius) ** 2 for c in centres])))
        sums["push"] += [float(np.mean(push))] if push else []
    return {name: float(np.mean(values)) for name, values in sums.items()}


OWNER = RNG.integers(NONE, 3, (4, 5, 6))
OWNER[1], OWNER[2] = NONE, np.minimum(OWNER[2], 0)  # no face, one face
OWNER[3][OWNER[3] == 1] = 2  # a labelled face that is hidden


@pytest.mark.parametrize("distance", MARGINS)
@pytest.mark.parametrize("preset", ["working", "printed"])
def test_the_discriminative_loss_is_the_papers(distance: str, preset: str) -> None:
    x, owner = RNG.normal(size=(4, 8, 5, 6)), torch.tensor(OWNER)
    margins = MARGINS[distance][preset]
    found = losses.discriminative(torch.tensor(x), owner, distance=distance, margins=margins, radius=1.0)
    wanted = written_out(x, OWNER, distance, margins, 1.0)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(wanted, rel=1e-9)

    def total(values: Tensor) -> Tensor:
        parts = losses.discriminative(values, owner[:2], distance=distance, margins=margins, radius=0.7)
        return torch.stack(list(parts.values())).sum()

    assert torch.autograd.gradcheck(total, torch.tensor(x[:2, :3], requires_grad=True))


def test_faces_at_right_angles_cost_nothing_and_printed_margins_push_them_on() -> None:
    x = torch.zeros(1, 3, 1, 2, dtype=torch.float64)
    x[0, 0, 0, 0] = x[0, 1, 0, 1] = 1
    owner = torch.tensor([[[0, 1]]])
    working, printed = (
        losses.discriminative(x, owner, distance="cosine", margins=MARGINS["cosine"][name], radius=1)
        for name in ("working", "printed")
    )
    assert float(working["push"]) == 0
    assert float(printed["push"]) == 1
    none = losses.discriminative(x, owner - 5, distance="cosine", margins=MARGINS["cosine"]["working"], radius=1)
    assert all(float(value) == 0 for value in none.values())


def test_embeddings_of_length_0_have_finite_gradients() -> None:
    for distance in MARGINS:
        x = torch.zeros(1, 3, 2, 2, requires_grad=True)
        owner = torch.tensor([[[0, 1], [0, NONE]]])
        parts = losses.discriminative(x, owner, distance=distance, margins=Margins(0.1, 0.5), radius=1)
        torch.stack(list(parts.values())).sum().backward()
        assert torch.isfinite(x.grad).all()


def test_the_heat_loss_is_least_where_probability_and_bell_agree() -> None:
    bell = torch.tensor(RNG.uniform(0.01, 0.99, (1, 2, 3, 3)))
    weight = torch.ones_like(bell)
    weight[0, 1] = 0
    agreed = torch.logit(bell).requires_grad_()
    losses.heat(agreed, bell, weight).backward()
    assert agreed.grad.abs().max() < 1e-12
    other = torch.zeros_like(bell).requires_grad_()
    losses.heat(other, bell, weight).backward()
    assert ((bell[0, 0] - 0.5) * other.grad[0, 0] < 0).all()  # towards the target
    assert (other.grad[0, 1] == 0).all()
    p = torch.sigmoid(torch.tensor(0.3))
    expected = (p - 0.8) ** 2 * -(0.8 * p.log() + 0.2 * (1 - p).log())
    one = (torch.full((1, 1, 1, 1), value) for value in (0.3, 0.8, 1.0))
    assert float(losses.heat(*one)) == pytest.approx(float(expected), rel=1e-6)
    background = [torch.full((4, 1, 8, 8), value) for value in (0.3, 0.0, 1.0)]  # divided as for one landmark each
    assert float(losses.heat(*background)) == pytest.approx(float(-(64 * p**2 * (1 - p).log())), rel=1e-5)


def test_the_size_loss_is_over_cells_of_faces() -> None:
    predicted = torch.tensor([[[[1.0, 2, 9]]]])
    owner, side = torch.tensor([[[0, 1, NONE]]]), torch.tensor([[0.5, 4.0]])
    assert float(losses.size(predicted, owner, side)) == pytest.approx((0.5 + 2) / 2)


def labels(boxes: Any, points: Any, ignore: Any = None) -> Labels:
    points = np.asarray(points, np.float32)
    return Labels(
        boxes=np.asarray(boxes, np.float32),
        landmarks=points,
        weights=np.isfinite(points).all(axis=2).astype(np.float32),
        ignore=np.zeros(len(points), bool) if ignore is None else np.asarray(ignore),
        schema=np.zeros(len(points), int),
        outside=0,
    )


def test_cells_belong_to_the_nearer_face_and_to_none_that_is_ignored() -> None:
    none = np.full((3, 5, 2), np.nan)
    boxes = [[0, 0, 64, 64], [24, 24, 40, 40], [80, 80, 120, 120]]
    found = targets.owner(labels(boxes, none, [False, False, True]), [FIVE], 128, 4)
    assert found[8, 8] == 0  # the large face is nearer than the small one behind it
    assert not (found == 1).any()
    assert (found[20:] == NONE).all()
    found = targets.owner(labels(boxes[1:], none[1:]), [FIVE], 128, 4)
    assert (found[8, 8], found[25, 25]) == (0, 1)


def test_bells_stand_where_landmarks_are_and_what_nobody_marked_is_not_learnt() -> None:
    points = np.array([[[41.0, 33], [60, 33], [50, 45], [np.nan, np.nan], [58, 55]]])
    weights = np.array([[1, 0.7, 0.1, 0, 1]])
    boxes, unknown = np.array([[30.0, 20, 70, 64]]), np.array([[90.0, 90, 120, 120]])
    bell, weight = targets.bells(points, weights, boxes, unknown, 128, 4)
    assert bell.shape == weight.shape == (5, 32, 32)
    assert np.unravel_index(bell[0].argmax(), (32, 32)) == (8, 10)
    assert (weight[1, 8, 14], weight[2, 11, 12], weight[0, 0, 0]) == pytest.approx((0.7, 0.1, 1), abs=1e-3)
    assert bell[3].max() == 0
    assert (weight[3, 5:16, 8:17] == 0).all()  # it may be anywhere in the box
    assert (weight[:, 23:30, 23:30] == 0).all()


class Shown(nn.Module):
    """Replaces the network: outputs given maps."""

    stride, unit = 4, 32.0

    def __init__(self, heat: Tensor) -> None:
        super().__init__()
        self.heat, self.given = nn.ModuleDict({"5": nn.Identity()}), heat

    def features(self, pixels: Tensor) -> Tensor:
        return self.given

    def embed(self, features: Tensor) -> dict[str, Tensor]:
        n, _, h, w = features.shape
        cell = torch.arange(h * w, dtype=torch.float32).view(1, 1, h, w).expand(n, 2, h, w)
        return {"embedding": cell, "size": torch.ones(n, 1, h, w)}


def test_candidates_are_the_landmarks_that_targets_were_made_of() -> None:
    points = np.array([[[41.3, 33.9], [60.2, 33.1], [50.0, 45.6], [44.4, 54.9], [1.1, 2.3]]])
    bell, _ = targets.bells(points, np.ones((1, 5)), np.array([[10.0, 5, 80, 75]]), np.zeros((0, 4)), 128, 4)
    shown = Shown(torch.logit(torch.tensor(bell[None], dtype=torch.float32).clamp(1e-5, 1 - 1e-5)))
    found = Candidates(shown, "5")(torch.zeros(1, 1, 1, 3))
    peak, place = found["peak"][0].view(5, -1, 3)[:, :1], found["place"][0].view(5, -1, 2)[:, 0]
    assert peak[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(place[:4], points[0, :4], atol=0.1)
    assert np.abs(place[4].numpy() - points[0, 4]).max() < 4  # half of the Gaussian lies outside
    row, column = (points[0, 0] // 4).astype(int)[::-1]
    assert found["embedding"].view(1, 5, -1, 2)[0, 0, 0].tolist() == [row * 32 + column] * 2
    assert (found["size"] == 64).all()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, 6)
    (folder / "walls").mkdir()
    scene(9, faces=0)[0].save(folder / "walls" / "wall.png")
    return folder


TINY: dict[str, Any] = {
    **{"train": ("scenes.json",), "val": ("scenes.json",), "backgrounds": ("walls",), "pretrained": ""},
    **{"canvas": 64, "batch": 4, "held_out": 2, "width": 16, "levels": 4, "landmarks": ("5",)},
}


def test_scenes_and_photos_are_learnt_from(data: Path, tmp_path: Path) -> None:
    recipe = training.FoxNetRecipe(**TINY, scenes=Arrangement(share=0.6, faces=(2, 3), min_side=12))
    task = training.prepare("foxnet", data, recipe, tmp_path)
    kinds = [isinstance(task.composer.layout(generator(0, 0, i), 64), Scene) for i in range(20)]
    assert 0 < sum(kinds) < 20
    batch = task.batch(0)
    assert batch["bell_5"].shape == batch["weight_5"].shape == (4, 5, 16, 16)
    assert batch["owner"].max() > 0
    known = batch["owner"] >= 0
    sides = np.take_along_axis(batch["side"], batch["owner"].clip(0).reshape(4, -1), 1).reshape(known.shape)
    assert (32 * 2.0 ** sides[known] > 5).all()
    given = tensors(batch, torch.device("cpu"))
    parts = task.losses(task.forward(task.network, given), given)
    torch.stack(list(parts.values())).sum().backward()
    assert all(p.grad is not None for p in task.network.parameters() if p.requires_grad)
    with torch.no_grad():
        assert set(task.validate(task.network.eval())) > set(parts)


def test_scenes_without_backgrounds_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="photos without faces"):
        training.prepare("foxnet", data, training.FoxNetRecipe(**TINY | {"backgrounds": ()}), tmp_path)


def test_a_schema_that_no_face_has_is_refused(data: Path, tmp_path: Path) -> None:
    recipe = training.FoxNetRecipe(**TINY | {"landmarks": ("5", "68")})
    with pytest.raises(DataError, match=r'\(scenes.json\) have no face with landmarks of schema .68.; .*\["5"\]'):
        training.prepare("foxnet", data, recipe, tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"canvas": 100}, "multiple of 64"),
        ({"distance": "manhattan"}, "cosine, euclidean"),
        ({"margins": "wide"}, "working, printed"),
        ({"stride": 2}, "stride is 4 or 8"),
        ({"stages": 5}, "at most 4 at stride 4"),
    ],
)
def test_recipes_that_mean_nothing_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        training.FoxNetRecipe(**{"train": (), **change})


def test_margins_are_presets_that_can_be_replaced() -> None:
    assert training.FoxNetRecipe(train=()).wanted == Margins(0.1, 0.5)
    assert training.FoxNetRecipe(train=(), margins="printed", outer=0.8).wanted == Margins(1.0, 0.8)


def test_the_recipe_that_ships_is_read() -> None:
    recipe = training.read(Path(__file__).resolve().parents[2] / "recipes" / "foxnet.toml")
    assert recipe.scenes is not None
    recipe.scenes.check_room(recipe.canvas)
    assert recipe.landmarks == ("5", "68")
