"""Recipes: they check themselves, load from files, and the published ones are as published."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffn_edge.errors import FfnEdgeError, RecipeError
from ffn_edge.network import ARCHITECTURES
from ffn_edge.train.datasets import DATASETS
from ffn_edge.train.recipe import Recipe, load_recipe, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_each_shipped_recipe_loads_and_names_what_exists(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.architecture in ARCHITECTURES
    assert recipe.dataset in DATASETS


def test_published_recipes_are_the_papers() -> None:
    for name in ("tsm_something_v1", "tsm_something_v2", "tsm_kinetics400", "tsm_hmdb51"):
        recipe = load_recipe(name)
        assert (recipe.learning_rate, recipe.momentum, recipe.epochs) == (0.01, 0.9, 50)
        assert (recipe.batch_size, recipe.step_epochs, recipe.dropout) == (32, (20, 40), 0.5)
        assert recipe.weight_decay == (1e-4 if name == "tsm_kinetics400" else 5e-4)
        assert recipe.frame_counts == (4, 8, 16) and not recipe.supervise_all


def test_a_recipe_is_read_from_the_users_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from ffn_edge.train.recipe import Recipe\n"
        "recipe = Recipe(architecture='tsm_tiny', dataset='custom', epochs=3)\n"
    )
    assert load_recipe(str(file)).epochs == 3


def test_paths_of_a_recipe_file_start_from_its_folder_and_those_set_later_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "start.pth").touch()
    file = tmp_path / "mine.py"
    file.write_text(
        "from ffn_edge.train.recipe import Recipe\n"
        "recipe = Recipe(architecture='tsm_tiny', dataset='custom', train_list='lists/train.txt',\n"
        "    val_list='/data/val.txt', root='~/videos', weights='start.pth')\n"
    )
    recipe = load_recipe(str(file)).with_settings({"classes": "~/names.txt"})
    assert recipe.train_list == str(tmp_path / "lists" / "train.txt")
    assert (recipe.val_list, recipe.root) == ("/data/val.txt", "/home/me/videos")
    assert (recipe.weights, recipe.classes) == (str(tmp_path / "start.pth"), "/home/me/names.txt")
    assert recipe.replace(train_list="train.txt").train_list == "train.txt"

    file.write_text(file.read_text().replace("start.pth", "IMAGENET1K_V1"))
    assert load_recipe(str(file)).weights == "IMAGENET1K_V1"


def test_the_short_side_follows_from_the_size_unless_it_is_said() -> None:
    recipe = Recipe(architecture="tsm_tiny", dataset="custom")
    assert recipe.scaled_to == 256
    assert recipe.with_settings({"size": "112"}).scaled_to == 128
    assert recipe.replace(size=112, short_side=112).scaled_to == 112


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no recipe file"),
        ("x = 1", "does not define a recipe"),
        ("recipe = Recipe()", "NameError"),
    ],
)
def test_a_file_without_a_recipe_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(file))


def test_an_unknown_recipe_lists_the_shipped_ones() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("tsm_someting")
    assert "tsm_something_v1" in caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"frame_counts": (8, 4)},
        {"optimizer": "adam"},
        {"batch_size": 6, "accumulate": 4},
        {"size": 256, "short_side": 224},
        {"size": 64, "short_side": 256},  # of frames of 256 pixels
        {"validate_every": 0},
        {"epochs": None},
        {"ema_decay": "abc"},
        {"ema_decay": 1.5},
        {"ema_decay": -0.1},
        {"schedule": "one_cycle", "warmup_epochs": 2.0},
        {"without": ("xy",)},
        {"without": (1,)},
        {"sampling": "mixed", "frame_counts": (4,)},
        {"low_share": 1.5},
        {"seed": -1},
        {"log_every": 0},
    ],
)
def test_a_recipe_with_a_wrong_value_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(FfnEdgeError):
        Recipe(**{"architecture": "tsm_tiny", "dataset": "custom", **changes})  # type: ignore[arg-type]


def test_settings_from_text_take_the_fields_kind() -> None:
    recipe = load_recipe("demo").with_settings(
        {
            "learning_rate": "1",
            "step_epochs": "3",
            "schedule": "cosine",
            "supervise_all": "True",
            "ema_decay": "0.9",
        }
    )
    assert (recipe.learning_rate, recipe.step_epochs, recipe.schedule) == (1, (3,), "cosine")
    assert recipe.supervise_all is True and recipe.ema_decay == 0.9


@pytest.mark.parametrize("setting", [{"learning_rat": "1"}, {"epochs": "many"}])
def test_settings_that_do_not_fit_are_refused(setting: dict[str, str]) -> None:
    with pytest.raises(RecipeError):
        load_recipe("demo").with_settings(setting)


def test_random_weights_are_not_frozen() -> None:
    with pytest.raises(RecipeError, match="random"):
        Recipe(architecture="tsm_tiny", dataset="custom", freeze=1)
