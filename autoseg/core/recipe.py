"""How to train: every choice that is not a property of the data set. Stored with the weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from autoseg.core.records import Record


class Recipe(Record):
    """Training settings; the defaults are nnU-Net's.

    An epoch is `iterations` steps, followed by `val_iterations` batches of validation (default: a fifth as
    many). Training ends after `epochs`, or with `time_budget_s` after so many seconds, whatever epoch that is.
    """

    name: str = "default"
    epochs: int = Field(default=1000, ge=1)
    time_budget_s: PositiveFloat | None = None
    iterations: int = Field(default=250, ge=1)
    val_iterations: int | None = Field(default=None, ge=1)
    optimizer: str = "sgd"
    learning_rate: float = Field(default=1e-2, gt=0)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    weight_decay: float = Field(default=3e-5, ge=0)
    gradient_clip: float = Field(default=12.0, gt=0)
    schedule: str = "poly"
    warmup_steps: int = Field(default=0, ge=0)
    loss: str = "auto"
    class_balance: bool = False
    deep_supervision: bool = True
    augmentation: bool = True
    class_weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    oversample_foreground: float = Field(default=0.33, ge=0, le=1)
    minimum_class_rate: float = Field(default=0.0, ge=0, le=1)
    weight_average: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    compile: bool = True
    seed: int = Field(default=0, ge=0)
    deterministic: bool = False
    save_every_minutes: float = Field(default=5.0, gt=0)

    @property
    def length(self) -> tuple[int | None, float | None]:
        """What may change while a training is under way: (epochs or None, seconds or None)."""
        return (self.epochs, None) if self.time_budget_s is None else (None, self.time_budget_s)

    @property
    def validation_batches(self) -> int:
        """Batches of validation after each epoch."""
        return self.val_iterations or max(1, self.iterations // 5)


# Training steps. nnU-Net's values need a long run-up: momentum 0.99 averages over 100 steps, and a network first learns
# that most voxels are background. For fewer steps than this the quick recipe is taken unless one is named.
SHORT_BUDGET = 10_000
SHORT_BUDGET_S = 2 * 3600.0  # the same for training by the clock, where the number of steps is not known

RECIPES: dict[str, Recipe] = {
    "default": Recipe(),
    # For short budgets: an optimizer without a long run-up, a loss in which small structures count more at first.
    "quick": Recipe(
        name="quick",
        epochs=20,
        iterations=50,
        optimizer="muon",
        momentum=0.95,
        learning_rate=0.05,
        warmup_steps=10,
        weight_average=0.95,
        class_balance=True,
    ),
    # For rare classes, or many cases without any: more foreground samples, and every class in enough of them.
    "balanced": Recipe(name="balanced", oversample_foreground=0.5, minimum_class_rate=0.5),
    "long": Recipe(name="long", epochs=4000),
    # From trained weights (--pretrained): a smaller learning rate that rises slowly, so that they are not lost.
    "finetune": Recipe(name="finetune", epochs=250, learning_rate=1e-3, warmup_steps=2500),
}
