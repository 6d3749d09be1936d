from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from autoseg.cli.report import main


class Page(HTMLParser):
    """Text, pictures and captions of a page; fails on tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.pictures: list[bytes] = []
        self.captions: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            source = dict(attributes)["src"]
            assert source.startswith("data:image/png;base64,")
            self.pictures.append(base64.b64decode(source.partition(",")[2], validate=True))
        elif tag not in ("meta", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == "figcaption":
            self.captions.append(data)

    def captions_with(self, part: str) -> list[str]:
        return [caption for caption in self.captions if part in caption]


def page_of(world, configuration="small") -> Page:
    return Page((world.model(configuration) / "report.html").read_text(encoding="utf-8"))


def test_page_shows_plan_curves_scores_and_the_best_median_and_worst_case(world, call):
    world.add_fold("small", 0, world.with_stray)
    world.add_fold("small", 1, lambda labels: world.with_stray(labels, 9))
    world.pool("small")
    code, printed, _ = call(main, *world.where, "-c", "small", "--planner", "hand")
    assert code == 0
    assert printed.strip() == str(world.model("small") / "report.html")
    page = page_of(world)
    assert len(page.pictures) == 4  # Dice, its size, two curves
    assert all(picture.startswith(b"\x89PNG") for picture in page.pictures)
    assert page.captions_with("Fold") == [
        f"Fold {fold}: 2 epochs, 0.1 minutes, 0% of it waiting for data" for fold in (0, 1)
    ]
    scores = json.loads((world.model("small") / "crossval" / "summary.json").read_text())["cases"]
    means = {case: np.mean([row["dice"] for row in rows.values()]) for case, rows in scores.items()}
    order = sorted(means, key=lambda case: -means[case])
    for caption, name, case in zip(
        page.captions_with("validated cases"), ("worst", "median", "best"), (order[5], order[3], order[0]), strict=True
    ):
        assert caption == f"{name} of 6 validated cases: {case}, mean Dice {means[case]:.4f}"
    assert "Mean Dice over labels" in page.text
    assert "8 × 8 × 8" in page.text
    html = (world.model("small") / "report.html").read_text()
    assert not re.search(r"https?:|url\((?!data:)|@import", html)


def test_page_of_a_plan_without_results_says_what_is_missing(world, call):
    code, _, _ = call(main, *world.where, "-c", "coarse", "--planner", "hand")
    assert code == 0
    page = page_of(world, "coarse")
    for missing in ("no trained fold yet", "No cross-validation yet", "no picture yet"):
        assert missing in page.text
    assert page.pictures == []


def test_single_validated_case_is_shown_once(world, call):
    world = replace(world, folds=(["case_0"], ["case_1"]))
    world.add_fold("small", 0, np.copy)
    call(main, *world.where, "-c", "small", "--planner", "hand")
    assert page_of(world).captions_with("case_0") == ["best of 1 validated cases: case_0, mean Dice 1.0000"]
    world.add_fold("small", 1, world.with_stray)
    call(main, *world.where, "-c", "small", "--planner", "hand")
    assert [c.split(" of ")[0] for c in page_of(world).captions_with("validated cases")] == ["worst", "best"]


def test_lost_picture_is_told_and_the_page_written_all_the_same(trained, call):
    for case in ("case_0", "case_1", "case_2"):
        (trained.model("small") / "fold_0" / "validation" / f"{case}.nii.gz").unlink()
    code, _, told = call(main, *trained.where, "-c", "small", "--planner", "hand")
    assert code == 1
    assert "its predicted file is gone" in told
    assert "Mean Dice over labels" in page_of(trained).text


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["-c", "smal", "--planner", "hand"], "did you mean 'small'"), (["-c", "small"], "there is no plan")],
)
def test_wrong_configuration_or_planner_is_a_wrong_call(world, call, words, reason):
    code, _, told = call(main, *world.where, *words)
    assert code == 2
    assert reason in told
    assert not (world.top / "results").exists()


def damaged_scores(world):
    (world.model("coarse") / "crossval" / "summary.json").write_text('{"mean_dice": 1}')


def damaged_trust(world):
    (world.model("small") / "trust.json").write_text('{"labels": {}}')


def strange_recipe(world):
    (world.model("small") / "fold_0" / "recipe.json").write_text('{"name": "x", "of_another_version": 1}')


def lost_case(world):
    for name in ("imagesTr/case_0_0000.nii.gz", "labelsTr/case_0.nii.gz"):
        (world.raw / name).unlink()


def short_log(world):
    rows = [json.dumps({"epoch": number}) for number in range(12)]
    (world.model("small") / "fold_0" / "log.jsonl").write_text("\n".join(rows))


def other_size(world):
    for case in world.folds[0]:
        world.write_image(world.raw / "labelsTr" / f"{case}.nii.gz", np.ones((3, 4, 5), np.uint8))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damaged_scores, "is missing"),
        (damaged_trust, "is missing"),
        (strange_recipe, "of_another_version"),
        (lost_case, "does not exist"),
        (short_log, "no structure was found"),
        (other_size, "differ in size"),
    ],
)
def test_what_is_damaged_is_told_and_the_page_written_all_the_same(trained, call, damage, told):
    damage(trained)
    call(main, *trained.where, "-c", "small", "--planner", "hand")
    page = page_of(trained)
    assert told in page.text
    assert "Mean Dice over labels" in page.text


def test_names_are_not_taken_for_formulas(world, call):
    names = {"background": 0, "$\\foo$": 2, "_core $x": 5}
    path = world.raw / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "labels": names}))
    plan = world.plan.with_changes(labels=names)
    plan.write(world.top / "preprocessed" / "Dataset900_Toy" / "plans" / "hand.json")
    code, _, told = call(main, *world.where, "-c", "small", "--planner", "hand")
    assert (code, told) == (0, "")


def test_labels_that_disagree_unlike_others_are_shown_to_be_checked(world, call):
    def forgotten(labels: np.ndarray) -> np.ndarray:
        return np.where((labels == 5) & (labels.sum() == world.truth_of("case_1").sum()), 0, labels).astype(np.uint8)

    world.add_fold("small", 0, forgotten)
    world.add_fold("small", 1, np.copy)
    world.pool("small")
    code, printed, _ = call(main, *world.where, "-c", "small", "--planner", "hand", "--json")
    assert code == 0
    assert json.loads(printed)["to_check"] == ["case_1"]
    page = page_of(world)
    assert "Labels to check" in page.text
    assert "drawn, and not predicted at all" in page.text
    assert "case_1: core" in page.captions
