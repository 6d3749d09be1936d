"""Labels keep their meaning on the way from file values to values inside and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.core.labels import LabelScheme, left_right_pairs

GAPS = {"background": 0, "far": 300, "near": 7, "ignore": 999}


@settings(max_examples=100, deadline=None)
@given(st.data(), st.booleans())
def test_decoding_undoes_encoding(data: st.DataObject, with_ignore: bool) -> None:
    values = data.draw(st.lists(st.integers(1, 60_000), min_size=1, max_size=40, unique=True))
    declared: dict[str, Any] = {"background": 0, **{f"label {v}": v for v in values}}
    if with_ignore:
        declared["ignore"] = max(values) + data.draw(st.integers(1, 100))
    scheme = LabelScheme(declared=declared)
    chosen = data.draw(st.lists(st.sampled_from([0, *values]), min_size=1, max_size=30))
    file_labels = np.array(chosen).reshape(1, -1, 1)
    inside = scheme.encode(file_labels)
    assert inside.dtype == np.int16
    assert set(inside.ravel()) <= set(range(scheme.n_outputs))
    decoded = scheme.decode(inside)
    assert np.array_equal(decoded, file_labels)
    assert decoded.dtype == (np.uint8 if max(values) < 256 else np.uint16)
    if with_ignore:
        assert scheme.encode(np.array([declared["ignore"]])).tolist() == [scheme.ignore_inside]


def test_values_inside_are_consecutive_in_ascending_order_with_ignore_last() -> None:
    scheme = LabelScheme(declared=GAPS)
    assert scheme.values == (0, 7, 300)
    assert scheme.encode(np.array([0, 7, 300, 999])).tolist() == [0, 1, 2, 3]
    assert (scheme.ignore_value, scheme.ignore_inside, scheme.n_outputs) == (999, 3, 3)
    assert scheme.regions_inside == ((2,), (1,))
    assert not scheme.has_regions
    assert scheme.output_dtype == np.uint16


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float32"])
def test_labels_of_any_type_are_encoded(dtype: str) -> None:
    scheme = LabelScheme(declared={"background": 0, "a": 5, "b": 200})
    assert scheme.encode(np.array([[0, 200], [5, 5]], dtype=dtype)).tolist() == [[0, 2], [1, 1]]


def test_without_ignore_there_is_none() -> None:
    scheme = LabelScheme(declared={"background": 0, "a": 1})
    assert (scheme.ignore_value, scheme.ignore_inside) == (None, None)


def test_regions_have_an_output_each_and_share_values() -> None:
    declared = {"background": 0, "whole": (1, 2, 4), "core": (2, 4), "ring": 4, "ignore": 5}
    scheme = LabelScheme(declared=declared, regions_class_order=(1, 2, 4))
    assert scheme.has_regions
    assert scheme.n_outputs == 3
    assert scheme.values == (0, 1, 2, 4)
    assert scheme.regions_inside == ((1, 2, 3), (2, 3), (3,))
    assert scheme.ignore_inside == 4
    file_labels = np.array([0, 1, 2, 4, 5])
    assert scheme.mask(file_labels, "whole").tolist() == [False, True, True, True, False]
    assert scheme.mask(file_labels, "ring").tolist() == [False, False, False, True, False]
    assert scheme.encode(file_labels).tolist() == [0, 1, 2, 3, 4]


def test_a_list_of_one_value_is_no_region() -> None:
    scheme = LabelScheme(declared={"background": 0, "a": (1,), "b": 2})
    assert not scheme.has_regions
    assert scheme.n_outputs == 3


def test_undeclared_values_are_told() -> None:
    assert LabelScheme(declared=GAPS).undeclared(np.array([0, 7, 8, 999.0, 1000])) == [8, 1000]


@pytest.mark.parametrize("largest", [1, 255, 256, 65_535, 65_536])
def test_the_output_type_is_the_smallest_that_holds_every_value(largest: int) -> None:
    dtype = LabelScheme(declared={"background": 0, "a": largest}).output_dtype
    assert np.iinfo(dtype).max >= largest
    assert np.iinfo(dtype).min == 0
    assert largest < 256 or np.iinfo(dtype).max < largest**2
    region = LabelScheme(declared={"background": 0, "a": (1, 2)}, regions_class_order=(largest,))
    assert region.output_dtype == dtype


PAIRS = [
    ["left_kidney", "right_kidney"],
    ["kidney_left", "right_kidney"],
    ["Kidney Left", "Kidney Right"],
    ["KidneyLeft", "KidneyRight"],
    ["LKidney", "RKidney"],
    ["kidneyL", "kidneyR"],
    ["leftkidney", "rightkidney"],
    ["lh-hippocampus", "rh-hippocampus"],
    ["Left-Hippocampus", "Right-Hippocampus"],
    ["hippocampus_l", "hippocampus_r"],
    ["Lt eye", "Rt eye"],
    ["left", "right"],
    ["rib_left_1", "rib_right_1"],
    ["rib_L1", "rib_R1"],
    ["gluteus maximus (left)", "gluteus maximus (right)"],
]


@pytest.mark.parametrize("names", PAIRS, ids=lambda names: names[0])
def test_mirror_images_are_found_by_name_left_first(names: list[str]) -> None:
    assert left_right_pairs(names) == ([tuple(names)], [])
    assert left_right_pairs(names[::-1]) == ([tuple(names)], [])
    assert left_right_pairs(["liver", *names, "spleen"]) == ([tuple(names)], [])


def test_numbered_structures_are_paired_number_by_number() -> None:
    names = [f"rib_{side}_{number}" for side in ("left", "right") for number in range(1, 13)]
    pairs, lonely = left_right_pairs(names)
    assert sorted(pairs) == sorted((f"rib_left_{n}", f"rib_right_{n}") for n in range(1, 13))
    assert lonely == []


@pytest.mark.parametrize(
    ("names", "lonely"),
    [
        (["left_atrium", "aorta"], ["left_atrium"]),
        (["right_ventricle", "left_atrium"], ["right_ventricle", "left_atrium"]),
        (["rib_left_1", "rib_right_2"], ["rib_left_1", "rib_right_2"]),
        (["left_kidney", "kidney_left", "right_kidney"], ["left_kidney", "kidney_left", "right_kidney"]),
        (["left_to_right_shunt"], ["left_to_right_shunt"]),
        (["left_r_1", "right_l_1"], ["left_r_1", "right_l_1"]),
    ],
)
def test_sides_without_one_partner_are_lonely(names: list[str], lonely: list[str]) -> None:
    assert left_right_pairs(names) == ([], lonely)


@pytest.mark.parametrize(
    "names",
    [
        ["liver", "spleen", "tumour"],
        ["vertebrae_L1", "vertebrae_L2", "vertebrae_T1", "L5"],  # lumbar, not left
        ["bright", "cleft lip", "upright", "alright"],
        ["lung", "rectum", "larynx", "label_1", "r2d2 implant"],
        [],
    ],
)
def test_other_names_tell_no_side(names: list[str]) -> None:
    assert left_right_pairs(names) == ([], [])


def test_volumes_are_counted_without_ignored_voxels():
    scheme = LabelScheme(declared={"background": 0, "a": 1, "whole": (1, 3), "ignore": 9}, regions_class_order=(1, 3))
    labels = np.array([[[0, 1, 1], [3, 9, 9]]], dtype=np.uint8)
    assert scheme.volumes_ml(labels, voxel_ml=0.5) == {"a": 1.0, "whole": 1.5}
