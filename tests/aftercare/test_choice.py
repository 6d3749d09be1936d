from __future__ import annotations

import json

import numpy as np

from autoseg.cli.ensemble import main as ensemble
from autoseg.cli.find_best_configuration import main
from autoseg.core.geometry import Geometry
from autoseg.core.scores import Scores
from autoseg.core.strategy import Strategy
from autoseg.io.images import read_volume
from autoseg.io.probability_file import ProbabilityFile


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


def store_probabilities(world, configuration, *, wrong=0.0):
    """Files beside the validated predictions, which they say with 0.8, or with less in a share of the voxels."""
    scheme = world.plan.scheme
    for number, path in enumerate(sorted(world.model(configuration).glob("fold_*/validation/case_*.nii.gz"))):
        stored, geometry = read_volume(path, case="")
        inside = scheme.encode(stored)
        unsure = np.random.default_rng(number).random(inside.shape) < wrong
        levels = np.where(unsure, 0.4, 0.8) * (inside == np.arange(scheme.n_outputs)[:, None, None, None])
        levels += (1 - levels.sum(axis=0)) / scheme.n_outputs
        name = path.name.replace(".nii.gz", "_probabilities.b2nd")
        box = tuple((0, n) for n in inside.shape)
        orientation = Geometry(shape=inside.shape, spacing_mm=geometry.spacing_mm).orientation
        with ProbabilityFile(
            path.with_name(name), scheme=scheme, shape=inside.shape, box=box, orientation=orientation
        ) as file:
            file.add(levels.astype(np.float32))


def test_ensembles_take_part_where_probabilities_are_stored(trained, call, tmp_path):
    store_probabilities(trained, "small")
    _, printed, _ = call(main, *trained.where)
    assert "no ensembles with hand__coarse" in printed
    assert "+hand__small" not in printed
    store_probabilities(trained, "coarse", wrong=0.5)
    code, printed, _ = call(main, *trained.where, "-np", 0)
    assert code == 0
    assert "no ensembles" not in printed
    name = "hand__coarse+hand__small"
    (line,) = [line for line in printed.splitlines() if line.startswith(name)]
    assert "2.0x" in line
    folder = trained.top / "results" / "Dataset900_Toy" / "ensembles" / name
    made = {path.name: path.read_bytes() for path in folder.glob("*.nii.gz")}
    assert len(made) == 6
    scores = Scores.read(folder / "summary.json")
    strategy = Strategy.read(trained.top / "results" / "Dataset900_Toy" / "strategy.json")
    assert {one.name: one.mean_dice for one in strategy.compared}[name] == scores.mean_dice
    for fold in (0, 1):
        folders = [trained.model(c) / f"fold_{fold}" / "validation" for c in ("coarse", "small")]
        assert call(ensemble, "-i", *folders, "-o", tmp_path / f"by_hand_{fold}", "-np", 0)[0] == 0
        for path in (tmp_path / f"by_hand_{fold}").glob("*.nii.gz"):
            assert path.read_bytes() == made[path.name]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    code, printed, _ = call(main, *trained.where, "--json")
    assert (code, json.loads(printed)["decided_now"]) == (0, False)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}.items() <= before.items()
    _, printed, _ = call(main, *trained.where, "--ensembles", 1)
    assert name not in printed


def test_an_unreadable_strategy_is_made_anew(trained, call):
    path = trained.top / "results" / "Dataset900_Toy" / "strategy.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"schema_version": 1, "planner": "hand"}')
    assert call(main, *trained.where)[0] == 0
    assert Strategy.read(path).schema_version == 2
