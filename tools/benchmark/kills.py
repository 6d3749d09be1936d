"""Trainings that are killed once at a random moment and run again: do they end with the same weights to the bit?

Usage: kills.py --data DIR [--work DIR] [--kills N] [--seed N]; writes kills.json into the work folder.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from datasets import HIPPOCAMPUS, make_hippocampus

SETTINGS = ["--planner", "small", "--recipe", "default", "--epochs", "4", "--iterations", "6", "-f", "0"]
SETTINGS += ["--set", "val_iterations=2", "weight_average=0.9", "save_every_minutes=0.01", "--deterministic"]


def start(work: Path, results: Path) -> subprocess.Popen[bytes]:
    """autoseg_train on the CPU, in a process group of its own."""
    places = ["--raw", f"{work}/raw", "--preprocessed", f"{work}/own", "--results", str(results)]
    command = [str(Path(sys.executable).parent / "autoseg_train"), "-d", "4", "--device", "cpu", *SETTINGS, *places]
    with open(work / "log.txt", "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def weights(results: Path) -> dict[str, bytes]:
    """The weight files of the fold, and its predictions."""
    fold = next(results.glob("*/*/fold_0"))
    files = [*fold.glob("weights*.safetensors"), *fold.glob("validation/*.nii.gz")]
    return {file.name: file.read_bytes() for file in files}


def main() -> None:
    """Train once in one go, then with a kill as often as asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("benchmark_kills"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    work = args.work.resolve()
    make_hippocampus(args.data.resolve(), work / "raw", n_cases=10)
    places = ["--raw", f"{work}/raw", "--preprocessed", f"{work}/own", "--results", f"{work}/none"]
    prepare = str(Path(sys.executable).parent / "autoseg_plan_and_preprocess")
    subprocess.run([prepare, "-d", str(4), "--planner", "small", "-c", "3d_fullres", *places], check=True)
    assert (work / "raw" / HIPPOCAMPUS).is_dir()
    whole = work / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    started = time.monotonic()
    assert start(work, whole).wait() == 0
    seconds = time.monotonic() - started
    expected = weights(whole)
    rng, trials = random.Random(args.seed), []
    while len(trials) < args.kills:
        results = work / "killed"
        shutil.rmtree(results, ignore_errors=True)
        moment = rng.uniform(0, seconds)
        process = start(work, results)
        time.sleep(moment)
        process.kill()
        if process.wait() != -signal.SIGKILL:
            continue  # it was faster than the first one: nothing was killed
        assert start(work, results).wait() == 0
        trials.append({"moment_s": round(moment, 2), "identical": weights(results) == expected})
        print(len(trials), trials[-1], flush=True)
    identical = sum(trial["identical"] for trial in trials)
    found = {"seconds_in_one_go": round(seconds, 1), "identical": identical, "trials": trials}
    (work / "kills.json").write_text(json.dumps(found, indent=1))
    print(f"{identical} of {len(trials)} identical")


if __name__ == "__main__":
    main()
