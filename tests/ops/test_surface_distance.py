"""Surface distances against DeepMind's surface-distance, and against bodies whose distance is known."""

from __future__ import annotations

import numpy as np
import pytest
import surface_distance as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from autoseg.ops.surface_distance import SurfaceDistances, cell_areas_mm2, cell_codes, surface_distances

pytestmark = pytest.mark.usefixtures("reference_areas_once")
Mask = NDArray[np.bool_]


def check(truth: Mask, predicted: Mask, spacing_mm: tuple[float, float, float]) -> None:
    found = surface_distances(truth, predicted, spacing_mm=spacing_mm)
    if not truth.any() or not predicted.any():
        assert found.hausdorff_mm() is None
        assert found.mean_mm is None
        assert found.normalised_surface_dice(1.0) == (None if truth.any() == predicted.any() else 0)
        return
    expected = reference.compute_surface_distances(truth, predicted, spacing_mm)
    for percent in (51.7, 95, 100):
        wanted = reference.compute_robust_hausdorff(expected, percent)
        assert found.hausdorff_mm(percent) == pytest.approx(wanted, abs=1e-9)
    for tolerance_mm in (0.0, 0.77, 2.5):
        wanted = reference.compute_surface_dice_at_tolerance(expected, tolerance_mm)
        assert found.normalised_surface_dice(tolerance_mm) == pytest.approx(wanted, abs=1e-9)
    ways = [("gt_to_pred", "surfel_areas_gt"), ("pred_to_gt", "surfel_areas_pred")]
    weighted = sum(expected[f"distances_{way}"] @ expected[areas] for way, areas in ways)
    wanted = weighted / sum(expected[areas].sum() for _, areas in ways)
    assert found.mean_mm == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_scores_of_random_pairs_equal_the_reference(seed: int) -> None:
    """Specks, halves and nearly full boxes, every other pair of smooth bodies; more with all metrics, in evaluation."""
    rng = np.random.default_rng(seed)
    for number in range(100):
        shape = rng.integers(1, 12, 3)
        if number % 5 == 0:
            spacing_mm = tuple(rng.uniform(0.3, 4, 3))
        if number % 2:
            pair = [rng.random(shape) < rng.choice([0.03, 0.5, 0.97]) for _ in "ab"]
        else:
            pair = [gaussian_filter(rng.normal(size=shape), 1) > rng.uniform(-0.2, 0.3) for _ in "ab"]
        check(*pair, spacing_mm)


def test_real_bodies_equal_the_reference(real_data) -> None:
    import SimpleITK as sitk

    files = sorted((real_data / "Dataset004_Hippocampus" / "labelsTr").glob("*.nii.gz"))[:4]
    for path in files:
        image = sitk.ReadImage(str(path))
        labels = sitk.GetArrayFromImage(image)
        moved = np.roll(labels, (1, -2, 1), axis=(0, 1, 2))
        for value in (1, 2):
            check(labels == value, moved == value, image.GetSpacing()[::-1])


@settings(max_examples=60, deadline=None)
@given(code=st.integers(0, 255), spacing_mm=st.tuples(*[st.floats(0.1, 10)] * 3))
def test_areas_do_not_depend_on_which_side_is_the_mask(code: int, spacing_mm: tuple[float, float, float]) -> None:
    areas = cell_areas_mm2(spacing_mm)
    assert areas[code] == pytest.approx(areas[255 - code])
    assert (areas[code] > 0) == (0 < code < 255)


def test_a_box_has_the_area_of_its_faces_less_the_cut_edges() -> None:
    box = np.ones((5, 7, 9), dtype=bool)
    spacing_mm = (3.0, 0.5, 2.0)
    area = cell_areas_mm2(spacing_mm)[cell_codes(box)].sum()
    (z, y, x), (dz, dy, dx) = np.array(box.shape) - 1, spacing_mm
    faces = 2 * (z * dz * y * dy + y * dy * x * dx + z * dz * x * dx)
    edges = 4 * (z * dz * np.hypot(dy, dx) / 2 + y * dy * np.hypot(dz, dx) / 2 + x * dx * np.hypot(dz, dy) / 2)
    corners = 8 * np.linalg.norm(np.cross((dz, -dy, 0), (0, dy, -dx))) / 8
    assert area == pytest.approx(faces + edges + corners)


def test_distances_do_not_depend_on_the_space_around_the_masks() -> None:
    rng = np.random.default_rng(1)
    pair = [rng.random((4, 6, 5)) < 0.7 for _ in "ab"]
    near = surface_distances(*pair, spacing_mm=(3.0, 1.0, 2.0))
    far = surface_distances(*(np.pad(m, ((2, 7), (0, 3), (5, 0))) for m in pair), spacing_mm=(3.0, 1.0, 2.0))
    for name, values in vars(near).items():
        np.testing.assert_allclose(np.sort(getattr(far, name)), np.sort(values))


def test_masks_are_left_as_they_were() -> None:
    rng = np.random.default_rng(2)
    pair = [rng.random((5, 5, 5)) < 0.5 for _ in "ab"]
    before = [mask.copy() for mask in pair]
    surface_distances(*pair, spacing_mm=(1.0, 1.0, 1.0))
    assert all((mask == kept).all() for mask, kept in zip(pair, before, strict=True))


def test_cube_shifted_along_one_axis_has_the_shift_as_hausdorff_distance() -> None:
    truth, predicted = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    truth[4:14, 4:14, 4:14] = True
    predicted[7:17, 4:14, 4:14] = True  # 3 voxels of 2 mm
    found = surface_distances(truth, predicted, spacing_mm=(2.0, 1.0, 1.0))
    # the end planes lie 6 mm from the other cube, the side walls on it
    assert found.hausdorff_mm() == pytest.approx(6.0)
    assert found.hausdorff_mm(95) == pytest.approx(6.0)


def test_concentric_spheres_are_their_difference_in_radius_apart() -> None:
    z, y, x = np.ogrid[-18:19, -36:37, -36:37]
    square_mm = (2.0 * z) ** 2 + y**2 + x**2
    found = surface_distances(square_mm <= 33**2, square_mm <= 22**2, spacing_mm=(2.0, 1.0, 1.0))
    for distances_mm, areas_mm2, radius_mm in (
        (found.truth_mm, found.truth_mm2, 33),
        (found.predicted_mm, found.predicted_mm2, 22),
    ):
        assert np.abs(distances_mm - 11).max() < 2.5  # a voxel diagonal is 2.45 mm
        assert areas_mm2.sum() == pytest.approx(
            4 * np.pi * radius_mm**2, rel=0.15
        )  # steps of voxels are longer than the sphere
    assert found.mean_mm == pytest.approx(11, abs=1)
    assert found.hausdorff_mm(95) == pytest.approx(11, abs=1.5)
    assert found.normalised_surface_dice(8.0) == 0
    assert found.normalised_surface_dice(14.0) == 1


def test_area_counts_and_not_the_number_of_voxels() -> None:
    """A plate of thick slices, half of whose rim is moved: the share is that of the area, not of the cells."""
    distances = SurfaceDistances(
        truth_mm=np.array([0.0, 5.0]),
        truth_mm2=np.array([9.0, 1.0]),
        predicted_mm=np.array([0.0, 1.0, 5.0]),
        predicted_mm2=np.array([5.0, 4.0, 1.0]),
    )
    assert distances.normalised_surface_dice(1.0) == pytest.approx(0.9)
    assert distances.mean_mm == pytest.approx((5 + 4 + 5) / 20)
    assert distances.hausdorff_mm(90) == 1.0
    assert distances.hausdorff_mm(91) == 5.0


def test_tolerance_holds_distances_that_only_float32_spacing_makes_longer() -> None:
    truth, predicted = np.zeros((1, 1, 9), bool), np.zeros((1, 1, 9), bool)
    truth[..., 1] = predicted[..., 6] = True
    spacing = float(np.float32(0.2))  # 0.20000000298
    distances = surface_distances(truth, predicted, spacing_mm=(1.0, 1.0, spacing))
    assert distances.normalised_surface_dice(1.0) == 1
    assert distances.normalised_surface_dice(0.99) < 1


def test_identical_masks_score_perfectly() -> None:
    mask = np.random.default_rng(3).random((6, 7, 8)) < 0.4
    distances = surface_distances(mask, mask, spacing_mm=(5.0, 0.5, 0.5))
    assert distances.hausdorff_mm() == distances.mean_mm == 0
    assert distances.normalised_surface_dice(0.0) == 1
