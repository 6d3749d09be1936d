"""Several processes that train one network together: who takes part, and sums over all of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from autoseg.core.workers import available_cpus

T = TypeVar("T")


def rank() -> int:
    """Number of this process among those that train together; 0 where it is alone."""
    return distributed.get_rank() if _joined() else 0


def size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if _joined() else 1


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()


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


def most(values: list[float], device: torch.device) -> list[float]:
    """For each number, the largest that any process gives: what all of them go by."""
    if size() == 1:
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
    return shared.tolist()


def gathered(values: list[T]) -> list[T]:
    """The values of all processes, in the order of the processes."""
    if size() == 1:
        return values
    found: list[list[T]] = [[] for _ in range(size())]
    distributed.all_gather_object(found, values)
    return [value for part in found for value in part]


def wait_for_all() -> None:
    """Go on when every process is here."""
    if size() > 1:
        distributed.barrier()


@contextmanager
def together(device: torch.device, *, n_here: int) -> Iterator[None]:
    """Join the processes that torchrun has started, of which `n_here` run on this machine."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, available_cpus() // n_here))
    # gradients of 1 x 1 kernels have other strides in the channels-last format, which costs nothing that matters
    warnings.filterwarnings("ignore", message="Grad strides do not match")
    # the others wait while the first one scores whole images; torchrun ends all when one dies
    distributed.init_process_group(backend, timeout=timedelta(days=1))
    yield
    # not after an error: this process ends, with which torchrun ends the others, who may be waiting for it
    wait_for_all()  # nobody leaves while another still takes part in something
    distributed.destroy_process_group()
