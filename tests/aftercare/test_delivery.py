from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.cli.evaluate import main as evaluate
from autoseg.cli.find_best_configuration import main as find_best
from autoseg.cli.postprocess import main as postprocess
from autoseg.cli.submission import main as submission
from autoseg.core.files import write_json

CASES = ["case_0", "case_1", "case_2"]


@pytest.fixture
def predicted(trained, call):
    """(folder of predictions with stray parts, strategy file)."""
    folder = trained.top / "predictions"
    for case in CASES:
        trained.write_image(folder / f"{case}.nii.gz", trained.with_stray(trained.truth_of(case)))
    write_json(folder / "prediction.json", {"cases": {case: {} for case in CASES}, "failures": []})
    assert call(find_best, *trained.where)[0] == 0
    return folder, trained.top / "results" / "Dataset900_Toy" / "strategy.json"


def test_steps_are_applied_to_every_file_in_its_geometry(predicted, trained, call, tmp_path):
    source, strategy = predicted
    code, printed, _ = call(postprocess, "-i", source, "-o", tmp_path / "out", "--strategy", strategy, "-np", 0)
    assert code == 0
    assert "3 cases postprocessed (3 now)" in printed
    for case in CASES:
        old, new = (sitk.ReadImage(str(f / f"{case}.nii.gz")) for f in (source, tmp_path / "out"))
        assert np.array_equal(sitk.GetArrayFromImage(new), trained.truth_of(case))
        assert (old.GetSpacing(), old.GetOrigin()) == (new.GetSpacing(), new.GetOrigin())
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    expected = (trained.truth_of("case_0") == 5).sum() * 0.8 * 0.9 * 2.5 / 1000
    assert record["cases"]["case_0"]["volumes_ml"]["core"] == pytest.approx(expected, abs=1e-4)


def test_run_again_it_does_only_what_is_missing_or_changed(predicted, trained, call, tmp_path):
    source, strategy = predicted
    words = ["-i", source, "-o", tmp_path / "out", "--strategy", strategy, "-np", 0, "--json"]
    call(postprocess, *words)
    (tmp_path / "out" / "case_0.nii.gz").unlink()
    trained.write_image(source / "case_1.nii.gz", trained.truth_of("case_1"))
    kept = (tmp_path / "out" / "case_2.nii.gz").stat().st_mtime_ns
    _, printed, _ = call(postprocess, *words)
    assert json.loads(printed)["postprocessed_now"] == 2
    assert json.loads(printed)["postprocessed"] == 3
    assert (tmp_path / "out" / "case_2.nii.gz").stat().st_mtime_ns == kept
    _, printed, _ = call(postprocess, *words)
    assert json.loads(printed)["postprocessed_now"] == 0


def test_bad_file_and_case_without_file_are_told_and_the_others_done(predicted, trained, call, tmp_path):
    source, strategy = predicted
    (source / "case_0.nii.gz").write_bytes(b"no image")
    (source / "case_2.nii.gz").unlink()
    code, printed, told = call(postprocess, "-i", source, "-o", tmp_path / "out", "--strategy", strategy, "-np", 0)
    assert code == 1
    assert "case_0" in told
    assert "case_2" in told
    assert "1 case postprocessed (1 now)" in printed
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["case_1.nii.gz", "prediction.json"]
    code, _, told = call(submission, "-i", tmp_path / "out", "-o", tmp_path / "a.zip")
    assert code == 1  # what failed before is still expected
    assert "case_0" in told
    assert not (tmp_path / "a.zip").exists()


def test_postprocessed_folder_can_be_scored_and_packed(predicted, trained, call, tmp_path):
    source, strategy = predicted
    call(postprocess, "-i", source, "-o", tmp_path / "out", "--strategy", strategy, "-np", 0)
    code, printed, _ = call(evaluate, "-p", tmp_path / "out", "-g", trained.raw / "labelsTr", "--json")
    assert code == 0
    assert (json.loads(printed)["cases"], json.loads(printed)["mean_dice"]) == (3, 1)
    code, printed, _ = call(submission, "-i", tmp_path / "out", "-o", tmp_path / "a.zip")
    assert code == 0
    assert "3 cases" in printed
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert sorted(archive.namelist()) == [f"{case}.nii.gz" for case in CASES]


def test_strangers_are_refused_unless_there_is_no_record_of_what_was_asked(predicted, trained, call, tmp_path):
    source, _ = predicted
    trained.write_image(source / "stranger.nii.gz", trained.truth_of("case_0"))
    code, _, told = call(submission, "-i", source, "-o", tmp_path / "a.zip")
    assert code == 1
    assert "stranger" in told
    (source / "prediction.json").unlink()
    code, printed, _ = call(submission, "-i", source, "-o", tmp_path / "a.zip", "--json")
    assert code == 0
    assert json.loads(printed)["cases"] == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"-o": "predictions"}, "output folder is the input folder"),
        ({"-o": "raw/Dataset900_Toy/dataset.json"}, "is a file"),
        ({"-i": "nowhere"}, "holds no label file"),
        ({"--strategy": "nowhere.json"}, "autoseg_find_best_configuration"),
    ],
)
def test_wrong_call_of_postprocess_does_nothing(predicted, trained, call, tmp_path, change, reason):
    paths = {"-i": "predictions", "-o": "out", "--strategy": str(predicted[1]), **change}
    code, _, told = call(postprocess, *(word for key, p in paths.items() for word in (key, tmp_path / p)))
    assert code == 2
    assert reason in told
    assert not (tmp_path / "out").exists()


def test_wrong_call_of_submission_does_nothing(predicted, trained, call, tmp_path):
    source, _ = predicted
    assert call(submission, "-i", source, "-o", tmp_path / "a.tar")[0] == 2
    assert call(submission, "-i", tmp_path / "nowhere", "-o", tmp_path / "a.zip")[0] == 2
    trained.write_image(source / "other.mha", trained.truth_of("case_0"))
    code, _, told = call(submission, "-i", source, "-o", tmp_path / "a.zip")
    assert code == 2
    assert ".mha, .nii.gz" in told
