"""Default splits are nnU-Net's; groups stay together; a file of the user wins and is checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from autoseg.core.dataset import Case, Dataset
from autoseg.core.declaration import DatasetJson
from autoseg.core.errors import DataError, UsageError
from autoseg.core.splits import Split, default_splits, read_splits, splits_of

DECLARATION = DatasetJson(channel_names={"0": "CT"}, labels={"background": 0, "a": 1}, file_ending=".nii.gz")


def names(n: int) -> list[str]:
    return [f"case {i:03d}" for i in range(n)]


def dataset_of(groups: dict[str, str | None]) -> Dataset:
    cases = {i: Case(id=i, images=(Path(i),), group=group) for i, group in sorted(groups.items())}
    return Dataset(name="D", folder=Path("D"), json=DECLARATION, cases=cases)


@pytest.mark.parametrize("n", [5, 6, 7, 9, 10, 41, 131, 200, 484])
def test_without_groups_the_folds_are_nnunets(n: int) -> None:
    cases = names(n)
    shuffled = [str(case) for case in np.random.default_rng(0).permutation(cases)]
    found = default_splits({case: case for case in shuffled})
    expected = KFold(n_splits=5, shuffle=True, random_state=12345).split(np.array(cases))
    assert [(fold.train, fold.val) for fold in found] == [
        ([cases[i] for i in train], [cases[i] for i in val]) for train, val in expected
    ]


@pytest.mark.parametrize(("n", "n_folds"), [(0, 0), (1, 0), (2, 2), (3, 3), (4, 4), (5, 5), (6, 5)])
def test_fewer_cases_than_folds_give_that_many(n: int, n_folds: int) -> None:
    folds = default_splits({case: case for case in names(n)})
    assert len(folds) == n_folds
    if n_folds:
        assert sorted(case for fold in folds for case in fold.val) == names(n)
        assert all(fold.train for fold in folds)


def test_every_case_in_a_group_of_its_own_is_no_grouping() -> None:
    groups = {case: f"patient {i * 7 % 11}" for i, case in enumerate(names(11))}
    assert default_splits(groups) == default_splits({case: case for case in names(11)})


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), st.text("xyz", min_size=1, max_size=2), max_size=40))
def test_groups_are_never_split(groups: dict[str, str]) -> None:
    folds = default_splits(groups)
    n_groups = len(set(groups.values()))
    assert len(folds) == (min(5, n_groups) if n_groups > 1 else 0)
    for fold in folds:
        assert sorted(fold.train + fold.val) == sorted(groups)
        assert {groups[case] for case in fold.train}.isdisjoint(groups[case] for case in fold.val)
        assert fold.train
        assert fold.val
    assert sorted(case for fold in folds for case in fold.val) == (sorted(groups) if folds else [])


def test_groups_are_spread_evenly_and_the_same_each_time() -> None:
    groups = {case: f"site {i % 20}" for i, case in enumerate(names(100))}
    folds = default_splits(groups)
    assert [len(fold.val) for fold in folds] == [20] * 5
    assert default_splits(dict(reversed(groups.items()))) == folds


def test_rare_labels_are_spread_over_the_folds() -> None:
    cases = names(40)
    rare, half = cases[::8], cases[::2]  # in 5 and in 20 of 40 cases
    absent = {c: [label for label, held in (("rare", rare), ("half", half)) if c not in held] for c in cases}
    folds = default_splits({case: case for case in cases}, absent)
    assert sorted(case for fold in folds for case in fold.val) == cases
    assert [len(set(fold.val) & set(rare)) for fold in folds] == [1] * 5
    assert [len(set(fold.val) & set(half)) for fold in folds] == [4] * 5
    assert [len(fold.val) for fold in folds] == [8] * 5


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=3), st.text("xyz", min_size=1, max_size=2), max_size=30),
    st.data(),
)
def test_stratified_groups_are_never_split_and_no_fold_is_empty(groups: dict[str, str], data: st.DataObject) -> None:
    absent = {case: data.draw(st.lists(st.sampled_from("KLM"), unique=True)) for case in groups}
    folds = default_splits(groups, absent)
    assert len(folds) == len(default_splits(groups))
    for fold in folds:
        assert fold.train
        assert fold.val
        assert {groups[case] for case in fold.train}.isdisjoint(groups[case] for case in fold.val)
    assert sorted(case for fold in folds for case in fold.val) == (sorted(groups) if folds else [])


def test_stratified_splits_stay_stratified(tmp_path: Path) -> None:
    path, dataset = tmp_path / "splits.json", dataset_of(dict.fromkeys(names(20)))
    absent = {case: ["a"] for case in names(20)[5:]}
    first = splits_of(dataset, path, cases={*dataset.cases}, absent_labels=absent, stratify=True)
    assert [len(set(fold.val) & set(names(5))) for fold in first] == [1] * 5
    assert first != default_splits({case: case for case in names(20)})
    assert splits_of(dataset, path, cases={*dataset.cases}, absent_labels=absent) == first
    assert splits_of(dataset, path, cases={*dataset.cases}) == first  # the fingerprint is not there: kept as they are
    more = dataset_of(dict.fromkeys(names(40)))  # ten of 40 cases hold the label now
    absent = {case: ["a"] for case in names(40) if case not in names(5) and case not in names(25)[20:]}
    second = splits_of(more, path, cases={*more.cases}, absent_labels=absent)
    assert [sum(case not in absent for case in fold.val) for fold in second] == [2] * 5


def test_stratified_splits_need_measured_labels_and_no_file_of_the_user(tmp_path: Path) -> None:
    path, dataset = tmp_path / "splits.json", dataset_of(dict.fromkeys(names(6)))
    with pytest.raises(UsageError, match="autoseg_extract_fingerprint"):
        splits_of(dataset, path, cases={*dataset.cases}, stratify=True)
    path.write_text(json.dumps([{"train": ["case 000"], "val": ["case 001"]}]))
    with pytest.raises(UsageError, match="is yours and is not replaced"):
        splits_of(dataset, path, cases={*dataset.cases}, absent_labels={}, stratify=True)


def test_default_splits_are_written_in_nnunets_form(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    found = splits_of(dataset_of(dict.fromkeys(names(7))), path, cases={*names(7)})
    assert json.loads(path.read_text()) == [{"train": fold.train, "val": fold.val} for fold in found]
    assert read_splits(path, known={*names(7)}) == found


def test_default_splits_follow_the_cases_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    six, seven = (dataset_of(dict.fromkeys(names(n))) for n in (6, 7))
    first = splits_of(six, path, cases={*six.cases})
    assert splits_of(six, path, cases={*six.cases}) == first
    second = splits_of(seven, path, cases={*seven.cases})
    assert second != first
    assert read_splits(path, known={*seven.cases}) == second
    grouped = dataset_of({case: f"p{i // 2}" for i, case in enumerate(names(7))})
    third = splits_of(grouped, path, cases={*grouped.cases})
    assert len(third) == 4
    assert read_splits(path, known={*seven.cases}) == third


def test_a_case_that_the_data_set_lost_is_left_out(tmp_path: Path) -> None:
    dataset = dataset_of(dict.fromkeys(names(6)))
    found = splits_of(dataset, tmp_path / "splits.json", cases={*names(6), "gone"})
    assert found == default_splits({case: case for case in names(6)})


def test_cases_that_are_not_preprocessed_are_left_out(tmp_path: Path) -> None:
    dataset = dataset_of(dict.fromkeys(names(9)))
    found = splits_of(dataset, tmp_path / "splits.json", cases={*names(6)})
    assert found == default_splits({case: case for case in names(6)})


def test_a_file_of_the_user_wins_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    own = [{"train": ["case 000"], "val": ["case 001", "case 002"]}]
    path.write_text(json.dumps(own))
    for n in (4, 6):
        dataset = dataset_of(dict.fromkeys(names(n)))
        assert splits_of(dataset, path, cases={*dataset.cases}) == [Split(**own[0])]
    assert json.loads(path.read_text()) == own


def test_an_edited_default_counts_as_the_users(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    dataset = dataset_of(dict.fromkeys(names(6)))
    splits_of(dataset, path, cases={*dataset.cases})
    edited = json.loads(path.read_text())[:2]
    path.write_text(json.dumps(edited))
    assert len(splits_of(dataset, path, cases={*names(5)})) == 2
    path.unlink()
    assert len(splits_of(dataset, path, cases={*dataset.cases})) == 5


def test_splits_killed_before_they_were_written_are_no_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import autoseg.core.splits as module

    path, dataset, write = tmp_path / "splits.json", dataset_of(dict.fromkeys(names(6))), module.write_json

    def dies_at_the_second(target: Path, value: Any) -> None:
        if any(tmp_path.iterdir()):
            raise KeyboardInterrupt
        write(target, value)

    monkeypatch.setattr(module, "write_json", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        splits_of(dataset, path, cases={*names(5)})
    monkeypatch.setattr(module, "write_json", write)
    assert splits_of(dataset, path, cases={*names(6)}) == default_splits({case: case for case in names(6)})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, ["is no list of folds"]),
        ([], ["is no list of folds"]),
        ([["a"]], ["holds a list where an object"]),
        ([{"train": ["case 000"]}], ["fold 0", "key 'val' is missing"]),
        ([{"train": ["case 000"], "vals": ["case 001"]}], ["did you mean 'val'"]),
        ([{"train": [1], "val": ["case 001"]}], ["'train.0'"]),
        ([{"train": ["case 000"], "val": []}], ["fold 0 has an empty side"]),
    ],
)
def test_a_wrong_file_of_the_user_is_told(tmp_path: Path, content: Any, words: list[str]) -> None:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        splits_of(dataset_of(dict.fromkeys(names(3))), path, cases={*names(3)})
    assert all(word in str(caught.value) for word in [*words, str(path)])


def test_everything_wrong_in_it_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    folds = [
        {"train": ["case 000", "x"], "val": ["case 001"]},
        {"train": ["case 002"], "val": ["case 002", "y"]},
    ]
    path.write_text(json.dumps(folds))
    with pytest.raises(DataError) as caught:
        read_splits(path, known={*names(3)})
    assert {(problem.case, problem.found) for problem in caught.value.problems} == {
        ("x", "fold 0 names a case that does not exist"),
        ("y", "fold 1 names a case that does not exist"),
        ("case 002", "trains and validates in fold 1"),
    }
