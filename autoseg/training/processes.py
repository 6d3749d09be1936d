"""Several processes that train one network together: who takes part, and sums over all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def rank() -> int:
    """Number of this process among those that train together; 0 where it is alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


class _Sum(torch.autograd.Function):
    """Sum over processes. What each does with the sum flows back into every summand."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return total(values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return total(gradient)


def total(values: Tensor) -> Tensor:
    """Sum of a tensor over all processes, a new one; without gradient. The tensor itself where there is one process."""
    if size() == 1:
        return values
    values = values.detach().clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(values)
    return values


def summed(values: Tensor) -> Tensor:
    """Sum of a tensor over all processes, with gradient.

    Every process computes the same loss from the sums. Its gradient arrives here once from each process, and
    DistributedDataParallel averages the gradients of the weights: together that is the gradient of one process that
    holds the whole batch.
    """
    return values if size() == 1 else _Sum.apply(values)  # type: ignore[no-untyped-call,no-any-return]


def averaged(values: Tensor) -> Tensor:
    """Mean of a tensor over all processes, with gradient."""
    return values if size() == 1 else summed(values) / size()


def from_first(values: list[float], device: torch.device) -> list[float]:
    """The numbers that the first process gives, in every process."""
    if size() == 1:
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.broadcast(shared, src=0)
    return shared.tolist()
