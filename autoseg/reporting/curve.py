"""The course of a training as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg.reporting.picture import label_colours, plain, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
_MANY_CLASSES = 10


def curve_picture(log_rows: Sequence[Row], path: Path, *, label_names: Sequence[str] = (), title: str = "") -> None:
    """Write a PNG with losses, pseudo-Dice, learning rate and time per epoch.

    Args:
        log_rows: one row per epoch with the keys epoch, train_loss, val_loss, pseudo_dice (a value or None
            per class), pseudo_dice_mean, learning_rate, seconds, data_wait_share. A value that is None or
            absent leaves a gap.
        path: the PNG file.
        label_names: names of the classes of pseudo_dice; numbers stand for them where they are not given.
        title: line above the picture.
    """
    write_png(curve_figure(log_rows, label_names=label_names, title=title), path)


def curve_figure(log_rows: Sequence[Row], *, label_names: Sequence[str] = (), title: str = "") -> Figure:
    """The same as a figure (see `curve_picture`)."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 5.6), dpi=110, facecolor="white", layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
    _losses(panels[0, 0], log_rows)
    _pseudo_dice(panels[0, 1], log_rows, label_names)
    _learning_rate(panels[1, 0], log_rows)
    _seconds(panels[1, 1], log_rows)
    epochs = [row["epoch"] for row in log_rows] or [0]
    for axes in panels.flat:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    if title:
        figure.suptitle(plain(title), fontsize=11)
    return figure


def _line(axes: Axes, rows: Sequence[Row], values: list[float | None], **style: Any) -> None:
    epochs = [row["epoch"] for row in rows]
    numbers = [float("nan") if value is None else value for value in values]
    # A line through a single epoch, or between two gaps, is invisible without a marker.
    axes.plot(epochs, numbers, marker="o" if len(rows) < 20 else None, markersize=3, **style)


def _losses(axes: Axes, rows: Sequence[Row]) -> None:
    for key, name, colour in (("train_loss", "training", "#0072B2"), ("val_loss", "validation", "#D55E00")):
        _line(axes, rows, [row.get(key) for row in rows], color=colour, label=name, linewidth=1.4)
    axes.set_title("loss", fontsize=10)
    axes.legend(fontsize=8, framealpha=0.85, edgecolor="none")


def _pseudo_dice(axes: Axes, rows: Sequence[Row], label_names: Sequence[str]) -> None:
    n_classes = max((len(row.get("pseudo_dice") or ()) for row in rows), default=0)
    names = [label_names[i] if i < len(label_names) else f"class {i + 1}" for i in range(n_classes)]
    colours = label_colours(names)
    for position, name in enumerate(names):
        values = [classes[position] if (classes := row.get("pseudo_dice")) else None for row in rows]
        # So many classes show their spread; their names would fill the panel.
        style = {"color": "0.7"} if n_classes > _MANY_CLASSES else {"color": colours[name], "label": plain(name)}
        _line(axes, rows, values, linewidth=0.9, alpha=0.9, **style)
    means = [row.get("pseudo_dice_mean") for row in rows]
    mean_name = f"mean of {n_classes} classes" if n_classes > 1 else "mean"
    _line(axes, rows, means, color="black", linewidth=1.8, label=mean_name)
    known = [mean for mean in means if mean is not None]
    best = f", best mean {max(known):.4f}" if known else ""
    axes.set_title(f"Dice of validation patches{best}", fontsize=10)
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8, loc="lower right", framealpha=0.85, edgecolor="none")


def _learning_rate(axes: Axes, rows: Sequence[Row]) -> None:
    _line(axes, rows, [row.get("learning_rate") for row in rows], color="#555555", linewidth=1.2)
    axes.set_title("learning rate", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("epoch", fontsize=9)


def _seconds(axes: Axes, rows: Sequence[Row]) -> None:
    seconds = [row.get("seconds") for row in rows]
    waits = [(row.get("data_wait_share"), row.get("seconds")) for row in rows]
    waiting = [None if share is None or total is None else share * total for share, total in waits]
    _line(axes, rows, seconds, color="#555555", linewidth=1.2, label="whole epoch")
    _line(axes, rows, waiting, color="#CC79A7", linewidth=1.2, label="waiting for data")
    longest = max((value for value in seconds if value is not None), default=1.0)
    axes.set_title("seconds", fontsize=9)
    axes.set_ylim(0, 1.4 * longest or 1.0)  # room for the legend
    axes.set_xlabel("epoch", fontsize=9)
    axes.legend(fontsize=7, frameon=False, ncols=2, loc="upper right")
