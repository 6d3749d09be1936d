"""Models that go from hand to hand: exported, imported, predicted with; and those of nnU-Net."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from peer_model import plans, results_folder, save, spec, their_tensors

from autoseg import Predictor
from autoseg.cli import ensemble, export_model, import_model, postprocess, predict
from autoseg.core.errors import DataError, UsageError
from autoseg.core.fingerprint import Seen
from autoseg.core.plan import Model, Plan
from autoseg.core.strategy import Member, Step, Strategy
from autoseg.core.workers import Outcome, WorkerPool
from autoseg.io.peer_plan import read_peer_plan
from autoseg.io.probability_file import open_probabilities
from autoseg.io.weights import save_weights
from autoseg.nets.build import build_network
from autoseg.pipeline import Words, opened_model
from autoseg.pipeline import export_model as write_model
from autoseg.prediction.scans import Scan

MakePlan = Callable[..., Plan]
FULLRES = ("configurations", "3d_fullres")
RAS_TURNED = (0.0, -1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def trained(results: Path, plan: Plan, *, planner: str = "hand", folds: Sequence[str] = "01", seed: int = 0) -> Path:
    """A results folder with random weights."""
    folder = results / plan.dataset / f"{planner}__small"
    Model(configuration="small", plan=plan.with_changes(planner=planner), autoseg_version="0").write(
        folder / "model.json"
    )
    network_spec = plan.configuration("small").network
    for number, fold in enumerate(folds):
        torch.manual_seed(seed + number)
        network = build_network(network_spec, n_channels=len(plan.channel_names), n_outputs=plan.scheme.n_outputs)
        save_weights(folder / f"fold_{fold}" / "weights.safetensors", network.state_dict(), facts={})
    return folder


def write_image(path: Path, *, shape: tuple[int, int, int] = (9, 12, 11), seed: int = 0) -> None:
    voxels = np.random.default_rng(seed).normal(2, 2, shape).astype(np.float32)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.0, 1.25, 2.0))
    image.SetOrigin((5.0, -7.0, 11.0))
    image.SetDirection(RAS_TURNED)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def predicted(tmp_path: Path, model: Path, out: Path) -> int:
    images = ["-i", str(tmp_path / "in"), "-o", str(out), "--device", "cpu", "--save_probabilities"]
    return predict.main(["-m", str(model), *images])


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture
def place(tmp_path: Path, make_plan: MakePlan) -> list[str]:
    """A trained model and two images; returns -d and the places."""
    trained(tmp_path / "results", make_plan(labels={"background": 0, "a": 3, "b": 7}, mirror_axes=[0, 2]))
    for case in "pq":
        write_image(tmp_path / "in" / f"{case}_0000.nii.gz", seed=ord(case))
    return ["-d", "900", "--raw", str(tmp_path / "raw"), "--results", str(tmp_path / "results"), "--planner", "hand"]


@pytest.mark.parametrize("form", ["model.zip", "model"])
def test_an_exported_model_predicts_what_its_folder_predicts(tmp_path: Path, place: list[str], form: str) -> None:
    model = tmp_path / form
    words = ["--licence", "CC-BY 4.0", "--description", "Two things."]
    assert export_model.main([*place, "-c", "small", "-o", str(model), *words]) == 0
    images = ["-i", str(tmp_path / "in"), "--device", "cpu"]
    assert predict.main([*place, "-c", "small", *images, "-o", str(tmp_path / "first")]) == 0
    assert predicted(tmp_path, model, tmp_path / "second") == 0
    assert import_model.main([str(model), "-o", str(tmp_path / "again")]) == 0
    assert predict.main(["-m", str(tmp_path / "again"), *images, "-o", str(tmp_path / "third"), "-f", "0", "1"]) == 0
    for case in "pq":
        first, second, third = (voxels(tmp_path / name / f"{case}.nii.gz") for name in ("first", "second", "third"))
        assert len(np.unique(first)) > 1
        assert np.array_equal(first, second)
        assert np.array_equal(first, third)
    record = json.loads((tmp_path / "second" / "prediction.json").read_text())
    assert (record["model"], record["folds"]) == (str(model), ["0", "1"])
    card = json.loads((tmp_path / "again" / "card.json").read_text())
    assert (card["licence"], card["description"], card["configurations"]) == (
        "CC-BY 4.0",
        "Two things.",
        ["hand__small"],
    )


@pytest.mark.parametrize("inside", [["thesis.txt"], ["thesis.txt", "model/card.json"], ["thesis.txt", "card.json"]])
def test_what_stands_there_is_not_overwritten(tmp_path: Path, place: list[str], capsys: Any, inside: list[str]) -> None:
    for name in inside:
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text("years of work")
    (tmp_path / "letter").write_text("dear")
    command = [*place, "-c", "small", "-o"]
    for target in ("mine", "letter"):
        assert export_model.main([*command, str(tmp_path / target), "--overwrite"]) == 2
        assert export_model.main([*command, str(tmp_path / target), "--overwrite", "--container"]) == 2
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "letter").read_text() == "dear"
    assert export_model.main([*command, str(tmp_path / "a.zip")]) == 0
    assert export_model.main([*command, str(tmp_path / "a.zip")]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert export_model.main([*command, str(tmp_path / "a.zip"), "--overwrite"]) == 0
    assert not list(tmp_path.glob(".*"))


def test_words_go_onto_the_card_and_other_options_are_refused(tmp_path: Path, place: list[str]) -> None:
    assert export_model.main([*place, "-c", "small", "-o", str(tmp_path / "a.zip"), "--name", "Old"]) == 0
    assert import_model.main([str(tmp_path / "a.zip"), "-o", str(tmp_path / "b"), "--licence", "CC0"]) == 0
    card = json.loads((tmp_path / "b" / "card.json").read_text())
    assert (card["name"], card["licence"]) == ("Old", "CC0")
    (tmp_path / "b" / ".DS_Store").write_text("")
    assert import_model.main([str(tmp_path / "b"), "-o", str(tmp_path / "c.zip")]) == 0
    assert import_model.main([str(tmp_path / "b"), "-o", str(tmp_path / "d.zip"), "-f", "0"]) == 2


def test_files_of_another_model_do_not_pass_as_done(tmp_path: Path, make_plan: MakePlan) -> None:
    labels = {"background": 0, "a": 1, "b": 2}
    models = [trained(tmp_path / "results", make_plan(labels=labels), planner=f"p{i}", seed=9 * i) for i in range(2)]
    write_image(tmp_path / "in" / "p_0000.nii.gz")
    images = ["-i", str(tmp_path / "in"), "--device", "cpu", "-o"]
    nrrd = ["--format", "nrrd", "--save_probabilities"]
    assert predict.main(["-m", str(models[0]), *images, str(tmp_path / "out"), *nrrd]) == 0
    assert predict.main(["-m", str(models[1]), *images, str(tmp_path / "out")]) == 0
    assert predict.main(["-m", str(models[1]), *images, str(tmp_path / "out"), *nrrd]) == 0
    assert predict.main(["-m", str(models[1]), *images, str(tmp_path / "anew"), *nrrd]) == 0
    assert np.array_equal(voxels(tmp_path / "out" / "p.nrrd"), voxels(tmp_path / "anew" / "p.nrrd"))
    found, expected = (open_probabilities(tmp_path / f / "p_probabilities.b2nd").probabilities for f in ("out", "anew"))
    assert np.array_equal(found, expected)


def test_parts_are_done_for_a_later_whole(tmp_path: Path, place: list[str], capsys: Any) -> None:
    model = tmp_path / "results" / "Dataset900_Toy" / "hand__small"
    images = ["-m", str(model), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--device", "cpu"]
    for part in ("0/2", "1/2"):
        assert predict.main([*images, "--part", part]) == 0
    capsys.readouterr()
    assert predict.main(images) == 0
    assert "2 cases predicted (0 now)" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "out" / "prediction.json").read_text())["cases"]) == {"p", "q"}


def test_one_unforeseen_error_does_not_end_the_others(
    tmp_path: Path, place: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Scan.read

    def read(self: Scan) -> Any:
        if self.id == "p":
            raise ZeroDivisionError("odd")
        return whole(self)

    monkeypatch.setattr(Scan, "read", read)
    assert predicted(tmp_path, tmp_path / "results" / "Dataset900_Toy" / "hand__small", tmp_path / "out") == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert (tmp_path / "out" / "q.nii.gz").is_file()
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert [failure["case"] for failure in record["failures"]] == ["p"]


def test_a_damaged_fold_is_not_exported(tmp_path: Path, place: list[str]) -> None:
    weights = tmp_path / "results" / "Dataset900_Toy" / "hand__small" / "fold_1" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    assert export_model.main([*place, "-c", "small", "-o", str(tmp_path / "a.zip")]) == 1
    assert not (tmp_path / "a.zip").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_hostile_file_writes_nothing_outside(tmp_path: Path, place: list[str], capsys: Any) -> None:
    assert export_model.main([*place, "-c", "small", "-o", str(tmp_path / "a.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("../../evil.txt", "evil")
    before = sorted(tmp_path.rglob("*"))
    assert import_model.main([str(tmp_path / "a.zip"), "-o", str(tmp_path / "b")]) == 1
    assert predicted(tmp_path, tmp_path / "a.zip", tmp_path / "out") == 1
    assert "nothing was extracted" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_several_configurations_answer_together(tmp_path: Path, make_plan: MakePlan) -> None:
    labels = {"background": 0, "a": 1, "b": 2}
    plans_ = [
        make_plan(labels=labels, spacing_mm=(2.0, 1.25, 1.0)),
        make_plan(labels=labels, spacing_mm=(1.0, 1.5, 2.0), patch_size=(4, 8, 8)),
    ]
    folders = [trained(tmp_path / "results", plan, planner=f"p{i}", seed=7 * i) for i, plan in enumerate(plans_)]
    write_image(tmp_path / "in" / "p_0000.nii.gz")
    probabilities = []
    for folder in folders:
        out = tmp_path / folder.name
        assert predicted(tmp_path, folder, out) == 0
        probabilities.append(open_probabilities(out / "p_probabilities.b2nd").probabilities)
        # a hundredth or two lie between two labels as nearly as the quantisation goes
        assert (probabilities[-1].argmax(axis=0) == voxels(out / "p.nii.gz")).mean() > 0.97
    from autoseg.pipeline import PredictOptions
    from autoseg.pipeline import predict as predict_with

    options = PredictOptions(device="cpu", probabilities=True)
    outcome = predict_with(folders, tmp_path / "in", tmp_path / "both", options)
    assert outcome.problems == []
    stored = open_probabilities(tmp_path / "both" / "p_probabilities.b2nd")
    assert [*stored.scheme.outputs] == ["background", "a", "b"]
    both = stored.probabilities
    np.testing.assert_allclose(both, np.mean(probabilities, axis=0), atol=2.1 / 510)
    assert (both.argmax(axis=0) == voxels(tmp_path / "both" / "p.nii.gz")).mean() > 0.97  # where two are nearly equal
    out = tmp_path / "stored"
    assert ensemble.main(["-i", *(str(tmp_path / folder.name) for folder in folders), "-o", str(out), "-np", "0"]) == 0
    assert (voxels(out / "p.nii.gz") == voxels(tmp_path / "both" / "p.nii.gz")).mean() > 0.97
    other = trained(tmp_path / "results", make_plan(labels={"background": 0, "c": 1}), planner="p3")
    with pytest.raises(UsageError, match="cannot answer together"):
        predict_with([folders[0], other], tmp_path / "in", tmp_path / "no", options)


def test_the_predictor_answers_as_the_command_does(tmp_path: Path, place: list[str]) -> None:
    model = tmp_path / "results" / "Dataset900_Toy" / "hand__small"
    assert predicted(tmp_path, model, tmp_path / "out") == 0
    files = [tmp_path / "in" / f"{case}_0000.nii.gz" for case in "pq"]
    segment = Predictor.load(model, device="cpu")
    assert segment.channel_names == ("channel 0",)
    expected = [voxels(tmp_path / "out" / f"{case}.nii.gz") for case in "pq"]
    image = sitk.ReadImage(str(files[0]))
    for given in (files[0], str(files[0]), image, [image]):
        found = segment(given)
        assert np.array_equal(sitk.GetArrayFromImage(found), expected[0])
        for what in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(found, what)() == getattr(image, what)()
    for result, truth in zip(segment.many(files), expected, strict=True):
        assert np.array_equal(sitk.GetArrayFromImage(result), truth)
    canonical = sitk.DICOMOrient(image, "LPS")
    array = sitk.GetArrayFromImage(canonical)
    labels, probabilities = segment(array, spacing_mm=canonical.GetSpacing()[::-1], return_probabilities=True)
    truth = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "out" / "p.nii.gz")), "LPS")
    assert np.array_equal(labels, sitk.GetArrayFromImage(truth))
    assert np.array_equal(np.array([0, 3, 7])[probabilities.argmax(axis=0)], labels)
    stored = open_probabilities(tmp_path / "out" / "p_probabilities.b2nd").probabilities
    _, exact = segment(files[0], return_probabilities=True)
    assert exact.dtype == np.float32
    assert np.abs(stored - exact).max() <= 0.5 / 255 + 1e-6


def test_the_predictor_logs_what_is_unusual(tmp_path: Path, place: list[str], caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "results" / "Dataset900_Toy" / "hand__small"
    seen = Seen(cases=2, spacing_mm=[(1, 1)] * 3, extent_mm=[(5, 50)] * 3)
    Model.read(folder / "model.json").with_changes(seen=seen).write(folder / "model.json")
    segment = Predictor.load(folder, device="cpu")
    segment(np.zeros((9, 12, 11), dtype=np.float32), spacing_mm=(1, 1, 1))
    assert caplog.text == ""
    segment(np.zeros((9, 12, 11), dtype=np.float32), spacing_mm=(1, 1, 3))
    assert "spacing" in caplog.text


def test_the_predictor_is_safe_in_threads(tmp_path: Path, place: list[str]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    segment = Predictor.load(tmp_path / "results" / "Dataset900_Toy" / "hand__small", device="cpu")
    files = [tmp_path / "in" / f"{case}_0000.nii.gz" for case in "pq"] * 4
    expected = [sitk.GetArrayFromImage(segment(file)) for file in files]
    with ThreadPoolExecutor(4) as pool:
        for found, truth in zip(pool.map(segment, files), expected, strict=True):
            assert np.array_equal(sitk.GetArrayFromImage(found), truth)


@pytest.mark.parametrize(
    ("image", "spacing", "error", "match"),
    [
        (np.zeros((3, 4, 5)), None, UsageError, "spacing_mm"),
        (np.zeros((3, 4, 5)), (1, 0, 1), UsageError, "positive"),
        (np.zeros((4, 5)), (1, 1, 1), UsageError, "no image"),
        (np.full((3, 4, 5), np.nan), (1, 1, 1), DataError, "NaN"),
        (np.zeros((2, 3, 4, 5)), (1, 1, 1), DataError, "2 channels where the model needs 1"),
        ("missing.nii.gz", None, DataError, "does not exist"),
        ("missing.nii.gz", (1, 1, 1), UsageError, "for arrays"),
        ({"a": 1}, None, UsageError, "no image"),
    ],
)
def test_the_predictor_says_what_is_wrong(
    tmp_path: Path, place: list[str], image: Any, spacing: Any, error: Any, match: str
) -> None:
    segment = Predictor.load(tmp_path / "results" / "Dataset900_Toy" / "hand__small", device="cpu")
    with pytest.raises(error, match=match):
        segment(image, spacing_mm=spacing)


@pytest.mark.parametrize("network", [spec(), spec("residual_encoder_unet", (1, 3, 2))], ids=["plain", "residual"])
def test_a_model_of_nnunet_is_run_as_it_was_trained(tmp_path: Path, network: Any) -> None:
    """Against a computation by hand: stored orientation, its normalisation, its names, one tile, no mirroring."""
    source = results_folder(tmp_path / "theirs", network)
    theirs, own = their_tensors(network, seed=1 + ord("0"))
    save(source / "fold_0" / "checkpoint_final.pth", theirs, inference_allowed_mirroring_axes=None)
    shape = (16, 8, 8)  # along its axes 1, 0, 2 the patch
    for channel in range(2):
        write_image(tmp_path / "in" / f"p_000{channel}.nii.gz", shape=shape, seed=channel)
        image = sitk.ReadImage(str(tmp_path / "in" / f"p_000{channel}.nii.gz"))
        image.SetSpacing((0.75, 1.5, 1.0))  # its target: nothing is resampled
        sitk.WriteImage(image, str(tmp_path / "in" / f"p_000{channel}.nii.gz"))
    assert import_model.main([str(source), "-o", str(tmp_path / "m.zip")]) == 0
    assert predicted(tmp_path, tmp_path / "m.zip", tmp_path / "out") == 0
    ct, mr = (voxels(tmp_path / "in" / f"p_000{channel}.nii.gz").astype(np.float64) for channel in range(2))
    ct = (np.clip(ct, -2, 8) - 2) / 1.5
    mr = (mr - mr.mean()) / mr.std()
    net = build_network(network, n_channels=2, n_outputs=3).eval()
    net.load_state_dict(own)
    tile = np.stack([ct, mr]).transpose(0, 2, 1, 3).astype(np.float32)
    with torch.no_grad():
        labels = net(torch.from_numpy(tile.copy())[None])[0].argmax(0).numpy().transpose(1, 0, 2)
    assert len(np.unique(labels)) == 3
    assert np.array_equal(voxels(tmp_path / "out" / "p.nii.gz"), labels)


def test_a_cascade_of_nnunet_comes_with_its_first_stage(tmp_path: Path, capsys: Any) -> None:
    source = results_folder(tmp_path / "theirs", spec(), configuration="3d_cascade_fullres", extra_channels=2)
    assert import_model.main([str(source), "-o", str(tmp_path / "m.zip")]) == 2
    assert "nnUNetTrainer__nnUNetPlans__3d_lowres" in capsys.readouterr().err
    results_folder(tmp_path / "theirs", spec(), configuration="3d_lowres")
    assert import_model.main([str(source), "-o", str(tmp_path / "m.zip")]) == 0
    for channel in range(2):
        write_image(tmp_path / "in" / f"p_000{channel}.nii.gz", seed=channel)
    assert predicted(tmp_path, tmp_path / "m.zip", tmp_path / "out") == 0
    assert len(np.unique(voxels(tmp_path / "out" / "p.nii.gz"))) > 1
    with opened_model(tmp_path / "m.zip") as opened:
        (main,) = opened.folders
        model = Model.read(main / "model.json")
        assert model.configuration == "3d_cascade_fullres"
        assert model.plan.configuration("3d_lowres").mirror_axes == [0, 2]
        assert model.plan.orientation == "stored"


def test_plans_of_older_versions_are_understood(tmp_path: Path) -> None:
    network = spec()
    new = plans(network)
    old = plans(network)
    for configuration in ("3d_fullres", "3d_lowres"):
        told = old["configurations"][configuration]
        del told["architecture"]
        told |= {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 4,
            "unet_max_num_features": 8,
            "n_conv_per_stage_encoder": network.blocks_per_stage,
            "n_conv_per_stage_decoder": network.blocks_per_stage_decoder,
            "conv_kernel_sizes": network.kernel_sizes,
            "pool_op_kernel_sizes": network.strides,
            "num_pool_per_axis": [1, 2, 2],
        }
    old["foreground_intensity_properties_by_modality"] = old.pop("foreground_intensity_properties_per_channel")
    found = []
    for name, value in (("new", new), ("old", old)):
        folder = results_folder(tmp_path / name, network)
        (folder / "plans.json").write_text(json.dumps(value))
        found.append(read_peer_plan(folder, mirror_axes={"3d_fullres": [1]}))
    assert found[0] == found[1]
    assert found[0].configuration("3d_fullres").network == network


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [
        (("image_reader_writer",), "Tiff3DIO", "Tiff3DIO"),
        (("label_manager",), "MyLabels", "MyLabels"),
        (("plans_name",), "../x", "path separator"),
        (("transpose_forward",), [0, 1], "transpose_forward"),
        ((*FULLRES, "preprocessor_name"), "Mine", "Mine"),
        ((*FULLRES, "resampling_fn_probabilities"), "no_resampling", "no_resampling"),
        ((*FULLRES, "resampling_fn_data_kwargs", "order"), 1, "order"),
        ((*FULLRES, "normalization_schemes"), ["Odd", "Odd"], "Odd"),
        ((*FULLRES, "architecture", "network_class_name"), "a.b.Primus", "Primus"),
        (
            ("configurations", "3d_fullres", "architecture", "arch_kwargs", "norm_op"),
            "torch.nn.BatchNorm3d",
            "another way",
        ),
        ((*FULLRES, "architecture", "arch_kwargs", "nonlin"), "torch.nn.ReLU", "another way"),
        (
            ("configurations", "3d_fullres", "architecture", "arch_kwargs", "strides"),
            [[1, 1, 1]],
            "no complete network",
        ),
        ((*FULLRES, "patch_size"), [8, 15, 8], "multiple"),
    ],
)
def test_what_is_not_computed_here_is_refused(tmp_path: Path, place: tuple[str, ...], value: Any, match: str) -> None:
    source = results_folder(tmp_path, spec())
    told = plans(spec())
    at = told
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    (source / "plans.json").write_text(json.dumps(told))
    with pytest.raises((DataError, UsageError), match=match):
        read_peer_plan(source, mirror_axes={"3d_fullres": []})
    assert import_model.main([str(source), "-o", str(tmp_path / "m.zip")]) == 1
    assert not (tmp_path / "m.zip").exists()


def test_weights_of_another_network_are_refused(tmp_path: Path, capsys: Any) -> None:
    source = results_folder(tmp_path, spec())
    save(source / "fold_0" / "checkpoint_final.pth", their_tensors(spec(blocks=(1, 1, 1)))[0])
    assert import_model.main([str(source), "-o", str(tmp_path / "m.zip")]) == 1
    assert "do not fit" in capsys.readouterr().err
    assert not (tmp_path / "m.zip").exists()


def test_a_worker_of_a_cluster_predicts_from_its_job_alone(
    tmp_path: Path, place: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a pickle, standing in another folder; the pool itself is tested with a real cluster elsewhere."""
    handed_out: list[bytes] = []

    def work_elsewhere(self: WorkerPool, function: Any, jobs: Any, *, ahead: int = 2) -> Any:
        assert self.scheduler == "tcp://somewhere"
        for job in jobs:
            handed_out.append(pickle.dumps(job))
            with monkeypatch.context() as there:
                there.chdir(tmp_path / "elsewhere")
                result = function(pickle.loads(handed_out[-1]))
            yield Outcome(job=job, result=result)

    (tmp_path / "elsewhere").mkdir()
    model = tmp_path / "results" / "Dataset900_Toy" / "hand__small"
    assert predicted(tmp_path, model, tmp_path / "here") == 0
    monkeypatch.setattr(WorkerPool, "map", work_elsewhere)
    monkeypatch.chdir(tmp_path)
    images = ["-i", "in", "-o", "there", "--device", "cpu"]
    assert predict.main(["-m", str(model), *images, "--scheduler", "tcp://somewhere"]) == 0
    assert len(handed_out) == 2
    plan = Model.read(model / "model.json").plan
    strategy = Strategy(
        dataset=plan.dataset,
        members=[Member(planner="hand", configuration="small")],
        labels=plan.labels,
        steps=[Step(action="remove_smaller", labels=["b"], than_ml=100)],
    )
    strategy.write(model.parent / "strategy.json")
    followed = ["-d", *place[1:-2], "-i", "in", "-o", "cleaned", "--device", "cpu"]
    assert predict.main([*followed, "--scheduler", "tcp://somewhere"]) == 0
    assert 7 in voxels(tmp_path / "there" / "p.nii.gz")
    assert 7 not in voxels(tmp_path / "cleaned" / "p.nii.gz")
    for case in "pq":
        assert np.array_equal(
            voxels(tmp_path / "here" / f"{case}.nii.gz"), voxels(tmp_path / "there" / f"{case}.nii.gz")
        )
    options = {
        where: json.loads((tmp_path / where / "prediction.json").read_text())["options"] for where in ("here", "there")
    }
    assert [options[where]["precision"] for where in ("here", "there")] == [
        "float32",
        "auto",
    ]  # each worker chooses its own


def test_channels_of_one_name_have_folders_of_their_own(tmp_path: Path, make_plan: MakePlan) -> None:
    from autoseg.pipeline.container import write_container

    names = ["MRI", "T1+", "MRI", "T1-", "???"]
    write_container(tmp_path / "c", name="Five", channel_names=names)
    inputs = json.loads((tmp_path / "c" / "config.json").read_text())["inputs"]
    assert inputs == ["images/mri-0", "images/t1-1", "images/mri-2", "images/t1-3", "images/image"]
    for folder, cases in zip(inputs, ("ab", "ab", "ab", "ac", "ab"), strict=True):
        for case in cases:
            write_image(tmp_path / "input" / folder / f"{case}.mha")
    environment = {**os.environ, "INPUT": str(tmp_path / "input"), "OUTPUT": str(tmp_path / "output")}
    command = [sys.executable, str(tmp_path / "c" / "process.py")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "all channels of a case need the same file name" in done.stderr
    assert not (tmp_path / "output").exists()


def test_no_file_of_somebody_else_is_lost(tmp_path: Path, place: list[str], capsys: Any) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for case in "pq":
        (out / f"{case}.nii.gz").write_text(f"a mask of {case}")
    words = [*place, "-c", "small", "-i", str(tmp_path / "in"), "-o", str(out), "--device", "cpu"]
    (tmp_path / "in" / "q_0000.nii.gz").rename(tmp_path / "q_0000.nii.gz")
    (tmp_path / "in" / "q_0000.nii.gz").write_bytes(b"damaged")
    assert predict.main(words) == 1
    assert "p.nii.gz is not as autoseg has written it; it is kept as p.nii.gz.earlier" in capsys.readouterr().err
    assert [(out / f"{case}.nii.gz.earlier").read_text() for case in "pq"] == ["a mask of p", "a mask of q"]
    assert not (out / "q.nii.gz").exists()
    (tmp_path / "q_0000.nii.gz").replace(tmp_path / "in" / "q_0000.nii.gz")
    assert predict.main(words) == 0
    made = {case: (out / f"{case}.nii.gz").read_bytes() for case in "pq"}
    (out / "p.nii.gz").write_text("corrected by hand")
    assert predict.main(words) == 0  # what is not as it was written is made again
    assert (out / "p.nii.gz.earlier2").read_text() == "corrected by hand"
    assert {case: (out / f"{case}.nii.gz").read_bytes() for case in "pq"} == made
    assert predict.main([*words, "--no_mirroring"]) == 0  # its own files it replaces
    assert len([*out.glob("*.earlier*")]) == 3
    (tmp_path / "in" / "p_0000.nii.gz").write_bytes(b"damaged")
    assert predict.main(words) == 1  # the older result must not pass for one of this image
    assert not (out / "p.nii.gz").exists()
    assert (out / "p.nii.gz.earlier3").is_file()


def test_an_image_of_the_same_name_does_not_take_the_place_of_the_other(
    tmp_path: Path, place: list[str], capsys: Any
) -> None:
    out = tmp_path / "out"
    words = [*place, "-c", "small", "-o", str(out), "--device", "cpu", "-i"]
    assert predict.main([*words, str(tmp_path / "in")]) == 0
    first = (out / "p.nii.gz").read_bytes()
    write_image(tmp_path / "other" / "p_0000.nii.gz", shape=(7, 12, 11), seed=5)
    capsys.readouterr()
    assert predict.main([*words, str(tmp_path / "other")]) == 0
    assert "p.nii.gz was made from another image of the same name; it is kept as p.nii.gz.earlier" in (
        capsys.readouterr().err
    )
    assert (out / "p.nii.gz.earlier").read_bytes() == first
    assert voxels(out / "p.nii.gz").shape == (7, 12, 11)
    assert [path.name for path in out.glob("*.earlier*")] == ["p.nii.gz.earlier"]


def test_two_formats_of_one_prediction_stay_and_those_of_an_earlier_one_do_not(
    tmp_path: Path, place: list[str], capsys: Any
) -> None:
    out = tmp_path / "out"
    words = [*place, "-c", "small", "-i", str(tmp_path / "in"), "-o", str(out), "--device", "cpu"]
    assert predict.main([*words, "--format", "nrrd", "--save_probabilities"]) == 0
    assert predict.main(words) == 0
    made = {path.name for path in out.iterdir()}
    assert {"p.nrrd", "p.nii.gz", "p_probabilities.b2nd"} <= made
    capsys.readouterr()
    for ending in ("nii.gz", "nrrd"):
        assert predict.main([*words, "--format", ending]) == 0
        assert "(0 now)" in capsys.readouterr().out
    assert predict.main([*words, "--no_mirroring"]) == 0
    assert "p.nrrd is of an earlier prediction; it is kept as p.nrrd.earlier" in capsys.readouterr().err
    assert {path.name for path in out.iterdir() if path.name.startswith("p")} == {
        "p.nii.gz",
        "p.nrrd.earlier",
        "p_probabilities.b2nd.earlier",
        "prediction.json",
    }


def test_prediction_follows_the_strategy_unless_a_model_is_chosen(
    tmp_path: Path, place: list[str], make_plan: MakePlan, capsys: Any
) -> None:
    trained(tmp_path / "results", make_plan(labels={"background": 0, "a": 3, "b": 7}), planner="other", seed=9)
    step = Step(action="remove_smaller", labels=["b"], than_ml=0.05)
    strategy = Strategy(
        dataset="Dataset900_Toy",
        members=[Member(planner=planner, configuration="small") for planner in ("hand", "other")],
        labels={"background": 0, "a": 3, "b": 7},
        steps=[step],
    )
    path = tmp_path / "results" / "Dataset900_Toy" / "strategy.json"
    strategy.write(path)
    words = ["-d", "900", "--raw", str(tmp_path / "raw"), "--results", str(tmp_path / "results"), "--device", "cpu"]
    images = ["-i", str(tmp_path / "in")]
    assert predict.main([*words, *images, "-o", str(tmp_path / "out")]) == 0
    assert "following" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert record["options"]["postprocessing"] == [step.model_dump()]
    assert record["configurations"] == ["small", "small"]
    strategy.with_changes(steps=[]).write(path)
    assert predict.main([*words, *images, "-o", str(tmp_path / "plain")]) == 0
    strategy.write(path)
    steps = ["-i", str(tmp_path / "plain"), "-o", str(tmp_path / "clean"), "--strategy", str(path)]
    assert postprocess.main(steps) == 0
    capsys.readouterr()
    for chosen in (["-c", "small", "--planner", "hand"], ["--planner", "hand", "-c", "small"]):
        assert predict.main([*words, *chosen, *images, "-o", str(tmp_path / "one")]) == 0
        assert "following" not in capsys.readouterr().err
    changed = 0
    for case in "pq":
        out, clean, plain, one = (
            voxels(tmp_path / name / f"{case}.nii.gz") for name in ("out", "clean", "plain", "one")
        )
        assert np.array_equal(out, clean)
        changed += (plain != clean).sum()
        assert not np.array_equal(plain, one)
    assert changed > 10
    other = {"background": 0, "a": 3, "lesion": 7}
    strange = Step(action="keep_largest", labels=["lesion"])
    strategy.with_changes(labels=other, steps=[strange.model_dump()]).write(path)
    assert predict.main([*words, *images, "-o", str(tmp_path / "none")]) == 2
    assert "names 'lesion', which the model does not know" in capsys.readouterr().err
    path.write_text('{"schema_version": 1}')
    assert predict.main([*words, *images, "-o", str(tmp_path / "none")]) == 1
    assert "run autoseg_find_best_configuration again" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "none").exists()


def test_models_of_two_planners_are_told_apart(
    tmp_path: Path, place: list[str], make_plan: MakePlan, capsys: Any
) -> None:
    trained(tmp_path / "results", make_plan(labels={"background": 0, "a": 3, "b": 7}), planner="other", seed=9)
    folder = tmp_path / "results" / "Dataset900_Toy"
    models = [folder / f"{planner}__small" for planner in ("hand", "other")]
    write_model(models, tmp_path / "m", folds=None, words=Words(name="two"))
    images = ["-i", str(tmp_path / "in"), "--device", "cpu"]
    assert predict.main(["-m", str(tmp_path / "m"), *images, "-o", str(tmp_path / "both")]) == 0
    record = json.loads((tmp_path / "both" / "prediction.json").read_text())
    assert [*record["trust"]] == ["hand__small", "other__small"]
    assert predict.main(["-m", str(tmp_path / "m"), "-c", "other__small", *images, "-o", str(tmp_path / "one")]) == 0
    capsys.readouterr()
    assert predict.main(["-m", str(tmp_path / "m"), "-c", "small", *images, "-o", str(tmp_path / "none")]) == 2
    assert "has no configuration small" in " ".join(capsys.readouterr().err.split())


def test_a_card_whose_steps_name_other_labels_is_refused(tmp_path: Path, place: list[str], capsys: Any) -> None:
    assert export_model.main([*place, "-c", "small", "-o", str(tmp_path / "m")]) == 0
    card = tmp_path / "m" / "card.json"
    step = {"action": "keep_largest", "labels": ["lesion"]}
    card.write_text(json.dumps({**json.loads(card.read_text()), "steps": [step]}))
    assert predicted(tmp_path, tmp_path / "m", tmp_path / "out") == 1
    assert "a step names 'lesion', which is no label" in " ".join(capsys.readouterr().err.split())


def test_an_exported_model_carries_the_strategy(tmp_path: Path, place: list[str], make_plan: MakePlan) -> None:
    trained(tmp_path / "results", make_plan(labels={"background": 0, "a": 3, "b": 7}), planner="other", seed=9)
    step = Step(action="remove_smaller", labels=["b"], than_ml=0.05)
    Strategy(
        dataset="Dataset900_Toy",
        members=[Member(planner=planner, configuration="small") for planner in ("hand", "other")],
        labels={"background": 0, "a": 3, "b": 7},
        steps=[step],
    ).write(tmp_path / "results" / "Dataset900_Toy" / "strategy.json")
    words = ["-d", "900", "--raw", str(tmp_path / "raw"), "--results", str(tmp_path / "results")]
    model = tmp_path / "m.zip"
    assert export_model.main([*words, "-o", str(model)]) == 0
    images = ["-i", str(tmp_path / "in"), "--device", "cpu"]
    assert predict.main([*words, *images, "-o", str(tmp_path / "here")]) == 0
    assert predict.main(["-m", str(model), *images, "-o", str(tmp_path / "there")]) == 0
    assert predict.main(["-m", str(model), "-c", "hand__small", *images, "-o", str(tmp_path / "one")]) == 0
    ours = Predictor.load(model, device="cpu")
    for case in "pq":
        here, there = (voxels(tmp_path / name / f"{case}.nii.gz") for name in ("here", "there"))
        assert np.array_equal(here, there)
        found = sitk.GetArrayFromImage(ours(tmp_path / "in" / f"{case}_0000.nii.gz"))
        assert np.array_equal(here, found)
    recorded = {
        name: json.loads((tmp_path / name / "prediction.json").read_text())["options"]["postprocessing"]
        for name in ("there", "one")
    }
    assert recorded == {"there": [step.model_dump()], "one": []}
    with zipfile.ZipFile(model) as archive:
        assert "no part of b below 0.05 ml" in archive.read("README.md").decode()
    assert import_model.main([str(model), "-o", str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again" / "card.json").read_text())["steps"] == [step.model_dump()]


def test_a_folder_that_cannot_be_written_is_told_before_the_first_case(
    tmp_path: Path, place: list[str], capsys: Any
) -> None:
    (tmp_path / "file").write_text("no folder")
    images = ["-i", str(tmp_path / "in"), "--device", "cpu"]
    for target in (tmp_path / "file" / "below", Path("/proc/autoseg")):
        assert predict.main([*place, "-c", "small", *images, "-o", str(target)]) == 2
        error = capsys.readouterr().err
        assert "cannot be written" in error
        assert "give another folder with -o" in error
        assert "predict 0/" not in error


def test_messages_name_the_model_file_and_not_where_it_is_unpacked(
    tmp_path: Path, place: list[str], capsys: Any
) -> None:
    model = tmp_path / "m.zip"
    assert export_model.main([*place, "-c", "small", "-o", str(model)]) == 0
    capsys.readouterr()
    assert predict.main(["-m", str(model), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-f", "9"]) == 2
    error = capsys.readouterr().err
    assert str(model) in error
    assert "autoseg_model_" not in error


def test_the_image_is_never_overwritten_through_a_link(tmp_path: Path, place: list[str], capsys: Any) -> None:
    image, links = tmp_path / "in" / "p_0000.nii.gz", tmp_path / "links"
    links.mkdir()
    for name in ("p.nii.gz", "q_0000.nii.gz"):
        (links / name).symlink_to(image)
    before = image.read_bytes()
    assert predict.main([*place, "-c", "small", "-i", str(links / "p.nii.gz"), "-o", str(tmp_path / "in")]) == 2
    assert "the output folder is the input folder" in capsys.readouterr().err
    out = tmp_path / "out"
    out.mkdir()
    (out / "q.nii.gz").symlink_to(image)
    assert predict.main([*place, "-c", "small", "-i", str(links / "q_0000.nii.gz"), "-o", str(out)]) == 2
    assert "is the image itself, by a link" in capsys.readouterr().err
    assert image.read_bytes() == before


def test_a_container_segments_what_a_challenge_puts_there(tmp_path: Path, place: list[str]) -> None:
    """Its entry point is run here as the container would run it: this machine has no docker."""
    folder = tmp_path / "container"
    assert export_model.main([*place, "-c", "small", "-o", str(folder), "--container", "--name", "Two things"]) == 0
    assert export_model.main([*place, "-c", "small", "-o", str(folder), "--container"]) == 2
    copied = re.findall(r"^COPY (.*) \S+$", (folder / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert all((folder / name).exists() for names in copied for name in names.split())
    assert "torch" in (folder / "requirements.txt").read_text()
    config = json.loads((folder / "config.json").read_text())
    assert config["inputs"] == ["images/channel-0"]
    source = tmp_path / "input" / "images" / "channel-0"
    source.mkdir(parents=True)
    names = ["1.2.826.0.1", "d3b0"]
    for name, case in zip(names, "pq", strict=True):
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "in" / f"{case}_0000.nii.gz")), str(source / f"{name}.mha"))
    environment = {**os.environ, "INPUT": str(tmp_path / "input"), "OUTPUT": str(tmp_path / "output")}
    environment["PYTHONPATH"] = str(folder)
    config["options"] = ["--device", "cpu"]
    (folder / "config.json").write_text(json.dumps(config))
    command = [sys.executable, str(folder / "process.py")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again = tmp_path / "again"
    assert import_model.main([str(folder / "model"), "-o", str(again), "--container"]) == 0
    assert {path.name for path in again.iterdir()} == {path.name for path in folder.iterdir()}
    assert import_model.main([str(folder / "model"), "-o", str(tmp_path / "again.zip"), "--container"]) == 2
    assert predicted(tmp_path, folder / "model", tmp_path / "expected") == 0
    for name, case in zip(names, "pq", strict=True):
        found = voxels(tmp_path / "output" / "images" / "segmentation" / f"{name}.mha")
        assert np.array_equal(found, voxels(tmp_path / "expected" / f"{case}.nii.gz"))
    (source / f"{names[0]}.mha").unlink()
    (source / f"{names[1]}.mha").unlink()
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, "0 in" in done.stderr) == (1, True)
