"""A few training steps on random numbers: how long one takes and what memory it needs, without any data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg.core.plan import Plan
from autoseg.core.recipe import Recipe
from autoseg.core.workers import available_cpus
from autoseg.training.augmentation import crop_size
from autoseg.training.fold import augmentation_rules
from autoseg.training.run import Run

STEPS = 2  # after one that allocates and warms up


@dataclass(frozen=True, kw_only=True)
class StepJob:
    """A configuration to try, with which recipe, where, and with how many samples per step."""

    plan: Plan
    configuration: str
    recipe: Recipe
    device: str
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Seconds and peak memory (gigabytes of 1e9 bytes, beyond what the libraries take) of a training step."""

    seconds: float
    memory_gb: float


def measure_step(job: StepJob) -> StepCost:
    """Train a new network for a few steps. Meant to run in a process of its own, whose peak memory is looked at.

    Raises:
        torch.cuda.OutOfMemoryError: the device has not enough memory.
    """
    device = torch.device(job.device)
    if device.type == "cpu":
        torch.set_num_threads(available_cpus())
    torch.nn.Conv3d(1, 1, 3).to(device)(torch.zeros(1, 1, 4, 4, 4, device=device)).sum().backward()  # loads libraries
    before = _peak_bytes(device)
    configuration = job.plan.configuration(job.configuration)
    rules = augmentation_rules(job.plan, configuration)
    run = Run(job.plan, job.configuration, job.recipe, rules, device)
    patch = tuple(configuration.patch_size)
    crop = crop_size(patch, rotation_rad=rules.rotation_rad, dummy_2d=rules.dummy_2d)
    shape = crop if job.recipe.augmentation else patch
    generator = torch.Generator().manual_seed(0)
    label_channels = 1 if configuration.previous_stage is None else 2
    size = (job.batch_size, label_channels, *shape)
    label = torch.randint(0, len(job.plan.scheme.values), size, generator=generator)
    image = torch.randn((job.batch_size, len(job.plan.channel_names), *shape), generator=generator)
    batch = {"image": image, "label": label.to(torch.int16), "cases": ["noise"] * job.batch_size}
    run.train_step(batch)
    _wait_for(device)
    started = time.perf_counter()
    for _ in range(STEPS):
        run.train_step(batch)
    _wait_for(device)
    seconds = (time.perf_counter() - started) / STEPS
    return StepCost(seconds=seconds, memory_gb=(_peak_bytes(device) - before) / 1e9)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(device: torch.device) -> int:
    """Highest memory so far: of the device, or of this process where the CPU computes (Linux; 0 elsewhere)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    rows = status.read_text().splitlines() if status.is_file() else []
    return next((int(row.split()[1]) * 1024 for row in rows if row.startswith("VmHWM:")), 0)
