"""From trained folds and images to segmentations."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from autoseg import __version__, prediction
from autoseg.core.errors import DataError, DeviceError, Problem
from autoseg.core.files import content_key
from autoseg.io.images import with_data_files
from autoseg.nets.device import choose_device, enough_memory
from autoseg.pipeline.outcome import Outcome, Progress, silent


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What prediction may be told."""

    folds: tuple[str, ...] | None = None
    weights: str = "final"
    step: float = 0.5
    mirroring: bool = True
    device: str | None = None
    overwrite: bool = False
    part: tuple[int, int] = (0, 1)


def predict(
    model: Path, source: Path, target: Path, options: PredictOptions, *, progress: Progress = silent
) -> Outcome:
    """Predict every case of a folder (or one file) and write label files and prediction.json into `target`.

    Cases that `target` holds already, from the same model, image and options, are kept.
    """
    device = choose_device(options.device)
    ensemble = prediction.load_ensemble(
        model, folds=options.folds, device=device, mirroring=options.mirroring, weights=options.weights
    )
    cases, problems = prediction.find_cases(source, ensemble.plan)
    part, n_parts = options.part
    cases = cases[part::n_parts]
    settings = {
        "weights": options.weights,
        "step": options.step,
        "mirroring": options.mirroring,
        "precision": ensemble.precision,
    }
    model_key = content_key(settings, ensemble.plan.model_dump(mode="json"), files=ensemble.files)
    facts = {
        "model": str(model),
        "folds": list(ensemble.folds),
        "options": settings,
        "autoseg_version": __version__,
    }
    record = prediction.PredictionRecord(target, part=options.part, facts=facts)
    n_new = 0
    for number, case in enumerate(cases):
        progress("predict", number, len(cases), case.id)
        path = target / f"{case.id}{ensemble.plan.file_ending}"
        try:
            key = content_key(model_key, files=with_data_files(case.images))
            if path.is_file() and record.key_of(case.id) == key and not options.overwrite:
                continue
            started = time.monotonic()
            with enough_memory("close what else uses it, or predict with --device cpu"):
                found = prediction.predict_case(ensemble, case, path, step=options.step)
            record.add(case.id, key=key, seconds=time.monotonic() - started, facts=found)
            n_new += 1
        except OSError as error:
            path.unlink(missing_ok=True)
            todo = "check that the file can be read and the output folder written"
            problems.append(Problem(case=case.id, file=str(error.filename or ""), found=str(error), next=todo))
        except DeviceError as error:  # a smaller case may still fit
            path.unlink(missing_ok=True)
            problems.append(Problem(case=case.id, found=str(error), next="then run the same command again"))
        except DataError as error:
            path.unlink(missing_ok=True)  # an older prediction must not pass for this one
            problems += [
                Problem(case=p.case or case.id, file=p.file, found=p.found, next=p.next) for p in error.problems
            ]
    progress("predict", len(cases), len(cases), "")
    warnings = record.finish(problems)
    done = len(cases) - len({p.case for p in problems} & {case.id for case in cases})
    summary = {
        "predicted": done,
        "predicted_now": n_new,
        "folds": list(ensemble.folds),
        "output": str(target),
    }
    return Outcome(facts=summary, problems=problems, warnings=warnings)
