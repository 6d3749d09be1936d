"""Prediction against the peer: models that it trained, imported; the same images; in turn, with ratios of medians.

Usage: prediction.py --data DIR --peer ENV [--work DIR] [--only NAME ...] [--rounds N] [--device cpu|cuda]
Steps: export (from logits to labels alone), hippocampus, resenc (residual encoder M), spinal. Each model is trained by
the peer for a short while first. Everything goes into prediction.json in the work folder.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from compare import Bench, task
from datasets import HIPPOCAMPUS, SPINAL, make_hippocampus, make_spinal
from measured import Measured, machine, run

HERE = Path(__file__).resolve().parent
PEER_TASK, OWN_TASK = str(HERE / "peer_task.py"), str(HERE / "own_task.py")
EXPORT_SHAPES = ((100, 160, 160), (150, 320, 320))
EXPORT_CLASSES = (30, 118)
# (data set, planner of the peer, its plans, images to predict, batch to train with)
MODELS = {
    "hippocampus": (HIPPOCAMPUS, "ExperimentPlanner", "nnUNetPlans", 10, 2),
    "resenc": (HIPPOCAMPUS, "nnUNetPlannerResEncM", "nnUNetResEncUNetMPlans", 10, 2),
    "spinal": (SPINAL, "ExperimentPlanner", "nnUNetPlans", 2, 2),
}
WORKERS = ((1, 1), (3, 3))  # of the peer for reading and for writing; its default is 3, 3


def smooth_logits(n_classes: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Logits with regions about a dozen voxels wide, as a network gives them: (n_classes, *shape), float32."""
    coarse = torch.randn(1, n_classes, *(max(2, n // 12) for n in shape), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0] * 8


def export(bench: Bench, n_classes: int) -> dict[str, object]:
    """Resample logits to the grid of the image and decode them, as the peer does after a prediction."""
    files = {who: bench.work / f"logits_{n_classes}.{who}.npy" for who in ("peer", "own")}
    logits = smooth_logits(n_classes, EXPORT_SHAPES[0]).numpy()
    np.save(files["peer"], logits)
    np.save(files["own"], np.ascontiguousarray(logits.transpose(1, 0, 2, 3)))  # rows first, as they are streamed
    del logits
    shape = ",".join(map(str, EXPORT_SHAPES[1]))
    result = bench.in_turn(
        f"export of {n_classes} classes",
        lambda: task(bench, str(bench.peer / "bin" / "python"), PEER_TASK, "export", str(files["peer"]), shape),
        lambda: task(bench, sys.executable, OWN_TASK, "export", str(files["own"]), shape),
    )
    found = [np.load(path.with_suffix(".labels.npy")) for path in files.values()]
    return {**result, "other_labels": float((found[0] != found[1]).mean())}


def train_model(bench: Bench, name: str, *, steps: int) -> Path:
    """A model that the peer has trained for so many steps; its results folder."""
    dataset, planner, plans, _, batch = MODELS[name]
    number = str(int(dataset[7:10]))
    results = bench.work / "results" / dataset / f"nnUNetTrainer__{plans}__3d_fullres"
    if (results / "fold_0" / "checkpoint_final.pth").is_file():
        return results
    folders = {**bench.peer_folders, "nnUNet_results": str(bench.work / "results")}
    plan = bench.work / "peer" / dataset / f"{plans}.json"
    if not plan.is_file():
        command = [str(bench.peer / "bin" / "nnUNetv2_plan_and_preprocess"), "-d", number, "-c", "3d_fullres"]
        run([*command, "-pl", planner, "-np", "2", "-npfp", "2"], log=bench.log, env=folders)
        facts = json.loads(plan.read_text())
        facts["configurations"]["3d_fullres"]["batch_size"] = batch
        plan.write_text(json.dumps(facts))
    script = [str(bench.peer / "bin" / "python"), str(HERE / "peer_train.py"), number, plans, "0", "0", "1", str(steps)]
    run([*script, "0", str(bench.work / f"{name}.training.json")], log=bench.log, env=folders, with_memory=False)
    return results


def predict(bench: Bench, name: str, results: Path, *, device: str) -> dict[str, object]:
    """Both predict the same images with the same weights; the peer at its fastest number of workers."""
    dataset, _, _, n_images, _ = MODELS[name]
    images = bench.work / f"images_{name}"
    if not images.is_dir():
        images.mkdir()
        for path in sorted((bench.raw / dataset / "imagesTr").iterdir())[:n_images]:
            shutil.copy(path, images / path.name)
    model = bench.work / f"{name}.zip"
    run(
        [str(Path(sys.executable).parent / "autoseg_import_model"), str(results), "-o", str(model), "--overwrite"],
        log=bench.log,
    )
    out = {who: bench.work / f"out_{name}_{who}" for who in ("peer", "own")}

    def theirs(reading: int, writing: int) -> Measured:
        shutil.rmtree(out["peer"], ignore_errors=True)
        command = [str(bench.peer / "bin" / "nnUNetv2_predict_from_modelfolder"), "-i", str(images), "-m", str(results)]
        workers = ["-npp", str(reading), "-nps", str(writing)]
        return run(
            [*command, "-o", str(out["peer"]), "-f", "0", "-device", device, *workers],
            log=bench.log,
            env=bench.peer_folders,
        )

    def own() -> Measured:
        shutil.rmtree(out["own"], ignore_errors=True)
        command = [str(Path(sys.executable).parent / "autoseg_predict"), "-m", str(model), "-i", str(images)]
        return run([*command, "-o", str(out["own"]), "--device", device], log=bench.log)

    tried = {workers: theirs(*workers).seconds for workers in WORKERS}
    print(name, {f"npp {a} nps {b}": round(seconds, 1) for (a, b), seconds in tried.items()}, flush=True)
    best = min(tried, key=lambda workers: tried[workers])
    result = bench.in_turn(f"predict {name}, {n_images} cases", lambda: theirs(*best), own)
    return {
        **result,
        "peer_workers": {f"npp {a} nps {b}": seconds for (a, b), seconds in tried.items()},
        "precision": json.loads((out["own"] / "prediction.json").read_text())["options"]["precision"],
        **agreement(out["own"], out["peer"]),
    }


def agreement(own: Path, other: Path) -> dict[str, float]:
    """Share of voxels with another label in two folders of label files."""
    differing = total = 0
    for path in sorted(own.glob("*.nii.gz")):
        first, second = (sitk.GetArrayFromImage(sitk.ReadImage(str(f / path.name))) for f in (own, other))
        differing, total = differing + int((first != second).sum()), total + first.size
    return {"other_labels": differing / total, "voxels": total}


def main() -> None:
    """Run what is asked, write prediction.json after each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", type=Path, required=True, help="the peer's virtual environment")
    parser.add_argument("--work", type=Path, default=Path("benchmark_prediction"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="for which the peer trains each model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", default=["export", *MODELS], choices=["export", *MODELS])
    parser.add_argument("--train_only", action="store_true", help="only make the models")
    args = parser.parse_args()
    bench = Bench(work=args.work.resolve(), peer=args.peer.resolve(), rounds=args.rounds)
    (bench.work / "none").mkdir(parents=True, exist_ok=True)
    make_hippocampus(args.data.resolve(), bench.raw, n_cases=60)
    make_spinal(args.data.resolve(), bench.raw)
    path = bench.work / "prediction.json"
    known = json.loads(path.read_text())["results"] if path.is_file() else []
    for name in args.only:
        if name in MODELS:
            results = train_model(bench, name, steps=args.steps)
        if args.train_only:
            continue
        found = (
            [export(bench, n) for n in EXPORT_CLASSES]
            if name == "export"
            else [predict(bench, name, results, device=args.device)]
        )
        for result in found:
            known = [*(one for one in known if one["name"] != result["name"]), result]
        path.write_text(json.dumps({"machine": machine(), "results": known}, indent=1))


if __name__ == "__main__":
    main()
