"""A raw data set folder: its declaration, its cases, and every defect that can be seen without opening an image."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from autoseg.core.errors import DataError, Problem, UsageError
from autoseg.core.files import read_json
from autoseg.core.labels import LabelScheme
from autoseg.core.records import Record, parse

FILE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


class CaseFiles(Record):
    """Explicit files of one case, as the optional key `dataset` of dataset.json lists them."""

    images: list[str] = Field(min_length=1)
    label: str | None = None


class DatasetJson(Record):
    """dataset.json in nnU-Net v2's form; unknown keys (description, licence, ...) are kept and ignored."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    channel_names: dict[str, str] = Field(min_length=1)
    labels: dict[str, int | list[int]]
    numTraining: int | None = None
    file_ending: str
    regions_class_order: list[int] | None = None
    dataset: dict[str, CaseFiles] | None = None
    groups: dict[str, str | int] | None = None

    @field_validator("channel_names")
    @classmethod
    def _numbered(cls, channels: dict[str, str]) -> dict[str, str]:
        if set(channels) != {str(i) for i in range(len(channels))}:
            raise ValueError('channels must be numbered "0", "1", ... without gaps')
        return {str(i): channels[str(i)] for i in range(len(channels))}

    @field_validator("file_ending")
    @classmethod
    def _known_ending(cls, ending: str) -> str:
        if ending not in FILE_ENDINGS:
            raise ValueError(f"must be one of {', '.join(FILE_ENDINGS)}")
        return ending

    @field_validator("labels", mode="before")
    @classmethod
    def _plain_integers(cls, labels: Any) -> Any:
        for name, value in labels.items() if isinstance(labels, dict) else ():
            members = value if isinstance(value, list) else [value]
            if not members or any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in members):
                raise ValueError(f"label '{name}' must be a whole number from 0 up, or a list of them")
        return labels

    @model_validator(mode="after")
    def _labels_make_sense(self) -> DatasetJson:
        labels, regions = self.labels, any(isinstance(v, list) and len(v) > 1 for v in self.labels.values())
        if labels.get("background") != 0:
            raise ValueError('labels must hold "background": 0')
        singles = [v for v in labels.values() if isinstance(v, int)]
        if len(labels) - ("ignore" in labels) < 2:
            raise ValueError("labels must hold at least one structure besides the background")
        if not regions and len(set(singles)) != len(singles):
            raise ValueError("two labels have the same value")
        if "ignore" in labels:
            largest = max(v for n, vs in labels.items() if n != "ignore" for v in (vs if isinstance(vs, list) else [vs]))
            if not isinstance(labels["ignore"], int) or labels["ignore"] <= largest:
                raise ValueError(f"the ignore label must be one number above all others (here {largest + 1})")
        if regions:
            n_regions = len(labels) - 1 - ("ignore" in labels)
            if self.regions_class_order is None or len(self.regions_class_order) != n_regions:
                raise ValueError(f"with regions, regions_class_order must list {n_regions} values, one per region")
        return self

    @property
    def scheme(self) -> LabelScheme:
        """The labels as a LabelScheme."""
        declared = {n: tuple(v) if isinstance(v, list) else v for n, v in self.labels.items()}
        order = tuple(self.regions_class_order or ()) if any(isinstance(v, list) for v in self.labels.values()) else ()
        return LabelScheme(declared=declared, regions_class_order=order)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scan: one file per channel, perhaps a label file, perhaps a group (patient or site)."""

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    group: str | None = None

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
    def channel_names(self) -> tuple[str, ...]:
        """Channel names in file order."""
        return tuple(self.json.channel_names.values())


def read_declaration(folder: Path) -> DatasetJson:
    """Read and check `folder`/dataset.json. Raises DataError naming each wrong key and its line."""
    path = folder / "dataset.json"
    value = read_json(path)
    try:
        return parse(DatasetJson, value, source=str(path))
    except DataError as error:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        raise DataError(_with_line(problem, lines) for problem in error.problems) from error


def _with_line(problem: Problem, lines: list[str]) -> Problem:
    for quoted in reversed(re.findall(r"'([^']+)'", problem.found)):
        for key in reversed(quoted.split(".")):
            for number, line in enumerate(lines, start=1):
                if f'"{key}"' in line:
                    found = f"{problem.found} (line {number})"
                    return Problem(case=problem.case, file=problem.file, found=found, next=problem.next)
    return problem


def read_dataset(folder: Path) -> Dataset:
    """Read dataset.json and list the training cases of a raw folder.

    Raises:
        DataError: dataset.json is missing or invalid, or no image belongs to it. Defects of single cases are in
            `problems` instead, so that the other cases are not lost.
    """
    declaration = read_declaration(folder)
    problems: list[Problem] = []
    if declaration.dataset is None:
        cases = cases_in_folder(
            folder / "imagesTr", ending=declaration.file_ending, n_channels=len(declaration.channel_names), problems=problems
        )
        cases = {i: _with_label(case, folder / "labelsTr" / f"{i}{declaration.file_ending}") for i, case in cases.items()}
    else:
        cases = _explicit_cases(folder, declaration, problems)
    broken = {problem.case for problem in problems}
    problems += [p for case in cases.values() if case.id not in broken for p in _missing_files(case)]
    problems += _ids_equal_but_for_case(cases)
    broken = {problem.case for problem in problems}
    groups = declaration.groups or {}
    good = {
        i: Case(id=i, images=c.images, label=c.label, group=str(groups[i]) if i in groups else None)
        for i, c in sorted(cases.items())
        if i not in broken
    }
    if not cases and not problems:
        found = f"holds no {declaration.file_ending} image"
        raise DataError(Problem(case="", file=str(folder / "imagesTr"), found=found, next="check file_ending and the folder"))
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

    Defects (a name without channel number, a missing or surplus channel, an unsafe id) are appended to `problems`.
    """
    if not folder.is_dir():
        raise DataError(Problem(case="", file=str(folder), found="this folder does not exist", next="create it with the images"))
    channels: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()):
        if not path.name.endswith(ending) or path.is_dir():
            continue
        match = re.fullmatch(r"(.*)_(\d{4})", path.name[: -len(ending)], flags=re.DOTALL)
        if match is None or not match[1]:
            name = path.name[: -len(ending)]
            found, todo = "the name has no channel number", f"rename it to {name}_0000{ending}"
            problems.append(Problem(case=name, file=path.name, found=found, next=todo))
        elif unsafe := unsafe_id(match[1]):
            problems.append(Problem(case=match[1], file=repr(path.name), found=unsafe, next="rename or delete the file"))
        else:
            channels[match[1]][int(match[2])] = path
    for case, files in channels.items():
        for missing in sorted(set(range(n_channels)) - set(files)):
            name = f"{case}_{missing:04d}{ending}"
            problems.append(Problem(case=case, file=name, found="this channel is missing", next="add the file or remove the case"))
        for surplus in sorted(set(files) - set(range(n_channels))):
            found = f"channel {surplus} is beyond the {n_channels} that dataset.json declares"
            problems.append(Problem(case=case, file=files[surplus].name, found=found, next="declare it or remove the file"))
    return {i: Case(id=i, images=tuple(files[c] for c in sorted(files))) for i, files in sorted(channels.items())}


def unsafe_id(case: str) -> str:
    """Why a case id must not be used as a file name; empty when it may."""
    if not case or "/" in case or "\\" in case:
        return "the case id holds a path separator"
    if case.startswith("."):
        return "the case id begins with a dot"
    if ".." in case:
        return "the case id holds '..'"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in case):
        return "the case id holds a control character"
    return ""


def _with_label(case: Case, label: Path) -> Case:
    return Case(id=case.id, images=case.images, label=label)


def _explicit_cases(folder: Path, declaration: DatasetJson, problems: list[Problem]) -> dict[str, Case]:
    cases, n_channels = {}, len(declaration.channel_names)
    for case, files in (declaration.dataset or {}).items():
        if unsafe := unsafe_id(case):
            problems.append(Problem(case=repr(case), file="dataset.json", found=unsafe, next="rename the case"))
            continue
        if len(files.images) != n_channels:
            found = f"lists {len(files.images)} images where {n_channels} channels are declared"
            problems.append(Problem(case=case, file="dataset.json", found=found, next="list one image per channel"))
        if files.label is None:
            problems.append(Problem(case=case, file="dataset.json", found="has no label", next="add the label file"))
            continue
        cases[case] = Case(id=case, images=tuple(folder / f for f in files.images), label=folder / files.label)
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
        Problem(case=case, found=f"differs from {', '.join(c for c in ids if c != case)} only in upper and lower case",
                next="rename one: on some file systems they are the same file")
        for ids in same.values()
        if len(ids) > 1
        for case in ids
    ]  # fmt: skip


def _warnings(folder: Path, declaration: DatasetJson, cases: dict[str, Case]) -> list[Problem]:
    warnings = []
    if declaration.numTraining is not None and declaration.numTraining != len(cases):
        found = f"numTraining is {declaration.numTraining}, but there are {len(cases)} cases"
        warnings.append(Problem(case="", file="dataset.json", found=found, next="the cases found are used"))
    for case in sorted(set(declaration.groups or {}) - set(cases)):
        warnings.append(Problem(case=case, file="dataset.json", found="is in groups but is no case", next="it is ignored"))
    labels = folder / "labelsTr"
    if declaration.dataset is None and labels.is_dir():
        ending = declaration.file_ending
        stems = {path.name[: -len(ending)] for path in labels.iterdir() if path.name.endswith(ending)}
        for case in sorted(stems - set(cases)):
            warnings.append(Problem(case=case, file=f"labelsTr/{case}{ending}", found="has no image", next="it is ignored"))
    return warnings


def find_dataset(name: str, *, raw: Path) -> Path:
    """Folder of a data set given as number (4), name (Dataset004_Hippocampus) or path.

    Raises:
        UsageError: there is none, or the number stands for several.
    """
    path = Path(name)
    if (path / "dataset.json").is_file() or (path.is_dir() and len(path.parts) > 1):
        return path.resolve()
    known = sorted(p for p in raw.iterdir() if p.is_dir() and re.match(r"Dataset\d{3}_", p.name)) if raw.is_dir() else []
    if name.isdecimal():
        matching = [p for p in known if p.name.startswith(f"Dataset{int(name):03d}_")]
    else:
        matching = [p for p in known if p.name == name]
    if len(matching) == 1:
        return matching[0]
    listed = ", ".join(p.name for p in matching or known) or "none"
    found = "stands for several data sets" if matching else "is no data set"
    raise UsageError(f"'{name}' {found} in {raw} (there: {listed}); give the number, the full name, or the path of a folder")
