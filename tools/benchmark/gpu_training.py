"""Epochs on a GPU against the same steps on data that already lie there; and a cross-validation against GPU minutes.

Usage: gpu_training.py STORE PLAN.json WORK [--rounds N] [--device cuda] [--steps N] [--crossval EPOCHS STEPS]
STORE is the folder of preprocessed cases of 3d_fullres (hippocampus), PLAN.json its plan. The second plan, patch
128 x 128 x 128 and batch 2, is trained on cases of noise that are made here. No raw images are needed, nor SimpleITK.
Writes gpu_training.json into WORK.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

from autoseg import training
from autoseg.core.plan import Configuration, NetworkSpec, Plan
from autoseg.core.recipe import RECIPES, Recipe
from autoseg.core.splits import Split, default_splits
from autoseg.io.case_store import CaseMeta, CaseStore
from autoseg.io.weights import load_weights
from autoseg.training.augmentation import crop_size
from autoseg.training.fold import augmentation_rules
from autoseg.training.run import Run

NAME = "3d_fullres"


def large_plan(plan: Plan, edge: int) -> Plan:
    """A plan with a patch of edge^3, batch 2 and six stages, as the default planner makes for large CT."""
    stages = 6 if edge >= 64 else 3
    network = NetworkSpec(
        features_per_stage=[min(320, 32 * 2**i) for i in range(stages)],
        strides=[[1] * 3] + [[2] * 3] * (stages - 1),
        kernel_sizes=[[3] * 3] * stages,
        blocks_per_stage=[2] * stages,
        blocks_per_stage_decoder=[2] * (stages - 1),
    )
    old = plan.configuration(NAME)
    configuration = Configuration(
        patch_size=[edge] * 3,
        batch_size=2,
        spacing_mm=old.spacing_mm,
        median_shape_voxels=[2.0 * edge] * 3,
        normalization=old.normalization,
        use_mask_for_norm=old.use_mask_for_norm,
        batch_dice=False,
        network=network,
        mirror_axes=[0, 1, 2],
    )
    return plan.with_changes(configurations={NAME: configuration.model_dump()})


def noise_store(folder: Path, edge: int) -> Path:
    """Four cases of twice the patch's edge, with two labels in boxes."""
    store, rng = CaseStore(folder), np.random.default_rng(0)
    for number in range(4):
        shape = (2 * edge,) * 3
        label = np.zeros(shape, dtype=np.int16)
        locations = {}
        for value in (1, 2):
            low = rng.integers(0, edge, 3)
            box = tuple(slice(n, n + edge // 2) for n in low)
            label[box] = value
            inside = rng.integers(0, edge // 2, (1000, 3)) + low
            locations[value - 1] = inside.astype(np.int32)
        image = rng.normal(size=(1, *shape)).astype(np.float32) + label
        store.write(
            f"noise_{number}",
            image=image,
            label=label,
            locations=locations,
            meta=CaseMeta(key="noise"),
            patch_size=(edge,) * 3,
        )
    return folder


def synthetic_epoch(plan: Plan, recipe: Recipe, device: torch.device, *, augmented: bool) -> float:
    """Seconds of an epoch's training steps on one batch that lies on the device."""
    configuration = plan.configuration(NAME)
    rules = augmentation_rules(plan, configuration)
    run = Run(plan, NAME, recipe.with_changes(augmentation=augmented), rules, device)
    patch = tuple(configuration.patch_size)
    size = crop_size(patch, rotation_rad=rules.rotation_rad, dummy_2d=rules.dummy_2d) if augmented else patch
    image = torch.randn(configuration.batch_size, 1, *size, device=device)
    label = torch.randint(0, 3, (configuration.batch_size, 1, *size), device=device)
    batch = {"image": image, "label": label, "cases": ["noise"] * configuration.batch_size}
    for _ in range(5):
        run.train_step(batch)
    started = time.perf_counter()
    for _ in range(recipe.iterations):
        run.train_step(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def epochs(plan: Plan, store: Path, recipe: Recipe, folder: Path, device: torch.device, *, loaders: int) -> list[dict]:
    """The log of a short training from the case store; its first epoch finds kernels and fills caches."""
    shutil.rmtree(folder, ignore_errors=True)
    cases = CaseStore(store).case_ids()
    job = training.FoldJob(
        store=store,
        plan=plan,
        configuration=NAME,
        recipe=recipe,
        split=Split(train=cases[:-1], val=cases[-1:]),
        folder=folder,
        device=device,
        loaders=loaders,
    )
    training.train_fold(job)
    return training.read_log(folder / "log.jsonl")[1:]


def crossval(plan: Plan, store: Path, folder: Path, device: torch.device, *, length: tuple[int, int]) -> dict:
    """Five folds of the quick recipe: seconds, and the Dice of whole preprocessed validation cases pooled."""
    recipe = RECIPES["quick"].with_changes(epochs=length[0], iterations=length[1])
    cases, seconds = CaseStore(store), 0.0
    dice: dict[int, list[float]] = {1: [], 2: []}
    for number, split in enumerate(default_splits({case: case for case in cases.case_ids()})):
        fold = folder / f"fold_{number}"
        shutil.rmtree(fold, ignore_errors=True)
        job = training.FoldJob(
            store=store, plan=plan, configuration=NAME, recipe=recipe, split=split, folder=fold, device=device
        )
        started = time.perf_counter()
        training.train_fold(job)
        seconds += time.perf_counter() - started
        for case in split.val:
            found = predict(plan, fold / "weights.safetensors", cases.open(case).image[:], device)
            truth = cases.open(case).label[:]
            for value, values in dice.items():
                both = ((found == value) & (truth == value)).sum()
                values.append(2 * both / max(1, (found == value).sum() + (truth == value).sum()))
    names = [*plan.scheme.foreground]
    means = {name: statistics.fmean(dice[plan.scheme.outputs[name]]) for name in names}
    return {"minutes": seconds / 60, "epochs": length[0], "steps": length[1], "dice": means}


def predict(plan: Plan, weights: Path, image: np.ndarray, device: torch.device) -> np.ndarray:
    """Labels of a preprocessed image (C, Z, Y, X), by sliding window with mirroring."""
    if importlib.util.find_spec("SimpleITK") is None:  # imported beside the sliding window, which does without
        sys.modules["SimpleITK"] = MagicMock()
    from autoseg.nets.build import build_network
    from autoseg.prediction.ensemble import Ensemble
    from autoseg.prediction.sliding_window import stream_logits

    configuration = plan.configuration(NAME)
    network = build_network(configuration.network, n_channels=1, n_outputs=plan.scheme.n_outputs)
    network.load_state_dict(load_weights(weights)[0])
    ensemble = Ensemble(
        plan=plan,
        configuration=configuration,
        networks=(network.eval().to(device),),
        folds=("0",),
        device=device,
        precision="float32" if device.type == "cpu" else "bf16",
    )
    slabs = stream_logits(
        torch.from_numpy(np.asarray(image)),
        ensemble.logits,
        patch_size=tuple(configuration.patch_size),
        n_outputs=ensemble.n_outputs,
        step=0.5,
        device=device,
    )
    return torch.cat([slab.argmax(0).cpu() for slab in slabs]).numpy()


def main() -> None:
    """Measure; everything is written after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("plan", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=2, help="epochs that count")
    parser.add_argument("--steps", type=int, default=250, help="of an epoch")
    parser.add_argument("--edge", type=int, default=128, help="of the large patch")
    parser.add_argument("--loaders", type=int, nargs="+", default=(16, 2))
    parser.add_argument("--crossval", type=int, nargs=2, metavar=("EPOCHS", "STEPS"))
    args = parser.parse_args()
    device = torch.device(args.device)
    plan = Plan.read(args.plan)
    recipe = RECIPES["default"].with_changes(epochs=1 + args.rounds, iterations=args.steps, compile=False)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    found: dict[str, object] = {"device": name}
    large = large_plan(plan, args.edge)
    work = args.work
    work.mkdir(parents=True, exist_ok=True)
    for title, one, store in (
        ("hippocampus", plan, args.store),
        (f"patch {args.edge}", large, noise_store(work / "noise", args.edge)),
    ):
        base = {augmented: synthetic_epoch(one, recipe, device, augmented=augmented) for augmented in (False, True)}
        rows = {"on the device": base[False], "on the device, augmented": base[True]}
        for loaders in args.loaders:
            log = epochs(one, store, recipe, work / "fold", device, loaders=loaders)
            steps = statistics.median(
                recipe.iterations * one.configuration(NAME).batch_size / r["images_per_second"] for r in log
            )
            rows[f"{loaders} loaders"] = steps
            rows[f"{loaders} loaders, waiting"] = statistics.median(r["data_wait_share"] for r in log)
        found[title] = rows
        print(title, rows, flush=True)
        (work / "gpu_training.json").write_text(json.dumps(found, indent=1))
    if args.crossval:
        found["crossval"] = crossval(plan, args.store, work / "crossval", device, length=tuple(args.crossval))
        print(found["crossval"], flush=True)
        (work / "gpu_training.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
