"""What training costs: arithmetic beside a measured step, and disk as preprocessing will need it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autoseg.core.fingerprint import Fingerprint
from autoseg.core.plan import Plan
from autoseg.core.recipe import Recipe
from autoseg.pipeline import explain
from autoseg.pipeline.explaining import cost_of

INTENSITIES = {"mean": 1, "median": 1, "std": 1, "min": 0, "max": 9, "percentile_00_5": 0, "percentile_99_5": 8}
MEASURED = Fingerprint(
    spacings=[(1, 1, 1), (2, 1, 3)],
    shapes_after_crop=[(10, 20, 30), (5, 6, 7)],
    foreground_intensity_properties_per_channel={"0": INTENSITIES},
    median_relative_size_after_cropping=1,
)


@pytest.mark.slow
def test_a_step_is_measured_and_compared_with_arithmetic(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan(patch_size=(64, 64, 64), batch_size=4, features=(32, 64), transpose=(2, 0, 1))
    recipe = Recipe(epochs=10, iterations=30, precision="float32")
    cost = cost_of(plan, "small", MEASURED, recipe=recipe, device="cpu")
    assert cost.failure == ""
    assert cost.steps == 10 * (30 + 2)
    assert cost.step_seconds is not None
    assert cost.training_hours == cost.steps * cost.step_seconds / 3600 > 0
    assert cost.measured_gb is not None
    assert cost.predicted_gb == pytest.approx(cost.measured_gb, rel=0.45)
    assert cost.memory.activations > 3 * cost.predicted_gb / 2  # four samples instead of one
    assert cost.stored_gb == pytest.approx((10 * 20 * 30 + 10 * 6 * 21) * 6 / 1e9)


@pytest.mark.slow
def test_a_step_that_fails_is_told_and_the_rest_explained(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    text, facts = explain(plan, MEASURED, recipe=Recipe(optimizer="nonsense"), device="cpu")
    assert "time: a step could not be measured (UsageError: unknown optimizer 'nonsense'" in text
    assert "memory of a training step" in text
    assert facts["small"]["cost"]["training_hours"] is None
    assert [one["decision"] for one in facts["plan"]["decisions"]] == ["transpose_forward"]
