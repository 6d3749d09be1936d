"""Training against the peer: seconds per step in turn, and the Dice of equally long trainings over several seeds.

Usage: training.py --data DIR --peer ENV [--work DIR] speed|accuracy [--batch N] [--epochs N] ...
Both train fold 0 of the hippocampus set with the same plan: nnU-Net's with batch 9, or what --features and --batch make
of it. Everything goes into training.json in the work folder; a run that it holds is not repeated, and one that was
interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from datasets import HIPPOCAMPUS, make_hippocampus
from measured import machine, run

HERE = Path(__file__).resolve().parent
VALIDATION_STEPS = 5
SPEED_STEPS, SKIPPED_STEPS = 6, 2


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where things are, and the network that both train."""

    work: Path
    peer: Path
    features: int
    batch: int

    @property
    def log(self) -> Path:
        return self.work / "log.txt"

    @property
    def places(self) -> list[str]:
        return ["--raw", f"{self.work}/raw", "--preprocessed", f"{self.work}/own"]

    @property
    def peer_folders(self) -> dict[str, str]:
        return {"nnUNet_raw": f"{self.work}/raw", "nnUNet_preprocessed": f"{self.work}/peer"}

    def prepare(self) -> None:
        """Preprocess with both, then give both the same batch and features."""
        if not (self.work / "peer" / HIPPOCAMPUS / "nnUNetPlans.json").is_file():
            results = {"nnUNet_results": f"{self.work}/none"}
            command = [str(self.peer / "bin/nnUNetv2_plan_and_preprocess"), "-d", "4", "-c", "3d_fullres", "-np", "2"]
            run(command, log=self.log, env={**self.peer_folders, **results})
        own = [str(Path(sys.executable).parent / "autoseg_plan_and_preprocess"), "-d", "4", "-c", "3d_fullres"]
        run([*own, *self.places, "--results", f"{self.work}/none"], log=self.log)
        path = self.work / "own" / HIPPOCAMPUS / "plans" / "default.json"
        plan = json.loads(path.read_text())
        configuration = plan["configurations"]["3d_fullres"]
        features = configuration["network"]["features_per_stage"] = [
            self.features * 2**stage for stage in range(len(configuration["network"]["features_per_stage"]))
        ]
        configuration["batch_size"] = self.batch
        path.write_text(json.dumps(plan))
        path = self.work / "peer" / HIPPOCAMPUS / "nnUNetPlans.json"
        plan = json.loads(path.read_text())
        assert plan["configurations"]["3d_fullres"]["patch_size"] == configuration["patch_size"], "other plans"
        plan["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = features
        plan["configurations"]["3d_fullres"]["batch_size"] = self.batch
        path.write_text(json.dumps(plan))

    def train_peer(self, name: str, *, seed: int, epochs: int, steps: int, validation_steps: int) -> dict[str, object]:
        """Train with the peer; returns what peer_train.py found."""
        result = self.work / f"{name}.json"
        numbers = map(str, ("0", seed, epochs, steps, validation_steps))
        command = [str(self.peer / "bin/python"), str(HERE / "peer_train.py"), "4", "nnUNetPlans", *numbers]
        folders = {**self.peer_folders, "nnUNet_results": str(self.work / "results" / name)}
        run([*command, str(result)], log=self.log, env=folders, with_memory=False)
        return json.loads(result.read_text())

    def train_own(self, name: str, *, recipe: str, seed: int, epochs: int, steps: int) -> dict[str, object]:
        """Train and validate with autoseg; the folds and their logs are in results/NAME."""
        results = self.work / "results" / name
        command = [str(Path(sys.executable).parent / "autoseg_train"), "-d", "4", "-f", "0", "--recipe", recipe]
        length = ["--epochs", str(epochs), "--iterations", str(steps), "--seed", str(seed)]
        changed = ["--set", f"val_iterations={VALIDATION_STEPS}"]
        run([*command, *length, *changed, *self.places, "--results", str(results)], log=self.log, with_memory=False)
        fold = next(results.glob("*/*/fold_0"))
        summary = json.loads((fold / "validation" / "summary.json").read_text())
        return {"rows": _log(fold), "dice": summary["mean_dice"]}


def speed(bench: Bench, *, rounds: int) -> dict[str, object]:
    """Median seconds of a step of both, in turn; an epoch has one step, so that every step is in the log."""
    seconds: dict[str, list[float]] = {"peer": [], "autoseg": []}
    waits: list[float] = []
    for _ in range(rounds):
        for name in ("speed_peer", "speed_own"):
            shutil.rmtree(bench.work / "results" / name, ignore_errors=True)
        found = bench.train_peer("speed_peer", seed=0, epochs=1, steps=SPEED_STEPS, validation_steps=0)
        seconds["peer"] += found["step_seconds"][SKIPPED_STEPS:]
        fold = bench.work / "results" / "speed_own"
        store = bench.work / "own" / HIPPOCAMPUS
        run(
            [sys.executable, str(HERE / "own_task.py"), "train", str(store), str(fold), str(SPEED_STEPS)],
            log=bench.log,
            with_memory=False,
        )
        rows = _log(fold)[SKIPPED_STEPS:]
        seconds["autoseg"] += [bench.batch / row["images_per_second"] for row in rows]
        waits += [row["data_wait_share"] for row in rows]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "seconds": seconds,
        "medians": medians,
        "ratio": medians["peer"] / medians["autoseg"],
        "data_wait_share": statistics.median(waits),
    }


def _log(fold: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (fold / "log.jsonl").read_text().splitlines()]


def main() -> None:
    """Prepare, run what is asked and what is not known yet, write training.json after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "accuracy"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", type=Path, required=True, help="the peer's virtual environment")
    parser.add_argument("--work", type=Path, default=Path("benchmark_training"))
    parser.add_argument("--features", type=int, default=32, help="of the network at full resolution")
    parser.add_argument("--batch", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50, help="of an epoch")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--who", nargs="+", default=["peer", "default", "quick"], help="peer, or recipes of autoseg")
    args = parser.parse_args()
    work = args.work.resolve() / f"features_{args.features}_batch_{args.batch}"
    bench = Bench(work=work, peer=args.peer.resolve(), features=args.features, batch=args.batch)
    make_hippocampus(args.data.resolve(), work / "raw", n_cases=None)
    bench.prepare()
    path = work / "training.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    known |= {"machine": machine(), "settings": {"features": args.features, "batch": args.batch}}
    if args.what == "speed":
        known["speed"] = speed(bench, rounds=args.rounds)
        path.write_text(json.dumps(known, indent=1))
        return
    length = {"epochs": args.epochs, "steps": args.steps}
    for seed in range(args.seeds):
        for who in args.who:
            name = f"{who}_{args.epochs}x{args.steps}_seed{seed}"
            if name in known:
                continue
            if who == "peer":
                known[name] = bench.train_peer(name, seed=seed, **length, validation_steps=VALIDATION_STEPS)
            else:
                known[name] = bench.train_own(name, recipe=who, seed=seed, **length)
            print(name, known[name]["dice"], flush=True)
            path.write_text(json.dumps(known, indent=1))


if __name__ == "__main__":
    main()
