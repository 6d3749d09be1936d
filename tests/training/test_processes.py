"""Two processes with half a batch each train as one process with the whole batch."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import multiprocessing

from autoseg.cli.together import leave
from autoseg.core.errors import Interrupted
from autoseg.core.plan import Plan
from autoseg.core.recipe import Recipe
from autoseg.io.weights import load_weights
from autoseg.training import FoldJob, processes, read_log, train_fold
from autoseg.training.losses import losses, region_losses

pytestmark = pytest.mark.slow
MakePlan = Callable[..., Plan]
MakeJob = Callable[..., FoldJob]
N = 2
LABELS = {"background": 0, "left_blob": 1, "right_blob": 2}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def in_two_processes(function: Callable[..., None], *arguments: Any) -> None:
    """Run function(rank, *arguments) in two processes that train together."""
    multiprocessing.spawn(_joined, args=(free_port(), function, *arguments), nprocs=N)


def _joined(rank: int, port: int, function: Callable[..., None], *arguments: Any) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(N), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with processes.together(torch.device("cpu"), n_here=N):
        torch.set_num_threads(1)
        function(rank, *arguments)
    leave(0)


def batch_of_four() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Parameters of a toy network, its inputs, and targets with more annotation in the first half of the batch."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    inputs = torch.randn(4, 2, 5, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (4, 1, 5, 6), generator=generator)
    target[:2][target[:2] == 3] = 0
    return weights, inputs, target


KNOWN = torch.tensor([[True, True, True], [True, True, False], [True, True, False], [True, True, True]])


def loss_of(name: str, weights: torch.Tensor, samples: slice, *, partly: bool) -> torch.Tensor:
    """A loss of some of the samples, which may be annotated for other classes each."""
    inputs, target = (tensor[samples] for tensor in batch_of_four()[1:])
    logits = torch.einsum("kc,bcyx->bkyx", weights, inputs)
    options: dict[str, Any] = {"known": KNOWN[samples]} if partly else {}
    if name in region_losses:
        masks = torch.cat([target == 0, target == 1, target > 0], dim=1)
        return region_losses[name](logits, masks, batch_dice=True, mask=target != 3, **options)
    if partly:
        target = torch.where((target == 2) & ~KNOWN[samples][:, 2:, None, None], 0, target)
    return losses[name](logits, target, batch_dice=False, ignore_index=3, **options)


NAMES = [
    (name, partly)
    for name in ("dice_ce", "dice_ce_balanced", "dice_focal", "tversky_ce", "dice_bce")
    for partly in (False, True)
]


def _gradients(rank: int, folder: str) -> None:
    found = []
    for name, partly in NAMES:
        own = batch_of_four()[0].requires_grad_()
        loss = loss_of(name, own, slice(2 * rank, 2 * rank + 2), partly=partly)
        loss.backward()
        # what DistributedDataParallel does with the gradients
        gradient = processes.total(own.grad) / processes.size()
        found.append([loss.item(), *gradient.flatten().tolist()])
    if rank == 0:
        np.save(Path(folder) / "found.npy", np.array(found))


def test_loss_and_gradient_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    in_two_processes(_gradients, str(tmp_path))
    for (name, partly), found in zip(NAMES, np.load(tmp_path / "found.npy"), strict=True):
        weights = batch_of_four()[0].requires_grad_()
        loss = loss_of(name, weights, slice(4), partly=partly)
        loss.backward()
        expected = [loss.item(), *weights.grad.flatten().tolist()]
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=f"{name} {partly}")


RECIPE = Recipe(epochs=3, iterations=4, val_iterations=2, learning_rate=0.02, momentum=0.9, precision="float32")


@pytest.fixture
def make_job(tmp_path: Path, make_plan: MakePlan, make_store: Callable[..., Path], toy_fold: MakeJob) -> MakeJob:
    store: list[Path] = []

    def build(name: str, *, batch_size: int, batch_dice: bool = True, **changes: Any) -> FoldJob:
        plan = make_plan(
            labels=LABELS,
            mirror_axes=[0, 1, 2],
            mirror_label_pairs=[("left_blob", "right_blob")],
            batch_size=batch_size,
            batch_dice=batch_dice,
        )
        store.append(store[0] if store else make_store(plan))
        return toy_fold(plan, store[0], tmp_path / name, RECIPE.with_changes(**changes))

    return build


def _train(rank: int, job: FoldJob) -> None:
    train_fold(job)


@pytest.mark.parametrize(
    ("batch_dice", "changes"),
    [
        (True, {}),
        (False, {"weight_average": 0.9, "optimizer": "adamw", "learning_rate": 1e-3, "deep_supervision": False}),
    ],
    ids=["sgd", "adamw"],
)
def test_two_processes_have_the_loss_curve_of_one(make_job: MakeJob, batch_dice: bool, changes: dict) -> None:
    shared = make_job("shared", batch_size=2, batch_dice=batch_dice, **changes)
    in_two_processes(_train, shared)
    alone = make_job("alone", batch_size=4, batch_dice=batch_dice, **changes)
    train_fold(alone)
    pairs = [*zip(*(read_log(job.folder / "log.jsonl") for job in (shared, alone)), strict=True)]
    assert len(pairs) == 3
    for row, expected in pairs:
        assert row["train_loss"] == pytest.approx(expected["train_loss"], abs=1e-4)
        assert row["val_loss"] == pytest.approx(expected["val_loss"], abs=1e-4)
        assert row["learning_rate"] == expected["learning_rate"]
    (found, facts), (wanted, _) = (load_weights(job.folder / "weights.safetensors") for job in (shared, alone))
    assert facts["processes"] == 2
    for name, tensor in wanted.items():
        # AdamW makes steps of full size of the rounding errors that are all of a bias's gradient before a norm
        if not changes or name.startswith("heads"):
            torch.testing.assert_close(found[name], tensor, atol=2e-3, rtol=1e-2, msg=name)


@pytest.mark.parametrize("batch_dice", [True, False])
def test_a_case_annotated_for_some_classes_may_be_in_one_process_only(make_job: MakeJob, batch_dice: bool) -> None:
    changes = {"deep_supervision": True, "learning_rate": 1e-3}
    known = {"a": ("left_blob",)}
    shared = replace(make_job("shared", batch_size=1, batch_dice=batch_dice, **changes), annotated_classes=known)
    in_two_processes(_train, shared)
    alone = replace(make_job("alone", batch_size=2, batch_dice=batch_dice, **changes), annotated_classes=known)
    train_fold(alone)
    for row, expected in zip(*(read_log(job.folder / "log.jsonl") for job in (shared, alone)), strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], abs=1e-4)
        assert row["pseudo_dice"] == pytest.approx(expected["pseudo_dice"], abs=0.02)


def _validate_with_problems(rank: int) -> None:
    assert processes.gathered([f"case of {rank}"]) == ["case of 0", "case of 1"]


def test_what_each_process_found_is_gathered() -> None:
    in_two_processes(_validate_with_problems)


def _train_until_stopped(rank: int, job: FoldJob) -> None:
    """The second process alone is told to stop; both save and end at the same step."""
    if rank == 1:

        def progress(done: int, total: int, text: str) -> None:
            if done == 5:
                os.kill(os.getpid(), signal.SIGTERM)
    else:

        def progress(done: int, total: int, text: str) -> None:
            time.sleep(0.01)

    with pytest.raises(Interrupted):
        train_fold(job, progress=progress)


def test_a_signal_to_one_stops_all_with_the_state_saved_and_one_goes_on(make_job: MakeJob) -> None:
    job = make_job("stopped", batch_size=2)
    in_two_processes(_train_until_stopped, job)
    _, facts = load_weights(job.folder / "state_latest.safetensors")
    counters = facts["counters"]
    done = counters["epoch"] * 4 + counters["iteration"]
    assert done in (5, 6)
    in_two_processes(_train, job)
    whole = make_job("whole", batch_size=2)
    in_two_processes(_train, whole)
    first, second = (load_weights(one.folder / "weights.safetensors")[0] for one in (job, whole))
    for name, tensor in second.items():
        torch.testing.assert_close(first[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def test_a_time_budget_ends_both_at_once(make_job: MakeJob) -> None:
    job = make_job("timed", batch_size=2, time_budget_s=2.0)
    in_two_processes(_train, replace(job))
    assert (job.folder / "weights.safetensors").is_file()
