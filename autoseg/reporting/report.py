"""One HTML page about one trained data set, with nothing outside the file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from autoseg.core.files import write_bytes
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.plan import Configuration, Plan
from autoseg.core.scores import Scores, Summary
from autoseg.reporting.curve import Row, curve_figure
from autoseg.reporting.picture import png_bytes

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1180px; margin: 2em auto; padding: 0 1em; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2em; border-bottom: 1px solid #ccc; padding-bottom: .2em; }
table { border-collapse: collapse; margin: .8em 0; } td, th { padding: .25em .8em; border-bottom: 1px solid #e4e4e4; }
th { text-align: left; background: #f5f5f5; vertical-align: bottom; } td { vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1.5em 0; } img { max-width: 100%; border: 1px solid #e4e4e4; } figcaption { margin-bottom: .4em; }
summary { cursor: pointer; margin: .6em 0; } details { overflow-x: auto; } .missing { color: #a00000; font-weight: 600; } .note { color: #666; }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")


def report_page(
    path: Path,
    *,
    dataset: str,
    plan: Plan,
    fingerprint: Fingerprint | None,
    logs: Mapping[str, Sequence[Row]],
    scores: Scores | None,
    pictures: Sequence[tuple[str, Path]],
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
    """
    body = [
        _section("Data set", _overview(plan) + (_measured(fingerprint) if fingerprint else "")),
        _section("Plan", _plan(plan)),
        _section("Training", "".join(_curve(fold, rows, plan) for fold, rows in logs.items()) or _absent("trained fold")),
        _section("Scores", _scores(scores) if scores else _absent("evaluated cross-validation")),
        _section("Cases", "".join(_figure(caption, file.read_bytes()) for caption, file in pictures) or _absent("picture")),
    ]
    write_bytes(path, _PAGE.substitute(title=escape(dataset), body="\n".join(body)).encode())


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}"


def _absent(what: str) -> str:
    return f'<p class="note">There is no {what} yet.</p>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int | None = None) -> str:
    """A table of escaped cells; columns from `numbers_from` on are aligned as numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        first = len(cells) if numbers_from is None else numbers_from
        kinds = (' class="number"' if column >= first else "" for column in range(len(cells)))
        return "<tr>" + "".join(f"<{tag}{k}>{escape(c)}</{tag}>" for k, c in zip(kinds, cells, strict=True)) + "</tr>"

    head = [line(header, "th")] if any(header) else []
    return "\n".join(["<table>", *head, *(line(row, "td") for row in rows), "</table>"])


def _figure(caption: str, png: bytes) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<figure><figcaption>{escape(caption)}</figcaption><img src="{source}" alt="{escape(caption)}"></figure>\n'


def _overview(plan: Plan) -> str:
    labels = [f"{name} ({', '.join(map(str, values))})" for name, values in plan.scheme.foreground.items()]
    rows = [["channels", ", ".join(plan.channel_names)], ["labels (values in files)", ", ".join(labels)]]
    if plan.scheme.ignore_value is not None:
        rows.append(["ignored value", str(plan.scheme.ignore_value)])
    return _table(["", ""], [*rows, ["files", plan.file_ending], ["planner", plan.planner]])


def _measured(fingerprint: Fingerprint) -> str:
    columns = [("spacing in mm", fingerprint.spacings), ("size in voxels", fingerprint.shapes_after_crop)]
    rows = []
    for name, values in columns:
        array = np.array(values, dtype=np.float64)
        rows.append([f"{name} (z, y, x)", *(_numbers(limit) for limit in (np.median(array, 0), array.min(0), array.max(0)))])
    tables = _table([f"{len(fingerprint.spacings)} cases", "median", "smallest", "largest"], rows, numbers_from=1)
    labels = [[name, str(found.cases), f"{found.mean_volume_ml:.4g}"] for name, found in fingerprint.labels.items()]
    return tables + (_table(["label", "in cases", "mean volume in ml"], labels, numbers_from=1) if labels else "")


def _plan(plan: Plan) -> str:
    names = [*plan.configurations]
    facts = {name: _facts(configuration) for name, configuration in plan.configurations.items()}
    rows = [[fact, *(facts[name][fact] for name in names)] for fact in next(iter(facts.values()), {})]
    parts = [_table(["", *names], rows), f'<p class="note">Axes in the order {plan.transpose_forward} of (z, y, x).</p>']
    for title, reasons in [("all", plan.reasons), *((name, c.reasons) for name, c in plan.configurations.items())]:
        if reasons:
            table = _table(["decision", "reason"], [[key, text] for key, text in reasons.items()])
            parts.append(f"<details><summary>Reasons: {escape(title)}</summary>{table}</details>")
    return "\n".join(parts)


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


def _curve(fold: str, rows: Sequence[Row], plan: Plan) -> str:
    hours = sum(row.get("seconds") or 0 for row in rows) / 3600
    waited = sum((row.get("seconds") or 0) * (row.get("data_wait_share") or 0) for row in rows) / 3600
    share = f", {waited / hours:.0%} of it waiting for data" if hours else ""
    caption = f"Fold {fold}: {len(rows)} epochs, {hours:.2f} hours{share}"
    return _figure(caption, png_bytes(curve_figure(rows, label_names=[*plan.scheme.foreground])))


def _scores(scores: Scores) -> str:
    mean = "-" if scores.mean_dice is None else f"{scores.mean_dice:.4f}"
    parts = [f"<p>Mean Dice over labels <strong>{mean}</strong>, {len(scores.cases)} cases.</p>"]
    if scores.missing:
        missing = escape(", ".join(scores.missing))
        parts.append(f'<p class="missing">Not scored, {len(scores.missing)} cases: {missing}</p>')
    header = ["label", "metric", "cases", "mean", "std", "median", "worst", "best"]
    metrics = (("dice", "Dice", 4), ("hd95_mm", "HD95 mm", 2), ("nsd", f"NSD {scores.tolerance_mm:g} mm", 4))
    rows = [
        [name, title, *_summary(summary[metric], digits, lower_is_better=metric == "hd95_mm")]
        for name, summary in scores.summary.items()
        for metric, title, digits in metrics
    ]
    undefined = [(name, metrics["n_undefined_hd95"].cases) for name, metrics in scores.summary.items()]
    counts = ", ".join(f"{name}: {count}" for name, count in undefined if count) or "none"
    notes = f'<p class="note">{escape(scores.rules)} Here {escape(counts)}.</p>'
    parts += [_table(header, rows, numbers_from=2), notes, _per_case(scores)]
    return "\n".join(parts)


def _summary(summary: Summary, digits: int, *, lower_is_better: bool) -> list[str]:
    limits = (summary.max, summary.min) if lower_is_better else (summary.min, summary.max)
    return [str(summary.cases), *(_number(v, digits) for v in (summary.mean, summary.std, summary.median, *limits))]


def _per_case(scores: Scores) -> str:
    """All cases, folded away, from the lowest mean Dice to the highest."""
    rows = []
    for case, labels in scores.cases.items():
        known = [row.dice for row in labels.values() if row.dice is not None]
        cells = [f"{_number(row.dice, 4)} / {_number(row.hd95_mm, 1)}" for row in labels.values()]
        rows.append((sum(known) / len(known) if known else 2.0, [case, *cells]))
    header = ["case", *(f"{name}: Dice / HD95 mm" for name in scores.summary)]
    table = _table(header, [row for _, row in sorted(rows, key=lambda row: row[0])], numbers_from=1)
    return f"<details><summary>All {len(rows)} cases, worst first</summary>{table}</details>"


def _numbers(values: Sequence[float]) -> str:
    return " × ".join(f"{value:.4g}" for value in values)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
