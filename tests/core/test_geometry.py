from __future__ import annotations

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from autoseg.core.geometry import Geometry, Orientation

SIGNED_PERMUTATIONS = [
    np.eye(3)[list(order)] * signs
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]

ORIENTATIONS = [
    Orientation(axes=axes, flipped=flipped)
    for axes in itertools.permutations(range(3))
    for flipped in itertools.product((False, True), repeat=3)
]


def _image(geometry: Geometry) -> sitk.Image:
    image = sitk.Image([int(n) for n in geometry.shape[::-1]], sitk.sitkUInt8)
    image.SetSpacing(geometry.spacing_mm[::-1])
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any shape, spacing and origin; a signed permutation turned by nothing, little, or any angle."""
    vector = st.tuples(*[st.floats(-1, 1)] * 3)
    rotation = Rotation.from_rotvec(np.array(draw(vector)) * draw(st.sampled_from([0, 1e-4, 0.4, np.pi])))
    matrix = rotation.as_matrix() @ draw(st.sampled_from(SIGNED_PERMUTATIONS))
    return Geometry(
        shape=draw(st.tuples(*[st.integers(1, 6)] * 3)),
        spacing_mm=draw(st.tuples(*[st.floats(0.1, 10)] * 3)),
        origin_mm=draw(st.tuples(*[st.floats(-500, 500)] * 3)),
        direction=tuple(matrix.ravel().tolist()),
    )


@settings(max_examples=200, deadline=None)
@given(geometries(), st.integers(0, 2))
def test_undo_is_the_inverse_of_apply(geometry, n_leading):
    lead = (2, 3)[:n_leading]
    array = np.arange(np.prod((*lead, *geometry.shape))).reshape(*lead, *geometry.shape)
    canonical = geometry.orientation.apply(array)
    assert canonical.shape == (*lead, *geometry.canonical.shape)
    assert np.array_equal(geometry.orientation.undo(canonical), array)
    other = np.arange(canonical.size).reshape(canonical.shape)
    assert np.array_equal(geometry.orientation.apply(geometry.orientation.undo(other)), other)


@settings(max_examples=200, deadline=None)
@given(geometries())
def test_every_voxel_stays_where_it_is_in_the_patient(geometry):
    numbers = np.arange(np.prod(geometry.shape)).reshape(geometry.shape)
    stored, canonical = _image(geometry), _image(geometry.canonical)
    moved = geometry.orientation.apply(numbers)
    for z, y, x in itertools.product(*({0, size - 1} for size in moved.shape)):
        k, j, i = np.unravel_index(moved[z, y, x], geometry.shape)
        before = stored.TransformIndexToPhysicalPoint((int(i), int(j), int(k)))
        after = canonical.TransformIndexToPhysicalPoint((x, y, z))
        np.testing.assert_allclose(after, before, atol=1e-9)


@settings(max_examples=200, deadline=None)
@given(geometries())
def test_canonical_is_the_closest_of_all_orientations_and_stays(geometry):
    trace = np.trace(np.array(geometry.canonical.direction).reshape(3, 3))
    best = max(np.trace(np.array(geometry.direction).reshape(3, 3) @ p) for p in SIGNED_PERMUTATIONS)
    assert trace == pytest.approx(best, abs=1e-12)
    again = geometry.canonical.canonical
    assert np.trace(np.array(again.direction).reshape(3, 3)) == pytest.approx(trace, abs=1e-12)


@pytest.mark.parametrize("matrix", SIGNED_PERMUTATIONS, ids=str)
def test_axis_aligned_volumes_become_identity_as_in_simpleitk(matrix):
    geometry = Geometry(shape=(2, 3, 4), spacing_mm=(3, 2, 1), origin_mm=(5, 6, 7), direction=tuple(matrix.ravel()))
    expected = sitk.DICOMOrient(_image(geometry), "LPS")
    canonical = geometry.canonical
    assert canonical.shape == expected.GetSize()[::-1]
    assert canonical.spacing_mm == expected.GetSpacing()[::-1]
    np.testing.assert_allclose(canonical.origin_mm, expected.GetOrigin(), atol=1e-12)
    assert np.array_equal(canonical.direction, np.eye(3).ravel())


def test_apply_and_undo_are_views():
    geometry = Geometry(shape=(2, 3, 4), spacing_mm=(1, 1, 1), direction=(0.0, -1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0))
    array = np.zeros(geometry.shape)
    canonical = geometry.orientation.apply(array)
    assert canonical.base is not None
    assert np.shares_memory(canonical, array)
    assert np.shares_memory(geometry.orientation.undo(canonical), array)


def _moved(array: np.ndarray, orientation: Orientation) -> np.ndarray:
    """What `apply` should give, voxel by voxel: entry i of canonical axis k comes from stored axis axes[k]."""
    shape = tuple(array.shape[axis] for axis in orientation.axes)
    moved = np.empty(shape, dtype=array.dtype)
    for place in np.ndindex(shape):
        stored = [0, 0, 0]
        for index, n, axis, flip in zip(place, shape, orientation.axes, orientation.flipped, strict=True):
            stored[axis] = n - 1 - index if flip else index
        moved[place] = array[tuple(stored)]
    return moved


def _matrix(orientation: Orientation) -> np.ndarray:
    """The signed permutation that takes stored to canonical coordinates (centred), one row per canonical axis."""
    rows = np.eye(3, dtype=int)[list(orientation.axes)]
    return rows * np.where(orientation.flipped, -1, 1)[:, None]


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_every_orientation_and_its_inverse(orientation):
    array = np.arange(24).reshape(2, 3, 4)
    canonical = orientation.apply(array)
    assert np.array_equal(canonical, _moved(array, orientation))
    assert np.array_equal(orientation.inverse.apply(canonical), array)
    assert np.array_equal(orientation.inverse.apply(array), orientation.undo(array))
    assert np.array_equal(_matrix(orientation.inverse), np.linalg.inv(_matrix(orientation)))
    assert orientation.inverse.inverse == orientation
    identity = Orientation(axes=(0, 1, 2), flipped=(False, False, False))
    assert orientation.then(orientation.inverse) == identity == orientation.inverse.then(orientation)
    assert identity.then(orientation) == orientation == orientation.then(identity)


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_a_box_of_turned_rows_lies_where_its_voxels_are_stored(orientation):
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    box = [(1, 3), (0, 2), (2, 4)]
    inside = orientation.apply(array)[tuple(slice(start, stop) for start, stop in box)]
    place = orientation.undo_box(box, array.shape)
    assert np.array_equal(array[place], orientation.undo(inside))
    assert sorted(array[place].ravel()) == sorted(inside.ravel())


@pytest.mark.parametrize("first", ORIENTATIONS, ids=str)
def test_then_is_one_after_the_other(first):
    array = np.arange(2 * 24).reshape(2, 2, 3, 4)
    for second in ORIENTATIONS:
        both = first.then(second)
        assert np.array_equal(both.apply(array), second.apply(first.apply(array)))
        assert np.array_equal(_matrix(both), _matrix(second) @ _matrix(first))


def test_numbers_of_an_orientation_are_plain():
    both = ORIENTATIONS[17].then(ORIENTATIONS[30]).inverse
    assert [type(value) for value in (*both.axes, *both.flipped)] == [int] * 3 + [bool] * 3


@pytest.mark.parametrize("turn", [(0, 0, 0), (8, -12, 10)], ids=["straight", "oblique"])
@pytest.mark.parametrize("matrix", SIGNED_PERMUTATIONS, ids=str)
def test_frames_are_those_of_simpleitk(matrix, turn):
    array = np.random.default_rng(0).permutation(24).astype(np.uint8).reshape(2, 3, 4)
    turned = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ matrix
    geometry = Geometry(shape=array.shape, spacing_mm=(3, 2, 1), direction=tuple(turned.ravel().tolist()))
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(_image(geometry))
    for frame in ("LPS", "RAS"):
        expected = sitk.GetArrayFromImage(sitk.DICOMOrient(image, frame))
        assert np.array_equal(geometry.orientation_to(frame).apply(array), expected), frame
    assert geometry.orientation_to("LPS") == geometry.orientation
    assert np.array_equal(geometry.orientation_to("stored").apply(array), array)


BASE = Geometry(
    shape=(10, 20, 30),
    spacing_mm=(2.5, 0.8, 0.7),
    origin_mm=(-100.0, 50.0, 7.0),
    direction=tuple(Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix().ravel().tolist()),
)


def _shifted(voxels: tuple[float, float, float]) -> Geometry:
    """BASE moved by a number of voxels along its own axes (x, y, z)."""
    step = np.array(BASE.direction).reshape(3, 3) @ (np.array(voxels) * BASE.spacing_mm[::-1])
    return replace(BASE, origin_mm=tuple((np.array(BASE.origin_mm) + step).tolist()))


def _turned(degrees: float) -> Geometry:
    matrix = np.array(BASE.direction).reshape(3, 3) @ Rotation.from_euler("z", degrees, degrees=True).as_matrix()
    return replace(BASE, direction=tuple(matrix.ravel().tolist()))


@pytest.mark.parametrize(
    "other",
    [
        BASE,
        replace(BASE, spacing_mm=tuple(s * (1 + 1e-5) for s in BASE.spacing_mm)),
        replace(BASE, spacing_mm=tuple(s * (1 - 9e-4) for s in BASE.spacing_mm)),
        replace(BASE, origin_mm=tuple(o * (1 + 1e-6) for o in BASE.origin_mm)),
        _turned(0.04),
        _shifted((5e-4, -5e-4, 5e-4)),
    ],
)
def test_differences_of_rounding_mean_nothing(other):
    assert BASE.differences(other) == ([], [])


@pytest.mark.parametrize(
    ("other", "subject"),
    [
        (replace(BASE, shape=(10, 20, 31)), "shape 10x20x31 instead of 10x20x30"),
        (replace(BASE, spacing_mm=(2.5, 0.8, 0.7 * 1.0012)), "spacing"),
        (replace(BASE, spacing_mm=(2.5, 0.8 * 0.9988, 0.7)), "spacing"),
        (_turned(0.1), "direction"),
        (replace(BASE, direction=tuple(-v for v in BASE.direction)), "direction"),
        (_shifted((0.51, 0, 0)), "origin"),
        (_shifted((0, -0.51, 0)), "origin"),
        (_shifted((0, 0, 3)), "origin"),
    ],
)
def test_a_volume_on_another_grid_is_an_error(other, subject):
    errors, warnings = BASE.differences(other)
    assert len(errors) == 1
    assert errors[0].startswith(subject)
    assert warnings == []


@pytest.mark.parametrize("voxels", [(0.49, 0, 0), (0, -0.49, 0.49), (0, 0, 0.002)])
def test_an_origin_within_half_a_voxel_is_a_warning(voxels):
    errors, warnings = BASE.differences(_shifted(voxels))
    assert errors == []
    assert len(warnings) == 1
    assert "voxels off" in warnings[0]


def test_several_differences_are_all_named():
    errors, _ = BASE.differences(replace(_turned(5), shape=(1, 2, 3), spacing_mm=(1, 1, 1)))
    assert [sentence.split()[0] for sentence in errors] == ["shape", "spacing", "direction"]


def test_the_volume_of_a_voxel_is_in_millilitres():
    assert BASE.voxel_volume_ml == pytest.approx(2.5 * 0.8 * 0.7 / 1000)


def test_a_geometry_travels_between_processes():
    assert BASE.canonical.shape  # fills the cache, which must not disturb
    copy = pickle.loads(pickle.dumps(BASE))
    assert copy == BASE
    assert copy.canonical == BASE.canonical
    assert hash(copy) == hash(BASE)


@pytest.mark.parametrize("matrix", SIGNED_PERMUTATIONS)
def test_the_code_of_an_orientation_is_that_of_simpleitk(matrix):
    direction = tuple(float(value) for value in np.ravel(matrix))
    geometry = Geometry(shape=(3, 4, 5), spacing_mm=(1.0, 1.0, 1.0), direction=direction)
    expected = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
    assert geometry.orientation.code == expected
    assert geometry.tilt_deg == 0.0


@pytest.mark.parametrize(("axis", "degrees"), [("x", 7.0), ("y", -30.0), ("z", 44.0), ("z", 80.0)])
def test_the_tilt_is_the_angle_to_the_nearest_axis(axis, degrees):
    direction = tuple(Rotation.from_euler(axis, degrees, degrees=True).as_matrix().ravel())
    geometry = Geometry(shape=(3, 4, 5), spacing_mm=(1.0, 1.0, 1.0), direction=direction)
    assert geometry.tilt_deg == pytest.approx(min(abs(degrees), 90 - abs(degrees)))
