"""How far averaged probabilities agree with the labels they give: the Dice that they expect of themselves."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.core.labels import LabelScheme

ALL_VALUES = 2**27  # probabilities of an image up to which all are looked at; of more, every fourth line along x


class Agreement:
    """Sums over the blocks of an image, from which follows per label 2 A / (P + N).

    N voxels have the label, A is the sum of its probability over these, P over all. That is the Dice between the labels
    and what the probabilities say is there, in expectation: 1 where every voxel is certain, less where folds or
    mirrored copies disagree, or are unsure together.
    """

    def __init__(self, scheme: LabelScheme, *, n_voxels: int) -> None:
        """Begin an image of so many voxels."""
        self._scheme = scheme
        self._every = 1 if n_voxels * scheme.n_outputs <= ALL_VALUES else 4
        self._inside, self._all, self._voxels = (np.zeros(scheme.n_outputs) for _ in range(3))
        self._found: set[str] = set()

    def add(self, logits: torch.Tensor, labels: NDArray[np.unsignedinteger]) -> None:
        """Add a block.

        Args:
            logits: (n_outputs, rows, Y, X).
            labels: (rows, Y, X) file values that were decoded from them.
        """
        for plane in labels:  # every line: a small label may lie between those that are looked at
            counts = np.bincount(
                plane.ravel(), minlength=max((*self._scheme.values, *self._scheme.regions_class_order)) + 1
            )
            self._found |= {name for name, values in self._scheme.foreground.items() if counts[[*values]].any()}
        seen = logits[:, :, :: self._every]
        if self._scheme.has_regions:
            self._add_regions(seen.sigmoid(), labels[:, :: self._every])
            return
        top, label = seen.max(dim=0)
        shares = (seen - top).exp_()
        certainty = shares.sum(dim=0).reciprocal_()  # the probability of the label that is given
        n = self._scheme.n_outputs
        label, certainty_of_voxels = label.flatten(), certainty.flatten().double()  # a float32 sum would stop growing
        self._all += _numbers(shares.mul_(certainty).sum(dim=(1, 2, 3)))
        self._inside += _numbers(torch.bincount(label, weights=certainty_of_voxels, minlength=n))
        self._voxels += _numbers(torch.bincount(label, minlength=n))

    def _add_regions(self, probabilities: torch.Tensor, labels: NDArray[np.unsignedinteger]) -> None:
        for name, output in self._scheme.outputs.items():
            given = torch.from_numpy(np.ascontiguousarray(self._scheme.mask(labels, name))).to(probabilities.device)
            self._all[output] += float(probabilities[output].sum())
            self._inside[output] += float(probabilities[output][given].sum())
            self._voxels[output] += int(given.sum())

    def of_labels(self) -> dict[str, float | None]:
        """Agreement in [0, 1] of each label or region; None where no voxel has it.

        A label that lies only between the lines that were looked at is left out.
        """
        found: dict[str, float | None] = {}
        for name in self._scheme.foreground:
            output = self._scheme.outputs[name]
            if self._voxels[output]:
                share = float(2 * self._inside[output] / (self._all[output] + self._voxels[output]))
                found[name] = round(min(1.0, share), 6)
            elif name not in self._found:
                found[name] = None
        return found


def _numbers(values: torch.Tensor) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = values.double().cpu().numpy()
    return numbers
