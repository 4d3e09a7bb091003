"""KPNet's training runs: data, batches, resumed runs, and exports with any number of landmarks."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from lineament.data.cache import Photos  # noqa: E402
from lineament.data.canvases import Composition  # noqa: E402
from lineament.data.device import DeviceComposer  # noqa: E402
from lineament.errors import DataError, OptionError  # noqa: E402
from lineament.export import rows_of_both  # noqa: E402
from lineament.methods.kpnet import training  # noqa: E402
from lineament.methods.kpnet.adopt import narrowed, read_network  # noqa: E402
from lineament.methods.kpnet.export import entries  # noqa: E402
from lineament.methods.kpnet.heads import Heads, build  # noqa: E402
from lineament.runtime import load_graph  # noqa: E402
from lineament.schemas import schema  # noqa: E402
from lineament.train import canvases as canvas_task  # noqa: E402
from lineament.train.checkpoint import CHECKPOINT, begin  # noqa: E402
from lineament.train.loop import train  # noqa: E402
from lineament.train.recipe import as_dict  # noqa: E402
from lineament.train.run import run  # noqa: E402
from lineament.train.task import WHOLE, Part, to_input  # noqa: E402
from lineament.weights import read_weights  # noqa: E402
from networks import ALL, thresholds  # noqa: E402
from scenes import POINTS, write_data  # noqa: E402

Array = np.ndarray

TINY = 'seed = 1\ntrain = ["scenes.json"]\nval = ["scenes.json"]\n[kpnet]\n' + "\n".join(
    ["canvas = 64", "batch = 2", "steps = 6", "warmup = 2", "validate_every = 2", "workers = 0", "held_out = 2"]
)


def tiny(folder: Path, **changes: Any) -> training.KPNetRecipe:
    (folder / "r.toml").write_text(TINY)
    return replace(training.read(folder / "r.toml"), **changes)


def relabel(index: Path, change: Any) -> None:
    """Change every annotation of an index file in place."""
    document = json.loads(index.read_text())
    for annotation in document["annotations"]:
        change(annotation)
    index.write_text(json.dumps(document))


def test_a_killed_run_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path, 4)
    recipe = tiny(tmp_path)

    def run(folder: str) -> dict[str, Any]:
        train(training.prepare("kpnet", tmp_path, recipe, tmp_path), recipe, tmp_path / folder)
        state: dict[str, Any] = torch.load(tmp_path / folder / CHECKPOINT, weights_only=True)
        return state

    whole = run("whole")
    batch = training.KPNetTask.batch
    with monkeypatch.context() as patch:

        def killed(task: training.KPNetTask, step: int, part: Part = WHOLE) -> Any:
            if step == 5:
                raise KeyboardInterrupt
            return batch(task, step, part)

        patch.setattr(training.KPNetTask, "batch", killed)
        with pytest.raises(KeyboardInterrupt):
            run("killed")
    assert torch.load(tmp_path / "killed" / CHECKPOINT, weights_only=True)["step"] == 4
    resumed = run("killed")
    fresh = training.prepare("kpnet", tmp_path, recipe, tmp_path).network.state_dict()
    for part in ("network", "average"):
        for name, value in whole[part].items():
            assert torch.equal(value, resumed[part][name]), name
        assert any(not torch.equal(value, fresh[name]) for name, value in whole[part].items())
    assert whole["best"]["score"] == resumed["best"]["score"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_data_without_landmarks_say_what_is_missing(tmp_path: Path, split: str) -> None:
    write_data(tmp_path, 2)
    write_data(tmp_path, 2, name="bare", landmarks=False)
    recipe = tiny(tmp_path, **{split: ("bare.json",)})
    with pytest.raises(DataError, match=rf"the {split} data .*bare\.json.* no face with all its landmarks"):
        training.prepare("kpnet", tmp_path, recipe, tmp_path)


def test_data_without_faces_say_so(tmp_path: Path) -> None:
    relabel(write_data(tmp_path, 2), lambda face: face.update(iscrowd=1))
    with pytest.raises(DataError, match=r"the train data .*scenes\.json.* no face$"):
        training.prepare("kpnet", tmp_path, tiny(tmp_path), tmp_path)


@pytest.mark.parametrize("key", ["bbox", "keypoints"])
def test_a_label_that_is_no_number_is_named(tmp_path: Path, key: str) -> None:
    def spoil(face: dict[str, Any]) -> None:
        if face["id"] == 3:
            face[key][1] = float("nan")

    relabel(write_data(tmp_path, 3), spoil)
    with pytest.raises(DataError, match=rf"(?s)scenes\.json, annotation 3: {key} .*not finite"):
        training.prepare("kpnet", tmp_path, tiny(tmp_path), tmp_path)


def test_data_of_another_schema_are_named(tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    with pytest.raises(DataError, match=r"scenes\.json has landmarks of schema '5', which cannot become .*'21'"):
        training.prepare("kpnet", tmp_path, tiny(tmp_path, landmarks=("21",)), tmp_path)


def test_boxes_without_landmarks_teach_the_scalemap_alone(tmp_path: Path) -> None:
    write_data(tmp_path, 2)
    write_data(tmp_path, 2, name="bare", landmarks=False)
    recipe = tiny(tmp_path, batch=24, train=("scenes.json", "bare.json"), composition=Composition(min_side=20))
    batch = training.prepare("kpnet", tmp_path, recipe, tmp_path).batch(0)
    faces = (batch["regions"][..., 2] > batch["regions"][..., 0]).sum(axis=1)
    np.testing.assert_array_equal(faces, batch["faces"])
    marked = batch["weights"].any(axis=2)
    assert 0 < marked.sum() < faces.sum()
    assert set(np.unique(batch["cells"][:, 0])) == set(np.flatnonzero(faces))


def test_faces_outside_the_range_are_ignored_and_counted(tmp_path: Path) -> None:
    """Beside a face of 150 pixels lies one of 5. On most canvases it is too small for any bin."""
    image = np.full((300, 400, 3), 90, np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    squares = {"large": [40, 60, 150, 150], "small": [300, 200, 5, 5]}
    faces = [
        {"id": i, "image_id": 0, "bbox": box, "keypoints": np.c_[POINTS * box[2] + box[:2], [2] * 5].ravel().tolist()}
        for i, box in enumerate(squares.values())
    ]
    picture = {"id": 0, "file_name": "photo.png", "width": 400, "height": 300}
    (tmp_path / "scenes.json").write_text(json.dumps({"images": [picture], "annotations": faces}))
    recipe = tiny(tmp_path, canvas=128, batch=24)
    task = training.prepare("kpnet", tmp_path, recipe, tmp_path)
    batch = task.batch(0)
    outside = batch["outside"].astype(int)
    assert 5 < outside.sum() < 100
    assert (batch["values"] == 1).sum() == batch["faces"].sum()  # they have no cell
    assert batch["ignored"][outside > 0].any(axis=(1, 2)).all()
    tensors = {name: torch.as_tensor(value) for name, value in batch.items()}
    task.on(torch.device("cpu"))(tensors)
    with torch.no_grad():
        assert [task.validate(task.network.eval())["outside"] for _ in range(2)] == [outside.sum(), 0]


def test_any_number_of_landmarks_trains_and_runs(tmp_path: Path) -> None:
    of = schema("21")
    rng = np.random.default_rng(0)

    def mark(face: dict[str, Any]) -> None:
        x, y, w, h = face["bbox"]
        places = rng.uniform(0.2, 0.8, (len(of), 2)) * [w, h] + [x, y]
        face["keypoints"] = np.c_[places, np.full(len(of), 2)].ravel().tolist()

    index = write_data(tmp_path, 3)
    relabel(index, mark)
    document = json.loads(index.read_text())
    document["categories"][0]["keypoints"] = list(of.points)
    index.write_text(json.dumps(document))
    (tmp_path / "r.toml").write_text(TINY)
    overrides = {"steps": "2", "landmarks": '"21"', "backbone": '"hourglass"', "boxes": "true"}
    file = run(training, tmp_path, tmp_path / "r.toml", tmp_path / "run", overrides=overrides)
    heads = Heads.of(backbone="hourglass", boxes=True)
    network = build(21, "hourglass", heads)
    network.load_state_dict(torch.load(tmp_path / "run" / "kpnet" / CHECKPOINT, weights_only=True)["best"]["weights"])
    module = entries(network, heads)["kpnet"].module
    outputs = ("logit", "centre", "side", "landmarks", "peaks", "box")
    for runtime in ("onnx", "openvino") if find_spec("openvino") else ("onnx",):
        graph = load_graph(file.read_bytes(), runtime=runtime, threads=1)
        assert graph.metadata["schema"] == "21"
        for shape in ((1, 64, 64), (3, 128, 64)):
            pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
            limits = thresholds(len(pixels))
            found = dict(zip(outputs, graph("kpnet", outputs, pixels=pixels, threshold=limits.numpy()), strict=True))
            with torch.no_grad():
                wanted = {n: v.numpy() for n, v in module(torch.from_numpy(pixels), limits).items()}
            assert found["landmarks"].shape == (shape[0], found["logit"].shape[1], 21, 2)
            mine, theirs = rows_of_both(wanted, found, "centre")
            assert len(mine["logit"]) > 20
            for name in outputs:
                np.testing.assert_allclose(theirs[name], mine[name], atol=2e-3)


def test_a_frozen_training_changes_the_boxes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lineament.methods.kpnet.heads.scalemap.FAINT", ALL)  # small drawn faces are faint
    write_data(tmp_path, 4)
    recipe = tiny(
        tmp_path, initial="kpnet-lite", backbone="lite", boxes=True, frozen=True, weight_decay=0.0, average=0.0
    )
    trained = train(training.prepare("kpnet", tmp_path, recipe, tmp_path), recipe, tmp_path / "run")
    before = read_network(read_weights("kpnet-lite")).eval()
    with torch.no_grad():
        pixels = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
        maps, kept = trained(pixels), before(pixels)
    for name, values in kept.items():
        torch.testing.assert_close(maps[name], values, atol=1e-3, rtol=1e-3)
    assert maps["box"].abs().max() > 0
    with pytest.raises(OptionError, match="needs boxes = true"):
        replace(recipe, boxes=False)


@pytest.mark.parametrize("initial", ["the phase before", "run"])
def test_a_training_goes_on_with_the_trunk_of_a_wider_backbone(initial: str, tmp_path: Path) -> None:
    """With the layers of `narrowed`, and fitted blocks."""
    write_data(tmp_path, 4)
    first, second = (tiny(tmp_path, backbone=backbone, boxes=True) for backbone in ("lite", "slim"))
    wide = train(training.prepare("kpnet", tmp_path, first, tmp_path), first, tmp_path / "run" / "kpnet").eval()
    after, phase = tmp_path / "run" / "kpnet", 2
    if initial == "run":
        after, phase, second = tmp_path / "other" / "kpnet", 1, replace(second, initial=str(tmp_path / "run"))
    task = training.prepare("kpnet", tmp_path, second, tmp_path)
    assert begin(task, second, after, phase)["initial"] == initial
    cut = build(5, "slim").eval()
    cut.load_state_dict(cut.state_dict() | narrowed(wide.backbone, cut.backbone))
    for name in ("stem", "down.shortcut", "up", "smooth"):
        mine, theirs = (of.backbone.get_submodule(name).conv.weight for of in (task.network, cut))
        assert torch.equal(mine, theirs), name
    assert torch.equal(task.network.scale.weight, wide.scale.weight)
    canvases = to_input(torch.as_tensor(task.batch(0)["pixels"]))
    with torch.no_grad():
        wanted, fitted = (of.eval().backbone.trunk(canvases / 128)[2] for of in (wide, task.network))
    assert (fitted - wanted).square().mean() < wanted.var() / 4


def test_a_phase_may_add_learned_boxes(tmp_path: Path) -> None:
    """They start as the proposals. All other maps are those of the phase before, even if that knew no boxes."""
    write_data(tmp_path, 4)
    first, second = (tiny(tmp_path, boxes=boxes) for boxes in (False, True))
    before = train(training.prepare("kpnet", tmp_path, first, tmp_path), first, tmp_path / "run").eval()
    task = training.prepare("kpnet", tmp_path, second, tmp_path)
    assert begin(task, second, tmp_path / "run", phase=2)["initial"] == "the phase before"
    pixels = 255 * torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps, kept = task.network.eval()(pixels), before(pixels)
    assert (maps["box"] == 0).all()
    for name, values in kept.items():
        torch.testing.assert_close(maps[name], values, atol=1e-3, rtol=1e-3)
    again = training.prepare("kpnet", tmp_path, second, tmp_path)
    again.go_on(before.state_dict(), {name: value for name, value in as_dict(first).items() if name != "boxes"})
    assert torch.equal(again.network.scale.weight, task.network.scale.weight)


def test_a_narrower_network_cannot_become_a_wider_one(tmp_path: Path) -> None:
    write_data(tmp_path, 4)
    narrow, wide = (tiny(tmp_path, backbone=backbone) for backbone in ("slim", "lite"))
    train(training.prepare("kpnet", tmp_path, narrow, tmp_path), narrow, tmp_path / "run")
    with pytest.raises(OptionError, match="a Lite cannot begin with the weights of a Slim"):
        begin(training.prepare("kpnet", tmp_path, wide, tmp_path), wide, tmp_path / "run", phase=2)


def test_an_accelerator_gets_the_same_canvases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the accelerator is a processor that draws like one."""
    write_data(tmp_path, 3)
    recipe = tiny(tmp_path, canvas=128, batch=6)
    mine = training.prepare("kpnet", tmp_path, recipe, tmp_path)
    theirs = training.prepare("kpnet", tmp_path, recipe, tmp_path)

    def composer(photos: Photos, device: torch.device, size: int) -> DeviceComposer:
        assert device.type == "cuda"
        return DeviceComposer(photos, torch.device("cpu"), size)

    monkeypatch.setattr(canvas_task, "DeviceComposer", composer)
    complete = theirs.on(torch.device("cuda"))
    for step in range(3):
        there = theirs.batch(step)
        assert "pixels" not in there
        drawn = complete({name: torch.as_tensor(value) for name, value in there.items()})
        here = mine.batch(step)
        for name in here.keys() - {"pixels"}:
            np.testing.assert_array_equal(here[name], drawn[name])
        differ = np.abs(here["pixels"].astype(int) - drawn["pixels"].numpy()).mean(axis=(1, 2, 3))
        assert (differ < 14).all()  # the noise is different
        assert np.median(differ) < 4
