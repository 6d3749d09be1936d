"""Recipes: the defaults are nnU-Net's, and wrong values are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoseg.core.errors import DataError
from autoseg.core.recipe import RECIPES, Recipe


def test_the_default_recipe_is_nnunets() -> None:
    recipe = RECIPES["default"]
    assert (recipe.epochs, recipe.iterations, recipe.validation_batches) == (1000, 250, 50)
    assert (recipe.optimizer, recipe.learning_rate, recipe.momentum) == ("sgd", 1e-2, 0.99)
    assert (recipe.weight_decay, recipe.gradient_clip, recipe.schedule) == (3e-5, 12, "poly")
    assert (recipe.oversample_foreground, recipe.deep_supervision, recipe.warmup_steps) == (0.33, True, 0)


@pytest.mark.parametrize(("iterations", "given", "expected"), [(250, None, 50), (3, None, 1), (9, None, 1), (9, 4, 4)])
def test_validation_takes_a_fifth_of_the_steps(iterations: int, given: int | None, expected: int) -> None:
    assert Recipe(iterations=iterations, val_iterations=given).validation_batches == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"iterations": -1},
        {"val_iterations": 0},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"momentum": 1},
        {"gradient_clip": 0},
        {"oversample_foreground": 1.1},
        {"precision": "fp8"},
        {"seed": -1},
        {"epochs": "many"},
        {"deep_supervision": "perhaps"},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"'{next(iter(wrong))}': "):
        Recipe().with_changes(**wrong)


def test_a_misspelt_setting_gets_the_valid_one() -> None:
    with pytest.raises(DataError, match="unknown key 'learnig_rate'; did you mean 'learning_rate'"):
        Recipe().with_changes(learnig_rate=0.1)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_carries_its_name_and_survives_its_file(name: str, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name
    recipe.write(tmp_path / "recipe.json")
    assert Recipe.read(tmp_path / "recipe.json") == recipe
