"""Training of the Information-Synthesis Network: labels in crops, batches, resumed runs, export, and the search."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import lineament  # noqa: E402
from lineament.data.crops import CropSet, Jitter  # noqa: E402
from lineament.data.sample import HIDDEN, Sample  # noqa: E402
from lineament.detector import load_stage  # noqa: E402
from lineament.errors import DataError, OptionError  # noqa: E402
from lineament.export import export  # noqa: E402
from lineament.faces import Faces  # noqa: E402
from lineament.methods.adopt import adopt, read_tensors  # noqa: E402
from lineament.methods.isnet import frame, targets, training, trials  # noqa: E402
from lineament.methods.isnet.decode import Config, ISNet  # noqa: E402
from lineament.methods.isnet.entries import entries  # noqa: E402
from lineament.methods.isnet.losses import distance  # noqa: E402
from lineament.methods.isnet.network import LightNet, PaperNet  # noqa: E402
from lineament.methods.isnet.targets import REACH, Cutting  # noqa: E402
from lineament.methods.isnet.training import ISNetRecipe, ISNetTask  # noqa: E402
from lineament.runtime import load_graph  # noqa: E402
from lineament.schemas import FIVE, MAPS, SIXTY_EIGHT, convert  # noqa: E402
from lineament.similarity import transform  # noqa: E402
from lineament.train.run import run  # noqa: E402
from lineament.train.task import WHOLE, Part, tensors  # noqa: E402
from lineament.weights import read_weights  # noqa: E402
from scenes import scene, write_data  # noqa: E402
from tasks import assert_continues  # noqa: E402

PLAIN = Cutting(schema=FIVE, side=112, zoom=1.0, reach=REACH, smallest=10, detected=0.5)
RECIPE = """
train = ["scenes.json"]
val = ["scenes.json"]
[crops]
steps = 4
batch = 8
warmup = 1
validate_every = 2
workers = 0
smallest = 20
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_data(folder, 6)
    return folder


def recipe_file(folder: Path, *lines: str) -> Path:
    path = folder / "isnet.toml"
    path.write_text("\n".join([RECIPE, *lines]))
    return path


def task_of(data: Path, out: Path, *lines: str) -> ISNetTask:
    recipe = training.read(recipe_file(out, *lines), "crops")
    return training.prepare("crops", data, recipe, out)


def colour_at(pixels: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Colours (k, 3) of one crop at points relative to its side."""
    at = np.clip((points * len(pixels)).astype(int), 0, len(pixels) - 1)
    return pixels[at[:, 1], at[:, 0]].astype(int)


def dotted(tmp_path: Path) -> Sample:
    """A photo of one rotated face, with a dot at each landmark, each of another colour."""
    from PIL import Image, ImageDraw

    points = np.array([[70, 60], [112, 70], [85, 90], [62, 100], [98, 110]], float)
    picture = Image.new("RGB", (180, 160), (90, 90, 90))
    for (x, y), colour in zip(points, COLOURS, strict=True):
        ImageDraw.Draw(picture).ellipse((x - 4, y - 4, x + 3, y + 3), fill=tuple(colour))
    picture.save(tmp_path / "dots.png")
    return Sample.of(tmp_path / "dots.png", [[50, 30, 130, 130]], points[None], size=(180, 160))


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]


def test_points_lie_on_what_they_name_in_patches_and_crops(tmp_path: Path) -> None:
    patches = targets.cut([dotted(tmp_path)], tmp_path / "set", "x", PLAIN)
    points = patches.labels["points"][0]
    np.testing.assert_allclose(points, frame.template(1.0), atol=0.08)  # upright and in place
    in_patch = (points - 0.5) / REACH + 0.5
    assert np.abs(colour_at(patches.pixels[0], in_patch) - COLOURS).max() < 60
    rng = np.random.default_rng(0)
    moves = Jitter(20, 0.1, 0.05).draw(rng, 32)
    flip = np.arange(32) % 2 == 1
    crops = targets.placed(patches, np.zeros(32, int), moves, flip, size=64, schema=FIVE)
    for pixels, found, mirrored in zip(crops["pixels"], crops["points"], flip, strict=True):
        expected = np.array(COLOURS)[list(FIVE.mirror)] if mirrored else COLOURS
        assert np.abs(colour_at(pixels, found) - expected).max() < 100
    np.testing.assert_allclose(crops["points"][::2], transform(np.repeat(points[None], 16, 0), moves[::2]), atol=1e-6)


def test_jitter_has_the_deviations_it_states() -> None:
    moves = Jitter(turn=10, scale=0.1, shift=0.05).draw(np.random.default_rng(0), 20_000)
    factor = moves[:, 0, 0] + 1j * moves[:, 1, 0]
    assert np.degrees(np.angle(factor)).std() == pytest.approx(10, rel=0.03)
    assert np.log(np.abs(factor)).std() == pytest.approx(0.1, rel=0.03)
    np.testing.assert_allclose((moves @ [0.5, 0.5, 1]).std(axis=0), 0.05, rtol=0.03)


def test_weights_tell_who_set_a_point_and_faces_with_five_points_teach_larger_schemas(tmp_path: Path) -> None:
    photo = dotted(tmp_path)
    whole = np.random.default_rng(0).uniform(60, 110, (1, 68, 2))
    of_68 = Sample.of(photo.path, photo.boxes, whole, size=(180, 160), schema=SIXTY_EIGHT, landmark_source="machine")
    masked = replace(photo, visibility=np.where(np.arange(5) > 2, HIDDEN, 2)[None])
    cut = targets.cut([of_68, masked], tmp_path / "set", "x", replace(PLAIN, schema=SIXTY_EIGHT))
    np.testing.assert_array_equal(cut.labels["weights"], [[0.5] * 68, [0] * 68])
    np.testing.assert_allclose(cut.labels["five_weights"], [[0] * 5, [1, 1, 1, 0.1, 0.1]])
    to_frame = frame.matrices(convert(whole, SIXTY_EIGHT, FIVE), photo.boxes, 1.0)
    np.testing.assert_allclose(cut.labels["points"][:1], transform(whole, to_frame), atol=1e-5)


def test_faces_too_small_ignored_or_without_points_are_left_out(tmp_path: Path) -> None:
    photo = dotted(tmp_path)
    with pytest.raises(DataError, match="no face of 200 pixels or more with its points among 1 photos"):
        targets.cut([photo], tmp_path / "a", "x", replace(PLAIN, smallest=200))
    with pytest.raises(DataError, match="nothing to learn from"):
        targets.cut([replace(photo, ignore=[True])], tmp_path / "b", "x", PLAIN)
    with pytest.raises(DataError, match="nothing to learn from"):
        targets.cut([Sample.of(photo.path, photo.boxes, size=(180, 160))], tmp_path / "c", "x", PLAIN)


def test_batches_depend_on_seed_and_step_alone_and_their_parts_make_the_whole(data: Path, tmp_path: Path) -> None:
    task = task_of(data, tmp_path, "occlusion = { probability = 1.0 }", "[crops.coarse]")
    first, again, other = task.batch(7), task.batch(7), task.batch(8)
    halves = [task.batch(7, Part(i, 2)) for i in range(2)]
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
        for i, half in enumerate(halves):
            np.testing.assert_array_equal(value[i::2], half[name])
    assert not np.array_equal(first["pixels"], other["pixels"])
    assert WHOLE.of(8) == range(8)


@pytest.mark.parametrize("lines", [['preset = "paper"', "size = 32"], ["size = 48"]])
def test_every_parameter_has_a_gradient(data: Path, tmp_path: Path, lines: list[str]) -> None:
    task = task_of(data, tmp_path, *lines)
    batch = tensors(task.batch(0), torch.device("cpu"))
    torch.stack(list(task.losses(task.forward(task.network, batch), batch).values())).sum().backward()
    whole = {"dense.weight", "dense.bias"} if lines == ["size = 48"] else set()  # its next layer starts with zeros
    for name, parameter in task.network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.abs().max() > 0) is (name not in whole), name


def test_a_light_loss_is_the_error_over_the_eyes_and_five_points_come_by_the_map(data: Path, tmp_path: Path) -> None:
    recipe = ISNetRecipe(train=(), landmarks=("68",), zoom=0.8, fives=0.25)
    patches = CropSet.__new__(CropSet)
    patches.pixels, patches.labels = np.zeros((2, 4, 4, 3), np.uint8), {"weights": np.ones((2, 68))}
    task = ISNetTask(torch.nn.Identity(), recipe, patches, patches, {})
    points = torch.rand(2, 68, 2)
    batch = {"points": points + torch.tensor([0.03, 0.04]), "weights": torch.tensor([[1.0], [0.0]]).expand(2, 68)}
    five = torch.stack([points[:, list(i)].mean(1) for i in MAPS["68", "5"]], 1)
    batch |= {"five": five + torch.tensor([0.0, 0.1]), "five_weights": torch.tensor([[0.0], [1.0]]).expand(2, 5)}
    parts = task.losses({"points": points, "spread": torch.zeros(2, 68)}, batch)
    eyes = frame.EYES * 0.8
    assert parts["landmarks"].item() == pytest.approx(0.05 / eyes, rel=1e-3)
    assert parts["five"].item() == pytest.approx(0.25 * 0.1 / eyes, rel=1e-3)


def test_the_papers_loss_is_equation_3_in_pixels(data: Path, tmp_path: Path) -> None:
    task = task_of(data, tmp_path, 'preset = "paper"', "size = 32", "beta = [0.4, 0.0, 0.6]")
    assert isinstance(task.network, PaperNet)
    points = torch.rand(3, 5, 2)
    batch = {"points": points + torch.tensor([0.0, 0.25]), "weights": torch.ones(3, 5)}
    parts = task.losses({"points": points}, batch)
    assert {name: part.item() for name, part in parts.items()} == {"landmarks": pytest.approx(5 * 8**2 / 2)}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['preset = "paper"', "beta = [0.5, 0.5]"], r"one weight in \[0, 1\] for each of 3 blocks, found \[0.5, 0.5\]"),
        (["beta = [0.5, 0.5, 1.5]"], r"one weight in \[0, 1\]"),
        (['preset = "heavy"'], "preset is paper or light"),
        (["twin = true"], "twin and grid are of paper"),
        (["size = 60"], "multiple of 16"),
        (['landmarks = ["5", "68"]'], "learns one landmark schema, found 5, 68"),
    ],
)
def test_networks_that_cannot_be_are_refused(data: Path, tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        task_of(data, tmp_path, *lines)


def test_a_training_continues_as_the_file_left_off(data: Path, tmp_path: Path) -> None:
    """The adopted network computes what the shipped file does, learned weights of equation 1 included."""
    task = task_of(data, tmp_path)
    assert_continues(task, "isnet-5", ("points", "spread"))


def test_a_network_of_another_schema_starts_from_what_fits() -> None:
    network = LightNet(68, 80)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    given = read_tensors(read_weights("isnet-5"), ["isnet"], {".network.": ""})
    adopt(network, given)
    after = network.state_dict()
    same = {name for name, value in after.items() if value.dim() > 1 and torch.equal(value, before[name])}
    assert same == {"response.weight", "whole.weight"}
    with pytest.raises(OptionError, match="these weights are not of a PaperNet, the recipe's network"):
        adopt(PaperNet(5, 40), given)


def test_a_run_that_was_stopped_ends_with_the_same_weights(data: Path, tmp_path: Path) -> None:
    from lineament.train.loop import train

    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    for out in (straight, stopped):
        out.mkdir()
    recipe = training.read(recipe_file(tmp_path, "learning_rate = 0.01", 'schedule = "constant"'), "crops")
    whole = train(training.prepare("crops", data, recipe, straight), recipe, straight / "crops")
    train(training.prepare("crops", data, recipe, stopped), replace(recipe, steps=2), stopped / "crops")
    gone_on = train(training.prepare("crops", data, recipe, stopped), recipe, stopped / "crops")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, gone_on.state_dict()[name]), name


def test_what_is_exported_computes_the_same_one_by_one_and_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for network in (LightNet(68, 80).eval(), PaperNet(5, 32, (0.4, 0, 0.6)).eval()):
        file = export(entries(network, -3.0), tmp_path / "n.onnx", metadata={})
        graph = load_graph(file.read_bytes())
        pixels = np.random.default_rng(0).integers(0, 256, (5, network.size, network.size, 3), dtype=np.uint8)
        points, spread = graph("isnet", ("points", "spread"), pixels=pixels)
        with torch.no_grad():
            expected = network(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
        np.testing.assert_allclose(points, expected["points"], atol=1e-4)
        np.testing.assert_allclose(spread, expected.get("spread", torch.full(spread.shape, -3.0)), atol=1e-3)
        alone = np.concatenate([graph("isnet", ("points",), pixels=pixels[i : i + 1])[0] for i in range(5)])
        np.testing.assert_allclose(points, alone, atol=1e-5)
        assert graph("isnet", ("points",), pixels=pixels[:0])[0].shape == (0, *points.shape[1:])


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network, trained on drawn faces until it finds their landmarks, and exported."""
    folder = tmp_path_factory.mktemp("run")
    lines = ["size = 48", "boxes = 0.2", "occlusion = false", "quality = false", "light = false"]
    settings = {"steps": "120", "batch": "32", "learning_rate": "5e-3", "warmup": "10", "average": "0.9"}
    return run(training, data, recipe_file(folder, *lines), folder / "out", overrides=settings)  # type: ignore[arg-type]


def test_overfits_drawn_faces_through_training_export_and_inference(trained: Path) -> None:
    """Behind a detector whose boxes are off by a few pixels."""
    stage = load_stage(trained)
    assert isinstance(stage, ISNet)
    rng = np.random.default_rng(0)
    before, after = [], []
    for seed in range(6):
        picture, boxes, points = scene(seed)
        image = np.asarray(picture)
        eyes = np.linalg.norm(points[:, 0] - points[:, 1], axis=1)[:, None]
        rough = points + rng.normal(0, 0.1, points.shape) * eyes[:, None]
        given = Faces.of(boxes, np.ones(len(boxes)), rough, image_size=picture.size)
        (found,) = stage([image], [given])
        for errors, at in ((before, rough), (after, found.landmarks)):
            errors.append(np.linalg.norm(at - points, axis=2) / eyes)
        assert ((found.landmark_scores >= 0) & (found.landmark_scores <= 1)).all()
    assert np.concatenate(after).mean() < 0.06 < np.concatenate(before).mean()


def test_a_file_says_how_it_was_made_and_runs_behind_a_detector(trained: Path) -> None:
    graph = load_graph(trained.read_bytes())
    assert json.loads(graph.metadata["training"])["crops"][0]["data"]["train"]["lists"]["scenes.json"]["photos"] == 6
    config = Config(**json.loads(graph.metadata["config"]))
    assert (config.landmarks, config.size, config.looks) == ("5", 48, 3)
    detector = lineament.load("mtcnn", landmarks=trained)
    plain = lineament.load("mtcnn")
    picture = scene(1)[0]
    one, other = detector.detect([picture, np.zeros((20, 30, 3), np.uint8)]), plain.detect(picture)
    np.testing.assert_array_equal(one[0].boxes, other.boxes)
    assert len(one[1]) == 0


def test_trials_are_kept_and_a_search_goes_on_where_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_file(tmp_path, 'preset = "paper"', "size = 16")
    trained: list[tuple[float, ...]] = []
    real = trials.train

    def train(task: ISNetTask, settings: ISNetRecipe, folder: Path) -> torch.nn.Module:
        if len(trained) == 5:
            raise KeyboardInterrupt  # a power failure
        trained.append(settings.beta)
        return real(task, settings, folder)

    monkeypatch.setattr(trials, "train", train)
    options = {"trials": 8, "phi": 1e9, "overrides": {"steps": "2"}}
    with pytest.raises(KeyboardInterrupt):
        trials.search_weights(data, recipe, tmp_path / "search", **options)
    monkeypatch.setattr(trials, "train", real)
    found = trials.search_weights(data, recipe, tmp_path / "search", **options)
    assert found.agreed
    assert list(found.betas[:5]) == trained
    assert len(found.losses) == 9
    kept = {json.loads(file.read_text()) for file in (tmp_path / "search" / "trials").glob("*/loss.json")}
    assert kept == set(found.losses)
    monkeypatch.setattr(trials, "train", None)  # nothing is trained twice
    assert trials.search_weights(data, recipe, tmp_path / "search", **options).losses == found.losses
    with pytest.raises(OptionError, match="search has trials by other settings; use another folder"):
        trials.search_weights(data, recipe, tmp_path / "search", trials=8, overrides={"steps": "3"})


def test_validation_faces_need_landmarks_of_the_schema(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the val data \(scenes.json\) have no landmarks of the schema 68"):
        task_of(data, tmp_path, 'landmarks = ["68"]')


def test_trials_in_processes_give_what_trials_one_by_one_give(data: Path, tmp_path: Path) -> None:
    task_of(data, tmp_path, 'preset = "paper"', "size = 16")  # cuts the faces
    (tmp_path / "isnet.toml").rename(tmp_path / "recipe.toml")
    betas = [(0.1, 0.2, 0.3), (1.0, 0.0, 0.5)]
    with trials.workers(data, tmp_path, 2) as measure:
        together = measure(betas)
    shutil.rmtree(tmp_path / "trials")
    with trials.workers(data, tmp_path, 1) as measure:
        np.testing.assert_allclose(together, measure(betas), rtol=1e-5)


def test_a_search_without_weights_to_search_is_refused(data: Path, tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, 'preset = "paper"', "twin = true")
    with pytest.raises(OptionError, match="the twin has no weights to search"):
        trials.search_weights(data, recipe, tmp_path / "search")
    with pytest.raises(OptionError, match="processes is 1 or more, found 0"):
        trials.search_weights(data, recipe, tmp_path / "search", processes=0)


def test_distance_of_nothing_labelled_is_zero() -> None:
    assert distance(torch.ones(1, 2, 2), torch.zeros(1, 2, 2), torch.zeros(1, 2)).item() == 0
