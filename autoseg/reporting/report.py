"""One HTML page about one trained data set, with nothing outside the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg.core.files import write_bytes
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.labels import LabelScheme
from autoseg.core.plan import Configuration, Plan
from autoseg.core.scores import Scores, Summary
from autoseg.reporting.curve import Row, curve_figure
from autoseg.reporting.page import figure, folded, page, paragraph, section, table
from autoseg.reporting.picture import png_bytes

DOUBTS = ("case", "label", "Dice", "usual Dice", "spreads below", "what is seen")
# Metric of Scores, how it is called, digits, and whether less of it is better.
_METRICS = (("dice", "Dice", 4, False), ("hd95_mm", "HD95 mm", 2, True), ("nsd", "NSD", 4, False))


def report_page(
    path: Path,
    *,
    dataset: str,
    plan: Plan,
    fingerprint: Fingerprint | None,
    logs: Mapping[str, Sequence[Row]],
    scores: Scores | None,
    pictures: Sequence[tuple[str, Path]],
    doubts: Sequence[tuple[Sequence[str], Path | None]] = (),
) -> None:
    """Write the page, whole or not at all; what is not there yet is said to be missing.

    Args:
        path: the HTML file.
        dataset: name of the data set, as title.
        plan: its labels, channels and configurations with the reason of each decision.
        fingerprint: what was measured; None leaves that table out.
        logs: per fold ("0", "1", ...) the rows that `curve_picture` takes.
        scores: of the cross-validation, or None.
        pictures: (caption, PNG file), for example overlays of the best, the median and the worst case.
        doubts: labels to check, the most doubtful first: a cell for each of DOUBTS, and a PNG file or None.
    """
    curves = [_curve(fold, rows, plan.scheme) for fold, rows in logs.items()]
    cases = [figure(caption, file.read_bytes()) for caption, file in pictures]
    sections = [
        section("Data set", _declared(plan), *(_measured(fingerprint) if fingerprint else ())),
        section("Plan", *_planned(plan)),
        section("Training", *curves, otherwise="There is no trained fold yet."),
        section("Scores", *(_scored(scores) if scores else ()), otherwise="There is no cross-validation yet."),
        section("Cases", *cases, otherwise="There is no picture yet."),
        section("Labels to check", *_doubtful(doubts), otherwise="No label disagrees unlike others."),
    ]
    write_bytes(path, page(dataset, sections).encode())


def _doubtful(doubts: Sequence[tuple[Sequence[str], Path | None]]) -> list[str]:
    if not doubts:
        return []
    told = (
        "Here truth and out-of-fold prediction disagree more than is usual for this label. The further down it lies, "
        "the likelier is an error in the truth (from three spreads on), but only a look at it tells which one is wrong."
    )
    pictures = [figure(f"{cells[0]}: {cells[1]}", path.read_bytes()) for cells, path in doubts if path is not None]
    return [paragraph(told), table(DOUBTS, [cells for cells, _ in doubts]), *pictures]


def _declared(plan: Plan) -> str:
    labels = [f"{name} ({', '.join(map(str, values))})" for name, values in plan.scheme.foreground.items()]
    rows = [["channels", ", ".join(plan.channel_names)], ["labels (values in files)", ", ".join(labels)]]
    if plan.scheme.ignore_value is not None:
        rows.append(["ignored value", str(plan.scheme.ignore_value)])
    return table([], [*rows, ["files", plan.file_ending], ["planner", plan.planner]])


def _measured(fingerprint: Fingerprint) -> list[str]:
    rows = []
    for name, values in (
        ("spacing in mm (z, y, x)", fingerprint.spacings),
        ("size in voxels (z, y, x)", fingerprint.shapes_after_crop),
    ):
        array = np.array(values, dtype=np.float64)
        rows.append([name, *map(_numbers, (np.median(array, axis=0), array.min(axis=0), array.max(axis=0)))])
    header = [f"{len(fingerprint.spacings)} cases", "median", "smallest", "largest"]
    tables = [table(header, rows, numbers_from=1)]
    labels = fingerprint.labels.items()
    if sizes := [[name, str(found.cases), f"{found.mean_volume_ml:.4g}"] for name, found in labels]:
        tables.append(table(["label", "in cases", "mean volume in ml"], sizes, numbers_from=1))
    return tables


def _planned(plan: Plan) -> list[str]:
    names = [*plan.configurations]
    facts = [_facts(configuration) for configuration in plan.configurations.values()]
    rows = [[fact, *(own[fact] for own in facts)] for fact in (facts[0] if facts else ())]
    axes = f"Axes in the order {plan.transpose_forward} of (z, y, x)."
    parts = [table(["", *names], rows), paragraph(axes, kind="note")]
    reasons = {"all": plan.reasons} | {name: plan.configurations[name].reasons for name in names}
    for name, own_reasons in reasons.items():
        if own_reasons:
            decisions = table(["decision", "reason"], [[*pair] for pair in own_reasons.items()])
            parts.append(folded(f"Reasons: {name}", decisions))
    return parts


def _facts(configuration: Configuration) -> dict[str, str]:
    network = configuration.network
    return {
        "patch size": _numbers(configuration.patch_size),
        "batch size": str(configuration.batch_size),
        "spacing in mm": _numbers(configuration.spacing_mm),
        "median size in voxels": _numbers(configuration.median_shape_voxels),
        "normalization": ", ".join(configuration.normalization),
        "network": network.name,
        "features per stage": ", ".join(map(str, network.features_per_stage)),
        "blocks per stage": ", ".join(map(str, network.blocks_per_stage)),
        "mirrored axes": ", ".join(map(str, configuration.mirror_axes)) or "none",
    }


def _curve(fold: str, rows: Sequence[Row], labels: LabelScheme) -> str:
    hours = sum(row.get("seconds") or 0 for row in rows) / 3600
    waited = sum((row.get("seconds") or 0) * (row.get("data_wait_share") or 0) for row in rows) / 3600
    share = f", {waited / hours:.0%} of it waiting for data" if hours else ""
    caption = f"Fold {fold}: {len(rows)} epochs, {hours:.2f} hours{share}"
    return figure(caption, png_bytes(curve_figure(rows, label_names=[*labels.foreground])))


def _scored(scores: Scores) -> list[str]:
    parts = [paragraph(f"Mean Dice over labels {_number(scores.mean_dice, 4)}, {len(scores.cases)} cases.")]
    if scores.missing:
        missing = f"Not scored, {len(scores.missing)} cases: {', '.join(scores.missing)}"
        parts.append(paragraph(missing, kind="warning"))
    header = ["label", "metric", "cases", "mean", "std", "median", "worst", "best"]
    rows = [
        [name, title, *_summary(summary[metric], digits, less_is_better=less)]
        for name, summary in scores.summary.items()
        for metric, title, digits, less in _METRICS
    ]
    undefined = {name: summary["n_undefined_hd95"].cases for name, summary in scores.summary.items()}
    counts = ", ".join(f"{name}: {count}" for name, count in undefined.items() if count) or "none"
    notes = f"NSD at {scores.tolerance_mm:g} mm. {scores.rules} Here {counts}."
    return [*parts, table(header, rows, numbers_from=2), paragraph(notes, kind="note"), _every_case(scores)]


def _summary(summary: Summary, digits: int, *, less_is_better: bool) -> list[str]:
    limits = (summary.max, summary.min) if less_is_better else (summary.min, summary.max)
    values = (summary.mean, summary.std, summary.median, *limits)
    return [str(summary.cases), *(_number(value, digits) for value in values)]


def _every_case(scores: Scores) -> str:
    """All cases, folded away, from the lowest mean Dice to the highest; those without any Dice come last."""
    rows = []
    for case, labels in scores.cases.items():
        known = [row.dice for row in labels.values() if row.dice is not None]
        cells = [
            f"{_number(labels[name].dice, 4)} / {_number(labels[name].hd95_mm, 1)}" if name in labels else "-"
            for name in scores.summary
        ]
        rows.append((sum(known) / len(known) if known else float("inf"), [case, *cells]))
    header = ["case", *(f"{name}: Dice / HD95 mm" for name in scores.summary)]
    ordered = [cells for _, cells in sorted(rows, key=lambda row: row[0])]
    return folded(f"All {len(rows)} cases, worst first", table(header, ordered, numbers_from=1))


def _numbers(values: Iterable[float]) -> str:
    return " × ".join(f"{value:.4g}" for value in values)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
