"""What a model learns about trust: the features of its training images, and what Dice to expect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from autoseg import __version__, evaluation, prediction
from autoseg.core.errors import Problem
from autoseg.core.files import content_key
from autoseg.core.scores import Scores
from autoseg.core.trust import Agreements
from autoseg.core.workspace import TRUST, fold_folder
from autoseg.io.case_store import CaseStore
from autoseg.io.feature_file import FEATURES, PARTS, made_from, write_features
from autoseg.ops.familiarity import familiar_with
from autoseg.training import FoldJob, processes

AGREEMENTS = "agreement.json"  # in the validation folder of a fold
MOST_SEEN, MOST_UNSEEN = 128, 64  # cases whose features are computed


def learn_features(job: FoldJob, results: Path, *, fold: str, progress: Callable[[int, int, str], None]) -> None:
    """Write what the features of a fold's training images are like, unless that is there for its weights.

    Processes that train together share the cases. Nothing is written for fold "all", whose network has seen all images;
    for the second stage of a cascade, since its first stage judges; and for networks without an encoder.
    """
    path, key = job.folder / FEATURES, content_key(files=[job.folder / "weights.safetensors"])
    if fold == "all" or job.stage is not None or made_from(path) == key:
        return
    processes.wait_for_all()
    path.unlink(missing_ok=True)  # of other weights
    member = prediction.load_ensemble(
        results, folds=[fold], device=job.device, precision=job.recipe.precision, mirroring=False
    )
    if not prediction.has_features(member):
        return
    store = CaseStore(job.store)
    seen, unseen = _some(job.split.train, MOST_SEEN), _some(job.split.val, MOST_UNSEEN)
    cases, vectors = [*seen, *unseen], []
    own = cases[processes.rank() :: processes.size()]
    for done, case in enumerate(own):
        progress(done, len(own), case)
        vectors.append((case, prediction.image_features(member, store.open(case).image)[0]))
    progress(len(own), len(own), "")
    found = dict(processes.gathered(vectors))
    familiar = familiar_with(np.array([found[case] for case in seen]), np.array([found[case] for case in unseen]))
    if familiar is not None and processes.rank() == 0:
        facts = {"autoseg_version": __version__, "made_from": key, "seen": seen, "unseen": unseen}
        write_features(path, {name: getattr(familiar, name) for name in PARTS}, facts=facts)


def write_agreements(fold: Path, cases: Mapping[str, Mapping[str, float | None]]) -> None:
    """Keep the agreement of a fold's validation cases with the weights that it has now."""
    key = content_key(files=[fold / "weights.safetensors"])
    Agreements(made_from=key, cases={case: dict(cases[case]) for case in sorted(cases)}).write(
        fold / "validation" / AGREEMENTS
    )


def calibrate(results: Path, n_folds: int, scores: Scores) -> list[Problem]:
    """Write trust.json from the out-of-fold cases of all folds; returns a warning where folds cannot take part.

    Without agreement in any fold there is no trust.json.
    """
    agreements: dict[str, dict[str, float | None]] = {}
    lacking: list[Path] = []
    for fold in range(n_folds):
        folder = fold_folder(results, fold)
        path = folder / "validation" / AGREEMENTS
        kept = Agreements.read(path) if path.is_file() else None
        if kept is None or kept.made_from != content_key(files=[folder / "weights.safetensors"]):
            lacking.append(path.parent)
        else:
            agreements |= kept.cases
    warnings = []
    if lacking:
        found = (
            f"{len(lacking)} of {n_folds} folds were validated by a version that kept no agreement and do not help to "
        )
        stored = any([*folder.glob(f"*{prediction.PROBABILITIES}")] for folder in lacking)
        again = "the same command with --save_probabilities" if stored else "the same command"
        names = ", ".join(folder.parent.name for folder in lacking)
        todo = f"if you want that, delete the folder validation in {names} and run {again}"
        warnings.append(Problem(case="", file=str(results), found=found + "expect Dice", next=todo))
    trust = evaluation.calibrate(scores.cases, agreements)
    if trust is None:
        (results / TRUST).unlink(missing_ok=True)
    else:
        trust.write(results / TRUST)
    return warnings


def _some(cases: Sequence[str], most: int) -> list[str]:
    """At most so many of the cases, evenly spread."""
    n = min(most, len(cases))
    return [cases[i * len(cases) // n] for i in range(n)]
