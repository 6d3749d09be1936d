"""Muon: momentum whose direction is made orthogonal, so that every direction of a weight matrix learns equally fast."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

# Of the quintic Newton-Schulz iteration: singular values come to lie between about 0.7 and 1.2 in five rounds.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
SMALLEST = 8  # rows: a head with fewer outputs, or a vector, has no directions worth to be told apart
ADAM_SHARE = 0.2  # of the learning rate, for the weights that are no matrices
BETAS, EPSILON = (0.9, 0.999), 1e-8


class Muon(torch.optim.Optimizer):
    """Muon for weights that are matrices, AdamW (Loshchilov and Hutter, 2019) for biases, norms and small heads.

    A convolution's weights are a matrix of its first axis and all others. Its step is the momentum (Nesterov) divided
    by the square root of its own Gram matrix, by five rounds of Newton-Schulz in float32, times the learning rate and
    sqrt(max(1, rows / columns)). Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        """Take the parameters of a network, of any shape; weight decay is decoupled from the gradient."""
        every = [*parameters]
        matrices = [p for p in every if p.ndim > 1 and len(p) >= SMALLEST]
        others = [p for p in every if p.ndim <= 1 or len(p) < SMALLEST]
        groups = [
            {"params": params, "orthogonal": kind} for params, kind in ((matrices, True), (others, False)) if params
        ]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient."""
        assert closure is None, "a closure is not called"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    move = self._orthogonal if group["orthogonal"] else self._adam
                    move(parameter, parameter.grad, group)

    def _orthogonal(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(state["momentum"], group["momentum"]).reshape(len(parameter), -1)
        rows, columns = direction.shape
        scale = max(1.0, rows / columns) ** 0.5
        parameter.add_(orthogonalised(direction).reshape(parameter.shape), alpha=-group["lr"] * scale)

    def _adam(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # on the CPU, as after loading: another division there rounds otherwise
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - BETAS[0])
        state["square"].lerp_(gradient.square(), 1 - BETAS[1])
        mean, square = (
            state[name] / (1 - beta ** state["step"]) for name, beta in zip(("mean", "square"), BETAS, strict=True)
        )
        parameter.addcdiv_(mean, square.sqrt() + EPSILON, value=-ADAM_SHARE * group["lr"])


def orthogonalised(matrix: Tensor) -> Tensor:
    """A matrix (rows, columns) with the same singular vectors and singular values near 1, where they are not near 0."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide.float() / (wide.float().norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
