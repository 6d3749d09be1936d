"""Signs in the log of a training that it will come to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WATCHED_EPOCHS = 10
LONG_WAIT = 0.05
NOTHING_FOUND = 0.01  # pseudo-Dice
POOR = 0.2
FLAT = 0.005  # share of the loss by which it must move


def collapse(rows: Sequence[dict[str, Any]]) -> str:
    """What is wrong and what to try, told once, in the epoch in which it is first seen; else nothing.

    Args:
        rows: of log.jsonl: `pseudo_dice_mean`, `train_loss`.
    """
    now, before = _seen(rows), _seen(rows[:-1])
    return now if now and not before else ""


def _seen(rows: Sequence[dict[str, Any]]) -> str:
    last = rows[-WATCHED_EPOCHS:]
    if len(last) < WATCHED_EPOCHS:
        return ""
    best = max(row.get("pseudo_dice_mean") or 0.0 for row in last)
    losses = [row["train_loss"] for row in last if row.get("train_loss") is not None]
    todo = "try --recipe quick, --recipe balanced or a smaller learning rate, and look at images and labels"
    if best < NOTHING_FOUND:
        return f"no structure was found in {WATCHED_EPOCHS} epochs, the network answers background; {todo}"
    if best < POOR and losses and max(losses) - min(losses) < FLAT * max(abs(loss) for loss in losses):
        return f"the loss has not moved in {WATCHED_EPOCHS} epochs, at a pseudo-Dice of at most {best:.2f}; {todo}"
    return ""


def data_wait(rows: Sequence[dict[str, Any]], *, loaders: int) -> str:
    """A hint when the last epoch waited for data for more than a twentieth of its time, told once; else nothing."""
    shares = [row["data_wait_share"] for row in rows]
    if not shares or shares[-1] <= LONG_WAIT or max(shares[:-1], default=0.0) > LONG_WAIT:
        return ""
    return (
        f"{shares[-1]:.0%} of the time went into waiting for data; try more --loaders (now {loaders}), or put the "
        "preprocessed cases on a faster disk"
    )
