"""Why a plan is as it is, and what following it will cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

from autoseg import planning, training
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.plan import Configuration, Plan
from autoseg.core.recipe import Recipe
from autoseg.core.workers import available_memory_gb, supervised_map
from autoseg.nets.device import choose_device, choose_precision, device_name, free_memory_gb
from autoseg.nets.memory import TrainingMemory
from autoseg.pipeline.fitting import step_memory
from autoseg.pipeline.outcome import Progress, silent
from autoseg.planning.target_spacing import resampled_shape

STORED_BYTES = 4, 2  # per voxel of an image channel and of the labels, before compression


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What training one configuration takes. The measured figures are those of a step on this machine's `device`.

    On a CPU a step is measured with one sample and multiplied: samples do not share any work.
    """

    memory: TrainingMemory
    precision: str
    stored_gb: float
    device: str
    steps: int
    samples: int  # in the step that is measured
    predicted_gb: float  # the same arithmetic for that step
    step_seconds: float | None = None
    measured_gb: float | None = None
    failure: str = ""

    @property
    def training_hours(self) -> float | None:
        """One fold with its validation batches, which cost about a third of a step each."""
        return None if self.step_seconds is None else self.steps * self.step_seconds / 3600


def cost_of(
    plan: Plan, name: str, fingerprint: Fingerprint, *, recipe: Recipe, device: str | None, progress: Progress = silent
) -> Cost:
    """Memory and disk by arithmetic, time from a short measured step, for one configuration."""
    configuration, where = plan.configuration(name), choose_device(device)
    precision = choose_precision(where, recipe.precision)
    samples = 1 if where.type == "cpu" else configuration.batch_size
    predicted = step_memory(plan, name, recipe, precision=precision, batch_size=samples)
    facts = {
        "memory": step_memory(plan, name, recipe, precision=precision, batch_size=configuration.batch_size),
        "precision": precision,
        "stored_gb": _stored_gb(plan, configuration, fingerprint),
        "device": device_name(where),
        "steps": round(recipe.epochs * (recipe.iterations + recipe.validation_batches / 3)),
        "samples": samples,
        "predicted_gb": predicted.total,
    }
    free = free_memory_gb(where) if where.type == "cuda" else available_memory_gb()
    if predicted.total > free:
        return Cost(**facts, failure=f"it needs about {predicted.total:.1f} GB, and {free:.1f} GB are free")
    progress("measure a step", 0, 1, name)
    job = training.StepJob(plan=plan, configuration=name, recipe=recipe, device=str(where), batch_size=samples)
    (outcome,) = supervised_map(training.measure_step, [job], workers=1)
    progress("measure a step", 1, 1, name)
    step = outcome.result
    if step is None:
        return Cost(**facts, failure=f"{type(outcome.error).__name__}: {outcome.error}")
    seconds = step.seconds * configuration.batch_size / samples
    return Cost(**facts, step_seconds=seconds, measured_gb=step.memory_gb)


def _stored_gb(plan: Plan, configuration: Configuration, fingerprint: Fingerprint) -> float:
    """Size of all preprocessed cases before compression."""
    voxels = 0
    for spacing, shape in zip(fingerprint.spacings, fingerprint.shapes_after_crop, strict=True):
        old, size = (np.array(values)[[*plan.transpose_forward]] for values in (spacing, shape))
        new = np.array([old[0], *configuration.spacing_mm][-3:])
        voxels += prod(resampled_shape(size, old, new))
    per_image, per_label = STORED_BYTES
    return voxels * (per_image * len(plan.channel_names) + per_label) / 1e9


def explain(
    plan: Plan, fingerprint: Fingerprint, *, recipe: Recipe, device: str | None, progress: Progress = silent
) -> tuple[str, dict[str, Any]]:
    """The whole explanation as text, and as facts for JSON."""
    explanations = planning.explain(plan)
    lines, facts = [f"plan '{plan.planner}' for {plan.dataset}"], {}
    for name, decisions in explanations.items():
        lines += ["", "all configurations" if name == "plan" else name]
        for one in decisions:
            lines += [f"  {one.decision}: {one.value}", f"    rule     {one.rule}"]
            lines += [f"    numbers  {one.numbers}", f"    changes  {one.change}"]
        facts[name] = {"decisions": [asdict(one) for one in decisions]}
        if name != "plan":
            cost = cost_of(plan, name, fingerprint, recipe=recipe, device=device, progress=progress)
            lines += [f"  {line}" for line in _cost_lines(cost, recipe)]
            facts[name]["cost"] = {**asdict(cost), "training_hours": cost.training_hours}
    return "\n".join(lines), facts


def _cost_lines(cost: Cost, recipe: Recipe) -> Sequence[str]:
    parts = ", ".join(f"{name} {gb:.2f}" for name, gb in vars(cost.memory).items())
    lines = [f"memory of a training step: {cost.memory.total:.2f} GB in {cost.precision} ({parts})"]
    if cost.measured_gb:
        off = cost.predicted_gb / cost.measured_gb - 1
        lines.append(
            f"  checked on {cost.device}: a step with {cost.samples} sample{'s' if cost.samples > 1 else ''} needed "
            f"{cost.measured_gb:.2f} GB, libraries included, where arithmetic says {cost.predicted_gb:.2f} ({off:+.0%})"
        )
    stored = f"{cost.stored_gb:.2f} GB" if cost.stored_gb >= 1 else f"{1000 * cost.stored_gb:.0f} MB"
    lines.append(f"disk for preprocessed cases: at most {stored} (before compression)")
    if cost.training_hours is not None:
        lines.append(
            f"time per fold on {cost.device}: {cost.training_hours:.1f} hours for {recipe.epochs} epochs of "
            f"{recipe.iterations} steps, {cost.step_seconds:.2f} s each (measured)"
        )
    else:
        lines.append(f"time: a step could not be measured ({cost.failure})")
    return lines
