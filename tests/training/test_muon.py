"""Muon against PyTorch's (for matrices) and AdamW (for the rest)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.training.muon import Muon, orthogonalised


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 60), seed=st.integers(0, 99), size=st.floats(1e-4, 1e4))
def test_singular_vectors_stay_and_values_come_near_one(rows: int, columns: int, seed: int, size: float) -> None:
    matrix = size * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonalised(matrix) @ right.T
    assert torch.allclose(found, torch.diag(found.diagonal()), atol=2e-3)
    large = values > 0.02 * matrix.norm()
    assert (found.diagonal()[large] > 0.6).all()
    assert (found.diagonal() < 1.3).all()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch before 2.9 has none")
@pytest.mark.parametrize("shape", [(8, 8), (16, 5), (9, 40)])
def test_matrices_move_as_with_pytorch(shape: tuple[int, int]) -> None:
    """PyTorch's computes in bf16, so that both agree to some hundredths of a step."""
    torch.manual_seed(0)
    start = torch.randn(shape)
    own, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    rates = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    optimizers = Muon([own], **rates), torch.optim.Muon([theirs], **rates)
    for _ in range(4):
        gradient = torch.randn(shape)
        for parameter, optimizer in zip((own, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (theirs - start).norm()
    assert (own - theirs).norm() < 0.04 * moved


def test_a_convolution_moves_as_the_matrix_that_it_is() -> None:
    torch.manual_seed(1)
    weights, gradient = torch.randn(12, 3, 3, 1, 3), torch.randn(12, 3, 3, 1, 3)
    kernel, matrix = torch.nn.Parameter(weights.clone()), torch.nn.Parameter(weights.reshape(12, 27).clone())
    kernel.grad, matrix.grad = gradient, gradient.reshape(12, 27)
    for parameter in (kernel, matrix):
        Muon([parameter], lr=0.1).step()
    assert torch.equal(kernel.reshape(12, 27), matrix)


def test_what_is_no_matrix_moves_as_with_adamw() -> None:
    torch.manual_seed(2)
    starts = [torch.randn(7), torch.randn(3, 20, 1, 1, 1), torch.randn(30)]
    own, theirs = ([torch.nn.Parameter(start.clone()) for start in starts] for _ in "ab")
    optimizers = (
        Muon(own, lr=0.05, weight_decay=0.1),
        torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.5),
    )
    for _ in range(5):
        for a, b in zip(own, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        own[2].grad = theirs[2].grad = None  # not every output of a network has a gradient in every step
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(own, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_it_goes_on_exactly_from_a_saved_state() -> None:
    torch.manual_seed(3)
    starts = [torch.randn(8, 4, 3, 3, 3), torch.randn(8)]
    gradients = [[torch.randn_like(start) for start in starts] for _ in range(4)]

    def moved(parameters: list[torch.nn.Parameter], optimizer: Muon, steps: list[list[torch.Tensor]]) -> None:
        for step in steps:
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()

    whole = [torch.nn.Parameter(start.clone()) for start in starts]
    moved(whole, Muon(whole, lr=0.1), gradients)
    first = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizer = Muon(first, lr=0.1)
    moved(first, optimizer, gradients[:2])
    again = [torch.nn.Parameter(parameter.detach().clone()) for parameter in first]
    restored = Muon(again, lr=0.1)
    restored.load_state_dict(optimizer.state_dict())
    moved(again, restored, gradients[2:])
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
