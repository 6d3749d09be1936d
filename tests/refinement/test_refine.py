from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from autoseg.core.errors import DataError, UsageError
from autoseg.core.labels import LabelScheme
from autoseg.core.strategy import Member, Strategy
from autoseg.evaluation import evaluate
from autoseg.refinement import Candidate, FileJob, apply_to_file, compare_candidates, refine

SHAPE = (6, 12, 14)
TRUTH = ((3, (1, 4, 2, 6, 2, 7)), (7, (1, 4, 6, 10, 2, 7)))  # two organs that touch
FAR = (0, 1, 0, 1, 13, 14)  # a place apart from both


@pytest.fixture
def world(tmp_path, blobs, write, scheme):
    """world(name, predicted boxes per case, true boxes per case) -> (candidate with real scores, truths)."""

    def make(name, predicted, truth=None, labels=scheme, cost=1.0):
        truths, predictions = {}, {}
        for number, boxes in enumerate(predicted):
            case = f"case_{number}"
            true = blobs(SHAPE, *(truth[number] if truth else TRUTH))
            truths[case] = write(tmp_path / "truth" / f"{case}.nii.gz", true)
            predictions[case] = write(tmp_path / name / f"{case}.nii.gz", blobs(SHAPE, *boxes))
        scores, problems = evaluate(predictions, truths, labels=labels, workers=0)
        assert problems == []
        members = (Member(planner="default", configuration=name),)
        folds = {case: number for number, case in enumerate(predictions)}
        return Candidate(members=members, scores=scores, predictions=predictions, folds=folds, cost=cost), truths

    return make


def steps_of(strategy: Strategy) -> list[list[str]]:
    assert all(step.action == "keep_largest" for step in strategy.steps)
    return [step.labels for step in strategy.steps]


def decided(candidates, truths, labels, workers=0) -> Strategy:
    strategy, problems = refine(candidates, truths, dataset="Dataset001_A", labels=labels, workers=workers)
    assert problems == []
    return strategy


def test_stray_part_far_away_is_removed_by_the_first_step(world, scheme):
    candidate, truths = world("full", [TRUTH, (*TRUTH, (3, FAR)), (*TRUTH, (7, FAR))])
    strategy = decided([candidate], truths, scheme)
    assert steps_of(strategy) == [["second", "first"]]
    first = strategy.evidence[0]
    assert first.dice.before == pytest.approx(candidate.scores.mean_dice)
    assert first.dice.after == strategy.promised == strategy.nested.after == 1


def test_two_true_parts_must_not_be_reduced_to_one(world, scheme):
    pair = (*TRUTH, (7, (0, 3, 0, 2, 11, 14)))  # the second organ has two parts in truth
    candidate, truths = world("full", [(*pair, (3, FAR)), pair], truth=[pair, pair])
    strategy = decided([candidate], truths, scheme)
    together, second, first = strategy.evidence
    assert not together.accepted
    assert not second.accepted
    assert steps_of(strategy) == [["first"]]
    assert first.dice.after == 1


def test_stray_part_inside_another_organ_is_only_found_label_by_label(world, scheme):
    touching = (7, (2, 3, 2, 3, 4, 5))  # within the first organ: connected to the rest
    candidate, truths = world("full", [(*TRUTH, touching)])
    strategy = decided([candidate], truths, scheme)
    assert steps_of(strategy) == [["second"]]
    assert not strategy.evidence[0].accepted


def test_perfect_predictions_need_no_step(world, scheme):
    candidate, truths = world("full", [TRUTH, TRUTH])
    assert decided([candidate], truths, scheme).steps == []


def test_written_files_score_what_the_evidence_promised(world, scheme, tmp_path):
    rng = np.random.default_rng(3)
    predicted = []
    for _ in range(5):
        corners = rng.integers(0, (5, 11, 13), (6, 3))
        values = rng.choice([3, 7], 6)
        strays = [(v, (z, z + 1, y, y + 1, x, x + 1)) for v, (z, y, x) in zip(values, corners, strict=True)]
        predicted.append((*TRUTH, *strays))
    hollow = (7, (1, 4, 6, 10, 2, 7)), (0, (2, 3, 7, 8, 3, 5))
    candidate, truths = world("full", [(*boxes, *hollow) for boxes in predicted])
    strategy = decided([candidate], truths, scheme)
    assert {step.action for step in strategy.steps} >= {"keep_largest", "fill_holes"}
    written = {}
    for case, source in candidate.predictions.items():
        written[case] = tmp_path / "written" / source.name
        apply_to_file(FileJob(case=case, source=source, target=written[case], strategy=strategy))
    scores, _ = evaluate(written, truths, labels=scheme, workers=0)
    assert scores.mean_dice == pytest.approx(strategy.promised, abs=1e-12)
    assert scores.mean_dice > candidate.scores.mean_dice
    sure = [ndimage.label(scheme.mask(load(path), "first"), np.ones((3, 3, 3)))[1] for path in written.values()]
    assert set(sure) == {1}


def load(path):
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_processes_decide_the_same_as_none(world, scheme):
    candidate, truths = world("full", [TRUTH, (*TRUTH, (3, FAR))])
    assert decided([candidate], truths, scheme, workers=2) == decided([candidate], truths, scheme)


def test_best_mean_dice_is_chosen_and_of_equals_the_cheapest(world, scheme):
    worse, truths = world("worse", [(*TRUTH, (3, (4, 6, 2, 8, 2, 8)))])
    good, _ = world("good", [TRUTH], cost=6.0)
    same, _ = world("same", [TRUTH], cost=2.0)
    strategy = decided([worse, good, same], truths, scheme)
    assert strategy.name == "default__same"
    compared = {one.name: one for one in strategy.compared}
    assert [*compared] == ["default__worse", "default__good", "default__same"]
    assert compared["default__worse"].mean_dice == worse.scores.mean_dice < compared["default__good"].mean_dice == 1
    assert [one.tied for one in strategy.compared] == [False, True, True]
    assert [one.cost for one in strategy.compared] == [1, 6, 2]
    assert strategy.notes == []


def test_comparison_over_different_cases_is_noted(world, scheme):
    one, _ = world("one", [TRUTH])
    two, truths = world("two", [TRUTH, (*TRUTH, (3, FAR))])
    strategy = decided([one, two], truths, scheme)
    assert strategy.name == "default__one"
    assert any("default__two and default__one" in note and "1 differ" in note for note in strategy.notes)


def test_regions_are_reduced_together_and_the_reason_for_no_more_is_stated(world):
    labels = LabelScheme(declared={"background": 0, "whole": (3, 7), "core": (7,)}, regions_class_order=(3, 7))
    candidate, truths = world("full", [(*TRUTH, (7, FAR))], labels=labels)
    strategy = decided([candidate], truths, labels)
    assert steps_of(strategy) == [["whole", "core"]]
    assert len(strategy.evidence) == 1
    assert "overlap" in strategy.notes[0]
    assert strategy.scheme == labels


def test_lost_and_damaged_cases_are_problems_and_the_others_decide(world, scheme):
    candidate, truths = world("full", [(*TRUTH, (3, FAR)), TRUTH, TRUTH, TRUTH])
    candidate.predictions["case_1"].write_bytes(b"no image")
    del candidate.predictions["case_2"], truths["case_3"]
    strategy, problems = refine([candidate], truths, dataset="A", labels=scheme, workers=0)
    assert [problem.case for problem in problems] == ["case_1", "case_2", "case_3"]
    assert all(problem.next for problem in problems)
    assert steps_of(strategy) == [["second", "first"]]


def test_no_readable_case_at_all_is_an_error(world, scheme):
    candidate, truths = world("full", [TRUTH])
    candidate.predictions["case_0"].write_bytes(b"no image")
    with pytest.raises(DataError):
        refine([candidate], truths, dataset="A", labels=scheme, workers=0)


def test_scores_without_any_dice_cannot_be_compared(world):
    candidate, _ = world("empty", [()], truth=[()])
    with pytest.raises(UsageError, match="no cross-validation has a Dice"):
        compare_candidates([candidate])


def test_a_hole_that_one_step_leaves_and_the_next_fills_is_in_the_promise(world, blobs, scheme, tmp_path):
    organ, tumour = (7, (1, 5, 1, 9, 1, 11)), (3, (1, 5, 9, 11, 1, 11))
    speck, hole = (3, (2, 3, 3, 4, 3, 4)), (0, (3, 4, 5, 6, 5, 7))
    candidate, truths = world("full", [(organ, tumour, speck, hole)] * 2, truth=[(organ, tumour)] * 2)
    strategy = decided([candidate], truths, scheme)
    assert {step.action for step in strategy.steps} == {"keep_largest", "fill_holes"}
    written = {case: tmp_path / "written" / path.name for case, path in candidate.predictions.items()}
    for case, source in candidate.predictions.items():
        apply_to_file(FileJob(case=case, source=source, target=written[case], strategy=strategy))
    scores, _ = evaluate(written, truths, labels=scheme, workers=0)
    assert scores.mean_dice == pytest.approx(strategy.promised, abs=1e-12)
