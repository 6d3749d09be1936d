"""How numbers are spread over cases: of a data set, and of its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from autoseg.core.fingerprint import Fingerprint
from autoseg.core.scores import Scores
from autoseg.reporting.picture import label_colours, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LABELS = 30  # in a picture; of more, those with the lowest mean Dice
_AXES = ("z", "y", "x")
_SHOWN = (("dice", "Dice"), ("hd95_mm", "HD95 in mm"), ("nsd", "NSD"))
_GREY = "#4a6fa5"
_LONG = 20  # a longer range of positive numbers gets a logarithmic axis
Groups = Mapping[str, Sequence[float]]


def dataset_figure(fingerprint: Fingerprint, volumes_ml: Groups) -> Figure:
    """A point per case: spacing, size, range of intensities, and the volumes of the labels that were drawn.

    Args:
        fingerprint: what was measured.
        volumes_ml: per label its volume in each case that holds it; the panel is left out without any.
    """
    panels = _panels(3 + bool(volumes_ml), high=0.6 + 0.22 * max(8, len(volumes_ml)))
    figure, (spacing, size, intensities, *further) = panels
    spacings = np.array(fingerprint.spacings, dtype=np.float64)
    shapes = np.array(fingerprint.shapes_after_crop, dtype=np.float64)
    _strips(spacing, {axis: spacings[:, i].tolist() for i, axis in enumerate(_AXES)})
    spacing.set_title("spacing in mm", fontsize=10)
    _strips(size, {axis: (spacings * shapes)[:, i].tolist() for i, axis in enumerate(_AXES)})
    size.set_title("size in mm, without empty borders", fontsize=10)
    for row, channel in enumerate(sorted(fingerprint.ranges, key=int)):
        ranges = sorted(fingerprint.ranges[channel])
        places = row + np.linspace(-0.38, 0.38, len(ranges) + 2)[1:-1]
        low, high = zip(*ranges, strict=True)
        intensities.hlines(places, low, high, color=_GREY, linewidth=0.8)
        if max(high) > _LONG * (usual := float(np.median(high))) > 0:  # a few bright images would hide all others
            intensities.set_xscale("symlog", linthresh=usual)
    _name_rows(intensities, [f"channel {channel}" for channel in sorted(fingerprint.ranges, key=int)])
    intensities.set_title("lowest to highest intensity of each case", fontsize=10)
    for axes in further:
        _strips(axes, volumes_ml, coloured=True)
        axes.set_title("volume in ml, in validated cases", fontsize=10)
        _volume_axis(axes, volumes_ml)
    return figure


def volume_figure(volumes_ml: Groups) -> Figure:
    """A point per case: the volume of each label."""
    figure, (axes,) = _panels(1, high=0.8 + 0.26 * max(3, len(volumes_ml)))
    _strips(axes, volumes_ml, coloured=True, quartiles=True)
    axes.set_xlabel("ml", fontsize=9)
    _volume_axis(axes, volumes_ml)
    return figure


def score_figure(scores: Scores) -> Figure | None:
    """A point per case and label: Dice, HD95 and NSD, with quartiles; None where nothing has a Dice."""
    names = [name for name, summary in scores.summary.items() if summary["dice"].cases]
    if not names:
        return None
    shown = sorted(names, key=lambda name: scores.summary[name]["dice"].mean or 0.0)[:MOST_LABELS]
    kept = [name for name in names if name in shown]
    figure, panels = _panels(len(_SHOWN), high=0.8 + 0.34 * max(3, len(kept)))
    colours = label_colours([*scores.summary])
    for axes, (metric, title) in zip(panels, _SHOWN, strict=True):
        values = {name: _values(scores, name, metric) for name in kept}
        _strips(axes, values, colours=colours, quartiles=True)
        axes.set_title(title, fontsize=10)
        if metric != "hd95_mm":
            axes.set_xlim(-0.02, 1.02)
    return figure


def size_figure(scores: Scores) -> Figure | None:
    """Dice of every case and label against the volume that was drawn; None without any."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), dpi=100, facecolor="white", layout="constrained")
    axes = figure.subplots()
    colours = label_colours([*scores.summary])
    volumes: dict[str, list[float]] = {}
    for name in scores.summary:
        rows = [labels[name] for labels in scores.cases.values() if name in labels]
        pairs = [(row.volume_truth_ml, row.dice) for row in rows if row.dice is not None and row.volume_truth_ml > 0]
        if pairs:
            label = plain(name) if len(scores.summary) <= 10 else None
            axes.plot(*zip(*pairs, strict=True), "o", markersize=4, alpha=0.7, color=colours[name], label=label)
            volumes[name] = [volume for volume, _ in pairs]
    if not volumes:
        return None
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("volume drawn, in ml", fontsize=9)
    _volume_axis(axes, volumes)
    axes.set_ylabel("Dice", fontsize=9)
    _plain(axes)
    if len(scores.summary) <= 10:
        axes.legend(fontsize=8, loc="lower right", framealpha=0.85, edgecolor="none")
    return figure


def _values(scores: Scores, name: str, metric: str) -> list[float]:
    values = (getattr(labels[name], metric) for labels in scores.cases.values() if name in labels)
    return [value for value in values if value is not None]


def _panels(number: int, *, high: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.4, min(high, 14)), dpi=100, facecolor="white", layout="constrained")
    return figure, [*figure.subplots(1, number, squeeze=False)[0]]


def _strips(
    axes: Axes,
    groups: Groups,
    *,
    coloured: bool = False,
    colours: Mapping[str, str] | None = None,
    quartiles: bool = False,
) -> None:
    """A row of points per group, spread a little so that equal ones are seen, always in the same way."""
    colours = label_colours([*groups]) if coloured else colours or dict.fromkeys(groups, _GREY)
    for row, (name, values) in enumerate(groups.items()):
        spread = np.random.default_rng(0).uniform(-0.22, 0.22, len(values))
        axes.plot(values, row + spread, "o", markersize=3.5, alpha=0.65, color=colours[name], markeredgewidth=0)
        if quartiles and values:
            low, middle, high = np.percentile(values, [25, 50, 75])
            axes.plot([low, high], [row, row], color="black", linewidth=1.2)
            axes.plot([middle], [row], "|", color="black", markersize=14, markeredgewidth=2)
    _name_rows(axes, [*groups])


def _volume_axis(axes: Axes, volumes_ml: Groups) -> None:
    """Logarithmic where the volumes differ so much that small ones would be seen as zero."""
    every = [value for values in volumes_ml.values() for value in values]
    if max(every) > _LONG * min(every):
        axes.set_xscale("log")


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [plain(name) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
