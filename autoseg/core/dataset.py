"""A raw data set folder: its cases, and every defect that can be seen without opening an image."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from autoseg.core.declaration import FILE_ENDINGS, CaseFiles, DatasetJson, doubtful_keys, read_declaration
from autoseg.core.errors import DataError, Problem, UsageError
from autoseg.core.files import unsafe_name
from autoseg.core.labels import LabelScheme

__all__ = [
    "FILE_ENDINGS",
    "Case",
    "CaseFiles",
    "Dataset",
    "DatasetJson",
    "cases_in_folder",
    "find_dataset",
    "read_dataset",
    "read_declaration",
    "unsafe_id",
]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scan: one file per channel, perhaps a label file, perhaps a group (patient or site).

    `annotated` are the names that its label file was drawn for; None stands for all of them.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    group: str | None = None
    annotated: tuple[str, ...] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the case."""
        return self.images if self.label is None else (*self.images, self.label)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A raw data set: declaration, usable cases by id (sorted), and what is wrong with the others."""

    name: str
    folder: Path
    json: DatasetJson
    cases: dict[str, Case]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = field(default=())

    @cached_property
    def labels(self) -> LabelScheme:
        """What the labels mean."""
        return self.json.scheme

    @property
    def annotated_classes(self) -> dict[str, tuple[str, ...]]:
        """Names that cases were annotated for, of those that were not annotated for all."""
        return {case.id: case.annotated for case in self.cases.values() if case.annotated is not None}

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Channel names in file order."""
        return tuple(self.json.channel_names.values())


def read_dataset(folder: Path) -> Dataset:
    """Read dataset.json and list the training cases of a raw folder.

    Raises:
        DataError: dataset.json is missing or invalid, or no case is usable. Where some are, the defects of
            the others are in `problems` instead, so that the good ones are not lost.
    """
    declaration = read_declaration(folder)
    problems: list[Problem] = []
    if declaration.dataset is None:
        ending = declaration.file_ending
        n_channels = len(declaration.channel_names)
        cases = cases_in_folder(folder / "imagesTr", ending=ending, n_channels=n_channels, problems=problems)
        labels = folder / "labelsTr"
        cases = {i: replace(case, label=labels / f"{i}{ending}") for i, case in cases.items()}
    else:
        cases = _explicit_cases(folder, declaration, problems)
    problems += [problem for case in cases.values() for problem in _missing_files(case)]
    problems += _ids_equal_but_for_case(cases)
    broken = {problem.case for problem in problems}
    groups, annotated = declaration.groups or {}, declaration.annotated_classes or {}
    good = {
        i: replace(
            case,
            group=str(groups[i]) if i in groups else None,
            annotated=tuple(annotated[i]) if i in annotated else None,
        )
        for i, case in sorted(cases.items())
        if i not in broken
    }
    if not good and not problems:
        found, todo = f"holds no {declaration.file_ending} image", "check file_ending and the folder"
        problems.append(Problem(case="", file=str(folder / "imagesTr"), found=found, next=todo))
    if not good:
        raise DataError(problems)
    return Dataset(
        name=folder.resolve().name,
        folder=folder,
        json=declaration,
        cases=good,
        problems=tuple(problems),
        warnings=tuple(_warnings(folder, declaration, cases)),
    )


def cases_in_folder(folder: Path, *, ending: str, n_channels: int, problems: list[Problem]) -> dict[str, Case]:
    """Group the files CASE_0000.ext, CASE_0001.ext, ... of a folder into cases (without labels).

    Defects (a name without channel number, a missing or surplus channel, an unsafe id) are appended to
    `problems`. Raises DataError when there is no such folder.
    """
    if not folder.is_dir():
        found, todo = "this folder does not exist", "create it with the images"
        raise DataError(Problem(case="", file=str(folder), found=found, next=todo))
    channels: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        if not path.name.endswith(ending) or path.is_dir():
            continue
        stem = path.name[: -len(ending)]
        match = re.fullmatch(r"(.*)_([0-9]{4})", stem, flags=re.DOTALL)
        if unsafe := unsafe_id(match[1] if match else stem):
            problems.append(Problem(case="", file=ascii(path.name), found=unsafe, next="rename or delete the file"))
        elif match is None:
            found, todo = "the name has no channel number", f"rename it to {stem}_0000{ending}"
            problems.append(Problem(case="", file=path.name, found=found, next=todo))
        else:
            channels[match[1]][int(match[2])] = path
    for case, files in channels.items():
        for missing in sorted(set(range(n_channels)) - set(files)):
            found, todo = "this channel is missing", "add the file or remove the case"
            name = f"{case}_{missing:04d}{ending}"
            problems.append(Problem(case=case, file=name, found=found, next=todo))
        for surplus in sorted(set(files) - set(range(n_channels))):
            found = f"channel {surplus} is beyond the {n_channels} that dataset.json declares"
            todo = "declare it or remove the file"
            problems.append(Problem(case=case, file=files[surplus].name, found=found, next=todo))
    return {
        i: Case(id=i, images=tuple(files[channel] for channel in sorted(files)))
        for i, files in sorted(channels.items())
    }


def unsafe_id(case: str) -> str:
    """Why a case id must not be used as a file name; empty when it may."""
    unsafe = unsafe_name(case)
    return f"the case id {unsafe}" if unsafe else ""


def _explicit_cases(folder: Path, declaration: DatasetJson, problems: list[Problem]) -> dict[str, Case]:
    cases, n_channels = {}, len(declaration.channel_names)
    for case, files in (declaration.dataset or {}).items():
        if unsafe := unsafe_id(case):
            problems.append(Problem(case=ascii(case), file="dataset.json", found=unsafe, next="rename the case"))
            continue
        if len(files.images) != n_channels:
            found = f"lists {len(files.images)} images where {n_channels} channels are declared"
            todo = "list one image per channel"
            problems.append(Problem(case=case, file="dataset.json", found=found, next=todo))
        if files.label is None:
            todo = "add the label file"
            problems.append(Problem(case=case, file="dataset.json", found="has no label", next=todo))
        label = None if files.label is None else folder / files.label
        cases[case] = Case(id=case, images=tuple(folder / file for file in files.images), label=label)
    return cases


def _missing_files(case: Case) -> list[Problem]:
    lost = [path for path in case.files if not path.is_file()]
    return [
        Problem(
            case=case.id,
            file=str(path),
            found="the label file is missing" if path == case.label else "this file is missing",
            next="add it or remove the case",
        )
        for path in lost
    ]


def _ids_equal_but_for_case(cases: dict[str, Case]) -> list[Problem]:
    same = defaultdict(list)
    for case in cases:
        same[case.casefold()].append(case)
    return [
        Problem(
            case=case,
            found=f"differs from {', '.join(c for c in ids if c != case)} only in upper and lower case",
            next="rename one: on some file systems they are the same file",
        )
        for ids in same.values()
        if len(ids) > 1
        for case in ids
    ]


def _warnings(folder: Path, declaration: DatasetJson, cases: dict[str, Case]) -> list[Problem]:
    warnings = doubtful_keys(declaration)
    if declaration.numTraining is not None and declaration.numTraining != len(cases):
        found = f"numTraining is {declaration.numTraining}, but there are {len(cases)} cases"
        todo = "the cases found are used"
        warnings.append(Problem(case="", file="dataset.json", found=found, next=todo))
    for key in ("groups", "annotated_classes"):
        for case in sorted(set(getattr(declaration, key) or {}) - set(cases)):
            found = f"is in {key} but is no case"
            warnings.append(Problem(case=case, file="dataset.json", found=found, next="it is ignored"))
    labels = folder / "labelsTr"
    if declaration.dataset is None and labels.is_dir():
        ending = declaration.file_ending
        stems = {path.name[: -len(ending)] for path in labels.iterdir() if path.name.endswith(ending)}
        for case in sorted(stems - set(cases)):
            file = ascii(f"labelsTr/{case}{ending}") if unsafe_id(case) else f"labelsTr/{case}{ending}"
            warnings.append(Problem(case="", file=file, found="has no image", next="it is ignored"))
    return warnings


def find_dataset(name: str, *, raw: Path) -> Path:
    """Folder of a data set given as number (4), name (Dataset004_Hippocampus) or path.

    Raises:
        UsageError: there is none, or the number stands for several.
    """
    path = Path(name)
    if (path / "dataset.json").is_file() or (path.is_dir() and len(path.parts) > 1):
        return path.resolve()
    known = (
        sorted(p for p in raw.iterdir() if p.is_dir() and re.match(r"Dataset\d{3}_", p.name)) if raw.is_dir() else []
    )
    if name.isdecimal():
        matching = [p for p in known if p.name.startswith(f"Dataset{int(name):03d}_")]
    else:
        matching = [p for p in known if p.name == name]
    if len(matching) == 1:
        return matching[0]
    listed = ", ".join(p.name for p in matching or known) or "none"
    found = "stands for several data sets" if matching else "is no data set"
    todo = "give the number, the full name, or the path of a folder"
    raise UsageError(f"'{name}' {found} in {raw} (there: {listed}); {todo}")
