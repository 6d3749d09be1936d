from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.aftercare import examination, examine_machine
from autoseg.cli.doctor import main
from autoseg.core.workspace import Workspace
from autoseg.io.weights import save_weights
from autoseg.nets.build import build_network

Usage = namedtuple("Usage", "total used free")


def test_a_sound_machine_has_no_problem_and_everything_is_looked_at(call, tmp_path):
    code, printed, told = call(main, "--workspace", tmp_path / "not" / "there")
    assert code == 0, told
    for name in ("software", "processors", "memory", "raw", "preprocessed", "results", "worker processes", "GPU"):
        assert any(f"  {name}" in line for line in printed.splitlines()), name
    assert "BAD" not in printed
    assert not (tmp_path / "not").exists()


def test_what_lacks_is_told_with_a_cure(tmp_path, monkeypatch):
    workspace = Workspace(raw=tmp_path, preprocessed=tmp_path / "p", results=Path("/proc/autoseg"))
    monkeypatch.setattr(examination, "available_memory_gb", lambda: 2.0)
    monkeypatch.setattr(examination.shutil, "disk_usage", lambda path: Usage(10**9, 0, 5 * 10**8))
    found = {finding.name: finding for finding in examine_machine(workspace)}
    assert "close other programs" in found["memory"].next
    assert "--shm-size" in found["shared memory"].next
    assert "free some space" in found["preprocessed"].next
    assert found["raw"].next == ""  # nothing is written there
    assert found["results"].bad
    assert "--results" in found["results"].next
    assert not any(finding.bad for name, finding in found.items() if name != "results")


def test_a_gpu_that_pytorch_cannot_use_is_told(tmp_path, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("it can")
    monkeypatch.setattr(examination, "NVIDIA", tmp_path / "version")
    (tmp_path / "version").write_text("driver")
    (found,) = examination._gpus()
    assert found.bad
    assert "driver" in found.next


def test_every_defect_of_a_data_set_is_found_at_once(trained, call):
    code, printed, _ = call(main, *trained.where, "-np", 1)
    assert "6 cases, defects in 0" in printed
    image = sitk.ReadImage(str(trained.raw / "imagesTr" / "case_0_0000.nii.gz"))
    image.SetSpacing((5.0, 5.0, 5.0))
    sitk.WriteImage(image, str(trained.raw / "imagesTr" / "case_0_0000.nii.gz"))
    labels = trained.truth_of("case_1").copy()
    labels[0, 0, 0] = 9
    trained.write_image(trained.raw / "labelsTr" / "case_1.nii.gz", labels)
    (trained.raw / "labelsTr" / "case_2.nii.gz").unlink()
    (trained.raw / "cases.csv").write_text("name,sex\na,f\n")
    plans = trained.top / "preprocessed" / "Dataset900_Toy" / "plans"
    (plans / "own.json").write_text('{"schema_version": 1}')
    code, printed, _ = call(main, *trained.where, "-np", 1, "--json")
    problems = json.loads(printed)["problems"]
    assert code == 1
    assert {"case_0", "case_1", "case_2"} <= {problem["case"] for problem in problems}
    texts = " ".join(f"{p['file']} {p['found']}" for p in problems)
    for what in ("spacing", "label 9", "missing", "no column 'case'", "own.json"):
        assert what in texts, what


def test_damaged_models_are_named_by_their_fold(trained, call):
    model = trained.model("small")
    spec = trained.plan.configuration("small").network
    for fold, whole in ((0, True), (1, False)):
        network = build_network(spec, n_channels=1, n_outputs=trained.plan.scheme.n_outputs)
        path = model / f"fold_{fold}" / "weights.safetensors"
        save_weights(path, network.state_dict(), facts={})
        if not whole:
            path.write_bytes(path.read_bytes()[:-10])
    _, printed, _ = call(main, *trained.where, "-np", 1, "--json")
    facts = json.loads(printed)
    found = {finding["name"]: finding["found"] for finding in facts["findings"]}
    assert found["hand__small"] == "1 of 2 finished folds can be used"
    assert "fold_1" in {problem["case"] for problem in facts["problems"]}


def test_without_a_readable_declaration_only_that_is_told(world, call):
    (world.raw / "dataset.json").write_text("{")
    code, printed, _ = call(main, *world.where, "--json")
    assert code == 1
    (problem,) = json.loads(printed)["problems"]
    assert "dataset.json" in problem["file"]


def test_a_volume_that_is_wrong_in_two_ways_is_told_twice(world, call):
    image = sitk.GetImageFromArray(np.full((6, 16, 18), np.nan, np.float32))
    image.SetSpacing((9.0, 9.0, 9.0))
    sitk.WriteImage(image, str(world.raw / "imagesTr" / "case_3_0000.nii.gz"))
    _, printed, _ = call(main, *world.where, "--json", "-np", 1)
    found = " ".join(p["found"] for p in json.loads(printed)["problems"] if p["case"] == "case_3")
    assert "spacing" in found
    assert "NaN" in found


def test_a_folder_that_cannot_be_written_hides_no_finding(world, call):
    words = ["-d", "900", "--raw", world.top / "raw", "--preprocessed", "/proc/autoseg", "--results", world.top / "r"]
    code, printed, told = call(main, *words, "-np", 1)
    assert code == 1
    assert "  memory" in printed
    assert "/proc/autoseg" in told
