"""A folder tells who is at work in it, and no longer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from autoseg.core import heartbeat
from autoseg.core.errors import UsageError
from autoseg.core.files import write_json
from autoseg.core.heartbeat import DEAD_AFTER_S, NAME, at_work, died_in, worker_in


def ended_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def claim(folder: Path, *, host: str, process: int, quiet_s: float = 0.0) -> None:
    write_json(folder / NAME, {"host": host, "process": process})
    then = time.time() - quiet_s
    os.utime(folder / NAME, (then, then))


def test_the_file_is_there_for_the_time_of_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.01)
    with at_work(tmp_path / "fold_0"):
        path = tmp_path / "fold_0" / NAME
        os.utime(path, (1, 1))
        for _ in range(500):
            if path.stat().st_mtime > 1:
                break
            time.sleep(0.01)
        assert path.stat().st_mtime > 1
        assert worker_in(tmp_path / "fold_0") is None  # nobody else
    assert not path.exists()
    with pytest.raises(RuntimeError), at_work(tmp_path / "fold_0"):
        raise RuntimeError
    assert not path.exists()


@pytest.mark.parametrize(
    ("here", "alive", "quiet_s", "at_work_there"),
    [
        (True, True, 0.0, True),
        (True, False, 0.0, False),
        (True, True, DEAD_AFTER_S + 60, False),  # after a restart the number belongs to another program
        (False, False, 0.0, True),
        (False, False, DEAD_AFTER_S + 60, False),
    ],
)
def test_who_is_dead_is_told_from_who_is_at_work(
    tmp_path: Path, here: bool, alive: bool, quiet_s: float, at_work_there: bool
) -> None:
    host = socket.gethostname() if here else "another-machine"
    process = os.getppid() if alive else ended_process()
    claim(tmp_path, host=host, process=process, quiet_s=quiet_s)
    assert died_in(tmp_path) is not at_work_there
    if at_work_there and here:
        with pytest.raises(UsageError, match=f"process {process} on {host}"), at_work(tmp_path):
            pass
        assert (tmp_path / NAME).is_file()
    if not at_work_there:
        with at_work(tmp_path):
            pass


@pytest.mark.parametrize("beating", [True, False])
def test_a_claim_from_another_machine_counts_while_it_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beating: bool
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.2)
    claim(tmp_path, host="another-machine", process=1)
    touched = threading.Timer(0.3, os.utime, args=(tmp_path / NAME, (5, 5)))
    if beating:
        touched.start()
        with pytest.raises(UsageError, match="another-machine"), at_work(tmp_path):
            pass
        touched.join()
    else:
        with at_work(tmp_path):
            assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()


def test_a_claim_of_somebody_else_is_not_removed(tmp_path: Path) -> None:
    with at_work(tmp_path):
        claim(tmp_path, host="another-machine", process=1)
    assert (tmp_path / NAME).is_file()


def test_nobody_is_in_a_folder_without_the_file_or_with_a_damaged_one(tmp_path: Path) -> None:
    assert worker_in(tmp_path) is None
    assert not died_in(tmp_path)
    (tmp_path / NAME).write_text("{")
    assert worker_in(tmp_path) is None
