"""What a model file says about itself: what it segments, from which data, how well, who made it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from autoseg.core.declaration import Labels
from autoseg.core.records import Record, nearest
from autoseg.core.strategy import Step

MOST_STEPS = 1000  # each takes time in every prediction


class FileFacts(Record):
    """Size and SHA-256 (64 hex digits) of a file of a model."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class CardScores(Record):
    """Pooled cross-validation of a configuration: mean Dice over labels and of each label, and the cases scored."""

    cases: int
    mean_dice: float | None
    dice: dict[str, float | None]


class ModelCard(Record):
    """card.json of a model file.

    `steps` of postprocessing follow its predictions, where the whole model is used.
    `configurations` are the folders (planner__configuration) whose probabilities are averaged; further folders are
    earlier stages of cascades. `files` lists every file but card.json. `training_cases` is None where nobody knows.
    """

    schema_version: Literal[1] = 1
    name: str
    description: str = ""
    licence: str = ""
    origin: str
    autoseg_version: str
    created: str
    configurations: list[str] = Field(min_length=1)
    dataset: str
    channel_names: list[str]
    labels: Labels
    training_cases: int | None = None
    steps: list[Step] = Field(default_factory=list, max_length=MOST_STEPS)
    scores: dict[str, CardScores] = Field(default_factory=dict)
    files: dict[str, FileFacts] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _steps_name_labels(self) -> ModelCard:
        for name in (name for step in self.steps for name in step.labels):
            if name not in self.labels:
                raise ValueError(f"a step names '{name}', which is no label; {nearest(name, [*self.labels])}")
        return self

    @property
    def text(self) -> str:
        """The card for a person to read, as Markdown."""
        structures = [name for name in self.labels if name not in ("background", "ignore")]
        cases = "unknown" if self.training_cases is None else str(self.training_cases)
        lines = [
            f"# {self.name}",
            "",
            self.description or "A segmentation model of autoseg.",
            "",
            "| | |",
            "| --- | --- |",
            f"| trained by | {self.origin} |",
            f"| data set | {self.dataset}, {cases} cases |",
            f"| channels | {', '.join(self.channel_names)} |",
            f"| structures | {', '.join(structures)} |",
            f"| licence | {self.licence or 'not stated'} |",
            f"| written | {self.created}, autoseg {self.autoseg_version} |",
            "",
        ]
        for name, scores in self.scores.items():
            mean = "not known" if scores.mean_dice is None else f"{scores.mean_dice:.3f}"
            lines += [f"Cross-validation of {name}: mean Dice {mean} over {scores.cases} cases.", ""]
            lines += ["| structure | Dice |", "| --- | --- |"]
            lines += [f"| {label} | {'-' if dice is None else f'{dice:.3f}'} |" for label, dice in scores.dice.items()]
            lines.append("")
        if self.steps:
            lines += [f"Postprocessing: {'; '.join(step.sentence for step in self.steps)}.", ""]
        lines += ["Use it with `autoseg_predict -m THIS_FILE -i IN -o OUT`.", ""]
        lines += ["Research software: it is no medical device. Do not treat patients by its results.", ""]
        return "\n".join(lines)
