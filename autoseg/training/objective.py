"""What a network is trained towards: its loss on all outputs, and the counts behind the pseudo-Dice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.core.errors import UsageError
from autoseg.core.labels import LabelScheme
from autoseg.core.plan import Configuration
from autoseg.core.recipe import Recipe
from autoseg.core.records import nearest
from autoseg.training.losses import losses, region_losses, with_deep_supervision
from autoseg.training.processes import size, total


class Objective:
    """Loss over (outputs, labels inside), for exclusive labels or regions, with the ignore label masked out."""

    def __init__(
        self,
        scheme: LabelScheme,
        configuration: Configuration,
        recipe: Recipe,
        annotated_classes: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        self.loss = with_deep_supervision(loss_for(scheme, recipe))
        self.scheme = scheme
        self.batch_dice = configuration.batch_dice
        self.deep_supervision = recipe.deep_supervision
        self.is_balanced = recipe.class_balance and recipe.loss == "auto" and not scheme.has_regions
        self.n_classes = len(scheme.foreground)
        weights = class_weights(scheme, recipe)
        self.options = {} if weights is None else {"class_weights": weights}
        names = [*self.scheme.outputs]
        self.known_outputs = {
            case: [name in known or name == "background" for name in names] for case, known in annotated_classes.items()
        }

    def __call__(
        self, outputs: Sequence[torch.Tensor], label: torch.Tensor, *, cases: Sequence[str] = (), balance: float = 0.0
    ) -> torch.Tensor:
        """Scalar loss of logits (B, K, *size), full resolution first, for int64 values inside (B, 1, *patch).

        `cases` are the ids of the samples' cases, by which is known what they were annotated for. `balance` is how much
        rare classes weigh more, from 1 to 0, where the recipe balances classes.
        """
        used = outputs if self.deep_supervision else outputs[:1]
        options: dict[str, Any] = {**self.options, "batch_dice": self.batch_dice}
        if self.is_balanced:
            options["balance"] = balance
        known = self._known(cases, label)
        if known is not None:
            options["known"] = known
        if self.scheme.has_regions:
            return self.loss(used, self._masks(label), mask=self._annotated(label), **options)
        if known is not None:
            # what was drawn all the same is background, as it is in the other cases that were not annotated for it
            with_ignore = torch.nn.functional.pad(known, [0, 1], value=True)
            label = label * with_ignore.gather(1, label.flatten(1)).reshape(label.shape)
        return self.loss(used, label, ignore_index=self.scheme.ignore_inside, **options)

    def _known(self, cases: Sequence[str], label: torch.Tensor) -> torch.Tensor | None:
        """Whether each sample was annotated for each output, bool (B, K); None where all were for all.

        Processes that train together must agree on that, so none of them may go by its own samples.
        """
        if not self.known_outputs or (size() == 1 and not any(case in self.known_outputs for case in cases)):
            return None
        everything = [True] * self.scheme.n_outputs
        return torch.tensor([self.known_outputs.get(case, everything) for case in cases], device=label.device)

    def counts(self, logits: torch.Tensor, label: torch.Tensor, *, cases: Sequence[str] = ()) -> NDArray[np.float64]:
        """True positives, false positives, false negatives of every foreground class: float64 (3, n_classes)."""
        truth = self._masks(label)
        predicted = logits > 0 if self.scheme.has_regions else self._masks(logits.argmax(dim=1, keepdim=True))
        annotated = self._annotated(label)
        if annotated is not None:
            truth, predicted = truth & annotated, predicted & annotated
        known = self._known(cases, label)
        if known is not None:
            columns = [self.scheme.outputs[name] for name in self.scheme.foreground]
            known = known[:, columns].reshape(len(known), -1, *[1] * (label.ndim - 2))
            truth, predicted = truth & known, predicted & known
        space = (0, *range(2, label.ndim))
        both = (truth & predicted).sum(space)
        found = total(torch.stack([both, predicted.sum(space) - both, truth.sum(space) - both]))
        counts: NDArray[np.float64] = found.cpu().double().numpy()
        return counts

    def _masks(self, label: torch.Tensor) -> torch.Tensor:
        """Values inside (B, 1, *patch) -> binary masks (B, n_classes, *patch) of all foreground names."""
        masks = []
        for members in self.scheme.regions_inside:
            mask = label == members[0]
            for member in members[1:]:
                mask |= label == member
            masks.append(mask)
        return torch.cat(masks, dim=1)

    def _annotated(self, label: torch.Tensor) -> torch.Tensor | None:
        return None if self.scheme.ignore_inside is None else label != self.scheme.ignore_inside


def class_weights(scheme: LabelScheme, recipe: Recipe) -> torch.Tensor | None:
    """The recipe's weights as a tensor in the order of the network's outputs; what it does not name weighs 1.

    Raises:
        UsageError: a name that is no label.
    """
    if not recipe.class_weights:
        return None
    outputs = scheme.outputs
    weights = torch.ones(scheme.n_outputs)
    for name, weight in recipe.class_weights.items():
        if name not in outputs:
            raise UsageError(f"class_weights: there is no label '{name}'; {nearest(name, [*outputs])}")
        weights[outputs[name]] = weight
    return weights


def loss_for(scheme: LabelScheme, recipe: Recipe) -> Callable[..., torch.Tensor]:
    """The recipe's loss for these labels. Raises UsageError when none of that name is for them."""
    if scheme.has_regions:
        return region_losses["dice_bce" if recipe.loss == "auto" else recipe.loss]
    default = "dice_ce_balanced" if recipe.class_balance else "dice_ce"
    return losses[default if recipe.loss == "auto" else recipe.loss]
