"""Cross-validation splits: which cases train and which validate in each fold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autoseg.core.dataset import Dataset
from autoseg.core.errors import DataError, Problem
from autoseg.core.files import read_json, write_json
from autoseg.core.records import Record, parse

N_FOLDS = 5
SEED = 12345


class Split(Record):
    """Case ids of one fold."""

    train: list[str]
    val: list[str]


def default_splits(groups: dict[str, str]) -> list[Split]:
    """Five folds (fewer when there are fewer cases or groups) over {case id: group}.

    Without real groups (every case its own) the folds are nnU-Net's: case ids sorted, shuffled with
    RandomState(12345), cut into five runs whose sizes differ by at most one. With groups, shuffled groups go
    one by one to the fold that has the fewest cases, so that no group is in two folds. A single case or group
    gives no fold at all.
    """
    cases = sorted(groups)
    names = sorted(set(groups.values()))
    n_folds = min(N_FOLDS, len(names))
    if n_folds < 2:
        return []
    random = np.random.RandomState(SEED)
    if len(names) == len(cases):
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


def splits_of(dataset: Dataset, path: Path, *, cases: set[str]) -> list[Split]:
    """The splits in `path` when a file is there, else the default ones, which are written to it.

    A file that was written by default for other cases or groups is replaced; one edited by the user is kept.
    Those of `cases` that the data set lost are left out.
    """
    note = path.with_name(f".{path.name}.default")  # what was written by default, to tell it from an edit
    if path.is_file() and not (note.is_file() and note.read_bytes() == path.read_bytes()):
        return read_splits(path, known=set(dataset.cases))
    splits = default_splits({i: case.group or i for i, case in dataset.cases.items() if i in cases})
    for target in (note, path):  # a note without splits means nothing; splits without a note would be an edit
        write_json(target, [split.model_dump() for split in splits])
    return splits
