"""dataset.json: every wrong key is named with its line, every rule for labels is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoseg.core.declaration import DatasetJson, doubtful_keys, read_declaration
from autoseg.core.errors import DataError, Problem

GOOD: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "ring": 3}


def declared(folder: Path, **changes: Any) -> DatasetJson:
    """Write dataset.json with some keys changed (None leaves one out) and read it."""
    facts = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    (folder / "dataset.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    return read_declaration(folder)


def problems_with(folder: Path, **changes: Any) -> list[Problem]:
    with pytest.raises(DataError) as caught:
        declared(folder, **changes)
    return list(caught.value.problems)


def test_a_good_file_is_read_and_unknown_keys_are_kept(tmp_path: Path) -> None:
    found = declared(tmp_path, description="d", licence="CC", reference=[1, {"a": 2}])
    assert found.labels == GOOD["labels"]
    assert found.model_extra == {"description": "d", "licence": "CC", "reference": [1, {"a": 2}]}
    assert doubtful_keys(found) == []


@pytest.mark.parametrize("key", ["channel_names", "labels", "file_ending"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    (problem,) = [p for p in problems_with(tmp_path, **{key: None}) if "is missing" in p.found]
    assert problem.found == f"key '{key}' is missing"
    assert problem.file == str(tmp_path / "dataset.json")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("chanel_names", "channel_names"), ("label", "labels"), ("file_endings", "file_ending")],
)
def test_a_misspelt_key_gets_the_valid_one(tmp_path: Path, wrong: str, right: str) -> None:
    (problem,) = problems_with(tmp_path, **{right: None, wrong: GOOD[right]})
    assert problem.found == f"key '{right}' is missing"
    assert problem.next == f"did you mean it by '{wrong}'?"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("group", "groups"), ("Groups", "groups"), ("region_class_order", "regions_class_order"),
     ("numtraining", "numTraining"), ("datasets", "dataset")],
)  # fmt: skip
def test_a_misspelt_optional_key_is_a_warning(tmp_path: Path, wrong: str, right: str) -> None:
    (warning,) = doubtful_keys(declared(tmp_path, **{right: None, wrong: None if wrong == right else {}}))
    assert warning.found == f"unknown key '{wrong}' is ignored"
    assert warning.next == f"did you mean '{right}'?"


def test_usual_extra_keys_are_no_misspellings(tmp_path: Path) -> None:
    usual = (
        "name description tensorImageSize reference licence license release modality numTest training test "
        "dataset_name dataset_release citation converted_by overwrite_image_reader_writer relase sourceUrl"
    )
    assert doubtful_keys(declared(tmp_path, numTraining=None, **dict.fromkeys(usual.split(), 1))) == []


@pytest.mark.parametrize(
    ("changes", "place", "line"),
    [
        ({"channel_names": {"0": 5}}, "channel_names.0", 3),
        ({"channel_names": ["CT"]}, "channel_names", 2),
        ({"labels": {"background": 0, "liver": 1, "tumour": "two"}}, "labels.tumour", 8),
        ({"labels": {"background": 0, "liver": -1}}, "labels.liver", 7),
        ({"labels": {"background": 0, "liver": 1.5}}, "labels.liver", 7),
        ({"labels": {"background": 0, "liver": True}}, "labels.liver", 7),
        ({"labels": {"background": 0, "liver": []}}, "labels.liver", 7),
        ({"labels": {"background": 0, "liver": [1, "2"]}}, "labels.liver", 7),
        ({"numTraining": "many"}, "numTraining", 10),
        ({"file_ending": ".png"}, "file_ending", 11),
        ({"file_ending": "nii.gz"}, "file_ending", 11),
        ({"groups": {"case.1": ["a"]}}, "groups.case.1", 13),
        ({"dataset": {"a": {"images": []}}}, "dataset.a.images", 14),
        ({"dataset": {"a": {"images": [7]}}}, "dataset.a.images.0", 15),
    ],
)
def test_a_wrong_value_is_named_with_its_line(tmp_path: Path, changes: dict[str, Any], place: str, line: int) -> None:
    (problem,) = problems_with(tmp_path, **changes)
    assert problem.found.startswith(f"'{place}': ")
    assert problem.found.endswith(f"(line {line})")
    assert problem.next.startswith("found ") or problem.next == "correct it"


def test_a_misspelt_key_of_explicit_files_gets_the_valid_one(tmp_path: Path) -> None:
    found = {p.found: p.next for p in problems_with(tmp_path, dataset={"a b": {"image": ["x"], "label": "y"}})}
    assert found["unknown key 'dataset.a b.image' (line 14)"] == "did you mean 'images'?"
    assert found["key 'dataset.a b.images' is missing (line 13)"] == "did you mean it by 'image'?"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    labels = {"background": 0, "liver": "x", "tumour": 1.5}
    problems = problems_with(tmp_path, labels=labels, file_ending=".png", channel_names={"1": "CT"})
    assert len(problems) == 4


def test_invalid_json_is_told_with_line_and_column(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{\n "labels" {"background": 0}\n}')
    with pytest.raises(DataError, match="line 2, column 11"):
        read_declaration(tmp_path)


def test_a_label_given_twice_is_told(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1, "liver": 2}}')
    with pytest.raises(DataError, match="the key 'liver' twice"):
        read_declaration(tmp_path)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"liver": 1}, '"background": 0 is missing'),
        ({"background": 1, "liver": 2}, '"background": 0 is missing'),
        ({"background": [0], "liver": 1}, '"background": 0 is missing'),
        ({"Background": 0, "liver": 1}, '"background": 0 is missing'),
        ({"background": 0}, "at least one structure"),
        ({"background": 0, "ignore": 1}, "at least one structure"),
        ({"background": 0, "liver": 1, "tumour": 1}, "'liver' and 'tumour' have the same value 1"),
        ({"background": 0, "liver": 1, "tumour": [1]}, "'liver' and 'tumour' have the same value 1"),
        ({"background": 0, "liver": 0}, "'liver' holds 0"),
        ({"background": 0, "liver": [0, 1], "tumour": 1}, "'liver' holds 0"),
        ({"background": 0, "liver": 2, "ignore": 1}, "above all others (here 3)"),
        ({"background": 0, "liver": 2, "ignore": 2}, "above all others (here 3)"),
        ({"background": 0, "liver": 2, "ignore": [3]}, "above all others (here 3)"),
    ],
)
def test_labels_that_make_no_sense_are_refused(tmp_path: Path, labels: dict[str, Any], words: str) -> None:
    (problem,) = problems_with(tmp_path, labels=labels)
    assert words in problem.found
    assert problem.found.startswith("'labels': ")
    assert problem.found.endswith("(line 5)")


def test_labels_with_gaps_and_an_ignore_label_are_taken(tmp_path: Path) -> None:
    labels = {"background": 0, "far": 300, "near": [7], "ignore": 1000}
    scheme = declared(tmp_path, labels=labels).scheme
    assert scheme.values == (0, 7, 300)
    assert scheme.ignore_value == 1000


def test_regions_need_a_value_each(tmp_path: Path) -> None:
    scheme = declared(tmp_path, labels=REGIONS, regions_class_order=[1, 2, 3]).scheme
    assert scheme.has_regions
    assert scheme.regions_class_order == (1, 2, 3)
    with_ignore = declared(tmp_path, labels={**REGIONS, "ignore": 4}, regions_class_order=[1, 2, 3])
    assert with_ignore.scheme.ignore_value == 4


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (None, "must list 3 values"),
        ([1, 2], "must list 3 values"),
        ([1, 2, 3, 4], "must list 3 values"),
        ([1, 2, 9], "9 is no value of any label"),
        ([1, 2, -3], "-3 is no value of any label"),
        (["a", 2, 3], "valid integer"),
    ],
)
def test_a_wrong_order_of_regions_is_refused(tmp_path: Path, order: Any, words: str) -> None:
    (problem,) = problems_with(tmp_path, labels=REGIONS, regions_class_order=order)
    assert problem.found.startswith("'regions_class_order")
    assert words in problem.found


def test_channels_are_numbered_without_gaps_and_sorted(tmp_path: Path) -> None:
    names = {str(i): f"c{i}" for i in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    assert [*declared(tmp_path, channel_names=names).channel_names] == [str(i) for i in range(11)]
    for wrong in ({"1": "a"}, {"0": "a", "2": "b"}, {"00": "a"}, {}):
        (problem,) = problems_with(tmp_path, channel_names=wrong)
        assert problem.found.startswith("'channel_names': ")


@pytest.mark.parametrize(
    ("cases", "words"),
    [({"c1": []}, "lists no label"), ({"c1": ["liver"]}, "'liver' is no label"), ({"c1": ["background"]}, "no label")],
)
def test_annotated_classes_name_labels(tmp_path: Path, cases: dict, words: str) -> None:
    (problem,) = problems_with(tmp_path, labels=REGIONS, regions_class_order=[1, 2, 3], annotated_classes=cases)
    assert problem.found.startswith("'annotated_classes': c1")
    assert words in problem.found
