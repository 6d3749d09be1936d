"""How to train: every choice that is not a property of the data set. Stored with the weights."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autoseg.core.records import Record


class Recipe(Record):
    """Training settings; the defaults are nnU-Net's.

    An epoch is `iterations` steps, followed by `val_iterations` batches of validation (default: a fifth as
    many).
    """

    name: str = "default"
    epochs: int = Field(default=1000, ge=1)
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
    oversample_foreground: float = Field(default=0.33, ge=0, le=1)
    weight_average: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    seed: int = Field(default=0, ge=0)
    deterministic: bool = False
    save_every_minutes: float = Field(default=5.0, gt=0)

    @property
    def validation_batches(self) -> int:
        """Batches of validation after each epoch."""
        return self.val_iterations or max(1, self.iterations // 5)


# Training steps. nnU-Net's values need a long run-up: momentum 0.99 averages over 100 steps, and a network first learns
# that most voxels are background. For fewer steps than this the quick recipe is taken unless one is named.
SHORT_BUDGET = 10_000

RECIPES: dict[str, Recipe] = {
    "default": Recipe(),
    # For short budgets: an optimizer without a long run-up, a loss in which small structures count from the start.
    "quick": Recipe(
        name="quick",
        epochs=20,
        iterations=50,
        optimizer="adamw",
        learning_rate=0.01,
        warmup_steps=10,
        weight_average=0.95,
        class_balance=True,
    ),
}
