"""Trust from training to prediction.json, on tiny phantoms; what is lacking or damaged is made again, or refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg import Predictor
from autoseg.cli import export_model, import_model, plan_and_preprocess, predict, train
from autoseg.core.scores import Scores
from autoseg.core.trust import Agreements, CaseTrust, Trust, TrustQuality
from autoseg.io.feature_file import read_features, write_features
from autoseg.phantoms import write_phantoms

pytestmark = pytest.mark.slow
NAME = "Dataset900_Tiny"
SHORT = ["--planner", "small", "--recipe", "quick", "--epochs", "1", "--iterations", "2", "--device", "cpu"]
FOLDS = 3


def place(top: Path) -> list[str]:
    return ["-d", "900", "--workspace", str(top)]


def results(top: Path) -> Path:
    return top / "results" / NAME / "small__3d_fullres"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("trust")
    write_phantoms(top / "raw" / NAME, n_train=FOLDS, n_test=1, size="tiny")
    assert plan_and_preprocess.main([*place(top), "--planner", "small", "-np", "2", "-c", "3d_fullres"]) == 0
    assert train.main([*place(top), *SHORT]) == 0
    return top


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def predicted(model: Path, images: Path, out: Path) -> dict[str, Any]:
    assert predict.main(["-m", str(model), "-i", str(images), "-o", str(out), "--device", "cpu"]) == 0
    return json.loads((out / "prediction.json").read_text())


def test_training_leaves_what_prediction_needs(trained: Path) -> None:
    model, cases = results(trained), set()
    for fold in range(FOLDS):
        arrays, facts = read_features(model / f"fold_{fold}" / "features.safetensors")
        assert (len(facts["seen"]), len(facts["unseen"])) == (2, 1)
        assert arrays["unseen"].shape == (1,)
        cases |= Agreements.read(model / f"fold_{fold}" / "validation" / "agreement.json").cases.keys()
    assert len(cases) == FOLDS
    trust = Trust.read(model / "trust.json")
    scored = Scores.read(model / "crossval" / "summary.json").cases
    known = [name for rows in scored.values() for name, row in rows.items() if row.dice is not None]
    assert {*trust.labels} <= {*known}
    assert sum(one.cases for one in trust.labels.values()) <= len(known)
    assert trust.quality.pairs == sum(one.cases for one in trust.labels.values() if one.cases > 1)


@pytest.fixture(scope="module")
def images(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image, and the same with noise."""
    folder = tmp_path_factory.mktemp("images")
    (clean,) = (trained / "raw" / NAME / "imagesTs").glob("*_0000.nii.gz")
    shutil.copy(clean, folder / "clean_0000.nii.gz")
    image = sitk.ReadImage(str(clean))
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    noisy = sitk.GetImageFromArray(voxels + np.random.default_rng(0).normal(0, 300, voxels.shape).astype(np.float32))
    noisy.CopyInformation(image)
    sitk.WriteImage(noisy, str(folder / "noisy_0000.nii.gz"))
    return folder


def test_prediction_tells_it_and_a_corrupted_image_is_stranger(trained: Path, images: Path, tmp_path: Path) -> None:
    record = predicted(results(trained), images, tmp_path / "out")
    quality = TrustQuality(**record["trust"]["3d_fullres"])
    assert quality == Trust.read(results(trained) / "trust.json").quality
    trust = {case: CaseTrust(**facts["trust"]) for case, facts in record["cases"].items()}
    assert trust["noisy"].out_of_distribution > trust["clean"].out_of_distribution
    for one in trust.values():
        for name, expected in one.expected_dice.items():
            assert 0 <= expected.low <= expected.dice <= expected.high <= 1
            assert name in one.agreement
        assert one.mean_expected_dice == pytest.approx(np.mean([e.dice for e in one.expected_dice.values()]), abs=1e-4)


def test_what_is_unusual_is_a_warning(
    copy: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in range(FOLDS):
        path = results(copy) / f"fold_{fold}" / "features.safetensors"
        arrays, facts = read_features(path)
        write_features(path, {**arrays, "unseen": arrays["unseen"] / 100}, facts=facts)
    record = predicted(results(copy), images / "clean_0000.nii.gz", tmp_path / "out")
    ((case, facts),) = record["cases"].items()
    assert case == "clean"
    assert facts["trust"]["out_of_distribution"] > 1
    assert any("unlike those of the training" in text for text in facts["warnings"])
    caplog.clear()
    capsys.readouterr()
    Predictor.load(results(copy), device="cpu")(images / "clean_0000.nii.gz")
    assert (
        "unlike those of the training" in caplog.text + capsys.readouterr().err
    )  # the command has its own handler of log messages


def test_an_exported_model_tells_the_same(trained: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.zip"
    words = [*place(trained), "--planner", "small", "-c", "3d_fullres", "-o", str(model)]
    assert export_model.main(words) == 0
    names = zipfile.ZipFile(model).namelist()
    assert "small__3d_fullres/trust.json" in names
    assert "small__3d_fullres/fold_2/features.safetensors" in names
    images = trained / "raw" / NAME / "imagesTs"
    records = [predicted(m, images, tmp_path / f"out{i}") for i, m in enumerate((results(trained), model))]
    assert records[0]["trust"] == records[1]["trust"]
    for case, facts in records[0]["cases"].items():
        assert facts["trust"] == records[1]["cases"][case]["trust"]


def test_a_damaged_file_of_features_is_refused_with_its_model(copy: Path, tmp_path: Path) -> None:
    path = results(copy) / "fold_1" / "features.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    words = [*place(copy), "--planner", "small", "-c", "3d_fullres", "-o", str(tmp_path / "model.zip")]
    assert export_model.main(words) == 1
    assert not (tmp_path / "model.zip").exists()
    # training again mends it
    assert train.main([*place(copy), *SHORT]) == 0
    assert export_model.main(words) == 0
    assert import_model.main([str(tmp_path / "model.zip"), "-o", str(tmp_path / "again")]) == 0


def test_what_an_interruption_left_out_is_made_without_training(copy: Path, capsys: Any) -> None:
    model = results(copy)
    before = {path: path.read_bytes() for path in (model / "trust.json", model / "fold_0" / "features.safetensors")}
    for path in before:
        path.unlink()
    capsys.readouterr()
    assert train.main([*place(copy), *SHORT, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert not any(facts[f"fold_{i}"]["trained_now"] or facts[f"fold_{i}"]["validated_now"] for i in range(FOLDS))
    assert (model / "trust.json").read_bytes() == before[model / "trust.json"]
    found, told = read_features(model / "fold_0" / "features.safetensors")
    path = copy / "before.safetensors"
    path.write_bytes(before[model / "fold_0" / "features.safetensors"])
    truth, facts_before = read_features(path)
    assert told == facts_before
    for name, array in truth.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-3)


def test_the_folder_of_an_earlier_version_gets_features_and_is_told_what_it_lacks(copy: Path, capsys: Any) -> None:
    model = results(copy)
    (model / "trust.json").unlink()
    for fold in range(FOLDS):
        (model / f"fold_{fold}" / "features.safetensors").unlink()
        (model / f"fold_{fold}" / "validation" / "agreement.json").unlink()
    out = copy / "out"
    record = predicted(model, copy / "raw" / NAME / "imagesTs", out)
    assert record["trust"] == {"3d_fullres": None}
    (facts,) = (entry["trust"] for entry in record["cases"].values())
    assert (facts["out_of_distribution"], facts["mean_expected_dice"], facts["expected_dice"]) == (None, None, {})
    capsys.readouterr()
    assert train.main([*place(copy), *SHORT, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert not any(told[f"fold_{i}"]["trained_now"] or told[f"fold_{i}"]["validated_now"] for i in range(FOLDS))
    (warning,) = (one for one in told["warnings"] if "kept no agreement" in one["found"])
    assert f"{FOLDS} of {FOLDS} folds" in warning["found"]
    assert "fold_0, fold_1, fold_2" in warning["next"]
    assert "--save_probabilities" not in warning["next"]
    assert (model / "fold_2" / "features.safetensors").is_file()
    assert not (model / "trust.json").exists()
    shutil.rmtree(model / "fold_0" / "validation")
    assert train.main([*place(copy), *SHORT]) == 0
    assert (model / "trust.json").is_file()
