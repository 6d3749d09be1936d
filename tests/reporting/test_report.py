from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from autoseg.core.errors import Problem
from autoseg.core.fingerprint import Fingerprint, Intensities, LabelStatistics
from autoseg.core.plan import Configuration, NetworkSpec, Plan
from autoseg.core.scores import Equity, Group, LabelScores, Scores, Summary
from autoseg.core.strategy import Change, Comparison, Honest, Member, Step, Strategy, Trial
from autoseg.core.trust import Trust, TrustQuality
from autoseg.reporting import Contents, report, report_page

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
        if tag not in ("meta", "img", "link", "input"):
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
        ranges={"0": [(-1000.0, 900.0), (-1024.0, 30000.0)]},
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


@pytest.fixture
def strategy() -> Strategy:
    members = [Member(planner="default", configuration="3d_fullres"), Member(planner="default", configuration="2d")]
    step = Step(action="keep_largest", labels=["liver"])
    change = Change(before=0.9, after=0.91)
    best = {"cases": 2, "mean_dice": 0.91, "difference": None, "ci95": None, "p_value": None}
    other = {"cases": 2, "mean_dice": 0.9, "difference": -0.01, "ci95": (-0.03, 0.01), "p_value": 0.4}
    return Strategy(
        dataset="Dataset001_A",
        members=members,
        labels={"background": 0, "liver": 1, "tumour": 2},
        steps=[step],
        promised=0.9123,
        nested=Honest(cases=2, before=0.9, after=0.905, ci95=(0.001, 0.01)),
        evidence=[Trial(steps=[step], accepted=True, dice=change)],
        compared=[
            Comparison(name="default__3d_fullres", tied=True, cost=1.0, **other),
            Comparison(name="default__3d_fullres+default__2d", tied=True, cost=1.4, **best),
        ],
        notes=["a note about it"],
    )


@pytest.fixture
def contents(plan, fingerprint, scores, strategy) -> Contents:
    rows = [{"epoch": 0, "train_loss": 0.1, "seconds": 60.0, "data_wait_share": 0.5}]
    told = {"mean_absolute_error": 0.0311, "error_without": 0.0422, "rank_correlation": None, "in_interval": 0.5}
    quality = TrustQuality(cases=7, pairs=14, **told)
    return Contents(
        title=NASTY,
        plan=plan,
        fingerprint=fingerprint,
        logs={"0": rows, "1": rows},
        scores=scores,
        folds={NASTY: "1"},
        trust=Trust(labels={}, quality=quality),
        viewers=["<p>best case</p>"],
        doubts=[[NASTY, "liver", "0.1", "0.9", "8.0", "drawn, and not predicted at all"]],
        doubtful=["<p>doubtful case</p>"],
        strategy=strategy,
        problems=[Problem(case="lost_case", file="lost.nii.gz", found="is damaged", next="copy it again")],
        versions=[("torch", "2.0")],
        hashes=[("fold_0/weights.safetensors", "a" * 64)],
        runs=[("fold 0", "recipe quick, seed 7")],
    )


def page(path, contents) -> tuple[Checker, str]:
    report_page(path, contents)
    html = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker, html


def test_page_holds_everything_and_refers_to_nothing_outside(contents, tmp_path):
    checker, html = page(tmp_path / "report.html", contents)
    text = " ".join(checker.text)
    for expected in (
        "16 × 32 × 48",
        "fits <8 GB",
        "axis 0 is the coarsest",
        "1432",
        "3 × 0.85 × 0.85",
        "0.9123",
        "1 cases of fold 1.",
        "best case",
        "drawn, and not predicted at all",
        "doubtful case",
        "Chosen: default__3d_fullres+default__2d",
        "largest part of liver",
        "0.9000 before and 0.9050 after postprocessing (2 cases, 95 % interval of the gain +0.0010 to +0.0100)",
        "-0.0300 to +0.0100",
        "a note about it",
        "is damaged",
        "7 cases",
        "0.0311",
        "0.0422",
        "copy it again",
        "recipe quick, seed 7",
        "a" * 64,
        "Fold 1: 1 epochs",
        "50% of it waiting",
        "lost_case",
    ):
        assert expected in text
    pictures = [source for source in checker.sources if not source.startswith("#")]
    assert len(pictures) == 1 + 2 + 2 + 1  # the data set, Dice and its size, two curves, and an empty icon
    assert all(source.startswith("data:") for source in pictures)
    assert not re.search(r"https?:|@import|url\((?!data:)", html)
    assert NASTY in text  # as text, not as a script
    assert html.count("<script>") == 1


def test_the_chosen_model_stands_out(contents, tmp_path):
    _, html = page(tmp_path / "report.html", contents)
    assert re.findall(r'<tr class="chosen"><td>(.*?)</td>', html) == ["default__3d_fullres+default__2d"]


def test_without_a_strategy_the_cross_validations_stand_side_by_side(contents, tmp_path):
    others = [("default__2d", 0.8, 5), ("default__3d_fullres", None, 5)]
    checker, _ = page(tmp_path / "report.html", replace(contents, strategy=None, others=others))
    text = " ".join(checker.text)
    assert "default__2d 0.8000 5" in re.sub(r"\s+", " ", text)
    assert "autoseg_find_best_configuration compares them" in text


def test_of_very_many_rows_those_with_the_lowest_dice_are_kept(contents, scores, monkeypatch, tmp_path):
    monkeypatch.setattr(report, "MOST_ROWS", 3)
    row = scores.cases[NASTY]["liver"]
    cases = {f"case_{n}": {"liver": row.with_changes(dice=n / 10)} for n in (5, 9, 1, 7, 3)}
    checker, html = page(tmp_path / "r.html", replace(contents, scores=scores.with_changes(cases=cases)))
    table = html[html.index("Per case and label") : html.index('id="cases"')]
    assert re.findall(r"<tr><td>(case_\d)</td>", table) == ["case_1", "case_3", "case_5"]
    assert "The 3 rows with the lowest Dice of 5" in " ".join(checker.text)


def test_groups_of_cases_are_compared(contents, scores, tmp_path):
    group = Group(cases=2, mean_dice=0.9, dice={})
    equity = Equity(groups={"A": group, "B": group.with_changes(mean_dice=0.8)}, gap=0.1, equity_scaled=0.75)
    checker, _ = page(tmp_path / "r.html", replace(contents, scores=scores.with_changes(equity={"site": equity})))
    assert "site: gap 0.1000, equity-scaled Dice 0.7500." in " ".join(checker.text)


def test_curves_are_named_in_the_order_of_dataset_json_as_the_log_has_them(plan, monkeypatch):
    names = {}
    monkeypatch.setattr(report, "curve_figure", lambda rows, *, label_names: names.update(softmax=label_names))
    monkeypatch.setattr(report, "png_bytes", lambda figure: b"")
    report._curve("0", [], plan.with_changes(labels={"background": 0, "second": 9, "first": 2}).scheme)
    assert names["softmax"] == ["second", "first"]


def test_page_says_what_is_not_there_yet(plan, tmp_path):
    checker, _ = page(tmp_path / "r.html", Contents(title="A", plan=plan))
    text = " ".join(checker.text)
    for missing in ("no trained fold yet", "No cross-validation yet", "no picture yet", "There are none."):
        assert missing in text
    assert "16 × 32 × 48" in text
