"""One HTML page about one trained configuration, with nothing outside the file."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autoseg.core.errors import Problem
from autoseg.core.files import write_bytes
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.labels import LabelScheme
from autoseg.core.plan import Configuration, Plan
from autoseg.core.scores import LabelScores, Scores, Summary
from autoseg.core.strategy import Comparison, Strategy, Trial
from autoseg.core.trust import Trust
from autoseg.reporting.curve import Row, curve_figure
from autoseg.reporting.page import figure, folded, heading, page, paragraph, section, table
from autoseg.reporting.picture import png_bytes
from autoseg.reporting.plots import dataset_figure, score_figure, size_figure

MOST_ROWS = 4000  # of the table of all cases and labels: a page of more is slow to open
NO_TRUST = "It is learnt from a finished cross-validation. Run autoseg_train again: what is missing is added."
FEW_ROWS = 5  # need no filter
DOUBTS = ("case", "label", "Dice", "usual Dice", "spreads below", "what is seen")
_METRICS = (  # of Scores, how it is called, digits
    ("dice", "Dice", 4),
    ("iou", "IoU", 4),
    ("sensitivity", "sensitivity", 4),
    ("precision", "precision", 4),
    ("nsd", "NSD", 4),
    ("hd95_mm", "HD95 mm", 2),
    ("hd_mm", "HD mm", 2),
    ("mean_distance_mm", "mean distance mm", 2),
    ("volume_error_ml", "volume error ml", 2),
    ("lesion_f1", "lesion F1", 4),
    ("panoptic_quality", "panoptic quality", 4),
    ("calibration_error", "calibration error", 4),
)
_SELDOM = ("lesion_f1", "panoptic_quality", "calibration_error")  # left out where no case has it
_OF_CASES = ("dice", "nsd", "hd95_mm", "mean_distance_mm", "sensitivity", "precision", "volume_error_ml")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a report tells. Whatever is not there yet is said to be missing.

    Args:
        title: of the page.
        plan: its labels, channels and configurations with the reason of each decision.
        fingerprint: what was measured.
        logs: per fold ("0", "1", ...) the rows that `curve_picture` takes.
        trust: how well the Dice of a case is foretold.
        scores: of the cross-validation, or of those of its folds that are validated.
        folds: the fold in which each case was validated.
        viewers: cases to leaf through, see `case_viewer`.
        doubts: labels to check, the most doubtful first: a cell for each of DOUBTS.
        doubtful: those of them to leaf through.
        strategy: the comparison of all configurations, and what was decided.
        others: (configuration, mean Dice, cases) of every finished cross-validation of the data set.
        problems: failures and warnings.
        versions: (what, version), and `hashes` (file, SHA-256), and `runs` (fold, how it was trained).
    """

    title: str
    plan: Plan
    fingerprint: Fingerprint | None = None
    logs: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    scores: Scores | None = None
    trust: Trust | None = None
    folds: Mapping[str, str] = field(default_factory=dict)
    viewers: Sequence[str] = ()
    doubts: Sequence[Sequence[str]] = ()
    doubtful: Sequence[str] = ()
    strategy: Strategy | None = None
    others: Sequence[tuple[str, float | None, int]] = ()
    problems: Sequence[Problem] = ()
    versions: Sequence[tuple[str, str]] = ()
    hashes: Sequence[tuple[str, str]] = ()
    runs: Sequence[tuple[str, str]] = ()


def report_page(path: Path, contents: Contents) -> None:
    """Write the page, whole or not at all."""
    plan, scores, fingerprint = contents.plan, contents.scores, contents.fingerprint
    curves = [_curve(fold, rows, plan.scheme) for fold, rows in contents.logs.items()]
    sections = [
        section("Failures and warnings", problem_table(contents.problems), otherwise="There are none."),
        section("Scores", *(_scored(scores, contents.folds) if scores else ()), otherwise="No cross-validation yet."),
        section("Trust", *(_trusted(contents.trust) if contents.trust else ()), otherwise=NO_TRUST),
        section("Cases", *contents.viewers, otherwise="There is no picture yet."),
        section("Labels to check", *_doubtful(contents), otherwise="No label disagrees unlike others."),
        section("Models compared", *_compared(contents), otherwise="There is no finished cross-validation yet."),
        section("Data set", _declared(plan), *(_measured(fingerprint, scores) if fingerprint else ())),
        section("Plan", *_planned(plan)),
        section("Training", *curves, otherwise="There is no trained fold yet."),
        section("Versions and hashes", *version_tables(contents.versions, contents.hashes, contents.runs)),
    ]
    write_bytes(path, page(contents.title, sections).encode())


def _trusted(trust: Trust) -> list[str]:
    """How well predictions of new images will be judged."""
    found = trust.quality
    told = (
        "autoseg_predict tells the Dice to expect of a new image from how far the networks agree. Tried on each case "
        "of the cross-validation with what the others taught:"
    )
    rows = [
        ["mean error of the expected Dice", number(found.mean_absolute_error, 4)],
        ["the same for always telling the mean Dice of the label", number(found.error_without, 4)],
        ["rank correlation with the real mean Dice of a case", number(found.rank_correlation, 2)],
        ["share of real values in the interval (0.8 is promised)", number(found.in_interval, 2)],
    ]
    parts = [paragraph(told), table(["", f"{found.cases} cases"], rows, numbers_from=1)]
    error, without = found.mean_absolute_error, found.error_without
    if error is not None and without is not None and error > 0.9 * without:
        parts.append(
            paragraph("Of usual images that is hardly better than always telling the mean: they differ too little.")
        )
    return parts


def problem_table(problems: Sequence[Problem]) -> str:
    """What went wrong or is to be noted, as a table; nothing without any."""
    rows = [[one.case, one.found, one.next, one.file] for one in problems]
    return table(["case", "what", "next", "file"], rows, interactive=len(rows) > FEW_ROWS) if rows else ""


def version_tables(
    versions: Sequence[tuple[str, str]], hashes: Sequence[tuple[str, str]], runs: Sequence[tuple[str, str]] = ()
) -> list[str]:
    """What something was made with: programs, files with their SHA-256, and runs."""
    parts = [table(["program, when this page was written", "version"], versions)] if versions else []
    parts += [table(["run", "how"], runs)] if runs else []
    return parts + ([table(["file", "SHA-256"], hashes, hashes_from=1)] if hashes else [])


def _doubtful(contents: Contents) -> list[str]:
    if not contents.doubts:
        return []
    told = (
        "Here truth and out-of-fold prediction disagree more than is usual for this label. The further down it lies, "
        "the likelier is an error in the truth (from three spreads on), but only a look at it tells which one is wrong."
    )
    return [paragraph(told), table(DOUBTS, contents.doubts, interactive=True), *contents.doubtful]


def _compared(contents: Contents) -> list[str]:
    strategy = contents.strategy
    if strategy is None:
        rows = [[name, number(dice, 4), str(cases)] for name, dice, cases in contents.others]
        todo = "autoseg_find_best_configuration compares them case by case, with ensembles and postprocessing."
        header = ["configuration", "mean Dice", "cases"]
        return [paragraph(todo, kind="note"), table(header, rows, numbers_from=1)] if rows else []
    header = ["model", "mean Dice", "cases", "difference from the best", "95 % interval", "p (Holm)", "tied", "cost"]
    rows = [_candidate(one) for one in strategy.compared]
    names = [one.name for one in strategy.compared]
    chosen = names.index(strategy.name) if strategy.name in names else None
    told = f"Chosen: {strategy.name}. Of models that cannot be told apart the cheapest is taken; cost is relative."
    parts = [paragraph(told), table(header, rows, numbers_from=1, interactive=len(rows) > 1, chosen=chosen)]
    steps = "; ".join(step.sentence for step in strategy.steps) or "none"
    parts.append(
        paragraph(f"Postprocessing: {steps}. Promised mean Dice of the strategy: {number(strategy.promised, 4)}.")
    )
    if (honest := strategy.nested) is not None:
        gain = "" if honest.ci95 is None else f", 95 % interval of the gain {_signed_interval(honest.ci95)}"
        before, after = number(honest.before, 4), number(honest.after, 4)
        told = f"Chosen without the case's own fold: {before} before and {after} after postprocessing"
        parts.append(paragraph(f"{told} ({honest.cases} cases{gain})."))
    if strategy.evidence:
        tried = [_trial(one) for one in strategy.evidence]
        parts.append(folded("Postprocessing that was tried", table(["steps", "Dice before", "after", ""], tried)))
    return [*parts, *(paragraph(note, kind="note") for note in strategy.notes)]


def _trial(one: Trial) -> list[str]:
    steps = "; ".join(step.sentence for step in one.steps)
    return [steps, number(one.dice.before, 4), number(one.dice.after, 4), "taken" if one.accepted else "not taken"]


def _signed_interval(limits: tuple[float, float]) -> str:
    return f"{limits[0]:+.4f} to {limits[1]:+.4f}"


def _candidate(one: Comparison) -> list[str]:
    interval = "-" if one.ci95 is None else _signed_interval(one.ci95)
    difference = "-" if one.difference is None else f"{one.difference:+.4f}"
    p_value = "-" if one.p_value is None else f"{one.p_value:.3g}"
    tied = "yes" if one.tied else "no"
    return [one.name, number(one.mean_dice, 4), str(one.cases), difference, interval, p_value, tied, f"{one.cost:.2g}"]


def _declared(plan: Plan) -> str:
    labels = [f"{name} ({', '.join(map(str, values))})" for name, values in plan.scheme.foreground.items()]
    rows = [["channels", ", ".join(plan.channel_names)], ["labels (values in files)", ", ".join(labels)]]
    if plan.scheme.ignore_value is not None:
        rows.append(["ignored value", str(plan.scheme.ignore_value)])
    return table([], [*rows, ["files", plan.file_ending], ["planner", plan.planner]])


def _measured(fingerprint: Fingerprint, scores: Scores | None) -> list[str]:
    rows = []
    for name, values in (
        ("spacing in mm (z, y, x)", fingerprint.spacings),
        ("size in voxels (z, y, x)", fingerprint.shapes_after_crop),
    ):
        array = np.array(values, dtype=np.float64)
        rows.append([name, *map(_numbers, (np.median(array, axis=0), array.min(axis=0), array.max(axis=0)))])
    header = [f"{len(fingerprint.spacings)} cases", "median", "smallest", "largest"]
    parts = [table(header, rows, numbers_from=1)]
    intensities = fingerprint.foreground_intensity_properties_per_channel.items()
    columns = ("mean", "std", "median", "percentile_00_5", "percentile_99_5", "min", "max")
    inside = [[channel, *(f"{getattr(found, key):.4g}" for key in columns)] for channel, found in intensities]
    names = ("mean", "std", "median", "0.5 %", "99.5 %", "lowest", "highest")
    parts.append(table(["intensities inside labels, channel", *names], inside, numbers_from=1))
    labels = fingerprint.labels.items()
    if sizes := [[name, str(found.cases), f"{found.mean_volume_ml:.4g}"] for name, found in labels]:
        parts.append(table(["label", "in cases", "mean volume in ml"], sizes, numbers_from=1, interactive=True))
    drawn = dataset_figure(fingerprint, _volumes(scores) if scores else {})
    return [*parts, figure(f"The {len(fingerprint.spacings)} cases, a point or a line each", png_bytes(drawn))]


def _volumes(scores: Scores) -> dict[str, list[float]]:
    """Per label its true volume in ml in each case that holds it."""
    rows = {name: [labels[name] for labels in scores.cases.values() if name in labels] for name in scores.summary}
    volumes = {name: [row.volume_truth_ml for row in own if row.volume_truth_ml > 0] for name, own in rows.items()}
    return {name: own for name, own in volumes.items() if own}


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
    took = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
    caption = f"Fold {fold}: {len(rows)} epochs, {took}{share}"
    return figure(caption, png_bytes(curve_figure(rows, label_names=[*labels.foreground])))


def _scored(scores: Scores, folds: Mapping[str, str]) -> list[str]:
    of = ", ".join(sorted({folds[case] for case in scores.cases if case in folds}))
    where = f" of fold{'s' * (',' in of)} {of}" if of else ""
    parts = [paragraph(f"Mean Dice over labels {number(scores.mean_dice, 4)}, {len(scores.cases)} cases{where}.")]
    if scores.missing:
        missing = f"Not scored, {len(scores.missing)} cases: {', '.join(scores.missing)}"
        parts.append(paragraph(missing, kind="warning"))
    for drawn, caption in (
        (score_figure(scores), "A point per case; line: quartiles, stroke: median"),
        (size_figure(scores), "Dice against size: small structures have lower Dice for the same error in mm"),
    ):
        if drawn is not None:
            parts.append(figure(caption, png_bytes(drawn)))
    parts += [heading("Per label"), _per_label(scores), heading("Per case"), _per_case(scores, folds)]
    parts += [heading("Per case and label"), _per_case_and_label(scores), *_equity(scores)]
    undefined = {name: summary["n_undefined_hd95"].cases for name, summary in scores.summary.items()}
    counts = ", ".join(f"{name}: {count}" for name, count in undefined.items() if count) or "none"
    told = f"NSD at {scores.tolerance_mm:g} mm. Cases with exactly one empty mask: {counts}."
    return [*parts, paragraph(f"{told} {scores.rules}", kind="note")]


def _per_label(scores: Scores) -> str:
    header = ["label", "metric", "cases", "mean", "95 % interval", "std", "median", "lowest", "highest"]
    rows = [
        [name, title, *_summary(summary[metric], digits)]
        for name, summary in scores.summary.items()
        for metric, title, digits in _METRICS
        if metric in summary and (metric not in _SELDOM or summary[metric].cases)
    ]
    return table(header, rows, numbers_from=2, interactive=True)


def _summary(summary: Summary, digits: int) -> list[str]:
    interval = "-" if summary.ci95 is None else f"{summary.ci95[0]:.{digits}f} to {summary.ci95[1]:.{digits}f}"
    spread = (number(value, digits) for value in (summary.std, summary.median, summary.min, summary.max))
    return [str(summary.cases), number(summary.mean, digits), interval, *spread]


def _per_case(scores: Scores, folds: Mapping[str, str]) -> str:
    """A row per case, from the lowest mean Dice to the highest; those without any Dice come last."""
    rows = []
    for case, labels in scores.cases.items():
        known = {name: row.dice for name, row in labels.items() if row.dice is not None}
        mean = statistics.fmean(known.values()) if known else None
        worst = min(known, key=lambda name: known[name]) if known else "-"
        cells = [case, folds.get(case, "-"), number(mean, 4), worst, number(known.get(worst), 4)]
        rows.append((float("inf") if mean is None else mean, cells))
    header = ["case", "fold", "mean Dice", "worst label", "its Dice"]
    ordered = [cells for _, cells in sorted(rows, key=lambda row: row[0])]
    return table(header, ordered, interactive=True)


def _per_case_and_label(scores: Scores) -> str:
    rows: list[tuple[float, list[str]]] = []
    shown = [one for one in _METRICS if one[0] in _OF_CASES]
    for case, labels in scores.cases.items():
        for name, row in labels.items():
            cells = [number(getattr(row, metric), digits) for metric, _, digits in shown]
            rows.append((_order(row), [case, name, *cells, f"{row.volume_truth_ml:.4g}"]))
    header = ["case", "label", *(title for _, title, _ in shown), "true volume ml"]
    ordered = [cells for _, cells in sorted(rows, key=lambda row: row[0])][:MOST_ROWS]
    drawn = table(header, ordered, numbers_from=2, interactive=True)
    if len(rows) > MOST_ROWS:
        cut = f"The {MOST_ROWS} rows with the lowest Dice of {len(rows)}; all are in the scores.csv files."
        drawn = paragraph(cut, kind="note") + drawn
    return drawn


def _order(row: LabelScores) -> float:
    return float("inf") if row.dice is None else row.dice


def _equity(scores: Scores) -> list[str]:
    """Groups of cases.csv side by side."""
    rows = []
    for column, equity in scores.equity.items():
        rows += [[column, value, str(g.cases), number(g.mean_dice, 4)] for value, g in equity.groups.items()]
    if not rows:
        return []
    told = [
        f"{column}: gap {number(equity.gap, 4)}, equity-scaled Dice {number(equity.equity_scaled, 4)}."
        for column, equity in scores.equity.items()
    ]
    drawn = table(["column of cases.csv", "value", "cases", "mean Dice"], rows, numbers_from=2, interactive=True)
    return [heading("Groups of cases"), drawn, paragraph(" ".join(told))]


def _numbers(values: Iterable[float]) -> str:
    return " × ".join(f"{value:.4g}" for value in values)


def number(value: float | None, digits: int) -> str:
    """A number as text, "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"
