"""What the cross-validation taught: which configuration to use, and how to clean up what it predicts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from autoseg.core.labels import LabelScheme
from autoseg.core.records import Record, nearest


class Step(Record):
    """Keep only the largest connected part of these labels together; other parts become background."""

    keep_largest: list[str] = Field(min_length=1)


class Change(Record):
    """A mean Dice without and with a step; null where no case has a Dice."""

    before: float | None
    after: float | None


class Trial(Record):
    """A step that was tried on the cross-validation's predictions.

    `dice` is per label the mean over cases, `mean_dice` the mean of these means; `cases_changed` counts the
    cases of which the step removes something.
    """

    keep_largest: list[str]
    accepted: bool
    mean_dice: Change
    dice: dict[str, Change]
    cases: int
    cases_changed: int


class Strategy(Record):
    """The chosen configuration and the steps that follow its prediction, with the evidence for both.

    `compared` is the pooled mean Dice of each configuration that took part, as "planner__configuration".
    `labels` and `regions_class_order` are those of dataset.json: the steps need nothing but this file.
    """

    schema_version: Literal[1] = 1
    dataset: str
    planner: str
    configuration: str
    labels: dict[str, int | list[int]]
    regions_class_order: list[int] = Field(default_factory=list)
    steps: list[Step] = Field(default_factory=list)
    evidence: list[Trial] = Field(default_factory=list)
    compared: dict[str, float | None] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    made_from: str = ""

    @model_validator(mode="after")
    def _steps_name_labels(self) -> Strategy:
        known = [*self.scheme.foreground]
        for name in (name for step in self.steps for name in step.keep_largest):
            if name not in known:
                raise ValueError(f"a step names '{name}', which is no label; {nearest(name, known)}")
        return self

    @property
    def scheme(self) -> LabelScheme:
        """The labels as a LabelScheme."""
        declared = {n: tuple(v) if isinstance(v, list) else v for n, v in self.labels.items()}
        return LabelScheme(declared=declared, regions_class_order=tuple(self.regions_class_order))
