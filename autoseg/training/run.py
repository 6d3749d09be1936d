"""Everything of a training run that changes from step to step, and how it is saved and brought back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from autoseg import __version__
from autoseg.core.errors import DeviceError
from autoseg.core.plan import Plan
from autoseg.core.recipe import Recipe
from autoseg.core.records import parse
from autoseg.core.versions import versions_here
from autoseg.io.weights import by_prefix, load_weights, save_weights
from autoseg.nets.build import build_network, channels_last
from autoseg.nets.device import autocast, choose_precision, device_name
from autoseg.ops.stage_input import one_hot
from autoseg.training import processes
from autoseg.training.augmentation import AugmentationRules, augment, centre_crop, perturb
from autoseg.training.compiling import compiled_if_faster
from autoseg.training.objective import Objective
from autoseg.training.optimizer import Bend, learning_rate, optimizers, progress
from autoseg.training.pretrained import load_pretrained

log = logging.getLogger(__name__)
MAX_SKIPPED = 10  # steps in a row without a finite gradient


LOST_STATE = "put a copy of it there, or move the folder of the fold away to train it anew"


class Diverged(DeviceError):  # noqa: N818
    """The weights have gone where no step has a finite gradient."""


@dataclass
class Counters:
    """Where a run is. `loss_sum` over `n_losses` steps, `wait_s` and `step_s` belong to the running epoch."""

    epoch: int = 0
    iteration: int = 0
    loss_sum: float = 0.0
    n_losses: int = 0
    wait_s: float = 0.0
    step_s: float = 0.0
    skipped: int = 0
    smoothed_dice: float | None = None
    best_dice: float | None = None
    trained_s: float = 0.0  # training and its validation, over all epochs
    rate: float = 0.0  # learning rate of the last step
    bend_step: int | None = None  # where the length of the training was changed
    bend_rate: float = 0.0
    rate_factor: float = 1.0  # below 1 after a training that diverged was taken back

    @property
    def train_loss(self) -> float | None:
        """Mean loss of the running epoch so far; None before its first step with a finite one."""
        return self.loss_sum / self.n_losses if self.n_losses else None

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.epoch, self.iteration, self.loss_sum, self.n_losses = self.epoch + 1, 0, 0.0, 0
        self.wait_s, self.step_s = 0.0, 0.0


class Run:
    """Network, optimizer, averaged weights and counters of one fold."""

    def __init__(
        self,
        plan: Plan,
        configuration: str,
        recipe: Recipe,
        rules: AugmentationRules,
        device: torch.device,
        *,
        pretrained: Path | None = None,
        annotated_classes: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.rules, self.device = recipe, rules, device
        self.precision = choose_precision(device, recipe.precision)
        planned = plan.configuration(configuration)
        self.n_values = len(plan.scheme.values)
        self.format = channels_last(planned.dimensions)
        self.n_channels = plan.input_channels(configuration)
        network = build_network(planned.network, n_channels=self.n_channels, n_outputs=plan.scheme.n_outputs)
        if pretrained is not None:
            load_pretrained(network, pretrained)
        self.network: nn.Module = network.to(device).train()
        self.parallel = self.network
        if processes.size() > 1:
            devices = [device] if device.type == "cuda" else None
            self.parallel = DistributedDataParallel(self.network, device_ids=devices, gradient_as_bucket_view=True)
        self.batch_size = planned.batch_size * processes.size()
        self.first_sample = processes.rank() * planned.batch_size
        self.average = (
            {name: p.detach().clone() for name, p in network.named_parameters()} if recipe.weight_average else {}
        )
        self.optimizer = optimizers[recipe.optimizer](self.network.parameters(), recipe)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        # mirrored, the side that was drawn would have the name of the one that was not
        self.one_sided = {
            case
            for case, known in annotated_classes.items()
            if any((left in known) != (right in known) for left, right in planned.mirror_label_pairs)
        }
        self.objective = Objective(plan.scheme, planned, recipe, annotated_classes)
        self.at = Counters()
        self.watch: Callable[[str], AbstractContextManager[None]] = lambda part: nullcontext()

    @property
    def step_number(self) -> int:
        """Training steps done since the beginning."""
        return self.at.epoch * self.recipe.iterations + self.at.iteration

    @property
    def is_over(self) -> bool:
        """Whether the recipe's epochs, or its time, are used up."""
        budget = self.recipe.time_budget_s
        return self.at.epoch >= self.recipe.epochs if budget is None else self.at.trained_s >= budget

    def train_step(self, batch: dict[str, Any]) -> None:
        """One step: augment, forward, loss, backward, update. A step without a finite gradient changes nothing."""
        with self.watch("to device"):
            image, label = self._to_device(batch)
        with self.watch("augment"):
            if self.recipe.augmentation:
                one_sided = [case in self.one_sided for case in batch["cases"]]
                image, label = augment(image, label, rules=self.rules, keep_sides=one_sided, **self._chance)
            else:
                image, label = centre_crop(image, label, patch_size=self.rules.patch_size)
            image, label = self._with_stage(image, label, perturbed=self.recipe.augmentation)
        bend = None if self.at.bend_step is None else Bend(step=self.at.bend_step, rate=self.at.bend_rate)
        self.at.rate = learning_rate(self.recipe, self.step_number, seconds=self.at.trained_s, bend=bend)
        self.at.rate *= self.at.rate_factor
        for group in self.optimizer.param_groups:
            group["lr"] = self.at.rate
        self.optimizer.zero_grad(set_to_none=True)
        with self.watch("forward"), autocast(self.device, self.precision):
            outputs = self.parallel(image.contiguous(memory_format=self.format))
        with self.watch("loss"):
            # rare classes weigh more at first, to be found; at the end that would be too much of them
            balance = 1 - progress(self.recipe, self.step_number, seconds=self.at.trained_s)
            loss = self.objective(outputs, label, cases=batch["cases"], balance=balance)
            if processes.size() > 1:  # DistributedDataParallel waits for a gradient of every output, used or not
                loss = loss + _nothing(outputs)
        with self.watch("backward"):
            torch.autograd.backward(self.scaler.scale(loss))
        with self.watch("update"):
            self._update(loss, batch)
        self.at.iteration += 1

    def _update(self, loss: torch.Tensor, batch: dict[str, Any]) -> None:
        """Move the weights along the gradients, unless these are not finite."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip)
        if bool(torch.isfinite(norm)) and bool(torch.isfinite(loss)):
            self.scaler.step(self.optimizer)
            self._update_average()
            self.at.loss_sum += float(loss.detach())
            self.at.n_losses += 1
            self.at.skipped = 0
        else:
            self._skip(batch, expected=self.precision == "fp16" and bool(torch.isfinite(loss)))
        self.scaler.update()

    def _skip(self, batch: dict[str, Any], *, expected: bool) -> None:
        """Count a step without a finite gradient; name its cases, unless it is one of those that fp16 begins with."""
        self.at.skipped += 1
        cases = ", ".join(sorted(set(batch["cases"])))
        if not expected:
            log.warning("step %d was skipped: no finite gradient from crops of %s", self.step_number, cases)
        if self.at.skipped > MAX_SKIPPED:
            raise Diverged(
                f"the loss was not finite in {MAX_SKIPPED} steps in a row, the last from crops of {cases}; look at "
                "these images, or train with a smaller learning rate "
                f"(--set learning_rate={self.recipe.learning_rate / 10:g}) or with --set precision=float32"
            )

    def try_compiler(self) -> None:
        """Use a compiled network from here on, where that is faster on the shapes of this training; for one process."""
        shape = (self.batch_size, self.n_channels, *self.rules.patch_size)
        image = torch.zeros(shape, device=self.device).contiguous(memory_format=self.format)
        label = torch.zeros(shape[0], 1, *shape[2:], dtype=torch.int64, device=self.device)

        def step(network: nn.Module) -> None:
            with autocast(self.device, self.precision):
                outputs = network(image)
            torch.autograd.backward(self.objective(outputs, label))
            self.optimizer.zero_grad(set_to_none=True)

        self.parallel = compiled_if_faster(self.network, step, wait=lambda: torch.cuda.synchronize(self.device))

    @torch.no_grad()
    def validate(self, batches: Iterator[dict[str, Any]], n: int) -> tuple[float, list[float | None]]:
        """Loss and pseudo-Dice (global over all patches, per class) of the averaged weights on `n` batches."""
        counts, losses = np.zeros((3, self.objective.n_classes)), []
        with self.averaged_weights():
            for batch in islice(batches, n):
                image, label = centre_crop(*self._to_device(batch), patch_size=self.rules.patch_size)
                image, label = self._with_stage(image, label)
                with autocast(self.device, self.precision):
                    outputs = self.network(image.contiguous(memory_format=self.format))
                losses.append(float(self.objective(outputs, label, cases=batch["cases"])))
                counts += self.objective.counts(outputs[0], label, cases=batch["cases"])
        tp, fp, fn = counts
        dice = [float(2 * t / (2 * t + p + n)) if t + p + n else None for t, p, n in zip(tp, fp, fn, strict=True)]
        return float(np.mean(losses)), dice

    def averaged_weights(self) -> _Swapped:
        """Context in which the network has the averaged weights (where the recipe averages)."""
        return _Swapped(self.network, self.average)

    def save(self, path: Path, *, facts: dict[str, Any]) -> None:
        """Write all that is needed to continue exactly here; of processes that train together the first does it.

        Raises Diverged where the weights are not finite: from there nothing can go on.
        """
        if not all(bool(torch.isfinite(p).all()) for p in self.network.parameters()):
            raise Diverged(
                "the weights are not finite any more; train with a smaller learning rate "
                f"(--set learning_rate={self.recipe.learning_rate / 10:g}) or with --set precision=float32"
            )
        if processes.rank() > 0:
            return
        tensors = {f"network.{name}": t for name, t in self.network.state_dict().items()}
        tensors |= {f"average.{name}": t for name, t in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if isinstance(v, torch.Tensor)}
        own = {"counters": vars(self.at), "recipe": self.recipe.model_dump(), "scaler": self.scaler.state_dict()}
        save_weights(path, tensors, facts={**facts, **own})

    def restore(self, path: Path) -> None:
        """Continue from what `save` wrote. Raises DataError when the file is damaged."""
        tensors, facts = load_weights(path, todo=LOST_STATE)
        part = by_prefix(tensors)
        self.network.load_state_dict(part["network"])
        for name, tensor in self.average.items():
            tensor.copy_(part["average"][name])
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in part.get("optimizer", {}).items():
            index, key = name.split(".")
            states.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        if facts["scaler"]:  # empty when the run began in another precision
            self.scaler.load_state_dict(facts["scaler"])
        self.at = Counters(**facts["counters"])
        if (before := facts.get("processes", 1)) != processes.size():
            log.warning(
                "this training was begun with %d processes and goes on with %d: the batch has another size",
                before,
                processes.size(),
            )
        if parse(Recipe, facts["recipe"], source=path).length != self.recipe.length and self.step_number:
            self.at.bend_step, self.at.bend_rate = self.step_number, self.at.rate

    def save_weights(self, path: Path, *, facts: dict[str, Any]) -> None:
        """Write the weights for prediction (averaged where the recipe averages), as `save` does."""
        if processes.rank() > 0:
            return
        with self.averaged_weights():
            facts = {
                **facts,
                "autoseg_version": __version__,
                "made_with": {**versions_here(), "device": device_name(self.device), "precision": self.precision},
                "recipe": self.recipe.model_dump(),
                "epoch": self.at.epoch,
            }
            save_weights(path, self.network.state_dict(), facts=facts)

    @property
    def _chance(self) -> dict[str, int]:
        """What the random numbers of this process's samples depend on."""
        return {"seed": self.recipe.seed, "step": self.step_number, "first_sample": self.first_sample}

    def _to_device(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = (torch.as_tensor(batch[key]).to(self.device, non_blocking=True) for key in ("image", "label"))
        return image, label

    def _with_stage(
        self, image: torch.Tensor, label: torch.Tensor, *, perturbed: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Move the segmentation of an earlier stage, the second channel of the label, to the image: one per value."""
        if label.shape[1] == 1:
            return image, label
        channels = one_hot(label[:, 1], self.n_values)
        if perturbed:
            channels = perturb(channels, **self._chance)
        return torch.cat([image, channels], dim=1), label[:, :1]

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average:
            # follows closely at first, when old weights are worthless
            decay = min(self.recipe.weight_average, (1 + self.step_number) / (10 + self.step_number))
            parameters = [p.detach() for p in self.network.parameters()]
            torch._foreach_lerp_(list(self.average.values()), parameters, 1 - decay)


def _nothing(outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """0, which depends on every output; in float32, whose sums stay finite."""
    return torch.stack([0.0 * output.float().nan_to_num().sum() for output in outputs]).sum()


class _Swapped:
    """Exchanges a network's parameters for others while the context lasts."""

    def __init__(self, network: nn.Module, other: dict[str, torch.Tensor]) -> None:
        self.network, self.other = network, other

    def __enter__(self) -> None:
        self._exchange()

    def __exit__(self, *_: object) -> None:
        self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, parameter in self.network.named_parameters():
            if name in self.other:
                kept = parameter.detach().clone()
                parameter.copy_(self.other[name])
                self.other[name].copy_(kept)
