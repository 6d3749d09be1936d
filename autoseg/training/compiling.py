"""Whether a compiled network is worth its compilation: tried on real shapes before it is used."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch
from torch import nn

TRIED, WARM_UP = 10, 3  # steps
LEAST_GAIN = 0.05
log = logging.getLogger(__name__)


def compiled_if_faster(
    network: nn.Module,
    step: Callable[[nn.Module], None],
    *,
    wait: Callable[[], None],
    compiler: Callable[[nn.Module], nn.Module] = torch.compile,
) -> nn.Module:
    """The compiled network where a step with it is at least 5 % faster, else the network itself.

    Args:
        network: what is trained.
        step: forward and backward pass of a network, on the shapes of the training; it changes no weight.
        wait: waits until the device has done what was asked of it.
        compiler: makes the compiled network; one that fails leaves things as they are.
    """
    plain_s = _seconds(network, step, wait)
    try:
        compiled = compiler(network)
        compiled_s = _seconds(compiled, step, wait)
    except Exception as error:  # a compiler that is missing or gives up may fail in any way
        log.info("torch.compile is not used: %s", type(error).__name__)
        return network
    better = compiled_s < (1 - LEAST_GAIN) * plain_s
    log.info(
        "torch.compile is %s: a step takes %.1f ms with it, %.1f ms without",
        "used" if better else "not used",
        1000 * compiled_s,
        1000 * plain_s,
    )
    return compiled if better else network


def _seconds(network: nn.Module, step: Callable[[nn.Module], None], wait: Callable[[], None]) -> float:
    for _ in range(WARM_UP):
        step(network)
    wait()
    started = time.perf_counter()
    for _ in range(TRIED):
        step(network)
    wait()
    return (time.perf_counter() - started) / TRIED
