"""prediction.json: what a prediction folder holds, and from what each file in it was made."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoseg.core.errors import DataError, Problem
from autoseg.core.files import content_key, read_json, set_aside, write_json

log = logging.getLogger(__name__)
RECORD = "prediction.json"
PROBABILITIES = "_probabilities.b2nd"  # a case's file of probabilities is its id and this


def is_as_written(entry: dict[str, Any], path: Path) -> bool:
    """Whether a file is there as an entry of prediction.json says that it was written."""
    files = entry.get("files")
    try:
        return isinstance(files, dict) and files.get(path.name) == content_key(files=[path])
    except OSError:
        return False


def recorded_cases(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What the records in a prediction folder say of each case that was done: an entry per record."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in _records(folder):
        for case, entry in _read_record(path)["cases"].items():
            found.setdefault(case, []).append(entry)
    return found


def asked_cases(folder: Path) -> set[str] | None:
    """Ids of the cases that a prediction folder was to hold, failed ones included; None without a prediction.json."""
    records = _records(folder)
    if not records:
        return None
    values = [_read_record(path) for path in records]
    return {case for value in values for case in (*value["cases"], *(f["case"] for f in value["failures"])) if case}


def _records(folder: Path) -> list[Path]:
    return sorted([*folder.glob(RECORD), *folder.glob("prediction_part*of*.json")])


def _read_record(path: Path) -> dict[str, Any]:
    value = read_json(path)
    kinds = {"cases": dict, "failures": list}
    sound = isinstance(value, dict) and all(isinstance(value.get(k), kind) for k, kind in kinds.items())
    if not sound or not all(isinstance(entry, dict) for entry in (*value["cases"].values(), *value["failures"])):
        raise DataError(Problem(case="", file=str(path), found="is no record of predictions", next="move it away"))
    return value


class PredictionRecord:
    """prediction.json of an output folder, written anew after every case so that a kill loses nothing."""

    def __init__(self, folder: Path, *, part: tuple[int, int], facts: dict[str, Any]) -> None:
        number, n_parts = part
        self.path = folder / (RECORD if n_parts == 1 else f"prediction_part{number}of{n_parts}.json")
        own = _read_record(self.path)["cases"] if self.path.is_file() else {}
        parts = (_read_record(path)["cases"] for path in _records(folder) if path != self.path)
        self._elsewhere = {case: entry for cases in parts for case, entry in cases.items()}
        self.value: dict[str, Any] = {**facts, "cases": own, "failures": []}

    def holds(self, case: str, *, key: str, files: Sequence[Path]) -> bool:
        """Whether a case was made from what `key` says, and all these files are as they were written then.

        What another part of the same job did counts too, and is entered here.
        """
        for entries in (self.value["cases"], self._elsewhere):
            entry = entries.get(case, {})
            if entry.get("key") == key and all(is_as_written(entry, path) for path in files):
                self.value["cases"][case] = entry
                return True
        return False

    def make_room(self, case: str, *, key: str, files: Sequence[Path], image: str | None = None) -> None:
        """Set aside, before a case is written into `files`, what the folder must not lose or mix with it.

        That is what no record knows as it is (somebody else's file, or one corrected by hand), what was made from
        another image, and files of an earlier prediction that this one does not replace.
        """
        entries = [cases[case] for cases in (self.value["cases"], self._elsewhere) if case in cases]
        listed = {self.path.parent / Path(name).name for entry in entries for name in entry.get("files", {})}
        for path in [*files, *sorted(listed.difference(files))]:
            known = [entry for entry in entries if is_as_written(entry, path)]
            if not path.is_file() or (path not in files and any(entry.get("key") == key for entry in known)):
                continue
            if not known:
                reason = "is not as autoseg has written it"
            elif image is not None and all(entry.get("image", image) != image for entry in known):
                reason = "was made from another image of the same name"
            elif path not in files:
                reason = "is of an earlier prediction"
            else:
                continue
            log.warning("%s %s; it is kept as %s", path, reason, set_aside(path).name)

    def add(self, case: str, *, key: str, files: Sequence[Path], facts: dict[str, Any]) -> None:
        """Enter a finished case: the files that were written; seconds, volumes_ml, trust, warnings."""
        before = self.value["cases"].get(case, {})
        others = before.get("files", {}) if before.get("key") == key else {}  # the same in another format
        hashes = {path.name: content_key(files=[path]) for path in files}
        self.value["cases"][case] = {"key": key, **facts, "files": {**others, **hashes}}
        write_json(self.path, self.value)

    def finish(self, problems: list[Problem]) -> list[Problem]:
        """Enter the failures; returns the warnings of all cases."""
        self.value["failures"] = [vars(problem) for problem in problems]
        failed = {problem.case for problem in problems}
        self.value["cases"] = {case: v for case, v in sorted(self.value["cases"].items()) if case not in failed}
        write_json(self.path, self.value)
        return [
            Problem(case=case, found=text, next="look at the result")
            for case, value in self.value["cases"].items()
            for text in value["warnings"]
        ]
