from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys

import numpy as np
import pytest

from autoseg.cli.status import main
from autoseg.cli.train import _recipe
from autoseg.core.recipe import RECIPES, Recipe
from autoseg.io.case_store import CaseMeta, CaseStore


def folds_of(world, call, configuration="small"):
    code, printed, _ = call(main, *world.where, "--json")
    assert code == 0
    found = {one["configuration"]: one for one in json.loads(printed)["configurations"]}
    return {fold["fold"]: fold for fold in found[configuration]["folds"]}


def test_nothing_planned_names_the_first_command(world, call):
    (world.top / "preprocessed" / "Dataset900_Toy" / "plans" / "hand.json").unlink()
    code, printed, _ = call(main, *world.where)
    assert code == 0
    assert f"autoseg_plan_and_preprocess -d 900 --workspace {world.top}" in printed


def test_preprocessed_cases_are_counted_and_the_missing_ones_asked_for(world, call):
    store = CaseStore(world.top / "preprocessed" / "Dataset900_Toy" / "hand__small")
    for case in ("case_0", "case_3", "of_another_time"):
        store.write(
            case,
            image=np.zeros((1, 4, 4, 4), np.float32),
            label=np.zeros((4, 4, 4), np.int16),
            locations={},
            meta=CaseMeta(key="x"),
            patch_size=(4, 4, 4),
        )
    _, printed, _ = call(main, *world.where)
    where = f"-d 900 --workspace {world.top}"
    small = f"hand__small: 2 of 6 cases preprocessed: autoseg_preprocess {where} -c small --planner hand"
    assert small in printed.splitlines()
    assert f"  no fold is begun: autoseg_train {where} -c small --planner hand" in printed.splitlines()
    assert "hand__coarse: 0 of 6 cases preprocessed" in printed


def test_each_fold_tells_its_epochs_its_state_and_what_continues_it(world, call):
    world.add_fold("small", 0, np.copy)
    world.begin_fold("small", 1, epochs=40, done=7)
    world.begin_fold("small", "all", epochs=3, done=3)
    (world.model("small") / "fold_all" / "weights.safetensors").write_bytes(b"weights")
    folds = folds_of(world, call)
    assert [*folds] == ["0", "1", "all"]
    states = {name: (f["epochs_done"], f["epochs_planned"], f["state"]) for name, f in folds.items()}
    assert states == {"0": (2, 2, "validated"), "1": (7, 40, "not finished"), "all": (3, 3, "not validated")}
    assert folds["0"]["mean_dice"] == 1
    assert folds["0"]["next"] == []
    recipe = world.model("small") / "fold_1" / "recipe.json"
    assert folds["1"]["next"] == [
        "train",
        "-c",
        "small",
        "--planner",
        "hand",
        "-f",
        "1",
        "--recipe",
        str(recipe),
    ]
    _, printed, _ = call(main, *world.where)
    assert "  fold 0: 2 of 2 epochs, validated, mean Dice 1.0000" in printed.splitlines()
    assert f"  fold 1: 7 of 40 epochs, not finished: autoseg_train -d 900 --workspace {world.top}" in printed


def test_a_running_fold_is_told_from_one_that_died(world, call):
    for fold, process in ((0, os.getppid()), (1, ended_process())):
        world.begin_fold("small", fold, epochs=40, done=7)
        claim = {"host": socket.gethostname(), "process": process}
        (world.model("small") / f"fold_{fold}" / "running.json").write_text(json.dumps(claim))
    folds = folds_of(world, call)
    assert folds["0"]["state"] == f"running (process {os.getppid()} on {socket.gethostname()})"
    assert folds["0"]["next"] == []
    assert folds["1"]["state"] == "died"
    assert folds["1"]["next"][:2] == ["train", "-c"]


def ended_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_command_that_continues_a_fold_is_understood_by_train_with_the_same_recipe(world, call, monkeypatch):
    world.begin_fold("small", 1, epochs=40, done=7)
    _, printed, _ = call(main, *world.where)
    (line,) = (line for line in printed.splitlines() if "fold 1" in line)
    words = shlex.split(line.partition(": autoseg_train ")[2])
    parsed = {}
    monkeypatch.setattr("autoseg.cli.train.run", lambda parser, act, argv: parsed.update(args=parser.parse_args(argv)))
    from autoseg.cli import train

    train.main(words)
    args = parsed["args"]
    assert (args.dataset, args.configuration, args.folds, args.planner) == ("900", "small", ["1"], "hand")
    assert _recipe(args, world.model("small")) == Recipe.read(world.model("small") / "fold_1" / "recipe.json")


def test_fold_not_begun_is_planned_like_its_sisters(world, call):
    world.begin_fold("small", 0, epochs=40, done=7)
    sister = world.model("small") / "fold_0" / "recipe.json"
    fold = folds_of(world, call)["1"]
    assert (fold["state"], fold["epochs_done"], fold["epochs_planned"]) == ("not begun", 0, 40)
    assert fold["next"][-2:] == ["--recipe", str(sister)]


@pytest.mark.parametrize(("name", "words"), [("default", []), ("quick", ["--recipe", "quick"])])
def test_known_recipes_go_by_their_name(world, call, name, words):
    world.begin_fold("small", 0, epochs=1, done=0)
    RECIPES[name].write(world.model("small") / "fold_0" / "recipe.json")
    assert folds_of(world, call)["0"]["next"][7:] == words


def test_fold_validated_with_earlier_weights_or_to_be_trained_longer_is_not_done(world, call):
    world.add_fold("small", 0, np.copy)
    weights = world.model("small") / "fold_0" / "weights.safetensors"
    weights.write_bytes(b"later weights")
    assert folds_of(world, call)["0"]["state"] == "not validated"
    world.add_fold("small", 0, np.copy)
    recipe = Recipe.read(world.model("small") / "fold_0" / "recipe.json")
    recipe.with_changes(epochs=9).write(world.model("small") / "fold_0" / "recipe.json")
    assert folds_of(world, call)["0"]["state"] == "not finished"


def test_finished_cross_validation_is_told_and_nothing_is_written(trained, call):
    before = sorted(path for path in trained.top.rglob("*"))
    _, printed, _ = call(main, *trained.where)
    assert sorted(path for path in trained.top.rglob("*")) == before
    assert printed.count("cross-validation: mean Dice") == 2


def test_without_splits_the_default_folds_are_shown_and_not_written(world, call):
    splits = world.top / "preprocessed" / "Dataset900_Toy" / "splits.json"
    splits.unlink()
    assert [*folds_of(world, call)] == ["0", "1", "2", "3", "4"]
    assert not splits.exists()


def test_what_is_damaged_is_a_problem_and_the_rest_is_told(trained, call):
    (trained.model("small") / "fold_1" / "recipe.json").write_text("{")
    plans = trained.top / "preprocessed" / "Dataset900_Toy" / "plans"
    (plans / "broken.json").write_text("[]")
    code, printed, _ = call(main, *trained.where, "--json")
    facts = json.loads(printed)
    assert code == 1
    assert {problem["case"] for problem in facts["problems"]} == {"", "fold_1"}
    folds = {f["fold"]: f["state"] for f in facts["configurations"][0]["folds"]}
    assert (folds["0"], folds["1"]) == ("validated", "damaged")
    assert call(main, *trained.where, "--planner", "other", "--json")[0] == 0


def test_a_damaged_summary_or_split_hides_nothing_else(trained, call):
    (trained.model("small") / "crossval" / "summary.json").write_text("{")
    code, printed, _ = call(main, *trained.where, "--json")
    small, coarse = json.loads(printed)["configurations"]
    assert (code, small["crossval_mean_dice"]) == (1, None)
    assert coarse["crossval_mean_dice"] is not None
    (trained.top / "preprocessed" / "Dataset900_Toy" / "splits.json").write_text("{")
    code, printed, _ = call(main, *trained.where)
    assert code == 1
    assert "hand__coarse" in printed
