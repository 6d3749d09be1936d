"""A registry hands out what was entered and explains what it does not have."""

from __future__ import annotations

import pytest

from autoseg.core.errors import UsageError
from autoseg.core.registry import Registry


def shapes() -> Registry[str]:
    registry: Registry[str] = Registry("shape")
    for name in ("square", "circle", "triangle"):
        registry.register(name)(name.upper())
    return registry


def test_registering_returns_the_function_unchanged_and_the_name_finds_it() -> None:
    registry: Registry[object] = Registry("loss")

    @registry.register("zero")
    def zero() -> float:
        return 0.0

    assert zero() == 0.0
    assert registry["zero"] is zero


def test_iteration_and_membership_follow_the_order_of_entry() -> None:
    registry = shapes()
    assert list(registry) == ["square", "circle", "triangle"]
    assert "circle" in registry
    assert "cube" not in registry


def test_a_misspelt_name_is_answered_with_the_nearest_one_and_all_choices() -> None:
    with pytest.raises(UsageError) as caught:
        shapes()["cirkle"]
    message = str(caught.value)
    assert "unknown shape 'cirkle'" in message
    assert "did you mean 'circle'?" in message
    assert "circle, square, triangle" in message


def test_a_name_near_nothing_gets_the_choices_without_a_guess() -> None:
    with pytest.raises(UsageError) as caught:
        shapes()["xyz"]
    assert "did you mean" not in str(caught.value)
    assert "circle, square, triangle" in str(caught.value)


def test_an_empty_registry_says_so() -> None:
    with pytest.raises(UsageError, match="none is registered"):
        Registry("shape")["circle"]


def test_entering_a_name_twice_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="'square' is registered twice"):
        shapes().register("square")("again")
