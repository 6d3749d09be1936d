"""dataset.json: what a raw data set says about itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from autoseg.core.errors import Problem
from autoseg.core.files import read_json
from autoseg.core.labels import LabelScheme
from autoseg.core.records import Record, parse

FILE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


def _whole_numbers(value: Any) -> Any:
    members = value if isinstance(value, list) else [value]
    if not members or any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in members):
        raise ValueError("must be a whole number from 0 up, or a list of them")
    return value


def _checked(labels: dict[str, int | list[int]]) -> dict[str, int | list[int]]:
    mistakes = []
    if labels.get("background") != 0:
        mistakes.append('"background": 0 is missing')
    structures = {name: _as_list(v) for name, v in labels.items() if name not in ("background", "ignore")}
    if not structures:
        mistakes.append("there must be at least one structure besides the background")
    names: dict[int, str] = {}
    for name, members in structures.items():
        if 0 in members:
            mistakes.append(f"'{name}' holds 0, which is the background")
        elif not _has_regions(labels) and (other := names.setdefault(members[0], name)) != name:
            mistakes.append(f"'{other}' and '{name}' have the same value {members[0]}")
    largest = max((v for members in structures.values() for v in members), default=0)
    ignore = labels.get("ignore", largest + 1)
    if not isinstance(ignore, int) or ignore <= largest:
        mistakes.append(f"the ignore label must be one number above all others (here {largest + 1})")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return labels


LabelValue = Annotated[int | list[int], BeforeValidator(_whole_numbers)]
Labels = Annotated[dict[str, LabelValue], AfterValidator(_checked)]


def check_regions_order(order: list[int] | None, labels: dict[str, int | list[int]] | None) -> None:
    """Raise ValueError where labels hold regions and `order` has not one of their values for each region."""
    if labels is None or not _has_regions(labels):
        return
    n_regions = len(labels) - 1 - ("ignore" in labels)
    if order is None or len(order) != n_regions:
        raise ValueError(f"with regions this must list {n_regions} values, one per region")
    values = {v for name, members in labels.items() if name != "ignore" for v in _as_list(members)}
    if strangers := sorted(set(order) - values):
        raise ValueError(f"{strangers[0]} is no value of any label")


def _has_regions(labels: dict[str, int | list[int]]) -> bool:
    return any(isinstance(v, list) and len(v) > 1 for v in labels.values())


def _as_list(value: int | list[int]) -> list[int]:
    return value if isinstance(value, list) else [value]


def _check_names(names: Iterable[str], info: ValidationInfo, *, where: str = "") -> None:
    structures = [name for name in info.data.get("labels", {}) if name not in ("background", "ignore")]
    if strangers := [name for name in names if structures and name not in structures]:
        raise ValueError(f"{where}'{strangers[0]}' is no label (there: {', '.join(structures)})")


class CaseFiles(Record):
    """Explicit files of one case, as the optional key `dataset` of dataset.json lists them."""

    images: list[str] = Field(min_length=1)
    label: str | None = None


class DatasetJson(Record):
    """dataset.json in nnU-Net v2's form; unknown keys (description, licence, ...) are kept and ignored."""

    model_config = ConfigDict(extra="allow")

    channel_names: dict[str, str] = Field(min_length=1)
    labels: Labels
    numTraining: int | None = None
    file_ending: str
    regions_class_order: list[int] | None = None
    dataset: dict[str, CaseFiles] | None = None
    groups: dict[str, str | int] | None = None
    annotated_classes: dict[str, list[str]] | None = None
    lesions: list[str] | None = None
    tolerances_mm: dict[str, Annotated[float, Field(ge=0)]] | None = None

    @field_validator("annotated_classes")
    @classmethod
    def _known_per_case(cls, cases: dict[str, list[str]] | None, info: ValidationInfo) -> dict[str, list[str]] | None:
        for case, names in (cases or {}).items():
            if not names:
                raise ValueError(f"{case}: lists no label; name those that it was annotated for, or remove the case")
            _check_names(names, info, where=f"{case}: ")
        return cases

    @field_validator("lesions", "tolerances_mm")
    @classmethod
    def _known(cls, names: Any, info: ValidationInfo) -> Any:
        _check_names(names or (), info)
        return names

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

    @field_validator("regions_class_order")
    @classmethod
    def _one_value_per_region(cls, order: list[int] | None, info: ValidationInfo) -> list[int] | None:
        check_regions_order(order, info.data.get("labels"))
        return order

    @property
    def scheme(self) -> LabelScheme:
        """The labels as a LabelScheme."""
        declared = {n: tuple(v) if isinstance(v, list) else v for n, v in self.labels.items()}
        lists = any(isinstance(v, list) for v in self.labels.values())
        order = tuple(self.regions_class_order or ()) if lists else ()
        return LabelScheme(declared=declared, regions_class_order=order)


def read_declaration(folder: Path) -> DatasetJson:
    """Read and check `folder`/dataset.json. Raises DataError naming each wrong key and its line."""
    path = folder / "dataset.json"
    return parse(DatasetJson, read_json(path), source=path)


def doubtful_keys(declaration: DatasetJson) -> list[Problem]:
    """A warning for each unknown key that looks like a misspelt optional one that is not given."""
    unset = [key for key in DatasetJson.model_fields if getattr(declaration, key) is None]
    warnings = []
    for key in declaration.model_extra or {}:
        # 0.8 tells `group` (groups) from `numTest` (numTraining) and `dataset_name` (dataset)
        if close := difflib.get_close_matches(key.casefold(), unset, n=1, cutoff=0.8):
            found, todo = f"unknown key '{key}' is ignored", f"did you mean '{close[0]}'?"
            warnings.append(Problem(case="", file="dataset.json", found=found, next=todo))
    return warnings
