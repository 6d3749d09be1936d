"""The phantoms are a valid, varied and anatomically right data set, and the same one for the same seed."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from autoseg.core.dataset import Dataset, cases_in_folder, read_dataset
from autoseg.core.errors import UsageError
from autoseg.phantoms import write_phantoms

# The structures of which each can be told by its density; the two kidneys share theirs.
DISTINCT = ("lesion", "liver", "spleen", "left_kidney", "aorta")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's own data set."""
    folder = tmp_path_factory.mktemp("raw") / "Dataset900_Phantoms"
    write_phantoms(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return read_dataset(folder)


@pytest.fixture(scope="module")
def pairs(folder: Path) -> dict[str, tuple[sitk.Image, sitk.Image]]:
    """Image and label of every training and test case."""
    found = {}
    for image in sorted([*folder.glob("imagesTr/*.nii.gz"), *folder.glob("imagesTs/*.nii.gz")]):
        label = folder / image.parent.name.replace("images", "labels") / image.name.replace("_0000", "")
        found[label.name] = sitk.ReadImage(str(image)), sitk.ReadImage(str(label))
    return found


def _centroid_mm(labels: sitk.Image, value: int) -> NDArray[np.float64]:
    """Mean physical position (x to the left, y to the back, z up), computed by ITK."""
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(labels)
    return np.array(statistics.GetCentroid(value))


def test_dataset_is_read_without_problems_or_warnings(folder: Path, dataset: Dataset) -> None:
    assert (dataset.problems, dataset.warnings) == ((), ())
    assert len(dataset.cases) == 10
    assert dataset.channel_names == ("CT",)
    problems: list = []
    tests = cases_in_folder(folder / "imagesTs", ending=".nii.gz", n_channels=1, problems=problems)
    assert len(tests) == 3
    assert problems == []
    assert not set(tests) & set(dataset.cases)


def test_image_and_label_share_their_grid_and_have_small_types(pairs: dict) -> None:
    for image, labels in pairs.values():
        for fact in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(image, fact)() == getattr(labels, fact)()
        assert image.GetPixelID() == sitk.sitkInt16
        assert labels.GetPixelID() == sitk.sitkUInt8


def test_every_structure_is_large_enough_in_every_case(dataset: Dataset, pairs: dict) -> None:
    for case, (_, labels) in pairs.items():
        counts = np.bincount(sitk.GetArrayViewFromImage(labels).ravel())
        assert len(counts) == len(dataset.labels.values), case
        assert counts.min() >= 40, (case, counts)


def test_volumes_are_small_and_no_two_grids_are_equal(pairs: dict) -> None:
    plain = [image.GetSize() for image, _ in pairs.values() if max(image.GetSpacing()) < 1.5 * min(image.GetSpacing())]
    assert len(plain) == 11
    for size in plain:
        assert all(0.8 < n / typical < 1.2 for n, typical in zip(sorted(size), (24, 30, 36), strict=True))
    assert len({image.GetSpacing() for image, _ in pairs.values()}) == len(pairs)


def test_sides_are_those_of_a_human_in_physical_coordinates(dataset: Dataset, pairs: dict) -> None:
    for case, (_, labels) in pairs.items():
        at = {name: _centroid_mm(labels, values[0]) for name, values in dataset.labels.foreground.items()}
        assert at["left_kidney"][0] > at["aorta"][0] + 20 > at["right_kidney"][0] + 60, case
        assert at["spleen"][0] > at["liver"][0] + 50, case
        assert at["liver"][2] > at["right_kidney"][2] + 20, case
        assert at["left_kidney"][1] > at["liver"][1] + 10, case


def test_lesion_lies_inside_the_liver(dataset: Dataset, pairs: dict) -> None:
    lesion, liver = (dataset.labels.foreground[name][0] for name in ("lesion", "liver"))
    for case, (_, labels) in pairs.items():
        array = sitk.GetArrayFromImage(labels)
        inside = array == lesion
        shell = sitk.GetArrayFromImage(sitk.BinaryDilate(sitk.Cast(labels == lesion, sitk.sitkUInt8), (1, 1, 1)))
        around = array[(shell == 1) & ~inside]
        assert (around == liver).mean() > 0.8, case


def test_kidneys_mirror_each_other_but_liver_and_spleen_do_not(dataset: Dataset, pairs: dict) -> None:
    at = {name: [] for name in dataset.labels.foreground}
    for _, labels in pairs.values():
        middle = _centroid_mm(labels, dataset.labels.foreground["aorta"][0])
        for name, values in dataset.labels.foreground.items():
            at[name].append((_centroid_mm(labels, values[0]) - middle) * (-1 if name == "right_kidney" else 1, 1, 1))
    left, right, liver, spleen = (np.mean(at[n], axis=0) for n in ("left_kidney", "right_kidney", "liver", "spleen"))
    assert np.abs(left - right).max() < 25
    assert liver[0] < -25 < 25 < spleen[0]


def test_some_cases_are_stored_in_other_orientations(pairs: dict) -> None:
    codes = [
        sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(i.GetDirection()) for i, _ in pairs.values()
    ]
    assert sorted(set(codes)) == ["LPS", "PIR", "RAS"]
    assert codes.count("LPS") == len(codes) - 3


def test_one_training_case_has_thick_slices(dataset: Dataset, pairs: dict) -> None:
    ratios = [max(s) / min(s) for s in (pairs[f"{case}.nii.gz"][0].GetSpacing() for case in dataset.cases)]
    assert sum(ratio > 3 for ratio in ratios) == 1
    assert sum(ratio < 1.5 for ratio in ratios) == 9


def test_mean_densities_are_those_of_ct_and_distinct_in_every_case(dataset: Dataset, pairs: dict) -> None:
    for case, (image, labels) in pairs.items():
        hu, array = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(labels)
        means = [hu[dataset.labels.mask(array, name)].mean() for name in DISTINCT]
        assert (np.diff(means) > 15).all(), (case, means)
        assert 20 < means[0] < 60, (case, means)
        assert 170 < means[-1] < 300, (case, means)
        assert hu.min() >= -1024, case
        assert np.percentile(hu, 1) < -950, case
        assert np.percentile(hu, 99.5) > 300, case


def test_noise_is_there_but_below_the_differences(dataset: Dataset, pairs: dict) -> None:
    for image, labels in pairs.values():
        core = sitk.BinaryErode(sitk.Cast(labels == dataset.labels.foreground["liver"][0], sitk.sitkUInt8), (2, 2, 1))
        deep = sitk.GetArrayFromImage(image)[sitk.GetArrayFromImage(core) == 1]
        assert 10 < deep.std() < 35


def _content(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.*")}


def test_same_arguments_give_the_same_bytes_and_another_seed_another_patient(tmp_path: Path) -> None:
    for name, seed in (("once", 3), ("again", 3), ("other", 4)):
        write_phantoms(tmp_path / name, n_train=1, n_test=1, seed=seed, size="tiny")
    once, other = _content(tmp_path / "once"), _content(tmp_path / "other")
    assert len(once) == 5
    assert once == _content(tmp_path / "again")
    assert [name for name in once if once[name] == other[name]] == ["dataset.json"]
    assert once["imagesTr/phantom_01_0000.nii.gz"] != once["imagesTs/phantom_02_0000.nii.gz"]


def test_a_training_case_does_not_depend_on_the_number_of_cases(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "one", n_train=1, n_test=0, size="tiny")
    write_phantoms(tmp_path / "two", n_train=2, n_test=0, size="tiny")
    one, two = _content(tmp_path / "one"), _content(tmp_path / "two")
    assert {name for name in one if one[name] == two[name]} == set(one) - {"dataset.json"}


def test_tiny_cases_hold_every_structure_in_few_voxels(tmp_path: Path) -> None:
    write_phantoms(tmp_path, n_train=4, n_test=1, size="tiny")
    declared = read_dataset(tmp_path)
    assert declared.problems == declared.warnings == ()
    for case in declared.cases.values():
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(case.label)))
        assert array.size < 25_000
        assert np.bincount(array.ravel(), minlength=7).min() >= 15
    assert len(list((tmp_path / "labelsTs").iterdir())) == 1


def test_a_broken_off_run_leaves_no_partial_file_and_no_declaration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = sitk.WriteImage

    def fail_at_third(image: sitk.Image, path: str, **options: bool) -> None:
        write(image, path, **options)
        written.append(path)
        if len(written) == 3:
            raise OSError("disk full")

    monkeypatch.setattr(sitk, "WriteImage", fail_at_third)
    with pytest.raises(OSError, match="disk full"):
        write_phantoms(tmp_path, n_train=3, n_test=0, size="tiny")
    files = sorted(f.name for f in tmp_path.rglob("*") if f.is_file())
    assert files == ["phantom_01.nii.gz", "phantom_01_0000.nii.gz"]


@pytest.mark.parametrize("arguments", [{"size": "huge"}, {"n_train": 0}, {"n_test": -1}])
def test_senseless_arguments_are_refused_before_anything_is_written(tmp_path: Path, arguments: dict) -> None:
    with pytest.raises(UsageError):
        write_phantoms(tmp_path / "raw", **arguments)
    assert not (tmp_path / "raw").exists()


def test_progress_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="autoseg"):
        write_phantoms(tmp_path, n_train=1, n_test=0, size="tiny")
    assert "1 training and 0 test" in caplog.text
