"""A cascade from raw images to predictions: what its second stage sees, and what it must not have seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg import prediction
from autoseg.cli import plan_and_preprocess, predict, status, train
from autoseg.core.dataset import read_dataset
from autoseg.core.plan import Plan
from autoseg.io.case_store import CaseStore, StageStore
from autoseg.io.images import read_case
from autoseg.ops.case_transform import case_grids, prepare_segmentation
from autoseg.phantoms import write_phantoms
from autoseg.prediction.image import predict_image

pytestmark = pytest.mark.slow
NAME = "Dataset900_Tiny"
SHORT = ["--planner", "small", "--recipe", "quick", "--epochs", "1", "--iterations", "2", "--device", "cpu"]


def place(top: Path) -> list[str]:
    return ["-d", "900", "--workspace", str(top)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with both stages trained on all folds."""
    top = tmp_path_factory.mktemp("cascade")
    write_phantoms(top / "raw" / NAME, n_train=2, n_test=1, size="tiny")
    command = [*place(top), "--planner", "small", "-np", "2", "-c", "3d_fullres"]
    assert plan_and_preprocess.main(command) == 0
    _add_cascade(top / "preprocessed" / NAME / "plans" / "small.json")
    command[-1:] = ["3d_lowres", "3d_cascade_fullres"]
    assert plan_and_preprocess.main(command) == 0
    assert train.main([*place(top), *SHORT, "-c", "3d_lowres", "-f", "0"]) == 0
    return top


def _add_cascade(path: Path) -> None:
    """The images are too small for the planner to want one."""
    plan = json.loads(path.read_text())
    full = plan["configurations"]["3d_fullres"]
    spacing = [1.7 * s for s in full["spacing_mm"]]
    plan["configurations"]["3d_lowres"] = {"inherits_from": "3d_fullres", "spacing_mm": spacing}
    plan["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    path.write_text(json.dumps(plan))


def cascade(top: Path, *options: str) -> int:
    return train.main([*place(top), *SHORT, "-c", "3d_cascade_fullres", *options])


def test_the_second_stage_waits_for_all_folds_of_the_first(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cascade(trained) == 2
    error = capsys.readouterr().err
    assert "fold 1 of 3d_lowres is not finished" in error
    assert f"autoseg_train -d {NAME} -c 3d_lowres --planner small" in error
    assert train.main([*place(trained), *SHORT, "-c", "3d_lowres"]) == 0
    capsys.readouterr()
    assert cascade(trained, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert [facts[f"fold_{i}"]["trained_now"] for i in range(2)] == [True] * 2
    assert "crossval_mean_dice" in facts
    assert cascade(trained, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert [facts[f"fold_{i}"]["trained_now"] for i in range(2)] == [False] * 2


def test_each_case_is_seen_with_the_answer_of_the_fold_that_had_not_seen_it(trained: Path) -> None:
    model = trained / "results" / NAME / "small__3d_lowres"
    stored = trained / "preprocessed" / NAME
    stages = StageStore(stored / "small__3d_cascade_fullres" / "earlier_stage")
    splits = json.loads((stored / "splits.json").read_text())
    cases = CaseStore(stored / "small__3d_fullres")
    dataset, plan = read_dataset(trained / "raw" / NAME), Plan.read(stored / "plans" / "small.json")
    for fold, split in enumerate(splits):
        for case in split["val"]:
            answers = {}
            for other in range(2):  # the other fold's network was trained on this case
                ensemble = prediction.load_ensemble(model, folds=[str(other)], device=torch.device("cpu"))
                image = read_case(replace(dataset.cases[case], label=None), labels=None)
                spacing_mm = image.geometry.canonical.spacing_mm
                labels = plan.scheme.encode(predict_image([ensemble], image.image, spacing_mm=spacing_mm))
                configuration = plan.configuration("3d_cascade_fullres")
                grids, _ = case_grids(image.image, spacing_mm=spacing_mm, plan=plan, configuration=configuration)
                answers[other] = prepare_segmentation(labels, grids)
            found = np.asarray(stages.open(case)[:])
            assert found.shape == cases.open(case).shape
            np.testing.assert_array_equal(found, answers[fold])
            assert not np.array_equal(answers[0], answers[1])


def test_the_command_predicts_through_both_stages(trained: Path, tmp_path: Path) -> None:
    raw = trained / "raw" / NAME
    command = [*place(trained), "--planner", "small", "-c", "3d_cascade_fullres", "-i", str(raw / "imagesTs")]
    assert predict.main([*command, "-o", str(tmp_path / "out"), "--device", "cpu"]) == 0
    (file,) = (tmp_path / "out").glob("*.nii.gz")
    image = sitk.ReadImage(str(raw / "imagesTs" / file.name.replace(".nii", "_0000.nii")))
    assert sitk.ReadImage(str(file)).GetSize() == image.GetSize()
    # what the networks see: the image, and one mask per label
    model = trained / "results" / NAME / "small__3d_cascade_fullres"
    ensemble = prediction.load_ensemble(model, folds=["0"], device=torch.device("cpu"))
    assert ensemble.previous is not None
    case = next(iter(prediction.find_scans(raw / "imagesTs", ensemble.plan)[0])).read()
    spacing_mm = case.geometry.canonical.spacing_mm
    seen: list[torch.Tensor] = []
    network = ensemble.networks[0]
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    predict_image([ensemble], case.image, spacing_mm=spacing_mm)
    n_labels = len(ensemble.plan.scheme.values) - 1
    for tiles in seen:
        assert tiles.shape[1] == 1 + n_labels
        assert set(tiles[:, 1:].unique().tolist()) <= {0.0, 1.0}
    assert any(tiles[:, 1:].any() for tiles in seen)


def test_a_flipped_tile_has_the_sides_of_its_earlier_segmentation_exchanged(trained: Path) -> None:
    model = trained / "results" / NAME / "small__3d_cascade_fullres"
    ensemble = prediction.load_ensemble(model, folds=["0"], device=torch.device("cpu"))
    scheme = ensemble.plan.scheme
    first, second = [*scheme.foreground][:2]
    configuration = ensemble.configuration.with_changes(mirror_label_pairs=[(first, second)], mirror_axes=[0, 1, 2])
    paired = replace(ensemble, configuration=configuration)
    axis = paired.plan.left_right_axis(3)
    labels = torch.zeros(1, 1, 4, 4, 4)
    labels[..., 0] = scheme.outputs[first]
    tiles = torch.cat([torch.randn(1, 1, 4, 4, 4), labels], dim=1)
    for axes, channel in (((axis,), scheme.outputs[second]), ((), scheme.outputs[first])):
        found = paired._input(tiles, axes)
        assert torch.equal(found[:, :1], tiles[:, :1])
        assert found[:, channel].sum() == 16
        assert found[:, 1:].sum() == 16


def test_other_answers_of_the_first_stage_are_noticed(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained / "results" / NAME / "small__3d_lowres"
    file = next((model / "fold_0" / "validation").glob("*.nii.gz"))
    kept = file.read_bytes()
    image = sitk.ReadImage(str(file))
    changed = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(image), 3, axis=0))
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(file))
    assert cascade(trained) == 2
    assert "other cases or other images" in capsys.readouterr().err
    file.write_bytes(kept)
    assert cascade(trained) == 0


def test_status_names_the_cascade(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([*place(trained), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["configurations"]
    (row,) = (row for row in rows if row["configuration"] == "3d_cascade_fullres")
    assert [fold["state"] for fold in row["folds"]] == ["validated"] * 2
    dataset = read_dataset(trained / "raw" / NAME)
    assert row["preprocessed"] == len(dataset.cases)
    plan = Plan.read(trained / "preprocessed" / NAME / "plans" / "small.json")
    assert plan.input_channels("3d_cascade_fullres") == 1 + len(dataset.labels.values) - 1
