"""Predictions as one archive for a challenge, checked before and after: pack(folder, path=..., cases=...)."""

from __future__ import annotations

import tempfile
import zipfile
from collections import Counter
from pathlib import Path

from autoseg.core.dataset import FILE_ENDINGS, unsafe_id
from autoseg.core.errors import DataError, Problem
from autoseg.core.files import whole_file
from autoseg.io.images import read_volume
from autoseg.submission.challenge import DETACHED, Challenge

__all__ = ["Challenge", "pack"]

_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of the ZIP format: the same predictions give the same archive


def pack(
    predictions_folder: Path, *, path: Path, cases: list[str], ending: str, challenge: Challenge | None = None
) -> None:
    """Write a ZIP archive with CASE + `ending` of every expected case at its top level, whole or not at all.

    Other images in the folder are refused: they may be a sign that it holds another run, or that the list of
    cases is wrong. Files that are no images (prediction.json, probabilities) and hidden ones stay behind. The
    archive is opened again and compared before it gets its name.

    Args:
        predictions_folder: where the predictions lie.
        path: the archive.
        cases: ids of all cases that the challenge expects.
        ending: of the prediction files, for example ".nii.gz".
        challenge: other names, values and types in the archive, against which each file is checked there.

    Raises:
        DataError: all defects: cases missing, listed twice or with unsafe names, strangers, unreadable files; names,
            values or types that the challenge's file makes impossible.
    """
    problems = _check_names(predictions_folder, cases=cases, ending=ending)
    files = {f"{case}{ending}": predictions_folder / f"{case}{ending}" for case in sorted(cases)}
    if not problems:
        problems = [problem for name, file in files.items() for problem in _unreadable(file, case=name[: -len(ending)])]
    if problems:
        raise DataError(problems)
    if challenge is None:
        _write(files, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".submission-") as staging:
        _write(files, path, challenge=challenge, ending=ending, staging=Path(staging))


def _write(
    files: dict[str, Path],
    path: Path,
    *,
    challenge: Challenge | None = None,
    ending: str = "",
    staging: Path = Path(),
) -> None:
    """The archive of files by their names in it, or of what a challenge makes of them, first in `staging`."""
    sources = {}
    if challenge is not None:
        sources = _converted(files, challenge, ending=ending, staging=staging)
        files = {name: staging / name for name in sources}
    with whole_file(path) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, file in files.items():
                _add(archive, name, file)
        _verify(temporary, files, path=path)
        if challenge is None:
            return
        with zipfile.ZipFile(temporary) as archive:
            for name, (case, source) in sources.items():
                (staging / name).unlink()
                challenge.check(Path(archive.extract(name, staging)), source, case=case)


def _converted(
    files: dict[str, Path], challenge: Challenge, *, ending: str, staging: Path
) -> dict[str, tuple[str, Path]]:
    """Write what the challenge wants of each file; returns its name there -> case and prediction."""
    made: dict[str, tuple[str, Path]] = {}
    problems: list[Problem] = []
    for own, source in files.items():
        case = own[: -len(ending)]
        try:
            name = challenge.name_of(case)
            if name in made:
                found = f"its file would be called {name}, as that of {made[name][0]}"
                raise DataError(Problem(case=case, found=found, next="correct 'file' in the challenge's file"))
            made[name] = case, source
            challenge.convert(source, staging / name, case=case)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return made


def _check_names(folder: Path, *, cases: list[str], ending: str) -> list[Problem]:
    if ending not in FILE_ENDINGS or ending in DETACHED:
        found, todo = (
            f"predictions ending in '{ending}' do not fit in one file each",
            "write them as .nii.gz, .nrrd or .mha",
        )
        return [Problem(case="", file=str(folder), found=found, next=todo)]
    if not folder.is_dir():
        return [Problem(case="", file=str(folder), found="this folder does not exist", next="predict first")]
    if not cases:
        return [Problem(case="", file=str(folder), found="no case is expected", next="name the expected cases")]
    return [
        *_case_problems(folder, cases=cases, ending=ending),
        *_strangers(folder, cases=cases, ending=ending),
    ]


def _case_problems(folder: Path, *, cases: list[str], ending: str) -> list[Problem]:
    problems = []
    for case, count in sorted(Counter(cases).items()):
        if unsafe := unsafe_id(case):
            problems.append(Problem(case=repr(case), found=unsafe, next="rename the case"))
        elif not (folder / f"{case}{ending}").is_file():
            file = f"{folder / case}{ending}"
            problems.append(Problem(case=case, file=file, found="has no prediction", next="predict this case"))
        if count > 1:
            problems.append(Problem(case=case, found=f"is expected {count} times", next="list each case once"))
    return problems


def _strangers(folder: Path, *, cases: list[str], ending: str) -> list[Problem]:
    expected = {f"{case}{ending}" for case in cases}
    visible = (file for file in sorted(folder.iterdir()) if not file.name.startswith("."))
    strangers = [file for file in visible if file.name.endswith(FILE_ENDINGS) and file.name not in expected]
    todo = "remove it, or add its case to the expected ones"
    return [Problem(case="", file=str(file), found="belongs to no expected case", next=todo) for file in strangers]


def _unreadable(file: Path, *, case: str) -> tuple[Problem, ...]:
    try:
        read_volume(file, case=case)
    except DataError as error:
        return error.problems
    return ()


def _add(archive: zipfile.ZipFile, name: str, file: Path) -> None:
    entry = zipfile.ZipInfo(name, date_time=_FIRST_DAY)
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(".gz") else zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    entry.file_size = file.stat().st_size  # tells zipfile whether the entry needs 64-bit sizes
    with file.open("rb") as source, archive.open(entry, "w") as target:
        while chunk := source.read(1 << 20):
            target.write(chunk)


def _verify(written: Path, files: dict[str, Path], *, path: Path) -> None:
    """Read the archive back: every checksum, the names, and the sizes of the files they come from."""
    sizes = {name: file.stat().st_size for name, file in files.items()}
    try:
        with zipfile.ZipFile(written) as archive:
            damaged = archive.testzip()
            same = sizes == {entry.filename: entry.file_size for entry in archive.infolist()}
    except zipfile.BadZipFile as error:
        damaged, same = str(error), False
    if damaged is not None or not same:
        found = f"reading the archive back gave something else ({damaged or 'names or sizes'})"
        todo = "check the disk, and that nothing writes to the predictions meanwhile"
        raise DataError(Problem(case="", file=str(path), found=found, next=todo))
