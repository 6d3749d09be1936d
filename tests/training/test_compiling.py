"""A compiled network is used only where it was measured to be faster, and a compiler that fails harms nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from autoseg.core.plan import Plan
from autoseg.core.recipe import Recipe
from autoseg.training import compiling
from autoseg.training.augmentation import rules_for
from autoseg.training.compiling import compiled_if_faster
from autoseg.training.run import Run

MakePlan = Callable[..., Plan]


class Slow(nn.Module):
    """A network whose call takes a given time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return x


def step(network: nn.Module) -> None:
    network(torch.zeros(1))


@pytest.mark.parametrize(("compiled_s", "used"), [(0.9, True), (0.96, False), (2.0, False)])
def test_only_a_clear_gain_is_taken(monkeypatch: pytest.MonkeyPatch, compiled_s: float, used: bool) -> None:
    plain, compiled = Slow(1.0), Slow(compiled_s)
    monkeypatch.setattr(compiling, "_seconds", lambda network, step, wait: network.seconds)
    chosen = compiled_if_faster(plain, step, wait=lambda: None, compiler=lambda network: compiled)
    assert chosen is (compiled if used else plain)


def test_steps_are_timed_until_the_device_is_done() -> None:
    waits: list[int] = []
    plain, compiled = Slow(0.02), Slow(0.001)
    assert compiled_if_faster(plain, step, wait=lambda: waits.append(1), compiler=lambda _: compiled) is compiled
    assert len(waits) == 4


def test_a_compiler_that_fails_leaves_the_network(caplog: pytest.LogCaptureFixture) -> None:
    def broken(network: nn.Module) -> nn.Module:
        raise RuntimeError("no compiler here")

    class FailsLater(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("graph break")

    plain = Slow(0.0)
    with caplog.at_level("INFO"):
        assert compiled_if_faster(plain, step, wait=lambda: None, compiler=broken) is plain
        assert compiled_if_faster(plain, step, wait=lambda: None, compiler=lambda network: FailsLater()) is plain
    assert caplog.text.count("torch.compile is not used: RuntimeError") == 2


def test_the_trial_changes_no_weight(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = rules_for((8, 8, 8), mirror_axes=(), mirror_label_pairs={}, mask_channels=[False])
    run = Run(make_plan(), "small", Recipe(precision="float32"), rules, torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in run.network.state_dict().items()}
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    tried: list[int] = []

    def trial(network: nn.Module, step: Callable[[nn.Module], None], **_: object) -> nn.Module:
        step(network)
        tried.append(1)
        return network

    monkeypatch.setattr("autoseg.training.run.compiled_if_faster", trial)
    run.try_compiler()
    assert tried == [1]
    for name, tensor in run.network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(parameter.grad is None for parameter in run.network.parameters())
    assert not run.optimizer.state
