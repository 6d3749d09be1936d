"""The only maker of paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TRUST = "trust.json"  # in a results folder


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The three folders of a user's work: raw data, preprocessed data, results."""

    raw: Path
    preprocessed: Path
    results: Path

    def fingerprint(self, dataset: str) -> Path:
        """The fingerprint file of a data set."""
        return self.preprocessed / dataset / "fingerprint.json"

    def measured_case(self, dataset: str, case: str) -> Path:
        """What was measured on one case, kept so that a second run need not measure again."""
        return self.preprocessed / dataset / "measured" / f"{case}.npz"

    def splits(self, dataset: str) -> Path:
        """The cross-validation splits of a data set."""
        return self.preprocessed / dataset / "splits.json"

    def plan(self, dataset: str, planner: str) -> Path:
        """The plan that one planner made for a data set."""
        return self.preprocessed / dataset / "plans" / f"{planner}.json"

    def case_store(self, dataset: str, planner: str, configuration: str) -> Path:
        """Folder of the preprocessed cases of one configuration."""
        return self.preprocessed / dataset / f"{planner}__{configuration}"

    def stage_store(self, dataset: str, planner: str, configuration: str) -> Path:
        """Folder of what an earlier stage answered for the cases of a cascade's configuration."""
        return self.case_store(dataset, planner, configuration) / "earlier_stage"

    def model(self, dataset: str, planner: str, configuration: str) -> Path:
        """Results folder of one configuration: model.json, fold_*, crossval."""
        return self.results / dataset / f"{planner}__{configuration}"

    def strategy(self, dataset: str) -> Path:
        """Which models to use for a data set, and which postprocessing."""
        return self.results / dataset / "strategy.json"


def fold_folder(model: Path, fold: int | str) -> Path:
    """Folder of one fold (a number, or "all") inside a results folder."""
    return model / f"fold_{fold}"


def fold_files(model: Path, name: str) -> dict[str, Path]:
    """Folds (a number, or "all") of a results folder that hold the file `name`. fold_0_old, moved aside, is none."""
    folders = {path.name.removeprefix("fold_"): path for path in sorted(model.glob("fold_*"))}
    known = {fold: path / name for fold, path in folders.items() if fold == "all" or fold.isdecimal()}
    return {fold: path for fold, path in known.items() if path.is_file()}
