"""What there is to predict: files of several formats and channels, DICOM series in folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.core.errors import DataError, UsageError
from autoseg.core.files import unsafe_name
from autoseg.core.plan import Plan
from autoseg.prediction.scans import Scan, _as_file_name, find_scans

MakePlan = Callable[..., Plan]


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def test_cases_of_a_folder_are_grouped_by_channel(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan(normalization=("none", "none"))
    touch(tmp_path, "b_0000.nii.gz", "b_0001.nii.gz", "a x_0000.nii.gz", "a x_0001.nii.gz", "c_0000.nii.gz", "n.txt")
    cases, problems = find_scans(tmp_path, plan)
    assert [case.id for case in cases] == ["a x", "b"]
    assert [path.name for path in cases[1].images] == ["b_0000.nii.gz", "b_0001.nii.gz"]
    assert [problem.case for problem in problems] == ["c"]


def test_a_folder_of_another_format_is_taken(tmp_path: Path, make_plan: MakePlan) -> None:
    touch(tmp_path, "b_0000.mha")
    cases, problems = find_scans(tmp_path, make_plan())
    assert [case.id for case in cases] == ["b"]
    assert problems == []


@pytest.mark.parametrize(
    ("name", "expected"), [("scan.nii.gz", "scan"), ("scan_0000.nrrd", "scan"), ("a.b.nii", "a.b")]
)
def test_a_single_file_is_a_case(tmp_path: Path, make_plan: MakePlan, name: str, expected: str) -> None:
    touch(tmp_path, name)
    cases, problems = find_scans(tmp_path / name, make_plan())
    assert (cases, problems) == ([Scan(id=expected, images=(tmp_path / name,))], [])


@pytest.mark.parametrize(
    ("name", "channels", "match"),
    [
        ("missing", 1, "does not exist"),
        ("empty", 1, "holds no image"),
        ("scan.jpg", 1, "convert it first"),
        ("scan.nii.gz", 2, "give a folder"),
        (".scan.nii.gz", 1, "dot"),
        ("_0000.nii.gz", 1, "rename"),
    ],
)
def test_what_cannot_be_predicted_is_a_usage_error(
    tmp_path: Path, make_plan: MakePlan, name: str, channels: int, match: str
) -> None:
    touch(tmp_path, "scan.jpg", "scan.nii.gz", ".scan.nii.gz", "_0000.nii.gz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=match):
        find_scans(tmp_path / name, make_plan(normalization=["none"] * channels))


def test_a_dicom_series_is_read_as_its_files_say(real_data: Path, make_plan: MakePlan) -> None:
    folder = real_data / "dicom" / "prostatex_0000" / "t2w_tra"
    (scan,), problems = find_scans(folder, make_plan())
    assert problems == []
    assert scan.id == "t2w_tra"
    assert len(scan.files) == 19
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    truth = sitk.DICOMOrient(sitk.ReadImage(names), "LPS")
    loaded = scan.read()
    assert np.array_equal(loaded.image[0], sitk.GetArrayFromImage(truth))
    assert loaded.geometry.canonical.spacing_mm == pytest.approx(truth.GetSpacing()[::-1])


def test_series_are_called_by_their_folders(real_data: Path, make_plan: MakePlan, tmp_path: Path) -> None:
    patient = real_data / "dicom" / "prostatex_0000"
    apart, _ = find_scans(patient, make_plan())
    assert {"adc", "hbv", "t2w_tra"} <= {scan.id for scan in apart}
    mixed = tmp_path / "patient 1"
    mixed.mkdir()
    for folder in ("adc", "t2w_tra"):
        for path in (patient / folder).iterdir():
            shutil.copy(path, mixed / f"{folder}{path.name}")
    together, problems = find_scans(mixed, make_plan())
    assert problems == []
    assert len(together) == len({scan.id for scan in together}) == 2
    assert all(scan.id.startswith("patient-1_") for scan in together)


def test_a_mask_beside_the_slices_does_not_hide_them(
    real_data: Path, make_plan: MakePlan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(real_data / "dicom" / "prostatex_0000" / "adc", tmp_path / "p" / "adc")
    touch(tmp_path / "p", "mask.nrrd")
    (scan,), problems = find_scans(tmp_path / "p", make_plan())
    assert (scan.id, problems) == ("adc", [])
    assert "mask.nrrd is left out" in caplog.text
    touch(tmp_path / "p", "q_0000.nrrd")
    (scan,), (problem,) = find_scans(tmp_path / "p", make_plan())
    assert (scan.id, problem.file) == ("q", "mask.nrrd")
    shutil.rmtree(tmp_path / "p" / "adc")
    (tmp_path / "p" / "q_0000.nrrd").unlink()
    scans, (problem,) = find_scans(tmp_path / "p", make_plan())
    assert scans == []
    assert "channel number" in problem.found


def test_a_missing_slice_is_told_with_the_case(real_data: Path, make_plan: MakePlan, tmp_path: Path) -> None:
    source = real_data / "dicom" / "prostatex_0000" / "adc"
    for path in sorted(source.iterdir()):
        shutil.copy(path, tmp_path / path.name)
    (tmp_path / "1-09.dcm").unlink()
    (scan,), _ = find_scans(tmp_path, make_plan())
    with pytest.raises(DataError) as caught:
        scan.read()
    assert caught.value.problems[0].case == scan.id
    assert "slice" in str(caught.value)


def test_a_series_of_another_kind_is_left_out(
    real_data: Path, make_plan: MakePlan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = make_plan().with_changes(channel_names=["CT"])
    for name in ("dcmqi_ct3slice_liver_seg", "prostatex_0000"):
        shutil.copytree(real_data / "dicom" / name, tmp_path / name)
    scans, problems = find_scans(tmp_path, plan)
    assert len(scans) == 1
    assert scans[0].series is not None
    assert scans[0].series.modality == "CT"
    assert problems == []
    assert "the model is for CT" in caplog.text


def test_several_channels_cannot_come_from_dicom(real_data: Path, make_plan: MakePlan) -> None:
    with pytest.raises(UsageError, match="convert the series"):
        find_scans(real_data / "dicom" / "prostatex_0000", make_plan(normalization=("none", "none")))


def test_images_of_several_formats_are_all_taken(tmp_path: Path, make_plan: MakePlan) -> None:
    touch(tmp_path, "p_0000.nii.gz", "q_0000.nrrd", "q_0000.mha", "r_0000.nrrd")
    scans, problems = find_scans(tmp_path, make_plan())
    assert [scan.id for scan in scans] == ["p", "r"]
    assert [problem.case for problem in problems] == ["q"]


@pytest.mark.parametrize("name", ["scan...old", "..x..", "a" * 240, "é" * 200, "a/../b"])
def test_any_folder_gives_a_file_name(name: str) -> None:
    found = _as_file_name(name)
    assert found
    assert not unsafe_name(found)
    assert len((".12345678-" + found + "_probabilities.b2nd").encode()) <= 255
