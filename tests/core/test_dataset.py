"""Every defect that the listing of a raw folder shows is told, all at once; the good cases stay usable."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoseg.core.dataset import Dataset, cases_in_folder, find_dataset, read_dataset, unsafe_id
from autoseg.core.errors import DataError, Problem, UsageError

Raw = Callable[..., Path]


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    """raw(files, n_channels=..., **keys): a folder with dataset.json and empty files at these paths."""

    def make(files: list[str], *, n_channels: int = 1, **keys: Any) -> Path:
        folder = tmp_path / "raw" / "Dataset012_Toy"
        for name in ("imagesTr", "labelsTr"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(b"")
        declaration = {
            "channel_names": {str(i): f"c{i}" for i in range(n_channels)},
            "labels": {"background": 0, "a": 1},
            "file_ending": ".nii.gz",
            **keys,
        }
        (folder / "dataset.json").write_text(json.dumps(declaration), encoding="utf-8")
        return folder

    return make


def case_files(*cases: str, n_channels: int = 1, ending: str = ".nii.gz") -> list[str]:
    images = [f"imagesTr/{case}_{channel:04d}{ending}" for case in cases for channel in range(n_channels)]
    return [*images, *(f"labelsTr/{case}{ending}" for case in cases)]


def told(problems: tuple[Problem, ...]) -> set[tuple[str, str, str]]:
    return {(problem.case, Path(problem.file).name, problem.found) for problem in problems}


def test_cases_are_listed_in_the_order_of_their_ids(raw: Raw) -> None:
    dataset = read_dataset(raw(case_files("b", "a", "C", n_channels=2), n_channels=2, numTraining=3))
    assert isinstance(dataset, Dataset)
    assert [*dataset.cases] == ["C", "a", "b"]
    assert (dataset.problems, dataset.warnings) == ((), ())
    assert [path.name for path in dataset.cases["a"].files] == ["a_0000.nii.gz", "a_0001.nii.gz", "a.nii.gz"]
    assert dataset.name == "Dataset012_Toy"
    assert dataset.channel_names == ("c0", "c1")
    assert dataset.labels.values == (0, 1)


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha"])
def test_only_files_of_the_declared_ending_count(raw: Raw, ending: str) -> None:
    folder = raw([*case_files("a", ending=ending), *case_files("other")], file_ending=ending)
    (folder / "imagesTr" / f"folder_0000{ending}").mkdir()
    assert [*read_dataset(folder).cases] == ["a"]


def test_every_defect_is_told_at_once_and_the_good_cases_stay(raw: Raw) -> None:
    files = case_files("good", "short", "long", "bare", "Twin", "twin", n_channels=2)
    for lost in ("imagesTr/short_0000.nii.gz", "labelsTr/short.nii.gz", "labelsTr/bare.nii.gz"):
        files.remove(lost)
    files += ["imagesTr/long_0002.nii.gz", "imagesTr/unnumbered.nii.gz", "imagesTr/.hidden_0000.nii.gz"]
    files += ["imagesTr/a..b_0000.nii.gz", "imagesTr/tab\there_0000.nii.gz", "labelsTr/alone.nii.gz"]
    dataset = read_dataset(raw(files, n_channels=2, numTraining=77, groups={"good": "p1", "nobody": "p2"}))
    assert [*dataset.cases] == ["good"]
    assert told(dataset.problems) == {
        ("short", "short_0000.nii.gz", "this channel is missing"),
        ("short", "short.nii.gz", "the label file is missing"),
        ("long", "long_0002.nii.gz", "channel 2 is beyond the 2 that dataset.json declares"),
        ("bare", "bare.nii.gz", "the label file is missing"),
        ("Twin", "", "differs from twin only in upper and lower case"),
        ("twin", "", "differs from Twin only in upper and lower case"),
        ("", "unnumbered.nii.gz", "the name has no channel number"),
        ("", "'.hidden_0000.nii.gz'", "the case id begins with a dot"),
        ("", "'a..b_0000.nii.gz'", "the case id holds '..'"),
        ("", r"'tab\there_0000.nii.gz'", "the case id holds a control character or bytes that are no text"),
    }
    assert all(problem.next for problem in (*dataset.problems, *dataset.warnings))
    assert told(dataset.warnings) == {
        ("", "dataset.json", "numTraining is 77, but there are 6 cases"),
        ("nobody", "dataset.json", "is in groups but is no case"),
        ("", "alone.nii.gz", "has no image"),
    }


def test_a_file_without_channel_number_does_not_cost_the_case_of_that_name(raw: Raw) -> None:
    dataset = read_dataset(raw([*case_files("a"), "imagesTr/a.nii.gz"]))
    assert [*dataset.cases] == ["a"]
    assert len(dataset.problems) == 1


ODD = [
    "with space",
    "inner.dot",
    "a.nii",
    "Größe_1",
    "日本",
    "it's",
    'say "hi"',
    "-leading",
    "a_0000",
    "0001",
    "~",
    "%s",
]


def test_odd_but_legal_ids_are_accepted(raw: Raw) -> None:
    dataset = read_dataset(raw(case_files(*ODD), numTraining=len(ODD)))
    assert set(dataset.cases) == set(ODD)
    assert (dataset.problems, dataset.warnings) == ((), ())
    assert all(path.is_file() for case in dataset.cases.values() for path in case.files)


@pytest.mark.parametrize("case", ODD)
def test_odd_but_legal_ids_are_safe(case: str) -> None:
    assert unsafe_id(case) == ""


UNSAFE = [
    "",
    "a/b",
    "/etc/passwd",
    "a\\b",
    "..",
    "../a",
    "a..",
    ".hidden",
    "a\nb",
    "a\x7f",
    "a\x85b",
    "a\0",
    "\udcff",
]


@pytest.mark.parametrize("case", UNSAFE)
def test_ids_that_would_lead_elsewhere_are_unsafe(case: str) -> None:
    assert unsafe_id(case).startswith("the case id ")


def test_unsafe_ids_in_explicit_lists_are_told_in_plain_letters(raw: Raw) -> None:
    files = {"images": ["good.nii.gz"], "label": "good_label.nii.gz"}
    folder = raw(["good.nii.gz", "good_label.nii.gz"], dataset=dict.fromkeys([*UNSAFE, "good"], files))
    dataset = read_dataset(folder)
    assert [*dataset.cases] == ["good"]
    assert [problem.case for problem in dataset.problems] == [ascii(case) for case in UNSAFE]
    assert all(str(problem).isprintable() and str(problem).encode() for problem in dataset.problems)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_file_name_that_is_no_text_is_told(raw: Raw) -> None:
    folder = raw(case_files("a"))
    try:
        (folder / "imagesTr" / os.fsdecode(b"caf\xe9_0000.nii.gz")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    dataset = read_dataset(folder)
    assert [*dataset.cases] == ["a"]
    (problem,) = dataset.problems
    assert "no text" in problem.found
    assert str(problem).encode()


def test_explicit_files_may_be_absolute_or_relative(raw: Raw, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    for name in ("scan.nii.gz", "mask.nii.gz"):
        (elsewhere / name).write_bytes(b"")
    folder = raw(
        ["sub/scan 1.nii.gz", "sub/mask.nii.gz"],
        dataset={
            "relative": {"images": ["sub/scan 1.nii.gz"], "label": "./sub/mask.nii.gz"},
            "up": {"images": ["../../else where/scan.nii.gz"], "label": "../../else where/mask.nii.gz"},
            "absolute": {"images": [str(elsewhere / "scan.nii.gz")], "label": str(elsewhere / "mask.nii.gz")},
        },
        numTraining=3,
    )
    dataset = read_dataset(folder)
    assert [*dataset.cases] == ["absolute", "relative", "up"]
    assert (dataset.problems, dataset.warnings) == ((), ())
    assert all(path.is_file() for case in dataset.cases.values() for path in case.files)


def test_defects_of_explicit_lists_are_told_at_once(raw: Raw) -> None:
    folder = raw(
        ["a.nii.gz", "b.nii.gz", "m.nii.gz"],
        n_channels=2,
        dataset={
            "good": {"images": ["a.nii.gz", "b.nii.gz"], "label": "m.nii.gz"},
            "few": {"images": ["gone.nii.gz"], "label": "lost.nii.gz"},
            "bare": {"images": ["a.nii.gz", "gone.nii.gz"]},
            "Up": {"images": ["a.nii.gz", "b.nii.gz"], "label": "m.nii.gz"},
            "up": {"images": ["a.nii.gz", "b.nii.gz"], "label": "m.nii.gz"},
        },
    )
    dataset = read_dataset(folder)
    assert [*dataset.cases] == ["good"]
    assert told(dataset.problems) == {
        ("few", "dataset.json", "lists 1 images where 2 channels are declared"),
        ("few", "gone.nii.gz", "this file is missing"),
        ("few", "lost.nii.gz", "the label file is missing"),
        ("bare", "dataset.json", "has no label"),
        ("bare", "gone.nii.gz", "this file is missing"),
        ("Up", "", "differs from up only in upper and lower case"),
        ("up", "", "differs from Up only in upper and lower case"),
    }


def test_groups_reach_their_cases(raw: Raw) -> None:
    dataset = read_dataset(raw(case_files("a", "b", "c"), groups={"a": "p1", "b": 7}))
    assert [case.group for case in dataset.cases.values()] == ["p1", "7", None]
    assert dataset.warnings == ()


def test_annotated_classes_reach_their_cases(raw: Raw) -> None:
    dataset = read_dataset(raw(case_files("a", "b"), annotated_classes={"a": ["a"], "z": ["a"]}))
    assert [case.annotated for case in dataset.cases.values()] == [("a",), None]
    assert dataset.annotated_classes == {"a": ("a",)}
    assert [warning.found for warning in dataset.warnings] == ["is in annotated_classes but is no case"]


def test_a_misspelt_optional_key_is_a_warning(raw: Raw) -> None:
    dataset = read_dataset(raw(case_files("a"), group={"a": "p1"}))
    assert [warning.next for warning in dataset.warnings] == ["did you mean 'groups'?"]


def test_without_a_usable_case_everything_found_is_raised(raw: Raw) -> None:
    folder = raw(["imagesTr/a_0000.nii.gz", "imagesTr/b.nii.gz"])
    with pytest.raises(DataError) as caught:
        read_dataset(folder)
    assert told(caught.value.problems) == {
        ("a", "a.nii.gz", "the label file is missing"),
        ("", "b.nii.gz", "the name has no channel number"),
    }


def test_an_empty_or_missing_folder_is_told(raw: Raw) -> None:
    folder = raw([])
    with pytest.raises(DataError, match=r"holds no \.nii\.gz image"):
        read_dataset(folder)
    (folder / "imagesTr").rmdir()
    with pytest.raises(DataError, match="this folder does not exist"):
        read_dataset(folder)
    (folder / "dataset.json").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_dataset(folder)


def test_images_alone_are_listed_for_prediction(raw: Raw) -> None:
    folder = raw(["imagesTs/x y_0000.nii.gz", "imagesTs/z_0001.nii.gz", "imagesTs/v_٠٠٠٠.nii.gz"])
    problems: list[Problem] = []
    cases = cases_in_folder(folder / "imagesTs", ending=".nii.gz", n_channels=1, problems=problems)
    assert {case: len(found.images) for case, found in cases.items()} == {"x y": 1, "z": 1}
    assert cases["x y"].label is None
    assert {problem.case for problem in problems} == {"z", ""}


def test_a_data_set_is_found_by_number_name_or_path(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = raw(case_files("a"))
    parent = folder.parent
    for name in ("12", "012", "Dataset012_Toy", str(folder), f"{folder}/"):
        assert find_dataset(name, raw=parent) == folder.resolve()
    monkeypatch.chdir(folder)
    assert find_dataset(".", raw=parent / "none") == folder.resolve()
    monkeypatch.chdir(parent)
    assert find_dataset("./Dataset012_Toy", raw=parent / "none") == folder.resolve()


@pytest.mark.parametrize("name", ["13", "Dataset012", "nothing", "1200", "../raw/nothing"])
def test_an_unknown_data_set_is_told_with_those_there(raw: Raw, name: str) -> None:
    parent = raw(case_files("a")).parent
    with pytest.raises(UsageError, match=r"there: Dataset012_Toy"):
        find_dataset(name, raw=parent)
    with pytest.raises(UsageError, match=r"there: none"):
        find_dataset(name, raw=parent / "missing")


def test_a_number_that_stands_for_two_is_told(raw: Raw) -> None:
    parent = raw(case_files("a")).parent
    (parent / "Dataset012_Other").mkdir()
    with pytest.raises(UsageError, match="stands for several data sets"):
        find_dataset("12", raw=parent)


@pytest.mark.parametrize(("name", "n_cases"), [("Dataset004_Hippocampus", 200), ("Dataset801_SpinalCordGM", 6)])
def test_real_data_sets_have_no_defects(real_data: Path, name: str, n_cases: int) -> None:
    dataset = read_dataset(real_data / name)
    assert len(dataset.cases) == n_cases
    assert (dataset.problems, dataset.warnings) == ((), ())
