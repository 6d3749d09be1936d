"""Evaluation against the peer: both score the same folder of predictions in turn, start-up included; ratios of medians.

Usage: evaluation.py --data DIR --peer ENV [--work DIR] [--rounds N] [--only NAME ...]
Predictions are the true labels, moved and thinned by fixed rules. Everything goes into evaluation.json and
evaluation.txt in the work folder. The peer computes Dice, IoU and counts of voxels; autoseg all of its metrics.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from compare import Bench
from datasets import CT, HIPPOCAMPUS, SPINAL, make_ct, make_hippocampus, make_spinal
from measured import Measured, machine, run

from autoseg.core.workers import available_cpus

SETS = {"hippocampus": HIPPOCAMPUS, "spinal": SPINAL, "ct": CT}


def make_predictions(truths: Path, folder: Path) -> int:
    """Each true label file, moved by (1, -2, 1) voxels, one voxel in twenty lost; returns their number."""
    files = sorted(truths.glob("*.nii.gz"))
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(files):
        truth = sitk.ReadImage(path)
        values = np.roll(sitk.GetArrayFromImage(truth), (1, -2, 1), axis=(0, 1, 2)).astype(np.uint8)
        values[np.random.default_rng(number).random(values.shape) < 0.05] = 0
        predicted = sitk.GetImageFromArray(values)
        predicted.CopyInformation(truth)
        sitk.WriteImage(predicted, folder / path.name)
    return len(files)


def make_plans(bench: Bench, dataset: str) -> Path:
    """The peer evaluates only with a plans file, of which it takes the reader and the labels."""
    plans = bench.work / "peer" / dataset / "nnUNetPlans.json"
    if not plans.is_file():
        number = str(int(dataset[7:10]))
        bench.theirs("nnUNetv2_extract_fingerprint", "-d", number, "-np", str(available_cpus()))
        bench.theirs("nnUNetv2_plan_experiment", "-d", number)
    return plans


def evaluate(bench: Bench, dataset: str) -> dict[str, Any]:
    """Score the data set's predictions by both programs, and compare their Dice and IoU."""
    raw, predictions = bench.raw / dataset, bench.work / "predictions" / dataset
    truths, plans = raw / "labelsTr", make_plans(bench, dataset)
    n_cases = make_predictions(truths, predictions)
    other = bench.work / f"{dataset}_peer.json"

    def theirs() -> Measured:
        declared = ["-djfile", str(raw / "dataset.json"), "-pfile", str(plans), "-o", str(other)]
        command = [str(bench.peer / "bin" / "nnUNetv2_evaluate_folder"), str(truths), str(predictions), *declared]
        # its default, 8 processes, as far as there are CPUs for them
        return run([*command, "-np", str(min(8, available_cpus()))], log=bench.log, env=bench.peer_folders)

    def own() -> Measured:
        for name in ("summary.json", "scores.csv"):
            (predictions / name).unlink(missing_ok=True)
        command = [str(Path(sys.executable).parent / "autoseg_evaluate"), "-p", str(predictions), "-g", str(truths)]
        return run(command, log=bench.log)

    result = bench.in_turn(f"evaluate {dataset}, {n_cases} cases", theirs, own)
    scores = agreement(predictions / "summary.json", other, raw / "dataset.json")
    return {**result, "load_average": os.getloadavg()[2], **scores}


def agreement(own: Path, other: Path, declaration: Path) -> dict[str, float]:
    """The largest difference of the metrics that both programs compute."""
    values = json.loads(declaration.read_text())["labels"]
    cases = json.loads(own.read_text())["cases"]
    largest, compared = 0.0, 0
    for case in json.loads(other.read_text())["metric_per_case"]:
        mine = cases[Path(case["prediction_file"]).name.removesuffix(".nii.gz")]
        for name, row in mine.items():
            theirs = case["metrics"][str(values[name])]
            for metric, key in (("dice", "Dice"), ("iou", "IoU")):
                if row[metric] is not None:
                    largest, compared = max(largest, abs(row[metric] - theirs[key])), compared + 1
    return {"largest_score_difference": largest, "scores_compared": compared}


def lines(results: Iterable[dict[str, Any]]) -> list[str]:
    """What evaluation.txt says."""
    return [
        f"{one['name']}: peer {one['peer_seconds']:.2f} s {one['peer_peak_gb']:.2f} GB, autoseg "
        f"{one['autoseg_seconds']:.2f} s {one['autoseg_peak_gb']:.2f} GB; time ratio {one['time_ratio']:.2f} "
        f"({len(one['rounds'])} rounds, medians); {one['scores_compared']} Dice and IoU differ by at most "
        f"{one['largest_score_difference']:.1g}"
        for one in results
    ]


def main() -> None:
    """Make the data, run what is asked, write evaluation.json and evaluation.txt after each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", type=Path, required=True, help="the peer's virtual environment")
    parser.add_argument("--work", type=Path, default=Path("benchmark_evaluation"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=[*SETS], choices=[*SETS])
    args = parser.parse_args()
    bench = Bench(work=args.work.resolve(), peer=args.peer.resolve(), rounds=args.rounds)
    shutil.rmtree(bench.work / "predictions", ignore_errors=True)
    (bench.work / "none").mkdir(parents=True, exist_ok=True)
    data, path = args.data.resolve(), bench.work / "evaluation.json"
    known = json.loads(path.read_text())["results"] if path.is_file() else []
    for name in args.only:
        if name == "hippocampus":
            make_hippocampus(data, bench.raw, n_cases=60)
        else:
            (make_spinal if name == "spinal" else make_ct)(data, bench.raw)
        result = evaluate(bench, SETS[name])
        known = [*(one for one in known if one["name"] != result["name"]), result]
        path.write_text(json.dumps({"machine": machine(), "results": known}, indent=1))
        (bench.work / "evaluation.txt").write_text("\n".join(lines(known)) + "\n")
    print("\n".join(lines(known)))


if __name__ == "__main__":
    main()
