"""Training of the verifier: which windows it learns, where their faces are, and a small run on real photos."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import lineament  # noqa: E402
from lineament import boxes as box_ops  # noqa: E402
from lineament.data.crops import CropSet, Jitter, mirrored, recut  # noqa: E402
from lineament.data.sample import Sample  # noqa: E402
from lineament.errors import DataError, OptionError  # noqa: E402
from lineament.methods import open_weights  # noqa: E402
from lineament.methods.verifier import targets, training  # noqa: E402
from lineament.methods.verifier.decode import Verifier, to_crops  # noqa: E402
from lineament.methods.verifier.network import VerifierNet  # noqa: E402
from lineament.methods.verifier.targets import REACH, Kind  # noqa: E402
from lineament.methods.verifier.training import VerifierRecipe, offsets  # noqa: E402
from lineament.similarity import crops  # noqa: E402
from lineament.train.run import run  # noqa: E402
from tasks import assert_continues  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "photos"
FACE = [20.0, 20, 60, 70]


def sample(boxes: list[list[float]], ignore: list[bool] | None = None) -> Sample:
    return Sample.of("none.png", boxes, ignore=ignore, size=(200, 200))


@pytest.mark.parametrize(
    ("candidates", "boxes", "kinds"),
    [
        ([FACE], [FACE], [Kind.FACE, Kind.LABEL]),
        ([[25, 20, 65, 70], FACE], [FACE], [Kind.FACE, Kind.FACE, Kind.LABEL]),
        ([[100, 100, 140, 140]], [FACE], [Kind.NOTHING, Kind.LABEL]),
        ([[35, 20, 85, 70]], [FACE], [Kind.FACE, Kind.LABEL]),  # 0.38, the best for this face
        ([[35, 20, 85, 70], FACE], [FACE], [Kind.FACE, Kind.LABEL]),  # 0.38, and another is better
        ([[100, 100, 140, 140]], [], [Kind.NOTHING]),
        ([], [FACE], [Kind.LABEL]),
        ([[0, 0, 5, 5]], [[0, 0, 5, 5]], []),  # too small to learn, and no false alarm
    ],
)
def test_windows_are_faces_or_not(candidates: Any, boxes: Any, kinds: list[Kind]) -> None:
    found = targets.windows(sample(boxes), np.array(candidates, float).reshape(-1, 4))
    assert found.kind.tolist() == kinds
    np.testing.assert_allclose(found.windows, box_ops.square(found.windows))


def test_candidates_on_ignored_regions_are_left_out_unless_they_are_faces() -> None:
    region = [90.0, 90, 200, 200]
    labels = sample([FACE, region], [False, True])
    found = targets.windows(labels, np.array([[100.0, 100, 140, 140], [150, 20, 190, 60], FACE]))
    assert found.kind.tolist() == [Kind.FACE, Kind.NOTHING, Kind.LABEL]
    np.testing.assert_array_equal(found.boxes[0], FACE)


@pytest.mark.parametrize("flip", [False, True])
def test_moved_crops_and_their_boxes_belong_together(flip: bool) -> None:
    """A crop cut out of a patch equals one cut out of the photo, and its offsets lead to the face in it."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (30, 30, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    window, face = np.array([[100.0, 90, 196, 186]]), np.array([[112.0, 100, 184, 194]])
    context, size = 1.7, VerifierNet.size
    patch = crops(image, to_crops(window, round(size * REACH), context * REACH), round(size * REACH))
    moves = mirrored(Jitter(turn=0, scale=0.1, shift=0.03).draw(rng, 1), np.array([flip]))
    moved = recut(patch, np.array([0]), moves, size=size, reach=REACH)[0]

    centre, side = (window[:, :2] + window[:, 2:]) / 2, 96.0
    box = (face - np.tile(centre, 2)) / side
    inner = np.array([[0.5 - 0.5 / context] * 2 + [0.5 + 0.5 / context] * 2])
    shown = box_ops.decode_rcnn(offsets(box, moves, context), inner)[0]
    to_crop = to_crops(window, size, context)[0]
    corners = (face.reshape(2, 2) @ to_crop[:, :2].T + to_crop[:, 2]) / size @ moves[0, :, :2].T + moves[0, :, 2]
    np.testing.assert_allclose(shown, [*corners.min(0), *corners.max(0)], atol=1e-6)
    whole = np.vstack([to_crop / size, [0, 0, 1]])
    direct = moves[0] @ whole * size
    if not flip:
        expected = crops(image, direct[None], size)[0]
        assert np.abs(moved.astype(int) - expected.astype(int)).mean() < 12  # of 85 for unrelated pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example photos, labelled by a detector."""
    folder = tmp_path_factory.mktemp("verifier")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    paths = sorted(EXAMPLES.glob("*.jpg"))
    for number, (path, faces) in enumerate(zip(paths, lineament.load("kpnet-lite").detect(paths), strict=True)):
        (folder / path.name).write_bytes(path.read_bytes())
        width, height = faces.image_size
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        for x1, y1, x2, y2 in faces.boxes[faces.scores > 0.8].tolist():
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append({"id": len(annotations), "image_id": number, "category_id": 1, "bbox": box})
    labels = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    (folder / "faces.json").write_text(json.dumps(labels))
    (folder / "recipe.toml").write_text(
        'train = ["faces.json"]\nval = ["faces.json"]\n[crops]\ndetectors = "kpnet-lite"\nlowest = 0.005\n'
        "steps = 60\nbatch = 32\nlearning_rate = 3e-3\nwarmup = 5\nvalidate_every = 60\nworkers = 0\naverage = 0.9\n"
    )
    return folder


def test_a_run_learns_and_its_file_computes_the_same(folder: Path) -> None:
    torch.set_num_threads(2)
    file = run(training, folder, folder / "recipe.toml", folder / "run")  # type: ignore[arg-type]
    lines = [json.loads(line) for line in (folder / "run" / "crops" / "log.jsonl").read_text().splitlines()]
    (figures,) = [line["validation"] for line in lines if "validation" in line]
    assert figures["accuracy"] > 0.8
    graph, of, _, config = open_weights(file)
    assert (of, config.size, config.context) == ("verifier", 48, 1.7)
    kept = CropSet(folder / "run" / "candidates" / "val")
    score, _ = graph("verifier", ("score", "box"), pixels=np.array(kept.pixels))
    assert ((score > 0) == (kept.labels["kind"] != Kind.NOTHING)).mean() == pytest.approx(figures["accuracy"], abs=0.02)
    assert isinstance(Verifier(graph, config).opinions([], []), list)


def test_a_training_continues_as_the_file_left_off(folder: Path) -> None:
    task = training.prepare("crops", folder, training.read(folder / "recipe.toml", "crops"), folder / "run")
    assert_continues(task, "verifier", ("score", "box"))


def test_candidates_are_cut_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = training.read(folder / "recipe.toml", "crops")
    training.prepare("crops", folder, recipe, folder / "run")
    monkeypatch.setattr(targets, "cut", pytest.fail)
    task = training.prepare("crops", folder, recipe, folder / "run")
    rows = task.draw(np.random.default_rng(0))
    kinds = np.bincount(task.crops.labels["kind"][rows], minlength=3)
    assert kinds.tolist() == [16, 11, 5]
    batch = task.batch(0)
    assert batch["pixels"].shape == (32, 48, 48, 3)
    np.testing.assert_array_equal(batch["box"], task.batch(0)["box"])


def test_detectors_take_turns(folder: Path, tmp_path: Path) -> None:
    """Each photo is shown to one, the next photo to the next."""

    class Sees:
        def __init__(self, box: list[float]) -> None:
            self.box, self.seen = box, 0

        def __call__(self, images: list[np.ndarray], **options: Any) -> list[lineament.Faces]:
            self.seen += 1
            points = np.zeros((1, 5, 2))
            return [lineament.Faces.of([self.box], [0.9], points, image_size=(i.shape[1], i.shape[0])) for i in images]

    path = str(EXAMPLES / "astronaut.jpg")
    photos = [Sample.of(path, [FACE], size=(512, 512)) for _ in range(5)]
    first, second = Sees(FACE), Sees([300, 300, 340, 350])
    found = targets.cut(photos, [first, second], tmp_path, "", lowest=0.1, context=1.7, reach=1.0)  # type: ignore[list-item]
    assert (first.seen, second.seen) == (3, 2)
    assert np.bincount(found.labels["kind"]).tolist() == [2, 3, 5]


def test_what_cannot_be_learned_says_so(folder: Path, tmp_path: Path) -> None:
    recipe = VerifierRecipe(train=("faces.json",), val=("faces.json",), detectors=("isnet-5",))
    with pytest.raises(OptionError, match="detectors names weights of detectors; isnet-5 is a landmark stage"):
        training.prepare("crops", folder, recipe, tmp_path)
    with pytest.raises(OptionError, match=r"detectors names .*; found none"):
        replace(recipe, detectors=())
    certain = VerifierRecipe(train=("faces.json",), val=("faces.json",), detectors=("kpnet-lite",), lowest=0.99)
    with pytest.raises(DataError, match=r"candidates, \d+ are faces and 0 are not"):
        training.prepare("crops", folder, certain, tmp_path)
