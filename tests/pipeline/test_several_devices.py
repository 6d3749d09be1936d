"""Folds in a queue on several devices, and one fold on several processes, as users start them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from autoseg.cli import plan_and_preprocess, train
from autoseg.core.heartbeat import NAME as RUNNING
from autoseg.io.weights import load_weights
from autoseg.phantoms import write_phantoms
from autoseg.training import read_log

pytestmark = pytest.mark.slow
NAME = "Dataset900_Tiny"
RECIPE = ["--planner", "small", "--recipe", "quick", "--iterations", "2", "--loaders", "0"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("devices")
    write_phantoms(top / "raw" / NAME, n_train=3, n_test=0, size="tiny")
    command = ["-d", "900", "--workspace", str(top), "--planner", "small", "-c", "3d_fullres"]
    assert plan_and_preprocess.main(command) == 0
    return top


def command(top: Path, results: str, *options: str) -> list[str]:
    return ["-d", "900", "--workspace", str(top), "--results", str(top / results), *RECIPE, *options]


def model(top: Path, results: str) -> Path:
    return top / results / NAME / "small__3d_fullres"


def started(argv: list[str]) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "autoseg", "train", *argv], **pipes)


def wait_until(condition: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_two_devices_share_three_folds_and_one_that_fails_stops_no_other(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = model(workspace, "queue")
    blocked = done / "fold_1"
    blocked.mkdir(parents=True)
    (blocked / RUNNING).write_text(json.dumps({"host": socket.gethostname(), "process": os.getppid()}))
    argv = command(workspace, "queue", "--epochs", "1", "--device", "cpu,cpu", "--json")
    assert train.main(argv) == 1
    facts = json.loads(capsys.readouterr().out)
    assert [fold for fold in ("fold_0", "fold_2") if facts[fold]["trained_now"]] == ["fold_0", "fold_2"]
    (problem,) = facts["problems"]
    assert problem["case"] == "fold_1"
    assert f"process {os.getppid()}" in problem["found"]
    assert "crossval_mean_dice" not in facts
    (blocked / RUNNING).unlink()
    assert train.main(argv) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [facts[f"fold_{i}"]["trained_now"] for i in range(3)] == [False, True, False]
    assert "crossval_mean_dice" in facts
    assert not [*done.rglob(RUNNING)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_or_killed_queue_leaves_the_state_of_every_fold(workspace: Path, number: int) -> None:
    results = f"stopped_{number}"
    # the state is saved at the end of an epoch, and when the process is told to end
    long = ["--epochs", "500", "--set", "save_every_minutes=60", "--device", "cpu,cpu"]
    running = started(command(workspace, results, *long))
    folds = [model(workspace, results) / f"fold_{i}" for i in (0, 1)]
    wait_until(lambda: all(len(read_log(fold / "log.jsonl")) > 0 for fold in folds))
    running.send_signal(number)
    assert running.wait(60) == (143 if number == signal.SIGTERM else -9)
    wait_until(lambda: not any((fold / RUNNING).exists() for fold in folds))
    for fold in folds:
        facts = load_weights(fold / "state_latest.safetensors")[1]
        assert facts["counters"]["epoch"] >= len(read_log(fold / "log.jsonl"))


PLUGIN = """
from autoseg.training.losses import losses, dice_ce
losses.register("of_a_plugin")(dice_ce)
"""


def test_a_plugin_reaches_the_processes_of_the_folds(workspace: Path) -> None:
    (workspace / "my_losses.py").write_text(PLUGIN)
    argv = command(workspace, "plugin", "--epochs", "1", "--device", "cpu,cpu", "-f", "0", "1")
    argv += ["--plugin", "my_losses", "--set", "loss=of_a_plugin", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(workspace)}
    done = subprocess.run(
        [sys.executable, "-m", "autoseg", "train", *argv], env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fold_1"]["trained_now"] is True


def test_one_fold_on_two_processes_speaks_with_one_voice(workspace: Path) -> None:
    argv = command(workspace, "together", "--epochs", "2", "--device", "cpu", "--gpus", "2", "-f", "0")
    running = started([*argv, "--json"])
    output, prose = running.communicate(timeout=180)
    assert running.returncode == 0, prose
    assert json.loads(output)["fold_0"]["trained_now"] is True
    fold = model(workspace, "together") / "fold_0"
    assert load_weights(fold / "weights.safetensors")[1]["processes"] == 2
    assert len(read_log(fold / "log.jsonl")) == 2
    assert (fold / "validation" / "summary.json").is_file()
    assert prose.count("validate fold 0 0/1") == 1
    assert prose.count("warning:") <= 1
    assert "Traceback" not in prose


def test_one_of_several_processes_ends_without_taking_the_interpreter_apart(workspace: Path) -> None:
    program = (
        "import atexit, os, sys; atexit.register(os.abort); from autoseg.cli import train; train.main(sys.argv[1:])"
    )
    argv = command(workspace, "wrong", "-f", "9")
    place = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "localhost"}
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        place["MASTER_PORT"] = str(listener.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-c", program, *argv, "--device", "cpu"],
        env={**os.environ, **place},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "there is no fold 9" in done.stderr


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(["-f", "9"], "there is no fold 9; choose from 0, 1, 2, all"), (["--set", "epoch=1"], "epoch")],
)
def test_a_wrong_call_of_several_processes_is_told_once(workspace: Path, wrong: list[str], words: str) -> None:
    running = started(command(workspace, "wrong", "--epochs", "2", "--device", "cpu", "--gpus", "2", *wrong))
    _, prose = running.communicate(timeout=120)
    assert running.returncode == 2
    (line,) = prose.strip().splitlines()
    assert words in line


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="there are enough GPUs")
def test_more_processes_than_gpus_are_refused(workspace: Path) -> None:
    running = started(command(workspace, "wrong", "--epochs", "2", "--gpus", "2", "-f", "0"))
    _, prose = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "2 processes need as many GPUs" in prose
    assert "Traceback" not in prose


def test_one_fold_on_two_processes_is_stopped_with_its_state_saved(workspace: Path) -> None:
    running = started(command(workspace, "halted", "--epochs", "500", "--device", "cpu", "--gpus", "2", "-f", "0"))
    log = model(workspace, "halted") / "fold_0" / "log.jsonl"
    wait_until(lambda: len(read_log(log)) > 0)
    running.send_signal(signal.SIGTERM)
    _, prose = running.communicate(timeout=60)
    assert running.returncode == 143
    assert prose.count("with the state of training saved") == 1
    assert load_weights(log.parent / "state_latest.safetensors")[1]["counters"]["epoch"] >= 1
    assert os.path.isfile(log.parent / "recipe.json")
