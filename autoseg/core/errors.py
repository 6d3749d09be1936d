"""Every error that a user can cause, as one small family.

    AutosegError (ValueError)
    |-- UsageError        the call itself was wrong: exit code 2, nothing was done
    |-- DataError         something is wrong with data or files: exit code 1, one Problem per defect
    `-- DeviceError       the hardware cannot do what was asked: exit code 1

A message says what it is about, what was found, and what to do next. Interrupted stands apart: it is nobody's mistake.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One defect (or one warning): which case, which file, what was found, what to do about it."""

    case: str
    found: str
    next: str
    file: str = ""

    def __str__(self) -> str:
        where = f"{self.case} ({self.file})" if self.file and self.case else self.case or self.file
        return f"{where}: {self.found}; {self.next}" if where else f"{self.found}; {self.next}"


class AutosegError(ValueError):
    """A mistake that a user can mend; shown without a traceback."""


class UsageError(AutosegError):
    """The command line asks for something that does not exist or makes no sense."""


class DeviceError(AutosegError):
    """The machine lacks what the call asks for."""


class Interrupted(KeyboardInterrupt):
    """The program was asked to stop by a signal, whose number is in `signal`.

    A KeyboardInterrupt, so that no guard around a single case takes it for that case's failure.
    """

    def __init__(self, number: int, text: str = "interrupted") -> None:
        super().__init__(text)
        self.signal = number


class DataError(AutosegError):
    """Defects in data or files; `problems` holds all that were found, not only the first."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[DataError], tuple[tuple[Problem, ...]]]:
        # Errors travel from worker processes to the parent; the default would rebuild from the message alone.
        return DataError, (self.problems,)


def problems_of(error: BaseException | None, *, case: str) -> list[Problem]:
    """What went wrong with a case, as rows of the table that ends a command."""
    if isinstance(error, DataError):
        return [replace(problem, case=problem.case or case) for problem in error.problems]
    if isinstance(error, OSError):
        todo = "check that the file can be read and the output folder written, and that the disk is not full"
        return [Problem(case=case, file=str(error.filename or ""), found=str(error), next=todo)]
    if isinstance(error, AutosegError):
        return [Problem(case=case, found=str(error), next="then run the same command again")]
    todo = "run this case again with --debug and report what it prints"
    return [Problem(case=case, found=f"unexpected {type(error).__name__}: {error}", next=todo)]


def refuse_file(path: Path, found: str, todo: str) -> NoReturn:
    """Raise the DataError of a file that belongs to no case."""
    raise DataError(Problem(case="", file=str(path), found=found, next=todo))
