from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.training.log import read_log


def test_a_damaged_line_is_passed_over_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    path.write_bytes(b'{"epoch": 0, "val_loss": 1}\nhello\n[1]\n{"epoch": 1}\n{"epo\xff')
    assert read_log(path) == [{"epoch": 0, "val_loss": 1}, {"epoch": 1}]
    assert [record.args[1] for record in caplog.records] == [2, 3, 5]
