"""One case is measured rightly, once, and again when its files, its labels or the stored measure changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from autoseg.core.dataset import Case, Dataset
from autoseg.core.errors import DataError
from autoseg.core.labels import LabelScheme
from autoseg.core.workspace import Workspace
from autoseg.fingerprinting.measure_case import MeasureJob, load_measure, measure_case

MODULE = import_module("autoseg.fingerprinting.measure_case")
SCHEME = LabelScheme(declared={"background": 0, "organ": 10, "both": (10, 20), "tumour": 20, "ignore": 30})
RAS = np.diag([-1, -1, 1])


@pytest.fixture
def job(toy: Callable[..., Dataset], tmp_path: Path) -> MeasureJob:
    dataset = toy(1)
    return MeasureJob(
        case=dataset.cases["case_0"], labels=dataset.labels, max_samples=1000, path=tmp_path / "case_0.npz"
    )


@pytest.fixture
def asymmetric(write_case: Callable[..., None], workspace: Workspace, tmp_path: Path) -> Callable[..., MeasureJob]:
    """One case of 4 x 5 x 6 voxels of 3 x 2 x 1.5 mm (z, y, x); the first and last row in y are empty."""

    def make(*, stored: str = "straight") -> MeasureJob:
        image = np.random.default_rng(1).normal(50, 5, size=(2, 4, 5, 6)).astype(np.float32)
        image[:, :, [0, 4]] = 0
        label = np.zeros((4, 5, 6), dtype=np.uint8)
        label[1, 2, 5] = 10
        label[2, 2, 4:] = 20
        label[3, 3, 0] = 30
        spacing, direction = (1.5, 2.0, 3.0), np.eye(3)
        if stored == "flipped":  # the same patient, both axes in the plane reversed
            image, label, direction = image[..., ::-1, ::-1], label[..., ::-1, ::-1], RAS
        if stored == "permuted":  # the same patient, the index axes are z, x, y
            image, label = np.moveaxis(image, 1, 3), np.moveaxis(label, 0, 2)
            spacing, direction = (3.0, 1.5, 2.0), np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
        write_case("one", image, label, spacing=spacing, direction=direction)
        folder = workspace.raw / "Dataset007_Toy"
        images = tuple(folder / "imagesTr" / f"one_{channel:04d}.nii.gz" for channel in range(2))
        case = Case(id="one", images=images, label=folder / "labelsTr" / "one.nii.gz")
        return MeasureJob(case=case, labels=SCHEME, max_samples=1000, path=tmp_path / "measured" / "one.npz")

    return make


@pytest.mark.parametrize("stored", ["straight", "flipped", "permuted"])
def test_facts_are_those_of_the_patient_however_the_file_is_stored(
    asymmetric: Callable[..., MeasureJob], stored: str
) -> None:
    job = asymmetric(stored=stored)
    assert measure_case(job)
    found = load_measure(job.path)
    assert found.spacing_mm == pytest.approx((3.0, 2.0, 1.5))
    assert found.shape_after_crop == (4, 3, 6)
    assert found.relative_size_after_crop == pytest.approx(3 / 5)
    voxel_ml = 3.0 * 2.0 * 1.5 / 1000
    assert set(found.labels) == {"organ", "tumour", "both"}
    assert found.labels["organ"] == pytest.approx((voxel_ml, 2.5 * 1.5))
    assert found.labels["tumour"] == pytest.approx((2 * voxel_ml, 2 * 1.5))
    assert found.labels["both"] == pytest.approx((3 * voxel_ml, (2.5 + 4) / 3 * 1.5))


def test_samples_are_the_foreground_without_the_ignore_label(asymmetric: Callable[..., MeasureJob]) -> None:
    job = asymmetric()
    measure_case(job)
    found = load_measure(job.path)
    image = np.random.default_rng(1).normal(50, 5, size=(2, 4, 5, 6)).astype(np.float32)
    expected = np.stack([image[:, 1, 2, 5], image[:, 2, 2, 4], image[:, 2, 2, 5]], axis=1)
    assert found.n_foreground == 3
    assert found.samples.dtype == np.float32
    np.testing.assert_array_equal(found.samples, expected)


def test_a_limit_draws_that_many_different_voxels_and_the_same_each_time(job: MeasureJob, tmp_path: Path) -> None:
    measure_case(job)
    everything = load_measure(job.path).samples
    assert everything.shape[1] > 8
    some = [replace(job, max_samples=8, path=tmp_path / name) for name in ("a.npz", "b.npz")]
    assert all(map(measure_case, some))
    first, second = (load_measure(each.path).samples for each in some)
    np.testing.assert_array_equal(first, second)
    assert first.shape == (2, 8)
    assert len(np.unique(first[0])) == 8
    columns = {tuple(column) for column in everything.T}
    assert all(tuple(column) in columns for column in first.T)  # channels stay together


def test_a_measured_case_is_not_read_again(job: MeasureJob, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measure_case(job) is True
    before = job.path.stat().st_mtime_ns
    monkeypatch.setattr(MODULE, "read_case", lambda *_, **__: pytest.fail("was read again"))
    assert measure_case(job) is False
    assert job.path.stat().st_mtime_ns == before


def test_another_number_of_cases_matters_only_where_voxels_were_left_out(job: MeasureJob) -> None:
    measure_case(job)
    n = load_measure(job.path).n_foreground
    assert measure_case(replace(job, max_samples=n)) is False
    assert measure_case(replace(job, max_samples=10**6)) is False
    assert measure_case(replace(job, max_samples=n - 1)) is True
    assert load_measure(job.path).samples.shape[1] == n - 1
    assert measure_case(replace(job, max_samples=n - 1)) is False
    assert measure_case(replace(job, max_samples=n - 2)) is True
    assert measure_case(replace(job, max_samples=10**6)) is True
    assert load_measure(job.path).samples.shape[1] == n


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_changed_file_is_measured_again(job: MeasureJob, which: int) -> None:
    measure_case(job)
    before = load_measure(job.path)
    path, other = job.case.files[which], job.case.files[1 if which == 0 else 0]
    if which < 2:
        path.write_bytes(other.read_bytes())
    else:
        path.write_bytes(path.read_bytes() + b"\0")  # as zero padding behind gzip data: the same voxels
    assert measure_case(job) is True
    assert load_measure(job.path).key != before.key


def test_other_labels_are_measured_again(job: MeasureJob) -> None:
    measure_case(job)
    renamed = LabelScheme(declared={"background": 0, "sphere": 1})
    assert measure_case(replace(job, labels=renamed)) is True
    assert set(load_measure(job.path).labels) == {"sphere"}


@pytest.mark.parametrize("content", [b"", b"PK", b"\0" * 500, b"\x93NUMPY nonsense", b"{}"])
def test_a_damaged_measure_is_made_again(job: MeasureJob, content: bytes) -> None:
    measure_case(job)
    good = job.path.read_bytes()
    for damaged in (content, good[:100] + content, good[:-50], good[50:]):
        job.path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            load_measure(job.path)
        assert measure_case(job) is True
        assert measure_case(job) is False


def test_a_flipped_bit_anywhere_in_the_measure_is_harmless(job: MeasureJob) -> None:
    measure_case(job)
    good, expected = job.path.read_bytes(), load_measure(job.path)
    for at in np.random.default_rng(0).integers(0, len(good), size=300):
        damaged = bytearray(good)
        damaged[at] ^= 1 << int(at) % 8
        job.path.write_bytes(bytes(damaged))
        try:
            found = load_measure(job.path)
        except DataError:
            continue
        for name in ("samples", "signature"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert replace(found, samples=expected.samples, signature=expected.signature) == expected


def test_a_measure_of_an_older_version_is_made_again(job: MeasureJob, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_case(job)
    monkeypatch.setattr(MODULE, "MEASURE_VERSION", MODULE.MEASURE_VERSION + 1)
    assert measure_case(job) is True


def test_a_bad_case_leaves_no_measure(job: MeasureJob) -> None:
    job.case.images[0].write_bytes(job.case.images[0].read_bytes()[:200])
    with pytest.raises(DataError):
        measure_case(job)
    assert not job.path.exists()


def test_warnings_are_kept_with_the_measure(write_case: Callable[..., None], workspace: Workspace) -> None:
    write_case("empty", np.ones((1, 3, 4, 5)), np.zeros((3, 4, 5)))
    folder = workspace.raw / "Dataset007_Toy"
    files = folder / "imagesTr" / "empty_0000.nii.gz", folder / "labelsTr" / "empty.nii.gz"
    case = Case(id="empty", images=files[:1], label=files[1])
    job = MeasureJob(case=case, labels=SCHEME, max_samples=9, path=workspace.measured_case("D", "empty"))
    measure_case(job)
    found = load_measure(job.path)
    assert [w.found for w in found.warnings] == ["all voxels are 1", "has no foreground"]
    assert (found.n_foreground, found.samples.shape, found.labels) == (0, (1, 0), {})
