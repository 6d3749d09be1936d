"""A fold trained in one go, interrupted, killed and resumed: the same weights to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.core.errors import DataError, DeviceError, Interrupted, UsageError
from autoseg.core.plan import Plan
from autoseg.core.recipe import Recipe
from autoseg.core.splits import Split
from autoseg.io.case_store import CaseStore
from autoseg.io.weights import load_weights, save_weights
from autoseg.nets.build import build_network
from autoseg.training import FoldJob, check_fold, pretrained_file, read_log, train_fold
from autoseg.training.run import MAX_SKIPPED, Diverged, Run

MakePlan = Callable[..., Plan]
MakeJob = Callable[..., FoldJob]
LABELS = {"background": 0, "left_blob": 1, "right_blob": 2}
RECIPE = Recipe(
    epochs=3,
    iterations=4,
    val_iterations=2,
    learning_rate=0.02,
    momentum=0.9,
    precision="float32",
    deterministic=True,
    save_every_minutes=1e-9,  # after every step
)
STATE = "state_latest.safetensors"


class Killed(Exception):  # noqa: N818
    """What ends a run in these tests as abruptly as a kill, between two steps."""


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Sums depend on the number of threads; tests that compare bits across processes fix it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def make_job(tmp_path: Path, make_plan: MakePlan, make_store: Callable[..., Path], toy_fold: MakeJob) -> MakeJob:
    """A job on four toy cases, in the folder `name`; keywords change the recipe or replace the plan."""
    stores: dict[str, Path] = {}

    def build(name: str = "fold_0", *, plan: Plan | None = None, loaders: int = 0, **changes: Any) -> FoldJob:
        pairs = [("left_blob", "right_blob")]
        plan = plan or make_plan(labels=LABELS, mirror_axes=[0, 1, 2], mirror_label_pairs=pairs)
        if not stores:
            stores["store"] = make_store(plan)
        return toy_fold(plan, stores["store"], tmp_path / name, RECIPE.with_changes(**changes), loaders=loaders)

    return build


def kill_at(step: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, text: str) -> None:
        if done == step:
            raise Killed

    return progress


def weights_of(folder: Path, name: str = "weights") -> dict[str, torch.Tensor]:
    return load_weights(folder / f"{name}.safetensors")[0]


def results_of(folder: Path) -> list[dict]:
    """The log without what depends on the clock."""
    clock = ("seconds", "images_per_second", "data_wait_share")
    return [{k: v for k, v in row.items() if k not in clock} for row in read_log(folder / "log.jsonl")]


def assert_same_result(folder: Path, expected: Path) -> None:
    assert results_of(folder) == results_of(expected)
    for name in ("weights", "weights_best"):
        found, wanted = weights_of(folder, name), weights_of(expected, name)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_fold_leaves_weights_log_and_recipe(make_job: MakeJob) -> None:
    job = make_job()
    steps: list[int] = []
    assert train_fold(job, progress=lambda done, total, text: steps.append(done))
    assert steps == list(range(1, 13))
    assert Recipe.read(job.folder / "recipe.json") == job.recipe
    lines = (job.folder / "log.jsonl").read_text().splitlines()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert len(row["pseudo_dice"]) == 2
        assert row["seconds"] > 0
        assert row["images_per_second"] > 0
        assert 0 <= row["data_wait_share"] <= 1
    spec = job.plan.configuration("small").network
    for name in ("weights", "weights_best"):
        tensors, facts = load_weights(job.folder / f"{name}.safetensors")
        build_network(spec, n_channels=1, n_outputs=3).load_state_dict(tensors)
        assert (facts["train"], facts["val"], facts["configuration"]) == (["a", "b", "c"], ["d"], "small")
        assert Recipe(**facts["recipe"]) == job.recipe
    assert load_weights(job.folder / "weights.safetensors")[1]["epoch"] == 3
    assert not [path for path in job.folder.iterdir() if path.name.startswith(".")]


def test_a_finished_fold_is_left_alone(make_job: MakeJob) -> None:
    job = make_job(epochs=1)
    assert train_fold(job)
    before = {path: path.stat().st_mtime_ns for path in job.folder.iterdir()}
    assert not train_fold(job)
    assert {path: path.stat().st_mtime_ns for path in job.folder.iterdir()} == before


def test_a_simple_task_is_learnt(make_job: MakeJob, make_plan: MakePlan) -> None:
    plan = make_plan(patch_size=(12, 12, 12), batch_dice=True)
    job = make_job(plan=plan, epochs=6, iterations=15, learning_rate=0.05, augmentation=False)
    train_fold(job)
    rows = read_log(job.folder / "log.jsonl")
    losses = [row["train_loss"] for row in rows]
    assert losses[-1] < losses[0] - 0.5
    assert rows[-1]["val_loss"] < -0.9
    assert rows[-1]["pseudo_dice_mean"] > 0.9


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_average": 0.9, "warmup_steps": 5, "schedule": "cosine"},
        {"optimizer": "adamw", "learning_rate": 1e-3, "augmentation": False},
        {"optimizer": "muon", "momentum": 0.95, "learning_rate": 0.05, "class_balance": True, "weight_average": 0.9},
    ],
    ids=["sgd", "averaged", "adamw", "muon and fading balance"],
)
def test_a_resumed_fold_ends_with_the_same_bits(make_job: MakeJob, changes: dict) -> None:
    whole, broken = make_job("whole", **changes), make_job("broken", **changes)
    train_fold(whole)
    for step in (2, 5, 7, 12):
        with pytest.raises(Killed):
            train_fold(broken, progress=kill_at(step))
    train_fold(broken)
    assert_same_result(broken.folder, whole.folder)


def test_a_state_between_two_saves_is_trained_again(make_job: MakeJob) -> None:
    whole, broken = make_job("whole", save_every_minutes=60), make_job("broken", save_every_minutes=60)
    train_fold(whole)
    with pytest.raises(Killed):
        train_fold(broken, progress=kill_at(7))
    assert load_weights(broken.folder / STATE)[1]["counters"]["epoch"] == 1
    seen: list[int] = []
    train_fold(broken, progress=lambda done, total, text: seen.append(done))
    assert seen[0] == 5
    assert_same_result(broken.folder, whole.folder)


def test_rows_of_an_epoch_that_is_repeated_are_dropped(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = make_job("whole", epochs=2), make_job("broken", epochs=2)
    train_fold(whole)
    save = Run.save

    def die_after_the_epoch(run: Run, path: Path, **facts: Any) -> None:
        if run.at.epoch == 1:
            raise Killed
        save(run, path, **facts)

    monkeypatch.setattr(Run, "save", die_after_the_epoch)
    with pytest.raises(Killed):
        train_fold(broken)
    monkeypatch.undo()
    assert len(read_log(broken.folder / "log.jsonl")) == 1
    train_fold(broken)
    assert_same_result(broken.folder, whole.folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_state_and_interrupts(make_job: MakeJob, number: int) -> None:
    whole, broken = make_job("whole"), make_job("broken", save_every_minutes=60)
    train_fold(replace(whole, recipe=broken.recipe))
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(Interrupted) as caught:
        train_fold(broken, progress=lambda done, total, text: os.kill(os.getpid(), number))
    assert caught.value.signal == number
    counters = load_weights(broken.folder / STATE)[1]["counters"]
    assert (counters["epoch"], counters["iteration"]) == (0, 1)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    train_fold(broken)
    assert_same_result(broken.folder, whole.folder)


def test_a_signal_in_the_last_validation_interrupts_a_finished_fold(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, validate = make_job(epochs=1), Run.validate

    def signalled(run: Run, *args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(run, *args)

    monkeypatch.setattr(Run, "validate", signalled)
    with pytest.raises(Interrupted):
        train_fold(job)
    assert not train_fold(job)


def test_a_second_signal_ends_at_once(make_job: MakeJob) -> None:
    def twice(done: int, total: int, text: str) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_fold(make_job(), progress=twice)


def test_another_recipe_is_refused_by_the_names_of_what_changed(make_job: MakeJob) -> None:
    job = make_job(epochs=1)
    train_fold(job)
    before = (job.folder / "recipe.json").read_bytes()
    other = make_job(epochs=1, momentum=0.5, seed=3)
    with pytest.raises(UsageError, match=r"momentum 0\.9 -> 0\.5, seed 0 -> 3\)") as caught:
        train_fold(other)
    assert "epochs" not in str(caught.value)
    assert (job.folder / "recipe.json").read_bytes() == before
    (job.folder / "recipe.json").unlink()  # the saved state knows its recipe, too
    with pytest.raises(UsageError, match=r"momentum 0\.9 -> 0\.5"):
        train_fold(other)


def test_other_cases_images_or_plans_are_refused(make_job: MakeJob, make_plan: MakePlan) -> None:
    job = make_job(epochs=1)
    with pytest.raises(Killed):
        train_fold(job, progress=kill_at(3))
    others = [
        replace(job, split=Split(train=["a", "b"], val=["d"])),
        replace(job, split=Split(train=["a", "b", "d"], val=["c"])),
        replace(job, plan=make_plan(labels=LABELS, batch_size=3)),
        replace(job, plan=make_plan(labels=LABELS, mirror_axes=[0, 1, 2])),
    ]
    for finished in (False, True):
        for other in others:
            with pytest.raises(UsageError, match=r"another plan|other cases"):
                train_fold(other)
        if not finished:
            assert train_fold(job)
    text = (job.store / "b.json").read_text()
    (job.store / "b.json").write_text(text.replace("made by hand", "made from another image"))
    with pytest.raises(UsageError, match="other images"):
        train_fold(job)
    (job.store / "b.json").write_text(text)
    explained = job.plan.model_dump()
    explained["configurations"]["small"]["reasons"] = {"patch_size": "better words"}
    assert not train_fold(replace(job, plan=Plan(**explained)))


def test_a_finished_fold_can_be_trained_for_longer(make_job: MakeJob) -> None:
    short, longer = make_job(epochs=1), make_job(epochs=2)
    train_fold(short)
    first = weights_of(short.folder)
    with pytest.raises(Killed):
        train_fold(longer, progress=kill_at(6))
    assert all(torch.equal(weights_of(short.folder)[key], first[key]) for key in first)
    assert train_fold(longer)
    assert not all(torch.equal(weights_of(short.folder)[key], first[key]) for key in first)
    assert len(read_log(longer.folder / "log.jsonl")) == 2
    assert not train_fold(longer)


def test_a_finished_fold_without_its_state_is_not_begun_anew(make_job: MakeJob) -> None:
    job = make_job(epochs=1)
    train_fold(job)
    (job.folder / "state_latest.safetensors").unlink()
    before = (job.folder / "weights.safetensors").read_bytes()
    assert not train_fold(job)
    with pytest.raises(UsageError, match=r"state_latest\.safetensors is gone"):
        train_fold(make_job(epochs=2))
    assert (job.folder / "weights.safetensors").read_bytes() == before


def test_a_fold_of_which_nothing_is_kept_may_be_begun_with_other_settings(make_job: MakeJob) -> None:
    job = make_job(epochs=1)
    job.folder.mkdir(parents=True)
    job.recipe.with_changes(seed=9).write(job.folder / "recipe.json")
    assert train_fold(job)


def test_a_signal_ends_a_training_whose_weights_are_not_finite(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(self: Run, path: Path, *, facts: dict) -> None:
        raise Diverged("the weights are not finite")

    def stop(done: int, total: int, text: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "save", diverge)
    with pytest.raises(Interrupted):
        train_fold(make_job(), progress=stop)


def test_damaged_weights_without_a_state_are_not_to_be_deleted(make_job: MakeJob) -> None:
    job = make_job(epochs=1)
    train_fold(job)
    path = job.folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="delete it: it is written again"):
        train_fold(job)
    (job.folder / STATE).unlink()
    with pytest.raises(DataError, match="put a copy of it there"):
        train_fold(job)


def test_weights_that_are_not_finite_are_never_saved(make_job: MakeJob, tmp_path: Path) -> None:
    run, _ = one_run(make_job())
    with torch.no_grad():
        next(run.network.parameters()).fill_(float("inf"))
    with pytest.raises(Diverged, match="not finite any more; train with a smaller learning rate"):
        run.save(tmp_path / "state.safetensors", facts={})
    assert not (tmp_path / "state.safetensors").exists()


def test_a_damaged_state_is_refused(make_job: MakeJob) -> None:
    job = make_job()
    with pytest.raises(Killed):
        train_fold(job, progress=kill_at(2))
    path = job.folder / STATE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=STATE):
        train_fold(job)


def test_a_lost_case_is_named_before_anything_is_trained(make_job: MakeJob) -> None:
    job = make_job()
    (job.store / "c.json").unlink()
    with pytest.raises(DataError, match=r"c\.json"):
        train_fold(job)
    assert not job.folder.exists()


def test_a_loss_that_is_not_finite_is_logged_as_null(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "validate", lambda run, *args: (float("nan"), [None, None]))
    job = make_job(epochs=1)
    train_fold(job)
    (row,) = read_log(job.folder / "log.jsonl")
    assert row["val_loss"] is None
    assert row["pseudo_dice_mean"] == 0


def one_run(job: FoldJob) -> tuple[Run, dict[str, Any]]:
    """A run after one good step, and a batch for it."""
    from autoseg.training.fold import _prepare
    from autoseg.training.sampling import read_batch

    run, crops, _ = _prepare(job)
    run.train_step(read_batch(crops, 0))
    return run, read_batch(crops, 1)


def everything(run: Run) -> list[torch.Tensor]:
    momentum = [t for state in run.optimizer.state_dict()["state"].values() for t in state.values()]
    return [t.clone() for t in (*run.network.state_dict().values(), *run.average.values(), *momentum)]


def test_a_step_without_finite_gradient_changes_nothing(make_job: MakeJob) -> None:
    run, batch = one_run(make_job(weight_average=0.9))
    before, loss = everything(run), run.at.loss_sum
    broken = {**batch, "image": np.full_like(batch["image"], np.inf)}
    run.train_step(broken)
    assert all(torch.equal(a, b) for a, b in zip(everything(run), before, strict=True))
    assert (run.at.loss_sum, run.at.n_losses, run.at.skipped, run.at.iteration) == (loss, 1, 1, 2)
    assert run.at.train_loss == loss
    run.train_step(batch)
    assert run.at.skipped == 0
    assert not all(torch.equal(a, b) for a, b in zip(everything(run), before, strict=True))


def test_too_many_such_steps_end_the_training_with_advice(make_job: MakeJob) -> None:
    run, batch = one_run(make_job())
    broken = {**batch, "image": np.full_like(batch["image"], np.nan)}
    for _ in range(MAX_SKIPPED):
        run.train_step(broken)
    with pytest.raises(DeviceError, match=r"crops of [abc].*--set learning_rate=0\.002"):
        run.train_step(broken)


def poisoned(monkeypatch: pytest.MonkeyPatch, *, while_factor_above: float) -> None:
    """From step 5 on images are not finite as long as the learning rate has its old size."""
    to_device = Run._to_device

    def poison(run: Run, batch: dict[str, Any]) -> Any:
        image, label = to_device(run, batch)
        bad = run.step_number >= 5 and run.at.rate_factor > while_factor_above
        return (image * float("nan") if bad else image), label

    monkeypatch.setattr(Run, "_to_device", poison)


@pytest.mark.parametrize("save_every_minutes", [1e-9, 5.0])
def test_a_training_that_diverges_is_taken_back_and_goes_on_slower(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, save_every_minutes: float
) -> None:
    poisoned(monkeypatch, while_factor_above=0.3)
    job = make_job(epochs=5, save_every_minutes=save_every_minutes)
    assert train_fold(job)
    rows = read_log(job.folder / "log.jsonl")
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[-1]["learning_rate"] == pytest.approx(0.25 * 0.02 * (1 - 19 / 20) ** 0.9)
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(job.folder).values())
    assert "step 5 was skipped: no finite gradient from crops of" in caplog.text
    went_on = 5 if save_every_minutes < 1 else 4
    assert f"going on from step {went_on} with 0.5 times the learning rate" in caplog.text
    assert f"going on from step {went_on} with 0.25 times the learning rate" in caplog.text


def test_a_training_that_diverges_however_slow_ends_with_advice(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, while_factor_above=0.0)
    with pytest.raises(DeviceError, match="look at these images"):
        train_fold(make_job(epochs=5))


def test_the_average_follows_the_weights_and_is_what_is_saved(make_job: MakeJob, tmp_path: Path) -> None:
    run, batch = one_run(make_job(weight_average=0.9))
    live = {name: p.detach().clone() for name, p in run.network.named_parameters()}
    average = {name: p.clone() for name, p in run.average.items()}
    run.train_step(batch)
    decay = min(0.9, (1 + 1) / (10 + 1))
    for name, parameter in run.network.named_parameters():
        expected = decay * average[name] + (1 - decay) * parameter
        torch.testing.assert_close(run.average[name], expected)
    after = {name: p.detach().clone() for name, p in run.network.named_parameters()}
    assert not all(torch.equal(live[name], after[name]) for name in live)
    run.save_weights(tmp_path / "w.safetensors", facts={})
    saved = load_weights(tmp_path / "w.safetensors")[0]
    assert all(torch.equal(saved[name], run.average[name]) for name in after)
    assert all(torch.equal(p, after[name]) for name, p in run.network.named_parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"patch_size": (8, 8), "labels": LABELS},
        {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": (1, 2)},
        {"labels": LABELS, "normalization": ("none", "zscore"), "use_mask": True, "batch_dice": True},
        {"patch_size": (4, 16, 16), "labels": LABELS},
    ],
    ids=["2d", "regions and ignore", "two channels", "anisotropic"],
)
def test_all_kinds_of_plans_train(make_job: MakeJob, make_plan: MakePlan, options: dict) -> None:
    job = make_job(plan=make_plan(**options), epochs=1)
    assert train_fold(job)
    (row,) = read_log(job.folder / "log.jsonl")
    assert np.isfinite(row["train_loss"])
    assert np.isfinite(row["val_loss"])


CHILD = """
import json, sys
from pathlib import Path
import torch
from autoseg.core.plan import Plan
from autoseg.core.recipe import Recipe
from autoseg.core.splits import Split
from autoseg.core.errors import Interrupted
from autoseg.training import FoldJob, train_fold

torch.set_num_threads(1)
folder = Path(sys.argv[1])
job = FoldJob(store=Path(sys.argv[2]), plan=Plan.read(folder / "plan.json"), configuration="small",
              recipe=Recipe.read(folder / "wanted.json"), split=Split(train=["a", "b", "c"], val=["d"]),
              folder=folder / "fold_0", device=torch.device("cpu"), loaders=int(sys.argv[3]))
try:
    train_fold(job, progress=lambda done, total, text: print(done, flush=True))
except Interrupted as error:
    print("interrupted", error.signal, flush=True)
"""


def start_child(folder: Path, job: FoldJob, *, loaders: int) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    job.plan.write(folder / "plan.json")
    job.recipe.write(folder / "wanted.json")
    command = [sys.executable, "-c", CHILD, str(folder), str(job.store), str(loaders)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.slow
def test_a_fold_killed_at_random_moments_ends_with_the_same_bits(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("whole", epochs=4, weight_average=0.5)
    train_fold(job)
    seed = random.SystemRandom().randrange(10_000)
    rng = random.Random(seed)
    print(f"seed of the moments: {seed}")
    for loaders in (0, 2):
        child = start_child(tmp_path / "broken", job, loaders=loaders)
        assert child.stdout is not None
        for _ in range(rng.randint(1, 5)):
            child.stdout.readline()
        time.sleep(rng.uniform(0, 0.2))
        child.kill()
        child.wait()
    assert (tmp_path / "broken" / "fold_0" / STATE).is_file()
    train_fold(replace(job, folder=tmp_path / "broken" / "fold_0"))
    assert_same_result(tmp_path / "broken" / "fold_0", job.folder)


@pytest.mark.slow
def test_a_signal_to_the_whole_process_group_saves_the_state(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("whole", save_every_minutes=60, epochs=50)
    child = start_child(tmp_path / "broken", job, loaders=2)
    assert child.stdout is not None
    for _ in range(3):
        child.stdout.readline()
    os.killpg(child.pid, signal.SIGTERM)
    lines = child.stdout.read().split("\n")
    assert child.wait(timeout=60) == 0
    assert lines[-2] == f"interrupted {signal.SIGTERM.value}"
    counters = load_weights(tmp_path / "broken" / "fold_0" / STATE)[1]["counters"]
    assert counters["epoch"] * RECIPE.iterations + counters["iteration"] >= 3


def test_the_store_is_only_read(make_job: MakeJob) -> None:
    job = make_job(epochs=1)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in job.store.iterdir()}
    train_fold(job)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in job.store.iterdir()} == before
    assert CaseStore(job.store).case_ids() == ["a", "b", "c", "d"]


def test_a_longer_training_goes_on_where_the_rate_was(make_job: MakeJob) -> None:
    train_fold(make_job(epochs=2))
    longer = make_job(epochs=6)
    assert train_fold(longer)
    rates = [row["learning_rate"] for row in read_log(longer.folder / "log.jsonl")]
    assert len(rates) == 6
    own = 0.02 * (1 - np.array([7, 11, 15, 19, 23]) / 24) ** 0.9  # of the last step of each epoch, six epochs planned
    assert rates[0] == pytest.approx(0.02 * (1 - 3 / 8) ** 0.9)
    assert rates[1] == pytest.approx(0.02 * (1 - 7 / 8) ** 0.9)
    assert rates[2:] == pytest.approx(own[1:].tolist())
    state = load_weights(longer.folder / STATE)[1]["counters"]
    assert (state["bend_step"], state["bend_rate"]) == (8, pytest.approx(rates[1]))


def test_a_time_budget_ends_training_in_time_and_is_kept_over_a_stop(make_job: MakeJob) -> None:
    job = make_job(time_budget_s=2.0, epochs=1)
    with pytest.raises(Killed):
        train_fold(job, progress=kill_at(1))
    spent = load_weights(job.folder / STATE)[1]["counters"]["trained_s"]
    assert 0.9 < spent < 2.0
    started = time.monotonic()
    assert train_fold(job)
    assert time.monotonic() - started < 6
    rows = read_log(job.folder / "log.jsonl")
    assert len(rows) > 1
    assert rows[-1]["learning_rate"] < 0.1 * rows[0]["learning_rate"]
    assert not train_fold(job)
    with pytest.raises(UsageError, match="learning_rate"):
        train_fold(make_job(time_budget_s=2.0, learning_rate=0.5))


def test_class_weights_name_labels(make_job: MakeJob) -> None:
    job = make_job(epochs=1, class_weights={"left_blob": 3.0})
    assert train_fold(job)
    with pytest.raises(UsageError, match=r"no label 'left_blab'; did you mean 'left_blob'"):
        check_fold(make_job("other", class_weights={"left_blab": 3.0}))


def test_a_new_fold_begins_with_the_weights_of_another_but_its_own_heads(
    make_job: MakeJob, make_plan: MakePlan, tmp_path: Path
) -> None:
    train_fold(make_job("fold_1", epochs=1))
    trained = pretrained_file(tmp_path)
    assert trained == tmp_path / "fold_1" / "weights.safetensors" == pretrained_file(trained)
    assert trained == pretrained_file(tmp_path / "fold_1")
    job = replace(make_job("new", epochs=1, learning_rate=1e-12, weight_decay=0.0), pretrained=trained)
    train_fold(job)
    found, begun, scratch = weights_of(job.folder), load_weights(trained)[0], make_job("scratch", epochs=1)
    train_fold(replace(scratch, recipe=job.recipe))
    for name, tensor in found.items():
        same_as = weights_of(scratch.folder) if name.startswith("heads.") else begun
        torch.testing.assert_close(tensor, same_as[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(Killed):
        train_fold(make_job("late"), progress=kill_at(2))
    train_fold(replace(make_job("late"), pretrained=trained))  # what is under way goes on as it began
    train_fold(make_job("plain"))
    assert_same_result(tmp_path / "late", tmp_path / "plain")


def test_weights_of_another_network_are_refused(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(epochs=1)
    with pytest.raises(UsageError, match="no results folder with a finished fold"):
        pretrained_file(tmp_path)
    train_fold(job)
    tensors, facts = load_weights(job.folder / "weights.safetensors")
    name = "encoder.0.layers.0.weight"
    save_weights(tmp_path / "other.safetensors", {**tensors, name: tensors[name][:1]}, facts=facts)
    with pytest.raises(UsageError, match=rf"another network \({name}"):
        train_fold(replace(make_job("new"), pretrained=tmp_path / "other.safetensors"))


def test_a_profile_names_the_parts_of_the_first_epoch_and_changes_nothing(
    make_job: MakeJob, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    train_fold(make_job("plain"))
    train_fold(replace(make_job("watched"), profile=True))
    assert_same_result(tmp_path / "watched", tmp_path / "plain")
    found = json.loads((tmp_path / "watched" / "profile.json").read_text())
    assert found["steps"] == 4
    parts = ["data wait", "to device", "augment", "forward", "loss", "backward", "update", "validation"]
    assert [*found["seconds"]] == parts
    first = read_log(tmp_path / "watched" / "log.jsonl")[0]
    assert 0.8 * first["seconds"] < sum(found["seconds"].values()) < 1.3 * first["seconds"]
    assert "watched: an epoch of 4 steps" in caplog.text
    assert not (tmp_path / "plain" / "profile.json").exists()


def test_a_fold_knows_what_its_cases_were_annotated_for(make_job: MakeJob) -> None:
    partly = replace(make_job("partly", epochs=1), annotated_classes={"a": ("left_blob",), "elsewhere": ("x",)})
    train_fold(partly)
    fully = make_job("fully", epochs=1)
    train_fold(fully)
    first, second = weights_of(partly.folder), weights_of(fully.folder)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    assert not train_fold(partly)  # finished
    with pytest.raises(UsageError, match="other cases or other images"):
        train_fold(replace(partly, annotated_classes={}))
    assert not train_fold(replace(fully, annotated_classes={"elsewhere": ("x",)}))  # says nothing of its cases
