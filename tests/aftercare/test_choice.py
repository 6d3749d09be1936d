from __future__ import annotations

import json

import numpy as np

from autoseg.cli.find_best_configuration import main
from autoseg.core.strategy import Strategy


def test_best_configuration_and_postprocessing_are_chosen_written_and_told(trained, call):
    code, printed, _ = call(main, *trained.where)
    assert code == 0
    path = trained.top / "results" / "Dataset900_Toy" / "strategy.json"
    strategy = Strategy.read(path)
    assert strategy.name == "hand__small"
    assert [(step.action, step.labels) for step in strategy.steps] == [("keep_largest", ["body", "core"])]
    assert strategy.evidence[0].dice.after == strategy.promised == 1
    assert strategy.nested.cases == 6
    lines = printed.splitlines()
    assert any(line.startswith("hand__small") and line.endswith("chosen") for line in lines)
    assert any(line.startswith("hand__coarse") and not line.endswith("chosen") for line in lines)
    workspace = f"--workspace {trained.top}"
    assert f"  autoseg_predict -d 900 {workspace} -i INPUT -o OUTPUT" in lines
    assert f"  autoseg_postprocess -i PREDICTIONS -o OUTPUT --strategy {path}" in lines


def test_without_a_useful_step_there_is_nothing_to_postprocess(world, call):
    for fold in (0, 1):
        world.add_fold("small", fold, np.copy)
    world.pool("small")
    code, printed, _ = call(main, *world.where)
    assert code == 0
    assert "autoseg_postprocess" not in printed
    assert "-o OUTPUT" in printed
    assert "largest part of body, core: Dice 1.0000 -> 1.0000, refused" in printed


def test_same_scores_keep_the_strategy_and_new_ones_make_it_anew(trained, call):
    _, first, _ = call(main, *trained.where, "--json")
    assert json.loads(first)["decided_now"]
    path = trained.top / "results" / "Dataset900_Toy" / "strategy.json"
    before = path.stat().st_mtime_ns
    _, second, _ = call(main, *trained.where, "--json")
    assert not json.loads(second)["decided_now"]
    assert path.stat().st_mtime_ns == before
    trained.add_fold("small", 0, np.copy)
    trained.pool("small")
    _, third, _ = call(main, *trained.where, "--json")
    assert json.loads(third)["decided_now"]
    assert json.loads(third)["steps"] == []


def test_training_on_all_cases_does_not_count_as_validation(trained, call):
    validation = trained.model("small") / "fold_all" / "validation"
    (trained.model("small") / "fold_0" / "validation").rename(trained.model("small") / "kept")
    validation.parent.mkdir()
    (trained.model("small") / "kept").rename(validation)
    code, printed, _ = call(main, *trained.where, "--json")
    assert code == 1
    assert [problem["case"] for problem in json.loads(printed)["problems"]] == ["case_0", "case_1", "case_2"]


def test_lost_case_is_told_and_tried_again_next_time(trained, call):
    lost = trained.model("small") / "fold_0" / "validation" / "case_1.nii.gz"
    content = lost.read_bytes()
    lost.unlink()
    code, printed, told = call(main, *trained.where)
    assert code == 1
    assert "case_1" in told
    assert "5 validated cases" in printed
    lost.write_bytes(content)
    code, printed, _ = call(main, *trained.where)
    assert code == 0
    assert "6 validated cases" in printed


def test_unfinished_cross_validation_is_a_wrong_call(world, call):
    world.add_fold("small", 0, np.copy)
    code, _, told = call(main, *world.where)
    assert code == 2
    assert "no finished cross-validation" in told
    assert "autoseg_train" in told
