"""KPNet's targets and losses, and the joints between the parts of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from lineament.data.canvases import Labels  # noqa: E402
from lineament.methods.kpnet import scales, training  # noqa: E402
from lineament.methods.kpnet.heads import Heads  # noqa: E402
from lineament.methods.kpnet.heads.base import near_proposals  # noqa: E402
from lineament.methods.kpnet.heads.bells import bell_loss  # noqa: E402
from lineament.methods.kpnet.training import KPNetRecipe, KPNetTask  # noqa: E402


def test_each_part_of_the_loss_has_the_weight_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(self: Heads, maps: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.ones(()) for name in weights}

    weights = {"scale": 2.0, "squared": 3.0, "absolute": 5.0, "peak": 7.0, "heat": 11.0, "tag": 13.0, "offset": 17.0}
    weights["box"] = 19.0
    monkeypatch.setattr(Heads, "losses", ones)

    def parts(**settings: Any) -> dict[str, float]:
        recipe = KPNetRecipe(train=(), **{f"{name}_weight": value for name, value in (weights | settings).items()})
        task = KPNetTask(nn.Identity(), recipe, None, None, {})  # type: ignore[arg-type]
        return {name: float(value) for name, value in task.losses({}, {}).items()}

    assert parts() == weights
    assert parts(squared=0.0, tag=0.0) == {n: w for n, w in weights.items() if n not in ("squared", "tag")}


def canvas(boxes: Sequence[Sequence[float]], ignore: Sequence[bool] = (), missing: Sequence[int] = ()) -> Labels:
    """Labels of faces whose landmarks lie on the diagonal of their boxes."""
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    share = np.linspace(0.2, 0.8, 5, dtype=np.float32)[:, None]
    points = corners[:, None, :2] + share * (corners[:, None, 2:] - corners[:, None, :2])
    weights = np.ones((len(corners), 5), np.float32)
    weights[list(missing), 0] = 0
    flags = np.array(ignore or [False] * len(corners), bool)
    return Labels(corners, points, weights, flags, schema=np.zeros(len(corners), int), outside=0)


@pytest.mark.parametrize("focal", [True, False])
def test_a_focal_scale_loss_is_one_faces_and_the_printed_one_a_photos(focal: bool) -> None:
    heads = Heads.of(focal=focal)
    canvases = [canvas([[10, 10, 40, 40], [60, 60, 100, 100], [20, 70, 50, 110]]), canvas([])]
    batch = {
        name: torch.as_tensor(values) for name, values in heads.targets(np.random.default_rng(0), canvases, 128).items()
    }
    logits = torch.randn(2, 60, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = bell_loss(logits, batch["ignored"], batch["cells"], batch["values"], focal=focal)
    part = heads.grouping.losses({"scale": logits}, batch)["scale"]
    torch.testing.assert_close(part, whole / (3 if focal else 2))


def test_without_faces_a_focal_loss_is_the_backgrounds() -> None:
    heads = Heads.of()
    batch = {
        name: torch.as_tensor(values)
        for name, values in heads.targets(np.random.default_rng(0), [canvas([])], 128).items()
    }
    logits = torch.zeros(1, 60, 64, 64)
    whole = bell_loss(logits, batch["ignored"], batch["cells"], batch["values"], focal=True)
    torch.testing.assert_close(heads.grouping.losses({"scale": logits}, batch)["scale"], whole)


def test_heat_is_learnt_in_the_regions_of_faces_with_all_their_landmarks() -> None:
    whole, lacking, ignored = [16.0, 16, 48, 48], [80.0, 16, 112, 48], [16.0, 80, 48, 112]
    canvases = [canvas([whole, lacking, ignored], ignore=[False, False, True], missing=[1])]
    for grouping, background in (("scalemap", True), ("embedding", False)):
        heads = Heads.of(grouping, "argmax")
        found = heads.targets(np.random.default_rng(0), canvases, 128)["heat_ignored"][0]
        stride = 128 // len(found)
        assert not found[32 // stride, 32 // stride]
        assert found[32 // stride, 96 // stride]  # it lacks a landmark
        assert found[96 // stride, 32 // stride]
        assert found[96 // stride, 96 // stride] == background  # no region, since an embedding has none


def test_offsets_count_by_the_longer_side() -> None:
    heads = Heads.of(backbone="lite")
    canvases = [canvas([[10, 10, 30, 50], [60, 60, 100, 70]]), canvas([[0, 0, 9, 12]])]
    batch = heads.targets(np.random.default_rng(0), canvases, 128)
    assert batch["sides"].tolist() == [[40, 40], [12, 0]]
    assert batch["centres"].tolist() == [[[20, 30], [80, 65]], [[4.5, 6], [0, 0]]]


def test_regions_in_training_miss_as_proposals_do() -> None:
    """The centre is off by a share of the side and then moves to a cell's, the bin sometimes by one."""
    boxes = np.tile([100.0, 200, 260, 350], (6000, 1))
    regions = near_proposals(np.random.default_rng(0), boxes)
    centres, sides = (regions[:, :2] + regions[:, 2:]) / 2, regions[:, 2:] - regions[:, :2]
    np.testing.assert_allclose(sides[:, 0], sides[:, 1])
    off = centres - [180, 275]
    assert off.std(axis=0) == pytest.approx([0.04 * 160] * 2, rel=0.05)
    assert off.mean(axis=0) == pytest.approx([0, 0], abs=0.3)
    np.testing.assert_allclose(centres % 2, 1)  # in the middles of cells of two pixels
    (own,) = scales.encode(np.array([160.0]))
    expected = scales.decode(np.array([own - 1, own, own + 1]))
    shares = [np.isclose(sides[:, 0], side).mean() for side in expected]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_groups_are_faces_with_the_square_around_their_landmarks() -> None:
    heat, tags = torch.full((1, 2, 16, 16), -10.0), torch.zeros(1, 2, 16, 16)
    for landmark, row, column, tag in ((0, 2, 3, 0.0), (1, 6, 3, 0.0), (0, 10, 10, 9.0), (1, 12, 13, 9.0)):
        heat[0, landmark, row, column], tags[0, landmark, row, column] = 3.0, tag
    heads = Heads.of("embedding", "argmax")
    maps = {"response": heat, "scale": tags}
    found = heads.grouping.find(heat, maps, torch.tensor([2.9]), heads.extraction)
    sure = found[0][0].isfinite()
    logit, centre, side, points, peaks = (values[0, sure] for values in found.outputs().values())
    torch.testing.assert_close(logit, torch.full_like(logit, 3.0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(peaks, torch.full_like(peaks, 3.0).sigmoid(), rtol=1e-3, atol=1e-3)
    faces = {tuple(torch.cat([c, s[None], p.flatten()]).tolist()) for c, s, p in zip(centre, side, points, strict=True)}
    assert faces == {(7, 9, 8, 7, 5, 7, 13), (24, 23, 6, 21, 21, 27, 25)}
    assert not heads.grouping.find(heat, maps, torch.tensor([3.1]), heads.extraction)[0].isfinite().any()


def test_a_file_without_regions_has_boxes_from_landmarks_alone() -> None:
    def proposal(**settings: Any) -> float:
        return training._config(KPNetRecipe(train=(), **settings)).proposal

    assert proposal() == proposal(grouping="rpn") > 0
    alone = {"grouping": "embedding", "extraction": "argmax"}
    assert proposal(**alone) == 0
    assert proposal(**alone, settings={"proposal": 0.2}) == 0.2
