"""The plan file: made from a fingerprint, kept while that is the same, made anew without losing what a user wrote."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from autoseg import planning as planning_stage
from autoseg.core.dataset import DatasetJson
from autoseg.core.errors import AutosegError, Problem, UsageError
from autoseg.core.files import content_key, write_bytes
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.plan import Plan, Told
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

    What the planner was told before (memory, spacing, normalisation) holds until it is told otherwise. A file made from
    the same fingerprint and options is kept as it is, and so is a plan of the user's own (a name that is no
    planner's). Otherwise it is planned anew: configurations that the user added or changed are carried over, and a
    copy of the old file stays beside it.

    Returns:
        (plan, whether it was made now, warnings about what was kept).

    Raises:
        UsageError: the plan file belongs to another planner, or the options make no sense.
    """
    path = workspace.plan(name, options.planner)
    check_planning(options, path, n_channels=len(declaration.channel_names))
    known = read_plan(workspace, name, options.planner) if path.is_file() else None
    told = _told(options, known)
    made_from = content_key(fingerprint.key, told.model_dump(), declaration.model_dump())
    if known is not None and known.fingerprint_key == made_from:
        return known, False, []
    if known is not None and options.planner not in planning_stage.PLANNERS:
        found = "was made from other data or options"
        return known, False, [Problem(case="", file=str(path), found=found, next="it is yours and used as it is")]
    plan = planning_stage.plan(
        fingerprint,
        declaration,
        dataset=name,
        planner=options.planner,
        gpu_memory_gb=told.gpu_memory_gb,
        spacing_mm=told.spacing_mm,
        normalization=told.normalization,
    ).with_changes(fingerprint_key=made_from)
    warnings = []
    if known is not None:
        numbers = (f".old{n}.json" for n in itertools.count(1))
        old = next(p for p in map(path.with_suffix, numbers) if not p.exists())
        write_bytes(old, path.read_bytes())
        log.info("%s was made from other data or options and is planned anew; a copy is %s", path, old.name)
        plan, warnings = _carry_over(known, plan, old)
    plan.write(path)
    return plan, True, warnings


def _told(options: Options, known: Plan | None) -> Told:
    before = Told() if known is None else known.told
    return Told(
        gpu_memory_gb=options.gpu_memory_gb or before.gpu_memory_gb,
        spacing_mm=options.spacing_mm or before.spacing_mm,
        normalization=options.normalization or before.normalization,
    )


def _carry_over(known: Plan, plan: Plan, old: Path) -> tuple[Plan, list[Problem]]:
    """Put the configurations that the user added to `known` or changed there into the new plan, one by one."""
    edited, in_file, look = known.edited, known.in_file(), f"they are in {old.name}"
    warnings = []

    def warn(found: str, todo: str) -> None:
        warnings.append(Problem(case="", file="plan", found=found, next=todo))

    if known.planned is None:
        edited = tuple(name for name in known.configurations if name not in plan.configurations)
        warn("was made by version 0.1.0, which kept no note of edits", f"if you made some, {look}")
    if known.edited_elsewhere:
        warn("your changes outside the configurations were not carried over", look)
    waiting, refused = deque(edited), dict[str, str]()
    while waiting:
        name = waiting.popleft()
        fields = in_file[name]
        try:
            if known.transpose_forward != plan.transpose_forward:
                raise UsageError("the order of the axes has changed")
            changed = plan.with_changes(configurations={**plan.in_file(), name: fields})
        except AutosegError as error:
            refused[name] = str(error)
            continue
        waiting += refused  # what refers to this one may fit now
        refused.clear()
        new, kept = plan.configurations.get(name), changed.configurations[name]
        differs = [k for k in fields if new is not None and k != "reasons" and getattr(new, k) != getattr(kept, k)]
        compared = f"; planned anew it would differ in {', '.join(differs)}" if differs else ""
        warn(f"your configuration {name} was kept{compared}", "delete it in the plan file to have it planned")
        plan = changed
    for name, reason in refused.items():
        warn(f"your configuration {name} does not fit the new plan ({reason})", f"it is still in {old.name}")
    return plan, warnings


def read_plan(workspace: Workspace, dataset: str, planner: str) -> Plan:
    """The plan that a planner made. Raises UsageError when there is none, or one that says it is another's."""
    path = workspace.plan(dataset, planner)
    if not path.is_file():
        if planner not in planning_stage.PLANNERS:
            known = sorted({*planning_stage.PLANNERS, *(p.stem for p in path.parent.glob("[!.]*.json"))})
            raise UsageError(f"there is no plan {path}, and no planner '{planner}'; {nearest(planner, known)}")
        own = "" if planner == "default" else f" --planner {planner}"
        raise UsageError(f"there is no plan {path}; run autoseg_plan_and_preprocess -d {dataset}{own} first")
    plan = Plan.read(path)
    if plan.planner != planner:
        raise UsageError(f"{path}: its planner is '{plan.planner}'; write '{planner}' there, or rename the file")
    return plan


def check_planning(options: Options, plan: Path, *, n_channels: int) -> None:
    """Refuse planning options that make no sense. Raises UsageError."""
    own = plan.is_file() and options.planner not in planning_stage.PLANNERS  # a plan file that the user wrote
    planning_stage.budget_for("default" if own else options.planner, options.gpu_memory_gb, options.spacing_mm)
    try:
        told = _told(options, Plan.read(plan) if plan.is_file() else None)
        planning_stage.check_normalization(told.normalization, n_channels=n_channels)
    except UsageError as error:
        if options.normalization:
            raise
        raise UsageError(f"{error}: so it was told before; give it anew, or empty it under told in {plan}") from error
