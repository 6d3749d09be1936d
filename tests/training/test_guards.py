from __future__ import annotations

from typing import Any

import pytest

from autoseg.training.guards import collapse, data_wait


def rows(dice: list[float], losses: list[float | None] | None = None) -> list[dict[str, Any]]:
    losses = losses or [-0.1 - 0.05 * i for i in range(len(dice))]
    return [{"pseudo_dice_mean": d, "train_loss": loss} for d, loss in zip(dice, losses, strict=True)]


def told(all_rows: list[dict[str, Any]]) -> list[int]:
    """Epochs after which something is told."""
    return [n for n in range(1, len(all_rows) + 1) if collapse(all_rows[:n])]


def test_background_only_is_told_once_after_ten_epochs() -> None:
    assert told(rows([0.0] * 30)) == [10]
    assert told(rows([0.5] * 4 + [0.001] * 20)) == [14]
    assert told(rows([0.0] * 9 + [0.02] + [0.1, 0.3, 0.5])) == []
    assert "answers background" in collapse(rows([0.0] * 10))
    assert told(rows([0.0] * 10 + [0.5] + [0.0] * 10)) == [10, 21]


def test_a_flat_loss_counts_only_while_little_is_found() -> None:
    flat: list[float | None] = [0.7, None, *[0.7001] * 10]
    assert told(rows([0.15] * 12, flat)) == [10]
    assert "has not moved" in collapse(rows([0.15] * 10, flat[:10]))
    assert told(rows([0.85] * 12, flat)) == []
    assert told(rows([0.15] * 12, [0.7 - 0.01 * i for i in range(12)])) == []
    assert told(rows([0.15] * 12, [None] * 12)) == []


@pytest.mark.parametrize(("shares", "hint"), [([0.04], ""), ([0.01, 0.12], "12% of"), ([0.06, 0.12], ""), ([], "")])
def test_waiting_for_data_is_told_once(shares: list[float], hint: str) -> None:
    found = data_wait([{"data_wait_share": share} for share in shares], loaders=3)
    assert (hint in found and "now 3" in found) if hint else found == ""
