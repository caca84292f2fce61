"""Recipes: the shipped ones are valid, and a broken one is refused with file, line and key."""

from pathlib import Path

import pytest

from amidiag.soak.plan import plan
from amidiag.soak.recipe import RecipeError
from amidiag.soak.recipe_file import load, shipped

GOOD = """\
[recipe]
name = "mine"
title = "a title"

[worker.settings]
AMI_NUM_WORKERS = 1
AMI_ANTENNA_API_DATALOADER_PIN_MEMORY = true

[load]
cycles = 10
seed = 3
images_per_job = [2]

[load.polls]
no_job = 0.5
active_job = 0.5
"""


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_are_valid_and_named_after_their_file(name) -> None:
    assert load(name).name == name


def test_the_shipped_recipes_are_those_that_the_issue_names() -> None:
    assert {"quickstart", "issue-145-empty-polls", "issue-145-active", "polling-only"} <= set(shipped())


def test_pipe_leak_recipes_fix_every_setting_that_their_point_depends_on() -> None:
    for name in ("quickstart", "issue-145-empty-polls", "issue-145-active", "polling-only"):
        settings = load(name).arms[0].settings
        prefix = "AMI_ANTENNA_API_DATALOADER_"
        assert settings["AMI_NUM_WORKERS"] == "1"
        assert settings[prefix + "LIFETIME"] == "job"
        assert settings[prefix + "MP_CONTEXT"] == "fork"
        assert settings[prefix + "PIN_MEMORY"] == "true"
        assert settings[prefix + "PERSISTENT_WORKERS"] == "true"


def test_recipe_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    recipe = load(str(path))
    assert recipe.load.cycles == 10
    assert recipe.arms[0].settings == {
        "AMI_NUM_WORKERS": "1",
        "AMI_ANTENNA_API_DATALOADER_PIN_MEMORY": "true",
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("cycles = 10", "cycles = 0", 10, "load.cycles: must lie between 1"),
        ("cycles = 10", 'cycles = "ten"', 10, "load.cycles: must be int"),
        ("cycles = 10", "cycels = 10", 10, "load.cycels: unknown key; did you mean cycles?"),
        ("active_job = 0.5", "active_job = 0.4", 14, "load.polls: the shares must add up to 1, not 0.9"),
        ("active_job = 0.5", "aktive = 0.5", 16, "load.polls.aktive: unknown key"),
        (
            "AMI_NUM_WORKERS = 1",
            "AMI_NUM_WORKERS = [1]",
            6,
            "worker.settings.AMI_NUM_WORKERS: must be a text",
        ),
        ('title = "a title"', "", 1, "recipe: the key title is missing"),
        ("images_per_job = [2]", "images_per_job = [0]", 12, "load.images_per_job: must be a list of whole"),
        ("images_per_job = [2]", "sizes = [[640]]", 12, "load.sizes: must be a list of [width, height]"),
        ("[load.polls]", "[[arm]]\nname = 'a'\nstop = 'never'\n[load.polls]", 16, "arm.stop: must be one of"),
        (
            "[worker.settings]",
            "[worker]\nfaults = ['none']\n[worker.settings]",
            6,
            "worker.faults: must be a list",
        ),
    ],
)
def test_broken_recipe_names_file_line_and_key(tmp_path: Path, old, new, line, words) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load(str(path))
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert words in str(caught.value)


def test_no_toml_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[recipe\n")
    with pytest.raises(RecipeError, match=r"not valid TOML: .*line 1"):
        load(str(path))
    with pytest.raises(RecipeError, match="did you mean quickstart"):
        load("quikstart")
    with pytest.raises(RecipeError, match="no recipe file"):
        load(str(tmp_path / "missing.toml"))


def test_a_plan_is_fixed_by_its_seed_and_keeps_the_shares(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace("cycles = 10", "cycles = 2000\nwarm_up = 5"))
    recipe = load(str(path))
    first, again = list(plan(recipe.load, 7)), list(plan(recipe.load, 7))
    assert first == again
    assert len(first) == 2005
    assert list(plan(recipe.load, 8)) != first
    active = sum(bool(jobs) for jobs in first)
    assert 900 < active < 1100
    assert all(len(job.images) == 2 for jobs in first for job in jobs)


def test_arms_must_be_tables_and_there_must_be_one(tmp_path: Path) -> None:
    path = tmp_path / "arms.toml"
    for arms in ("arm = []", "arm = [1]"):
        path.write_text(f"{arms}\n{GOOD}")
        with pytest.raises(RecipeError, match=r"arm: must be written as \[\[arm\]\]"):
            load(str(path))


def test_an_arm_may_disarm_the_faults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        "[[arm]]\nname = 'with'\n[[arm]]\nname = 'without'\nfaults = []\n"
        + GOOD.replace("[worker.settings]", "[worker]\nfaults = ['emulated-accelerator']\n[worker.settings]")
    )
    assert [arm.faults for arm in load(str(path)).arms] == [("emulated-accelerator",), ()]
