"""The whole pipeline through its commands, on tiny phantoms."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.cli import evaluate, extract_fingerprint, plan, plan_and_preprocess, predict, preprocess, train
from autoseg.core.scores import validation_scores
from autoseg.phantoms import write_phantoms

pytestmark = pytest.mark.slow
NAME = "Dataset900_Tiny"
SHORT = ["--planner", "small", "--recipe", "quick", "--epochs", "1", "--iterations", "2", "--device", "cpu"]


@dataclass(frozen=True)
class Finished:
    """A workspace in which everything has been done once, and what the commands printed as JSON."""

    workspace: Path
    output: Path
    planned: dict[str, Any]
    trained: dict[str, Any]
    predicted: dict[str, Any]
    evaluated: dict[str, Any]

    @property
    def raw(self) -> Path:
        return self.workspace / "raw" / NAME

    @property
    def model(self) -> Path:
        return self.workspace / "results" / NAME / "small__3d_fullres"


def run_json(main: Any, argv: list[str], capsys: Any) -> tuple[int, dict[str, Any]]:
    """Exit code and the JSON object that a command prints on standard output."""
    capsys.readouterr()
    code = main([*argv, "--json"])
    return code, json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    top = tmp_path_factory.mktemp("pipeline")
    write_phantoms(top / "raw" / NAME, n_train=5, n_test=2, size="tiny")
    return _run_all(top)


def _run_all(top: Path) -> Finished:
    import contextlib
    import io

    results = []
    for main, argv in _commands(top):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = main([*argv, "--json"])
        assert code == 0, f"{main.__module__} {argv} ended with {code}"
        results.append(json.loads(out.getvalue()))
    return Finished(top, top / "out", *results)


def _commands(top: Path) -> list[tuple[Any, list[str]]]:
    place = ["-d", "900", "--workspace", str(top)]
    raw = top / "raw" / NAME
    return [
        (plan_and_preprocess.main, [*place, "--planner", "small", "-np", "2"]),
        (train.main, [*place, *SHORT]),
        (predict.main, [*place, "--planner", "small", "-i", str(raw / "imagesTs"), "-o", str(top / "out")]),
        (evaluate.main, ["-p", str(top / "out"), "-g", str(raw / "labelsTs")]),
    ]


def test_every_stage_does_its_work_once(finished: Finished) -> None:
    assert finished.planned["cases"] == finished.planned["preprocessed"] == 5
    assert finished.planned["configurations"] == ["2d", "3d_fullres"]
    assert [finished.trained[f"fold_{i}"]["trained_now"] for i in range(5)] == [True] * 5
    assert finished.predicted["predicted_now"] == 2
    assert finished.evaluated["cases"] == 2


def test_the_steps_of_planning_and_preprocessing_alone_do_the_same(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.workspace / "raw", tmp_path / "raw")
    place = ["-d", "900", "--workspace", str(tmp_path)]
    small = [*place, "--planner", "small"]
    assert run_json(extract_fingerprint.main, place, capsys)[1]["cases_measured_now"] == 5
    code, facts = run_json(plan.main, small, capsys)
    assert (code, sorted(facts["configurations"])) == (0, ["2d", "3d_fullres"])
    code, facts = run_json(preprocess.main, [*small, "-c", "2d"], capsys)
    assert (code, facts["configurations"], facts["preprocessed_now"]) == (0, ["2d"], 5)
    assert run_json(preprocess.main, [*small, "-c", "2d"], capsys)[1]["preprocessed_now"] == 0
    places = [top / "preprocessed" / NAME for top in (tmp_path, finished.workspace)]
    for name in ("fingerprint.json", "splits.json", "plans/small.json"):
        assert (places[0] / name).read_bytes() == (places[1] / name).read_bytes()


def test_a_second_run_of_every_command_does_nothing_twice(finished: Finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.workspace.rglob("*.safetensors")}
    again = _run_all(finished.workspace)
    assert again.planned["cases_measured_now"] == again.planned["preprocessed_now"] == 0
    assert again.planned["planned_now"] is False
    for i in range(5):
        assert not again.trained[f"fold_{i}"]["trained_now"]
        assert not again.trained[f"fold_{i}"]["validated_now"]
    assert again.predicted["predicted_now"] == 0
    assert before == {path: path.stat().st_mtime_ns for path in finished.workspace.rglob("*.safetensors")}


def test_a_fold_whose_weights_changed_is_validated_again_and_not_pooled_before(finished: Finished) -> None:
    scores = validation_scores(finished.model / "fold_0")
    assert scores is not None
    other = finished.workspace / "other" / "fold_0"
    shutil.copytree(finished.model / "fold_0", other)
    assert validation_scores(other) == scores
    shutil.copy(finished.model / "fold_1" / "weights.safetensors", other)
    assert validation_scores(other) is None
    shutil.rmtree(other.parent)


def test_the_files_of_the_contract_are_there(finished: Finished) -> None:
    stored = finished.workspace / "preprocessed" / NAME
    for name in ("fingerprint.json", "splits.json", "plans/small.json"):
        assert (stored / name).is_file()
    for fold in range(5):
        folder = finished.model / f"fold_{fold}"
        for name in (
            "weights.safetensors",
            "weights_best.safetensors",
            "recipe.json",
            "log.jsonl",
            "progress.png",
        ):
            assert (folder / name).is_file(), f"{folder / name}"
        assert (folder / "validation" / "summary.json").is_file()
    assert (finished.model / "model.json").is_file()
    pooled = json.loads((finished.model / "crossval" / "summary.json").read_text())
    assert len(pooled["cases"]) == 5
    hidden = [p for p in finished.workspace.rglob(".*") if p.name not in (".made_from", ".splits.json.default")]
    assert not hidden, "temporary files are left"


def test_predictions_carry_the_geometry_of_their_inputs(finished: Finished) -> None:
    for path in sorted((finished.raw / "imagesTs").glob("*.nii.gz")):
        image = sitk.ReadImage(str(path))
        labels = sitk.ReadImage(str(finished.output / path.name.replace("_0000", "")))
        assert labels.GetSize() == image.GetSize()
        assert labels.GetSpacing() == image.GetSpacing()
        assert labels.GetOrigin() == image.GetOrigin()
        assert labels.GetDirection() == image.GetDirection()
        assert labels.GetPixelID() == sitk.sitkUInt8


def test_prediction_json_tells_volumes_of_every_label(finished: Finished) -> None:
    record = json.loads((finished.output / "prediction.json").read_text())
    assert record["folds"] == ["0", "1", "2", "3", "4"]
    declared = json.loads((finished.raw / "dataset.json").read_text())["labels"]
    for case, facts in record["cases"].items():
        labels = sitk.ReadImage(str(finished.output / f"{case}.nii.gz"))
        voxels = sitk.GetArrayFromImage(labels)
        for name, value in declared.items():
            if name != "background":
                ml = float((voxels == value).sum() * np.prod(labels.GetSpacing()) / 1000)
                assert facts["volumes_ml"][name] == pytest.approx(ml, abs=1e-3)


def test_a_2d_configuration_trains_and_predicts(finished: Finished, capsys: Any) -> None:
    place = ["-d", "900", "--workspace", str(finished.workspace)]
    code, facts = run_json(train.main, [*place, *SHORT, "-c", "2d", "-f", "0"], capsys)
    assert code == 0
    assert facts["fold_0"]["trained_now"]
    one = next((finished.raw / "imagesTs").glob("*.nii.gz"))
    target = finished.workspace / "out2d"
    argv = [*place, "--planner", "small", "-c", "2d", "-i", str(one), "-o", str(target), "--no_mirroring"]
    code, facts = run_json(predict.main, argv, capsys)
    assert (code, facts["predicted"]) == (0, 1)


def test_one_bad_case_among_many_is_reported_and_the_others_are_done(
    finished: Finished, tmp_path: Path, capsys: Any
) -> None:
    raw = tmp_path / "raw" / NAME
    shutil.copytree(finished.raw, raw)
    victims = sorted((raw / "imagesTr").glob("*.nii.gz"))
    victims[0].write_bytes(victims[0].read_bytes()[:-500])
    victims[1].unlink()
    argv = ["-d", "900", "--workspace", str(tmp_path), "--planner", "small", "-c", "3d_fullres"]
    code, facts = run_json(plan_and_preprocess.main, argv, capsys)
    assert code == 1
    assert facts["preprocessed"] == 3
    reported = {problem["case"] for problem in facts["problems"]}
    assert victims[0].name.removesuffix("_0000.nii.gz") in reported
    # the label of a deleted image is a warning, since nothing says whether the image or the label is too many
    assert any(victims[1].name.removesuffix("_0000.nii.gz") in warning["file"] for warning in facts["warnings"])


def test_a_bad_image_does_not_stop_prediction(finished: Finished, tmp_path: Path, capsys: Any) -> None:
    source = tmp_path / "in"
    shutil.copytree(finished.raw / "imagesTs", source)
    (source / "broken_0000.nii.gz").write_bytes(b"not an image")
    argv = [
        "-m",
        str(finished.model),
        "-i",
        str(source),
        "-o",
        str(tmp_path / "out"),
        "-f",
        "0",
        "--no_mirroring",
    ]
    code, facts = run_json(predict.main, argv, capsys)
    assert code == 1
    assert facts["predicted"] == 2
    assert [problem["case"] for problem in facts["problems"]] == ["broken"]
    assert json.loads((tmp_path / "out" / "prediction.json").read_text())["failures"][0]["case"] == "broken"


def test_a_changed_plan_is_kept_and_noticed(finished: Finished, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(finished.workspace / "raw", tmp_path / "raw")
    shutil.copytree(finished.workspace / "preprocessed", tmp_path / "preprocessed")
    path = tmp_path / "preprocessed" / NAME / "plans" / "small.json"
    plan = json.loads(path.read_text())
    plan["configurations"]["3d_fullres"]["spacing_mm"] = [12.0, 11.0, 11.0]
    plan["configurations"]["own"] = {"inherits_from": "3d_fullres", "batch_size": 3}
    path.write_text(json.dumps(plan))
    argv = ["-d", "900", "--workspace", str(tmp_path), "--planner", "small"]
    code, facts = run_json(plan_and_preprocess.main, argv, capsys)
    assert code == 0
    assert facts["planned_now"] is False
    assert facts["preprocessed_now"] == 5
    assert facts["configurations"] == ["2d", "3d_fullres", "own"]


def test_any_saved_weights_predict(finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = tmp_path / "results" / NAME / "small__3d_fullres"
    shutil.copytree(finished.model / "fold_0", begun / "fold_0")
    shutil.copy(finished.model / "model.json", begun)
    command = ["-m", str(begun), "-i", str(finished.raw / "imagesTs"), "-o", str(tmp_path / "out")]
    assert run_json(predict.main, command, capsys)[0] == 0
    (begun / "fold_0" / "weights.safetensors").unlink()  # as while it is still trained
    assert run_json(predict.main, command, capsys)[0] == 2
    final = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.nii.gz")}
    for weights in ("best", "latest"):
        target = tmp_path / weights
        code, facts = run_json(predict.main, [*command[:-1], str(target), "--weights", weights], capsys)
        assert (code, facts["predicted_now"]) == (0, 2)
        # after one epoch all three are the same
        assert {path.name: path.read_bytes() for path in target.glob("*.nii.gz")} == final


def test_probabilities_of_validation_cases_are_stored_on_request(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished.workspace, tmp_path / "w")
    words = ["-d", "900", "--workspace", str(tmp_path / "w"), *SHORT, "-f", "0"]
    validation = tmp_path / "w" / "results" / NAME / "small__3d_fullres" / "fold_0" / "validation"
    assert not [*validation.glob("*.b2nd")]
    for wanted, validated_now in ((["--save_probabilities"], True), (["--save_probabilities"], False), ([], False)):
        code, facts = run_json(train.main, [*words, *wanted], capsys)
        assert (code, facts["fold_0"]["trained_now"], facts["fold_0"]["validated_now"]) == (0, False, validated_now)
        scores = validation_scores(validation.parent)
        assert scores is not None
        assert sorted(path.name for path in validation.glob("*.b2nd")) == [
            f"{case}_probabilities.b2nd" for case in sorted(scores.cases)
        ]
        errors = [row.calibration_error for rows in scores.cases.values() for row in rows.values()]
        assert any(error is not None for error in errors)
