"""MTCNN's training data: windows, their types and targets, batches and losses, against the paper."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")


from lineament import boxes as box_ops  # noqa: E402
from lineament.data.crops import CropSet, CropSetWriter, astray, jittered  # noqa: E402
from lineament.data.sample import Sample  # noqa: E402
from lineament.errors import DataError, OptionError  # noqa: E402
from lineament.methods import trained  # noqa: E402
from lineament.methods.candidates import Candidates  # noqa: E402
from lineament.methods.mtcnn import targets, training  # noqa: E402
from lineament.methods.mtcnn.adopt import adopt  # noqa: E402
from lineament.methods.mtcnn.network import PNet  # noqa: E402
from lineament.methods.mtcnn.targets import Kind  # noqa: E402
from lineament.runtime import load_graph  # noqa: E402
from lineament.train.checkpoint import phases_in  # noqa: E402
from lineament.train.run import run  # noqa: E402
from lineament.train.task import to_input  # noqa: E402
from lineament.weights import read_weights  # noqa: E402
from scenes import write_data  # noqa: E402


def a_sample(
    boxes: list[list[float]], *, ignore: list[bool] | None = None, size: tuple[int, int] = (200, 200)
) -> Sample:
    centre = np.array(boxes, float).reshape(-1, 2, 2).mean(axis=1)
    return Sample.of("x.png", boxes, np.repeat(centre[:, None], 5, axis=1), ignore=ignore, size=(200, 200))


def test_kinds_follow_the_papers_bounds() -> None:
    sample = a_sample([[50, 50, 150, 150]])

    def shifted(iou: float) -> list[float]:  # two squares of side 100, one moved by d: (100 - d) / (100 + d)
        d = 100 * (1 - iou) / (1 + iou)
        return [50 + d, 50, 150 + d, 150]

    windows = np.array([shifted(i) for i in (0.29, 0.31, 0.39, 0.41, 0.64, 0.66, 1.0)])
    kinds = targets.label(windows, sample).kind
    assert kinds.tolist() == [
        Kind.NEGATIVE, Kind.OTHER, Kind.OTHER, Kind.PART, Kind.PART, Kind.POSITIVE, Kind.POSITIVE,
    ]  # fmt: skip


def test_narrow_faces_have_positives_and_landmarks() -> None:
    sample = a_sample([[100, 40, 140, 140]])  # no square has an IoU of 0.65 with it
    windows = jittered(np.random.default_rng(0), sample.boxes, 200)
    assert box_ops.iou(windows, sample.boxes).max() < 0.65
    labelled = targets.label(windows, sample)
    assert 0.1 < (labelled.kind == Kind.POSITIVE).mean() < 0.9
    assert len(targets.with_landmarks(labelled).kind) == (labelled.kind == Kind.POSITIVE).sum()
    square = box_ops.square(sample.boxes)
    (whole,) = targets.label(square, sample).box
    assert box_ops.decode_corner(whole, square[0]).tolist() == [100, 40, 140, 140]  # the box to learn stays narrow


def test_ignored_and_tiny_faces_are_neither_face_nor_background() -> None:
    sample = a_sample([[10, 10, 60, 60], [100, 100, 105, 105], [120, 20, 180, 80]], ignore=[True, False, False])
    windows = np.array([[12, 12, 58, 58], [99, 99, 106, 106], [130, 130, 170, 170], [120, 20, 180, 80]], float)
    assert targets.label(windows, sample).kind.tolist() == [Kind.OTHER, Kind.OTHER, Kind.NEGATIVE, Kind.POSITIVE]


def test_faces_of_ten_pixels_are_learnt() -> None:
    sample = a_sample([[0, 0, 10, 4], [50, 50, 59.9, 59.9], [90, 90, 99, 100]])
    assert targets.learnable(sample).tolist() == [True, False, True]


def test_a_window_inside_an_ignored_region_is_no_background() -> None:
    """Even a small part of the region may be an unlabelled face of the crowd."""
    sample = a_sample([[0, 0, 100, 100], [150, 150, 190, 190]], ignore=[True, False])
    windows = np.array([[40, 40, 60, 60], [90, 40, 120, 70], [93, 40, 123, 70], [-20, -20, 125, 125.0]])
    assert box_ops.iou(windows[:1], sample.boxes[:1])[0, 0] < 0.05
    # inside; by a third; by less; mostly outside, but covering much of the region
    assert targets.label(windows, sample).kind.tolist() == [Kind.OTHER, Kind.OTHER, Kind.NEGATIVE, Kind.OTHER]


class Cascade:
    """Proposes and refines given windows, best first, and records its calls."""

    config = SimpleNamespace(nms_rnet=0.65)

    def __init__(self, proposed: list[list[float]], refined: list[list[float]]) -> None:
        self.found = {name: self._candidates(boxes) for name, boxes in (("proposed", proposed), ("refined", refined))}
        self.asked: list[tuple[Any, ...]] = []

    def _candidates(self, boxes: list[list[float]]) -> Candidates:
        n = len(boxes)
        return Candidates(
            np.array(boxes), np.linspace(1, 0.5, n), np.zeros((n, 5, 2)), np.zeros((n, 5)), np.zeros(n, int)
        )

    def propose(self, pyramids: Any, threshold: float, *, min_face: float, max_face: float | None) -> Candidates:
        self.asked.append(("propose", threshold, min_face, max_face))
        return self.found["proposed"]

    def refine(self, stage: str, pyramids: Any, found: Candidates, threshold: float) -> Candidates:
        assert found is self.found["proposed"]
        self.asked.append((stage, threshold))
        return self.found["refined"]


def test_each_stage_learns_from_what_those_before_it_let_through() -> None:
    sample = a_sample([[50, 50, 110, 110]])
    right, off, wrong = [50.0, 50, 110, 110], [65.0, 62, 125, 122], [[x, 140.0, x + 40, 180] for x in (0, 60, 120)]
    best, same = [52.0, 48, 112, 108], [52.0, 49, 112, 109]
    asking = {"pnet_threshold": 0.35, "rnet_threshold": 0.25, "min_face": 14}
    recipe = training.StageRecipe(train=(), jitter=0, proposals=1, **asking)

    def learnt(stage: str) -> tuple[list[tuple[list[float], int]], list[tuple[Any, ...]]]:
        cascade = Cascade([right, *wrong], [best, same, off, wrong[2], wrong[0]])
        chosen = training._choose(stage, sample, None, recipe, cascade, np.random.default_rng(0))  # type: ignore[arg-type]
        return list(zip(chosen.windows.tolist(), chosen.kind.tolist(), strict=True)), cascade.asked

    asked = ("propose", 0.35, 14, None)
    # the positives, and again for landmarks; the best part; the best negative
    assert learnt("rnet") == ([(right, 2), (right, 3), (wrong[0], 0)], [asked])
    assert learnt("onet") == ([(best, 2), (off, 1), (best, 3), (wrong[2], 0)], [asked, ("rnet", 0.25)])


def test_pnet_learns_from_windows_around_faces_and_beside_them() -> None:
    sample = a_sample([[50, 50, 110, 110]])
    recipe = training.StageRecipe(train=(), jitter=400, near=100, anywhere=50)
    chosen = training._choose("pnet", sample, None, recipe, None, np.random.default_rng(0))  # type: ignore[arg-type]
    counts = {kind: int((chosen.kind == kind).sum()) for kind in Kind}
    around = targets.label(jittered(np.random.default_rng(0), sample.boxes, 400), sample)
    assert counts[Kind.POSITIVE] == counts[Kind.LANDMARK] == (around.kind == Kind.POSITIVE).sum()
    parts = int((around.kind == Kind.PART).sum())
    assert 0.3 * parts < counts[Kind.PART] < 0.7 * parts  # every second one
    assert counts[Kind.OTHER] == 0
    assert 50 < counts[Kind.NEGATIVE] <= 150


def test_targets_lead_back_to_box_and_landmarks() -> None:
    sample = a_sample([[20, 30, 60, 80], [100, 100, 150, 170]])
    around = jittered(np.random.default_rng(0), sample.boxes, 10)
    assert around.shape == (20, 4)
    for codec in box_ops.CODECS:
        labelled = targets.label(around, sample, codec)
        back = box_ops.CODECS[codec].decode(labelled.box, labelled.windows)
        assert {tuple(b) for b in back.round(3)} == {(20, 30, 60, 80), (100, 100, 150, 170)}
    middles = box_ops.decode_points(labelled.points, labelled.windows)[:, 0]
    assert {tuple(m) for m in middles.round(3)} == {(40, 55), (125, 135)}
    sides = around[:, 2:] - around[:, :2]
    np.testing.assert_allclose(sides[:, 0], sides[:, 1])


def test_a_photo_without_faces_gives_negatives_only() -> None:
    sample = a_sample([])
    labelled = targets.label(astray(np.random.default_rng(0), sample.boxes, (200, 200), 5, 30), sample)
    assert labelled.kind.tolist() == [Kind.NEGATIVE] * 30


@pytest.fixture
def crops(tmp_path: Path) -> CropSet:
    rng = np.random.default_rng(0)
    with CropSetWriter(tmp_path / "set", 12, "digest") as writer:
        for _ in range(3):
            writer.add(
                rng.integers(0, 256, (40, 12, 12, 3), dtype=np.uint8),
                kind=rng.integers(0, 4, 40),
                box=rng.normal(size=(40, 4)).astype(np.float32),
                points=rng.uniform(0, 1, (40, 5, 2)).astype(np.float32),
            )
    return CropSet(tmp_path / "set")


def stage_of(crops: CropSet, **settings: Any) -> training.StageTask:
    return training.StageTask("pnet", PNet(), training.StageRecipe(train=("a.json",), **settings), crops, crops, {})


def test_batches_hold_the_papers_ratio_of_kinds(crops: CropSet) -> None:
    batch = stage_of(crops, batch=70).batch(1)
    assert np.bincount(batch["kind"]).tolist() == [30, 10, 10, 20]  # 3 : 1 : 1 : 2
    assert batch["pixels"].dtype == np.uint8
    assert batch["points"].shape == (70, 5, 2)


@pytest.mark.parametrize("codec", box_ops.CODECS)
def test_a_mirrored_batch_has_mirrored_labels(crops: CropSet, codec: str) -> None:
    """Each crop is one of the set or its mirror image, and its labels fit its pixels."""
    plain = {"light": None, "coarse": None, "batch": 70, "codec": codec}
    batch = stage_of(crops, mirror=1.0, **plain).batch(3)
    before = stage_of(crops, mirror=0.0, **plain).batch(3)
    np.testing.assert_array_equal(batch["pixels"], before["pixels"][:, :, ::-1])
    np.testing.assert_array_equal(batch["kind"], before["kind"])
    order = [1, 0, 2, 4, 3]  # left and right eye, and the mouth corners, are swapped
    np.testing.assert_allclose(batch["points"][..., 0], 1 - before["points"][:, order, 0], atol=1e-6)
    np.testing.assert_allclose(batch["points"][..., 1], before["points"][:, order, 1], atol=1e-6)
    window = np.array([[0, 0, 1, 1]])
    decode = box_ops.CODECS[codec].decode
    boxes = decode(before["box"], window)
    np.testing.assert_allclose(
        decode(batch["box"], window),
        np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1),
        atol=1e-5,
    )


def test_losses_follow_equation_4() -> None:
    torch.manual_seed(0)
    kind = torch.tensor([Kind.NEGATIVE] * 6 + [Kind.POSITIVE] * 4 + [Kind.PART] * 3 + [Kind.LANDMARK] * 5)
    n = len(kind)
    outputs = {
        name: torch.randn(n, *s, requires_grad=True) for name, s in (("score", ()), ("box", (4,)), ("landmarks", (10,)))
    }
    batch = {"kind": kind, "box": torch.randn(n, 4), "points": torch.randn(n, 10)}
    parts = targets.losses(outputs, batch, hardest=0.7, box_weight=0.5, landmark_weight=1.0)
    torch.stack(list(parts.values())).sum().backward()

    p = torch.sigmoid(outputs["score"].detach())[:10]
    y = (kind[:10] == Kind.POSITIVE).float()
    entropy = -(y * p.log() + (1 - y) * (1 - p).log())  # equation 1
    hardest = entropy.sort(descending=True).values[:7]
    assert parts["score"].item() == pytest.approx(hardest.mean().item(), rel=1e-5)
    with_gradient = outputs["score"].grad != 0
    assert with_gradient[:10].sum() == 7  # the easiest 30 % have no gradient
    assert not with_gradient[10:].any()

    squares = (outputs["box"] - batch["box"]).detach().square().sum(1)[6:13]
    assert parts["box"].item() == pytest.approx(0.5 * squares.mean().item(), rel=1e-5)  # equation 2
    assert (outputs["box"].grad.abs().sum(1) > 0).nonzero().flatten().tolist() == list(range(6, 13))
    squares = (outputs["landmarks"] - batch["points"]).detach().square().sum(1)[13:]
    assert parts["landmarks"].item() == pytest.approx(squares.mean().item(), rel=1e-5)  # equation 3
    assert (outputs["landmarks"].grad.abs().sum(1) > 0).nonzero().flatten().tolist() == list(range(13, n))


def test_a_weight_of_zero_leaves_a_task_out() -> None:
    outputs = {"score": torch.zeros(4), "box": torch.zeros(4, 4), "landmarks": torch.zeros(4, 10)}
    batch = {"kind": torch.arange(4), "box": torch.ones(4, 4), "points": torch.ones(4, 10)}
    assert set(targets.losses(outputs, batch, landmark_weight=0)) == {"score", "box"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces exports by the shipped file, and records what was exported."""
    asked: list[dict[str, Any]] = []

    def shipped(networks: Any, file: Path, *, metadata: dict[str, str], half: bool = False) -> Path:
        asked.append({"networks": networks, "metadata": metadata})
        file.write_bytes(read_weights("mtcnn"))
        return file

    for module in (training, trained):
        monkeypatch.setattr(module, "export", shipped)
    monkeypatch.setattr(trained, "register", lambda file: None)
    monkeypatch.setattr(training, "entries", dict)
    return asked


RECIPE = """
train = ["scenes.json"]
val = ["others.json"]
backgrounds = []
batch = 20
warmup = 0
workers = 0
validate_every = 1
steps = 1
near = 4
anywhere = 10
min_face = 30
[pnet]
[rnet]
hardest = 0.5
[onet]
turns = 2
[onet.settings]
min_face = 33
"""


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    write_data(tmp_path, 4)
    write_data(tmp_path, 3, name="others", first_seed=10)
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path


def test_crops_are_cut_where_their_labels_say(scenes: Path, quick: list[dict[str, Any]]) -> None:
    recipe = training.read(scenes / "r.toml", "pnet")
    task = training.prepare("pnet", scenes, recipe, scenes / "run")
    assert task.crops.pixels.shape[1:] == (12, 12, 3)
    assert task.data["train"]["lists"]["scenes.json"]["faces"] == 8
    assert task.data["val"]["lists"]["others.json"]["faces"] == 6
    assert len(task.held_out) != len(task.crops)
    labels = task.crops.labels
    assert {kind: array.dtype for kind, array in labels.items()} == {"kind": int, "box": "f4", "points": "f4"}
    assert set(np.unique(labels["kind"])) == {0, 1, 2, 3}
    marked = labels["kind"] == Kind.LANDMARK
    points = labels["points"][marked]
    assert marked.sum() == (labels["kind"] == Kind.POSITIVE).sum() > 10
    # the eyes are darker than the cheeks between them and the mouth
    pixels = task.crops.pixels[marked].mean(axis=3)
    row, eye = np.arange(len(points)), (points[:, 0] * 12).astype(int).clip(0, 11)
    cheek = ((points[:, 0] + points[:, 3]) / 2 * 12).astype(int).clip(0, 11)
    assert (pixels[row, eye[:, 1], eye[:, 0]] < pixels[row, cheek[:, 1], cheek[:, 0]]).mean() > 0.8


def test_crops_are_cut_once_for_all_that_decides_them(scenes: Path, quick: list[dict[str, Any]]) -> None:
    def prepared(**settings: Any) -> np.ndarray:
        recipe = replace(training.read(scenes / "r.toml", "pnet"), **settings)
        return np.array(training.prepare("pnet", scenes, recipe, scenes / "run").crops.pixels)

    first = prepared()
    np.testing.assert_array_equal(prepared(learning_rate=0.5, batch=7), first)
    assert len(quick) == 1  # the cascade is exported once for the photos of training and of validation
    assert len(prepared(jitter=6)) < len(first)
    np.testing.assert_array_equal(prepared(), first)
    assert not np.array_equal(prepared(seed=1), first)
    assert len(quick) == 4


def test_the_previous_stages_alone_decide_the_crops(scenes: Path, quick: list[dict[str, Any]]) -> None:
    run(training, scenes, scenes / "r.toml", scenes / "run", stage="pnet")

    def cuts(stage: str) -> int:
        quick.clear()
        training.prepare(stage, scenes, training.read(scenes / "r.toml", stage), scenes / "run")
        return len(quick)

    assert [cuts("pnet"), cuts("rnet"), cuts("rnet")] == [0, 1, 0]
    checkpoint = scenes / "run" / "pnet" / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    next(iter(state["best"]["weights"].values())).add_(1)
    torch.save(state, checkpoint)
    assert [cuts("pnet"), cuts("rnet")] == [0, 1]


def test_stages_train_on_each_other_and_are_exported_with_their_best(scenes: Path, quick: list[dict[str, Any]]) -> None:
    for stage, following in zip(training.STAGES, (*training.STAGES[1:], None), strict=True):
        file = run(training, scenes, scenes / "r.toml", scenes / "run", stage=stage)
        if following:
            with pytest.raises(OptionError, match=f"train {following} first"):
                training.export_run(scenes / "run", scenes / "m.onnx")
    assert file == scenes / "run" / "mtcnn.onnx"
    exported = quick[-1]
    for stage in training.STAGES:
        best = torch.load(scenes / "run" / stage / "checkpoint.pt", weights_only=True)["best"]["weights"]
        for name, value in exported["networks"][stage].state_dict().items():
            assert torch.equal(value, best[name])
    config = json.loads(exported["metadata"]["config"])
    assert (config["landmarks"], config["codec"], config["min_face"]) == ("5", "corner", 33)
    past = json.loads(exported["metadata"]["training"])
    assert {stage: [phase["steps"] for phase in phases] for stage, phases in past.items()} == {
        stage: [1] for stage in past
    }
    assert list(past) == list(training.STAGES)
    assert past["rnet"][0]["recipe"]["hardest"] == 0.5
    crops = {stage: CropSet(scenes / "run" / stage / "train") for stage in training.STAGES}
    assert [found.pixels.shape[1] for found in crops.values()] == [12, 24, 48]
    kinds = {stage: np.bincount(found.labels["kind"], minlength=4) for stage, found in crops.items()}
    assert kinds["onet"][Kind.LANDMARK] > kinds["rnet"][Kind.LANDMARK]  # turned photos, too


def test_losses_take_the_recipes_weights_and_validation_mines_nothing(crops: CropSet) -> None:
    torch.manual_seed(0)
    settings = {"hardest": 0.5, "box_weight": 0.25, "landmark_weight": 3.0}
    task = stage_of(crops, **settings)
    batch = {name: torch.as_tensor(values) for name, values in task.batch(0).items()}
    n = len(batch["kind"])
    maps = {"score": torch.randn(n, 1, 1), "box": torch.randn(n, 4, 1, 1), "landmarks": torch.randn(n, 10, 1, 1)}
    rows = {"score": maps["score"].flatten(), "box": maps["box"].flatten(1), "landmarks": maps["landmarks"].flatten(1)}
    mined, whole = targets.losses(rows, batch, **settings), targets.losses(rows, batch, **settings | {"hardest": 1.0})
    assert mined["score"] > whole["score"]
    assert task.losses(maps, batch) == mined
    figures = task.figures(maps, batch)
    assert list(figures) == ["negated_loss", "score", "box", "landmarks", "accuracy"]
    for name, value in whole.items():
        assert figures[name] == pytest.approx(float(value))
    assert figures["negated_loss"] == pytest.approx(-sum(map(float, whole.values())))
    classified = (batch["kind"] == Kind.NEGATIVE) | (batch["kind"] == Kind.POSITIVE)
    right = (rows["score"] > 0) == (batch["kind"] == Kind.POSITIVE)
    assert figures["accuracy"] == pytest.approx(float(right[classified].float().mean()))


def test_kinds_that_a_set_lacks_are_left_out_of_a_batch() -> None:
    kind = np.array([Kind.NEGATIVE] * 5 + [Kind.POSITIVE] * 2 + [Kind.OTHER])
    rows = targets.by_kind(kind)
    drawn = targets.at_ratio(np.random.default_rng(0), rows, 40)
    assert np.bincount(kind[drawn]).tolist() == [30, 0, 10]


def test_several_schemas_are_refused() -> None:
    with pytest.raises(OptionError, match="one landmark schema, found 5, 68"):
        training.StageRecipe(train=(), landmarks=("5", "68"))


def test_missing_data_and_stages_are_named(tmp_path: Path) -> None:
    write_data(tmp_path, 2, landmarks=False)
    recipe = tmp_path / "r.toml"
    recipe.write_text('train = ["scenes.json"]\nval = ["scenes.json"]\n[pnet]\n[rnet]\n[onet]\n')
    with pytest.raises(OptionError, match="pnet, rnet, onet"):
        run(training, tmp_path, recipe, tmp_path / "run", stage="qnet")
    with pytest.raises(OptionError, match="train pnet first"):
        run(training, tmp_path, recipe, tmp_path / "run", stage="rnet")
    with pytest.raises(DataError, match=r"scenes\.json.*landmarks"):
        run(training, tmp_path, recipe, tmp_path / "run", stage="pnet")


@pytest.mark.parametrize("stage", training.STAGES)
def test_a_network_starts_as_its_file_left_off(stage: str, crops: CropSet) -> None:
    content = read_weights("mtcnn")
    network = training.NETWORKS[stage](5)
    task = training.StageTask(stage, network, training.StageRecipe(train=("a.json",)), crops, crops, {})
    task.adopt(content)
    size = network.size
    pixels = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    given = {"image": pixels} if stage == "pnet" else {"pixels": pixels.transpose(0, 3, 1, 2).astype(np.float32)}
    names = ("score", "box") if stage == "pnet" else ("score", "box", "landmarks")
    expected = load_graph(content, threads=1)(stage, names, **given)
    with torch.no_grad():
        found = network(to_input(torch.as_tensor(pixels)))
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_allclose(found[name].numpy(), values, atol=1e-4)


def test_other_landmarks_start_anew() -> None:
    content = read_weights("mtcnn")
    torch.manual_seed(0)
    five, more = training.NETWORKS["onet"](5), training.NETWORKS["onet"](68)
    fresh = more.heads["landmarks"].weight.clone()
    for network in (five, more):
        adopt(network, content, "onet")
    assert torch.equal(more.heads["landmarks"].weight, fresh)
    assert torch.equal(more.dense.weight, five.dense.weight)
    with pytest.raises(OptionError, match="expected weights of mtcnn, found weights of kpnet"):
        adopt(five, read_weights("kpnet-lite"), "onet")


def test_stages_that_are_not_trained_come_from_the_initial_file(scenes: Path, quick: list[dict[str, Any]]) -> None:
    run(training, scenes, scenes / "r.toml", scenes / "run", stage="onet", overrides={"initial": '"mtcnn"'})
    exported, content = quick[-1], read_weights("mtcnn")
    for stage in ("pnet", "rnet"):
        expected = training.NETWORKS[stage](5)
        adopt(expected, content, stage)
        found = exported["networks"][stage].state_dict()
        for name, value in expected.state_dict().items():
            if not (stage == "pnet" and "landmarks" in name):  # not in the file
                assert torch.equal(found[name], value)
    past = json.loads(exported["metadata"]["training"])
    assert [phase["initial"].partition(",")[0] for phase in past["onet"]] == ["mtcnn"]
    assert past["pnet"] == phases_in(content, "pnet")
