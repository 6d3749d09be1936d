from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg.core.errors import DataError
from autoseg.core.strategy import Member, Step, Strategy
from autoseg.refinement import FileJob, apply, apply_to_file


@pytest.fixture
def strategy():
    def make(*steps, labels=None, order=()):
        declared = labels or {"background": 0, "second": 7, "first": 3}
        return Strategy(
            dataset="Dataset001_A",
            members=[Member(planner="default", configuration="3d_fullres")],
            labels=declared,
            regions_class_order=[*order],
            steps=[s if isinstance(s, Step) else Step(action="keep_largest", labels=[*s]) for s in steps],
        )

    return make


@pytest.fixture
def volume(blobs):
    """A large part with both labels, in which label 7 has two parts, and a small one with label 3."""
    return blobs(
        (4, 9, 10),
        (3, (1, 3, 1, 5, 1, 4)),
        (7, (1, 3, 1, 2, 1, 2)),
        (7, (1, 2, 4, 5, 3, 4)),
        (3, (0, 1, 7, 9, 9, 10)),
    )


def treated(strategy: Strategy, volume: np.ndarray, voxel_ml: float = 0.001) -> np.ndarray:
    return apply(strategy.steps, volume, scheme=strategy.scheme, voxel_ml=voxel_ml)


def test_together_removes_what_is_apart_from_the_largest_part_of_all(strategy, volume):
    one = strategy(("first", "second"))
    result = treated(one, volume)
    expected = volume.copy()
    expected[0] = 0
    assert np.array_equal(result, expected)
    assert result.dtype == volume.dtype


def test_single_removes_small_parts_of_that_label_only_and_leaves_background(strategy, volume):
    one = strategy(("second",))
    result = treated(one, volume)
    assert result[1, 4, 3] == 0
    assert (result != volume).sum() == 1


def test_steps_follow_each_other(strategy, volume):
    both = strategy(("first", "second"), ("second",))
    result = treated(both, volume)
    assert (result != volume).sum() == 3
    assert not result[0].any()


def test_input_is_never_changed_and_without_a_step_comes_back(strategy, volume):
    before = volume.copy()
    assert treated(strategy(), volume) is volume
    treated(strategy(("first",), ("second",)), volume)
    assert np.array_equal(volume, before)


def test_region_stands_for_all_its_values(strategy, blobs):
    one = strategy(("whole",), labels={"background": 0, "whole": [1, 2], "core": 2}, order=(1, 2))
    volume = blobs((3, 4, 12), (1, (1, 2, 1, 2, 0, 4)), (2, (1, 2, 1, 2, 4, 6)), (2, (1, 2, 1, 2, 8, 11)))
    result = treated(one, volume)
    assert result[1, 1].tolist() == [1, 1, 1, 1, 2, 2, 0, 0, 0, 0, 0, 0]


def test_parts_below_a_volume_go_and_those_of_that_volume_stay(strategy, blobs):
    volume = blobs((3, 5, 12), (7, (0, 1, 0, 1, 0, 3)), (7, (0, 1, 0, 1, 5, 7)), (3, (2, 3, 0, 1, 0, 1)))
    for voxel_ml, expected in ((0.1, 5), (0.05, 3), (float(np.float32(0.1)), 5), (0.01, 0)):
        one = strategy(Step(action="remove_smaller", labels=["second"], than_ml=0.15 if voxel_ml < 0.1 else 0.2))
        result = treated(one, volume, voxel_ml)
        assert (result == 7).sum() == expected
        assert (result == 3).sum() == 1


def test_holes_are_filled_where_there_is_no_other_label(strategy, blobs):
    volume = blobs((5, 7, 9), (7, (0, 5, 0, 5, 0, 5)), (0, (1, 3, 1, 3, 1, 3)), (3, (1, 2, 1, 2, 1, 2)))
    volume[4, 4, 4] = 0  # a notch in the corner, open to the outside
    one = strategy(Step(action="fill_holes", labels=["second"]))
    result = treated(one, volume)
    expected = volume.copy()
    expected[1:3, 1:3, 1:3] = 7
    expected[1, 1, 1] = 3
    assert np.array_equal(result, expected)
    assert treated(one, result) is result
    assert treated(one, np.zeros_like(volume)).sum() == 0


@pytest.mark.parametrize("orientation", ["", "RPI", "ASL"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_file_is_written_on_the_grid_of_its_source(tmp_path, strategy, volume, write, orientation, ending):
    source = write(tmp_path / f"a{ending}", volume, orientation)
    one = strategy(("first", "second"))
    job = FileJob(case="a", source=source, target=tmp_path / "out" / f"a{ending}", strategy=one)
    volumes_ml = apply_to_file(job)
    old, new = sitk.ReadImage(str(source)), sitk.ReadImage(str(job.target))
    for read in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection, sitk.Image.GetPixelID):
        assert read(old) == read(new)
    back = sitk.GetArrayFromImage(sitk.DICOMOrient(new, "LPS"))
    assert np.array_equal(back, treated(one, volume))
    assert volumes_ml["second"] == pytest.approx((back == 7).sum() * 0.7 * 0.9 * 2.5 / 1000, abs=1e-4)
    assert [*job.target.parent.iterdir()] == [job.target]


def test_file_of_another_data_set_is_refused_and_nothing_is_written(tmp_path, strategy, volume, write):
    source, target = write(tmp_path / "a.nii.gz", volume + np.uint8(1)), tmp_path / "b.nii.gz"
    with pytest.raises(DataError, match="label 1, 4, 8 is not declared"):
        apply_to_file(FileJob(case="a", source=source, target=target, strategy=strategy(("first",))))
    assert not target.exists()
