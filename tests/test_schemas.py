"""Landmark schemas against the published tables and against real faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lineament.data.readers.coco import read_coco
from lineament.errors import OptionError
from lineament.schemas import (
    FIVE,
    MAPS,
    PARTS,
    SCHEMAS,
    SIXTY_EIGHT,
    convert,
    is_convertible,
    least_of_parts,
    own,
    schema,
)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_consistent(name: str) -> None:
    s = schema(name)
    assert len(s) == len(s.mirror) == len(set(s.points)) == int(name.split("-")[0])
    np.testing.assert_array_equal(np.array(s.mirror)[list(s.mirror)], np.arange(len(s)))
    grouped = sorted(i for part in PARTS for i in s.groups.get(part, ()))
    assert grouped == [i for i, point in enumerate(s.points) if not point.endswith("ear")]  # each in exactly one group
    for side, other in (("right_eye", "left_eye"), ("right_brow", "left_brow"), ("right_pupil", "left_pupil")):
        assert {s.mirror[i] for i in s.groups.get(side, ())} == set(s.groups.get(other, ()))


def pairs(*table: tuple[int, int]) -> set[frozenset[int]]:
    return {frozenset(pair) for pair in table}


def mirror_pairs(name: str) -> set[frozenset[int]]:
    return {frozenset((i, j)) for i, j in enumerate(schema(name).mirror) if i != j}


def test_mirror_pairs_as_published() -> None:
    assert mirror_pairs("29") == pairs(
        *((0, 1), (2, 3), (4, 6), (5, 7), (8, 9), (10, 11), (12, 14), (13, 15), (16, 17), (18, 19), (22, 23))
    )
    assert mirror_pairs("19") == pairs((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9), (12, 14), (15, 17))
    assert mirror_pairs("68") == pairs(
        *((i, 16 - i) for i in range(8)),
        *((17 + i, 26 - i) for i in range(5)),
        *((31, 35), (32, 34), (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)),
        *((48, 54), (49, 53), (50, 52), (59, 55), (58, 56), (60, 64), (61, 63), (67, 65)),
    )
    assert mirror_pairs("98") == pairs(
        *((i, 32 - i) for i in range(16)),
        *((33 + i, 46 - i) for i in range(5)),
        *((38 + i, 50 - i) for i in range(4)),
        *((55, 59), (56, 58), *((60 + i, 72 - i) for i in range(5)), (65, 75), (66, 74), (67, 73)),
        *((76, 82), (77, 81), (78, 80), (87, 83), (86, 84), (88, 92), (89, 91), (95, 93), (96, 97)),
    )


def test_eye_corners_are_those_of_the_protocols() -> None:
    assert schema("68").groups["outer_eye_corners"] == (36, 45)
    assert schema("98").groups["outer_eye_corners"] == (60, 72)
    assert schema("29").groups["outer_eye_corners"] == (8, 9)
    assert schema("68").groups["right_eye"] == tuple(range(36, 42))
    assert (schema("98").groups["right_pupil"], schema("98").groups["left_pupil"]) == ((96,), (97,))


def test_the_mirror_of_21_is_that_of_a_mean_face(shared: Path) -> None:
    samples = read_coco(shared / "data" / "landmarks21-train.json")
    assert samples[0].schema is schema("21")
    faces = np.concatenate([s.landmarks for s in samples]).astype(float)
    z = faces[..., 0] + 1j * faces[..., 1]
    right, left = z[:, 16:17], z[:, 17:18]
    upright = (z - (right + left) / 2) / (left - right)  # eyes level, 1 apart, with their midpoint at 0
    mean = np.median(upright.real, axis=0) + 1j * np.median(upright.imag, axis=0)
    nearest = np.abs(mean[:, None] + mean.conj()[None]).argmin(axis=0)
    assert nearest.tolist() == list(schema("21").mirror)


@pytest.mark.parametrize("pair", MAPS)
def test_a_map_commutes_with_the_mirror(pair: tuple[str, str]) -> None:
    source, target = schema(pair[0]), schema(pair[1])
    points = np.random.default_rng(0).normal(size=(3, len(source), 2))
    there = convert(points, source, target)
    assert there.shape == (3, len(target), 2)
    mirrored = convert((points * [-1, 1])[:, list(source.mirror)], source, target)
    np.testing.assert_allclose((there * [-1, 1])[:, list(target.mirror)], mirrored)


def test_five_points_of_richer_schemas() -> None:
    ramp = {name: np.stack([np.arange(len(s)), np.zeros(len(s))], axis=1) for name, s in SCHEMAS.items()}
    expected = {
        "19": [7, 10, 13, 15, 17],
        "21": [16, 17, 18, 19, 20],
        "21-aflw": [7, 10, 14, 17, 19],
        "29": [16, 17, 20, 22, 23],
        "68": [38.5, 44.5, 30, 48, 54],
        "98": [96, 97, 54, 76, 82],
    }
    found = {name: convert(ramp[name], schema(name), FIVE)[:, 0].tolist() for name in expected}
    assert found == expected
    via_68 = convert(convert(ramp["98"], schema("98"), schema("68")), schema("68"), FIVE)
    assert via_68[2:, 0].tolist() == [54, 76, 82]


def test_a_map_keeps_what_is_not_labelled() -> None:
    points = np.zeros((68, 2))
    points[37] = np.nan
    five = convert(points, schema("68"), FIVE)
    assert np.isnan(five[0]).all()
    assert np.isfinite(five[1:]).all()


def test_values_are_reduced_to_the_least_of_the_parts() -> None:
    values = np.random.default_rng(0).random((3, 68)).astype(np.float32)
    found = least_of_parts(values, SIXTY_EIGHT, FIVE)
    assert found.dtype == np.float32
    eyes = values[:, 36:42].min(axis=1), values[:, 42:48].min(axis=1)
    np.testing.assert_array_equal(found, np.stack([*eyes, values[:, 30], values[:, 48], values[:, 54]], axis=1))
    assert least_of_parts(values, SIXTY_EIGHT, SIXTY_EIGHT) is values


def test_what_is_convertible_is_what_convert_accepts() -> None:
    for source in (*SCHEMAS.values(), own("beak", ("tip",))):
        for target in SCHEMAS.values():
            if is_convertible(source, target):
                assert convert(np.zeros((len(source), 2)), source, target).shape == (len(target), 2)
            else:
                with pytest.raises(OptionError, match="no map"):
                    convert(np.zeros((len(source), 2)), source, target)


def test_no_such_schema_or_map() -> None:
    with pytest.raises(OptionError, match="there are: 5, 19"):
        schema("7")
    for source, target, there_are in (("29", "98", "5"), ("98", "29", "5, 68"), ("5", "68", "none")):
        with pytest.raises(OptionError, match=f"to these there is one: {there_are}$"):
            convert(np.zeros((len(schema(source)), 2)), schema(source), schema(target))


def test_own_schema() -> None:
    s = own("beak", ("right_eye", "left_eye", "tip"), [(0, 1)])
    assert s.mirror == (1, 0, 2)
    assert s.groups == {"right_eye": (0,), "left_eye": (1,)}
    assert own("beak", ("a", "b"), groups={"mouth": [0, 1]}).groups == {"mouth": (0, 1)}
    with pytest.raises(OptionError, match="only 2 points"):
        own("beak", ("a", "b"), [(0, 2)])
    with pytest.raises(OptionError, match="one pair only"):
        own("beak", ("a", "b", "c"), [(0, 1), (1, 2)])
