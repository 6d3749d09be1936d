"""Pages as a person meets them: in a real browser, without a network, clicked at."""

from __future__ import annotations

import io

import browser
import numpy as np
import pytest
from PIL import Image

from autoseg.core.labels import LabelScheme
from autoseg.core.scores import LabelScores
from autoseg.evaluation.summary import summarise
from autoseg.reporting import Contents, PredictedCase, case_viewer, prediction_page, report_page

pytestmark = pytest.mark.skipif(not browser.is_there(), reason="needs the packages chromium and chromium-driver")
LABELS = LabelScheme(declared={"background": 0, "organ": 1, "core": 2})
DICE = {"case_a": (0.9, 0.5), "case_b": (None, 0.7), "case_c": (0.85, 0.95), "case_d": (0.1, 0.2)}


@pytest.fixture
def viewer() -> str:
    labels = np.zeros((12, 20, 20), np.uint8)
    labels[3:9, 5:15, 5:15] = 1
    labels[4, 8:12, 8:12] = 2
    image = np.random.default_rng(0).normal(size=labels.shape)
    return case_viewer("case_a", image, labels, labels, labels=LABELS, spacing_mm=(2.0, 1.0, 1.0))


@pytest.fixture
def report(make_plan, viewer, tmp_path):
    def row(dice):
        return LabelScores(dice=dice, iou=dice, hd95_mm=2.0, nsd=dice, volume_truth_ml=3.0, volume_predicted_ml=3.0)

    cases = {case: {"organ": row(one), "core": row(other)} for case, (one, other) in DICE.items()}
    scores = summarise(cases, label_names=["organ", "core"], tolerance_mm=1.0, missing=[])
    path = tmp_path / "report.html"
    report_page(path, Contents(title="A", plan=make_plan(), scores=scores, viewers=[viewer], doubtful=[]))
    return path


def table_under(page, heading: str):
    return page.find_element("xpath", f"//h3[text()='{heading}']/following-sibling::div[1]")


def column(table, number: int) -> list[str]:
    rows = table.find_elements("css selector", "tbody tr")
    return [row.find_elements("css selector", "td")[number].text for row in rows if row.is_displayed()]


def test_a_click_on_a_column_sorts_and_another_one_turns_round(report):
    with browser.opened(report) as page:
        table = table_under(page, "Per case")
        buttons = table.find_elements("css selector", "th button")
        buttons[0].click()
        assert column(table, 0) == ["case_a", "case_b", "case_c", "case_d"]
        buttons[0].click()
        assert column(table, 0) == ["case_d", "case_c", "case_b", "case_a"]
        buttons[2].click()
        assert column(table, 2) == ["0.1500", "0.7000", "0.7000", "0.9000"]
        single = table_under(page, "Per case and label")
        dice = single.find_elements("css selector", "th button")[2]
        for ordered in (["0.1000", "0.2000", "0.5000"], ["0.9500", "0.9000", "0.8500"]):
            dice.click()
            assert column(single, 2)[:3] == ordered
            assert column(single, 2)[-1] == "-"  # no number is last either way


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["pat_b", "12A", "pat_a", "3d"], ["3d", "12A", "pat_a", "pat_b"]),
        (["2023-05-02_x", "2023-05-01_x", "2022-01-01_z", "2023-04-01_x"], ["2022-01-01_z", "2023-04-01_x"]),
        (["10", "9", "-", "1e1"], ["9", "10", "1e1", "-"]),
    ],
)
def test_names_that_begin_with_digits_are_sorted_as_names(make_plan, tmp_path, names, ordered):
    doubts = [[name, "organ", "0.1", "0.9", "8.0", "seen"] for name in names]
    report_page(tmp_path / "r.html", Contents(title="A", plan=make_plan(), doubts=doubts))
    with browser.opened(tmp_path / "r.html") as page:
        table = page.find_element("xpath", "//h2[text()='Labels to check']/following-sibling::div[1]")
        table.find_elements("css selector", "th button")[0].click()
        assert column(table, 0)[: len(ordered)] == ordered


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        ("case_c", ["case_c", "case_c"]),
        ("core, case_d", ["case_d"]),
        ("Dice < 0.6", ["case_a", "case_d", "case_d"]),
        ("dice > 0.6, organ", ["case_a", "case_c"]),
        ("nothing like it", []),
        ("sens < 2", []),
        ("Dice = 0.5", ["case_a"]),
        ("Dice <0,15", ["case_d"]),
        ("NSD >= 8.5e-1", ["case_a", "case_c", "case_c"]),
    ],
)
def test_a_filter_leaves_the_rows_that_match(report, typed, left):
    with browser.opened(report) as page:
        table = table_under(page, "Per case and label")
        table.find_element("css selector", "input").send_keys(typed)
        assert sorted(column(table, 0)) == left
        assert table.find_element("css selector", "output").text == f"{len(left)} of 8"
        table.find_element("css selector", "input").send_keys(", colour > 3")
        assert table.find_element("css selector", "output").text == "0 of 8: there is no column colour"


def test_sliders_move_through_the_slices_of_all_layers_and_boxes_hide_them(report):
    with browser.opened(report) as page:
        plane = page.find_element("css selector", ".plane")
        assert plane.find_element("css selector", "output").text == "slice 5 of 12"
        layers = plane.find_elements("css selector", ".layer")
        assert len(layers) == 3
        slider = plane.find_element("css selector", "input")
        slider.send_keys("\ue00f")  # page up
        slider.send_keys("\ue010")  # end
        assert plane.find_element("css selector", "output").text == "slice 12 of 12"
        places = {layer.value_of_css_property("background-position-y") for layer in layers}
        assert places == {"100%"}
        for name in ("truth", "predicted"):
            page.find_element("css selector", f"input[name={name}]").click()
            assert not plane.find_element("css selector", f".{name}").is_displayed()
        assert plane.find_element("css selector", ".image").is_displayed()


def test_each_slice_shown_is_the_one_that_is_named(make_plan, tmp_path):
    """The grey value of every slice is its number: a picture of the screen tells which one is shown."""
    labels = np.zeros((10, 30, 30), np.uint8)
    labels[2:8, 10:20, 10:20] = 1
    image = np.broadcast_to(np.arange(10.0)[:, None, None], labels.shape)
    shown = case_viewer("a", image, None, labels, labels=LABELS, spacing_mm=(3.0, 1.0, 1.0))
    report_page(tmp_path / "r.html", Contents(title="A", plan=make_plan(), viewers=[shown]))
    with browser.opened(tmp_path / "r.html") as page:
        page.find_element("css selector", "input[name=predicted]").click()
        plane = page.find_element("css selector", ".plane")
        slider = plane.find_element("css selector", "input")
        slider.send_keys("\ue011")  # home
        greys = []
        for number in range(10):
            assert plane.find_element("css selector", "output").text == f"slice {number + 1} of 10"
            picture = Image.open(io.BytesIO(plane.find_element("css selector", ".stack").screenshot_as_png)).convert(
                "L"
            )
            pixels = np.array(picture)[100:-100, 100:-100]
            assert pixels.std() < 2
            greys.append(float(pixels.mean()))
            slider.send_keys("\ue014")  # right
    assert (np.diff(greys[1:-1]) > 10).all()  # the first and the last lie beyond the window of grey values


def test_page_of_predictions(viewer, tmp_path):
    cases = [
        PredictedCase(case="a", seconds=1.0, volumes_ml={"organ": 3.0}, expected_dice=0.9, unusual=0.4),
        PredictedCase(case="b", seconds=2.0, volumes_ml={"organ": 5.0}, expected_dice=0.4, unusual=3.0),
    ]
    prediction_page(
        tmp_path / "r.html",
        title="B",
        cases=cases,
        problems=[],
        viewers=[viewer],
        made_with=[("model", "m")],
        versions=[("torch", "2")],
        hashes=[("w", "f" * 64)],
    )
    with browser.opened(tmp_path / "r.html") as page:
        table = page.find_element("xpath", "//h2[text()='Cases']/following-sibling::div[1]")
        table.find_elements("css selector", "th button")[1].click()
        assert column(table, 0) == ["b", "a"]
        page.find_element("css selector", "input[type=search]").send_keys("unusual > 1")
        assert column(table, 0) == ["b"]
