"""The loop learns, and a killed run ends with the same weights as one that was not."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")


from lineament.errors import OptionError  # noqa: E402
from lineament.train import batches, loop  # noqa: E402
from lineament.train.checkpoint import CHECKPOINT, check_same, phases_of  # noqa: E402
from lineament.train.loop import train  # noqa: E402
from tasks import RECIPE, Brightness, train_as  # noqa: E402


def lines(folder: Path, kind: str) -> list[dict[str, float]]:
    """The lines of a run's log that have this entry."""
    found = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line for line in found if kind in line]


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / CHECKPOINT, weights_only=True)


def test_it_learns_and_keeps_the_best(tmp_path: Path) -> None:
    task = Brightness()
    before = task.validate(task.network)["negated_error"]
    trained = train(task, RECIPE, tmp_path)
    scores = [line["validation"]["negated_error"] for line in lines(tmp_path, "validation")]
    assert len(scores) == 3
    assert task.validate(trained)["negated_error"] == pytest.approx(max(scores), abs=1e-7)
    assert max(scores) > before / 10


def test_a_killed_run_goes_on_exactly(tmp_path: Path) -> None:
    whole = train(Brightness(), RECIPE, tmp_path / "whole").state_dict()
    with pytest.raises(KeyboardInterrupt):
        train(Brightness(stop_after=50), RECIPE, tmp_path / "killed")
    resumed = train(Brightness(), RECIPE, tmp_path / "killed").state_dict()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_a_run_begins_with_the_best_weights_of_another(tmp_path: Path) -> None:
    first = train(Brightness(), RECIPE, tmp_path / "first" / "stage")
    recipe = replace(RECIPE, initial=str(tmp_path / "first"), steps=1, learning_rate=0.0)
    second = train(Brightness(), recipe, tmp_path / "second" / "stage")
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(OptionError, match=r"third.*train that run first"):
        train(Brightness(), replace(RECIPE, initial=str(tmp_path / "third")), tmp_path / "fourth" / "stage")


def test_a_training_never_ends_with_worse_weights_than_it_began_with(tmp_path: Path) -> None:
    first = train(Brightness(), RECIPE, tmp_path / "first" / "stage")
    ruinous = replace(RECIPE, steps=8, validate_every=4, learning_rate=50.0, average=0.0)
    second = train(Brightness(), replace(ruinous, initial=str(tmp_path / "first")), tmp_path / "second" / "stage")
    assert [line["step"] for line in lines(tmp_path / "second" / "stage", "validation")] == [0, 4, 8]
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_share_of_the_initial_weights_is_kept(tmp_path: Path) -> None:
    first = train(Brightness(), RECIPE, tmp_path / "first" / "stage")
    recipe = replace(RECIPE, initial=str(tmp_path / "first"), steps=40, seed=8, average=0.0)
    free, bound = (replace(recipe, keep=keep) for keep in (0.0, 0.75))
    train(Brightness(), free, tmp_path / "free" / "stage")
    with pytest.raises(KeyboardInterrupt):
        train(Brightness(stop_after=30), bound, tmp_path / "bound" / "stage")
    train(Brightness(), bound, tmp_path / "bound" / "stage")
    moved, kept = checkpoint(tmp_path / "free" / "stage"), checkpoint(tmp_path / "bound" / "stage")
    assert moved["best"]["step"] == kept["best"]["step"] > 0
    for name, value in first.state_dict().items():
        between = value + 0.25 * (moved["best"]["weights"][name] - value)
        torch.testing.assert_close(kept["best"]["weights"][name], between)
    with pytest.raises(OptionError, match="keep"):
        replace(RECIPE, keep=1.0)


def test_a_run_of_another_network_is_refused(tmp_path: Path) -> None:
    train(Brightness(), RECIPE, tmp_path / "first" / "stage")
    other = Brightness()
    other.network = torch.nn.Linear(2, 7)
    with pytest.raises(OptionError, match="the initial run has another network; export it"):
        train(other, replace(RECIPE, initial=str(tmp_path / "first")), tmp_path / "second" / "stage")


def test_a_method_that_cannot_begin_with_a_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="folder of a run"):
        train(Brightness(), replace(RECIPE, initial="mtcnn"), tmp_path)
    with pytest.raises(OptionError, match=r"none\.onnx.*shipped are"):
        train(Brightness(), replace(RECIPE, initial="none.onnx"), tmp_path)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(Brightness(), RECIPE, tmp_path)
    with pytest.raises(OptionError, match="learning_rate"):
        train(Brightness(), replace(RECIPE, learning_rate=0.1), tmp_path)


def test_a_checkpoint_from_before_a_setting_was_trained_with_its_default(tmp_path: Path) -> None:
    train(Brightness(), RECIPE, tmp_path)
    state = checkpoint(tmp_path)
    del state["recipe"]["weight_decay"], state["recipe"]["settings"]
    check_same(tmp_path / CHECKPOINT, state, RECIPE)
    with pytest.raises(OptionError, match="weight_decay"):
        check_same(tmp_path / CHECKPOINT, state, replace(RECIPE, weight_decay=0.5))


def test_a_checkpoint_of_an_older_version_is_refused(tmp_path: Path) -> None:
    torch.save({"step": 20}, tmp_path / CHECKPOINT)
    with pytest.raises(OptionError, match="older version"):
        train(Brightness(), RECIPE, tmp_path)


def test_one_process_trains_in_both_precisions(tmp_path: Path) -> None:
    for precision in ("no", "bf16"):
        recipe = replace(RECIPE, steps=5, precision=precision)
        trained = train(Brightness(), recipe, tmp_path / precision)
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trained.parameters())


class Clock:
    """Advances by a second at every reading."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


def test_a_training_by_the_clock_ends_validated_and_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, minutes=0.5, validate_every=8)
    monkeypatch.setattr(loop, "time", Clock())
    train(Brightness(), recipe, tmp_path / "whole")
    state = checkpoint(tmp_path / "whole")
    assert state["seconds"] >= 30
    assert 25 < state["step"] <= 30
    assert [line["step"] for line in lines(tmp_path / "whole", "validation")] == [8, 16, 24, state["step"]]
    monkeypatch.setattr(loop, "time", Clock())
    with pytest.raises(KeyboardInterrupt):
        train(Brightness(stop_after=20), recipe, tmp_path / "killed")
    monkeypatch.setattr(loop, "time", Clock())
    train(Brightness(), recipe, tmp_path / "killed")  # for the time left at step 16
    assert abs(checkpoint(tmp_path / "killed")["step"] - state["step"]) <= 2


TWO_PHASES = [
    replace(RECIPE, steps=20),
    replace(
        RECIPE,
        **{"steps": 40, "validate_every": 5, "seed": 4, "optimizer": "sgd", "learning_rate": 0.9, "warmup": 0},
        **{"schedule": "plateau", "patience": 1, "factor": 0.7},
    ),
]


def run_of_phases(folder: Path, first: int = 1, *, stop: int | None = None) -> None:
    """Two phases, or only the second. The run may be killed before a step."""
    for phase, recipe in list(enumerate(TWO_PHASES, 1))[first - 1 :]:
        train(Brightness(stop_after=stop if phase == 2 else None), recipe, folder, phase=phase)


def test_a_killed_run_of_phases_goes_on_exactly(tmp_path: Path) -> None:
    run_of_phases(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_of_phases(tmp_path / "killed", stop=33)
    killed = checkpoint(tmp_path / "killed")
    assert (killed["phase"], killed["step"]) == (2, 30)
    run_of_phases(tmp_path / "killed", first=2)
    whole, resumed = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "killed")
    assert whole["schedule"] == resumed["schedule"]
    assert 0 < killed["schedule"]["lowered"] < whole["schedule"]["lowered"]
    for part in ("network", "average"):
        for name, value in whole[part].items():
            assert torch.equal(value, resumed[part][name]), name


def test_a_phase_that_resumes_goes_on_as_if_there_were_one(tmp_path: Path) -> None:
    """Stopped before the end of its schedule, and then continued to the end with the same settings."""
    whole = train(Brightness(), RECIPE, tmp_path / "whole").state_dict()
    train(Brightness(), replace(RECIPE, stop=30), tmp_path / "phases")
    assert checkpoint(tmp_path / "phases")["step"] == 30
    task = Brightness(stop_after=50)
    with pytest.raises(KeyboardInterrupt):
        train(task, replace(RECIPE, resume=True), tmp_path / "phases", phase=2)
    assert len(task.sizes) == 20  # no step of the first phase again
    resumed = train(Brightness(), replace(RECIPE, resume=True), tmp_path / "phases", phase=2).state_dict()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    records = phases_of(tmp_path / "phases")
    assert [(record["steps"], record["recipe"]["resume"]) for record in records] == [(30, False), (60, True)]
    assert [(line["phase"], line["from"]) for line in lines(tmp_path / "phases", "phase")] == [(1, 0), (2, 30), (2, 40)]


def test_a_phase_begins_with_the_best_weights_before_it_and_both_are_on_record(tmp_path: Path) -> None:
    train(Brightness(), RECIPE, tmp_path / "stage")
    first = checkpoint(tmp_path / "stage")["best"]
    task = Brightness()
    task.data = {"train": {"lists": {"a.json": {"photos": 3, "faces": 4}}}}
    still = replace(RECIPE, steps=7, learning_rate=0.0, seed=9)
    train(task, still, tmp_path / "stage", phase=2)
    for name, value in first["weights"].items():
        assert torch.equal(value, checkpoint(tmp_path / "stage")["best"]["weights"][name])
    train(Brightness(), replace(still, initial=str(tmp_path)), tmp_path / "other" / "stage")
    records = phases_of(tmp_path / "other" / "stage")
    assert [record["steps"] for record in records] == [60, 7, 7]
    assert [record["step"] for record in records] == [first["step"], 0, 0]  # without a learning rate nothing improves
    assert [record["recipe"]["seed"] for record in records] == [3, 9, 9]
    assert [record["initial"] for record in records] == ["", "the phase before", tmp_path.name]
    assert records[1]["data"] == task.data


def test_two_processes_give_the_weights_of_one(tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=20, validate_every=10, optimizer="sgd", clip=0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_as, args=(2, port, recipe, tmp_path), nprocs=2)
    alone = train(Brightness(), recipe, tmp_path / "alone").state_dict()
    for rank in range(2):
        saved = torch.load(tmp_path / f"{rank}.pt")
        for name, value in saved["weights"].items():
            torch.testing.assert_close(value, alone[name], rtol=1e-5, atol=1e-6)
        assert saved["sizes"][0] == RECIPE.batch // 2
        assert saved["validations"] == (2 if rank == 0 else 0)
    together, one = (lines(tmp_path / folder, "validation") for folder in ("stage", "alone"))
    assert [line["step"] for line in together] == [10, 20]  # by one of them
    for mine, theirs in zip(together, one, strict=True):
        assert mine["validation"]["negated_error"] == pytest.approx(theirs["validation"]["negated_error"], rel=1e-4)


def test_processes_that_cannot_share_a_batch_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Three(loop.Accelerator):
        num_processes = 3

    monkeypatch.setattr(loop, "Accelerator", Three)
    with pytest.raises(OptionError, match="3 processes cannot share a batch of 16"):
        train(Brightness(), RECIPE, tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_training_leaves_no_worker_behind() -> None:
    alive, held = os.pipe()  # the other end closes when all its processes have ended
    training = os.fork()
    if not training:
        if not os.fork():
            batches._end_with_parent(0)
            os.write(held, b"!")
        time.sleep(60)
        os._exit(0)
    os.close(held)
    assert os.read(alive, 1) == b"!"
    os.kill(training, signal.SIGKILL)
    os.waitpid(training, 0)
    assert select.select([alive], [], [], 20)[0]
    assert os.read(alive, 1) == b""
