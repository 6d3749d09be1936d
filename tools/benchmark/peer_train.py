"""Trains a fold with the peer, for so many steps, in its environment; records the seconds of every step.

Usage: peer_train.py DATASET PLANS FOLD SEED EPOCHS STEPS_PER_EPOCH VALIDATION_STEPS RESULT.json
Writes the seconds from the end of one step to the end of the next, the share of it spent waiting for data, and, unless
VALIDATION_STEPS is 0, the mean Dice of the validation cases.
"""

import json
import sys
import time
from multiprocessing import cpu_count
from pathlib import Path

import numpy as np
import torch


class Waiting:
    """A loader that adds up how long it was waited for."""

    def __init__(self, loader):
        self.loader, self.seconds = loader, []

    def __next__(self):
        started = time.perf_counter()
        batch = next(self.loader)
        self.seconds.append(time.perf_counter() - started)
        return batch


def main(dataset, plans, fold, seed, epochs, steps, validation_steps, result):
    """Train, validate, write the result."""
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.set_num_threads(cpu_count())  # as its own command does on a CPU
    torch.manual_seed(seed)
    np.random.seed(seed)
    trainer = get_trainer_from_args(dataset, "3d_fullres", fold, "nnUNetTrainer", plans, device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch = epochs, steps
    trainer.num_val_iterations_per_epoch = max(1, validation_steps)
    trainer.save_every = 1
    trainer.initialize()
    latest = Path(trainer.output_folder) / "checkpoint_latest.pth"
    recorded = Path(result).with_suffix(".steps.json")
    seconds, waited = json.loads(recorded.read_text()) if recorded.is_file() and latest.is_file() else ([], [])
    if latest.is_file():
        trainer.load_checkpoint(str(latest))
    trainer.on_train_start()
    loader = trainer.dataloader_train = Waiting(trainer.dataloader_train)
    for _ in range(trainer.current_epoch, epochs):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        losses = []
        for _ in range(steps):
            started = time.perf_counter()
            losses.append(trainer.train_step(next(loader)))
            seconds.append(time.perf_counter() - started)
        waited += loader.seconds
        loader.seconds = []
        trainer.on_train_epoch_end(losses)
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            outputs = [trainer.validation_step(next(trainer.dataloader_val)) for _ in range(max(1, validation_steps))]
            trainer.on_validation_epoch_end(outputs)
        trainer.on_epoch_end()
        recorded.write_text(json.dumps([seconds, waited]))
    trainer.on_train_end()
    found = {"step_seconds": seconds, "wait_seconds": waited, "dice": None}
    if validation_steps:
        trainer.perform_actual_validation()
        summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
        found["dice"] = {name: scores["Dice"] for name, scores in summary["mean"].items()}
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    dataset, plans, *numbers, result = sys.argv[1:]
    main(dataset, plans, *map(int, numbers), result)
