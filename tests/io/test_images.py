from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.core.dataset import Case, read_dataset
from autoseg.core.errors import DataError
from autoseg.core.labels import LabelScheme
from autoseg.io.images import read_case

RNG = np.random.default_rng(3)
IMAGE = RNG.normal(size=(7, 6, 5)).astype(np.float32)
LABELS = RNG.integers(0, 3, size=(7, 6, 5)).astype(np.uint8)
SCHEME = LabelScheme(declared={"background": 0, "organ": 1, "tumour": 2})
OBLIQUE = np.array([[0, -0.96, 0.28], [0, 0.28, 0.96], [-1, 0, 0]])


def _found(caught) -> list[str]:
    return [f"{problem.file}: {problem.found}" for problem in caught.value.problems]


def _case(stored, label=LABELS, *, channels=(IMAGE,), **place):
    images = tuple(stored(voxels, f"case_07_{i:04d}.nii.gz", **place) for i, voxels in enumerate(channels))
    path = None if label is None else stored(label, "case_07.nii.gz", **place)
    return Case(id="case_07", images=images, label=path)


def test_channels_and_label_come_in_canonical_orientation(stored):
    case = _case(stored, channels=(IMAGE, IMAGE[::-1].astype(np.float64)), direction=OBLIQUE)
    loaded = read_case(case, labels=SCHEME)
    expected = [
        sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(path), "LPS")) for path in (*case.images, case.label)
    ]
    assert loaded.id == "case_07"
    assert loaded.warnings == ()
    assert loaded.image.dtype == np.float32
    assert loaded.image.flags.c_contiguous
    assert np.array_equal(loaded.image, np.stack(expected[:2]).astype(np.float32))
    assert loaded.label.dtype == np.int16
    assert loaded.label.flags.c_contiguous
    assert np.array_equal(loaded.label, expected[2])
    assert loaded.geometry.shape == (7, 6, 5)
    assert loaded.image.shape[1:] == loaded.geometry.canonical.shape


def test_the_label_is_read_only_when_its_meaning_is_given(stored):
    assert read_case(_case(stored), labels=None).label is None
    assert read_case(_case(stored, None), labels=SCHEME).label is None


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"])
def test_labels_of_any_type_become_values_inside(stored, dtype):
    scheme = LabelScheme(declared={"background": 0, "far": 100, "near": 7, "ignore": 101})
    file_labels = np.array([0, 7, 100, 101])[RNG.integers(0, 4, size=IMAGE.shape)].astype(dtype)
    inside = read_case(_case(stored, file_labels), labels=scheme).label
    assert np.array_equal(inside, np.select([file_labels == 7, file_labels == 100, file_labels == 101], [1, 2, 3]))


def test_fractional_labels_are_refused(stored):
    labels = LABELS.astype(np.float32)
    labels[3, 3, 3] = 0.5
    with pytest.raises(DataError) as caught:
        read_case(_case(stored, labels), labels=SCHEME)
    assert _found(caught) == ["case_07.nii.gz: label 0.5 is no whole number"]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([5], "label 5 is not in dataset.json (0-2)"),
        ([-1], "label -1 is not in dataset.json (0-2)"),
        ([9, 5], "labels 5, 9 are not in dataset.json (0-2)"),
        (range(100, 120), "labels 100-119 are not in dataset.json (0-2)"),
        (
            range(100, 120, 2),
            "labels 100, 102, 104, 106, 108, 110, 112, 114, ... are not in dataset.json (0-2)",
        ),
    ],
)
def test_undeclared_labels_are_named(stored, values, found):
    labels = LABELS.astype(np.int16)
    labels.flat[: len(list(values))] = list(values)
    with pytest.raises(DataError) as caught:
        read_case(_case(stored, labels), labels=SCHEME)
    assert _found(caught) == [f"case_07.nii.gz: {found}"]
    assert "fix the mask or add the label" in str(caught.value)


def test_the_ignore_label_is_declared_and_no_foreground(stored):
    scheme = LabelScheme(declared={"background": 0, "organ": 1, "ignore": 2})
    loaded = read_case(_case(stored, (LABELS // 2 * 2).astype(np.uint8)), labels=scheme)
    assert set(np.unique(loaded.label)) == {0, 2}
    assert [warning.found for warning in loaded.warnings] == ["has no foreground"]


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ({"spacing": (0.7, 1.1, 2.51)}, "spacing 2.51 1.1 0.7 instead of 2.5 1.1 0.7 mm"),
        ({"direction": [[1, 0, 0], [0, 0.9998, -0.02], [0, 0.02, 0.9998]]}, "direction"),
        ({"direction": -np.eye(3)}, "direction"),
        (
            {"origin": (-10.5, 20.25, 302.0)},
            "origin -10.5 20.25 302 instead of -10.5 20.25 300.125 mm (0.75 voxels off)",
        ),
    ],
)
@pytest.mark.parametrize("other", ["case_07_0001.nii.gz", "case_07.nii.gz"])
def test_a_channel_or_label_that_lies_elsewhere_is_refused(stored, place, found, other):
    case = _case(stored, channels=(IMAGE, IMAGE))
    stored(LABELS, other, **place)
    with pytest.raises(DataError) as caught:
        read_case(case, labels=SCHEME)
    assert len(_found(caught)) == 1
    assert _found(caught)[0].startswith(f"{other}: {found}")
    assert "resample it onto the grid of case_07_0000.nii.gz" in str(caught.value)


@pytest.mark.parametrize("other", ["case_07_0001.nii.gz", "case_07.nii.gz"])
def test_another_shape_is_refused(stored, other):
    case = _case(stored, channels=(IMAGE, IMAGE))
    stored(LABELS[:6], other)
    with pytest.raises(DataError) as caught:
        read_case(case, labels=SCHEME)
    assert _found(caught) == [f"{other}: shape 6x6x5 instead of 7x6x5 (z, y, x)"]


def test_small_differences_of_place_pass_and_half_a_voxel_is_a_warning(stored):
    case = _case(stored, channels=(IMAGE, IMAGE, IMAGE))
    stored(IMAGE, "case_07_0001.nii.gz", spacing=(0.700007, 1.1, 2.50002), origin=(-10.50001, 20.25, 300.125))
    assert read_case(case, labels=SCHEME).warnings == ()
    stored(IMAGE, "case_07_0002.nii.gz", origin=(-10.5, 20.25, 301.3))
    (warning,) = read_case(case, labels=SCHEME).warnings
    assert (warning.case, warning.file) == ("case_07", "case_07_0002.nii.gz")
    assert warning.found.startswith("origin ")
    assert "0.47 voxels off" in warning.found


def test_every_defect_of_a_case_is_reported(stored, nifti):
    case = _case(stored, channels=(IMAGE,) * 5)
    labels = LABELS.copy()
    labels[0, 0, 0] = 77
    stored(labels, "case_07.nii.gz", spacing=(9, 9, 9))
    case.images[0].write_bytes(case.images[0].read_bytes()[:-20])
    case.images[1].write_bytes(b"")
    stored(np.full_like(IMAGE, np.nan), "case_07_0003.nii.gz")
    nifti(IMAGE, name="case_07_0004.nii.gz", pixdim=(1, 0, 1, 1, 0, 0, 0, 0))
    with pytest.raises(DataError) as caught:
        read_case(case, labels=SCHEME)
    assert {problem.case for problem in caught.value.problems} == {"case_07"}
    assert [text.partition(":")[0] for text in _found(caught)] == [
        "case_07_0000.nii.gz",
        "case_07_0001.nii.gz",
        "case_07_0003.nii.gz",
        "case_07_0004.nii.gz",
        "case_07.nii.gz",
        "case_07.nii.gz",
    ]


@pytest.mark.parametrize(("voxels", "found"), [(0, "all voxels are 0"), (-1024.5, "all voxels are -1024.5")])
def test_a_constant_channel_is_a_warning(stored, voxels, found):
    case = _case(stored, channels=(IMAGE, np.full_like(IMAGE, voxels)))
    (warning,) = read_case(case, labels=SCHEME).warnings
    assert (warning.file, warning.found) == ("case_07_0001.nii.gz", found)


def test_a_label_without_foreground_is_a_warning(stored):
    (warning,) = read_case(_case(stored, LABELS * 0), labels=SCHEME).warnings
    assert (warning.file, warning.found) == ("case_07.nii.gz", "has no foreground")


def test_a_declared_label_that_does_not_occur_is_fine(stored):
    scheme = LabelScheme(declared={"background": 0, "organ": 1, "tumour": 2, "cyst": 3})
    assert read_case(_case(stored), labels=scheme).warnings == ()


def test_values_beyond_32_bit_floats_are_refused(stored):
    voxels = IMAGE.astype(np.float64)
    voxels[0, 0, 0] = 1e300
    with pytest.raises(DataError, match="beyond the range of 32-bit floats"):
        read_case(_case(stored, channels=(voxels,)), labels=SCHEME)


def test_errors_travel_between_processes(stored):
    import pickle

    with pytest.raises(DataError) as caught:
        read_case(_case(stored, LABELS + 5), labels=SCHEME)
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


@pytest.mark.parametrize("name", ["Dataset004_Hippocampus", "Dataset801_SpinalCordGM"])
def test_real_data_sets_are_read_without_problems(real_data, name):
    dataset = read_dataset(real_data / name)
    assert not dataset.problems
    cases = list(dataset.cases.values())
    with_float_labels = [case for case in cases if "float" in _voxel_type(case.label)]
    assert bool(with_float_labels) == (name == "Dataset004_Hippocampus")
    for case in [*with_float_labels, *cases[:: len(cases) // 6]]:
        loaded = read_case(case, labels=dataset.labels)
        image = sitk.DICOMOrient(sitk.ReadImage(case.images[0]), "LPS")
        label = sitk.DICOMOrient(sitk.ReadImage(case.label), "LPS")
        assert np.array_equal(loaded.image[0], sitk.GetArrayFromImage(image).astype(np.float32))
        assert np.array_equal(loaded.label, sitk.GetArrayFromImage(label))


def _voxel_type(path: Path) -> str:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return sitk.GetPixelIDValueAsString(reader.GetPixelID())


def test_real_images_on_permuted_axes_agree_with_their_label(real_data):
    folder = real_data / "single_cases/sct_testing"
    case = Case(id="t2", images=(folder / "t2.nii.gz",), label=folder / "t2_seg-manual.nii.gz")
    loaded = read_case(case, labels=LabelScheme(declared={"background": 0, "cord": 1}))
    assert loaded.geometry.orientation.axes != (0, 1, 2)
    reference = sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(case.label), "LPS"))
    assert np.array_equal(loaded.label, reference)
    assert loaded.label.any()


def test_a_real_channel_on_another_grid_is_refused(real_data):
    folder = real_data / "single_cases/isles22_case9"
    images = tuple(folder / f"sub-strokecase0009_ses-0001_{kind}.nii.gz" for kind in ("dwi", "adc", "flair"))
    case = Case(id="isles", images=images, label=folder / "sub-strokecase0009_ses-0001_msk.nii.gz")
    with pytest.raises(DataError) as caught:
        read_case(case, labels=LabelScheme(declared={"background": 0, "lesion": 1}))
    assert {problem.file for problem in caught.value.problems} == {images[2].name}
    assert "shape" in str(caught.value)


def test_real_nrrd_and_mha_are_read(real_data):
    folder = real_data / "single_cases/pyradiomics"
    brain = Case(id="brain1", images=(folder / "brain1_image.nrrd",), label=folder / "brain1_label.nrrd")
    loaded = read_case(brain, labels=LabelScheme(declared={"background": 0, "tumour": 1}))
    assert loaded.label.any()
    assert loaded.image.std() > 0
    lung = real_data / "single_cases/elastix_lungct/3DCT_lung_baseline_small.mha"
    assert read_case(Case(id="lung", images=(lung,)), labels=None).image.std() > 0
