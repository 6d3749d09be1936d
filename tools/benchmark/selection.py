"""Does a strategy keep its promise? Every validation case is predicted anew, by its own fold, following strategy.json.

Usage: selection.py DATASET --raw DIR --preprocessed DIR --results DIR --work DIR [--device NAME]

The data set needs finished cross-validations, of which those with --save_probabilities take part in ensembles. Writes
selection.json into the work folder: what was compared, what was promised, and the mean Dice that was found.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from measured import run

from autoseg.core.dataset import read_dataset
from autoseg.core.splits import read_splits
from autoseg.core.strategy import Strategy
from autoseg.core.workspace import Workspace


def main() -> None:
    """Choose, predict fold by fold, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="name of the data set's folder")
    for place in ("raw", "preprocessed", "results", "work"):
        parser.add_argument(f"--{place}", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    workspace = Workspace(raw=args.raw, preprocessed=args.preprocessed, results=args.results)
    work, log = args.work.resolve(), args.work / "log.txt"
    work.mkdir(parents=True, exist_ok=True)
    places = ["--raw", str(args.raw), "--preprocessed", str(args.preprocessed), "--results", str(args.results)]
    where = ["-d", args.dataset, *places]
    programs = Path(sys.executable).parent
    run([str(programs / "autoseg_find_best_configuration"), *where], log=log, with_memory=False)
    strategy = Strategy.read(workspace.strategy(args.dataset))
    dataset = read_dataset(args.raw / args.dataset)
    found = work / "predicted"
    shutil.rmtree(found, ignore_errors=True)
    for fold, split in enumerate(read_splits(workspace.splits(args.dataset), known={*dataset.cases})):
        images = work / f"images_{fold}"
        shutil.rmtree(images, ignore_errors=True)
        images.mkdir()
        for case in split.val:
            for channel, path in enumerate(dataset.cases[case].images):
                ending = path.name[len(f"{case}_0000") :]
                (images / f"{case}_{channel:04d}{ending}").symlink_to(path.resolve())
        out = work / f"fold_{fold}"
        shutil.rmtree(out, ignore_errors=True)
        into = ["-i", str(images), "-o", str(out), "-f", str(fold), "--device", args.device]
        run([str(programs / "autoseg_predict"), *where, *into], log=log, with_memory=False)
        found.mkdir(exist_ok=True)
        for case in split.val:
            name = f"{case}{dataset.json.file_ending}"
            (out / name).rename(found / name)
    truth = str(args.raw / args.dataset / "labelsTr")
    run([str(programs / "autoseg_evaluate"), "-p", str(found), "-g", truth], log=log, with_memory=False)
    told = strategy.model_dump(mode="json")
    result = {
        "chosen": strategy.name,
        "steps": [step.sentence for step in strategy.steps],
        "promised": strategy.promised,
        "found": json.loads((found / "summary.json").read_text())["mean_dice"],
        "compared": told["compared"],
        "nested": told["nested"],
    }
    (work / "selection.json").write_text(json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
