"""``lineament fit-box-convention``, from labels to a file that other commands read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from lineament.conventions import convention, read
from lineament.data.readers.coco import write_coco
from lineament.data.sample import Sample
from lineament.schemas import TWENTY_ONE

Run = Callable[..., Result]
RNG = np.random.default_rng(2)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Forty images with five faces each. Their boxes are WIDER's, enlarged by a tenth of the height at the top."""
    wider = convention("wider")
    samples = []
    for i in range(40):
        points = (wider.shape + RNG.normal(0, 0.03, (5, 5, 2))) * RNG.uniform(20, 90, (5, 1, 1)) + 200
        boxes = wider.boxes(points)
        boxes[:, 1] -= (boxes[:, 3] - boxes[:, 1]) / 10
        samples.append(
            Sample.of(
                tmp_path / f"{i}.png",
                boxes,
                points,
                ignore=[True, False, False, False, False],
                box_source=["human", "from-points", "human", "human", "detector"],
                attributes={"mask": np.array([False, False, True, False, False])},
            )
        )
    write_coco(tmp_path / "own.json", samples)
    return tmp_path / "own.json"


def test_it_fits_measures_and_writes(labels: Path, run: Run) -> None:
    out = labels.with_name("own-convention.json")
    result = run(
        "fit-box-convention",
        "--data",
        labels,
        "--out",
        out,
        "--noise",
        0,
        "--name",
        "taller",
        "--json",
        labels.with_name("overlaps.json"),
    )
    assert result.exit_code == 0, result.output
    assert "fitted to 64 faces, measured on 16 of other images" in result.stdout
    assert "left out: 40 ignored, 40 masked, 40 box of another source" in result.stdout
    rows = json.loads(labels.with_name("overlaps.json").read_text())["tables"]["overlap"]
    overlap = {name: row["mean IoU"] for name, row in rows.items()}
    assert overlap["taller"] > 0.97
    others = ("wider (built in)", "fddb-ellipse (built in)", "the mean box alone")
    assert overlap["taller"] > max(overlap[name] for name in others)
    assert f"{overlap['taller']:.4f}" in result.stdout
    assert read(out).name == "taller"


def test_pictures_may_be_too_few_to_hold_some_out(labels: Path, run: Run) -> None:
    result = run("fit-box-convention", "--data", labels, "--holdout", 0)
    assert "fitted to 80 faces, measured on 80 of the same images" in result.stdout


def test_what_cannot_be_fitted_is_named(labels: Path, run: Run) -> None:
    points = np.zeros((1, 21, 2))
    write_coco(
        labels.with_name("b.json"), [Sample.of(labels.with_name("a.png"), [[0, 0, 9, 9]], points, schema=TWENTY_ONE)]
    )
    boxes_only = labels.with_name("c.json")
    write_coco(boxes_only, [Sample.of(labels.with_name("a.png"), [[0, 0, 9, 9]])])
    out = labels.with_name("gone.json")
    for arguments, message in (
        (("--data", labels, "--data", labels.with_name("b.json")), "one landmark schema; found schemas 5, 21"),
        (("--data", boxes_only), "found none: 1 not all landmarks"),
        (("--data", labels, "--box-source", "other"), "box of another source"),
        (("--data", labels, "--holdout", 1), "in [0, 1)"),
    ):
        result = run("fit-box-convention", *arguments, "--out", out)
        assert result.exit_code == 2, result.output
        assert message in result.output
    assert not out.exists()
