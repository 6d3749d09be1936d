"""How every command runs: errors become sentences and exit codes, results become text or JSON."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import shutil
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoseg.core.errors import Problem
    from autoseg.pipeline import Outcome

OK, FAILED, WRONG_CALL = 0, 1, 2


def run(
    parser: argparse.ArgumentParser,
    action: Callable[[argparse.Namespace], tuple[Outcome, str]],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, act, print; returns the exit code.

    `action` returns an Outcome and the text to print; the Outcome's facts are what --json prints.
    """
    args = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.debug else logging.INFO,
        format="%(message)s",
        stream=sys.stderr,
        force=True,
    )
    for noisy in ("matplotlib", "PIL", "numexpr", "blosc2", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Threads that spin while they wait for others double the cost of every step when a machine is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from autoseg.core.errors import AutosegError, DataError, Interrupted, UsageError

    def stop(number: int, _: object) -> None:
        raise Interrupted(number)

    signal.signal(signal.SIGTERM, stop)  # as Ctrl-C: workers are ended and half-written files removed on the way out
    try:
        outcome, text = action(args)
    except UsageError as error:
        return _fail(args, WRONG_CALL, [str(error)], {"error": str(error)})
    except DataError as error:
        table = problem_table(error.problems)
        return _fail(args, FAILED, [table], {"problems": [vars(p) for p in error.problems]})
    except AutosegError as error:
        return _fail(args, FAILED, [str(error)], {"error": str(error)})
    except KeyboardInterrupt as error:
        what = str(error) or "interrupted"
        code = 128 + getattr(error, "signal", signal.SIGINT)
        anew = " (without --clean, which begins anew)" if getattr(args, "clean", False) else ""
        return _fail(args, code, [f"{what}; run the same command again to continue{anew}"], {"error": what})
    except OSError as error:
        what = _told(error)
        return _fail(args, FAILED, [what], {"error": what})
    except Exception as error:
        if args.debug:
            raise
        what = f"{type(error).__name__}: {error}"
        return _fail(
            args,
            FAILED,
            [f"unexpected {what}", "run again with --debug and report what it prints"],
            {"error": what},
        )
    return _finish(args, outcome, text)


def _told(error: OSError) -> str:
    """What a disk that is full, closed or gone means, and what to do."""
    place = f"{error.filename}: " if error.filename else ""
    ways = {
        errno.ENOSPC: "there is no space left on this disk; free some, then run the same command again",
        errno.EDQUOT: "your share of this disk is used up; free some space, then run the same command again",
        errno.EROFS: "this disk cannot be written; give another folder, or have it made writable",
        errno.EACCES: "you may not do this; give another folder, or ask for the right to it",
    }
    what = ways.get(error.errno or 0, f"{error.strerror or error}; check the path and the disk, then run it again")
    return f"{place}{what}"


def _finish(args: argparse.Namespace, outcome: Outcome, text: str) -> int:
    prose = sys.stderr if args.json else sys.stdout
    for warning in outcome.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if text:
        print(text, file=prose)
    if outcome.problems:
        print(problem_table(outcome.problems), file=sys.stderr)
    if args.json:
        extra = {
            "problems": [vars(p) for p in outcome.problems],
            "warnings": [vars(w) for w in outcome.warnings],
        }
        print(json.dumps({**outcome.facts, **extra}, allow_nan=False))
    return FAILED if outcome.problems else OK


def _fail(args: argparse.Namespace, code: int, lines: list[str], facts: dict[str, Any]) -> int:
    if args.debug:
        traceback.print_exc()
    for line in lines:
        print(line, file=sys.stderr)
    if args.json:
        print(json.dumps(facts, allow_nan=False))
    return code


def problem_table(problems: Sequence[Problem]) -> str:
    """One row per problem: case, file, what was found, what to do."""
    rows = [(p.case or "-", p.file or "-", p.found, p.next) for p in problems]
    header = ("case", "file", "found", "what to do")
    width = max(100, shutil.get_terminal_size((140, 24)).columns)
    first, second = (min(28, max(len(row[i]) for row in (*rows, header))) for i in (0, 1))
    rest = (width - first - second - 6) // 2
    widths = (first, second, rest, rest)
    lines = [f"{len(rows)} problem{'s' if len(rows) > 1 else ''}:"]
    for row in (header, *rows):
        cells = [textwrap.wrap(cell, w) or [""] for cell, w in zip(row, widths, strict=True)]
        for i in range(max(len(cell) for cell in cells)):
            parts = [(cell[i] if i < len(cell) else "").ljust(w) for cell, w in zip(cells, widths, strict=True)]
            lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)
