"""How well the out-of-distribution score and the expected Dice tell errors: validation cases and corrupted copies.

Usage: trust.py -d DATASET [--workspace DIR] [-c CONFIGURATION] [--cases N] -o TRUST.json
The cross-validation must be finished. Every fold's network predicts cases that it has not seen, as they are and
corrupted; the Dice is foretold by the cases of the other folds. Goes on where it was stopped; prints Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from corruptions import CORRUPTIONS, MILD, STRONG
from measured import machine

from autoseg import evaluation, prediction
from autoseg.cli import options
from autoseg.core.dataset import Dataset, read_dataset
from autoseg.core.labels import LabelScheme
from autoseg.core.scores import Scores, validation_scores
from autoseg.core.trust import Agreements, Trust
from autoseg.core.workspace import fold_folder
from autoseg.io.images import LoadedCase, read_case
from autoseg.nets.device import choose_device, keep_freed_memory
from autoseg.pipeline.trusting import AGREEMENTS
from autoseg.prediction.ensemble import Ensemble

CLEAN = "clean"
DROP = 0.1  # in mean Dice: a real error
Row = dict[str, Any]


def corrupted(case: LoadedCase, kind: str, strength: str) -> LoadedCase:
    """A copy of a case; the same one every time."""
    if kind == CLEAN:
        return case
    seed = np.random.SeedSequence([*f"{case.id} {kind} {strength}".encode()])
    rng = np.random.default_rng(seed)
    return replace(case, image=np.stack([CORRUPTIONS[kind](c, strength, rng) for c in case.image]).astype(np.float32))


def dice(labels: np.ndarray, truth: np.ndarray, scheme: LabelScheme) -> dict[str, float | None]:
    """Per label, of file values (Z, Y, X) against values inside; None where the truth lacks it."""
    found: dict[str, float | None] = {}
    for name, inside in zip(scheme.foreground, scheme.regions_inside, strict=True):
        ours, theirs = scheme.mask(labels, name), np.isin(truth, inside)
        total = int(ours.sum()) + int(theirs.sum())
        found[name] = 2 * int((ours & theirs).sum()) / total if theirs.any() else None
    return found


def measure(member: Ensemble, case: LoadedCase, truth: np.ndarray) -> Row:
    """What is foretold of a case, and what is true."""
    scan = prediction.prepare_scan([member], case)
    labels, trust = prediction.segment_with_trust([member], scan, prediction.Settings())
    real = dice(labels, truth, member.plan.scheme)
    return {
        "out_of_distribution": trust.out_of_distribution,
        "expected": {name: one.model_dump() for name, one in trust.expected_dice.items()},
        "real": real,
    }


def trust_without(results: Path, fold: int, scores: Sequence[Scores]) -> Trust | None:
    """The calibration by the cases of all other folds."""
    others = [i for i in range(len(scores)) if i != fold]
    pooled = evaluation.pool_scores([scores[i] for i in others])
    files = (fold_folder(results, i) / "validation" / AGREEMENTS for i in others)
    agreements = {case: rows for path in files for case, rows in Agreements.read(path).cases.items()}
    return evaluation.calibrate(pooled.cases, agreements)


def run(
    dataset: Dataset, results: Path, *, wanted: Sequence[str], most: int, device: str | None, target: Path
) -> list[Row]:
    """Predict everything that is not in `target` yet."""
    rows: list[Row] = json.loads(target.read_text())["rows"] if target.is_file() else []
    known = {(row["case"], row["kind"], row["strength"]) for row in rows}
    folds = sorted(path.name.removeprefix("fold_") for path in results.glob("fold_[0-9]*"))
    scores = [found for fold in folds if (found := validation_scores(fold_folder(results, fold)))]
    assert len(scores) == len(folds), "finish the cross-validation first"
    kinds = [(CLEAN, ""), *((kind, strength) for kind in CORRUPTIONS for strength in (MILD, STRONG))]
    for number, fold in enumerate(folds):
        if wanted and fold not in wanted:
            continue
        member = prediction.load_ensemble(results, folds=[fold], device=choose_device(device))
        member = replace(member, trust=trust_without(results, number, scores))
        for name in sorted(scores[number].cases)[:most]:
            case = read_case(dataset.cases[name], labels=dataset.labels)
            assert case.label is not None
            for kind, strength in kinds:
                if (name, kind, strength) in known:
                    continue
                row = measure(member, corrupted(case, kind, strength), case.label)
                rows.append({"fold": fold, "case": name, "kind": kind, "strength": strength, **row})
            target.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
            print(f"fold {fold} {name}", flush=True)
    return rows


def auroc(score: Sequence[float], error: Sequence[bool]) -> float | None:
    """How often a score is higher where there is an error; None where all or none are errors."""
    scores, errors = np.asarray(score), np.asarray(error, dtype=bool)
    if errors.all() or not errors.any():
        return None
    difference = scores[errors][:, None] - scores[~errors]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def summary(rows: list[Row]) -> dict[str, Any]:
    """What the page tells."""
    for row in rows:
        row["pairs"] = [
            (one["dice"], row["real"][name], one["low"] <= row["real"][name] <= one["high"])
            for name, one in row["expected"].items()
            if row["real"].get(name) is not None
        ]
        row["dice"] = float(np.mean([real for _, real, _ in row["pairs"]]))
        row["foretold"] = float(np.mean([expected for expected, _, _ in row["pairs"]]))
    clean = {row["case"]: row["dice"] for row in rows if row["kind"] == CLEAN}
    for row in rows:
        row["wrong"] = clean[row["case"]] - row["dice"] > DROP

    def of(chosen: Callable[[Row], bool]) -> dict[str, Any]:
        own = [row for row in rows if chosen(row)]
        pairs = [pair for row in own for pair in row["pairs"]]
        with_clean = [row for row in rows if chosen(row) or row["kind"] == CLEAN]
        ood = [row["out_of_distribution"] for row in with_clean]
        return {
            "images": len(own),
            "dice": np.mean([row["dice"] for row in own]),
            "foretold": np.mean([row["foretold"] for row in own]),
            "error": np.mean([abs(expected - real) for expected, real, _ in pairs]),
            "in_interval": np.mean([inside for _, _, inside in pairs]),
            "rank_correlation": evaluation.spearman([row["foretold"] for row in own], [row["dice"] for row in own]),
            "wrong": np.mean([row["wrong"] for row in own]),
            "score": np.median([row["out_of_distribution"] for row in own]),
            "above_1": np.mean([row["out_of_distribution"] > 1 for row in own]),
            "auroc_corrupted": auroc(ood, [row["kind"] != CLEAN for row in with_clean]),
            "auroc_wrong_score": auroc([row["out_of_distribution"] for row in own], [row["wrong"] for row in own]),
            "auroc_wrong_dice": auroc([-row["foretold"] for row in own], [row["wrong"] for row in own]),
        }

    found = {"all": of(lambda row: True), CLEAN: of(lambda row: row["kind"] == CLEAN)}
    for strength in (MILD, STRONG):
        found[f"all {strength}"] = of(lambda row, s=strength: row["strength"] == s)  # type: ignore[misc]
    for low, high in ((0.0, 1.0), (1.0, 1.5), (1.5, np.inf)):
        name = f"score {low:g} to {high:g}" if high < np.inf else f"score above {low:g}"
        found[name] = of(lambda row, a=low, b=high: a < row["out_of_distribution"] <= b)  # type: ignore[misc]
    for kind in CORRUPTIONS:
        for strength in (MILD, STRONG):
            found[f"{kind.replace('_', ' ')}, {strength}"] = of(
                lambda row, k=kind, s=strength: (row["kind"], row["strength"]) == (k, s)  # type: ignore[misc]
            )
    return found


COLUMNS = {
    "images": "images",
    "dice": "Dice",
    "foretold": "expected",
    "error": "mean error",
    "in_interval": "in the interval",
    "rank_correlation": "rank correlation",
    "wrong": "lost > 0.1",
    "score": "median score",
    "above_1": "score > 1",
    "auroc_corrupted": "AUROC corrupted",
    "auroc_wrong_score": "AUROC lost, by score",
    "auroc_wrong_dice": "AUROC lost, by expected Dice",
}


def page(found: dict[str, Any]) -> str:
    """Markdown table."""

    def text(value: float | None) -> str:
        return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.2f}"

    lines = [f"| what | {' | '.join(COLUMNS.values())} |", f"|{' --- |' * (1 + len(COLUMNS))}"]
    lines += [f"| {name} | {' | '.join(text(row[key]) for key in COLUMNS)} |" for name, row in found.items()]
    return "\n".join(lines)


def main() -> None:
    """Predict, write the rows, print the table."""
    parser = options.new_parser("trust", __doc__ or "")
    options.add_dataset(parser)
    options.add_planner(parser)
    options.add_device(parser)
    parser.add_argument("-c", dest="configuration", default="3d_fullres")
    parser.add_argument("-f", dest="folds", nargs="+", default=[], help="these folds only")
    parser.add_argument("--cases", type=int, default=10**9, help="of each fold, at most")
    parser.add_argument("-o", dest="target", type=Path, default=Path("trust.json"))
    args = parser.parse_args()
    keep_freed_memory()
    dataset = read_dataset(options.dataset_folder(args))
    results = options.workspace(args).model(dataset.name, args.planner, args.configuration)
    rows = run(dataset, results, wanted=args.folds, most=args.cases, device=args.device, target=args.target)
    print(page(summary(rows)))


if __name__ == "__main__":
    main()
