"""log.jsonl of a fold, the same as TensorBoard events, and the line that tells where a training is."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from autoseg.core.errors import UsageError
from autoseg.core.files import write_bytes
from autoseg.core.recipe import Recipe
from autoseg.training import processes
from autoseg.training.run import Counters

log = logging.getLogger(__name__)
SHOWN_CLASSES = 6  # in the line; the log has all


class FoldLog:
    """log.jsonl: one JSON row per epoch. Rows of epochs that will be repeated after a kill are dropped."""

    def __init__(self, path: Path, *, keep: int) -> None:
        self.path = path
        self.rows = [row for row in read_log(path) if row["epoch"] < keep]
        self.events: Events | None = None
        self._write()

    def append(self, row: dict[str, Any]) -> None:
        """Add the row of an epoch, and write the file anew."""
        self.rows.append(row)
        self._write()
        if self.events is not None:
            self.events.add(row)

    def _write(self) -> None:
        if processes.rank() > 0:
            return
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.rows)
        write_bytes(self.path, text.encode())


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a log.jsonl; none when the file is missing. What is no row is passed over with a warning."""
    rows = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines() if path.is_file() else (), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("epoch"), int):
            rows.append(row)
        else:
            log.warning("%s: line %d is damaged and left out", path, number)
    return rows


def state_line(at: Counters, rows: Sequence[dict[str, Any]], *, recipe: Recipe, batch_size: int) -> str:
    """Where a training is, in a line: `rows` are those of the log, `batch_size` is that of all processes together."""
    budget = recipe.time_budget_s
    of = f"/{recipe.epochs}" if budget is None else f", {at.trained_s:.0f} of {budget:.0f} s,"
    text = f"epoch {at.epoch + 1}{of}"
    if at.train_loss is not None:
        text += f" loss {at.train_loss:.3f}"
    if rows and rows[-1]["val_loss"] is not None:
        text += f" validation {rows[-1]['val_loss']:.3f}"
    if at.step_s:
        text += f" {at.iteration * batch_size / at.step_s:.1f} images/s data wait {at.wait_s / at.step_s:.0%}"
    if rows:
        dice = ["-" if value is None else f"{value:.2f}" for value in rows[-1]["pseudo_dice"]]
        many = [*dice[:SHOWN_CLASSES], "..."] if len(dice) > SHOWN_CLASSES else dice
        text += f" pseudo-Dice {' '.join(many)}"
    return text


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
