"""Planning and preprocessing against the peer: the same cases, in turn, with ratios of medians.

Usage: run.sh --data DIR [--work DIR] [--rounds N] [--only NAME ...]; DIR is the folder of the real data sets.
Writes results.json into the work folder; page.py makes documentation/benchmarks.md and its picture of that.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import datasets
import numpy as np
import SimpleITK as sitk
from measured import Measured, machine, run
from volumes import differences

from autoseg.core.workers import available_cpus

HERE = Path(__file__).resolve().parent
PEER_TASK, OWN_TASK = str(HERE / "peer_task.py"), str(HERE / "own_task.py")
LABEL_COUNTS = (3, 25, 117)
STEPS = ("resampling", "planning", "fingerprint", "ct", "spinal", "hippocampus")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where things are: the work folder and the Python of each program."""

    work: Path
    peer: Path
    rounds: int

    @property
    def raw(self) -> Path:
        return self.work / "raw"

    @property
    def log(self) -> Path:
        return self.work / "log.txt"

    @property
    def peer_folders(self) -> dict[str, str]:
        folders = {"raw": self.raw, "preprocessed": self.work / "peer", "results": self.work / "none"}
        return {f"nnUNet_{name}": str(folder) for name, folder in folders.items()}

    def own(self, *command: str) -> Measured:
        place = ["--raw", str(self.raw), "--preprocessed", str(self.work / "own"), "--results", str(self.work / "none")]
        return run([str(Path(sys.executable).parent / command[0]), *command[1:], *place], log=self.log)

    def theirs(self, *command: str) -> Measured:
        return run([str(self.peer / "bin" / command[0]), *command[1:]], log=self.log, env=self.peer_folders)

    def in_turn(self, name: str, theirs: Callable[[], Measured], own: Callable[[], Measured]) -> dict[str, object]:
        """Alternate the two and put the medians beside each other."""
        pairs = []
        for i in range(self.rounds):
            pairs.append((theirs(), own()))
            print(f"{name} {i + 1}/{self.rounds}: peer {pairs[-1][0].seconds:.2f} s {pairs[-1][0].peak_gb:.2f} GB, "
                  f"autoseg {pairs[-1][1].seconds:.2f} s {pairs[-1][1].peak_gb:.2f} GB", flush=True)  # fmt: skip
        median = {
            f"{who}_{what}": statistics.median(getattr(pair[i], what) for pair in pairs)
            for i, who in enumerate(("peer", "autoseg"))
            for what in ("seconds", "peak_gb")
        }
        return {
            "name": name,
            **median,
            "time_ratio": median["peer_seconds"] / median["autoseg_seconds"],
            "memory_ratio": median["peer_peak_gb"] / median["autoseg_peak_gb"] if median["autoseg_peak_gb"] else None,
            "rounds": [[asdict(one) for one in pair] for pair in pairs],
        }


def task(bench: Bench, python: str, *arguments: str) -> Measured:
    """A task that times itself, so that imports are left out; the memory is that of the whole process."""
    output = bench.work / "task.txt"
    output.unlink(missing_ok=True)
    measured = run([python, *arguments], log=output, env=bench.peer_folders)
    line = next(line for line in output.read_text().splitlines() if line.startswith("task_seconds"))
    return Measured(seconds=float(line.split()[1]), peak_gb=measured.peak_gb)


def _whole(bench: Bench, dataset: str, *, step: str) -> dict[str, object]:
    """A command of both programs on a data set, from nothing each time."""
    number = str(int(dataset[7:10]))
    command = {"fingerprint": "extract_fingerprint", "plan and preprocess": "plan_and_preprocess"}[step]
    # its defaults, as far as there are CPUs for them: 8 processes on 2 CPUs take up to twice the time
    n = [str(min(wanted, available_cpus())) for wanted in (8, 8, 4, 8)]
    processes = {"fingerprint": ["-np", n[0]], "plan and preprocess": ["-npfp", n[0], "-np", *n[1:]]}[step]

    def theirs() -> Measured:
        shutil.rmtree(bench.work / "peer" / dataset, ignore_errors=True)
        return bench.theirs(f"nnUNetv2_{command}", "-d", number, *processes)

    def own() -> Measured:
        shutil.rmtree(bench.work / "own" / dataset, ignore_errors=True)
        return bench.own(f"autoseg_{command}", "-d", number)

    result = bench.in_turn(f"{step}, {dataset}", theirs, own)
    if step == "plan and preprocess":
        result["largest_differences"] = differences(
            bench.raw / dataset, bench.work / "own" / dataset, bench.work / "peer" / dataset
        )
    return result


def _planning(bench: Bench) -> list[dict[str, object]]:
    """Planning from a fingerprint that is there: as a command, and without the imports."""
    number, name = "803", datasets.CT
    if not (bench.work / "peer" / name / "dataset_fingerprint.json").is_file():
        bench.theirs("nnUNetv2_extract_fingerprint", "-d", number)
    if not (bench.work / "own" / name / "fingerprint.json").is_file():
        bench.own("autoseg_extract_fingerprint", "-d", number)

    def own() -> Measured:
        shutil.rmtree(bench.work / "own" / name / "plans", ignore_errors=True)
        return bench.own("autoseg_plan", "-d", number)

    command = bench.in_turn(
        "planning, the command", lambda: bench.theirs("nnUNetv2_plan_experiment", "-d", number), own
    )
    fingerprint = str(bench.work / "own" / name / "fingerprint.json")
    alone = bench.in_turn(
        "planning, imports left out",
        lambda: task(bench, str(bench.peer / "bin" / "python"), PEER_TASK, "plan", name),
        lambda: task(bench, sys.executable, OWN_TASK, "plan", fingerprint, str(bench.raw / name)),
    )
    return [command, alone]


def _resampling(bench: Bench) -> list[dict[str, object]]:
    """One CT volume, 256 x 256 x 150, to a spacing 1.28 times finer in plane; labels in several numbers of classes."""
    image = sitk.GetArrayFromImage(sitk.ReadImage(bench.raw / datasets.CT / "imagesTr" / "ct_00_0000.nii.gz"))
    files = {"resample_image": bench.work / "image.npy"}
    np.save(files["resample_image"], image.astype(np.float32))
    for count in LABEL_COUNTS:
        files[f"resample_labels {count}"] = bench.work / f"labels_{count}.npy"
        np.save(files[f"resample_labels {count}"], _blobs(image.shape, count))
    spacing, finer = (1.0, 1.0, 1.0), (0.9, 0.78, 0.78)
    shape = ",".join(str(round(n * a / b)) for n, a, b in zip(image.shape, spacing, finer, strict=True))
    spacings = f"{','.join(map(str, spacing))};{','.join(map(str, finer))}"
    results = []
    for name, file in files.items():
        arguments = (name.split()[0], str(file), shape, spacings)
        result = bench.in_turn(
            name.replace("_", " "),
            lambda a=arguments: task(bench, str(bench.peer / "bin" / "python"), PEER_TASK, *a),
            lambda a=arguments: task(bench, sys.executable, OWN_TASK, *a),
        )
        peer, own = (np.load(file.with_suffix(f".{who}.npy")) for who in ("peer", "own"))
        if "image" in name:
            result["largest_difference"] = float(np.abs(peer - own).max() / np.abs(peer).max())
        else:
            result["other_labels"] = float((peer != own).mean())
        results.append(result)
    return results


def _blobs(shape: tuple[int, ...], count: int) -> np.ndarray:
    """A label map with `count` foreground labels: the nearest of as many seeds inside an ellipsoid."""
    rng = np.random.default_rng(count)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), axis=-1).astype(np.float32)
    from scipy.spatial import cKDTree

    nearest = cKDTree(rng.uniform(-0.8, 0.8, (count, 3))).query(grid, workers=-1)[1]
    return np.where((grid**2).sum(-1) < 0.8, nearest + 1, 0).astype(np.int16)


def main() -> None:
    """Make the data, run what is asked, write results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("benchmark_work"))
    parser.add_argument("--peer", type=Path, required=True, help="the peer's virtual environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", choices=STEPS, help=", ".join(STEPS))
    args = parser.parse_args()
    bench = Bench(work=args.work.resolve(), peer=args.peer.resolve(), rounds=args.rounds)
    (bench.work / "none").mkdir(parents=True, exist_ok=True)
    datasets.make_hippocampus(args.data.resolve(), bench.raw, n_cases=60)
    datasets.make_spinal(args.data.resolve(), bench.raw)
    datasets.make_ct(args.data.resolve(), bench.raw)
    steps: dict[str, Callable[[], list[dict[str, object]]]] = {
        "resampling": lambda: _resampling(bench),
        "planning": lambda: _planning(bench),
        "fingerprint": lambda: [_whole(bench, datasets.CT, step="fingerprint")],
        "ct": lambda: [_whole(bench, datasets.CT, step="plan and preprocess")],
        "spinal": lambda: [_whole(bench, datasets.SPINAL, step="plan and preprocess")],
        "hippocampus": lambda: [_whole(bench, datasets.HIPPOCAMPUS, step="plan and preprocess")],
    }
    path = bench.work / "results.json"
    known = json.loads(path.read_text())["results"] if path.is_file() else []
    for step in args.only or STEPS:
        for result in steps[step]():
            known = [*(one for one in known if one["name"] != result["name"]), result]
            path.write_text(json.dumps({"machine": machine(), "results": known}, indent=1))


if __name__ == "__main__":
    main()
