"""Cross-validation splits: which cases train and which validate in each fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from autoseg.core.dataset import Dataset
from autoseg.core.errors import DataError, Problem, UsageError
from autoseg.core.files import read_json, write_json
from autoseg.core.records import Record, parse

AbsentLabels = dict[str, list[str]]
N_FOLDS = 5
SEED = 12345


class Split(Record):
    """Case ids of one fold."""

    train: list[str]
    val: list[str]


def default_splits(groups: dict[str, str], absent_labels: AbsentLabels | None = None) -> list[Split]:
    """Five folds (fewer when there are fewer cases or groups) over {case id: group}.

    Without real groups (every case its own) the folds are nnU-Net's: case ids sorted, shuffled with
    RandomState(12345), cut into five runs whose sizes differ by at most one. With groups, shuffled groups go
    one by one to the fold that has the fewest cases, so that no group is in two folds. With `absent_labels` (label
    names that cases lack, by case id) every label is spread over the folds as evenly as groups allow. A single
    case or group gives no fold at all.
    """
    cases = sorted(groups)
    names = sorted(set(groups.values()))
    n_folds = min(N_FOLDS, len(names))
    if n_folds < 2:
        return []
    random = np.random.RandomState(SEED)
    if absent_labels is not None:
        held_out = _stratified(groups, absent_labels, n_folds=n_folds, random=random)
    elif len(names) == len(cases):
        order = np.arange(len(cases))
        random.shuffle(order)
        held_out = [{cases[i] for i in part} for part in np.array_split(order, n_folds)]
    else:
        held_out = [set() for _ in range(n_folds)]
        shuffled = list(names)
        random.shuffle(shuffled)
        for name in shuffled:
            members = {case for case in cases if groups[case] == name}
            min(held_out, key=len).update(members)
    return [Split(train=[c for c in cases if c not in val], val=[c for c in cases if c in val]) for val in held_out]


def _stratified(
    groups: dict[str, str], absent_labels: AbsentLabels, *, n_folds: int, random: np.random.RandomState
) -> list[set[str]]:
    """Greedy stratification: the rarest label first, its cases to the fold that has the fewest of it.

    Source: Sechidis et al., On the stratification of multi-label data (ECML PKDD 2011), for groups instead of cases.
    """
    labels = sorted({label for lacking in absent_labels.values() for label in lacking})
    members: dict[str, list[str]] = {}
    for case in sorted(groups):
        members.setdefault(groups[case], []).append(case)
    holders = {
        name: np.array([sum(label not in absent_labels.get(case, ()) for case in cases) for label in labels], dtype=int)
        for name, cases in members.items()
    }
    waiting = sorted(members)
    random.shuffle(waiting)
    folds: list[set[str]] = [set() for _ in range(n_folds)]
    in_fold = np.zeros((n_folds, len(labels)), dtype=int)
    while waiting:
        left = np.sum([holders[name] for name in waiting], axis=0)
        rarest = min(np.flatnonzero(left), key=lambda i: left[i], default=None)
        name = waiting[0] if rarest is None else max(waiting, key=lambda one: holders[one][rarest])
        few = np.zeros(n_folds) if rarest is None else in_fold[:, rarest]
        fold = min(range(n_folds), key=lambda i: (few[i], len(folds[i])))
        folds[fold].update(members[name])
        in_fold[fold] += holders[name]
        waiting.remove(name)
    return folds


def read_splits(path: Path, *, known: set[str]) -> list[Split]:
    """Splits from a file in nnU-Net's form, a list of {"train": [...], "val": [...]}.

    Raises:
        DataError: not that form, a case that does not exist, or a case that both trains and validates.
    """
    value = read_json(path)
    if not isinstance(value, list) or not value:
        todo = 'write [{"train": [...], "val": [...]}, ...]'
        raise DataError(Problem(case="", file=str(path), found="is no list of folds", next=todo))
    splits = [parse(Split, fold, source=f"{path}, fold {i}") for i, fold in enumerate(value)]
    defects = []
    for i, split in enumerate(splits):
        unknown = sorted({*split.train, *split.val} - known)
        defects += [(case, f"fold {i} names a case that does not exist", "remove it") for case in unknown]
        both = sorted({*split.train} & {*split.val})
        defects += [(case, f"trains and validates in fold {i}", "remove one") for case in both]
        if not split.train or not split.val:
            defects.append(("", f"fold {i} has an empty side", "add cases to it"))
    if defects:
        raise DataError(Problem(case=case, file=str(path), found=f, next=todo) for case, f, todo in defects)
    return splits


def splits_of(
    dataset: Dataset,
    path: Path,
    *,
    cases: set[str],
    absent_labels: AbsentLabels | None = None,
    stratify: bool = False,
) -> list[Split]:
    """The splits in `path` when a file is there, else the default ones, which are written to it.

    A file that was written by default for other cases or groups is replaced; one edited by the user is kept.
    Those of `cases` that the data set lost are left out. With `stratify`, and in later calls without it, default
    splits spread the labels evenly, of which cases lack `absent_labels`.

    Raises:
        UsageError: stratified splits are asked for, but the labels were not measured, or the file is the user's.
    """
    if stratify:
        check_stratify(path)
    written = _written(path)
    if path.is_file() and written.get("splits") != read_json(path):
        return read_splits(path, known=set(dataset.cases))
    if stratify and absent_labels is None:
        raise UsageError("--stratify: the cases are not measured yet; run autoseg_extract_fingerprint first")
    stratified = stratify or bool(written.get("stratified"))
    if stratified and absent_labels is None:  # the fingerprint is gone: without it they would come out otherwise
        return read_splits(path, known=set(dataset.cases))
    groups = {i: case.group or i for i, case in dataset.cases.items() if i in cases}
    splits = default_splits(groups, (absent_labels or {}) if stratified else None)
    value = [split.model_dump() for split in splits]
    # The note first: without splits it means nothing; splits without a note would be an edit.
    write_json(_note(path), {"splits": value, "stratified": stratified})
    write_json(path, value)
    return splits


def check_stratify(path: Path) -> None:
    """Raises UsageError when the splits in `path` are the user's own: they are not replaced by stratified ones."""
    if path.is_file() and _written(path).get("splits") != read_json(path):
        raise UsageError(f"--stratify: {path} is yours and is not replaced; delete it, or leave out --stratify")


def _note(path: Path) -> Path:
    """Holds what was written to `path` by default, to tell it from an edit."""
    return path.with_name(f".{path.name}.default")


def _written(path: Path) -> dict[str, Any]:
    note = _note(path)
    written: Any = read_json(note) if note.is_file() and path.is_file() else {}
    return written if isinstance(written, dict) else {"splits": written}  # as version 0.1.0 wrote it
