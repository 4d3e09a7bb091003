"""Recipes: settings from tables, phases and overrides. Errors name the place."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from lineament.errors import OptionError
from lineament.train.recipe import (
    Recipe,
    as_dict,
    copy_recipe,
    find_recipe,
    list_settings,
    read_about,
    read_phases,
    read_recipe,
    settings_of,
    to_toml,
)


@dataclass(frozen=True)
class Light:
    brightness: float = 32
    hues: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Own(Recipe):
    light: Light | None = Light(brightness=5)
    dark: Light | None = None
    name: str = "x"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(text)
    return path


COMMON = 'train = ["a.json"]\nval = "b.json"\nseed = 1\nname = "y"\n'


def test_what_stands_above_the_tables_is_common_to_them(tmp_path: Path) -> None:
    path = written(tmp_path, COMMON + "[one]\nsteps = 5\n[two]\nsteps = 7\nseed = 2\n[weights]\nlicence = 'none'\n")
    one, two = read_recipe(path, Own, "one"), read_recipe(path, Own, "two")
    assert (one.train, one.val, one.seed, one.steps, one.name) == (("a.json",), ("b.json",), 1, 5, "y")
    assert (two.train, two.val, two.seed, two.steps, two.name) == (("a.json",), ("b.json",), 2, 7, "y")
    assert one.light == Light(brightness=5)
    assert read_about(path) == {"licence": "none"}
    assert read_about(written(tmp_path, COMMON)) == {}


def test_tables_fill_settings_and_false_switches_them_off(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        COMMON
        + "[light]\nhues = [3]\n[one]\n[one.light]\nbrightness = 8\n[one.dark]\nhues = 4\n[two]\nlight = false\n",
    )
    one, two = read_recipe(path, Own, "one"), read_recipe(path, Own, "two")
    assert one.light == Light(brightness=8, hues=(3,))  # of both tables
    assert one.dark == Light(hues=(4,))  # off by default, so it starts from its own defaults
    assert (two.light, two.dark) == (None, None)
    assert read_recipe(written(tmp_path, COMMON + "[one]\nlight.hues = [9]\n"), Own, "one").light == Light(5, (9,))


def test_phases_change_what_they_name(tmp_path: Path) -> None:
    text = COMMON + (
        "[one]\nsteps = 5\nlight.brightness = 1\n"
        "[[one.phases]]\nsteps = 3\n[[one.phases]]\nseed = 9\nlight.hues = [7]\n[[one.phases]]\nlight = false\n"
    )
    first, second, third = read_phases(written(tmp_path, text), Own, "one")
    assert (first.steps, first.seed, first.light) == (3, 1, Light(brightness=1))
    assert (second.steps, second.seed, second.light) == (5, 9, Light(1, (7,)))
    assert (third.steps, third.seed, third.light) == (5, 1, None)
    assert read_recipe(written(tmp_path, text), Own, "one") == third
    assert read_phases(written(tmp_path, COMMON + "[one]\n"), Own, "one") == [
        Own(("a.json",), ("b.json",), seed=1, name="y")
    ]


def test_overrides_replace_the_settings_of_every_phase(tmp_path: Path) -> None:
    path = written(tmp_path, COMMON + "[one]\nsteps = 5\n[[one.phases]]\nsteps = 3\n[[one.phases]]\nlight.hues = [7]\n")
    copy = tmp_path / "run" / "r.toml"
    copy_recipe(path, copy, {"steps": "11", "light.brightness": "2"})
    found = read_phases(copy, Own, "one")
    assert [(r.steps, r.light) for r in found] == [(11, Light(2)), (11, Light(2, (7,)))]
    copy_recipe(path, copy, {"phases": "[{seed = 4}]", "batch": "6"})
    assert [(r.steps, r.seed, r.batch) for r in read_phases(copy, Own, "one")] == [(5, 4, 6)]
    copy_recipe(path, copy, {})
    assert copy.read_text() == path.read_text()


def test_the_recipe_of_a_run_takes_further_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, COMMON + "[one]\nsteps = 5\n")
    copy_recipe(path, path, {"steps": "11", "light.brightness": "2"})
    copy_recipe(path, path, {"light.hues": "[7]", "batch": "6"})
    found = read_recipe(path, Own, "one")
    assert (found.steps, found.batch, found.light) == (11, 6, Light(2, (7,)))
    assert path.read_text().count("[overrides]") == 1
    path.write_text("[overrides]\nsteps = 3\n[one]\n")
    with pytest.raises(OptionError, match=r"r\.toml: \[overrides\] must be its last table"):
        copy_recipe(path, path, {"batch": "6"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[two]\n[three]\n", r"r\.toml has no table \[one\]; it has: two, three"),
        ("[one]\nstepz = 3\nlicht = 4\n", r"r\.toml \[one\]: no such setting: licht, stepz; there are: train, val"),
        ("[one]\nlight.hue = 3\n", r"\[one\], table light: no such setting: hue; there are: brightness, hues"),
        ("[one]\nlight = true\n", r"\[one\]: light is a table, or false to switch it off, found True"),
        ("[one]\noptimizer = 'adam'\n", r"\[one\]: optimizer must be one of adamw, sgd, found 'adam'"),
        ("[one]\nschedule = 'linear'\n", "schedule must be one of cosine, step, plateau, constant, found 'linear'"),
        ("[one]\nprecision = 'fp16'\n", "precision must be one of no, bf16, found 'fp16'"),
        ("[one]\nsteps = 0\n", "steps must be at least 1, found 0"),
        ("[one]\nbackgrounds = ['']\n", r"found an empty one; \[\] is none"),
        ("[one]\nbatch = 0\n", "batch must be at least 1, found 0"),
        ("[one]\nvalidate_every = -1\n", "validate_every must be at least 1, found -1"),
        ("[one\n", r"r\.toml is not TOML"),
    ],
)
def test_bad_recipes_teach(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read_recipe(written(tmp_path, COMMON + text), Own, "one")


def test_a_recipe_needs_training_data(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"r\.toml \[one\].*train"):
        read_recipe(written(tmp_path, "[one]\n"), Own, "one")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"cannot read the recipe .*none\.toml: No such file"):
        read_recipe(tmp_path / "none.toml", Own, "one")
    path = written(tmp_path, COMMON + "[one]\n")
    (tmp_path / "copy.toml").write_text("as it was")
    with pytest.raises(OptionError, match="an override is not TOML"):
        copy_recipe(path, tmp_path / "copy.toml", {"steps": "many"})
    assert (tmp_path / "copy.toml").read_text() == "as it was"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match="is not UTF-8"):
        copy_recipe(path, tmp_path / "other.toml", {})
    assert not (tmp_path / "other.toml").exists()


@dataclass(frozen=True)
class Settings:
    landmarks: str
    threshold: float | None = 0.5
    flip: bool = True
    table: dict[str, Any] = field(default_factory=dict)


def test_settings_at_inference_go_before_what_the_training_knows() -> None:
    def of(settings: dict[str, Any]) -> Settings:
        found: Settings = settings_of(Settings, Recipe(train=(), settings=settings), landmarks="5", threshold=0.3)
        return found

    assert of({}) == Settings("5", 0.3)
    assert of({"threshold": 0.7, "landmarks": "68"}) == Settings("68", 0.7)
    assert of({"threshold": False, "flip": False}) == Settings("5", None, False)  # false is None for a number
    with pytest.raises(OptionError, match="no setting flop, thresh; it has: landmarks, threshold, flip, table"):
        of({"thresh": 1, "flop": 2})


def test_a_recipe_as_plain_values() -> None:
    found = as_dict(Own(train=("a.json",), steps=3))
    assert (found["train"], found["steps"], found["light"]) == (("a.json",), 3, {"brightness": 5, "hues": (1, 2)})


def test_initial_weights_are_those_of_the_first_phase(tmp_path: Path) -> None:
    three = '[one]\ninitial = "a"\n[[one.phases]]\n[[one.phases]]\n[[one.phases]]\ninitial = "c"\n'
    path = written(tmp_path, COMMON + three)
    assert [recipe.initial for recipe in read_phases(path, Own, "one")] == ["a", "", "c"]
    copy_recipe(path, tmp_path / "copy.toml", {"initial": '"b"'})
    assert [recipe.initial for recipe in read_phases(tmp_path / "copy.toml", Own, "one")] == ["b", "", "c"]


def test_settings_are_listed_as_they_are_replaced(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, COMMON + "[one]\nsteps = 5\nlight.hues = [7]\n"), Own, "one")
    listed = list_settings(recipe)
    assert (listed["steps"], listed["light.hues"]) == ("5", "[7]")
    copy_recipe(tmp_path / "r.toml", tmp_path / "copy.toml", {**listed, "steps": "6"})
    assert read_recipe(tmp_path / "copy.toml", Own, "one") == replace(recipe, steps=6)


@pytest.mark.parametrize(
    "value", [True, 3, 0.5, float("inf"), 'a "quoted" wörd', ["a", "b"], {"a": 1, "b/c.d": [False]}]
)
def test_values_are_read_back_from_toml(value: object) -> None:
    assert tomllib.loads(f"value = {to_toml(value)}")["value"] == value


def test_a_recipe_is_a_file_or_the_name_of_one_that_ships(tmp_path: Path) -> None:
    path = written(tmp_path, COMMON + "[one]\n")
    assert find_recipe(str(path)) == path
    assert find_recipe("kpnet-lite").name == "kpnet-lite.toml"
    with pytest.raises(OptionError, match=r"'away'.*kpnet-lite-finetune"):
        find_recipe("away")
