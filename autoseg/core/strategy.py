"""What the cross-validation taught: which models to use, and how to clean up what they predict."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from autoseg.core.declaration import Labels
from autoseg.core.labels import LabelScheme
from autoseg.core.records import Record, nearest


class Member(Record):
    """A configuration whose probabilities take part in the prediction."""

    planner: str
    configuration: str

    @property
    def name(self) -> str:
        """planner__configuration, as its results folder is called."""
        return f"{self.planner}__{self.configuration}"


class Step(Record):
    """One step of postprocessing for some labels together.

    `keep_largest`: of their connected parts (26 neighbours) the largest one stays, others become background.
    `remove_smaller`: parts of less than `than_ml` millilitres become background. `fill_holes`: background that they
    enclose (no path over voxel faces leads out) becomes theirs; for a single label only.
    """

    action: Literal["keep_largest", "remove_smaller", "fill_holes"]
    labels: list[str] = Field(min_length=1)
    than_ml: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _complete(self) -> Step:
        if (self.action == "remove_smaller") != (self.than_ml is not None):
            raise ValueError("than_ml belongs to remove_smaller, and only there")
        if self.action == "fill_holes" and len(self.labels) > 1:
            raise ValueError("fill_holes is for one label")
        return self

    @property
    def sentence(self) -> str:
        """The step in words."""
        what = ", ".join(self.labels)
        if self.action == "keep_largest":
            return f"largest part of {what}"
        return (
            f"holes of {what} filled" if self.action == "fill_holes" else f"no part of {what} below {self.than_ml:g} ml"
        )


class Change(Record):
    """A mean Dice without and with a step; null where no case has a Dice."""

    before: float | None
    after: float | None


class Trial(Record):
    """Steps that were tried together on the cross-validation's predictions, and the mean Dice of what they concern.

    `dice` is that of the labels that they name: of several the mean over labels of the means over cases.
    """

    steps: list[Step]
    accepted: bool
    dice: Change


class Comparison(Record):
    """A candidate beside the one with the best mean Dice.

    `difference` is the mean over cases of its Dice (mean over labels) minus that of the best, `ci95` its 95 % bootstrap
    interval, `p_value` that of Wilcoxon's signed-rank test, corrected for the number of candidates (Holm). `tied` ones
    cannot be told from the best; `cost` is the arithmetic of predicting a case, relative to the cheapest candidate.
    """

    name: str
    mean_dice: float | None
    cases: int
    difference: float | None
    ci95: tuple[float, float] | None
    p_value: float | None
    tied: bool
    cost: float


class Honest(Record):
    """Mean Dice of the cross-validation without and with postprocessing that was chosen without the case's own fold.

    `cases` are those that could be read, `ci95` is the 95 % bootstrap interval of their mean gain.
    """

    cases: int
    before: float | None
    after: float | None
    ci95: tuple[float, float] | None


class Strategy(Record):
    """The chosen models, whose probabilities are averaged, and the steps that follow, with the evidence for both.

    `promised` is the mean Dice of the cross-validation's predictions with the steps applied. `labels` and
    `regions_class_order` are those of dataset.json: the steps need nothing but this file.
    """

    schema_version: Literal[2] = 2
    dataset: str
    members: list[Member] = Field(min_length=1)
    labels: Labels
    regions_class_order: list[int] = Field(default_factory=list)
    steps: list[Step] = Field(default_factory=list)
    promised: float | None = None
    nested: Honest | None = None
    evidence: list[Trial] = Field(default_factory=list)
    compared: list[Comparison] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    made_from: str = ""

    @model_validator(mode="after")
    def _steps_name_labels(self) -> Strategy:
        known = [*self.scheme.foreground]
        for name in (name for step in self.steps for name in step.labels):
            if name not in known:
                raise ValueError(f"a step names '{name}', which is no label; {nearest(name, known)}")
        return self

    @property
    def name(self) -> str:
        """Names of the members, joined by +."""
        return "+".join(member.name for member in self.members)

    @property
    def scheme(self) -> LabelScheme:
        """The labels as a LabelScheme."""
        declared = {n: tuple(v) if isinstance(v, list) else v for n, v in self.labels.items()}
        return LabelScheme(declared=declared, regions_class_order=tuple(self.regions_class_order))
