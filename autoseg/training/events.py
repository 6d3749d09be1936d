"""The log of a fold as TensorBoard events."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autoseg.core.errors import UsageError


def check_tensorboard() -> None:
    """Raise UsageError when the package is missing."""
    if find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs the package tensorboard; pip install tensorboard")


class Events:
    """A folder of events, one set per epoch; those of epochs that are repeated after a kill count no more."""

    def __init__(self, folder: Path, *, label_names: Sequence[str], first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.label_names = label_names
        self.writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def add(self, row: dict[str, Any]) -> None:
        """Write a row of log.jsonl; what is null has no event."""
        epoch = row["epoch"]
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "epoch":
                self.writer.add_scalar(name, value, epoch)
        for label, dice in zip(self.label_names, row["pseudo_dice"], strict=True):
            if dice is not None:
                self.writer.add_scalar(f"pseudo_dice/{label}", dice, epoch)
        self.writer.flush()
