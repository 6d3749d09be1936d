"""The plan file: made from a fingerprint, kept while that is the same, made anew without losing what a user wrote."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from pathlib import Path

from autoseg import planning as planning_stage
from autoseg.core.dataset import DatasetJson
from autoseg.core.errors import AutosegError, Problem, UsageError
from autoseg.core.files import content_key
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.plan import Plan
from autoseg.core.records import nearest
from autoseg.core.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the planning half of the pipeline may be told; the defaults need no choice."""

    planner: str = "default"
    configurations: tuple[str, ...] = ()
    gpu_memory_gb: float | None = None
    spacing_mm: tuple[float, float, float] | None = None
    normalization: tuple[str, ...] = ()
    stratify: bool = False
    workers: int | None = None
    scheduler: str | None = None
    device: str = "cpu"


def make_plan(
    name: str, declaration: DatasetJson, fingerprint: Fingerprint, workspace: Workspace, options: Options
) -> tuple[Plan, bool, list[Problem]]:
    """Plan from a fingerprint and write the plan file.

    A file made from the same fingerprint and options is kept as it is, and so is a plan of the user's own (a name that
    is no planner's). Otherwise it is planned anew: configurations that the user added or changed are carried over,
    and the old file is kept beside it.

    Returns:
        (plan, whether it was made now, warnings about what was kept).
    """
    path = workspace.plan(name, options.planner)
    told = options.gpu_memory_gb, options.spacing_mm, options.normalization
    made_from = content_key(fingerprint.key, *told, declaration.model_dump())
    known = Plan.read(path) if path.is_file() else None
    if known is not None and known.fingerprint_key == made_from:
        return known, False, []
    if known is not None and options.planner not in planning_stage.PLANNERS:
        found = "was made from other data or options"
        return known, False, [Problem(case="", file=str(path), found=found, next="it is yours and used as it is")]
    plan = (
        planning_stage.plan(
            fingerprint,
            declaration,
            dataset=name,
            planner=options.planner,
            gpu_memory_gb=options.gpu_memory_gb,
            spacing_mm=options.spacing_mm,
            normalization=options.normalization,
        )
        .with_changes(fingerprint_key=made_from)
        .with_configurations_marked()
    )
    warnings = []
    if known is not None:
        numbers = (f".old{n}.json" for n in itertools.count(1))
        old = next(p for p in map(path.with_suffix, numbers) if not p.exists())
        path.replace(old)
        log.info("%s was made from other data or options and is planned anew; the old one is now %s", path, old.name)
        plan, warnings = _carry_over(known, plan, old)
    plan.write(path)
    return plan, True, warnings


def _carry_over(known: Plan, plan: Plan, old: Path) -> tuple[Plan, list[Problem]]:
    """Put the configurations that the user added to `known` or changed there into the new plan."""
    edited = known.edited
    if not edited:
        return plan, []
    names, todo = ", ".join(edited), "compare them with the reasons in the new plan"
    try:
        if known.transpose_forward != plan.transpose_forward:
            raise UsageError("the order of the axes has changed")
        configurations = {**plan.model_dump(mode="json")["configurations"], **edited}
        plan, found = plan.with_changes(configurations=configurations), f"your configurations {names} were kept"
    except AutosegError as error:
        found, todo = f"your configurations {names} do not fit the new plan ({error})", f"they are still in {old.name}"
    return plan, [Problem(case="", file="plan", found=found, next=todo)]


def read_plan(workspace: Workspace, dataset: str, planner: str) -> Plan:
    """The plan that a planner made. Raises UsageError when there is none."""
    path = workspace.plan(dataset, planner)
    if not path.is_file():
        raise UsageError(f"there is no plan {path}; run autoseg_plan_and_preprocess -d {dataset} first")
    return Plan.read(path)


def check_options(options: Options, plan: Path) -> None:
    """Refuse a wrong call before any image is read. Raises UsageError."""
    own = plan.is_file() and options.planner not in planning_stage.PLANNERS  # a plan file that the user wrote
    planning_stage.budget_for("default" if own else options.planner, options.gpu_memory_gb, options.spacing_mm)
    known = {*planning_stage.CONFIGURATIONS, *(Plan.read(plan).configurations if plan.is_file() else ())}
    for name in options.configurations:
        if name not in known:
            raise UsageError(f"there is no configuration '{name}'; {nearest(name, sorted(known))}")
