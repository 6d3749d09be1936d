"""The page that autoseg_predict --report writes beside its predictions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from autoseg.cli import predict
from autoseg.core.plan import Model, Plan
from autoseg.io.weights import save_weights
from autoseg.nets.build import build_network
from autoseg.pipeline import prediction_report

MODEL = "hand__small"


@pytest.fixture
def world(tmp_path: Path, make_plan: Callable[..., Plan]) -> Path:
    """A model with random weights and three images."""
    plan = make_plan(labels={"background": 0, "organ": 3, "core": 7})
    folder = tmp_path / MODEL
    Model(configuration="small", plan=plan, autoseg_version="0").write(folder / "model.json")
    torch.manual_seed(0)
    network = build_network(plan.configuration("small").network, n_channels=1, n_outputs=3)
    save_weights(folder / "fold_0" / "weights.safetensors", network.state_dict(), facts={})
    (tmp_path / "in").mkdir()
    for number, case in enumerate(("a", "b", "c")):
        voxels = np.random.default_rng(number).normal(2, 2, (9, 12, 11)).astype(np.float32)
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "in" / f"{case}_0000.nii.gz"))
    return tmp_path


def call(world: Path, *words: str) -> int:
    where = ["-m", str(world / MODEL), "-i", str(world / "in"), "-o", str(world / "out")]
    return predict.main([*where, "--device", "cpu", "--report", *words])


def captions(world: Path) -> list[str]:
    return re.findall(r"<figcaption>(.*?)</figcaption>", (world / "out" / "report.html").read_text(encoding="utf-8"))


def test_page_shows_every_case_what_failed_and_what_it_was_made_with(world: Path, capsys: Any) -> None:
    (world / "in" / "d_0000.nii.gz").write_bytes(b"no image")
    assert call(world, "--json") == 1
    printed = capsys.readouterr().out
    assert str(world / "out" / "report.html") in printed
    html = (world / "out" / "report.html").read_text(encoding="utf-8")
    assert [caption for caption in captions(world) if len(caption) == 1] == ["a", "b", "c"]
    failures = html[html.index('id="failures-and-warnings"') : html.index('id="cases"')]
    assert "<td>d</td>" in failures
    assert MODEL in html
    assert len(re.findall(r"\b[0-9a-f]{64}\b", html)) == 1  # of the weights
    for name in ("organ", "core"):
        assert f"{name} ml" in html


def test_a_second_run_writes_the_page_of_what_is_there(world: Path) -> None:
    assert call(world) == 0
    first = (world / "out" / "report.html").read_text(encoding="utf-8")
    (world / "out" / "report.html").unlink()
    assert call(world) == 0
    again = (world / "out" / "report.html").read_text(encoding="utf-8")
    assert again == first


def test_the_most_doubtful_cases_are_pictured(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_report, "MOST_PICTURES", 1)
    assert call(world) == 0
    assert [caption for caption in captions(world) if len(caption) == 1] == ["a"]


def test_each_part_of_the_work_has_a_page_of_its_own(world: Path) -> None:
    for number in range(2):
        assert call(world, "--part", f"{number}/2") == 0
    pages = sorted(path.name for path in (world / "out").glob("*.html"))
    assert pages == ["report_part0of2.html", "report_part1of2.html"]
    assert "<figcaption>b</figcaption>" in (world / "out" / pages[1]).read_text(encoding="utf-8")


def test_a_case_of_an_earlier_run_is_not_told_as_one_of_this(world: Path) -> None:
    assert call(world) == 0
    (world / "in" / "a_0000.nii.gz").unlink()
    assert call(world, "--no_mirroring") == 0
    assert "<td>a</td>" not in (world / "out" / "report.html").read_text(encoding="utf-8")


def test_without_the_option_there_is_no_page(world: Path) -> None:
    where = ["-m", str(world / MODEL), "-i", str(world / "in"), "-o", str(world / "out")]
    assert predict.main([*where, "--device", "cpu"]) == 0
    assert not (world / "out" / "report.html").exists()
