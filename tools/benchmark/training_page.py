"""training.json of training.py and kills.json of kills.py -> documentation/benchmarks_training.md.

Usage: training_page.py --speed training.json --accuracy training.json [...] --kills kills.json
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "documentation" / "benchmarks_training.md"
INTRODUCTION = """# Benchmarks of training

Against nnU-Net 2.8.1 on fold 0 of 200 hippocampus cases (nnU-Net's plan and split, 40 validation cases), on the same
machine: {cpus} CPUs ({cpu}) without bf16 instructions, PyTorch {torch}. Nothing was run on a GPU.

```bash
python tools/benchmark/training.py speed --data DIR --peer ENV
python tools/benchmark/training.py accuracy --data DIR --peer ENV --batch 2
python tools/benchmark/kills.py --data DIR
python tools/benchmark/gpu_training.py STORE PLAN WORK --crossval 20 250   # on a GPU
```

## Seconds per step (batch 9)

Both compute in 32-bit floats here, which is what this CPU has; a step is some 10^12 multiplications and additions, and
most of the time goes into convolutions, which the two programs leave to the same library. autoseg gains by the
channels-last memory format, by an instance norm that keeps it
([decision 0003](decisions/0003-group-norm-kernel.md)) and by keeping the memory that it frees
([decision 0024](decisions/0024-freed-memory.md)). On CPUs with bf16 instructions autoseg computes in bf16; that is not
measured here.
"""


def speed(found: dict[str, Any]) -> str:
    """Medians of the steps of all rounds, and their ratio."""
    counts = {who: len(values) for who, values in found["seconds"].items()}
    low_high = {who: f"{min(v):.1f} - {max(v):.1f}" for who, v in found["seconds"].items()}
    rows = ["| program | median | range | steps timed |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {'nnU-Net' if who == 'peer' else who} | {found['medians'][who]:.2f} s | {low_high[who]} | {counts[who]} |"
        for who in counts
    ]
    rows.append(
        f"\nRatio of the medians: {found['ratio']:.2f}. Share of autoseg's step spent waiting for data: "
        f"{found['data_wait_share']:.1%} (median)."
    )
    return "\n".join(rows)


def accuracy(runs: dict[str, dict[str, Any]]) -> str:
    """Mean validation Dice of every run, and of all seeds."""
    grouped: dict[str, dict[int, float]] = {}
    for name, run in runs.items():
        if match := re.fullmatch(r"(\w+)_(\d+)x(\d+)_seed(\d+)", name):
            who, epochs, steps, seed = match.groups()
            dice = run["dice"] if isinstance(run["dice"], float) else statistics.fmean(run["dice"].values())
            grouped.setdefault(f"{who}, {int(epochs) * int(steps)} steps", {})[int(seed)] = dice
    rows = ["| recipe or program | seed: mean Dice | mean |", "| --- | --- | --- |"]
    for name, values in sorted(grouped.items()):
        listed = ", ".join(f"{seed}: {dice:.4f}" for seed, dice in sorted(values.items()))
        rows.append(f"| {name} | {listed} | {statistics.fmean(values.values()):.4f} |")
    if not any(name.startswith("peer") for name in grouped):
        rows.append("\nThe peer has not been trained for this comparison yet.")
    return "\n".join(rows)


def main() -> None:
    """Write the page of what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=Path, required=True)
    parser.add_argument("--accuracy", type=Path, nargs="+", default=[])
    parser.add_argument("--kills", type=Path)
    args = parser.parse_args()
    content = json.loads(args.speed.read_text())
    parts = [INTRODUCTION.format(**content["machine"]), speed(content["speed"])]
    for path in args.accuracy:
        runs = json.loads(path.read_text())
        settings = runs["settings"]
        title = f"{settings['features']} features, batch {settings['batch']}"
        parts += [f"\n## Mean validation Dice after equally many steps: {title}\n", accuracy(runs)]
    if args.kills:
        kills = json.loads(args.kills.read_text())
        moments = [trial["moment_s"] for trial in kills["trials"]]
        parts.append(
            f"\n## Kills\n\n{kills['identical']} of {len(moments)} trainings that were killed (SIGKILL) at a random "
            f"moment between {min(moments):.1f} and {max(moments):.1f} s after their start, and started again, ended "
            "with the weights and predictions of one in one go, to the bit."
        )
    PAGE.write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
