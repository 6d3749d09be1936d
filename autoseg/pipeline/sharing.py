"""Models that go from hand to hand: exported, imported (also from nnU-Net), opened for a prediction."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from autoseg import __version__, prediction
from autoseg.core.errors import DataError, UsageError
from autoseg.core.files import read_json
from autoseg.core.fingerprint import Fingerprint, Seen
from autoseg.core.model_card import CardScores, ModelCard
from autoseg.core.plan import Model
from autoseg.core.records import nearest, parse
from autoseg.core.scores import Scores
from autoseg.core.strategy import Step, Strategy
from autoseg.core.workspace import TRUST, Workspace, fold_folder
from autoseg.io import model_file
from autoseg.io.feature_file import FEATURES
from autoseg.io.peer_plan import PLANS, read_peer_plan
from autoseg.io.peer_weights import fold_checkpoints, own_names, read_peer_checkpoint
from autoseg.io.weights import save_weights
from autoseg.nets.device import choose_device
from autoseg.pipeline.container import write_container
from autoseg.pipeline.outcome import Outcome

log = logging.getLogger(__name__)
MODEL, WEIGHTS = "model.json", "weights.safetensors"
KEPT = (WEIGHTS, FEATURES, "recipe.json")
FINAL = "checkpoint_final.pth"
CONTAINED = "model"  # folder of a model inside that of its container


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a person says about a model."""

    name: str | None = None
    description: str = ""
    licence: str = ""


def chosen_strategy(workspace: Workspace, dataset: str) -> Strategy | None:
    """What autoseg_find_best_configuration has decided for a data set; None where it has not run.

    Raises DataError: the file is damaged, or of another version.
    """
    path = workspace.strategy(dataset)
    if not path.is_file():
        return None
    try:
        strategy = Strategy.read(path)
    except DataError as error:
        todo = "run autoseg_find_best_configuration again, or choose a model with -c"
        raise DataError([replace(problem, next=todo) for problem in error.problems[:1]]) from error
    steps = "; ".join(step.sentence for step in strategy.steps) or "no postprocessing"
    log.info("following %s: %s; %s (-c chooses otherwise)", path, strategy.name, steps)
    return strategy


def strategy_models(workspace: Workspace, strategy: Strategy) -> list[Path]:
    """The results folders of a strategy's members."""
    return [workspace.model(strategy.dataset, member.planner, member.configuration) for member in strategy.members]


def export_model(
    models: Sequence[Path],
    target: Path,
    *,
    folds: Sequence[str] | None,
    words: Words,
    steps: Sequence[Step] = (),
    container: bool = False,
    overwrite: bool = False,
) -> Outcome:
    """Write the finished folds of trained configurations into one model file, cascades with their first stages.

    Args:
        models: results folders, whose probabilities are averaged in a prediction.
        target: a .zip, or a folder to be made.
        folds: of each configuration; None stands for all finished ones.
        words: for the card.
        steps: postprocessing that belongs to the model.
        container: whether `target` becomes a folder from which a container image can be built.
        overwrite: whether a target that is there is replaced.

    Raises:
        UsageError: a folder is no model, a fold is not trained, or the target is there.
        DataError: a file is damaged.
    """
    with _staged(target, overwrite=overwrite, container=container) as staging:
        # loading them is the check: every file whole, everything fits
        members = prediction.load_members(models, folds=folds, device=choose_device("cpu"))
        scores = {}
        for model, member in zip(models, members, strict=True):
            name = model.resolve().name
            stage: prediction.Ensemble | None = member
            folder = model.resolve()
            while stage is not None:
                _copy_model(folder, staging / folder.name, stage.folds)
                stage = stage.previous
                if stage is not None:
                    folder = folder.with_name(f"{stage.plan.planner}__{stage.name}")
            summary = model / "crossval" / "summary.json"
            if summary.is_file():
                pooled = Scores.read(summary)
                dice = {label: metrics["dice"].mean for label, metrics in pooled.summary.items()}
                scores[name] = CardScores(cases=len(pooled.cases), mean_dice=pooled.mean_dice, dice=dice)
        main = [model.resolve().name for model in models]
        card = _card(members[0], main=main, words=words, scores=scores).with_changes(steps=[*steps])
        return _finish(staging, target, card, container=container)


def import_model(
    source: Path,
    target: Path,
    *,
    folds: Sequence[str] | None = None,
    checkpoint: str = FINAL,
    words: Words,
    container: bool = False,
    overwrite: bool = False,
) -> Outcome:
    """Make a model file (.zip), folder or container from an exported file, or from a results folder of nnU-Net v2.

    Raises:
        UsageError: the source is neither, or the target is there.
        DataError: a file is damaged, hostile, or asks for what autoseg does not compute.
    """
    with _staged(target, overwrite=overwrite, container=container) as staging:
        own = source.is_file() or (source / model_file.CARD).is_file()
        if own and (folds is not None or checkpoint != FINAL):
            raise UsageError("-f and --checkpoint choose among nnU-Net's files; a model of autoseg is taken whole")
        if source.is_file():
            card = model_file.unpack(source, staging)
        elif (source / PLANS).is_file():
            main, card = _from_peer(source, staging, folds=folds, checkpoint=checkpoint), None
        elif (source / model_file.CARD).is_file():
            card = model_file.check(source)
            for name in card.files:
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, staging / name)
        else:
            todo = "give what autoseg_export_model wrote, or the folder of nnU-Net that holds plans.json and fold_0"
            raise UsageError(f"{source} is no model file and no results folder of nnU-Net v2; {todo}")
        names = [main] if card is None else card.configurations
        # loading them is the check: every tensor there, everything fits
        members = prediction.load_members([staging / name for name in names], folds=None, device=choose_device("cpu"))
        told = {"name": words.name, "description": words.description, "licence": words.licence}
        card = card or _card(members[0], main=names, words=words, scores={})
        return _finish(
            staging, target, card.with_changes(**{key: text for key, text in told.items() if text}), container=container
        )


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """The results folders that answer together, and the postprocessing that follows."""

    folders: list[Path]
    steps: tuple[Step, ...] = ()


@contextmanager
def opened_model(path: Path, *, configurations: Sequence[str] | None = None) -> Iterator[OpenedModel]:
    """What a model consists of; a model file is unpacked for the time of the context.

    Args:
        path: a results folder (with model.json), a model folder (with card.json), or a model file.
        configurations: of a model with several, those to use (names of folders where planners share a name), without
            postprocessing, which was chosen for all; None stands for those that its card names.

    Raises:
        UsageError: it is none of them, or has no such configuration.
        DataError: the file is damaged or hostile.
    """
    with tempfile.TemporaryDirectory(prefix="autoseg_model_") as temporary:
        folder = path
        if path.is_file():
            folder = Path(temporary)
            model_file.unpack(path, folder)
        steps: list[Step] = []
        if (folder / MODEL).is_file():
            known, main = {Model.read(folder / MODEL).configuration: folder}, [folder]
        elif (folder / model_file.CARD).is_file():
            card = model_file.read_card(folder / model_file.CARD)
            parts = [entry.parent for entry in sorted(folder.glob(f"*/{MODEL}"))]
            short = [part.name.rpartition("__")[2] for part in parts]
            known = {name: part for name, part in zip(short, parts, strict=True) if short.count(name) == 1}
            known |= {part.name: part for part in parts}
            main, steps = [folder / name for name in card.configurations], card.steps
        else:
            todo = "give the folder with model.json, or a file that autoseg_export_model wrote; a model of nnU-Net "
            raise UsageError(f"{path} is no model; {todo}has to go through autoseg_import_model once")
        for name in configurations or ():
            if name not in known:
                raise UsageError(f"{path} has no configuration {name}; {nearest(name, [*known])}")
        try:
            if configurations:
                yield OpenedModel(folders=[known[name] for name in configurations])
            else:
                yield OpenedModel(folders=main, steps=tuple(steps))
        except UsageError as error:  # which names the model, not where it was unpacked
            raise UsageError(str(error).replace(str(folder), str(path))) from error


@contextmanager
def _staged(target: Path, *, overwrite: bool, container: bool) -> Iterator[Path]:
    """A hidden folder beside the target, gone afterwards."""
    if container and target.suffix == ".zip":
        raise UsageError(f"--container writes a folder, and {target} is called a file; give another name with -o")
    if target.is_dir() and (target.suffix == ".zip" or any(target.iterdir())):
        found = "a folder" if target.suffix == ".zip" else "a folder with something in it"
        raise UsageError(f"{target} is {found}; delete it, or give another name with -o")
    if target.is_file() and target.suffix != ".zip":
        raise UsageError(f"{target} is a file; give a name that ends in .zip, or another one, with -o")
    if target.is_file() and not overwrite:
        raise UsageError(f"{target} is there already; give another name with -o, or --overwrite")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _finish(staging: Path, target: Path, card: ModelCard, *, container: bool) -> Outcome:
    """Seal a staged model and put it in its place."""
    card = model_file.seal(staging, card)
    if container:
        parts = [*staging.iterdir()]
        (staging / CONTAINED).mkdir()
        for part in parts:
            part.rename(staging / CONTAINED / part.name)
        write_container(staging, name=card.name, channel_names=card.channel_names)
    if target.suffix == ".zip":
        model_file.pack(staging, target)
    else:
        if target.exists():  # and empty
            target.rmdir()
        staging.chmod(0o755)  # as any folder; temporary ones are private
        staging.rename(target)
    facts = {
        "model": str(target),
        "configurations": card.configurations,
        "weights": [name for name in card.files if name.endswith(WEIGHTS)],
        "bytes": sum(facts.size for facts in card.files.values()),
        "card": card.model_dump(mode="json", exclude={"files"}),
    }
    return Outcome(facts=facts)


def _copy_model(source: Path, target: Path, folds: Sequence[str]) -> None:
    target.mkdir(exist_ok=True)
    shutil.copyfile(source / MODEL, target / MODEL)
    if (source / TRUST).is_file():
        shutil.copyfile(source / TRUST, target / TRUST)
    for fold in folds:
        fold_folder(target, fold).mkdir(exist_ok=True)
        for name in KEPT:
            if (fold_folder(source, fold) / name).is_file():
                shutil.copyfile(fold_folder(source, fold) / name, fold_folder(target, fold) / name)


def _card(
    member: prediction.Ensemble, *, main: Sequence[str], words: Words, scores: dict[str, CardScores]
) -> ModelCard:
    plan = member.plan
    return ModelCard(
        name=words.name or plan.dataset,
        description=words.description,
        licence=words.licence,
        origin=member.origin,
        autoseg_version=__version__,
        created=date.today().isoformat(),
        configurations=list(main),
        dataset=plan.dataset,
        channel_names=plan.channel_names,
        labels=plan.labels,
        training_cases=None if member.seen is None else member.seen.cases,
        scores=scores,
    )


def _from_peer(source: Path, staging: Path, *, folds: Sequence[str] | None, checkpoint: str) -> str:
    """Translate a results folder of nnU-Net v2, a cascade's with that of its first stage, which lies beside it.

    Returns the name of the folder that it became.
    """
    folder = source.resolve()
    files = fold_checkpoints(folder, name=checkpoint, folds=folds)
    first = read_peer_checkpoint(next(iter(files.values())))
    stages = {first.configuration: (folder, files, first)}
    axes = {first.configuration: list(first.mirror_axes)}
    plan = read_peer_plan(folder, mirror_axes=axes)
    for name in plan.stages(first.configuration)[1:]:
        earlier = folder.with_name(f"{folder.name.rpartition('__')[0]}__{name}")
        if not (earlier / PLANS).is_file():
            raise UsageError(f"{source} follows {name}: put that folder beside it as {earlier.name}")
        files = fold_checkpoints(earlier, name=checkpoint, folds=folds)
        stages[name] = earlier, files, read_peer_checkpoint(next(iter(files.values())))
        axes[name] = list(stages[name][2].mirror_axes)
    plan = read_peer_plan(folder, mirror_axes=axes)
    for name, (where, files, loaded) in stages.items():
        own = staging / f"{plan.planner}__{name}"
        origin = f"nnU-Net v2 ({loaded.trainer})"
        seen = _peer_seen(where)
        Model(configuration=name, plan=plan, autoseg_version=__version__, seen=seen, origin=origin).write(own / MODEL)
        for path in files.values():
            opened = loaded if path == next(iter(files.values())) else read_peer_checkpoint(path)
            facts = {"autoseg_version": __version__, "origin": origin}
            save_weights(own / path.parent.name / WEIGHTS, own_names(opened.tensors, path=path), facts=facts)
    return f"{plan.planner}__{first.configuration}"


def _peer_seen(folder: Path) -> Seen | None:
    """What nnU-Net's fingerprint says of the training images, axes as in the files: so the model is run."""
    path = folder / "dataset_fingerprint.json"
    if not path.is_file():
        return None
    try:
        value = read_json(path)
        shapes = {key: value[key] for key in ("spacings", "shapes_after_crop")}
        rest = {"foreground_intensity_properties_per_channel": {}, "median_relative_size_after_cropping": 1}
        return parse(Fingerprint, {**shapes, **rest}, source=path).seen
    except (DataError, KeyError, TypeError) as error:
        log.warning("%s is not understood, so unusual images will not be noticed (%s)", path, error)
        return None
