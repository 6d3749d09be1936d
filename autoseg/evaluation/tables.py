"""Scores as files and as text."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from autoseg.core.files import write_bytes
from autoseg.core.scores import LabelScores, Scores, Summary

_DICE = ("Dice mean ± std", "95 % interval", "median", "min")
_COLUMNS = ("label", "n", *_DICE, "HD95 mm mean ± std", "median", "NSD mean ± std")


def write_scores(scores: Scores, folder: Path) -> None:
    """Write summary.json (everything) and scores.csv (a row per case and label, empty for null)."""
    metrics = [*LabelScores.model_fields]
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "label", *metrics])
    for case, per_label in scores.cases.items():
        for label, row in per_label.items():
            table.writerow([case, label, *(getattr(row, metric) for metric in metrics)])
    write_bytes(folder / "scores.csv", text.getvalue().encode())
    scores.write(folder / "summary.json")


def score_table(scores: Scores) -> str:
    """Per label mean ± std, 95 % confidence interval of the mean and median, as lines of text for a terminal.

    `n` counts the cases with a Dice; where fewer have an HD95, since one mask is empty, a line below says so.
    """
    rows = [[name, *_cells(metrics)] for name, metrics in scores.summary.items()]
    widths = [max(len(row[i]) for row in [_COLUMNS, *rows]) for i in range(len(_COLUMNS))]
    lines = [_line(row, widths) for row in [[*_COLUMNS], ["-" * width for width in widths], *rows]]
    if scores.mean_dice is not None:
        counts = f"{_count(len(rows), 'label')}: {scores.mean_dice:.4f} ({_count(len(scores.cases), 'case')})"
        lines.append(f"mean Dice of {counts}")
    others = "".join(f", {name} {mm:g} mm" for name, mm in scores.tolerances_mm.items())
    lines.append(f"NSD at {scores.tolerance_mm:g} mm tolerance{others}")
    lines += [_lesions(name, metrics) for name, metrics in scores.summary.items() if metrics["lesion_f1"].cases]
    for column, equity in scores.equity.items():
        groups = [
            f"{value} {_number(g.mean_dice, 4)} ({_count(g.cases, 'case')})" for value, g in equity.groups.items()
        ]
        found = f"gap {_number(equity.gap, 4)}, equity-scaled Dice {_number(equity.equity_scaled, 4)}"
        lines.append(f"{column}: {', '.join(groups)}; {found}")
    for name, metrics in scores.summary.items():
        if undefined := metrics["n_undefined_hd95"].cases:
            lines.append(f"{name}: no HD95 in {_count(undefined, 'case')}, where only one mask is empty (Dice 0)")
    if scores.missing:
        lines.append(f"NOT SCORED, {_count(len(scores.missing), 'case')}: {', '.join(scores.missing)}")
    return "\n".join(lines)


def _lesions(name: str, metrics: dict[str, Summary]) -> str:
    f1, quality = metrics["lesion_f1"], metrics["panoptic_quality"]
    return f"{name}, lesion by lesion: F1 {_spread(f1, 4)}, panoptic quality {_spread(quality, 4)} (n {f1.cases})"


def _cells(metrics: dict[str, Summary]) -> list[str]:
    dice, distance, surface = metrics["dice"], metrics["hd95_mm"], metrics["nsd"]
    return [
        str(dice.cases),
        _spread(dice, 4),
        "-" if dice.ci95 is None else f"{dice.ci95[0]:.4f}-{dice.ci95[1]:.4f}",
        _number(dice.median, 4),
        _number(dice.min, 4),
        _spread(distance, 2),
        _number(distance.median, 2),
        _spread(surface, 4),
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _spread(summary: Summary, digits: int) -> str:
    return f"{_number(summary.mean, digits)} ± {_number(summary.std, digits)}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _line(cells: list[str], widths: list[int]) -> str:
    numbers = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *numbers]).rstrip()
