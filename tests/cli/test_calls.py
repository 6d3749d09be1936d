"""Wrong calls, help and exit codes of the commands; nothing here trains."""

from __future__ import annotations

import errno
import importlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoseg.cli.main import COMMANDS

LABELS = {"background": 0, "thing": 1}
DATASET = {"channel_names": {"0": "CT"}, "labels": LABELS, "numTraining": 1, "file_ending": ".nii.gz"}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    raw = tmp_path / "raw" / "Dataset007_Thing"
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for file in ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"):
        (raw / file).write_bytes(b"never opened here")
    (raw / "dataset.json").write_text(json.dumps(DATASET))
    return tmp_path


def call(command: str, *argv: str) -> int:
    main = importlib.import_module(f"autoseg.cli.{command}").main
    return int(main([str(a) for a in argv]))


@pytest.mark.parametrize("command", ["plan_and_preprocess", "train", "predict"])
def test_help_answers_in_under_0_3_seconds(command: str) -> None:
    code = f"import sys; sys.argv = ['x', '--help']; from autoseg.cli.{command} import main; main()"
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # processor time, which unlike the clock does not depend on what else the machine is doing
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        assert "usage:" in done.stdout
    assert min(times) < 0.3, times


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_its_options(command: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        call(command, "--help")
    assert end.value.code == 0
    assert f"autoseg_{command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "argv", "word"),
    [
        ("plan_and_preprocess", ["-d", "8"], "Dataset007_Thing"),
        ("train", ["-d", "7"], "autoseg_plan_and_preprocess"),
        ("train", ["-d", "7", "--set", "learning_rat=1"], "learning_rate"),
        ("train", ["-d", "7", "--set", "learning_rate=fast"], "learning_rate"),
        ("train", ["-d", "7", "--recipe", "quik"], "quick"),
        ("train", ["-d", "7", "--set", "epochs=0"], "epochs"),
        ("train", ["-d", "7", "--set", "epochs=5", "--epochs", "6"], "given twice"),
        ("train", ["-d", "7", "--set", "momentum=0.5", "momentum=0.6"], "given twice"),
        ("train", ["-d", "7", "--planner", "resenc_m"], "--planner resenc_m first"),
        ("train", ["-d", "7", "--planner", "smal"], "did you mean 'small'"),
        ("train", ["-d", "7", "--plugin", "no.such.module"], "no.such.module"),
        ("train", ["-d", "7", "--plugin", "autoseg_test_broken_plugin"], "ZeroDivisionError"),
        ("plan", ["-d", "7"], "autoseg_extract_fingerprint"),
    ],
)
def test_wrong_calls_end_with_2_and_name_the_way_out(
    workspace: Path, command: str, argv: list[str], word: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "autoseg_test_broken_plugin.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(workspace))
    assert call(command, *argv, "--workspace", workspace) == 2
    printed = capsys.readouterr()
    assert word in printed.err
    assert "Traceback" not in printed.err + printed.out


@pytest.mark.parametrize("number", ["0", "-5", "many"])
def test_numbers_that_are_none_are_refused_while_parsing(number: str, capsys: Any) -> None:
    for option in ("--epochs", "--iterations"):
        with pytest.raises(SystemExit) as end:
            call("train", "-d", "7", option, number)
        assert end.value.code == 2
        assert option in capsys.readouterr().err


@pytest.mark.parametrize("text", ["4", "h", "-4h", "0h", "nanh", "4w", ""])
def test_times_that_are_none_are_refused_while_parsing(text: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        call("train", "-d", "7", f"--time_budget={text}")
    assert end.value.code == 2
    assert "write 90s, 45m, 4h or 2d" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "begun", "expected"),
    [
        (["--time_budget", "4h"], None, ("default", None, 14400.0)),
        (["--time_budget", "90m"], None, ("quick", None, 5400.0)),
        (["--time_budget", "0.5d"], "quick", ("quick", None, 43200.0)),
        (["--epochs", "7"], "timed", ("timed", 7, None)),
        ([], "timed", ("timed", None, 60.0)),
    ],
)
def test_a_time_budget_stands_for_epochs(
    argv: list[str],
    begun: str | None,
    expected: tuple[str, int | None, float | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from autoseg.cli import train
    from autoseg.core.recipe import RECIPES, Recipe

    known = {**RECIPES, "timed": Recipe(name="timed", time_budget_s=60.0)}
    if begun is not None:
        known[begun].write(tmp_path / "fold_2" / "recipe.json")
        known["long"].write(tmp_path / "fold_1_old" / "recipe.json")  # moved aside
    seen: list[Any] = []
    monkeypatch.setattr(train, "run", lambda parser, act, argv: seen.append(parser.parse_args(argv)) or 0)
    train.main(["-d", "7", *argv])
    recipe = train._recipe(seen[0], tmp_path)
    assert (recipe.name, *recipe.length) == expected


@pytest.mark.parametrize(
    ("argv", "begun", "expected"),
    [
        ([], None, ("default", 1000, 250)),
        (["--epochs", "8", "--iterations", "50"], None, ("quick", 8, 50)),
        (["--epochs", "39"], None, ("quick", 39, 250)),
        (["--epochs", "40"], None, ("default", 40, 250)),
        (["--set", "epochs=5"], None, ("quick", 5, 250)),
        (["--recipe", "default", "--epochs", "5"], None, ("default", 5, 250)),
        (["--epochs", "60"], "quick", ("quick", 60, 50)),
        (["--recipe", "quick"], "default", ("quick", 20, 50)),
    ],
)
def test_the_recipe_follows_the_budget_and_what_was_begun(
    argv: list[str], begun: str | None, expected: tuple[str, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autoseg.cli import train
    from autoseg.core.recipe import RECIPES

    if begun is not None:
        RECIPES[begun].write(tmp_path / "fold_2" / "recipe.json")
    seen: list[Any] = []
    monkeypatch.setattr(train, "run", lambda parser, act, argv: seen.append(parser.parse_args(argv)) or 0)
    train.main(["-d", "7", *argv])
    recipe = train._recipe(seen[0], tmp_path)
    assert (recipe.name, recipe.epochs, recipe.iterations) == expected


def test_a_switch_that_was_not_given_may_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoseg.cli import train

    seen: list[Any] = []
    monkeypatch.setattr(train, "run", lambda parser, act, argv: seen.append(parser.parse_args(argv)) or 0)
    train.main(["-d", "7", "--set", "deterministic=true"])
    assert train._recipe(seen[0], tmp_path).deterministic


def test_each_fold_that_was_begun_keeps_its_own_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoseg.cli import train
    from autoseg.core.recipe import RECIPES

    for fold, epochs in ((0, 2), (1, 40)):
        RECIPES["quick"].with_changes(epochs=epochs).write(tmp_path / f"fold_{fold}" / "recipe.json")
    seen: list[Any] = []
    monkeypatch.setattr(train, "run", lambda parser, act, argv: seen.append(parser.parse_args(argv)) or 0)
    for words in ([], ["--seed", "3"], ["--epochs", "7"], ["--recipe", "long"]):
        train.main(["-d", "7", *words])
    kept, seeded, longer, other = (train._begun(args, tmp_path) for args in seen)
    assert {fold: recipe.epochs for fold, recipe in kept.items()} == {"0": 2, "1": 40}
    assert {(recipe.seed, recipe.epochs) for recipe in seeded.values()} == {(3, 2), (3, 40)}
    assert {recipe.epochs for recipe in longer.values()} == {7}
    assert other == {}


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "no space left on this disk; free some"),
        (errno.EROFS, "cannot be written; give another folder"),
        (errno.EIO, "check the path and the disk"),
    ],
)
def test_what_a_disk_refuses_is_told_in_words(number: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    import argparse

    from autoseg.cli.run import run

    def act(args: argparse.Namespace) -> Any:
        raise OSError(number, os.strerror(number), "/data/results")

    parser = argparse.ArgumentParser()
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--json", action="store_true")
    assert run(parser, act, []) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.startswith("/data/results: ")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["-i", "IN", "-o", "IN"], "input folder"),
        (["-i", "IN", "-o", "OUT", "--step", "0"], "--step"),
        (["-i", "IN", "-o", "OUT", "--part", "4/4"], "--part"),
        (["-i", "IN", "-o", "OUT"], "model.json"),
        (["-i", "IN", "-o", "OUT", "-d", "7"], "-d"),
        (["-i", "IN", "-o", "OUT", "--device", "gpu"], "--device"),
    ],
)
def test_wrong_predict_calls_do_nothing(workspace: Path, argv: list[str], word: str, capsys: Any) -> None:
    folders = {"IN": str(workspace / "raw"), "OUT": str(workspace / "out")}
    assert call("predict", "-m", workspace / "model", *(folders.get(a, a) for a in argv)) == 2
    assert word in capsys.readouterr().err
    assert not (workspace / "out").exists()


def test_a_broken_dataset_json_ends_with_1_and_its_line(workspace: Path, capsys: Any) -> None:
    path = workspace / "raw" / "Dataset007_Thing" / "dataset.json"
    path.write_text(json.dumps({**DATASET, "file_ending": ".jpg"}, indent=1))
    assert call("plan_and_preprocess", "-d", "7", "--workspace", workspace) == 1
    printed = capsys.readouterr().err
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if "file_ending" in text)
    assert f"(line {line})" in " ".join(printed.split())


def test_json_errors_are_one_object(workspace: Path, capsys: Any) -> None:
    assert call("train", "-d", "7", "--workspace", workspace, "--json") == 2
    assert "error" in json.loads(capsys.readouterr().out)


def test_an_unknown_command_names_the_nearest(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoseg.cli.main import main

    monkeypatch.setattr(sys, "argv", ["autoseg", "trian"])
    assert main() == 2
    assert "'train'" in capsys.readouterr().err
