"""What a challenge wants, as a small file, and a prediction turned into it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from autoseg.core.dataset import FILE_ENDINGS
from autoseg.core.errors import DataError, Problem
from autoseg.core.files import unsafe_name
from autoseg.core.records import Record
from autoseg.io.images import read_volume, write_labels

DETACHED = (".nhdr", ".mhd")  # two files each


class Challenge(Record):
    """Names, values and types of the files in an archive that a challenge takes.

    `file` is the name of a case's file in the archive, with folders if wanted; {case} stands for its id, and other
    names in braces for the named groups of the regular expression `case`, which every id must match as a whole.
    `values` gives other values to labels (value in the prediction -> value in the archive); those that are not named
    stay. `cases` are all that the challenge expects; without, those that were predicted.
    """

    file: str = "{case}.nii.gz"
    case: str = "(?P<case>.+)"
    data_type: Literal["uint8", "int8", "uint16", "int16", "uint32", "int32"] = "uint8"
    values: dict[int, int] = Field(default_factory=dict)
    cases: list[str] | None = None

    @field_validator("case")
    @classmethod
    def _is_expression(cls, case: str) -> str:
        try:
            re.compile(case)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return case

    @model_validator(mode="after")
    def _names_a_file(self) -> Challenge:
        if not self.file.endswith(FILE_ENDINGS) or self.file.endswith(DETACHED):
            raise ValueError(f"'file' must end in {', '.join(e for e in FILE_ENDINGS if e not in DETACHED)}")
        groups = {*re.compile(self.case).groupindex, "case"}
        if strangers := {*re.findall(r"{(.*?)}", self.file)} - groups:
            raise ValueError(f"'file' holds {{{min(strangers)}}}, which 'case' does not give; it has {sorted(groups)}")
        return self

    def name_of(self, case: str) -> str:
        """The file of a case. Raises DataError: the id does not match, or gives an unsafe name."""
        match = re.fullmatch(self.case, case)
        if match is None:
            raise _problem(case, f"does not match {self.case}", "correct 'case' in the challenge's file, or rename")
        name = self.file
        for group, text in {"case": case, **match.groupdict()}.items():
            name = name.replace(f"{{{group}}}", text or "")
        for part in name.split("/"):
            if unsafe := unsafe_name(part):
                raise _problem(case, f"its file would be called {name}: the name {unsafe}", "correct 'file'")
        return name

    def convert(self, source: Path, target: Path, *, case: str) -> None:
        """Write a predicted label file as the challenge wants it.

        Raises:
            DataError: it cannot be read, holds fractions, or values that do not fit into the data type.
        """
        voxels, geometry = read_volume(source, case=case)
        found = np.unique(voxels)
        wanted = {int(value): self.values.get(int(value), int(value)) for value in found if value == np.rint(value)}
        if len(wanted) < len(found):
            raise _problem(case, "holds fractions", "give label files", file=source)
        limits = np.iinfo(self.data_type)
        if outside := [value for value in wanted.values() if not limits.min <= value <= limits.max]:
            raise _problem(case, f"holds {outside[0]}, which is no {self.data_type}", "correct data_type or values")
        changed = np.zeros(voxels.shape, dtype=self.data_type)
        for before, after in wanted.items():
            changed[voxels == before] = after
        write_labels(target, geometry.orientation.apply(changed), like=source)

    def check(self, written: Path, source: Path, *, case: str) -> None:
        """Raise DataError unless a file of the archive holds what the challenge wants of a prediction."""
        voxels, geometry = read_volume(written, case=case)
        labels, other = read_volume(source, case=case)
        wanted = labels.astype(np.int64)
        for value in np.unique(labels):
            wanted[labels == value] = self.values.get(int(value), int(value))
        errors = geometry.differences(other)[0]
        if voxels.dtype != np.dtype(self.data_type):
            errors.append(f"its type is {voxels.dtype} instead of {self.data_type}")
        if not errors and not np.array_equal(voxels, wanted):
            errors.append("its labels are not those of the prediction")
        if errors:
            raise _problem(case, f"reading it back: {'; '.join(errors)}", "report this", file=source)


def _problem(case: str, found: str, todo: str, *, file: Path | None = None) -> DataError:
    return DataError(Problem(case=case, file="" if file is None else str(file), found=found, next=todo))
