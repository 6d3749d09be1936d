from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from autoseg.core.fingerprint import Fingerprint, Intensities, LabelStatistics
from autoseg.core.plan import Configuration, NetworkSpec, Plan
from autoseg.core.scores import LabelScores, Scores, Summary
from autoseg.reporting import report, report_page

NASTY = "<script>alert('$title')</script> & co"


class Checker(HTMLParser):
    """Collects text and attributes, and fails on tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def plan() -> Plan:
    network = NetworkSpec(
        features_per_stage=[8, 16],
        strides=[[1, 1, 1], [2, 2, 2]],
        kernel_sizes=[[3, 3, 3], [3, 3, 3]],
        blocks_per_stage=[2, 2],
        blocks_per_stage_decoder=[2],
    )
    configuration = Configuration(
        patch_size=[16, 32, 48],
        batch_size=2,
        spacing_mm=[2.5, 0.8, 0.8],
        median_shape_voxels=[20, 64, 64],
        normalization=["zscore"],
        use_mask_for_norm=[False],
        batch_dice=False,
        network=network,
        mirror_axes=[0, 1],
        reasons={"patch_size": "fits <8 GB"},
    )
    return Plan(
        planner="default",
        dataset="Dataset001_A",
        transpose_forward=(0, 1, 2),
        channel_names=[NASTY],
        labels={"background": 0, "liver": 1, "tumour": 2},
        file_ending=".nii.gz",
        intensities=[Intensities(mean=1, median=1, std=1, min=0, max=2, percentile_00_5=0, percentile_99_5=2)],
        configurations={"3d_fullres": configuration},
        reasons={"transpose_forward": "axis 0 is the coarsest"},
    )


@pytest.fixture
def fingerprint() -> Fingerprint:
    intensities = Intensities(mean=1, median=1, std=1, min=0, max=2, percentile_00_5=0, percentile_99_5=2)
    return Fingerprint(
        spacings=[(2.5, 0.8, 0.8), (3.5, 0.9, 0.9)],
        shapes_after_crop=[(20, 64, 64), (30, 60, 62)],
        foreground_intensity_properties_per_channel={"0": intensities},
        median_relative_size_after_cropping=1.0,
        labels={"liver": LabelStatistics(cases=2, mean_volume_ml=1432.0, mean_side_mm=-40.0)},
    )


@pytest.fixture
def scores() -> Scores:
    row = LabelScores(dice=0.9123, iou=0.8, hd95_mm=3.25, nsd=0.85, volume_truth_ml=1.0, volume_predicted_ml=1.0)
    empty = LabelScores(dice=None, iou=None, hd95_mm=None, nsd=None, volume_truth_ml=0.0, volume_predicted_ml=0.0)
    one = Summary(mean=0.9123, std=None, median=0.9123, min=0.9123, max=0.9123, cases=1)
    none = Summary(mean=None, std=None, median=None, min=None, max=None, cases=0)
    metrics = ("dice", "hd95_mm", "nsd", "n_undefined_hd95")
    return Scores(
        tolerance_mm=1.0,
        cases={NASTY: {"liver": row, "tumour": empty}},
        summary={"liver": dict.fromkeys(metrics, one), "tumour": dict.fromkeys(metrics, none)},
        mean_dice=0.9123,
        missing=["lost_case"],
    )


def page(path, **content) -> tuple[Checker, str]:
    report_page(path, **content)
    html = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker, html


def test_page_holds_everything_and_refers_to_nothing_outside(plan, fingerprint, scores, tmp_path):
    picture = tmp_path / "best.png"
    picture.write_bytes(b"\x89PNG not really")
    rows = [{"epoch": 0, "train_loss": 0.1, "seconds": 60.0, "data_wait_share": 0.5}]
    checker, html = page(
        tmp_path / "report.html",
        dataset=NASTY,
        plan=plan,
        fingerprint=fingerprint,
        logs={"0": rows, "1": rows},
        scores=scores,
        pictures=[(f"best: {NASTY}", picture)],
    )
    text = " ".join(checker.text)
    for expected in (
        "16 × 32 × 48",
        "fits <8 GB",
        "axis 0 is the coarsest",
        "1432",
        "3 × 0.85 × 0.85",
        "0.9123",
    ):
        assert expected in text
    assert "Fold 1: 1 epochs" in text
    assert "50% of it waiting" in text
    assert "lost_case" in text
    assert len(checker.sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in checker.sources)
    assert base64.b64decode(checker.sources[-1].partition(",")[2]) == picture.read_bytes()
    assert "script" not in checker.tags
    assert not re.search(r"https?:|url\(|@import", html)
    assert NASTY in text


def test_curves_are_named_in_the_order_of_dataset_json_as_the_log_has_them(plan, monkeypatch):
    names = {}
    monkeypatch.setattr(report, "curve_figure", lambda rows, *, label_names: names.update(softmax=label_names))
    monkeypatch.setattr(report, "png_bytes", lambda figure: b"")
    report._curve("0", [], plan.with_changes(labels={"background": 0, "second": 9, "first": 2}).scheme)
    assert names["softmax"] == ["second", "first"]


def test_page_says_what_is_not_there_yet(plan, tmp_path):
    checker, _ = page(tmp_path / "r.html", dataset="A", plan=plan, fingerprint=None, logs={}, scores=None, pictures=[])
    text = " ".join(checker.text)
    assert "no trained fold yet" in text
    assert "no cross-validation yet" in text
    assert "no picture yet" in text
    assert "16 × 32 × 48" in text
